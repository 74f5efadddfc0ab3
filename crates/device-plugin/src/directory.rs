//! The directory that the kubelet shares with plugins, watched: a kubelet that starts empties it and makes its socket
//! anew.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

use crate::Error;
use crate::api::KUBELET_SOCKET;

/// The watched directory.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    inotify: Inotify,
    /// The same file, for waiting.
    readable: AsyncFd<OwnedFd>,
}

impl Directory {
    /// Watches `path` from now on.
    ///
    /// # Errors
    /// It is no directory, or may not be read.
    pub fn watch(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Directory { path: path.to_owned(), source };
        let watch = || {
            let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
            let flags = AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_MOVED_TO
                | AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_MOVED_FROM
                | AddWatchFlags::IN_DELETE_SELF
                | AddWatchFlags::IN_MOVE_SELF
                | AddWatchFlags::IN_ONLYDIR;
            inotify.add_watch(path, flags)?;
            let readable = register(inotify.as_fd().try_clone_to_owned()?)?;
            io::Result::Ok(Self { path: path.to_owned(), inotify, readable })
        };
        watch().map_err(failed)
    }

    /// The path of `name` in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where the kubelet listens.
    pub fn kubelet(&self) -> PathBuf {
        self.join(KUBELET_SOCKET)
    }

    /// Waits for something to happen, which [`Self::take_new_kubelet`] then has to take.
    pub async fn readable(&self) -> io::Result<()> {
        // Cleared before it is read to its end: what comes meanwhile sets it again.
        self.readable.readable().await?.clear_ready();
        Ok(())
    }

    /// Whether the kubelet's socket was made anew, or may have been, since this was last asked; does not wait.
    ///
    /// # Errors
    /// The directory is gone.
    pub fn take_new_kubelet(&self) -> Result<bool, Error> {
        let mut is_new = false;
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => continue,
                Err(errno) => {
                    return Err(Error::Directory { path: self.path.clone(), source: errno.into() });
                }
            };
            for event in events {
                let gone = AddWatchFlags::IN_DELETE_SELF
                    | AddWatchFlags::IN_MOVE_SELF
                    | AddWatchFlags::IN_UNMOUNT
                    | AddWatchFlags::IN_IGNORED;
                if event.mask.intersects(gone) {
                    return Err(Error::DirectoryGone(self.path.clone()));
                }
                let has_come = event.mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO);
                let is_kubelets = event.name.as_deref() == Some(OsStr::new(KUBELET_SOCKET));
                let may_be = event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                is_new |= (has_come && is_kubelets) || may_be;
            }
        }
        Ok(is_new)
    }
}

#[expect(unsafe_code, reason = "tokio has no safe way to wait for a file of a kind it does not know")]
fn register(file: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is the same open file until it is dropped, which the `AsyncFd` that owns it does last.
    let registered = unsafe { AsyncFd::register(file) };
    Ok(registered?)
}
