//! Where packages are copied to before they run: a directory that the plugins' user can reach, and only we write.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::exit::Failure;
use crate::{state_dir, system};

const PREFIX: &str = "plugins-";

/// Held as long as somebody runs what is in the directory beside it.
const LOCK: &str = "lock";

/// A directory for copies; dropped, it goes.
pub struct Copies {
    directory: TempDir,
    _lock: File,
}

impl Copies {
    /// Makes one, and removes those that crashed daemons left.
    ///
    /// # Errors
    /// There is no place for it.
    pub fn make(state_dir: &Path) -> Result<Self, Failure> {
        let parent = parent(state_dir);
        Self::below(&parent).map_err(|error| {
            Failure::state(format!("{}: plugins cannot be copied there: {error}", parent.display()))
        })
    }

    fn below(parent: &Path) -> io::Result<Self> {
        fs::create_dir_all(parent)?;
        if system::is_privileged() {
            // Nobody has to get through; what is in it is no secret.
            fs::set_permissions(parent, fs::Permissions::from_mode(0o755))?;
        }
        // One daemon at a time: one that is made and not locked yet would be taken for one that was left.
        let turn = File::open(parent)?;
        turn.lock()?;
        remove_left(parent);
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        let lock = File::create(directory.path().join(LOCK))?;
        lock.lock()?;
        Ok(Self { directory, _lock: lock })
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("packages")
    }
}

/// Where they are made. Root's state directory is closed to the plugins' user.
pub fn parent(state_dir: &Path) -> PathBuf {
    match (state_dir::cache(), system::is_privileged()) {
        (Some(cache), _) => cache,
        (None, true) => PathBuf::from("/var/cache/autoweave-usb"),
        (None, false) => state_dir.to_owned(),
    }
}

fn remove_left(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
        let path = entry.path();
        // One that a daemon left before it made the lock stays; it is empty.
        let Some(lock) = File::open(path.join(LOCK)).ok().filter(|_| is_ours) else { continue };
        if !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            // What cannot be removed now can be at the next start.
            let _ = fs::remove_dir_all(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemons_that_start_together_leave_each_others_copies_alone() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join("plugins-left");
        fs::create_dir(&left).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let copies = Copies::below(parent.path()).unwrap();
                        fs::create_dir(copies.path()).unwrap();
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
