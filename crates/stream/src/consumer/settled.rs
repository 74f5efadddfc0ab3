//! Which events this consumer has settled.
//!
//! A server that is killed may forget acknowledgements of its last seconds, and its publisher then adds anew what else
//! it forgot. Handled again, an event could come after later ones of its device, and be the last that is heard of it.

use std::collections::{HashSet, VecDeque};

use autoweave_usb_device::Event;

/// The newest that are known. Beyond, an event is handled again, as it is by another consumer.
const EVENTS_MAX: usize = 8192;

#[derive(Debug, Default)]
pub(super) struct Settled {
    known: HashSet<Key>,
    oldest_first: VecDeque<Key>,
}

/// Producer and sequence number.
type Key = (u128, u64);

impl Settled {
    pub(super) fn add(&mut self, event: &Event) {
        let Some(key) = key(event) else { return };
        if !self.known.insert(key) {
            return;
        }
        self.oldest_first.push_back(key);
        if self.oldest_first.len() > EVENTS_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    pub(super) fn has(&self, event: &Event) -> bool {
        key(event).is_some_and(|key| self.known.contains(&key))
    }
}

/// None where it is not ours: nothing says that its numbers are used once.
fn key(event: &Event) -> Option<Key> {
    Some((u128::from_str_radix(&event.producer, 16).ok()?, event.seq))
}
