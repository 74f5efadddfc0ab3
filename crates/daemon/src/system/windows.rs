#![expect(unsafe_code, reason = "a system call that takes nothing")]

use std::{env, io};

use windows_sys::Win32::UI::Shell::IsUserAnAdmin;

/// Whether this process works for the whole machine: it is elevated, or a service of the system.
pub fn is_privileged() -> bool {
    // SAFETY: it takes nothing and touches nothing of ours.
    unsafe { IsUserAnAdmin() != 0 }
}

/// The name of this machine.
pub fn host_name() -> Option<String> {
    env::var("COMPUTERNAME").ok().filter(|name| !name.is_empty())
}

/// Windows has no name for a boot.
pub fn boot_id() -> io::Result<String> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "Windows has no name for a boot"))
}

/// Sockets have no limit of their own here.
pub fn allow_open_files(_: u64) -> Option<u64> {
    None
}

/// Windows takes freed memory back by itself.
pub fn give_back_memory() {}
