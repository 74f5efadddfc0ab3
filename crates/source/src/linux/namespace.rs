//! Whether the kernel tells this network namespace of devices.

#![expect(unsafe_code, reason = "an ioctl")]

use std::fs::File;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::sys::stat::fstat;

/// The inode of the initial user namespace (`PROC_USER_INIT_INO`, include/linux/proc_ns.h).
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

mod ioctl {
    // The user namespace that owns a namespace: ioctl_ns(2).
    nix::ioctl_none_bad!(ns_get_userns, nix::request_code_none!(0xb7, 0x1));
}

/// Whether it does: uevents of USB devices go to the network namespaces that the initial user namespace owns
/// (`uevent_net_init`, lib/kobject_uevent.c). In others, only a privileged process of theirs can send some. Where it cannot
/// be found out, yes.
pub fn hears_uevents() -> bool {
    owner().is_none_or(|inode| inode == INITIAL_USER_NAMESPACE)
}

/// None where the owner is above what this process may see, as the initial one is for those in others.
fn owner() -> Option<u64> {
    let namespace = File::open("/proc/self/ns/net").ok()?;
    // SAFETY: the descriptor is open, and the request takes no argument.
    let owner = unsafe { ioctl::ns_get_userns(namespace.as_raw_fd()) }.ok()?;
    // SAFETY: the kernel has just made this descriptor for the caller.
    let owner = unsafe { OwnedFd::from_raw_fd(owner) };
    fstat(&owner).ok().map(|stat| stat.st_ino)
}
