//! How much of the journal the stream still lacks, and when that is too much.

use autoweave_usb_journal::{Journal, ReadError};

/// Up to where the stream has acknowledged the events. Persisted name.
const META_PUBLISHED_SEQ: &str = "published_seq";

/// The part of the journal that must be kept for the stream.
#[derive(Debug)]
pub struct Backlog {
    /// Up to where the stream has the events now, as far as is known: what is behind is kept.
    needed_after: u64,
    /// Up to where it has ever acknowledged them: what is behind is counted. A server that lost some gets them again
    /// without making live events wait for that; so at most twice the bound is kept.
    published_seq: u64,
    /// What the journal has of it.
    saved_seq: Option<u64>,
    max_events: u64,
}

impl Backlog {
    /// As the journal remembers it. Where it does not, its events were promised to no stream so far.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn restore(journal: &Journal, max_events: u64) -> Result<Self, ReadError> {
        let saved_seq = journal.meta(META_PUBLISHED_SEQ)?.and_then(|text| text.parse().ok());
        let published_seq = saved_seq.map_or(journal.last_seq(), |seq: u64| seq.min(journal.last_seq()));
        Ok(Self { needed_after: published_seq, published_seq, saved_seq, max_events })
    }

    /// The stream has the events up to `seq`.
    pub fn published(&mut self, seq: u64) {
        self.needed_after = seq;
        self.published_seq = self.published_seq.max(seq);
    }

    /// The events behind this one have to be kept.
    pub fn needed_after(&self) -> u64 {
        self.needed_after
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
        let saved_seq = self.saved_seq.replace(self.published_seq);
        (saved_seq != Some(self.published_seq)).then(|| (META_PUBLISHED_SEQ, self.published_seq.to_string()))
    }
}
