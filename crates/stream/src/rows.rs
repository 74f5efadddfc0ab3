//! The journal, as the publisher reads it.

use std::cmp::Ordering;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use autoweave_usb_journal::{ROWS_MAX, ReadError, Reader, Stored};

use crate::failure::Failure;
use crate::mark::{Kept, Place};

/// The journal of a state directory, opened when it is first needed and again after an error. Clones share it.
#[derive(Clone)]
pub(crate) struct Rows {
    dir: PathBuf,
    access: Arc<Mutex<Access>>,
}

enum Access {
    Closed,
    Open(Box<Reader>),
    /// Not to be opened again.
    Released,
}

/// What follows a place.
pub(crate) enum Following {
    /// The next events, without a gap; none at the end.
    Events(Vec<Stored>),
    /// The events that came next have been removed.
    Removed,
    /// It is another journal than before.
    Replaced,
}

impl Rows {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, access: Arc::new(Mutex::new(Access::Closed)) }
    }

    pub(crate) fn last_seq(&self) -> Result<u64, Failure> {
        self.read(Reader::last_seq)
    }

    /// The event under `seq`, if it is kept.
    pub(crate) fn event_id(&self, seq: u64) -> Result<Option<String>, Failure> {
        self.read(|reader| event_id(reader, seq))
    }

    /// What the journal has, and the event under `seq`.
    pub(crate) fn kept(&self, seq: u64) -> Result<Kept, Failure> {
        self.read(|reader| {
            // Before the rows: what is committed in between must not look removed.
            let last_seq = reader.last_seq()?;
            let event_id = event_id(reader, seq)?;
            let next_seq = reader.since(seq, 1)?.first().map(|next| next.seq);
            Ok(Kept { next_seq, last_seq, event_id })
        })
    }

    /// Up to `limit` events behind `place`.
    pub(crate) fn after(&self, place: &Place, limit: usize) -> Result<Following, Failure> {
        self.read(|reader| {
            // The event at `place` is read too: it shows a journal that was replaced by another.
            let mut events = since(reader, place.seq.saturating_sub(1), limit + 1)?;
            if events.first().is_some_and(|first| first.seq == place.seq) {
                let here = events.remove(0);
                if place.names_an_event() && here.event_id != place.event_id {
                    return Ok(Following::Replaced);
                }
            }
            events.truncate(limit);
            let next_seq = match events.first() {
                Some(next) => next.seq,
                None => reader.last_seq()? + 1,
            };
            Ok(match next_seq.cmp(&(place.seq + 1)) {
                Ordering::Less => Following::Replaced,
                Ordering::Equal => Following::Events(events),
                Ordering::Greater => Following::Removed,
            })
        })
    }

    /// Closes the journal for good, so that its writer can be the last to close it. Reading fails from now on.
    pub(crate) fn release(&self) {
        *self.access.lock().unwrap_or_else(PoisonError::into_inner) = Access::Released;
    }

    pub(crate) fn are_released(&self) -> bool {
        matches!(*self.access.lock().unwrap_or_else(PoisonError::into_inner), Access::Released)
    }

    fn read<T>(&self, query: impl FnOnce(&mut Reader) -> Result<T, ReadError>) -> Result<T, Failure> {
        // After a panic in a query the reader is as good as after an error.
        let mut access = self.access.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reader = match std::mem::replace(&mut *access, Access::Closed) {
            Access::Open(reader) => reader,
            Access::Closed => Box::new(Reader::open(&self.dir)?),
            Access::Released => {
                *access = Access::Released;
                return Err(Failure::Journal("the publisher has been stopped".to_owned()));
            }
        };
        let result = query(&mut reader)?;
        *access = Access::Open(reader);
        Ok(result)
    }
}

/// Like [`Reader::since`], which gives no more than [`ROWS_MAX`] at once.
fn since(reader: &mut Reader, seq: u64, limit: usize) -> Result<Vec<Stored>, ReadError> {
    let mut events = reader.since(seq, limit)?;
    let mut is_full = events.len() == ROWS_MAX;
    while is_full && events.len() < limit {
        let next_seq = events.last().map_or(seq, |last| last.seq) + 1;
        let more = reader.since(next_seq - 1, limit - events.len())?;
        // What was removed between two reads leaves a gap, which the next call finds.
        if more.first().is_none_or(|next| next.seq != next_seq) {
            break;
        }
        is_full = more.len() == ROWS_MAX;
        events.extend(more);
    }
    Ok(events)
}

fn event_id(reader: &mut Reader, seq: u64) -> Result<Option<String>, ReadError> {
    let Some(before) = seq.checked_sub(1) else { return Ok(None) };
    let stored = reader.since(before, 1)?.pop();
    Ok(stored.filter(|stored| stored.seq == seq).map(|stored| stored.event_id))
}
