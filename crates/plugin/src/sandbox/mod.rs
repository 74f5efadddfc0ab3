//! The sandbox a worker runs in: what its process can reach at all, whatever the plugin does.
//!
//! The loader starts its own program again with a [`Spec`] as argument; that process, which has one thread and
//! nothing else to do, forks by [`exec`]: the child shuts itself in and becomes the plugin, the parent stays as its
//! `guard`. Doing the same between fork and exec
//! in the daemon would have to do without memory allocation, since its threads may hold any lock.
//!
//! From inside to outside:
//! - limits: data, processes, open files, no core dumps; the first to be killed where memory runs out; ended with its
//!   loader; no new privileges;
//! - another user and no groups or capabilities, where the loader is root;
//! - Landlock (`files`): the package and what an interpreter needs, to read; what was granted; no more. TCP ports
//!   (ABI 4, Linux 6.7), signals (ABI 6, Linux 6.12);
//! - seccomp (`calls`): sockets, and calls no plugin needs.

mod calls;
mod files;
mod guard;
mod limits;
mod refused;

use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, getppid, getuid, setgroups, setresgid, setresuid};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub(crate) use files::is_system;
pub use files::landlock_abi;

/// The most there is (`Documentation/filesystems/proc.rst` in the kernel, 3.1): a plugin is to be killed before the
/// daemon, whose limits on memory it can get around, if slowly.
const FIRST_TO_GO: &str = "1000";

/// What is run, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// What is executed: an interpreter or the entry itself. Absolute.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// The package: working directory, readable.
    pub package: PathBuf,
    /// The directory an interpreter outside of the system's directories is installed in; readable.
    pub interpreter: Option<PathBuf>,
    /// What the manifest grants.
    pub grants: Vec<Grant>,
    /// Device nodes it may open.
    pub devices: Vec<PathBuf>,
    /// TCP ports it may connect to; without any there is no network.
    pub tcp_ports: Vec<u16>,
    /// How much data each of its processes may have, in bytes.
    pub data_bytes: u64,
    /// Who it runs as; none for the same as the loader.
    pub identity: Option<Identity>,
    /// Whether to go on without Landlock where the kernel has none.
    pub without_landlock: bool,
    /// The loader's process.
    pub loader: i32,
}

/// A granted file or directory with all below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the manifest")]
pub struct Grant {
    pub path: PathBuf,
    pub read: bool,
    pub write: bool,
}

/// A user for plugins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as everywhere")]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// Why a plugin was not run.
#[derive(Debug, Error)]
pub enum SandboxFault {
    /// The argument is none that a loader gave.
    #[error("no specification of a sandbox: {0}; a loader runs this, not a person")]
    Spec(String),
    /// A part of the sandbox could not be set up.
    #[error("cannot {0}: {1}")]
    Step(&'static str, io::Error),
    /// The kernel has no Landlock, or it is switched off.
    #[error(
        "this kernel offers no Landlock: use Linux 5.13 or later with `lsm=landlock,…`, or allow the plugin by name to run without"
    )]
    NoLandlock,
    /// The loader ended in between.
    #[error("the loader is gone")]
    LoaderGone,
}

impl Identity {
    /// `nobody`, as every Linux numbers it.
    pub const NOBODY: Self = Self { uid: 65534, gid: 65534, groups: Vec::new() };

    /// Who plugins run as unless told otherwise: nobody for a loader that is root, else the loader's own user. So
    /// is root of a user namespace that has no nobody.
    pub fn default_for_loader() -> Option<Self> {
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        (getuid().is_root() && is_mapped(&map, Self::NOBODY.uid)).then_some(Self::NOBODY)
    }
}

/// Whether a user namespace with this `uid_map` (user_namespaces(7)) has the user.
fn is_mapped(map: &str, uid: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        (first..first.saturating_add(count)).contains(&u64::from(uid))
    })
}

/// Forks: the child shuts itself in as `spec`, a [`Spec`] in JSON, says, and becomes the plugin; the parent, which does not
/// return, ends with it, and ends it and all it started with the loader. Is to be called before the process starts a
/// second thread or opens a file.
///
/// # Errors
/// Why it could not; nothing of the plugin has run then, and the process should end.
pub fn exec(spec: &OsStr) -> Result<Infallible, SandboxFault> {
    let spec: Spec = serde_json::from_slice(spec.as_encoded_bytes())
        .map_err(|error| SandboxFault::Spec(error.to_string()))?;
    let step = |what| move |errno: Errno| SandboxFault::Step(what, errno.into());
    close_all()?;
    let guard = guard::stand(spec.loader)?;
    fs::write("/proc/self/oom_score_adj", FIRST_TO_GO)
        .map_err(|error| SandboxFault::Step("let it go first where memory runs out", error))?;
    let rules = files::Rules::open(&spec)?;
    let uid = spec.identity.as_ref().map_or_else(|| getuid().as_raw(), |identity| identity.uid);
    limits::set(spec.data_bytes, uid).map_err(step("set limits"))?;
    match &spec.identity {
        Some(identity) => {
            become_user(identity, &groups_of(&spec.devices)).map_err(step("become the plugins' user"))?;
        }
        None if getuid().is_root() => renounce_root().map_err(step("renounce capabilities"))?,
        None => {}
    }
    // After the change of user, which would undo it.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(step("tie it to its guard"))?;
    if getppid() != guard {
        return Err(SandboxFault::LoaderGone);
    }
    std::env::set_current_dir(&spec.package)
        .map_err(|error| SandboxFault::Step("enter the package as the plugins' user", error))?;
    prctl::set_no_new_privs().map_err(step("renounce new privileges"))?;
    rules.enforce()?;
    calls::refuse(&spec)?;
    let error = Command::new(&spec.program).args(&spec.arguments).exec();
    Err(SandboxFault::Step("execute the plugin", error))
}

/// Whatever the loader had open stays out of the plugin's hands, and the guard's.
#[expect(unsafe_code, reason = "a system call that no library has")]
fn close_all() -> Result<(), SandboxFault> {
    // SAFETY: takes three numbers; nothing in this process has opened a descriptor beyond the standard streams yet.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    match Errno::result(result) {
        Ok(_) => Ok(()),
        Err(errno) => Err(SandboxFault::Step("close what the loader had open", errno.into())),
    }
}

/// With these bits the program that is executed has no capabilities for being run by root (capabilities(7)).
#[expect(unsafe_code, reason = "a system call that no library has")]
fn renounce_root() -> Result<(), Errno> {
    const NOROOT_AND_LOCKED: libc::c_ulong = 0b11;
    // SAFETY: takes numbers and touches no memory.
    let result = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, NOROOT_AND_LOCKED, 0, 0, 0) };
    Errno::result(result).map(drop)
}

/// Drops the capabilities as well: the kernel clears them when the last user id that is root goes
/// (capabilities(7)).
fn become_user(identity: &Identity, more: &[u32]) -> Result<(), Errno> {
    let groups: Vec<Gid> = identity.groups.iter().chain(more).copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}

/// Those who may write the nodes of granted devices: for others the kernel makes them read-only (0664,
/// `drivers/usb/core/usb.c`). Only where Landlock keeps a plugin from all else that is the group's.
fn groups_of(devices: &[PathBuf]) -> Vec<u32> {
    const GROUP_WRITES: u32 = 0o020;
    let groups = devices.iter().filter_map(|node| fs::metadata(node).ok());
    let writes = |metadata: &fs::Metadata| metadata.mode() & GROUP_WRITES != 0 && landlock_abi() > 0;
    groups.filter(writes).map(|metadata| metadata.gid()).collect()
}

#[cfg(test)]
mod tests {
    use super::is_mapped;

    #[test]
    fn a_namespace_of_one_user_has_no_nobody() {
        assert!(is_mapped("         0          0 4294967295\n", 65534));
        assert!(is_mapped("0 1000 1\n1 100000 65536\n", 65534));
        for map in ["0 1000 1\n", "", "0 1000", "a b c", "18446744073709551615 0 18446744073709551615"] {
            assert!(!is_mapped(map, 65534), "{map}");
        }
    }
}
