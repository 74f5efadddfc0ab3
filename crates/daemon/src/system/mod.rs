//! What every operating system tells in its own way: the machine's name and boot, and what this process may do.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
pub use linux::{boot_id, give_back_memory};
#[cfg(target_os = "macos")]
pub use macos::{boot_id, give_back_memory};
#[cfg(unix)]
pub use unix::{allow_open_files, host_name, is_privileged};
#[cfg(windows)]
pub use windows::{allow_open_files, boot_id, give_back_memory, host_name, is_privileged};
