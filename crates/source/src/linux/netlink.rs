//! The kernel's uevent socket: `lib/kobject_uevent.c`, `net/netlink/af_netlink.c`, netlink(7).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, setsockopt, socket,
    sockopt,
};

/// What the kernel itself sends, at once; group 2 is udevd's repetition after its rules have run.
const KERNEL_GROUP: u32 = 1;

/// An open, bound, non-blocking uevent socket.
#[derive(Debug)]
pub struct UeventSocket {
    fd: OwnedFd,
}

impl UeventSocket {
    /// Opens the socket and asks for a receive buffer of `buffer_bytes`. Needs no privileges.
    ///
    /// # Errors
    /// The kernel has no such socket, or the process may have no more files.
    pub fn open(buffer_bytes: usize) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let kind = SockProtocol::NetlinkKObjectUEvent;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, kind)?;
        setsockopt(&fd, sockopt::PassCred, &true)?;
        ask_for_buffer(&fd, buffer_bytes)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
        Ok(Self { fd })
    }

    /// Goes on with a socket that somebody else opened and bound. `None`: it is no uevent socket of the kernel's group.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn adopt(fd: OwnedFd, buffer_bytes: usize) -> io::Result<Option<Self>> {
        let adopted = Self { fd };
        let address = getsockname::<NetlinkAddr>(adopted.fd.as_raw_fd());
        let has_group = address.is_ok_and(|address| address.groups() & KERNEL_GROUP != 0);
        if !has_group || protocol(&adopted.fd) != Some(libc::NETLINK_KOBJECT_UEVENT) {
            return Ok(None);
        }
        fcntl(&adopted.fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        fcntl(&adopted.fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        setsockopt(&adopted.fd, sockopt::PassCred, &true)?;
        // Whoever opened it may have been allowed more than this process is.
        if adopted.buffer_bytes()? < buffer_bytes {
            let _ = setsockopt(&adopted.fd, sockopt::RcvBufForce, &buffer_bytes);
        }
        Ok(Some(adopted))
    }

    /// The receive buffer the kernel granted, in bytes as it counts them: twice what was asked for, of which a
    /// USB uevent takes about 830.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn buffer_bytes(&self) -> io::Result<usize> {
        Ok(nix::sys::socket::getsockopt(&self.fd, sockopt::RcvBuf)?)
    }

    /// The socket's inode, by which [`drops`] knows it.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(nix::sys::stat::fstat(&self.fd)?.st_ino)
    }
}

/// Over `net.core.rmem_max` only with CAP_NET_ADMIN in the initial user namespace.
fn ask_for_buffer(fd: &OwnedFd, bytes: usize) -> io::Result<()> {
    setsockopt(fd, sockopt::RcvBufForce, &bytes).or_else(|_| setsockopt(fd, sockopt::RcvBuf, &bytes))?;
    Ok(())
}

/// The protocol of a socket (`SO_PROTOCOL`, socket(7)); `None` for what is no socket.
#[expect(unsafe_code, reason = "a socket option that the nix crate does not have")]
fn protocol(fd: &OwnedFd) -> Option<libc::c_int> {
    let mut protocol: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of_val(&protocol)).ok()?;
    // SAFETY: both pointers are to variables that live as long as the call, and `length` is the size of the first.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PROTOCOL,
            (&raw mut protocol).cast(),
            &raw mut length,
        )
    };
    (result == 0).then_some(protocol)
}

/// How many messages the kernel has dropped on a socket (`/proc/net/netlink`, column `Drops`).
pub fn drops(inode: u64) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/thread-self/net/netlink").ok()?;
    // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
    let columns = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    columns
        .filter(|columns| columns.get(9).and_then(|column| column.parse().ok()) == Some(inode))
        .find_map(|columns| columns[8].parse().ok())
}

impl AsFd for UeventSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
