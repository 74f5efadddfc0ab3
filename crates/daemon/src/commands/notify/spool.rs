//! The spool: notices that wait as files for a daemon. Their format and names are `autoweave_usb_source::Notice`'s.
//!
//! The helper runs as root in a directory that the daemon's user may change. So every name is looked up below an open
//! directory, and no symbolic link is followed from there. What root makes is given to the directory's owner: the
//! daemon reads it and takes it away. What was there before is not, and a hard link is left alone.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process;
use std::time::Duration;

use autoweave_usb_source::{Notice, SPOOL_DIRECTORY, SPOOL_FILES_MAX, SPOOL_OVERFLOW, SPOOL_OVERFLOW_MAX};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, geteuid, unlinkat};

const DIRECTORY_MODE: u32 = 0o750;

const FILE_MODE: u32 = 0o640;

/// Not to wait for the other end, should somebody have put a pipe in a file's place.
const APPEND: OFlag = OFlag::O_WRONLY
    .union(OFlag::O_APPEND)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_CLOEXEC);

/// What became of a notice.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the spool, whole.
    Written,
    /// The spool is full. That was counted.
    Refused,
}

/// Adds a notice at `now`, the time since the Unix epoch. Makes the directories that are missing.
///
/// # Errors
/// A directory cannot be made or the file not be written; then nothing is left of it.
pub fn write(state: &Path, notice: &Notice, now: Duration) -> io::Result<Outcome> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(state)?;
    let spool = open_spool(state)?;
    if is_full(&spool)? {
        count_refused(&spool)?;
        return Ok(Outcome::Refused);
    }
    let name = notice.file_name(now.as_nanos(), process::id());
    let unfinished = format!(".{name}");
    let written = write_new(&spool, &unfinished, &notice.format())
        .and_then(|()| Ok(renameat(&spool, unfinished.as_str(), &spool, name.as_str())?));
    if written.is_err() {
        // If it cannot be taken away either, the error says why.
        let _ = unlinkat(&spool, unfinished.as_str(), UnlinkatFlags::NoRemoveDir);
    }
    written.map(|()| Outcome::Written)
}

fn open_spool(state: &Path) -> io::Result<OwnedFd> {
    let directory = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let state = open(state, directory, Mode::empty())?;
    let made = match mkdirat(&state, SPOOL_DIRECTORY, Mode::from_bits_truncate(DIRECTORY_MODE)) {
        Ok(()) => true,
        Err(Errno::EEXIST) => false,
        Err(error) => return Err(error.into()),
    };
    let spool = openat(&state, SPOOL_DIRECTORY, directory | OFlag::O_NOFOLLOW, Mode::empty())?;
    if made {
        give_to_owner(&spool, &state)?;
    }
    Ok(spool)
}

fn is_full(spool: &OwnedFd) -> io::Result<bool> {
    let mut entries = Dir::from_fd(spool.try_clone()?)?;
    let mut files = 0;
    for entry in entries.iter() {
        let entry = entry?;
        let is_notice =
            ![&b"."[..], b"..", SPOOL_OVERFLOW.as_bytes()].contains(&entry.file_name().to_bytes());
        files += usize::from(is_notice);
        if files >= SPOOL_FILES_MAX {
            return Ok(true);
        }
    }
    Ok(false)
}

fn count_refused(spool: &OwnedFd) -> io::Result<()> {
    let mut overflow = match create(spool, SPOOL_OVERFLOW) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => reopen(spool, SPOOL_OVERFLOW)?,
        created => created?,
    };
    if overflow.metadata()?.len() < SPOOL_OVERFLOW_MAX {
        overflow.write_all(b"\n")?;
    }
    Ok(())
}

fn write_new(spool: &OwnedFd, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut file = create(spool, name)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    file.write_all(bytes)
}

fn create(spool: &OwnedFd, name: &str) -> io::Result<File> {
    let file =
        openat(spool, name, APPEND | OFlag::O_CREAT | OFlag::O_EXCL, Mode::from_bits_truncate(FILE_MODE))?;
    give_to_owner(&file, spool)?;
    Ok(file.into())
}

/// A file that a helper made before. Whoever may change the directory may have put another in its place, also one that
/// only root may write.
fn reopen(spool: &OwnedFd, name: &str) -> io::Result<File> {
    let file = File::from(openat(spool, name, APPEND, Mode::empty())?);
    let (metadata, owner) = (file.metadata()?, fstat(spool)?.st_uid);
    if metadata.is_file() && metadata.nlink() == 1 && [0, owner].contains(&metadata.uid()) {
        Ok(file)
    } else {
        Err(io::Error::other(format!("`{name}` is not what a helper made")))
    }
}

/// Only root can give away what it made, and only root has to.
fn give_to_owner(fd: impl AsFd, directory: &OwnedFd) -> io::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let owner = fstat(directory)?;
    Ok(fchown(fd, Some(Uid::from_raw(owner.st_uid)), Some(Gid::from_raw(owner.st_gid)))?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{chown, symlink};

    use autoweave_usb_source::NoticeArguments;

    use super::*;

    fn notice() -> Notice {
        let arguments = NoticeArguments { action: b"add", device: b"1-1", vendor: b"", product: b"" };
        Notice::from_udev(arguments, |_| None, 0).unwrap()
    }

    fn count(spool: &Path) -> usize {
        fs::read_dir(spool).unwrap().count()
    }

    #[test]
    fn a_full_spool_counts_what_it_refuses() {
        let state = tempfile::tempdir().unwrap();
        let spool = state.path().join(SPOOL_DIRECTORY);
        fs::create_dir(&spool).unwrap();
        for number in 1..SPOOL_FILES_MAX {
            File::create(spool.join(number.to_string())).unwrap();
        }
        let now = Duration::from_nanos(1);
        assert_eq!(write(state.path(), &notice(), now).unwrap(), Outcome::Written);
        assert_eq!(write(state.path(), &notice(), now).unwrap(), Outcome::Refused);
        assert_eq!(write(state.path(), &notice(), now).unwrap(), Outcome::Refused);
        assert_eq!(fs::read(spool.join(SPOOL_OVERFLOW)).unwrap(), b"\n\n");
        assert_eq!(count(&spool), SPOOL_FILES_MAX + 1);

        let overflow = File::options().write(true).open(spool.join(SPOOL_OVERFLOW)).unwrap();
        overflow.set_len(SPOOL_OVERFLOW_MAX).unwrap();
        assert_eq!(write(state.path(), &notice(), now).unwrap(), Outcome::Refused);
        assert_eq!(overflow.metadata().unwrap().len(), SPOOL_OVERFLOW_MAX);
    }

    #[test]
    fn a_file_that_is_linked_into_the_spool_is_neither_written_nor_given_away() {
        let state = tempfile::tempdir().unwrap();
        let spool = state.path().join(SPOOL_DIRECTORY);
        fs::create_dir(&spool).unwrap();
        if geteuid().is_root() {
            chown(&spool, Some(65534), Some(65534)).unwrap();
        }
        for number in 0..SPOOL_FILES_MAX {
            File::create(spool.join(number.to_string())).unwrap();
        }
        let victim = state.path().join("victim");
        fs::write(&victim, "secret").unwrap();
        let owner =
            |path: &Path| fs::metadata(path).map(|metadata| (metadata.uid(), metadata.gid())).unwrap();
        let before = owner(&victim);
        let overflow = spool.join(SPOOL_OVERFLOW);
        fs::hard_link(&victim, &overflow).unwrap();
        let outcome = write(state.path(), &notice(), Duration::ZERO);
        assert_eq!((owner(&victim), fs::read(&victim).unwrap()), (before, b"secret".to_vec()));
        assert!(outcome.is_err());

        fs::remove_file(&overflow).unwrap();
        assert_eq!(write(state.path(), &notice(), Duration::ZERO).unwrap(), Outcome::Refused);
        assert_eq!(owner(&overflow), owner(&spool));
        assert_eq!(write(state.path(), &notice(), Duration::ZERO).unwrap(), Outcome::Refused);
        assert_eq!(fs::read(&overflow).unwrap(), b"\n\n");
    }

    #[test]
    fn links_in_the_state_directory_are_not_followed() {
        let state = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let spool = state.path().join(SPOOL_DIRECTORY);
        symlink(elsewhere.path(), &spool).unwrap();
        assert!(write(state.path(), &notice(), Duration::ZERO).is_err());

        fs::remove_file(&spool).unwrap();
        fs::create_dir(&spool).unwrap();
        let victim = elsewhere.path().join("victim");
        symlink(&victim, spool.join(format!(".{}", notice().file_name(0, process::id())))).unwrap();
        assert!(write(state.path(), &notice(), Duration::ZERO).is_err());
        assert_eq!(count(elsewhere.path()), 0);
        assert_eq!(count(&spool), 0);
    }
}
