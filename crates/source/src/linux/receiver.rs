//! The receive thread. It only receives: whatever else takes time happens elsewhere, so that the kernel's
//! buffer is emptied as fast as it fills.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, Thread};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::landing::{Landed, Landing, Look};
use super::log::Content;
use super::netlink::UeventSocket;
use super::reception::{Received, Reception};
use super::ring::Ring;
use crate::{Counters, clock, kill_point};

/// The receiving side: a thread that moves messages from the socket to the ring.
#[derive(Debug)]
pub struct Receiver {
    /// Where the messages are.
    pub ring: Arc<Ring>,
    wake: ReceiverWake,
}

/// Has the receiver look at the socket now, and answer a drain that was asked for.
#[derive(Debug, Clone)]
pub struct ReceiverWake(Arc<EventFd>);

impl Receiver {
    /// Starts receiving. `observer` is unparked whenever there is something to take.
    ///
    /// # Errors
    /// No more threads or files can be had.
    pub fn spawn(reception: Reception, counters: Arc<Counters>, observer: Thread) -> io::Result<Self> {
        let Received { socket, landing, log } = reception.receive()?;
        let ring = Arc::new(Ring::new(log));
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let mut run = Run { socket, landing, counters, observer, ring: ring.clone(), wake: wake.clone() };
        thread::Builder::new().name("usb-receive".to_owned()).spawn(move || {
            if let Err(error) = run.run() {
                run.ring.fail(error);
            }
            run.observer.unpark();
        })?;
        Ok(Self { ring, wake: ReceiverWake(wake) })
    }

    /// See [`ReceiverWake`].
    pub fn wake(&self) {
        self.wake.wake();
    }

    /// What wakes it from elsewhere.
    pub fn waker(&self) -> ReceiverWake {
        self.wake.clone()
    }
}

impl ReceiverWake {
    /// See the type.
    pub fn wake(&self) {
        // It can only fail when the counter is at its maximum, and then the thread is being woken anyway.
        let _ = self.0.write(1);
    }
}

impl Drop for Receiver {
    /// Nobody waits for the thread: it may be what failed.
    fn drop(&mut self) {
        self.ring.close();
        self.wake();
    }
}

struct Run {
    socket: UeventSocket,
    landing: Landing,
    counters: Arc<Counters>,
    observer: Thread,
    ring: Arc<Ring>,
    wake: Arc<EventFd>,
}

impl Run {
    fn run(&mut self) -> io::Result<()> {
        let mut is_overrun = false;
        while let Some(log_tail) = self.ring.reserve() {
            let asked = self.ring.last_drain_asked();
            match self.landing.receive(&self.socket, log_tail)? {
                Look::Messages(count) => self.keep(count),
                Look::Overrun => {
                    self.ring.push(clock::now(), &Content::Overrun);
                    is_overrun = true;
                }
                // Until now the kernel went on dropping without a word; what it dropped is counted with this.
                Look::Empty if std::mem::take(&mut is_overrun) => {
                    self.ring.push(clock::now(), &Content::Overrun);
                }
                Look::Empty => {
                    self.ring.answer_drain(asked);
                    self.observer.unpark();
                    self.wait()?;
                    // Nothing to read means that the socket woke us.
                    let _ = self.wake.read();
                    continue;
                }
            }
            self.observer.unpark();
        }
        Ok(())
    }

    fn keep(&self, count: usize) {
        let at = clock::now();
        kill_point("landed");
        for index in 0..count {
            if self.landing.landed(index) == Landed::Foreign {
                Counters::add(&self.counters.foreign, 1);
            }
            if let Some(content) = self.landing.content(index) {
                self.ring.push(at, &content);
                kill_point("appended");
            }
        }
    }

    fn wait(&self) -> io::Result<()> {
        let ready = |fd| PollFd::new(fd, PollFlags::POLLIN);
        match poll(&mut [ready(self.socket.as_fd()), ready(self.wake.as_fd())], PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}
