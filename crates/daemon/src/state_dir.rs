//! Where the journal is kept.

use std::env;
use std::path::{Path, PathBuf};

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

fn first_of_list(list: &std::ffi::OsStr) -> Option<PathBuf> {
    env::split_paths(list).next().filter(|first| !first.as_os_str().is_empty())
}
