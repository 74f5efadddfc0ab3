//! What a source counts. Nothing is dropped without being in one of these.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the source was opened.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages on the uevent socket that were not the kernel's. Dropped.
    pub foreign: AtomicU64,
    /// Uevents about USB that could not be understood. Each leads to a scan.
    pub malformed: AtomicU64,
    /// How often the operating system said that it had dropped messages. Each leads to a scan.
    pub overruns: AtomicU64,
    /// How many messages it dropped, where it says.
    pub lost: AtomicU64,
    /// Devices that could not be read in time and were announced with what their uevent says.
    pub reads_timed_out: AtomicU64,
    /// Devices a scan found but could not read; what was known of them stands.
    pub unreadable: AtomicU64,
    /// Scans that could not list the bus.
    pub scans_failed: AtomicU64,
}

impl Counters {
    /// Every counter with its name.
    pub fn all(&self) -> [(&'static str, u64); 7] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("foreign", read(&self.foreign)),
            ("malformed", read(&self.malformed)),
            ("overruns", read(&self.overruns)),
            ("lost", read(&self.lost)),
            ("reads_timed_out", read(&self.reads_timed_out)),
            ("unreadable", read(&self.unreadable)),
            ("scans_failed", read(&self.scans_failed)),
        ]
    }

    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}
