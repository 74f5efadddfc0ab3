//! Reading a journal that another process may be writing.
//!
//! Every method is one short read transaction (but for [`Reader::fault`]): an open one lets the write-ahead log grow
//! for as long as it lasts.

use std::io;
use std::path::{Path, PathBuf};
use std::{fs, time::SystemTime};

use rusqlite::{Connection, OpenFlags, Params};
use thiserror::Error;

use crate::fault;
use crate::open::BUSY_TIMEOUT;
use crate::schema::{self, Check, DATABASE_FILE, Identity, VERSION, to_sql};
use crate::set_aside::with_suffix;

/// The most events one call returns. A thousand of 700 bytes take about 1 ms.
pub const ROWS_MAX: usize = 1000;

/// How often a read is begun anew because the daemon started or was replaced meanwhile.
const ATTEMPTS_MAX: usize = 3;

/// A committed event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its place in the order of all events, from 1.
    pub seq: u64,
    /// Its unique name.
    pub event_id: String,
    /// JSON.
    pub event: String,
}

/// Why a journal could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// There is no journal: no daemon ever ran with this state directory.
    #[error("there is no journal at {}; has a daemon run with this state directory?", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// There is something else in its place.
    #[error("{} {why}", path.display())]
    NotAJournal {
        /// The file.
        path: PathBuf,
        /// What it is, completing "it ...".
        why: String,
    },
    /// The journal was written by a later version of this program.
    #[error("{} has format version {version}, this program knows up to {VERSION}; use the newer one", path.display())]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Its `user_version`.
        version: i64,
    },
    /// The file is damaged; a daemon that starts sets it aside.
    #[error("the journal {} is damaged; the daemon sets it aside when it finds that", path.display())]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: io::Error,
    },
    /// The file cannot be opened or read.
    #[error("the journal {} cannot be read (its owner, its group and root may)", path.display())]
    Failed {
        /// The database.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// [`crate::Journal`] only: a write failed and the journal has not been reopened.
    #[error("the journal is closed since a write failed")]
    Closed,
}

impl ReadError {
    pub(crate) fn new(path: &Path, error: rusqlite::Error) -> Self {
        let path = path.to_owned();
        let damaged = fault::is_damage(&error);
        let source = fault::io_error(error);
        if damaged { Self::Damaged { path, source } } else { Self::Failed { path, source } }
    }
}

/// A journal open for reading; creates and changes nothing, and needs no right to write.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    source: Source,
    seen: Version,
}

#[derive(Debug)]
enum Source {
    /// Through the write-ahead log, which some writer made.
    Live(Connection),
    /// No log, so no writer: each read opens the bare file as immutable, which needs no files beside it.
    Still,
}

/// Differs after a commit, and after another file took the journal's place.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Version {
    file: u64,
    content: Content,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Content {
    Live(i64),
    Still(Option<SystemTime>),
}

impl Reader {
    /// Opens the journal in the state directory `dir`, whether or not a daemon runs.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn open(dir: &Path) -> Result<Self, ReadError> {
        let path = dir.join(DATABASE_FILE);
        let source = connect(&path)?;
        let seen = version(&path, &source)?;
        Ok(Self { path, source, seen })
    }

    /// The id of the journal's producer. Another one than before means that the journal was set aside and begun
    /// anew, with sequence numbers from 1.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn producer(&mut self) -> Result<String, ReadError> {
        let producer = self.read(|connection| schema::meta(connection, schema::KEY_PRODUCER))?;
        producer.ok_or_else(|| self.incomplete())
    }

    /// The newest `count` events (at most [`ROWS_MAX`]), newest first.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn last(&mut self, count: usize) -> Result<Vec<Stored>, ReadError> {
        let statement = "SELECT seq, event_id, event FROM events ORDER BY seq DESC LIMIT ?1";
        self.read(|connection| events(connection, statement, [row_limit(count)]))
    }

    /// Up to `limit` events (at most [`ROWS_MAX`]) after `seq`, in order. `seq` itself is not among them.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn since(&mut self, seq: u64, limit: usize) -> Result<Vec<Stored>, ReadError> {
        let statement = "SELECT seq, event_id, event FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2";
        self.read(|connection| events(connection, statement, (to_sql(seq), row_limit(limit))))
    }

    /// The oldest sequence number that is kept, `None` when there are no events.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn first_seq(&mut self) -> Result<Option<u64>, ReadError> {
        self.read(schema::first_seq)
    }

    /// The highest sequence number ever committed, 0 before the first.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn last_seq(&mut self) -> Result<u64, ReadError> {
        let text = self.read(|connection| schema::meta(connection, schema::KEY_LAST_SEQ))?;
        text.and_then(|text| text.parse().ok()).ok_or_else(|| self.incomplete())
    }

    /// A value the writer committed under `key`.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn meta(&mut self, key: &str) -> Result<Option<String>, ReadError> {
        self.read(|connection| schema::meta(connection, key))
    }

    /// The first fault SQLite finds in the structure of the file, if any. The one read that is not short: 0.4 s for 1 GB
    /// in the page cache, as long as reading takes for one on the disk.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn fault(&mut self) -> Result<Option<String>, ReadError> {
        self.read(|connection| schema::fault(connection, Check::Whole))
    }

    /// The device table: JSON by port.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn devices(&mut self) -> Result<Vec<(String, String)>, ReadError> {
        self.read(schema::devices)
    }

    /// Whether anything was committed since the last call (the first: since [`Reader::open`]). Costs microseconds
    /// and reads no row, so a follower may ask often.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn changed(&mut self) -> Result<bool, ReadError> {
        self.follow_file()?;
        let now = version(&self.path, &self.source)?;
        let changed = now != self.seen;
        self.seen = now;
        Ok(changed)
    }

    /// Runs one query, on the file that has the journal's name now.
    fn read<T>(&mut self, query: impl Fn(&Connection) -> rusqlite::Result<T>) -> Result<T, ReadError> {
        let mut result = Err(ReadError::Missing { path: self.path.clone() });
        for _ in 0..ATTEMPTS_MAX {
            self.follow_file()?;
            let answer = match &self.source {
                Source::Live(connection) => query(connection),
                Source::Still => open_still(&self.path).and_then(|connection| query(&connection)),
            };
            result = answer.map_err(|error| ReadError::new(&self.path, error));
            // A daemon that started during the read may have changed the file under it.
            if matches!(self.source, Source::Live(_)) || !has_log(&self.path) {
                break;
            }
        }
        result
    }

    /// Connects anew when a daemon has started since, or the file was replaced.
    fn follow_file(&mut self) -> Result<(), ReadError> {
        let started = matches!(self.source, Source::Still) && has_log(&self.path);
        if started || file_identity(&self.path)? != self.seen.file {
            self.source = connect(&self.path)?;
            // Not `content`: to `changed` this is a change.
            self.seen.file = file_identity(&self.path)?;
            self.seen.content = Content::Still(None);
        }
        Ok(())
    }

    fn incomplete(&self) -> ReadError {
        ReadError::NotAJournal { path: self.path.clone(), why: "is an incomplete journal".to_owned() }
    }
}

fn connect(path: &Path) -> Result<Source, ReadError> {
    metadata(path)?;
    let live = has_log(path);
    let opened = if live { open_live(path) } else { open_still(path) };
    let identified = opened.and_then(|connection| Ok((schema::identify(&connection)?, connection)));
    let path = path.to_owned();
    match identified {
        Ok((Identity::Current, connection)) if live => Ok(Source::Live(connection)),
        Ok((Identity::Current, _)) => Ok(Source::Still),
        Ok((Identity::Empty, _)) => Err(ReadError::Missing { path }),
        Ok((Identity::TooNew(version), _)) => Err(ReadError::TooNew { path, version }),
        Ok((Identity::Foreign(why), _)) => Err(ReadError::NotAJournal { path, why }),
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase) => {
            Err(ReadError::NotAJournal { path, why: "is no SQLite database".to_owned() })
        }
        Err(error) => Err(ReadError::new(&path, error)),
    }
}

fn has_log(path: &Path) -> bool {
    fs::exists(with_suffix(path, "-wal")).unwrap_or(false)
}

fn open_live(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    limited(Connection::open_with_flags(path, flags)?)
}

fn open_still(path: &Path) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    limited(Connection::open_with_flags(immutable_uri(path), flags)?)
}

fn limited(connection: Connection) -> rusqlite::Result<Connection> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "cache_size", -512)?;
    Ok(connection)
}

/// SQLite's own form of file name with options, <https://www.sqlite.org/uri.html>.
fn immutable_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                uri.push(char::from(*byte));
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri.push_str("?immutable=1");
    uri
}

fn events(connection: &Connection, statement: &str, params: impl Params) -> rusqlite::Result<Vec<Stored>> {
    let mut statement = connection.prepare_cached(statement)?;
    let rows = statement.query_map(params, |row| {
        Ok(Stored { seq: schema::from_sql(row.get(0)?), event_id: row.get(1)?, event: row.get(2)? })
    })?;
    rows.collect()
}

fn row_limit(count: usize) -> i64 {
    to_sql(count.min(ROWS_MAX) as u64)
}

fn version(path: &Path, source: &Source) -> Result<Version, ReadError> {
    let content = match source {
        Source::Live(connection) => Content::Live(
            schema::integer(connection, "PRAGMA data_version")
                .map_err(|error| ReadError::new(path, error))?,
        ),
        Source::Still => Content::Still(metadata(path)?.modified().ok()),
    };
    Ok(Version { file: file_identity(path)?, content })
}

#[cfg(unix)]
fn file_identity(path: &Path) -> Result<u64, ReadError> {
    Ok(std::os::unix::fs::MetadataExt::ino(&metadata(path)?))
}

/// Elsewhere a file that is open for reading cannot be renamed, so it is never replaced.
#[cfg(not(unix))]
fn file_identity(path: &Path) -> Result<u64, ReadError> {
    metadata(path).map(|_| 0)
}

fn metadata(path: &Path) -> Result<fs::Metadata, ReadError> {
    fs::metadata(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ReadError::Missing { path: path.to_owned() },
        _ => ReadError::Failed { path: path.to_owned(), source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_paths_survive_the_uri() {
        let uri = immutable_uri(Path::new("/a b/100%?#é/journal.db"));
        assert_eq!(uri, "file:/a%20b/100%25%3F%23%C3%A9/journal.db?immutable=1");
    }
}
