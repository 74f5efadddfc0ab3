//! The spool, as its reader sees it. Whoever may write there may have put anything there.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use crate::{Notice, SPOOL_DIRECTORY, SPOOL_FILES_MAX, SPOOL_OVERFLOW};

/// Of the directories that are made.
const DIRECTORY_MODE: u32 = 0o750;

/// Names in one look, at most. No helper leaves so many; with more, the rest waits for the next look.
const NAMES_MAX: usize = 10 * SPOOL_FILES_MAX;

/// A helper that has not finished its file for so long was killed.
const UNFINISHED: Duration = Duration::from_secs(60);

/// An open spool.
#[derive(Debug)]
pub struct Spool {
    directory: OwnedFd,
}

/// What is in a spool.
#[derive(Debug, Default)]
pub struct Listing {
    /// The names of notices, oldest first; at most [`SPOOL_FILES_MAX`], and of more the oldest.
    pub names: BTreeSet<String>,
    /// What nobody will ever want.
    pub litter: Vec<String>,
}

impl Spool {
    /// Opens the spool in the directory `state`. What is missing is made.
    ///
    /// # Errors
    /// It is no directory, or nobody's to make or read.
    pub fn open(state: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(state)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let state = open(state, flags, Mode::empty())?;
        match mkdirat(&state, SPOOL_DIRECTORY, Mode::from_bits_truncate(DIRECTORY_MODE)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self { directory: openat(&state, SPOOL_DIRECTORY, flags | OFlag::O_NOFOLLOW, Mode::empty())? })
    }

    /// Looks what is there.
    ///
    /// # Errors
    /// It cannot be listed.
    pub fn list(&self) -> io::Result<Listing> {
        let mut listing = Listing::default();
        // Opened anew: the position in a directory belongs to the open file.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut directory = Dir::from_fd(openat(&self.directory, ".", flags, Mode::empty())?)?;
        for entry in directory.iter().take(NAMES_MAX) {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else {
                // It cannot be a helper's; its bytes are not worth keeping either.
                let _ = unlinkat(&self.directory, entry.file_name(), UnlinkatFlags::NoRemoveDir);
                continue;
            };
            if is_notice(name) {
                listing.names.insert(name.to_owned());
                if listing.names.len() > SPOOL_FILES_MAX {
                    listing.names.pop_last();
                }
            } else if ![".", "..", SPOOL_OVERFLOW].contains(&name) && !self.is_unfinished(name) {
                listing.litter.push(name.to_owned());
            }
        }
        Ok(listing)
    }

    /// Reads a notice; none where there is no file of this user's or root's with one in it.
    pub fn read(&self, name: &str) -> Option<Notice> {
        // Neither following links, nor waiting for the other end of a pipe.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.directory, name, flags, Mode::empty()).ok()?);
        let stat = fstat(&file).ok()?;
        let is_owner_known = stat.st_uid == 0 || stat.st_uid == geteuid().as_raw();
        if !is_owner_known || kind(&stat) != SFlag::S_IFREG {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(Notice::BYTES_MAX as u64 + 1).read_to_end(&mut bytes).ok()?;
        Notice::parse(&bytes).ok()
    }

    /// How many notices were refused since the file that counts them was deleted.
    pub fn refused(&self) -> u64 {
        let stat = fstatat(&self.directory, SPOOL_OVERFLOW, AtFlags::AT_SYMLINK_NOFOLLOW);
        let length = stat.ok().filter(|stat| kind(stat) == SFlag::S_IFREG).map(|stat| stat.st_size);
        length.and_then(|length| u64::try_from(length).ok()).unwrap_or(0)
    }

    /// Deletes a file, a link or a pipe. A directory stays: no helper makes one.
    pub fn delete(&self, name: &str) {
        let _ = unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir);
    }

    fn is_unfinished(&self, name: &str) -> bool {
        let stat = fstatat(&self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        let changed = stat.ok().and_then(|stat| u64::try_from(stat.st_mtime).ok()).unwrap_or(0);
        let age = SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_secs(changed));
        name.starts_with('.') && age.is_ok_and(|age| age < UNFINISHED)
    }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// `ORDER-NANOSECONDS-PROCESS.json`.
fn is_notice(name: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    name.strip_suffix(".json").is_some_and(|stem| {
        let parts: Vec<&str> = stem.split('-').collect();
        parts.len() == 3 && parts.into_iter().all(is_number)
    })
}
