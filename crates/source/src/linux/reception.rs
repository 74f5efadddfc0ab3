//! What has to outlive a daemon for it to lose no uevent: the socket, and the memory that messages are received
//! into. Whoever starts daemons holds both; a daemon that is given them goes on where the one before ended.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::landing::{self, Landing};
use super::log::{self, Content, Log};
use super::mapping::{self, ALIGN};
use super::netlink::{self, UeventSocket};
use crate::clock;

const LOG_OFFSET: usize = size_of::<landing::Layout>().next_multiple_of(ALIGN);
const BYTES: usize = LOG_OFFSET + size_of::<log::Layout>();

/// See the module's description.
#[derive(Debug)]
pub struct Reception {
    socket: UeventSocket,
    memory: OwnedFd,
    forgets: bool,
}

/// A reception in use.
pub struct Received {
    pub socket: UeventSocket,
    pub landing: Landing,
    pub log: Log,
}

impl Reception {
    /// Opens a socket with a receive buffer of `receive_buffer_bytes` (the kernel may grant less), and memory.
    ///
    /// # Errors
    /// The kernel has no uevent socket or no memfd, or the process may have no more files.
    pub fn open(receive_buffer_bytes: usize) -> io::Result<Self> {
        Ok(Self {
            socket: UeventSocket::open(receive_buffer_bytes)?,
            memory: mapping::create(BYTES)?,
            forgets: false,
        })
    }

    /// Goes on with the uevent socket among `fds`, and with the memory among them if there is any that this version
    /// understands. `None`: there is no such socket.
    ///
    /// # Errors
    /// The socket is broken, or the kernel has no memfd.
    pub fn adopt(
        fds: impl IntoIterator<Item = OwnedFd>,
        receive_buffer_bytes: usize,
    ) -> io::Result<Option<Self>> {
        let (mut socket, mut memory) = (None, None);
        for fd in fds {
            if memory.is_none() && mapping::is_memory(&fd, BYTES) {
                memory = Some(fd);
            } else if socket.is_none() {
                socket = UeventSocket::adopt(fd, receive_buffer_bytes)?;
            }
        }
        let Some(socket) = socket else { return Ok(None) };
        let memory = memory.map_or_else(|| mapping::create(BYTES), Ok)?;
        Ok(Some(Self { socket, memory, forgets: false }))
    }

    /// Leaves out what was received and not written down: the bus is scanned instead.
    pub fn forget(&mut self) {
        self.forgets = true;
    }

    /// The socket and the memory, to be held for the next daemon.
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.socket.as_fd(), self.memory.as_fd()]
    }

    /// The receive buffer the kernel granted, in bytes as it counts them.
    pub(crate) fn buffer_bytes(&self) -> io::Result<usize> {
        self.socket.buffer_bytes()
    }

    pub(super) fn socket_inode(&self) -> io::Result<u64> {
        self.socket.inode()
    }

    /// Takes up what a dead daemon left.
    pub(super) fn receive(self) -> io::Result<Received> {
        let Self { socket, memory, forgets } = self;
        let now = clock::now();
        let mut log = Log::open(&memory, LOG_OFFSET)?;
        let landing = Landing::open(&memory, 0, &mut log, now)?;
        let has_told = netlink::drops(socket.inode()?).is_none_or(|drops| drops <= log.drops());
        if forgets {
            log.forget(log.tail());
            log.append(now, &Content::Overrun);
        }
        // It was told that messages are lost, and died before it could write that down.
        if !has_told && Content::Overrun.record_bytes() <= log.room() {
            log.append(now, &Content::Overrun);
        }
        Ok(Received { socket, landing, log })
    }
}
