//! When a source scans the bus.

use std::time::{Duration, Instant};

/// Ports that a scan said nothing about are scanned again after this long, then after twice as long, and so on
/// up to the interval.
const RESCAN_PAUSE: Duration = Duration::from_millis(100);

/// Interfaces and their drivers come after the device, and not every source is told when: so long after the last arrival
/// the bus is scanned for them.
const SETTLED: Duration = Duration::from_secs(1);

/// When the next scan is due.
pub struct Schedule {
    interval: Duration,
    next: Instant,
    settled: Option<Instant>,
    rescan_pause: Duration,
}

impl Schedule {
    /// The first scan is due at once, and each further one an `interval` after the one before it.
    pub fn new(interval: Duration) -> Self {
        Self { interval, next: Instant::now(), settled: None, rescan_pause: RESCAN_PAUSE }
    }

    /// When to scan.
    pub fn next(&self) -> Instant {
        self.settled.map_or(self.next, |settled| settled.min(self.next))
    }

    /// There is what only a scan can tell.
    pub fn hasten(&mut self) {
        self.next = Instant::now();
    }

    /// A device came, and nobody says when its interfaces are there.
    pub fn arrived(&mut self) {
        self.settled = Some(Instant::now() + SETTLED);
    }

    /// Nothing could be scanned.
    pub fn failed(&mut self) {
        self.settled = None;
        self.next = Instant::now() + self.interval;
    }

    /// A scan ended, which told of all ports or not.
    pub fn scanned(&mut self, is_complete: bool) {
        self.settled = None;
        if is_complete {
            self.rescan_pause = RESCAN_PAUSE;
            self.next = Instant::now() + self.interval;
        } else {
            self.next = Instant::now() + self.rescan_pause.min(self.interval);
            self.rescan_pause = self.rescan_pause.saturating_mul(2).min(self.interval);
        }
    }
}
