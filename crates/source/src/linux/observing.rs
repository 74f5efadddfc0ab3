//! The handle of an observer that runs on a thread of its own.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::{self, Thread};

use super::observer::Observer;
use super::readers::Readers;
use super::receiver::{Receiver, ReceiverWake};
use super::reception::Reception;
use super::ring::Ring;
use super::sysfs::Sysfs;
use crate::Position;
use crate::started::Started;

/// A running observer.
#[derive(Debug)]
pub struct Observing {
    /// What it takes from.
    pub ring: Arc<Ring>,
    wake: ReceiverWake,
    /// Where it runs.
    pub thread: Thread,
    /// Takes what need not be told, and lets it begin.
    pub start: mpsc::Sender<Position>,
}

impl Observing {
    /// Leaves out what the receiver was left with while another source told, which may have been told: the number of
    /// the last of it. Before it was let begin.
    pub fn forget(&self) -> u64 {
        let ticket = self.ring.ask_drain();
        self.wake.wake();
        self.ring.forget_all(ticket)
    }
}

impl Drop for Observing {
    /// Whoever observes may be what failed: the receiver is not to go on without it.
    fn drop(&mut self) {
        self.ring.close();
        self.wake.wake();
    }
}

/// Starts a receiver, readers, and an observer on a thread of its own that waits for [`Observing::start`].
///
/// # Errors
/// No more threads or memory can be had.
pub fn spawn(started: Started, reception: Reception) -> io::Result<Observing> {
    let sysfs = Sysfs::new("/sys");
    let socket_inode = reception.socket_inode()?;
    let (sender, ring) = mpsc::sync_channel(1);
    let (start, told) = mpsc::channel();
    let thread = thread::Builder::new().name("usb-observe".to_owned()).spawn(move || {
        let me = thread::current();
        let parts = Receiver::spawn(reception, started.counters.clone(), me.clone())
            .and_then(|receiver| Ok((receiver, Readers::spawn(&sysfs, &me)?)));
        match parts {
            Ok((receiver, readers)) => {
                let _ = sender.send(Ok((receiver.ring.clone(), receiver.waker())));
                // Without a start the source was dropped.
                if let Ok(told) = told.recv() {
                    Observer::new(started, sysfs, readers, receiver, socket_inode, told).run();
                }
            }
            Err(error) => drop(sender.send(Err(error))),
        }
    })?;
    let (ring, wake) = ring.recv().unwrap_or_else(|_| Err(io::Error::other("the observer ended at once")))?;
    Ok(Observing { ring, wake, thread: thread.thread().clone(), start })
}
