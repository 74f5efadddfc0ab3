//! The receiving end of the udev helper: the socket and the spool, on a thread of their own.
//!
//! Somebody takes the notices, or nobody does; then they are dropped, so that no helper fills the spool. What the taker
//! has no room for waits in the socket, and when that is full in the spool. udev runs the helpers of one device one
//! after the other: whoever has looked at the socket and then at the spool has all of a port that came before what it
//! has, and only needs to sort it by the kernel's numbers.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle, Thread};

use autoweave_usb_device::{Action, Port};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::backlog::Backlog;
use super::socket::{Datagram, Socket};
use super::spool::Spool;
use crate::{Counters, NOTICE_SOCKET, Notice, SPOOL_OVERFLOW};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Notices that the taker has not taken yet, at most; further ones wait where they are.
const HEARD_MAX: usize = 4096;

/// Datagrams in one look, at most.
const DATAGRAMS_MAX: usize = 1024;

/// How often to look whether the socket's file is still there, and into the spool, at least.
const LOOK_AGAIN_MS: u16 = 5000;

/// The socket and the spool; see the module's description. Dropping it closes it.
#[derive(Debug)]
pub struct Notices {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What a taker hears.
#[derive(Debug)]
pub enum Heard {
    /// A notice, and the file it waited in, if it did.
    Told(Box<Notice>, Option<String>),
    /// Something that only a scan can tell.
    Unclear,
    /// Helpers do not reach this daemon any more.
    Failed(io::Error),
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    state: PathBuf,
    /// Notices of another boot say nothing about this one.
    boot_id: Option<String>,
    intake: Mutex<Intake>,
    /// Nothing is taken before this is set. Set to none, there is no spool to be had.
    spool: OnceLock<Option<Spool>>,
    inbox: Mutex<Inbox>,
    /// Files to be deleted when what came of the observation with the number is written down.
    told: Mutex<VecDeque<(u64, String)>>,
    counters: Arc<Counters>,
    wake: EventFd,
    has_heard: AtomicBool,
    is_closed: AtomicBool,
}

#[derive(Debug)]
struct Intake {
    /// None while helpers do not reach it.
    socket: Option<Arc<Socket>>,
    /// Names that were handed on and are not deleted yet.
    taken: HashSet<String>,
}

#[derive(Debug, Default)]
struct Inbox {
    taker: Option<Thread>,
    heard: VecDeque<Heard>,
    was_full: bool,
}

impl Notices {
    /// Binds `notify.sock` in the directory `runtime`. Nothing is taken before [`Self::begin`]. The spool is in the
    /// directory `state`.
    ///
    /// # Errors
    /// Another daemon listens there, or the socket cannot be made.
    pub fn open(runtime: &Path, state: &Path, counters: Arc<Counters>) -> io::Result<Self> {
        let path = runtime.join(NOTICE_SOCKET);
        let socket = Some(Arc::new(Socket::bind(&path)?));
        let boot_id = fs::read_to_string(BOOT_ID).ok().map(|id| id.trim().to_owned());
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let shared = Shared {
            path,
            state: state.to_owned(),
            boot_id,
            intake: Mutex::new(Intake { socket, taken: HashSet::new() }),
            spool: OnceLock::new(),
            inbox: Mutex::default(),
            told: Mutex::default(),
            counters,
            wake,
            has_heard: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
        };
        Ok(Self { shared: Arc::new(shared), thread: Mutex::new(None) })
    }

    /// What has come since the last daemon ended, but for notices of what it told: those with the kernel's numbers up to
    /// `known`, and the first of each port, address and action in `unnumbered`.
    pub fn backlog(&self, known: u64, unnumbered: HashSet<(Port, u8, Action)>) -> Backlog {
        let Shared { state, intake, counters, .. } = &*self.shared;
        let mut notices = Vec::new();
        let mut malformed = 0;
        // First the socket: a helper that found it full has written its file by then.
        if let Some(socket) = &lock(intake).socket {
            for _ in 0..DATAGRAMS_MAX {
                match socket.receive() {
                    Ok(Some(Datagram::Notice(notice))) => notices.push(*notice),
                    Ok(Some(Datagram::Malformed)) => malformed += 1,
                    Ok(Some(Datagram::Foreign)) => Counters::add(&counters.foreign, 1),
                    // A broken socket is told when it is waited on.
                    Ok(None) | Err(_) => break,
                }
            }
        }
        let opened = Spool::open(state).and_then(|spool| Ok((spool.list()?, spool)));
        let spool = opened.map(|(listing, spool)| {
            for name in &listing.names {
                match spool.read(name) {
                    Some(notice) if self.shared.is_of_this_boot(&notice) => notices.push(notice),
                    Some(_) => {}
                    None => malformed += 1,
                }
            }
            (spool, listing.names.into_iter().chain(listing.litter).collect())
        });
        Counters::add(&counters.malformed, malformed);
        Backlog::new(notices, known, unnumbered, spool, counters)
    }

    /// What came of `backlog` is written down: its files go, and what comes is taken from now on.
    ///
    /// # Errors
    /// No more threads can be had.
    pub fn begin(&self, backlog: Backlog) -> io::Result<()> {
        let spool = backlog.spool.ok().map(|(spool, files)| {
            files.iter().for_each(|name| spool.delete(name));
            spool.delete(SPOOL_OVERFLOW);
            // A file that cannot be deleted is not told a second time.
            lock(&self.shared.intake).taken.extend(files);
            spool
        });
        let _ = self.shared.spool.set(spool);
        let shared = self.shared.clone();
        let thread = thread::Builder::new().name("usb-notices".to_owned()).spawn(move || shared.run())?;
        *lock(&self.thread) = Some(thread);
        Ok(())
    }

    /// Helpers write into the spool from now on; what they had sent was handed on.
    pub fn close(&self) {
        self.shared.is_closed.store(true, Ordering::SeqCst);
        self.shared.wake();
        if let Some(thread) = lock(&self.thread).take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
        lock(&self.shared.intake).socket = None;
    }

    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Whether udev has run a helper that reached this daemon.
    pub fn has_heard(&self) -> bool {
        self.shared.has_heard.load(Ordering::SeqCst)
    }

    /// Has notices handed to the calling thread, which is unparked for them.
    pub(super) fn subscribe(&self) {
        *lock(&self.shared.inbox) = Inbox { taker: Some(thread::current()), ..Inbox::default() };
    }

    /// The calling thread takes no longer.
    pub(super) fn unsubscribe(&self) {
        let mut inbox = lock(&self.shared.inbox);
        if inbox.taker.as_ref().is_some_and(|taker| taker.id() == thread::current().id()) {
            *inbox = Inbox::default();
        }
    }

    /// The next for the taker.
    pub(super) fn next(&self) -> Option<Heard> {
        let mut inbox = lock(&self.shared.inbox);
        let next = inbox.heard.pop_front();
        if inbox.heard.is_empty() && std::mem::take(&mut inbox.was_full) {
            self.shared.wake();
        }
        next
    }

    /// The ports of what the taker has not taken, once everything is in that was sent by now.
    pub(super) fn ports(&self) -> BTreeSet<Port> {
        self.shared.look();
        let inbox = lock(&self.shared.inbox);
        let port = |heard: &Heard| match heard {
            Heard::Told(notice, _) => Some(notice.port),
            Heard::Unclear | Heard::Failed(_) => None,
        };
        inbox.heard.iter().filter_map(port).collect()
    }

    /// The file led to the observation with `number`.
    pub(super) fn told(&self, number: u64, file: String) {
        lock(&self.shared.told).push_back((number, file));
    }

    /// What came of observations up to `written` is written down.
    pub(crate) fn journaled(&self, written: u64) {
        let mut told = lock(&self.shared.told);
        while told.front().is_some_and(|(number, _)| *number <= written) {
            if let (Some((_, name)), Some(Some(spool))) = (told.pop_front(), self.shared.spool.get()) {
                spool.delete(&name);
            }
        }
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn run(&self) {
        while !self.is_closed.load(Ordering::SeqCst) {
            if let Err(error) = self.wait() {
                lock(&self.intake).socket = None;
                self.hand_on(vec![Heard::Failed(error)]);
                return;
            }
            self.mind_socket();
            self.look();
        }
        // Its file first: whoever does not find it any more writes into the spool.
        if let Some(socket) = &lock(&self.intake).socket {
            socket.unlink();
        }
        self.look();
    }

    fn wait(&self) -> io::Result<()> {
        let socket = lock(&self.intake).socket.clone();
        let is_full = lock(&self.inbox).room() == 0;
        let ready = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![ready(self.wake.as_fd())];
        fds.extend(socket.iter().filter(|_| !is_full).map(|socket| ready(socket.as_fd())));
        match poll(&mut fds, LOOK_AGAIN_MS) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        // Nothing to read means that something else woke this.
        let _ = self.wake.read();
        Ok(())
    }

    /// Says that helpers do not reach the socket, and makes another one.
    fn mind_socket(&self) {
        let mut intake = lock(&self.intake);
        if let Some(Err(error)) = intake.socket.as_ref().map(|socket| socket.check()) {
            intake.socket = None;
            self.hand_on(vec![Heard::Failed(error)]);
        }
        if intake.socket.is_none() {
            intake.socket = Socket::bind(&self.path).ok().map(Arc::new);
        }
    }

    /// Takes what is there, as far as there is room for it.
    fn look(&self) {
        let mut intake = lock(&self.intake);
        let Some(spool) = self.spool.get() else { return };
        let (has_taker, room) = {
            let inbox = lock(&self.inbox);
            (inbox.taker.is_some(), inbox.room())
        };
        let mut heard = Vec::new();
        let is_broken = intake
            .socket
            .as_ref()
            .is_some_and(|socket| self.receive(socket, room.min(DATAGRAMS_MAX), &mut heard).is_err());
        if is_broken {
            // Another one is made with the next look.
            intake.socket = None;
            self.wake();
        }
        if let Some(spool) = spool {
            self.look_into(spool, &mut intake.taken, has_taker, room, &mut heard);
        }
        heard.sort_by_key(Heard::order);
        // What was sent by hand has no number of the kernel's.
        let is_by_udev = |heard: &Heard| matches!(heard, Heard::Told(notice, _) if notice.seqnum.is_some());
        if heard.iter().any(is_by_udev) {
            self.has_heard.store(true, Ordering::SeqCst);
        }
        self.hand_on(heard);
    }

    fn look_into(
        &self,
        spool: &Spool,
        taken: &mut HashSet<String>,
        has_taker: bool,
        room: usize,
        heard: &mut Vec<Heard>,
    ) {
        let Ok(listing) = spool.list() else { return };
        listing.litter.iter().for_each(|name| spool.delete(name));
        taken.retain(|name| listing.names.contains(name));
        for name in listing.names {
            if !has_taker {
                spool.delete(&name);
            } else if heard.len() < room && !taken.contains(&name) {
                heard.push(self.read(spool, &name));
                taken.insert(name);
            }
        }
        if spool.refused() > 0 {
            spool.delete(SPOOL_OVERFLOW);
            heard.push(Heard::Unclear);
        }
    }

    /// Takes datagrams. Fails when the socket does, and says so to whoever hears.
    fn receive(&self, socket: &Socket, datagrams_max: usize, heard: &mut Vec<Heard>) -> Result<(), ()> {
        for _ in 0..datagrams_max {
            heard.push(match socket.receive() {
                Ok(Some(Datagram::Notice(notice))) => Heard::Told(notice, None),
                Ok(Some(Datagram::Malformed)) => self.malformed(),
                Ok(Some(Datagram::Foreign)) => {
                    Counters::add(&self.counters.foreign, 1);
                    continue;
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    heard.push(Heard::Failed(error));
                    return Err(());
                }
            });
        }
        Ok(())
    }

    fn read(&self, spool: &Spool, name: &str) -> Heard {
        match spool.read(name) {
            Some(notice) if self.is_of_this_boot(&notice) => {
                Heard::Told(Box::new(notice), Some(name.to_owned()))
            }
            found => {
                spool.delete(name);
                if found.is_some() { Heard::Unclear } else { self.malformed() }
            }
        }
    }

    fn is_of_this_boot(&self, notice: &Notice) -> bool {
        self.boot_id.is_some() && notice.boot_id == self.boot_id
    }

    fn malformed(&self) -> Heard {
        Counters::add(&self.counters.malformed, 1);
        Heard::Unclear
    }

    /// To whoever takes; to nobody, if nobody does.
    fn hand_on(&self, heard: Vec<Heard>) {
        let mut inbox = lock(&self.inbox);
        let Some(taker) = inbox.taker.clone().filter(|_| !heard.is_empty()) else { return };
        inbox.heard.extend(heard);
        inbox.was_full |= inbox.room() == 0;
        drop(inbox);
        taker.unpark();
    }

    fn wake(&self) {
        // It can only fail when the counter is at its maximum, and then the thread is being woken anyway.
        let _ = self.wake.write(1);
    }
}

impl Inbox {
    fn room(&self) -> usize {
        HEARD_MAX.saturating_sub(self.heard.len())
    }
}

impl Heard {
    /// By the kernel's numbers; what has none is behind what has.
    fn order(&self) -> (bool, u64) {
        let seqnum = match self {
            Self::Told(notice, _) => notice.seqnum,
            Self::Unclear | Self::Failed(_) => None,
        };
        (seqnum.is_none(), seqnum.unwrap_or(0))
    }
}

/// What a panic under a lock leaves is whole: each step under one is a single change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
