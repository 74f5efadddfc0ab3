//! SQLite's errors as [`io::Error`]s, so that callers see what the disk said and not which library said it.

use std::io::{self, ErrorKind};

use rusqlite::{ErrorCode, ffi};

/// The same failure with the nearest [`ErrorKind`]; damage is `InvalidData`, a full disk `StorageFull`.
pub(crate) fn io_error(error: rusqlite::Error) -> io::Error {
    io::Error::new(kind(&error), error)
}

/// Whether the file, not the disk or the machine, is at fault.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    kind(error) == ErrorKind::InvalidData
}

fn kind(error: &rusqlite::Error) -> ErrorKind {
    // The index file cannot grow: SQLite reports it as an I/O error, though the disk is what is full.
    if error.sqlite_extended_error_code() == Some(ffi::SQLITE_IOERR_SHMSIZE) {
        return ErrorKind::StorageFull;
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => ErrorKind::StorageFull,
        Some(ErrorCode::ReadOnly) => ErrorKind::ReadOnlyFilesystem,
        Some(ErrorCode::PermissionDenied) => ErrorKind::PermissionDenied,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ErrorKind::InvalidData,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ErrorKind::ResourceBusy,
        _ => ErrorKind::Other,
    }
}
