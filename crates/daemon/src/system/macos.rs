use std::io;
use std::process::Command;

const BOOT_ID: &str = "kern.bootsessionuuid";

/// What this boot of the machine is called, sysctl(3).
///
/// # Errors
/// sysctl(8) does not say.
pub fn boot_id() -> io::Result<String> {
    let output = Command::new("/usr/sbin/sysctl").args(["-n", BOOT_ID]).output();
    let output =
        output.map_err(|error| io::Error::new(error.kind(), format!("sysctl {BOOT_ID}: {error}")))?;
    let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if id.is_empty() { Err(io::Error::other(format!("sysctl {BOOT_ID} says nothing"))) } else { Ok(id) }
}

/// macOS takes freed memory back by itself.
pub fn give_back_memory() {}
