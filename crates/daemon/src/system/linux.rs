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
