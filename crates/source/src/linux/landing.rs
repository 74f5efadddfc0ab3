//! Where the kernel puts messages: in memory that outlives the process.
//!
//! `recvmmsg` takes a message from the socket's queue and then writes down its text, its sender and, last, its
//! length (`net/socket.c`, `do_recvmmsg`). A process that is killed meanwhile finishes that in the kernel and gets
//! no further. So what has a length and is not in the log was received by a process that died, and its successor
//! appends it.

#![expect(unsafe_code, reason = "the system call takes pointers")]

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{Ordering, compiler_fence};

use autoweave_usb_device::Moment;
use nix::errno::Errno;

use super::log::{Content, Log, record_bytes};
use super::mapping::{Plain, View};
use super::uevent;

/// Messages taken from the socket at once, at most.
pub const BATCH: usize = 16;

/// The kernel builds a message in 2048 bytes (`UEVENT_BUFFER_SIZE`) behind its header; the rest is room for
/// kernels to come. What is longer is noticed and counts as lost.
const TEXT_BYTES: usize = 8192;

/// What a batch takes in the log, at most.
pub const BATCH_BYTES_MAX: usize = BATCH * record_bytes(TEXT_BYTES);

/// What is in the memory. The pointers are the living process's own and mean nothing to the next.
#[repr(C)]
pub struct Layout {
    /// Where the log ended before the batch.
    log_tail: u64,
    messages: [libc::mmsghdr; BATCH],
    slices: [libc::iovec; BATCH],
    senders: [libc::sockaddr_nl; BATCH],
    credentials: [Credentials; BATCH],
    texts: [[u8; TEXT_BYTES]; BATCH],
}

// SAFETY: integers, arrays of bytes, and raw pointers that are only ever written here and read by the kernel.
unsafe impl Plain for Layout {}

/// `SCM_CREDENTIALS`, cmsg(3) and unix(7).
#[derive(Clone, Copy)]
#[repr(C)]
struct Credentials {
    header: libc::cmsghdr,
    sender: libc::ucred,
}

/// What a message turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Landed<'a> {
    /// The kernel's.
    Message(&'a [u8]),
    /// The kernel's, and longer than any should be.
    Truncated,
    /// Someone else wrote to the socket.
    Foreign,
}

/// How a look at the socket ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// So many messages landed.
    Messages(usize),
    /// The receive buffer was full and messages were lost (`ENOBUFS`). Comes before those that were kept; until
    /// all of them are read, the kernel drops every new one without saying so again.
    Overrun,
    /// Nothing there now.
    Empty,
}

/// See the module's description.
#[derive(Debug)]
pub struct Landing {
    view: View<Layout>,
}

impl Landing {
    /// The landing in `memory` at `offset`. What a dead process left there is appended to `log`.
    ///
    /// # Errors
    /// See [`View::new`].
    pub fn open(memory: impl AsFd, offset: usize, log: &mut Log, now: Moment) -> io::Result<Self> {
        let mut landing = Self { view: View::new(memory, offset)? };
        if !log.is_new() {
            landing.append_to(log, now);
        }
        landing.clear(log.tail());
        Ok(landing)
    }

    /// Appends what landed and is not in `log` yet.
    fn append_to(&self, log: &mut Log, now: Moment) {
        let mut end = self.view.log_tail;
        for index in (0..BATCH).filter(|index| self.view.messages[*index].msg_len > 0) {
            let Some(content) = self.content(index) else { continue };
            end += content.record_bytes() as u64;
            if end > log.tail() && content.record_bytes() <= log.room() {
                log.append(now, &content);
            }
        }
    }

    /// Takes messages from `socket` without waiting, for a log that ends at `log_tail` and has room for a batch.
    ///
    /// # Errors
    /// The socket is broken: nothing more will come of it.
    pub fn receive(&mut self, socket: impl AsFd, log_tail: u64) -> io::Result<Look> {
        self.clear(log_tail);
        self.point();
        let socket = socket.as_fd().as_raw_fd();
        let messages = self.view.messages.as_mut_ptr();
        let count = libc::c_uint::try_from(BATCH).unwrap_or(1);
        // SAFETY: there are BATCH messages, and all they point to is in the view, which is mutably borrowed.
        let received =
            unsafe { libc::recvmmsg(socket, messages, count, libc::MSG_DONTWAIT as _, std::ptr::null_mut()) };
        match usize::try_from(received) {
            Ok(count) => Ok(Look::Messages(count)),
            Err(_) => match Errno::last() {
                Errno::EAGAIN => Ok(Look::Empty),
                Errno::EINTR => Ok(Look::Messages(0)),
                Errno::ENOBUFS => Ok(Look::Overrun),
                errno => Err(errno.into()),
            },
        }
    }

    /// Has every message point to its parts of this view, with their sizes.
    #[expect(clippy::cast_possible_truncation, reason = "the sizes of small structs")]
    fn point(&mut self) {
        let layout = &mut *self.view;
        for index in 0..BATCH {
            // The kernel must not have to wait for a page: it would not do so for a process that is being killed, and
            // what it had taken from the queue would be gone.
            (layout.texts[index][0], layout.texts[index][TEXT_BYTES / 2]) = (0, 0);
            layout.credentials[index].header.cmsg_len = 0;
            layout.slices[index] =
                libc::iovec { iov_base: layout.texts[index].as_mut_ptr().cast(), iov_len: TEXT_BYTES };
            // SAFETY: null pointers and zeros are a valid `msghdr`, which may have private fields.
            let mut header: libc::msghdr = unsafe { zeroed() };
            header.msg_name = (&raw mut layout.senders[index]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_nl>() as _;
            header.msg_iov = &raw mut layout.slices[index];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut layout.credentials[index]).cast();
            header.msg_controllen = size_of::<Credentials>() as _;
            layout.messages[index].msg_hdr = header;
        }
    }

    /// What message `index` of the last batch is.
    pub fn landed(&self, index: usize) -> Landed<'_> {
        let Layout { messages, senders, credentials, texts, .. } = &*self.view;
        let (message, Credentials { header, sender }) = (&messages[index], credentials[index]);
        // The kernel's own messages come from port 0. So do those that a process with CAP_SYS_ADMIN in the
        // network's user namespace has the kernel broadcast: they bear its pid but root's uid, and that process
        // could plug real devices as well.
        let from_kernel = message.msg_hdr.msg_namelen > 0 && senders[index].nl_pid == 0;
        let has_sender = message.msg_hdr.msg_controllen > 0
            && (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_CREDENTIALS);
        if !from_kernel || !has_sender || sender.uid != 0 {
            return Landed::Foreign;
        }
        let length = usize::try_from(message.msg_len).unwrap_or(usize::MAX);
        match texts[index].get(..length) {
            Some(text) if message.msg_hdr.msg_flags & libc::MSG_TRUNC == 0 => Landed::Message(text),
            _ => Landed::Truncated,
        }
    }

    /// What the log is to have of message `index`.
    pub fn content(&self, index: usize) -> Option<Content> {
        match self.landed(index) {
            Landed::Message(text) if uevent::is_usb(text) => Some(Content::Uevent(text.into())),
            Landed::Truncated => Some(Content::Overrun),
            Landed::Message(_) | Landed::Foreign => None,
        }
    }

    /// From here on a message with a length is of the batch that begins at `log_tail`.
    fn clear(&mut self, log_tail: u64) {
        for message in &mut self.view.messages {
            message.msg_len = 0;
        }
        compiler_fence(Ordering::SeqCst);
        self.view.log_tail = log_tail;
        compiler_fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::FileExt as _;

    use super::super::{log, mapping};
    use super::*;

    const LOG_OFFSET: usize = size_of::<Layout>().next_multiple_of(mapping::ALIGN);

    /// Memory in which a batch has landed as the kernel would write it, of which `appended` messages reached the log
    /// before the process died.
    fn died(appended: usize) -> OwnedFd {
        let memory = mapping::create(LOG_OFFSET + size_of::<log::Layout>()).unwrap();
        let mut log = Log::open(&memory, LOG_OFFSET).unwrap();
        log.append(Moment::default(), &Content::Overrun);
        let mut landing = Landing::open(&memory, 0, &mut log, Moment::default()).unwrap();
        landing.clear(log.tail());
        land(&mut landing, 0, 0, b"add@/a\0SUBSYSTEM=usb\0SEQNUM=1\0");
        land(&mut landing, 1, 0, b"add@/b\0SUBSYSTEM=net\0SEQNUM=2\0");
        land(&mut landing, 2, 4711, b"add@/c\0SUBSYSTEM=usb\0SEQNUM=3\0");
        land(&mut landing, 3, 0, b"add@/d\0SUBSYSTEM=usb\0SEQNUM=4\0");
        land(&mut landing, 4, 0, b"add@/e\0SUBSYSTEM=usb\0SEQNUM=5\0");
        for content in (0..5).filter_map(|index| landing.content(index)).take(appended) {
            log.append(Moment::default(), &content);
        }
        memory
    }

    fn land(landing: &mut Landing, index: usize, port: u32, text: &[u8]) {
        let layout = &mut *landing.view;
        layout.texts[index][..text.len()].copy_from_slice(text);
        layout.senders[index].nl_pid = port;
        let credentials = &mut layout.credentials[index];
        credentials.header.cmsg_level = libc::SOL_SOCKET;
        credentials.header.cmsg_type = libc::SCM_CREDENTIALS;
        credentials.sender.uid = 0;
        let message = &mut layout.messages[index];
        message.msg_hdr.msg_namelen = 12;
        message.msg_hdr.msg_controllen = size_of::<Credentials>() as _;
        message.msg_hdr.msg_flags = 0;
        message.msg_len = text.len().try_into().unwrap();
    }

    fn numbers(memory: &OwnedFd) -> Vec<u64> {
        let mut log = Log::open(memory, LOG_OFFSET).unwrap();
        Landing::open(memory, 0, &mut log, Moment::default()).unwrap();
        let mut place = log.head();
        let mut numbers = Vec::new();
        while let Some(message) = log.read(place) {
            place = message.number;
            if let Content::Uevent(text) = message.content {
                numbers.extend(uevent::seqnum(&text));
            }
        }
        numbers
    }

    #[test]
    fn what_a_dead_process_received_is_appended_once_wherever_it_died() {
        for appended in 0..=3 {
            let memory = died(appended);
            assert_eq!(numbers(&memory), [1, 4, 5], "{appended} were appended");
            assert_eq!(numbers(&memory), [1, 4, 5], "and the one after it finds them so");
        }
    }

    #[test]
    fn what_was_journaled_since_is_not_appended_again() {
        let memory = died(3);
        let mut log = Log::open(&memory, LOG_OFFSET).unwrap();
        log.forget(log.tail());
        assert_eq!(numbers(&memory), [] as [u64; 0]);
    }

    #[test]
    fn what_another_version_left_is_not_read() {
        let memory = died(1);
        let file = std::fs::File::from(memory.try_clone().unwrap());
        file.write_all_at(b"another version!", LOG_OFFSET as u64).unwrap();
        assert_eq!(numbers(&memory), [] as [u64; 0]);
    }
}
