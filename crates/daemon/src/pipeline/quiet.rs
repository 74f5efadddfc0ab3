//! When the memory that a burst of events took is given back.

use std::time::{Duration, Instant};

/// How long nothing has to have happened: a device that comes or goes has its events within less.
const QUIET: Duration = Duration::from_millis(500);

/// After fewer events there is not enough to give back: some 150 KB.
const EVENTS_MIN: usize = 64;

/// Counts what was done since.
#[derive(Debug, Default)]
pub struct Quiet {
    events: usize,
    begins: Option<Instant>,
}

impl Quiet {
    /// The stream took `events` by `now`. That may go on for minutes, at its own pace, and what is written down at once
    /// need not wait for it.
    pub fn published(&mut self, events: usize, now: Instant) {
        self.events = self.events.saturating_add(events);
        if self.begins.is_none() && self.events >= EVENTS_MIN {
            self.begins = Some(now + QUIET);
        }
    }

    /// `events` were written down by `now`.
    pub fn worked(&mut self, events: usize, now: Instant) {
        self.events = self.events.saturating_add(events);
        if events > 0 && self.events >= EVENTS_MIN {
            self.begins = Some(now + QUIET);
        }
    }

    /// How long to wait for it, at most for `patience`.
    pub fn bound(&self, patience: Duration, now: Instant) -> Duration {
        self.begins.map_or(patience, |begins| patience.min(begins.saturating_duration_since(now)))
    }

    /// Whether it has come; once.
    pub fn take(&mut self, now: Instant) -> bool {
        let has_come = self.begins.is_some_and(|begins| begins <= now);
        if has_come {
            *self = Self::default();
        }
        has_come
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishing_does_not_put_it_off() {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        quiet.worked(EVENTS_MIN, at(0));
        (1..=10).for_each(|tick| quiet.published(10, at(tick * 100)));
        assert!(quiet.take(at(500)));
        quiet.published(EVENTS_MIN, at(1_100));
        quiet.worked(1, at(1_500));
        assert!(!quiet.take(at(1_999)) && quiet.take(at(2_000)));
    }

    #[test]
    fn it_comes_a_while_after_the_last_of_many_events_and_once() {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let hour = Duration::from_secs(3600);
        quiet.worked(EVENTS_MIN - 1, at(0));
        assert!(!quiet.take(at(10_000)) && quiet.bound(hour, at(0)) == hour, "too few");
        quiet.worked(1, at(0));
        quiet.worked(1, at(300));
        quiet.worked(0, at(400));
        assert_eq!(quiet.bound(hour, at(600)), Duration::from_millis(200));
        assert_eq!(quiet.bound(Duration::from_millis(5), at(600)), Duration::from_millis(5));
        assert!(!quiet.take(at(799)) && quiet.take(at(800)) && !quiet.take(at(801)));
    }
}
