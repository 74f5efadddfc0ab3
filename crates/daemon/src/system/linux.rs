#![cfg_attr(target_env = "gnu", expect(unsafe_code, reason = "a call of the C library"))]

use std::{fs, io};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What this boot of the machine is called.
///
/// # Errors
/// There is no `/proc`.
pub fn boot_id() -> io::Result<String> {
    let id = fs::read_to_string(BOOT_ID)
        .map_err(|error| io::Error::new(error.kind(), format!("{BOOT_ID} cannot be read: {error}")))?;
    Ok(id.trim().to_owned())
}

/// Returns freed memory to the system. glibc keeps it otherwise, in an arena for each thread (mallopt(3)).
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) only touches memory that nobody has, and may be called by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
