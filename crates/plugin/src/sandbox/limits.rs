//! Resource limits (getrlimit(2)).

use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};

/// How many processes and threads a worker may add to those its user has when it starts. The kernel counts by
/// user, so a fixed number would let one plugin, or a desktop user's browser, keep others from starting.
const TASKS_MORE: u64 = 64;

const OPEN_FILES: u64 = 256;

/// The most a file may have that it writes, in bytes: a disk is not filled by one mistake.
const FILE_BYTES: u64 = 1024 * 1024 * 1024;

/// Limits the calling process, which is to become `uid`'s, and its children. `data_bytes` is `RLIMIT_DATA`: `RLIMIT_AS` would count what an
/// interpreter reserves and never touches, and Node.js aborts under one of 512 MB.
pub(super) fn set(data_bytes: u64, uid: u32) -> Result<(), Errno> {
    let limits = [
        (Resource::RLIMIT_DATA, data_bytes),
        (Resource::RLIMIT_NPROC, tasks(uid) + TASKS_MORE),
        (Resource::RLIMIT_NOFILE, OPEN_FILES),
        (Resource::RLIMIT_FSIZE, FILE_BYTES),
        (Resource::RLIMIT_CORE, 0),
    ];
    limits.into_iter().try_for_each(|(resource, limit)| setrlimit(resource, limit, limit))
}

/// The processes and threads of a user; where `/proc` cannot be read, none.
fn tasks(uid: u32) -> u64 {
    let Ok(processes) = fs::read_dir("/proc") else { return 0 };
    let is_process = |process: &fs::DirEntry| process.file_name().as_encoded_bytes()[0].is_ascii_digit();
    let is_users = |process: &fs::DirEntry| process.metadata().is_ok_and(|metadata| metadata.uid() == uid);
    let tasks = |process: fs::DirEntry| fs::read_dir(process.path().join("task")).map_or(1, Iterator::count);
    processes.flatten().filter(|process| is_process(process) && is_users(process)).map(tasks).sum::<usize>()
        as u64
}
