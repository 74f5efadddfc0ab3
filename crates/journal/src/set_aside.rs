//! A database that is no journal is moved out of the way whole, and kept for a person to look at.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rusqlite::Connection;

use crate::fault;

/// What SQLite may keep beside a database. The database itself comes first: were only its log moved when the
/// machine stops, the rest would pass for an older, healthy journal.
const SUFFIXES: [&str; 4] = ["", "-journal", "-wal", "-shm"];

/// A database that was found in the journal's place and moved away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Where it is now; `-wal`, `-shm` and `-journal` beside it, where there were any.
    pub path: PathBuf,
    /// What was wrong with it.
    pub why: String,
}

/// Renames `database` and its companions to a name that was free.
pub(crate) fn set_aside(database: &Path, why: String) -> io::Result<SetAside> {
    let stem = with_suffix(database, &format!(".set-aside-{}", utc_stamp()?));
    let path = free_name(&stem)?;
    for suffix in SUFFIXES {
        let from = with_suffix(database, suffix);
        if fs::exists(&from)? {
            fs::rename(&from, with_suffix(&path, suffix))?;
        }
    }
    Ok(SetAside { path, why })
}

/// `path` with `suffix` appended to its last component, as SQLite names its companion files.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// `stem`, or `stem.2`, `stem.3` and so on: none of the files of that name exists. The lock keeps it so.
fn free_name(stem: &Path) -> io::Result<PathBuf> {
    for number in 1..=1000 {
        let path = if number == 1 { stem.to_owned() } else { with_suffix(stem, &format!(".{number}")) };
        let mut taken = false;
        for suffix in SUFFIXES {
            taken |= fs::symlink_metadata(with_suffix(&path, suffix)).is_ok();
        }
        if !taken {
            return Ok(path);
        }
    }
    Err(io::Error::other(format!("{} and 999 names like it are taken", stem.display())))
}

/// `20261123T043107Z`. SQLite knows the calendar, so nothing else need be linked for it.
fn utc_stamp() -> io::Result<String> {
    Connection::open_in_memory()
        .and_then(|memory| memory.query_row("SELECT strftime('%Y%m%dT%H%M%SZ', 'now')", [], |row| row.get(0)))
        .map_err(fault::io_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_is_utc_and_sorts() {
        let stamp = utc_stamp().unwrap();
        assert_eq!(stamp.len(), 16);
        assert!(stamp.ends_with('Z') && stamp.as_bytes()[8] == b'T', "{stamp}");
    }

    #[test]
    fn a_taken_name_is_passed_over_even_if_only_its_log_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let stem = dir.path().join("journal.db.set-aside-X");
        fs::write(with_suffix(&stem, "-wal"), "kept").unwrap();
        fs::write(with_suffix(&stem, ".2"), "kept").unwrap();
        assert_eq!(free_name(&stem).unwrap(), with_suffix(&stem, ".3"));
    }
}
