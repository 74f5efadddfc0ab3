//! Where the journal is kept, and where the daemon can be spoken to while it runs.

use std::fs::DirBuilder;
use std::path::{Path, PathBuf};
use std::{env, io};

use crate::exit::Failure;
use crate::places::System;
use crate::system;

/// The directory that was asked for, else systemd's, else the usual one of this system.
pub fn find(asked: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(asked) = asked {
        return Ok(asked.to_owned());
    }
    // systemd gives a list separated by colons; ours is the first (systemd.exec(5), RuntimeDirectory=).
    if let Some(first) = env::var_os("STATE_DIRECTORY").as_deref().and_then(first_of_list) {
        return Ok(first);
    }
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    System::HERE.state_directory(system::is_privileged(), variable).ok_or_else(|| {
        let why = System::HERE.state_variables();
        Failure::state(format!("no state directory: {why}; name one with --state-dir"))
    })
}

/// The directory of `notify.sock`: systemd's, else the usual one for root or for a user. None where a user has none,
/// and on systems without udev.
pub fn runtime() -> Option<PathBuf> {
    if let Some(first) = env::var_os("RUNTIME_DIRECTORY").as_deref().and_then(first_of_list) {
        return Some(first);
    }
    if System::HERE != System::Linux {
        return None;
    }
    if system::is_privileged() {
        return Some(PathBuf::from("/run/autoweave-usb"));
    }
    let session = env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty())?;
    Some(PathBuf::from(session).join("autoweave-usb"))
}

/// [`runtime`], made where it is missing.
///
/// # Errors
/// It cannot be made.
pub fn make_runtime() -> Result<Option<PathBuf>, Failure> {
    let Some(directory) = runtime() else { return Ok(None) };
    // Root's is everybody's to look into; the socket has a mode of its own.
    #[cfg_attr(not(unix), expect(unused_mut, reason = "the mode is Unix's"))]
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, if system::is_privileged() { 0o755 } else { 0o750 });
    match builder.create(&directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Failure::unavailable(format!("{}: {error}", directory.display())))
        }
        _ => Ok(Some(directory)),
    }
}

/// systemd's directory for what can be made again.
#[cfg(target_os = "linux")]
pub fn cache() -> Option<PathBuf> {
    env::var_os("CACHE_DIRECTORY").as_deref().and_then(first_of_list)
}

fn first_of_list(list: &std::ffi::OsStr) -> Option<PathBuf> {
    env::split_paths(list).next().filter(|first| !first.as_os_str().is_empty())
}
