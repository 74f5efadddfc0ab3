//! What the publisher's handle and its thread share: orders one way, the status the other.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::notice::{State, Status};
use crate::settings::Settings;

/// What the handle and the thread share.
#[derive(Default)]
pub(crate) struct Shared {
    control: Mutex<Control>,
    changed: Condvar,
}

#[derive(Default)]
pub(crate) struct Control {
    orders: Orders,
    pub(crate) status: Status,
}

/// What the thread was asked to do; the latest of each kind.
#[derive(Default)]
pub(crate) struct Orders {
    pub(crate) woken: bool,
    pub(crate) settings: Option<Settings>,
    pub(crate) producer: Option<String>,
    pub(crate) stop: Option<Instant>,
}

impl Shared {
    pub(crate) fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.lock().status);
    }

    /// Takes what was ordered; the order to stop stays.
    pub(crate) fn take_orders(&self) -> Orders {
        let orders = &mut self.lock().orders;
        let stop = orders.stop;
        std::mem::replace(orders, Orders { stop, ..Orders::default() })
    }

    /// Waits for an order, at most until `until`. `stopping`: the order to stop is known.
    pub(crate) fn wait(&self, until: Option<Instant>, stopping: bool) {
        let mut control = self.lock();
        loop {
            let Orders { woken, settings, producer, stop } = &control.orders;
            let ordered = *woken || settings.is_some() || producer.is_some() || (stop.is_some() && !stopping);
            if ordered || until.is_some_and(|until| until <= Instant::now()) {
                return;
            }
            control = self.wait_until(control, until);
        }
    }

    pub(crate) fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.lock().orders);
        self.changed.notify_all();
    }

    pub(crate) fn wait_until<'a>(
        &self,
        control: MutexGuard<'a, Control>,
        until: Option<Instant>,
    ) -> MutexGuard<'a, Control> {
        match until {
            None => self.changed.wait(control).unwrap_or_else(PoisonError::into_inner),
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                let waited = self.changed.wait_timeout(control, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    /// Both halves are plain values that are whole after every statement, so a panic elsewhere spoils nothing.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that the thread has ended, also when it panicked.
pub(crate) struct Ending(Arc<Shared>);

impl Ending {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.update(|status| status.state = State::Stopped);
        self.0.changed.notify_all();
    }
}
