//! The durable log: every event once, in order, and beside it the device table those events led to.
//!
//! One process writes ([`Journal`]), many read ([`Reader`]). Events and devices are opaque JSON text here.
//!
//! # Invariants
//!
//! - Events, devices and meta of one [`Commit`] are written in one transaction: all of it or nothing.
//! - Sequence numbers start at 1 and rise by one, over restarts, retention and an emptied table.
//! - After a failed write the journal is closed until [`Journal::reopen`]; the same commit may then be tried
//!   again, whether or not it had reached the disk.
//! - What cannot be read as a journal is set aside under another name and never overwritten or deleted.
//! - A journal of a newer format version is refused and left as it is.
//!
//! # Files in the state directory
//!
//! | file | what |
//! |---|---|
//! | `journal.db` | the SQLite database, mode 0640 or tighter |
//! | `journal.db-wal`, `journal.db-shm` | its write-ahead log and index; gone after a clean shutdown |
//! | `journal.lock` | held with `flock` by the writer; contains its process id as text; never removed |
//! | `journal.db.set-aside-STAMP[-wal\|-shm\|-journal]` | a damaged or foreign database, `STAMP` in UTC |
//!
//! # Format, version 1
//!
//! All numbers and names in this section are persisted: changing one needs a new `user_version`.
//!
//! | | |
//! |---|---|
//! | `application_id` | `0x41575553` |
//! | `user_version` | `1` |
//! | encoding, journal mode | UTF-8, WAL |
//!
//! - `meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID`. The journal's own keys: `producer`, 32
//!   lower-case hex digits drawn when the journal was made; `last_seq`, the highest sequence number ever
//!   committed, in decimal. All other keys belong to the caller.
//! - `events(seq INTEGER PRIMARY KEY, event_id TEXT NOT NULL, event TEXT NOT NULL)`: `event` is JSON. The oldest
//!   rows go when there are more than [`Options::max_events`]; their pages are reused, the file does not shrink.
//! - `devices(port TEXT PRIMARY KEY, device TEXT NOT NULL) WITHOUT ROWID`: what is connected now, `device` is JSON.

mod fault;
mod lock;
mod open;
mod reader;
mod schema;
mod set_aside;
mod writer;

pub use open::{Durability, OpenError, Options};
pub use reader::{ROWS_MAX, ReadError, Reader, Stored};
pub use set_aside::SetAside;
pub use writer::{Commit, CommitError, Journal, NewEvent};
