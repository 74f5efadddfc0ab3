//! How much of the journal the stream still lacks, and when that is too much.

use autoweave_usb_journal::{Journal, ReadError};

/// Up to where the stream has acknowledged the events. Persisted name.
const META_PUBLISHED_SEQ: &str = "published_seq";

/// The part of the journal that must be kept for the stream.
#[derive(Debug)]
pub struct Backlog {
    /// Up to where the stream has ever acknowledged the events. A server that lost some gets again what is still
    /// kept of them, but does not make live events wait for that.
    published_seq: u64,
    /// What the journal has of [`Self::published_seq`].
    saved_seq: u64,
    max_events: u64,
}

impl Backlog {
    /// As the journal remembers it. Where it does not, its events were promised to no stream so far.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn restore(journal: &Journal, max_events: u64) -> Result<Self, ReadError> {
        let saved = journal.meta(META_PUBLISHED_SEQ)?.and_then(|text| text.parse().ok());
        let published_seq = saved.map_or(journal.last_seq(), |seq: u64| seq.min(journal.last_seq()));
        Ok(Self { published_seq, saved_seq: saved.unwrap_or(0), max_events })
    }

    /// The stream has acknowledged the events up to `seq`.
    pub fn published(&mut self, seq: u64) {
        self.published_seq = self.published_seq.max(seq);
    }

    /// See [`Self::published`].
    pub fn published_seq(&self) -> u64 {
        self.published_seq
    }

    /// Another bound of the journal.
    pub fn set_max_events(&mut self, max_events: u64) {
        self.max_events = max_events;
    }

    /// How many events of a journal that ends at `last_seq` the stream has never acknowledged.
    pub fn unpublished(&self, last_seq: u64) -> u64 {
        last_seq.saturating_sub(self.published_seq)
    }

    /// Whether they are as many as the journal may hold.
    pub fn is_full(&self, last_seq: u64) -> bool {
        self.unpublished(last_seq) >= self.max_events
    }

    /// What the journal is to remember now, if it does not yet.
    pub fn save(&mut self) -> Option<(&'static str, String)> {
        let is_saved = std::mem::replace(&mut self.saved_seq, self.published_seq) == self.published_seq;
        (!is_saved).then(|| (META_PUBLISHED_SEQ, self.published_seq.to_string()))
    }
}
