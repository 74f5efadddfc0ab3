//! The publisher's handle: the thread behind it is [`crate::worker`].

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Instant, SystemTime};

use autoweave_usb_device::Traceparent;

use crate::notice::{Notice, State, Status};
use crate::rows::Rows;
use crate::settings::Settings;
use crate::worker::Worker;

/// Publishes a journal from a thread of its own. Dropping it closes the journal and ends the thread at its next
/// step; what is not published is when the next publisher starts.
pub struct Publisher {
    shared: Arc<Shared>,
    rows: Rows,
}

/// Who hears of what a publisher does. Both are called on the publisher's thread and must not block.
pub struct Listener {
    /// What an operator should know.
    pub on_notice: Box<dyn FnMut(Notice) + Send>,
    /// The stream acknowledged an event, for the first time to this publisher.
    pub on_acknowledged: Box<dyn FnMut(Acknowledged<'_>) + Send>,
}

/// An event that the stream has.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged<'a> {
    /// Its number.
    pub seq: u64,
    /// When it was observed, in milliseconds since the Unix epoch.
    pub timestamp: u64,
    /// The trace that began with that, if one did.
    pub traceparent: Option<Traceparent>,
    /// When it was sent, the last time.
    pub sent: SystemTime,
    /// The stream's key.
    pub stream: &'a str,
}

/// What the handle and the thread share.
#[derive(Default)]
pub(crate) struct Shared {
    control: Mutex<Control>,
    changed: Condvar,
}

#[derive(Default)]
struct Control {
    orders: Orders,
    status: Status,
}

/// What the thread was asked to do; the latest of each kind.
#[derive(Default)]
pub(crate) struct Orders {
    pub(crate) woken: bool,
    pub(crate) settings: Option<Settings>,
    pub(crate) producer: Option<String>,
    pub(crate) stop: Option<Instant>,
}

impl Publisher {
    /// Starts to publish the journal in `state_dir` under the id `producer`: the journal's own, or the one last
    /// given to [`Publisher::resume_as`].
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(
        settings: Settings,
        state_dir: impl Into<PathBuf>,
        producer: String,
        listener: Listener,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let rows = Rows::new(state_dir.into());
        let worker = Worker::new(settings, rows.clone(), producer, shared.clone(), listener);
        let ending = Ending(shared.clone());
        thread::Builder::new().name("publisher".to_owned()).spawn(move || {
            let _ending = ending;
            worker.run();
        })?;
        Ok(Self { shared, rows })
    }

    /// Says that the journal has grown. Costs a lock.
    pub fn wake(&self) {
        self.shared.order(|orders| orders.woken = true);
    }

    /// How the publisher is doing, all of it at one moment.
    pub fn status(&self) -> Status {
        self.shared.lock().status.clone()
    }

    /// [`Status::published_seq`]. Costs a lock.
    pub fn published_seq(&self) -> Option<u64> {
        self.shared.lock().status.published_seq
    }

    /// Goes on with these settings. Another server, user, password, database or stream is connected to anew; another
    /// stream gets what the journal has and it lacks. While nothing gets through, tries again at once: the file with
    /// the password may be another. Settings that have not changed change nothing else.
    pub fn reload(&self, settings: Settings) {
        self.shared.order(|orders| orders.settings = Some(settings));
    }

    /// Goes on under a new producer id, after [`Notice::NewProducerNeeded`] or when the journal was begun anew.
    /// Remember it: the next [`Publisher::spawn`] needs it.
    pub fn resume_as(&self, producer: String) {
        self.shared.order(|orders| orders.producer = Some(producer));
    }

    /// Publishes what the journal has and the server takes, then ends; gives up at `deadline`. Returns the last
    /// status; its state is [`State::Stopped`] unless the deadline passed. The journal is closed then, and must not
    /// grow meanwhile.
    pub fn stop(self, deadline: Instant) -> Status {
        self.shared.order(|orders| orders.stop = Some(deadline));
        let last_seq = self.rows.last_seq().ok();
        let mut control = self.shared.lock();
        loop {
            // The thread may be waiting for a server that does not answer.
            let is_level = last_seq.is_some() && control.status.published_seq == last_seq;
            let left = deadline.saturating_duration_since(Instant::now());
            if is_level || control.status.state == State::Stopped || left.is_zero() {
                let mut status = control.status.clone();
                if is_level {
                    status.state = State::Stopped;
                    status.unpublished = Some(0);
                }
                return status;
            }
            control = self.shared.wait_until(control, Some(deadline));
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.shared.order(|orders| {
            orders.stop.get_or_insert_with(Instant::now);
        });
        self.rows.release();
    }
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

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.lock().orders);
        self.changed.notify_all();
    }

    fn wait_until<'a>(
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
    fn lock(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that the thread has ended, also when it panicked.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.update(|status| status.state = State::Stopped);
        self.0.changed.notify_all();
    }
}
