//! A group in the embedded journal: a cursor.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use autoweave_usb_device::Event;
use autoweave_usb_journal::{Reader, Stored};

use super::flight::EntryId;
use super::letters::{self, Letter, dead_letters_file};
use super::{ConsumerListener, ConsumerNotice, Delivery};
use crate::failure::Failure;

/// How far a group is in a journal. Shared by the consumer, who writes the journal and wakes it, and who remembers how
/// far it is.
#[derive(Debug, Default)]
pub struct Cursor {
    done: AtomicU64,
    /// How often the journal has grown.
    grown: Mutex<u64>,
    changed: Condvar,
}

pub(super) struct Inbox {
    state_dir: PathBuf,
    reader: Option<Reader>,
    cursor: Arc<Cursor>,
    /// Up to here everything was delivered.
    after: u64,
    listener: ConsumerListener,
}

pub(super) struct Outbox {
    dead: PathBuf,
    cursor: Arc<Cursor>,
}

impl Cursor {
    /// Everything up to `seq` is settled.
    pub fn new(seq: u64) -> Self {
        Self { done: AtomicU64::new(seq), ..Self::default() }
    }

    /// Up to which sequence number everything is settled.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    /// The journal has grown. Costs a lock.
    pub fn wake(&self) {
        *self.grown.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_all();
    }

    fn grown(&self) -> u64 {
        *self.grown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it has grown since it was `seen`, at most for `patience`.
    fn wait(&self, seen: u64, patience: Duration) {
        let grown = self.grown.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.changed.wait_timeout_while(grown, patience, |grown| *grown == seen);
    }
}

impl Inbox {
    pub(super) fn new(state_dir: &Path, cursor: Arc<Cursor>, listener: ConsumerListener) -> Self {
        let after = cursor.done();
        Self { state_dir: state_dir.to_owned(), reader: None, cursor, after, listener }
    }

    pub(super) fn next(&mut self, count: usize, block: Duration) -> Result<Vec<Delivery>, Failure> {
        let seen = self.cursor.grown();
        let mut stored = self.read(count)?;
        if stored.is_empty() && !block.is_zero() {
            self.cursor.wait(seen, block);
            stored = self.read(count)?;
        }
        if let (Some(first), Some(last)) = (stored.first(), stored.last()) {
            let count = first.seq.saturating_sub(self.after + 1);
            if count > 0 {
                let what = format!("{} to {}: journal.max_events", self.after + 1, first.seq - 1);
                (self.listener)(ConsumerNotice::Lost { count, what });
            }
            self.after = last.seq;
        }
        Ok(stored.iter().map(delivery).collect())
    }

    fn read(&mut self, count: usize) -> Result<Vec<Stored>, Failure> {
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => Reader::open(&self.state_dir)?,
        };
        let stored = reader.since(self.after, count)?;
        self.reader = Some(reader);
        Ok(stored)
    }
}

impl Outbox {
    pub(super) fn new(state_dir: &Path, cursor: Arc<Cursor>) -> Self {
        Self { dead: dead_letters_file(state_dir), cursor }
    }

    pub(super) fn write(&self, delivery: &Delivery, letters: &[Letter]) -> Result<(), Failure> {
        if letters.is_empty() {
            return Ok(());
        }
        let event = delivery.event.as_ref().ok().and_then(|event| serde_json::to_value(&**event).ok());
        letters::append(&self.dead, delivery.id.0, event, letters)
            .map_err(|error| Failure::DeadLetters(format!("{}: {error}", self.dead.display())))
    }

    pub(super) fn done(&self, done: Option<EntryId>) {
        if let Some(EntryId(seq, _)) = done {
            self.cursor.done.fetch_max(seq, Ordering::SeqCst);
        }
    }
}

fn delivery(stored: &Stored) -> Delivery {
    let event = serde_json::from_str::<Event>(&stored.event);
    let event = event.map(Arc::new).map_err(|error| format!("the journal's event cannot be read: {error}"));
    Delivery { id: EntryId(stored.seq, 0), event, deliveries: 1, alone: false }
}
