//! What wakes whoever takes from a source, whichever source that is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Wire;

/// Wakes whoever takes from a source.
#[derive(Debug, Clone)]
pub struct Interrupter {
    is_asked: Arc<AtomicBool>,
    wire: Arc<Mutex<SyncSender<Wire>>>,
}

/// Wakes the taker because a source on trial has something to tell.
#[derive(Debug)]
pub struct Nudge {
    interrupter: Interrupter,
    is_on_trial: Arc<AtomicBool>,
}

/// Ends the nudges when it is dropped: the trial is over.
#[derive(Debug)]
pub struct OnTrial(Arc<AtomicBool>);

impl Interrupter {
    pub(crate) fn of(taker: SyncSender<Wire>) -> Self {
        Self { is_asked: Arc::default(), wire: Arc::new(Mutex::new(taker)) }
    }

    /// Wakes the taker, without ever waiting.
    pub fn interrupt(&self) {
        self.is_asked.store(true, Ordering::SeqCst);
        self.wake();
    }

    pub(crate) fn take(&self) -> bool {
        self.is_asked.swap(false, Ordering::SeqCst)
    }

    pub(crate) fn aim_at(&self, taker: SyncSender<Wire>) {
        *self.lock() = taker;
    }

    pub(crate) fn nudge(&self) -> (Nudge, OnTrial) {
        let is_on_trial = Arc::new(AtomicBool::new(true));
        (Nudge { interrupter: self.clone(), is_on_trial: is_on_trial.clone() }, OnTrial(is_on_trial))
    }

    fn wake(&self) {
        // It is awake if its channel is full.
        let _ = self.lock().try_send(Wire::Interrupted);
    }

    fn lock(&self) -> MutexGuard<'_, SyncSender<Wire>> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Nudge {
    pub(crate) fn give(&self) {
        if self.is_on_trial.load(Ordering::SeqCst) {
            self.interrupter.wake();
        }
    }
}

impl Drop for OnTrial {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}
