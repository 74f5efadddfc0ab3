//! Whole-program tests live in `tests/`, measurements in `src/bin`; this is what both need.

pub mod guest;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{SYSFS_MAGIC, statfs};

/// Lays `/sys/bus` and `/sys/devices` of the bus the calling thread is on over those of a real sysfs, for the thread
/// and what it starts: libusb reads devices from a `/sys` that is a sysfs, and from the device nodes otherwise
/// (`op_init` in os/linux_usbfs.c). Where it is one already, nothing is done.
///
/// # Errors
/// The thread may not mount.
pub fn make_sys_a_sysfs() -> io::Result<()> {
    const NONE: Option<&str> = None;
    if statfs("/sys")?.filesystem_type() == SYSFS_MAGIC {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let covers = [("/sys/bus", File::open("/sys/bus")?), ("/sys/devices", File::open("/sys/devices")?)];
    mount(NONE, "/sys", Some("sysfs"), MsFlags::MS_RDONLY, NONE)?;
    for (path, directory) in covers {
        let source = format!("/proc/self/fd/{}", directory.as_raw_fd());
        mount(Some(source.as_str()), path, NONE, MsFlags::MS_BIND, NONE)?;
    }
    Ok(())
}
