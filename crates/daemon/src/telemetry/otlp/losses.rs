//! Counts what does not reach the collector, and says so now and then.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

/// Between two warnings, at least.
const PAUSE: Duration = Duration::from_secs(60);

/// See the module's description. What is said on an exporter's thread is not exported.
#[derive(Debug, Default)]
pub(super) struct Losses {
    spans: Arc<AtomicU64>,
    records: Arc<AtomicU64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Requests that failed.
    failed: u64,
    is_failing: bool,
    /// When, and how much was lost by then.
    told: Option<(Instant, [u64; 2])>,
}

/// What there is to say.
#[derive(Debug, PartialEq)]
enum Say {
    Failing,
    Lost,
    Again,
}

impl Losses {
    /// Counts spans.
    pub(super) fn spans(&self) -> Arc<AtomicU64> {
        self.spans.clone()
    }

    /// Counts lines of the log.
    pub(super) fn records(&self) -> Arc<AtomicU64> {
        self.records.clone()
    }

    /// What of each kind was lost so far.
    pub(super) fn counts(&self) -> [(&'static str, u64); 2] {
        [("spans", &self.spans), ("records", &self.records)]
            .map(|(kind, count)| (kind, count.load(Ordering::Relaxed)))
    }

    /// A request failed.
    pub(super) fn fails(&self, error: &str) {
        self.say(|state, lost| state.fails(lost, Instant::now()), error);
    }

    /// A request was answered as it should be.
    pub(super) fn works(&self) {
        self.say(|state, lost| state.works(lost, Instant::now()), "");
    }

    /// What was lost and not told yet.
    pub(super) fn tell_the_rest(&self) {
        self.say(State::ends, "");
    }

    fn say(&self, decide: impl FnOnce(&mut State, [u64; 2]) -> Option<Say>, error: &str) {
        let lost = [&self.spans, &self.records].map(|count| count.load(Ordering::Relaxed));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (say, failed, [spans, records]) = (decide(&mut state, lost), state.failed, lost);
        drop(state);
        match say {
            None => {}
            Some(Say::Failing) => warn!(
                failed,
                spans, records, "telemetry does not reach the collector, nothing waits for it: {error}"
            ),
            Some(Say::Lost) => {
                warn!(failed, spans, records, "telemetry was dropped: the collector did not take it in time");
            }
            Some(Say::Again) => info!(failed, spans, records, "telemetry reaches the collector again"),
        }
    }
}

impl State {
    fn fails(&mut self, lost: [u64; 2], now: Instant) -> Option<Say> {
        self.failed += 1;
        let say = self.is_due(now).then_some(Say::Failing);
        if say.is_some() {
            (self.is_failing, self.told) = (true, Some((now, lost)));
        }
        say
    }

    fn works(&mut self, lost: [u64; 2], now: Instant) -> Option<Say> {
        if std::mem::take(&mut self.is_failing) {
            self.told = Some((now, lost));
            return Some(Say::Again);
        }
        let say = (self.has_lost_more(lost) && self.is_due(now)).then_some(Say::Lost);
        if say.is_some() {
            self.told = Some((now, lost));
        }
        say
    }

    fn ends(&mut self, lost: [u64; 2]) -> Option<Say> {
        self.has_lost_more(lost).then_some(Say::Lost)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.told.is_none_or(|(told, _)| now.duration_since(told) >= PAUSE)
    }

    fn has_lost_more(&self, lost: [u64; 2]) -> bool {
        lost != self.told.map_or([0; 2], |(_, lost)| lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_that_comes_and_goes_is_told_of_now_and_then() {
        let (mut state, begin) = (State::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(state.works([0, 0], at(0)), None);
        assert_eq!(state.fails([0, 0], at(1)), Some(Say::Failing));
        assert_eq!(state.fails([512, 0], at(2)), None);
        assert_eq!(state.fails([512, 9], at(61)), Some(Say::Failing));
        assert_eq!(state.failed, 3);
        assert_eq!(state.works([512, 9], at(62)), Some(Say::Again));
        assert_eq!(state.works([512, 9], at(63)), None);
        // As soon again as this it is not worth a word, nor that it is over.
        assert_eq!(state.fails([600, 9], at(64)), None);
        assert_eq!(state.works([600, 9], at(65)), None);
        assert_eq!(state.works([600, 9], at(122)), Some(Say::Lost));
        assert_eq!(state.ends([600, 9]), None);
        assert_eq!(state.ends([601, 9]), Some(Say::Lost));
    }
}
