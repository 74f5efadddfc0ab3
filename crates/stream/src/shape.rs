//! `max_events_per_second`: what is beyond it waits.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// A token bucket that holds one second's worth.
#[derive(Debug)]
pub(crate) struct Shape {
    per_second: Option<f64>,
    tokens: f64,
    filled: Instant,
}

impl Shape {
    pub(crate) fn new(per_second: Option<NonZeroU32>, now: Instant) -> Self {
        let per_second = per_second.map(|rate| f64::from(rate.get()));
        Self { per_second, tokens: per_second.unwrap_or(0.0), filled: now }
    }

    /// How many of `wanted` events may go now.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to one second's worth")]
    pub(crate) fn allowed(&mut self, wanted: usize, now: Instant) -> usize {
        let Some(rate) = self.per_second else { return wanted };
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * rate;
        self.tokens = (self.tokens + gained).min(rate);
        self.filled = now;
        wanted.min(self.tokens as usize)
    }

    pub(crate) fn take(&mut self, count: usize) {
        if self.per_second.is_some() {
            self.tokens -= count as f64;
        }
    }

    /// How long until the next event may go; asked when none may.
    pub(crate) fn wait(&self) -> Duration {
        match self.per_second {
            None => Duration::ZERO,
            Some(rate) => Duration::from_secs_f64(((1.0 - self.tokens) / rate).max(0.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_second_bursts_then_the_rate_holds() {
        let start = Instant::now();
        let mut shape = Shape::new(NonZeroU32::new(100), start);
        assert_eq!(shape.allowed(1000, start), 100);
        shape.take(100);
        assert_eq!(shape.allowed(1000, start), 0);
        assert_eq!(shape.wait(), Duration::from_millis(10));
        let mut sent = 0;
        for ms in 1..=10_000 {
            let count = shape.allowed(1000, start + Duration::from_millis(ms));
            shape.take(count);
            sent += count;
        }
        assert!((999..=1000).contains(&sent), "{sent} in ten seconds");
        assert_eq!(
            shape.allowed(1000, start + Duration::from_secs(1000)),
            100,
            "no more than a second is saved"
        );
    }

    #[test]
    fn without_a_rate_everything_goes() {
        let mut shape = Shape::new(None, Instant::now());
        assert_eq!(shape.allowed(12_345, Instant::now()), 12_345);
    }
}
