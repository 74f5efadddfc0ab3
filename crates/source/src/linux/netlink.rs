//! The kernel's uevent socket: `lib/kobject_uevent.c`, `net/netlink/af_netlink.c`, netlink(7).

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType,
    UnixCredentials, bind, recvmsg, setsockopt, socket, sockopt,
};

/// What the kernel itself sends, at once; group 2 is udevd's repetition after its rules have run.
const KERNEL_GROUP: u32 = 1;

/// The kernel builds a message in 2048 bytes (`UEVENT_BUFFER_SIZE`) behind its header; the rest is room for
/// kernels to come. What is longer is noticed and counts as lost.
pub const MESSAGE_BYTES_MAX: usize = 8192;

/// An open, bound, non-blocking uevent socket.
#[derive(Debug)]
pub struct UeventSocket {
    fd: OwnedFd,
}

/// One look at the socket.
#[derive(Debug)]
pub enum Received {
    /// A message of the kernel's, of this many bytes, is at the start of the buffer.
    Message(usize),
    /// A message of the kernel's did not fit.
    Truncated,
    /// Someone else wrote to the socket. Dropped.
    Foreign,
    /// The receive buffer was full and messages were lost (`ENOBUFS`). Comes before those that were kept;
    /// until all of them are read, the kernel drops every new one without saying so again.
    Overrun,
    /// Nothing there now.
    Empty,
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
        // Over `net.core.rmem_max` only with CAP_NET_ADMIN in the initial user namespace.
        if setsockopt(&fd, sockopt::RcvBufForce, &buffer_bytes).is_err() {
            setsockopt(&fd, sockopt::RcvBuf, &buffer_bytes)?;
        }
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
        Ok(Self { fd })
    }

    /// The receive buffer the kernel granted, in bytes as it counts them: twice what was asked for, of which a
    /// USB uevent takes about 830.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn buffer_bytes(&self) -> io::Result<usize> {
        Ok(nix::sys::socket::getsockopt(&self.fd, sockopt::RcvBuf)?)
    }

    /// Takes the next message without waiting.
    ///
    /// # Errors
    /// The socket is broken: nothing more will come of it.
    pub fn receive(&self, buffer: &mut [u8; MESSAGE_BYTES_MAX]) -> io::Result<Received> {
        let mut control = cmsg_space!(UnixCredentials);
        let mut slices = [IoSliceMut::new(buffer)];
        let fd = self.fd.as_raw_fd();
        let message = match recvmsg::<NetlinkAddr>(fd, &mut slices, Some(&mut control), MsgFlags::empty()) {
            Ok(message) => message,
            Err(Errno::EAGAIN) => return Ok(Received::Empty),
            Err(Errno::ENOBUFS) => return Ok(Received::Overrun),
            Err(Errno::EINTR) => return self.receive(buffer),
            Err(errno) => return Err(errno.into()),
        };
        // The kernel's own messages come from port 0. So do those that a process with CAP_SYS_ADMIN in the
        // network's user namespace has the kernel broadcast: they bear its pid but root's uid, and that
        // process could plug real devices as well.
        let from_kernel = message.address.is_some_and(|address| address.pid() == 0);
        let from_root = message.cmsgs()?.any(
            |control| matches!(control, ControlMessageOwned::ScmCredentials(sender) if sender.uid() == 0),
        );
        Ok(match (from_kernel && from_root, message.flags.contains(MsgFlags::MSG_TRUNC)) {
            (false, _) => Received::Foreign,
            (true, true) => Received::Truncated,
            (true, false) => Received::Message(message.bytes),
        })
    }

    /// The socket's inode, by which [`drops`] knows it.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(nix::sys::stat::fstat(&self.fd)?.st_ino)
    }
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
