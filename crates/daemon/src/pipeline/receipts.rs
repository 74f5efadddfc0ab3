//! When events were observed, to the microsecond: the journal, from which they are published, has milliseconds.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// What is published later than this many events after is told in milliseconds: it took longer than that.
const KEPT: usize = 4096;

/// The newest events and when they were observed. See the module's description.
#[derive(Debug, Default)]
pub struct Receipts(Mutex<VecDeque<(u64, u64)>>);

impl Receipts {
    /// Event `seq`, behind all before, was observed at `observed_us`, in microseconds since the Unix epoch.
    pub fn keep(&self, seq: u64, observed_us: u64) {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.len() == KEPT {
            newest.pop_front();
        }
        newest.push_back((seq, observed_us));
    }

    /// When event `seq` was observed, in microseconds since the Unix epoch; by its `timestamp`, in milliseconds, where
    /// nothing better is known.
    pub fn observed_us(&self, seq: u64, timestamp: u64) -> u64 {
        let newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match newest.binary_search_by_key(&seq, |(seq, _)| *seq) {
            Ok(index) => newest[index].1,
            Err(_) => timestamp.saturating_mul(1_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_known_to_the_microsecond() {
        let receipts = Receipts::default();
        for seq in 1..=KEPT as u64 + 1 {
            receipts.keep(seq, 1_000 * seq + 7);
        }
        assert_eq!(receipts.observed_us(1, 1), 1_000);
        assert_eq!(receipts.observed_us(2, 2), 2_007);
        assert_eq!(receipts.observed_us(KEPT as u64 + 1, 0), 1_000 * (KEPT as u64 + 1) + 7);
        assert_eq!(receipts.observed_us(KEPT as u64 + 2, u64::MAX), u64::MAX);
    }
}
