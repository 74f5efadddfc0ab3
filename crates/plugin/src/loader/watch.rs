//! Notices changes in the plugin directory (inotify(7)).

use std::fs;
use std::io::PipeReader;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// After the last change, before a package is looked at: one that is being copied is not read half.
const QUIET: Duration = Duration::from_millis(500);

/// The longest wait for quiet.
const RESTLESS_MAX: Duration = Duration::from_secs(10);

/// Between looks without a change: finds what is not told, on network file systems or beyond the limits.
const SLOW: Duration = Duration::from_secs(30);

/// Directories below the plugin directory that are watched.
const WATCHES_MAX: usize = 1024;

/// Watches a directory and those below it.
pub(super) struct Watch {
    /// None where the system has no more of them; then only the slow look finds changes.
    inotify: Option<Inotify>,
    stop: PipeReader,
}

/// Why [`Watch::wait`] came back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Woken {
    /// Something may have changed.
    Look,
    /// The other end of the stop pipe was closed.
    Stop,
}

impl Watch {
    /// `stop` ends the waits when its other end is closed.
    pub(super) fn new(stop: PipeReader) -> Self {
        Self { inotify: Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok(), stop }
    }

    /// Also watches the directories that have come since the last call. A change between this and the look that
    /// follows is told once more.
    pub(super) fn cover(&self, directory: &Path) {
        let mut left = WATCHES_MAX;
        if let Some(inotify) = &self.inotify {
            add(inotify, directory, &mut left);
        }
    }

    /// Waits for a change, and then for quiet.
    pub(super) fn wait(&self) -> Woken {
        let mut changed: Option<Instant> = None;
        loop {
            let timeout = match changed {
                None => SLOW,
                Some(since) if since.elapsed() >= RESTLESS_MAX => return Woken::Look,
                Some(_) => QUIET,
            };
            let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
            let mut fds = vec![PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
            fds.extend(self.inotify.iter().map(|inotify| PollFd::new(inotify.as_fd(), PollFlags::POLLIN)));
            // An interrupted wait is no quiet; whatever else fails, the next look is due.
            match poll(&mut fds, timeout) {
                Ok(0) => return Woken::Look,
                Ok(_) if fds[0].any() == Some(true) => return Woken::Stop,
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => return Woken::Look,
            }
            changed.get_or_insert_with(Instant::now);
            // What it says does not matter: the directory is looked through.
            while self
                .inotify
                .as_ref()
                .is_some_and(|inotify| inotify.read_events().is_ok_and(|all| !all.is_empty()))
            {}
        }
    }
}

fn add(inotify: &Inotify, directory: &Path, left: &mut usize) {
    let flags = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_ONLYDIR
        | AddWatchFlags::IN_DONT_FOLLOW;
    if *left == 0 || inotify.add_watch(directory, flags).is_err() {
        return;
    }
    *left -= 1;
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            add(inotify, &entry.path(), left);
        }
    }
}
