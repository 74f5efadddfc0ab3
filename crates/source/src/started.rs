//! What a source's thread has of the source.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use crate::interrupter::Nudge;
use crate::{Counters, Wire};

/// What a source's thread is told.
#[derive(Debug, Default)]
pub struct Stop {
    /// Hand on what was received, and end.
    finish: AtomicBool,
    /// Nobody takes any longer.
    abandon: AtomicBool,
}

impl Stop {
    pub fn finish(&self) {
        self.finish.store(true, Ordering::SeqCst);
    }

    pub fn abandon(&self) {
        self.abandon.store(true, Ordering::SeqCst);
    }
}

/// Nobody takes from the source any longer.
#[derive(Debug)]
pub struct Closed;

/// What a source's thread is given.
#[derive(Debug)]
pub struct Started {
    pub wire: WireSender,
    pub counters: Arc<Counters>,
    pub interval: Duration,
    pub stop: Arc<Stop>,
}

/// Where a source's thread hands on what it has.
#[derive(Debug)]
pub struct WireSender {
    pub wire: SyncSender<Wire>,
    /// Who is to know of it, beside who takes it.
    pub nudge: Option<Nudge>,
}

impl Started {
    /// Whether the source was dropped.
    pub fn is_stopped(&self) -> bool {
        self.stop.abandon.load(Ordering::SeqCst)
    }

    /// Whether the source was asked to finish.
    pub fn is_finishing(&self) -> bool {
        self.stop.finish.load(Ordering::SeqCst)
    }
}

impl WireSender {
    /// Hands something on, waiting until there is room.
    pub fn send(&self, wire: Wire) -> Result<(), Closed> {
        self.wire.send(wire).map_err(|_| Closed)?;
        if let Some(nudge) = &self.nudge {
            nudge.give();
        }
        Ok(())
    }
}
