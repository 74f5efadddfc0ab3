//! One writer per state directory: an exclusive lock on a file of its own.
//!
//! Not on `journal.db`: closing any descriptor of that file would drop the POSIX locks SQLite holds on it in
//! this process.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{process, thread};

/// How long a lock that is held is waited for. The kernel frees that of a killed process in milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The lock; it ends with the process or with this value, however either ends.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

/// Why there is no lock.
pub(crate) enum LockError {
    /// Another writer has it; its process id, where it could be read.
    Held(Option<u32>),
    Io(io::Error),
}

impl From<io::Error> for LockError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Lock {
    /// Takes the lock on `path`; one that is held is waited for a moment, because a process that was killed may still
    /// be ending.
    pub(crate) fn take(path: &Path) -> Result<Self, LockError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
        let mut file = options.open(path)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(LOOK_AGAIN),
                Err(TryLockError::WouldBlock) => return Err(LockError::Held(read_pid(path))),
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
        }
        // Over the old text and then to length: a full disk has room for what it already holds.
        let text = format!("{}\n", process::id());
        file.seek(SeekFrom::Start(0))?;
        file.write_all(text.as_bytes())?;
        file.set_len(text.len() as u64)?;
        Ok(Self { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone would leave it to a process that another thread is just starting and that has the file
        // open until it has become another program. If it fails, closing is what is left.
        let _ = self.file.unlock();
    }
}

fn read_pid(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.lines().next()?.trim().parse().ok()
}
