//! Opening the database for writing: find out what is there, set aside what is no journal, tune what is.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use thiserror::Error;

use crate::lock::{Lock, LockError};
use crate::schema::{self, Check, DATABASE_FILE, Head, Identity, LOCK_FILE};
use crate::set_aside::{self, SetAside, with_suffix};
use crate::{fault, schema::VERSION};

/// How long a commit waits for another process's write transaction (`sqlite3` in the field) before it fails.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Up to this size a start examines every page. `quick_check` reads the whole file: a journal of 1,000,000 rows
/// of 700 bytes (0.8 GB) took 0.4 s from the page cache, and takes 20 s from a memory card at 40 MB/s. 64 MiB
/// is 0.03 s and 1.6 s. A larger one is examined whole only when its log says that it was not closed.
const CHECK_WHOLE_BYTES_MAX: u64 = 64 << 20;

/// How a journal is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// What a commit survives.
    pub durability: Durability,
    /// How many of the newest events are kept, at least 1.
    pub max_events: u64,
}

/// What a commit that returned `Ok` survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A loss of power: every commit is flushed to the disk (`synchronous=FULL`).
    Power,
    /// A crash of this process, not of the machine (`synchronous=NORMAL`).
    Process,
}

/// Why a journal could not be opened for writing.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process (or another handle in this one) writes this journal.
    #[error(
        "the state directory {} is in use by another daemon{}; stop it or choose another directory",
        dir.display(),
        pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
    )]
    InUse {
        /// The state directory.
        dir: PathBuf,
        /// The process that holds the lock, where its id could be read.
        pid: Option<u32>,
    },
    /// The directory cannot be created, read or written, or is full.
    #[error("the state directory {} cannot be used: {}", dir.display(), mend(source))]
    Unusable {
        /// The state directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The journal was written by a later version of this program. It was not touched.
    #[error(
        "{} has format version {version}, this program knows up to {VERSION}; run the newer program or choose \
         another state directory",
        path.display()
    )]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Its `user_version`.
        version: i64,
    },
}

/// An open database with what was read from it.
pub(crate) struct Database {
    pub(crate) connection: Connection,
    pub(crate) head: Head,
    pub(crate) set_aside: Option<SetAside>,
}

enum Attempt {
    Opened(Connection, Head),
    /// There is something else; the text says what.
    NotAJournal(String),
}

/// Creates `dir` if it is missing and takes its lock.
pub(crate) fn lock_directory(dir: &Path) -> Result<Lock, OpenError> {
    create_directory(dir).map_err(|source| unusable(dir, source))?;
    Lock::take(&dir.join(LOCK_FILE)).map_err(|error| match error {
        LockError::Held(pid) => OpenError::InUse { dir: dir.to_owned(), pid },
        LockError::Io(source) => unusable(dir, source),
    })
}

/// Opens or makes the database in `dir`, whose lock the caller holds. What is no journal is set aside first.
pub(crate) fn open_database(dir: &Path, durability: Durability, check: Check) -> Result<Database, OpenError> {
    let why = match attempt(dir, durability, check)? {
        Attempt::Opened(connection, head) => return Ok(Database { connection, head, set_aside: None }),
        Attempt::NotAJournal(why) => why,
    };
    let aside =
        set_aside::set_aside(&dir.join(DATABASE_FILE), why).map_err(|source| unusable(dir, source))?;
    match attempt(dir, durability, check)? {
        Attempt::Opened(connection, head) => Ok(Database { connection, head, set_aside: Some(aside) }),
        Attempt::NotAJournal(why) => Err(unusable(dir, io::Error::new(ErrorKind::InvalidData, why))),
    }
}

/// How thoroughly to examine the database that is in `dir` at a start.
pub(crate) fn check_at_start(dir: &Path) -> Check {
    let path = dir.join(DATABASE_FILE);
    let unclean = file_bytes(&with_suffix(&path, "-wal")) > 0;
    if unclean || file_bytes(&path) <= CHECK_WHOLE_BYTES_MAX { Check::Whole } else { Check::Small }
}

/// The size of a file, 0 when there is none.
pub(crate) fn file_bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn unusable(dir: &Path, source: io::Error) -> OpenError {
    OpenError::Unusable { dir: dir.to_owned(), source }
}

fn attempt(dir: &Path, durability: Durability, check: Check) -> Result<Attempt, OpenError> {
    let path = dir.join(DATABASE_FILE);
    // SQLite would take this for a new database and delete the log.
    if file_bytes(&path) == 0 && file_bytes(&with_suffix(&path, "-wal")) > 0 {
        return Ok(Attempt::NotAJournal("is empty or missing, though its log is there".to_owned()));
    }
    create_private(&path).map_err(|source| unusable(dir, source))?;
    match open_and_examine(&path, durability, check) {
        Ok(Examined::Journal(connection, head)) => Ok(Attempt::Opened(connection, head)),
        Ok(Examined::Foreign(why)) => Ok(Attempt::NotAJournal(why)),
        Ok(Examined::TooNew(version)) => Err(OpenError::TooNew { path, version }),
        Ok(Examined::Unwritable(kind, why)) => Err(unusable(dir, io::Error::new(kind, why))),
        Err(error) if fault::is_damage(&error) => Ok(Attempt::NotAJournal(format!("is damaged: {error}"))),
        Err(error) => Err(unusable(dir, fault::io_error(error))),
    }
}

enum Examined {
    Journal(Connection, Head),
    Foreign(String),
    TooNew(i64),
    Unwritable(ErrorKind, &'static str),
}

fn open_and_examine(path: &Path, durability: Durability, check: Check) -> rusqlite::Result<Examined> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Until it is known to be ours, closing it must not fold its log into it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let empty = match schema::identify(&connection)? {
        Identity::Empty => true,
        Identity::Current => false,
        Identity::TooNew(version) => return Ok(Examined::TooNew(version)),
        Identity::Foreign(why) => return Ok(Examined::Foreign(why)),
    };
    if connection.is_readonly("main")? {
        return Ok(Examined::Unwritable(
            ErrorKind::PermissionDenied,
            "journal.db cannot be opened for writing",
        ));
    }
    if let Some(found) = schema::fault(&connection, if empty { Check::Whole } else { check })? {
        return Ok(Examined::Foreign(format!("is damaged: {found}")));
    }
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Ok(Examined::Unwritable(
            ErrorKind::Unsupported,
            "its file system has no shared memory maps, which a write-ahead log needs",
        ));
    }
    tune(&connection, durability)?;
    if empty {
        schema::create(&mut connection)?;
    }
    let Some(head) = schema::head(&connection)? else {
        return Ok(Examined::Foreign("is damaged: producer or last_seq are missing or wrong".to_owned()));
    };
    // What recovery found in the log may be in the page cache only. It is on the disk before anyone acts on it.
    checkpoint(&connection)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    Ok(Examined::Journal(connection, head))
}

/// Folds the log into the database and empties it; while readers stand in the way, as much as they allow.
pub(crate) fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

fn tune(connection: &Connection, durability: Durability) -> rusqlite::Result<()> {
    let power = durability == Durability::Power;
    connection.pragma_update(None, "synchronous", if power { "FULL" } else { "NORMAL" })?;
    // Only macOS knows these: there, fsync alone leaves the data in the drive's cache.
    connection.pragma_update(None, "fullfsync", power)?;
    connection.pragma_update(None, "checkpoint_fullfsync", power)?;
    // KiB, being negative. The working set is the newest pages of three trees.
    connection.pragma_update(None, "cache_size", -1024)?;
    // Pages of 4 KiB: the log is folded in at 4 MiB. It keeps its length for reuse, but not what a slow reader
    // made it grow beyond 8 MiB.
    connection.pragma_update(None, "wal_autocheckpoint", 1000)?;
    connection.pragma_update_and_check(None, "journal_size_limit", 8 << 20, |_| Ok(()))
}

fn create_directory(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o750);
    builder.create(dir)
}

/// Makes an empty file before SQLite does, or narrows the mode of the one that is there: the log and its index
/// take their mode from it. An existing file is never opened here, for the reason given in `lock`.
fn create_private(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    match options.open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => narrow(path),
        Err(error) => Err(error),
    }
}

#[cfg(unix)]
fn narrow(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for suffix in ["", "-wal", "-shm"] {
        let path = with_suffix(path, suffix);
        let Ok(metadata) = fs::metadata(&path) else { continue };
        let mode = metadata.permissions().mode() & 0o777;
        if metadata.is_file() && mode & !0o640 != 0 {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o640))?;
        }
    }
    Ok(())
}

#[cfg(not(unix))]
fn narrow(_path: &Path) -> io::Result<()> {
    Ok(())
}

fn mend(source: &io::Error) -> &'static str {
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "it is full; free some space there",
        ErrorKind::PermissionDenied => {
            "this user may not write there; make it the owner or choose another directory"
        }
        ErrorKind::ReadOnlyFilesystem => "it is read-only; mount it for writing or choose another directory",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => "it is no directory; choose another one",
        ErrorKind::NotFound => "it cannot be created there; choose another one",
        ErrorKind::ResourceBusy => "another program holds journal.db locked; end that program",
        _ => "see the cause, or choose another directory",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pragmas(durability: Durability) -> [i64; 5] {
        let dir = tempfile::tempdir().unwrap();
        let database = open_database(dir.path(), durability, Check::Whole).unwrap();
        ["synchronous", "fullfsync", "cache_size", "wal_autocheckpoint", "journal_size_limit"]
            .map(|name| schema::integer(&database.connection, &format!("PRAGMA {name}")).unwrap())
    }

    #[test]
    fn durability_sets_the_pragmas() {
        assert_eq!(pragmas(Durability::Power), [2, 1, -1024, 1000, 8 << 20]);
        assert_eq!(pragmas(Durability::Process), [1, 0, -1024, 1000, 8 << 20]);
    }

    #[test]
    fn a_large_journal_is_examined_whole_only_after_an_unclean_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(DATABASE_FILE);
        let database = fs::File::create(&path).unwrap();
        database.set_len(CHECK_WHOLE_BYTES_MAX).unwrap();
        assert_eq!(check_at_start(dir.path()), Check::Whole);
        database.set_len(CHECK_WHOLE_BYTES_MAX + 1).unwrap();
        assert_eq!(check_at_start(dir.path()), Check::Small);
        fs::write(with_suffix(&path, "-wal"), "").unwrap();
        assert_eq!(check_at_start(dir.path()), Check::Small);
        fs::write(with_suffix(&path, "-wal"), "x").unwrap();
        assert_eq!(check_at_start(dir.path()), Check::Whole);
    }
}
