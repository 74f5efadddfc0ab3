//! The process between a loader and a plugin. When the loader is gone, however it ended, it kills the plugin's process
//! group; and it ends as the plugin does. The kernel alone would only end the plugin with its parent: what the plugin
//! started does not inherit that (PR_SET_PDEATHSIG(2const)).
//!
//! It leads the process group and is outside of the sandbox, so that nothing in there can signal it.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, killpg, raise, signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{
    ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, getpgid, getpgrp, getpid, getppid, setpgid,
};

use super::SandboxFault;
use crate::pidfd;

/// Forks, and returns in the child, which is to become the plugin, with the guard's process. The calling process may
/// have one thread only.
#[expect(unsafe_code, reason = "fork")]
pub(super) fn stand(loader: i32) -> Result<Pid, SandboxFault> {
    let failed = |what| move |error: io::Error| SandboxFault::Step(what, error);
    let gone = pidfd::open(loader.unsigned_abs()).map_err(failed("watch the loader"))?;
    // Its number was its own when it was opened: it is still our parent.
    if getppid().as_raw() != loader {
        return Err(SandboxFault::LoaderGone);
    }
    let guard = getpid();
    // SAFETY: with one thread there is no lock that another one could have held at the fork.
    match unsafe { fork() }.map_err(|errno| failed("fork")(errno.into()))? {
        ForkResult::Child => Ok(guard),
        ForkResult::Parent { child } => {
            let Err(_) = watch(&gone, loader, child);
            // Without a guard nothing is to run.
            end_group();
            std::process::exit(1)
        }
    }
}

/// Ends when either of them does.
fn watch(loader_gone: &OwnedFd, loader: i32, plugin: Pid) -> io::Result<Infallible> {
    let plugin_gone = pidfd::open(plugin.as_raw().unsigned_abs())?;
    // The pipes are the plugin's alone: when it closes one, that is its end.
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    ignore_requests()?;
    loop {
        let mut ends = [loader_gone, &plugin_gone].map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
        match poll(&mut ends, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if ends[0].any().unwrap_or(true) {
            end_group();
        }
        if ends[1].any().unwrap_or(true) {
            follow(loader, plugin)?;
        }
    }
}

/// Who asks all processes of a service to end does not mean the guard before the plugin.
#[expect(unsafe_code, reason = "a handler is set")]
fn ignore_requests() -> io::Result<()> {
    for request in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // SAFETY: to ignore is no function that could do anything at a bad moment.
        unsafe { signal(request, SigHandler::SigIgn) }?;
    }
    Ok(())
}

/// Kills what the plugin left, unless the loader has to, and ends as the plugin did.
fn follow(loader: i32, plugin: Pid) -> io::Result<Infallible> {
    let group = getpgrp();
    // Zero: a group that is not in our PID namespace, and to setpgid(2) our own.
    let others = getpgid(Some(Pid::from_raw(loader))).ok().filter(|others| others.as_raw() != 0);
    // Out of the group it can kill it and go on; in another session it cannot leave.
    if others.is_some_and(|others| setpgid(getpid(), others).is_ok()) {
        let _ = killpg(group, Signal::SIGKILL);
    }
    match waitpid(plugin, None)? {
        WaitStatus::Exited(_, code) => std::process::exit(code),
        WaitStatus::Signaled(_, reason, _) => end_by(reason),
        other => Err(io::Error::other(format!("{other:?}"))),
    }
}

#[expect(unsafe_code, reason = "a handler is set")]
fn end_by(reason: Signal) -> io::Result<Infallible> {
    if reason != Signal::SIGKILL {
        // SAFETY: the default is no function that could do anything at a bad moment.
        unsafe { signal(reason, SigHandler::SigDfl) }?;
    }
    raise(reason)?;
    Err(io::Error::other("still there"))
}

/// The guard is in the group as well.
fn end_group() {
    let _ = killpg(getpgrp(), Signal::SIGKILL);
}
