//! A worker's three pipes and its process, waited for together and never without an end.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::pidfd;

/// Read from a pipe at once, in bytes: what a pipe holds.
const CHUNK: usize = 64 * 1024;

/// What a plugin may write to each of its outputs in a second, in bytes.
pub(super) const BYTES_A_SECOND_MAX: usize = 1024 * 1024;

/// The daemon's ends of the pipes, which never block, and the process behind them.
pub(super) struct Pipes {
    stdin: Option<ChildStdin>,
    stdout: Output<ChildStdout>,
    stderr: Output<ChildStderr>,
    process: OwnedFd,
    /// Sent as the plugin takes it.
    outgoing: Vec<u8>,
}

struct Output<P> {
    /// None once it has ended.
    pipe: Option<P>,
    second: Instant,
    bytes: usize,
}

/// What [`Pipes::wait`] found; several at once.
#[derive(Default)]
pub(super) struct Found {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    /// The plugin closed its standard output.
    pub(super) ended: bool,
    /// More than [`BYTES_A_SECOND_MAX`] came on its standard output.
    pub(super) flood: bool,
    /// The process has ended; it was not reaped.
    pub(super) exited: bool,
    /// `waker` has something to read.
    pub(super) woken: bool,
}

impl Pipes {
    pub(super) fn of(child: &mut Child) -> io::Result<Self> {
        let process = pidfd::open(child.id())?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(io::Error::other("its standard streams are no pipes"));
        };
        for fd in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
            fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        let (stdout, stderr) = (Output::new(stdout), Output::new(stderr));
        Ok(Self { stdin: Some(stdin), stdout, stderr, process, outgoing: Vec::new() })
    }

    /// The process by another descriptor.
    pub(super) fn process(&self) -> io::Result<OwnedFd> {
        self.process.try_clone()
    }

    /// Queues a line.
    pub(super) fn send(&mut self, line: &[u8]) {
        self.outgoing.extend_from_slice(line);
    }

    /// Closes the plugin's standard input: whatever else it waits for, there is no more.
    pub(super) fn end_input(&mut self) {
        self.outgoing.clear();
        self.stdin = None;
    }

    /// Waits until something happens or `deadline`, if there is one, has passed. May find nothing earlier.
    pub(super) fn wait(
        &mut self,
        deadline: Option<Instant>,
        waker: Option<BorrowedFd<'_>>,
    ) -> io::Result<Found> {
        let now = Instant::now();
        let throttled = self.stderr.throttled_until(now);
        let until = deadline.into_iter().chain(throttled).min();
        let ready =
            self.poll(until.map(|until| until.saturating_duration_since(now)), waker, throttled.is_some())?;
        let mut found = Found { exited: ready[3], woken: ready[4], ..Found::default() };
        if ready[0] {
            self.write()?;
        }
        if ready[1] || found.exited {
            found.stdout = self.stdout.read()?;
            found.flood = self.stdout.throttled_until(Instant::now()).is_some();
        }
        if ready[2] || found.exited {
            found.stderr = self.stderr.read()?;
        }
        found.ended = self.stdout.pipe.is_none();
        Ok(found)
    }

    /// Which of stdin, stdout, stderr, process and waker are ready.
    fn poll(
        &self,
        timeout: Option<Duration>,
        waker: Option<BorrowedFd<'_>>,
        no_stderr: bool,
    ) -> io::Result<[bool; 5]> {
        let stdin = self.stdin.as_ref().filter(|_| !self.outgoing.is_empty()).map(AsFd::as_fd);
        let stdout = self.stdout.pipe.as_ref().map(AsFd::as_fd);
        let stderr = self.stderr.pipe.as_ref().filter(|_| !no_stderr).map(AsFd::as_fd);
        let asked = [stdin, stdout, stderr, Some(self.process.as_fd()), waker];
        let mut fds = Vec::new();
        for (index, fd) in asked.into_iter().enumerate() {
            let flags = if index == 0 { PollFlags::POLLOUT } else { PollFlags::POLLIN };
            fds.extend(fd.map(|fd| (index, PollFd::new(fd, flags))));
        }
        let (indices, mut fds): (Vec<usize>, Vec<PollFd<'_>>) = fds.into_iter().unzip();
        // Rounded up: a wait that ends too early would be a busy one.
        let milliseconds = timeout.map(|timeout| timeout.as_micros().div_ceil(1000));
        let timeout = milliseconds
            .map_or(PollTimeout::NONE, |ms| PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX));
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) | Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = [false; 5];
        for (index, fd) in indices.into_iter().zip(&fds) {
            ready[index] = fd.any().unwrap_or(true);
        }
        Ok(ready)
    }

    /// A plugin that does not read any more is found by its end or its deadline.
    fn write(&mut self) -> io::Result<()> {
        let Some(stdin) = &mut self.stdin else { return Ok(()) };
        match stdin.write(&self.outgoing) {
            Ok(sent) => drop(self.outgoing.drain(..sent)),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => self.end_input(),
            Err(error) if is_patient(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl<P: Read> Output<P> {
    fn new(pipe: P) -> Self {
        Self { pipe: Some(pipe), second: Instant::now(), bytes: 0 }
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        let Some(pipe) = &mut self.pipe else { return Ok(Vec::new()) };
        if self.second.elapsed() >= Duration::from_secs(1) {
            (self.second, self.bytes) = (Instant::now(), 0);
        }
        let mut bytes = vec![0; CHUNK];
        let length = match pipe.read(&mut bytes) {
            Ok(0) => {
                self.pipe = None;
                0
            }
            Ok(length) => length,
            Err(error) if is_patient(&error) => 0,
            Err(error) => return Err(error),
        };
        bytes.truncate(length);
        self.bytes += length;
        Ok(bytes)
    }

    fn throttled_until(&self, now: Instant) -> Option<Instant> {
        let end = self.second + Duration::from_secs(1);
        (self.bytes > BYTES_A_SECOND_MAX && now < end).then_some(end)
    }
}

fn is_patient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
