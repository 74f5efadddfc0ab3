//! Requests to the kernel over netlink, each answered by an acknowledgement whose error is checked.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, connect, recv, send,
    sendto, socket,
};

/// Payloads up to this many bytes can always be injected. The kernel's UEVENT_BUFFER_SIZE of 2048 has to hold the
/// 16-byte netlink header, the payload and `SEQNUM=` with up to 20 digits and a NUL (lib/kobject_uevent.c).
pub const UEVENT_BYTES_MAX: usize = 2048 - HEADER_BYTES - "SEQNUM=18446744073709551615\0".len();

const HEADER_BYTES: usize = 16;
/// Types below 16 are netlink's own and never reach the subsystem (NLMSG_MIN_TYPE).
const TYPE_UEVENT: u16 = 16;
const TYPE_ERROR: u16 = 2;
const FLAGS_REQUEST_ACK: u16 = 1 | 4;
const GROUP_KERNEL: u32 = 1;
const GROUP_UDEV: u32 = 2;

const RTM_NEWLINK: u16 = 16;
/// A new network namespace has one link, and its number is always 1 (LOOPBACK_IFINDEX).
const LOOPBACK_INDEX: u32 = 1;
const IFF_UP: u32 = 1;

/// Sockets belong to the network namespace they were opened in, whichever thread uses them.
pub(crate) struct Injector {
    kernel: Requests,
    multicast: OwnedFd,
}

impl Injector {
    pub(crate) fn open() -> io::Result<Self> {
        let multicast = open(SockProtocol::NetlinkKObjectUEvent)?;
        bind(multicast.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { kernel: Requests::open(SockProtocol::NetlinkKObjectUEvent)?, multicast })
    }

    /// Has the kernel append SEQNUM and broadcast `payload`. The broadcast has happened when this returns;
    /// a listener whose queue is full is told so by the kernel, we are not.
    ///
    /// # Errors
    /// `InvalidInput` when the payload is too long; see [`UEVENT_BYTES_MAX`].
    pub(crate) fn broadcast(&mut self, payload: &[u8]) -> io::Result<()> {
        self.kernel.request(TYPE_UEVENT, payload).map_err(|error| {
            let text =
                format!("the kernel refused to broadcast a uevent of {} bytes: {error}", payload.len());
            io::Error::new(error.kind(), text)
        })
    }

    /// Sends to the kernel's group from an ordinary socket, whose nl_pid is not 0.
    pub(crate) fn multicast(&self, payload: &[u8]) -> io::Result<()> {
        self.send(GROUP_KERNEL, payload)
    }

    /// Sends to udev's group, as udevd does.
    pub(crate) fn multicast_udev(&self, payload: &[u8]) -> io::Result<()> {
        self.send(GROUP_UDEV, payload)
    }

    fn send(&self, group: u32, payload: &[u8]) -> io::Result<()> {
        let group = NetlinkAddr::new(0, group);
        let socket = self.multicast.as_raw_fd();
        retry_interrupted(|| sendto(socket, payload, &group, MsgFlags::empty()))?;
        Ok(())
    }
}

/// Sets the loopback link of the calling thread's network namespace up.
pub(crate) fn bring_up_loopback() -> io::Result<()> {
    let mut ifinfomsg = vec![0, 0, 0, 0]; // family, padding, type
    for word in [LOOPBACK_INDEX, IFF_UP, IFF_UP] {
        ifinfomsg.extend(word.to_ne_bytes());
    }
    Requests::open(SockProtocol::NetlinkRoute)?.request(RTM_NEWLINK, &ifinfomsg)
}

struct Requests {
    socket: OwnedFd,
    sequence: u32,
    packet: Vec<u8>,
}

impl Requests {
    fn open(protocol: SockProtocol) -> io::Result<Self> {
        let socket = open(protocol)?;
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0, packet: Vec::new() })
    }

    /// Sends one request and reads its acknowledgement. The kernel answers within `send`, so that at most one
    /// acknowledgement is ever queued and our own receive queue cannot overflow, however fast we send.
    fn request(&mut self, kind: u16, payload: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER_BYTES + payload.len()).map_err(|_| Errno::EMSGSIZE)?;
        self.packet.clear();
        self.packet.extend(length.to_ne_bytes());
        self.packet.extend(kind.to_ne_bytes());
        self.packet.extend(FLAGS_REQUEST_ACK.to_ne_bytes());
        self.packet.extend(self.sequence.to_ne_bytes());
        self.packet.extend([0; 4]); // nl_pid of the receiver: the kernel
        self.packet.extend(payload);
        let socket = self.socket.as_raw_fd();
        retry_interrupted(|| send(socket, &self.packet, MsgFlags::empty()))?;

        let mut answer = [0; 64];
        let length = retry_interrupted(|| recv(socket, &mut answer, MsgFlags::MSG_DONTWAIT))?;
        acknowledged(&answer[..length], self.sequence)
    }
}

fn open(protocol: SockProtocol) -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?)
}

fn retry_interrupted(mut call: impl FnMut() -> nix::Result<usize>) -> nix::Result<usize> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// Reads an NLMSG_ERROR message: header, then the negative errno or 0.
fn acknowledged(answer: &[u8], sequence: u32) -> io::Result<()> {
    let word = |at: usize| answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    match (kind, word(8).map(u32::from_ne_bytes), word(16).map(i32::from_ne_bytes)) {
        (Some(TYPE_ERROR), Some(answered), Some(error)) if answered == sequence => match error {
            0 => Ok(()),
            _ => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        },
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is no acknowledgement")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, sequence: u32, error: i32) -> Vec<u8> {
        let mut bytes = 36u32.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(error.to_ne_bytes());
        bytes
    }

    #[test]
    fn an_acknowledgement_counts_only_when_it_is_ours_and_without_error() {
        assert!(acknowledged(&answer(TYPE_ERROR, 7, 0), 7).is_ok());
        let refused = acknowledged(&answer(TYPE_ERROR, 7, -1), 7).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(acknowledged(&answer(TYPE_ERROR, 6, 0), 7).is_err(), "another request's");
        assert!(acknowledged(&answer(3, 7, 0), 7).is_err(), "another type");
        assert!(acknowledged(&answer(TYPE_ERROR, 7, 0)[..18], 7).is_err(), "cut short");
        assert!(acknowledged(&[], 7).is_err());
    }
}
