//! When a plugin that crashes is started again. Looks at no clock: times come in.

use std::time::{Duration, Instant};

/// After the first crash; doubled with each one that follows.
const WAIT_FIRST: Duration = Duration::from_millis(100);

const WAIT_MAX: Duration = Duration::from_secs(2);

/// Crashes in a row, without an answer in between, after which the circuit opens. Those of one event count once: it is
/// to blame itself, and given up after its deliveries.
const CRASHES_MAX: u32 = 10;

/// How long it stays open at first; doubled each time it opens again.
const OPEN_FIRST: Duration = Duration::from_secs(10);

const OPEN_MAX: Duration = Duration::from_secs(300);

/// A plugin's circuit breaker. After [`CRASHES_MAX`] crashes in a row it is open: nothing is started until a time
/// that comes later with each opening. One answer closes it.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    crashes: u32,
    /// Crashes that count, up to [`CRASHES_MAX`].
    strikes: u32,
    /// The events that the plugin crashed at, as long as the circuit is closed.
    at: Vec<String>,
    openings: u32,
    opened: Option<Instant>,
    not_before: Option<Instant>,
}

impl Breaker {
    /// The plugin answered. Says whether the circuit was open until now.
    pub(crate) fn worked(&mut self) -> bool {
        let was_open = self.is_open();
        *self = Self::default();
        was_open
    }

    /// A worker crashed, at the event `at` or none, or did not start. Says from when on it may be started again.
    pub(crate) fn crashed(&mut self, now: Instant, at: Option<&str>) -> Instant {
        self.crashes = self.crashes.saturating_add(1);
        let is_known = at.is_some_and(|at| self.at.iter().any(|known| known == at));
        if !is_known && self.strikes < CRASHES_MAX {
            self.strikes += 1;
            self.at.extend(at.map(str::to_owned));
        }
        let wait = if self.strikes < CRASHES_MAX {
            doubled(WAIT_FIRST, self.crashes - 1, WAIT_MAX)
        } else {
            self.openings = self.openings.saturating_add(1);
            self.opened.get_or_insert(now);
            doubled(OPEN_FIRST, self.openings - 1, OPEN_MAX)
        };
        *self.not_before.insert(now + wait)
    }

    /// The plugin never was ready: it is open from the first, until the time answered.
    pub(crate) fn open(&mut self, now: Instant) -> Instant {
        self.strikes = CRASHES_MAX;
        self.crashed(now, None)
    }

    /// From when on a worker may be started; none for at once.
    pub(crate) fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    /// Since when the circuit is open.
    pub(crate) fn opened(&self) -> Option<Instant> {
        self.opened
    }

    /// Whether the circuit is open: also while one start is being tried.
    pub(crate) fn is_open(&self) -> bool {
        self.openings > 0
    }
}

/// `first`, doubled `times` times, up to `max`.
pub(crate) fn doubled(first: Duration, times: u32, max: Duration) -> Duration {
    first.saturating_mul(1 << times.min(20)).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_then_the_circuit_opens_and_one_answer_closes_it() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        let mut waits = |count: u32| -> Vec<u128> {
            (0..count).map(|_| (breaker.crashed(now, None) - now).as_millis()).collect()
        };
        assert_eq!(waits(9), [100, 200, 400, 800, 1600, 2000, 2000, 2000, 2000]);
        assert_eq!(waits(7), [10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000]);
        assert!(breaker.is_open());
        assert_eq!(breaker.not_before(), Some(now + OPEN_MAX));
        assert!(breaker.worked());
        assert!(!breaker.is_open() && breaker.not_before().is_none() && !breaker.worked());
        assert_eq!(breaker.crashed(now, None) - now, WAIT_FIRST);
        assert!(!breaker.is_open());
    }

    #[test]
    fn one_event_opens_no_circuit_and_many_do() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..100 {
            assert!(breaker.crashed(now, Some("poison")) <= now + WAIT_MAX);
        }
        for number in 2..CRASHES_MAX {
            breaker.crashed(now, Some(&number.to_string()));
        }
        assert!(!breaker.is_open());
        breaker.crashed(now, Some("tenth"));
        assert_eq!(breaker.opened(), Some(now));
        // Open, any crash opens it again, and it is open since the first time.
        let later = now + OPEN_FIRST;
        assert_eq!(breaker.crashed(later, Some("poison")), later + OPEN_FIRST * 2);
        assert_eq!(breaker.opened(), Some(now));
    }

    #[test]
    fn answers_in_between_keep_it_closed() {
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            for _ in 1..CRASHES_MAX {
                breaker.crashed(Instant::now(), None);
            }
            assert!(!breaker.worked());
        }
    }
}
