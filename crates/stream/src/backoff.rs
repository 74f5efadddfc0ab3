//! How long to wait before trying again.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Doubles from 100 ms to 5 s. Each wait is drawn from the upper half of that, so that a fleet that lost its
/// server together does not come back together.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// It worked: the next wait is the shortest.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after this failure.
    #[allow(clippy::should_implement_trait, reason = "an iterator may end; this never does")]
    pub fn next(&mut self) -> Duration {
        let wait = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        // `RandomState` is keyed at random: enough to spread, and no dependency.
        let random = RandomState::new().hash_one(self.failures) % 1000;
        wait.mul_f64(0.5 + random as f64 / 2000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_begin_anew() {
        let mut backoff = Backoff::default();
        for round in 0..40 {
            let wait = backoff.next();
            let full = FIRST.saturating_mul(1 << round.min(16)).min(LONGEST);
            assert!(wait >= full / 2 && wait <= full, "{wait:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
