//! A process by a descriptor (pidfd_open(2)), which never comes to mean another process.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// Becomes readable when the process ends, whoever else holds its pipes open. Closed on exec.
#[expect(unsafe_code, reason = "a system call that no library has")]
pub(crate) fn open(process: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers and touches no memory.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) })?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Kills the process; one that is gone already stays gone.
#[expect(unsafe_code, reason = "a system call that no library has")]
pub(crate) fn kill(process: &OwnedFd) {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open as long as it is borrowed, and without a siginfo the kernel touches no memory.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), libc::SIGKILL, nothing, 0) };
}
