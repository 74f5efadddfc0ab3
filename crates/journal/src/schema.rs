//! The persisted format: see the crate's documentation, which is its specification.

use rusqlite::Connection;

/// Persisted. The four letters `AWUS`.
pub(crate) const APPLICATION_ID: i64 = 0x4157_5553;
/// Persisted. The format version this program writes, and the newest it reads.
pub(crate) const VERSION: i64 = 1;

/// Persisted. Name of the database in the state directory.
pub(crate) const DATABASE_FILE: &str = "journal.db";
/// Persisted. Name of the lock file in the state directory.
pub(crate) const LOCK_FILE: &str = "journal.lock";

/// Persisted. Key in `meta` of the producer id.
pub(crate) const KEY_PRODUCER: &str = "producer";
/// Persisted. Key in `meta` of the highest sequence number ever committed.
pub(crate) const KEY_LAST_SEQ: &str = "last_seq";

/// Far beyond what a journal reaches, and small enough that adding a batch stays within SQLite's integers.
const SEQ_MAX: u64 = 1 << 62;

const CREATE: &str = "
    CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE events(seq INTEGER PRIMARY KEY, event_id TEXT NOT NULL, event TEXT NOT NULL);
    CREATE TABLE devices(port TEXT PRIMARY KEY, device TEXT NOT NULL) WITHOUT ROWID;
    INSERT INTO meta VALUES ('last_seq', '0'), ('producer', lower(hex(randomblob(16))));";

/// What a database file is.
#[derive(Debug, PartialEq)]
pub(crate) enum Identity {
    /// A database without content: just created.
    Empty,
    Current,
    /// A journal of a later version of this program.
    TooNew(i64),
    /// Something else; the text completes "it ...".
    Foreign(String),
}

/// The journal's own rows of `meta`.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) producer: String,
    pub(crate) last_seq: u64,
}

/// How much of the database to examine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Check {
    /// The tables that a start reads whole: a few milliseconds at any size.
    Small,
    /// Every page.
    Whole,
}

/// Says what `connection` is open on, without changing it.
pub(crate) fn identify(connection: &Connection) -> rusqlite::Result<Identity> {
    // One snapshot: a journal being created beside a reader is either not there or complete.
    let snapshot = connection.unchecked_transaction()?;
    let application_id = integer(&snapshot, "PRAGMA application_id")?;
    let version = integer(&snapshot, "PRAGMA user_version")?;
    let objects = integer(&snapshot, "SELECT count(*) FROM sqlite_schema")?;
    let tables = integer(
        &snapshot,
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('meta', 'events', 'devices')",
    )?;
    Ok(match application_id {
        0 if objects == 0 => Identity::Empty,
        APPLICATION_ID if version > VERSION => Identity::TooNew(version),
        APPLICATION_ID if version < VERSION || tables < 3 => {
            Identity::Foreign("is an incomplete journal: tables or its version are missing".to_owned())
        }
        APPLICATION_ID => Identity::Current,
        _ => Identity::Foreign(format!(
            "is a database of another program (application_id {application_id:#x}, a journal has {APPLICATION_ID:#x})"
        )),
    })
}

/// Makes tables, marks and a producer id in an empty database, in one transaction.
pub(crate) fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(CREATE)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// The first fault SQLite finds in the structure of the database, if any.
pub(crate) fn fault(connection: &Connection, check: Check) -> rusqlite::Result<Option<String>> {
    let statements: &[&str] = match check {
        Check::Small => &["PRAGMA quick_check('meta')", "PRAGMA quick_check('devices')"],
        Check::Whole => &["PRAGMA quick_check(1)"],
    };
    for statement in statements {
        let answer: String = connection.query_row(statement, [], |row| row.get(0))?;
        if answer != "ok" {
            return Ok(Some(answer));
        }
    }
    Ok(None)
}

/// Reads the journal's own rows; `None` when they are missing, unreadable or behind the events.
pub(crate) fn head(connection: &Connection) -> rusqlite::Result<Option<Head>> {
    let producer = meta(connection, KEY_PRODUCER)?;
    let last_seq = meta(connection, KEY_LAST_SEQ)?.and_then(|text| text.parse::<u64>().ok());
    let newest = integer(connection, "SELECT coalesce(max(seq), 0) FROM events")?;
    Ok(match (producer, last_seq) {
        (Some(producer), Some(last_seq)) if last_seq < SEQ_MAX && newest <= to_sql(last_seq) => {
            Some(Head { producer, last_seq })
        }
        _ => None,
    })
}

/// The value of `key` in `meta`.
pub(crate) fn meta(connection: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    let mut statement = connection.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
    let mut rows = statement.query([key])?;
    rows.next()?.map(|row| row.get(0)).transpose()
}

/// All rows of `devices`, by port.
pub(crate) fn devices(connection: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
    let mut statement = connection.prepare_cached("SELECT port, device FROM devices ORDER BY port")?;
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// The oldest sequence number that is kept.
pub(crate) fn first_seq(connection: &Connection) -> rusqlite::Result<Option<u64>> {
    let oldest: Option<i64> =
        connection.prepare_cached("SELECT min(seq) FROM events")?.query_row([], |row| row.get(0))?;
    Ok(oldest.map(from_sql))
}

/// Stored sequence numbers start at 1; a negative one can only have been put there by hand.
pub(crate) fn from_sql(seq: i64) -> u64 {
    u64::try_from(seq).unwrap_or(0)
}

/// A sequence number as SQLite stores it; what is too large for it is also larger than every stored one.
pub(crate) fn to_sql(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

pub(crate) fn integer(connection: &Connection, statement: &str) -> rusqlite::Result<i64> {
    connection.query_row(statement, [], |row| row.get(0))
}
