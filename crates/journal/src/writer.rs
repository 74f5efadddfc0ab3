//! The one writer of a journal.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use thiserror::Error;

use crate::fault;
use crate::lock::Lock;
use crate::open::{self, OpenError, Options};
use crate::reader::ReadError;
use crate::schema::{self, Check, DATABASE_FILE, KEY_LAST_SEQ, KEY_PRODUCER, to_sql};
use crate::set_aside::{SetAside, with_suffix};

/// How many rows a commit may remove beyond twice those it adds. A lowered `max_events` then takes effect over
/// many commits, none of which stalls.
const RETENTION_EXTRA: u64 = 100;

/// What is written together, or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// The sequence number of the first event: [`Journal::last_seq`] + 1. Ignored when there are no events.
    pub first_seq: u64,
    /// Events with consecutive sequence numbers.
    pub events: Vec<NewEvent>,
    /// Rows of the device table by port: `Some` is the new JSON, `None` removes the row.
    pub devices: Vec<(String, Option<String>)>,
    /// The caller's own values. The keys `producer` and `last_seq` are the journal's.
    pub meta: Vec<(&'static str, String)>,
}

/// An event to be written; its sequence number follows from its place in the [`Commit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Unique among all events; by it a repeated commit is recognised.
    pub event_id: String,
    /// JSON.
    pub event: String,
}

/// Why a commit was not written.
#[derive(Debug, Error)]
pub enum CommitError {
    /// The caller's numbering and the journal's differ. Nothing was written, the journal stays open.
    #[error("the next sequence number of the journal is {expected}, the commit begins with {given}")]
    Gap {
        /// The only number a commit may begin with.
        expected: u64,
        /// The number it began with.
        given: u64,
    },
    /// Other events were committed under these sequence numbers. Nothing was written, the journal stays open.
    #[error("sequence number {seq} is taken by event {}, not {given}", stored.as_deref().unwrap_or("(removed)"))]
    Conflict {
        /// The last sequence number of the commit and of the journal.
        seq: u64,
        /// The event in the journal, `None` when it is no longer there.
        stored: Option<String>,
        /// The event in the commit.
        given: String,
    },
    /// The write failed and may or may not have reached the disk. The journal is closed now; after
    /// [`Journal::reopen`] the same commit can be tried again.
    #[error("the journal cannot be written")]
    Failed(#[source] io::Error),
    /// An earlier write failed and the journal has not been reopened.
    #[error("the journal is closed since a write failed")]
    Closed,
}

/// A journal open for writing. Dropping it is a crash it recovers from; [`Journal::close`] is a clean end.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    options: Options,
    /// `None` after a failed write.
    connection: Option<Connection>,
    /// A write failed because the file is damaged: reopening must look at all of it.
    damaged: bool,
    /// What the connection is open on.
    file: FileId,
    producer: String,
    last_seq: u64,
    /// Rows behind this one are kept in any case.
    needed_after: u64,
    set_aside: Option<SetAside>,
    _lock: Lock,
}

impl Journal {
    /// Opens the journal in `dir`, making directory (mode 0750) and journal where they are missing. What is found
    /// in its place and is no healthy journal is set aside, see [`Journal::set_aside`].
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        let lock = open::lock_directory(dir)?;
        let database = open::open_database(dir, options.durability, open::check_at_start(dir))?;
        Ok(Self {
            dir: dir.to_owned(),
            options,
            connection: Some(database.connection),
            damaged: false,
            file: file_id(&dir.join(DATABASE_FILE)),
            producer: database.head.producer,
            last_seq: database.head.last_seq,
            needed_after: u64::MAX,
            set_aside: database.set_aside,
            _lock: lock,
        })
    }

    /// Opens the journal again, usually after a failed commit; the lock is kept meanwhile. Afterwards that commit
    /// can be tried again as it was. If damage was why it failed, or the file was removed, the journal may have been
    /// begun anew: then [`Journal::producer`] is another and the old numbers are gone.
    ///
    /// # Errors
    /// See [`OpenError`]; the journal is closed then and can be reopened later.
    pub fn reopen(&mut self) -> Result<(), OpenError> {
        self.connection = None;
        let check = if self.damaged { Check::Whole } else { Check::Small };
        let database = open::open_database(&self.dir, self.options.durability, check)?;
        self.connection = Some(database.connection);
        self.damaged = false;
        self.file = file_id(&self.path());
        self.producer = database.head.producer;
        self.last_seq = database.head.last_seq;
        self.set_aside = database.set_aside;
        Ok(())
    }

    /// What the last open or reopen found in the journal's place and moved away.
    pub fn set_aside(&self) -> Option<&SetAside> {
        self.set_aside.as_ref()
    }

    /// The id drawn when the journal was made: 32 lower-case hex digits.
    pub fn producer(&self) -> &str {
        &self.producer
    }

    /// The highest sequence number ever committed, 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// The oldest sequence number that is kept, `None` when there are no events.
    ///
    /// # Errors
    /// As for [`Journal::restore`].
    pub fn first_seq(&self) -> Result<Option<u64>, ReadError> {
        self.read(schema::first_seq)
    }

    /// The device table as of the last commit: JSON by port.
    ///
    /// # Errors
    /// [`ReadError::Closed`], [`ReadError::Damaged`] or [`ReadError::Failed`].
    pub fn restore(&self) -> Result<Vec<(String, String)>, ReadError> {
        self.read(schema::devices)
    }

    /// A value the caller committed under `key`.
    ///
    /// # Errors
    /// As for [`Journal::restore`].
    pub fn meta(&self, key: &str) -> Result<Option<String>, ReadError> {
        self.read(|connection| schema::meta(connection, key))
    }

    /// Keeps the events behind `seq` from now on, however many they are: somebody still needs them. Until this is
    /// first called, nobody does.
    pub fn need_after(&mut self, seq: u64) {
        self.needed_after = seq;
    }

    /// Frees the pages of the database that are held in memory. The next commit reads those it needs again.
    pub fn free_cache(&self) {
        if let Some(connection) = &self.connection {
            // What cannot be freed is in use.
            let _ = connection.execute_batch("PRAGMA shrink_memory");
        }
    }

    /// Another [`Options::max_events`] from the next commit on.
    pub fn set_max_events(&mut self, max_events: u64) {
        self.options.max_events = max_events;
    }

    /// Bytes on disk: the database and its write-ahead log.
    pub fn bytes(&self) -> u64 {
        let path = self.path();
        open::file_bytes(&path) + open::file_bytes(&with_suffix(&path, "-wal"))
    }

    /// Writes `commit` in one transaction and removes the oldest events beyond `max_events` in the same, as far as
    /// nobody needs them ([`Journal::need_after`]).
    ///
    /// A commit whose last event is already the newest of the journal was written before: the answer is `Ok` and
    /// nothing is written twice.
    ///
    /// # Errors
    /// See [`CommitError`].
    ///
    /// # Panics
    /// If `meta` names one of the journal's own keys.
    pub fn commit(&mut self, commit: &Commit) -> Result<(), CommitError> {
        if self.connection.is_some() && file_id(&self.path()) != self.file {
            // SQLite would go on writing to a file that nobody can open any more.
            self.connection = None;
            return Err(CommitError::Failed(io::Error::other(
                "journal.db was removed or replaced while it was open",
            )));
        }
        for (key, _) in &commit.meta {
            assert!(![KEY_PRODUCER, KEY_LAST_SEQ].contains(key), "the key {key} belongs to the journal");
        }
        let connection = self.connection.as_mut().ok_or(CommitError::Closed)?;
        if let Some(newest) = commit.events.last() {
            let count = commit.events.len() as u64;
            let commit_last = commit.first_seq.saturating_add(count - 1);
            if commit_last == self.last_seq {
                let stored = event_id(connection, self.last_seq).map_err(|error| self.fail(error))?;
                return same_event(commit_last, stored, newest);
            }
            let expected = self.last_seq + 1;
            if commit.first_seq != expected {
                return Err(CommitError::Gap { expected, given: commit.first_seq });
            }
        }
        match write(connection, commit, self.last_seq, self.options.max_events, self.needed_after) {
            Ok(last_seq) => self.last_seq = last_seq,
            Err(error) => return Err(self.fail(error)),
        }
        Ok(())
    }

    /// Ends cleanly: the log is folded into the database, which is then a single file.
    ///
    /// # Errors
    /// [`CommitError::Failed`]: every commit is safe in the log, which the next open folds in.
    pub fn close(mut self) -> Result<(), CommitError> {
        let Some(connection) = self.connection.take() else { return Ok(()) };
        open::checkpoint(&connection).map_err(|error| CommitError::Failed(fault::io_error(error)))?;
        connection.close().map_err(|(_, error)| CommitError::Failed(fault::io_error(error)))
    }

    fn path(&self) -> PathBuf {
        self.dir.join(DATABASE_FILE)
    }

    fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, ReadError> {
        let connection = self.connection.as_ref().ok_or(ReadError::Closed)?;
        query(connection).map_err(|error| ReadError::new(&self.path(), error))
    }

    /// After a failed write nothing in memory can be trusted to say what is on the disk.
    fn fail(&mut self, error: rusqlite::Error) -> CommitError {
        self.connection = None;
        self.damaged = fault::is_damage(&error);
        CommitError::Failed(fault::io_error(error))
    }
}

/// Device and inode; `None` where there is no file, or no such numbers on this system.
type FileId = Option<(u64, u64)>;

#[cfg(unix)]
fn file_id(path: &Path) -> FileId {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// An open file cannot be removed there.
#[cfg(not(unix))]
fn file_id(_: &Path) -> FileId {
    None
}

fn event_id(connection: &Connection, seq: u64) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached("SELECT event_id FROM events WHERE seq = ?1")?
        .query_row([to_sql(seq)], |row| row.get(0))
        .optional()
}

fn same_event(seq: u64, stored: Option<String>, newest: &NewEvent) -> Result<(), CommitError> {
    if stored.as_ref() == Some(&newest.event_id) {
        return Ok(());
    }
    Err(CommitError::Conflict { seq, stored, given: newest.event_id.clone() })
}

/// Returns the new highest sequence number.
fn write(
    connection: &mut Connection,
    commit: &Commit,
    last_seq: u64,
    max_events: u64,
    needed_after: u64,
) -> rusqlite::Result<u64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let last_seq = insert_events(&transaction, commit, last_seq)?;
    write_devices(&transaction, commit)?;
    let mut set = transaction.prepare_cached("INSERT OR REPLACE INTO meta(key, value) VALUES (?1, ?2)")?;
    for (key, value) in &commit.meta {
        set.execute((key, value))?;
    }
    if !commit.events.is_empty() {
        set.execute((KEY_LAST_SEQ, last_seq.to_string()))?;
    }
    drop(set);
    let goes = last_seq.saturating_sub(max_events.max(1)).min(needed_after);
    remove_up_to(&transaction, goes, commit.events.len() as u64)?;
    transaction.commit()?;
    Ok(last_seq)
}

fn insert_events(transaction: &Transaction, commit: &Commit, last_seq: u64) -> rusqlite::Result<u64> {
    let mut insert =
        transaction.prepare_cached("INSERT INTO events(seq, event_id, event) VALUES (?1, ?2, ?3)")?;
    let mut seq = last_seq;
    for event in &commit.events {
        seq += 1;
        insert.execute((to_sql(seq), &event.event_id, &event.event))?;
    }
    Ok(seq)
}

fn write_devices(transaction: &Transaction, commit: &Commit) -> rusqlite::Result<()> {
    let mut put =
        transaction.prepare_cached("INSERT OR REPLACE INTO devices(port, device) VALUES (?1, ?2)")?;
    let mut remove = transaction.prepare_cached("DELETE FROM devices WHERE port = ?1")?;
    for (port, device) in &commit.devices {
        match device {
            Some(device) => put.execute((port, device))?,
            None => remove.execute([port])?,
        };
    }
    Ok(())
}

fn remove_up_to(transaction: &Transaction, goes: u64, added: u64) -> rusqlite::Result<()> {
    if goes == 0 {
        return Ok(());
    }
    let oldest: Option<i64> =
        transaction.prepare_cached("SELECT min(seq) FROM events")?.query_row([], |row| row.get(0))?;
    let Some(oldest) = oldest else { return Ok(()) };
    let limit = to_sql(2 * added + RETENTION_EXTRA);
    let up_to = to_sql(goes).min(oldest.saturating_add(limit - 1));
    if up_to >= oldest {
        transaction.prepare_cached("DELETE FROM events WHERE seq <= ?1")?.execute([up_to])?;
    }
    Ok(())
}
