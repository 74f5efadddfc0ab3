//! What was delivered and is not settled.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use autoweave_usb_device::Event;

use super::settled::Settled;

/// The place of an entry: milliseconds and number of a stream's, sequence number and 0 of a journal's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub u64, pub u64);

/// Shared by the halves of a consumer.
#[derive(Debug, Default)]
pub(super) struct Flight {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    out: BTreeSet<EntryId>,
    /// The highest that was ever out.
    highest: Option<EntryId>,
    settled: Settled,
}

impl EntryId {
    /// The highest id below this one.
    pub(super) fn before(self) -> Self {
        match self {
            Self(0, 0) => self,
            Self(ms, 0) => Self(ms - 1, u64::MAX),
            Self(ms, number) => Self(ms, number - 1),
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

impl FromStr for EntryId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (ms, number) = text.split_once('-').ok_or(())?;
        Ok(Self(ms.parse().map_err(drop)?, number.parse().map_err(drop)?))
    }
}

impl Flight {
    /// False: it is out already.
    pub(super) fn begin(&self, id: EntryId) -> bool {
        let mut state = self.lock();
        state.highest = state.highest.max(Some(id));
        state.out.insert(id)
    }

    /// It is settled. Answers [`Flight::done`].
    pub(super) fn end(&self, id: EntryId) -> Option<EntryId> {
        let mut state = self.lock();
        state.out.remove(&id);
        self.changed.notify_all();
        state.done()
    }

    /// It is settled, or will have been before [`Flight::end`]: it is not to be handled again.
    pub(super) fn remember(&self, event: &Event) {
        self.lock().settled.add(event);
    }

    pub(super) fn has_settled(&self, event: &Event) -> bool {
        self.lock().settled.has(event)
    }

    /// Everything up to here is settled, as far as it was ever delivered to this consumer.
    pub(super) fn done(&self) -> Option<EntryId> {
        self.lock().done()
    }

    pub(super) fn out(&self) -> Vec<EntryId> {
        self.lock().out.iter().copied().collect()
    }

    /// Says whether no more than `count` are out within `patience`.
    pub(super) fn wait_until_at_most(&self, count: usize, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        let mut state = self.lock();
        while state.out.len() > count {
            let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return false;
            };
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Each change is one insertion or removal, so a panic elsewhere spoils nothing.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn done(&self) -> Option<EntryId> {
        self.out.first().map(|first| first.before()).or(self.highest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_ends_before_the_first_that_is_out() {
        let flight = Flight::default();
        assert_eq!(flight.done(), None);
        assert!(flight.begin(EntryId(5, 0)) && flight.begin(EntryId(6, 1)) && !flight.begin(EntryId(5, 0)));
        assert_eq!(flight.end(EntryId(6, 1)), Some(EntryId(4, u64::MAX)));
        assert!(!flight.wait_until_at_most(0, Duration::ZERO));
        assert_eq!(flight.end(EntryId(5, 0)), Some(EntryId(6, 1)));
        assert!(flight.wait_until_at_most(0, Duration::ZERO));
    }

    #[test]
    fn ids_are_written_as_redis_does() {
        assert_eq!("1767225600123-7".parse(), Ok(EntryId(1_767_225_600_123, 7)));
        assert_eq!(EntryId(3, 7).to_string(), "3-7");
        assert_eq!(EntryId(3, 7).before(), EntryId(3, 6));
        assert_eq!(EntryId(0, 0).before(), EntryId(0, 0));
        for wrong in ["", "1", "1-", "-1", "1-2-3", "a-b"] {
            assert!(wrong.parse::<EntryId>().is_err(), "{wrong}");
        }
    }
}
