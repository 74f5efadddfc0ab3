//! The journal, as the publisher reads it.

use std::path::PathBuf;

use autoweave_usb_journal::{ReadError, Reader, Stored};

use crate::failure::Failure;
use crate::mark::{Kept, Place};

/// The journal of a state directory, opened when it is first needed and again after an error.
pub(crate) struct Rows {
    dir: PathBuf,
    reader: Option<Reader>,
}

/// What follows a place.
pub(crate) enum Following {
    /// The next events, without a gap; none at the end.
    Events(Vec<Stored>),
    /// The journal does not go on from there: it is another one, or events were removed.
    Moved,
}

impl Rows {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, reader: None }
    }

    pub(crate) fn producer(&mut self) -> Result<String, Failure> {
        self.read(Reader::producer)
    }

    pub(crate) fn last_seq(&mut self) -> Result<u64, Failure> {
        self.read(Reader::last_seq)
    }

    /// What the journal has, and the event under `seq`.
    pub(crate) fn kept(&mut self, seq: u64) -> Result<Kept, Failure> {
        self.read(|reader| {
            let event_id = event_id(reader, seq)?;
            Ok(Kept { first_seq: reader.first_seq()?, last_seq: reader.last_seq()?, event_id })
        })
    }

    /// Up to `limit` events behind `place`.
    pub(crate) fn after(&mut self, place: &Place, limit: usize) -> Result<Following, Failure> {
        self.read(|reader| {
            // The event at `place` is read too: it shows a journal that was replaced by another.
            let mut events = reader.since(place.seq.saturating_sub(1), limit + 1)?;
            if events.first().is_some_and(|first| first.seq == place.seq) {
                let here = events.remove(0);
                if place.names_an_event() && here.event_id != place.event_id {
                    return Ok(Following::Moved);
                }
            }
            events.truncate(limit);
            let goes_on = match events.first() {
                Some(next) => next.seq == place.seq + 1,
                None => reader.last_seq()? == place.seq,
            };
            Ok(if goes_on { Following::Events(events) } else { Following::Moved })
        })
    }

    fn read<T>(&mut self, query: impl FnOnce(&mut Reader) -> Result<T, ReadError>) -> Result<T, Failure> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => self.reader.insert(Reader::open(&self.dir)?),
        };
        let result = query(reader);
        if result.is_err() {
            self.reader = None;
        }
        Ok(result?)
    }
}

fn event_id(reader: &mut Reader, seq: u64) -> Result<Option<String>, ReadError> {
    let Some(before) = seq.checked_sub(1) else { return Ok(None) };
    let stored = reader.since(before, 1)?.pop();
    Ok(stored.filter(|stored| stored.seq == seq).map(|stored| stored.event_id))
}
