//! How much of the journal the stream still lacks, and when that is too much.

use autoweave_usb_journal::{Journal, ReadError};

/// Up to where the stream has acknowledged the events. Persisted name.
const META_PUBLISHED_SEQ: &str = "published_seq";

/// Where the events end that were in the journal before there was a stream to publish to. Persisted name.
const META_PROMISED_SEQ: &str = "promised_seq";

/// The part of the journal that must be kept for the stream.
#[derive(Debug)]
pub struct Backlog {
    /// Up to where the stream has the events now, as far as is known: what is behind is kept.
    needed_after: u64,
    /// Up to where it has ever acknowledged them: what is behind is waiting.
    published_seq: u64,
    /// From where on at least they count for the bound: earlier ones the stream gets if they are still there when it first
    /// answers. Those, and what a server lost and gets again, make no live events wait; so at most twice the bound is kept.
    promised_seq: u64,
    /// What the journal has of the two.
    saved: [(&'static str, Option<u64>); 2],
    max_events: u64,
}

impl Backlog {
    /// As the journal remembers it. Where it does not, its events were promised to no stream so far.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn restore(journal: &Journal, max_events: u64) -> Result<Self, ReadError> {
        let last_seq = journal.last_seq();
        let read = |key| Ok(journal.meta(key)?.and_then(|text| text.parse().ok()));
        let (published, promised) = (read(META_PUBLISHED_SEQ)?, read(META_PROMISED_SEQ)?);
        let before_first = || Ok(journal.first_seq()?.map_or(last_seq, |seq| seq.saturating_sub(1)));
        let published_seq = published.map_or_else(before_first, |seq: u64| Ok(seq.min(last_seq)))?;
        let promised_seq = promised.or(published).unwrap_or(last_seq).min(last_seq);
        Ok(Self {
            needed_after: published_seq.max(promised_seq),
            published_seq,
            promised_seq,
            saved: [(META_PUBLISHED_SEQ, published), (META_PROMISED_SEQ, promised)],
            max_events,
        })
    }

    /// The stream has the events up to `seq`. How many of them it acknowledged for the first time.
    pub fn published(&mut self, seq: u64) -> u64 {
        self.needed_after = seq;
        let new = seq.saturating_sub(self.published_seq);
        self.published_seq += new;
        new
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

    /// Whether those that were promised to it are as many as the journal may hold.
    pub fn is_full(&self, last_seq: u64) -> bool {
        last_seq.saturating_sub(self.published_seq.max(self.promised_seq)) >= self.max_events
    }

    /// What the journal is to remember now and does not yet.
    pub fn save(&mut self) -> Vec<(&'static str, String)> {
        let seqs = [self.published_seq, self.promised_seq];
        let new = self.saved.iter_mut().zip(seqs).filter(|((_, saved), seq)| *saved != Some(*seq));
        new.map(|((key, saved), seq)| (*key, saved.insert(seq).to_string())).collect()
    }
}
