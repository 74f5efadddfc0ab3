//! A worker: one process of a plugin, from hello to its end.
//!
//! Every wait has a deadline, everything read a bound, and whatever a plugin does to its protocol ends its whole
//! process group and comes back as a value.

mod pipes;

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use autoweave_usb_device::Event;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use thiserror::Error;

use crate::launch::Launch;
use crate::pidfd;
use crate::protocol::{self, Level, Lines, Said, Verdict};
use pipes::{BYTES_A_SECOND_MAX, Found, Pipes};

/// Log lines a worker may write in a second; more are counted.
const LOG_LINES_A_SECOND_MAX: u32 = 100;

/// How long a killed process may take to be gone. One that sits in a call to a device can take longer.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// From the end of its standard output to that of the process, where that is how it ends.
const CLOSED_GRACE: Duration = Duration::from_secs(2);

/// How long a plugin may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// From its start to `ready`.
    pub ready: Duration,
    /// From an event to its `done`.
    pub event: Duration,
    /// From `shutdown` to its end.
    pub shutdown: Duration,
}

/// A line for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// `Warn` for what came on standard error.
    pub level: Level,
    /// What it says. Written by the plugin: may hold any character.
    pub message: String,
    /// The event the worker had at that time.
    pub event_id: Option<String>,
}

/// Takes log lines.
pub type LogSink = Box<dyn FnMut(LogLine) + Send>;

/// Why a worker is no more.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the fields are named by the messages")]
pub enum WorkerFault {
    #[error("cannot start it: {0}")]
    Start(io::Error),
    #[error("no `{awaited}` within {} ms", limit.as_millis())]
    Deadline { awaited: &'static str, limit: Duration },
    #[error("it ended: {0}")]
    Exited(Exit),
    #[error("it closed its standard output")]
    Closed,
    #[error("it broke the protocol: {0}")]
    Protocol(String),
    #[error("it wrote more than {BYTES_A_SECOND_MAX} bytes in a second")]
    Flood,
    #[error("cannot talk to it: {0}")]
    Io(#[from] io::Error),
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// None where it could not be waited for any longer.
    pub status: Option<ExitStatus>,
    /// The last line it wrote to standard error.
    pub last_words: Option<String>,
}

/// Why [`Worker::idle`] came back.
#[derive(Debug)]
pub enum Idle {
    /// The waker has something to read, or the time has passed.
    Woken,
    /// The worker is no more.
    Ended(WorkerFault),
}

/// A running plugin process that is ready for events. Dropped, its whole process group is killed; so it is when this
/// process ends, however that ends.
pub struct Worker {
    child: Child,
    pipes: Pipes,
    deadlines: Deadlines,
    log: Log,
    stdout: Lines,
    reaped: bool,
}

/// Ends a worker from another thread, which its own then finds crashed. Holds on to the process, so that it never
/// hits another one that got its number.
#[derive(Debug)]
pub struct Killer(OwnedFd);

struct Log {
    sink: LogSink,
    stderr: Lines,
    event_id: Option<String>,
    last_words: Option<String>,
    second: Instant,
    lines: u32,
}

impl Worker {
    /// Starts a process, and waits until it is ready.
    ///
    /// # Errors
    /// Why it is not; nothing of it is left.
    pub fn start(launch: &Launch, deadlines: Deadlines, sink: LogSink) -> Result<Self, WorkerFault> {
        let mut child = launch.command().spawn().map_err(WorkerFault::Start)?;
        let pipes = match Pipes::of(&mut child) {
            Ok(pipes) => pipes,
            Err(error) => {
                kill_group(&child);
                // Killed, so not for long; otherwise it would stay as a zombie.
                let _ = child.wait();
                return Err(WorkerFault::Start(error));
            }
        };
        let log = Log {
            sink,
            stderr: Lines::default(),
            event_id: None,
            last_words: None,
            second: Instant::now(),
            lines: 0,
        };
        let mut worker = Self { child, pipes, deadlines, log, stdout: Lines::default(), reaped: false };
        worker.pipes.send(&protocol::hello(&launch.plugin));
        match worker.hear("ready", deadlines.ready)? {
            Said::Ready => Ok(worker),
            other => Err(WorkerFault::Protocol(format!("{other:?} before `ready`"))),
        }
    }

    /// The process that guards the plugin's, and the number of their process group.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A handle by which another thread can end it.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn killer(&self) -> io::Result<Killer> {
        self.pipes.process().map(Killer)
    }

    /// Hands over an event and waits for its `done`. `delivery` counts from 1.
    ///
    /// # Errors
    /// Why there is none; the worker is of no use any more.
    pub fn deliver(&mut self, event: &Event, delivery: u32) -> Result<Verdict, WorkerFault> {
        self.log.event_id = Some(event.event_id.clone());
        self.pipes.send(&protocol::event(event, delivery));
        let verdict = match self.hear("done", self.deadlines.event)? {
            Said::Done { verdict, .. } => verdict,
            other => return Err(WorkerFault::Protocol(format!("{other:?} instead of `done`"))),
        };
        self.log.event_id = None;
        Ok(verdict)
    }

    /// Waits until `waker` has something to read or `timeout`, if there is one, has passed, and takes what the
    /// plugin logs meanwhile.
    pub fn idle(&mut self, waker: BorrowedFd<'_>, timeout: Option<Duration>) -> Idle {
        let end = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let found = match self.pipes.wait(end, Some(waker)) {
                Ok(found) => found,
                Err(error) => return Idle::Ended(error.into()),
            };
            let woken = found.woken || end.is_some_and(|end| Instant::now() >= end);
            match self.take(found) {
                Ok(None) if woken => return Idle::Woken,
                Ok(None) => {}
                Ok(Some(said)) => {
                    return Idle::Ended(WorkerFault::Protocol(format!("{said:?} without an event")));
                }
                Err(fault) => return Idle::Ended(fault),
            }
        }
    }

    /// Asks it to end, and kills what is left at its deadline.
    ///
    /// # Errors
    /// Its end was not the one asked for: a deadline, or an exit with an error.
    pub fn shut_down(mut self) -> Result<(), WorkerFault> {
        self.pipes.send(&protocol::shutdown());
        let end = Instant::now() + self.deadlines.shutdown;
        loop {
            let found = self.pipes.wait(Some(end), None)?;
            let (exited, ended) = (found.exited, found.ended);
            if exited || ended {
                self.log.take(&found.stderr);
                let exit = if exited { self.reap() } else { self.wait_for_exit(end) };
                return match exit.status {
                    Some(status) if status.success() => Ok(()),
                    _ => Err(WorkerFault::Exited(exit)),
                };
            }
            // It may still log and finish what it is at; only its end counts now.
            if let Err(WorkerFault::Flood) = self.take(found) {
                return Err(WorkerFault::Flood);
            }
            if Instant::now() >= end {
                return Err(WorkerFault::Deadline { awaited: "end", limit: self.deadlines.shutdown });
            }
        }
    }

    /// The next thing it says that is not for the log.
    fn hear(&mut self, awaited: &'static str, limit: Duration) -> Result<Said, WorkerFault> {
        let end = Instant::now() + limit;
        loop {
            let found = self.pipes.wait(Some(end), None)?;
            if let Some(said) = self.take(found)? {
                return Ok(said);
            }
            if Instant::now() >= end {
                return Err(WorkerFault::Deadline { awaited, limit });
            }
        }
    }

    /// Takes in what was found: at most one thing said is expected at any time.
    fn take(&mut self, found: Found) -> Result<Option<Said>, WorkerFault> {
        self.log.take(&found.stderr);
        self.stdout.push(&found.stdout);
        let mut answer = None;
        while let Some(line) = self.stdout.next_line().map_err(|_| too_long())? {
            match protocol::parse(&line).map_err(WorkerFault::Protocol)? {
                Said::Log { level, message } => self.log.line(level, message),
                Said::Done { id, .. } if answer.is_some() || self.log.event_id.as_ref() != Some(&id) => {
                    self.log.line(Level::Warn, format!("`done` for {id:?}, which it does not have: ignored"));
                }
                said if answer.is_none() => answer = Some(said),
                said => return Err(WorkerFault::Protocol(format!("{said:?} on top of an answer"))),
            }
        }
        if found.flood {
            return Err(WorkerFault::Flood);
        }
        // What it said before it ended counts.
        if answer.is_some() {
            return Ok(answer);
        }
        if found.exited && found.stdout.is_empty() {
            return Err(WorkerFault::Exited(self.reap()));
        }
        if found.ended {
            let exit = self.wait_for_exit(Instant::now() + CLOSED_GRACE);
            return Err(if exit.status.is_some() { WorkerFault::Exited(exit) } else { WorkerFault::Closed });
        }
        Ok(None)
    }

    /// Its exit, if it comes before `end`.
    fn wait_for_exit(&mut self, end: Instant) -> Exit {
        while Instant::now() < end {
            match self.pipes.wait(Some(end), None) {
                Ok(found) if found.exited => {
                    self.log.take(&found.stderr);
                    return self.reap();
                }
                Ok(found) => self.log.take(&found.stderr),
                Err(_) => break,
            }
        }
        Exit { status: None, last_words: self.log.last_words.clone() }
    }

    /// Kills what is left of the group first: once the process is reaped, its number may be another's.
    fn reap(&mut self) -> Exit {
        self.log.finish(&mut self.pipes);
        kill_group(&self.child);
        let status = self.child.try_wait().ok().flatten();
        self.reaped = status.is_some();
        Exit { status, last_words: self.log.last_words.clone() }
    }
}

impl Killer {
    /// Kills the guard, and the kernel the plugin with it; one that is gone already stays gone.
    pub fn kill(&self) {
        pidfd::kill(&self.0);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        kill_group(&self.child);
        self.pipes.end_input();
        let end = Instant::now() + KILL_TIMEOUT;
        while Instant::now() < end {
            match self.pipes.wait(Some(end), None) {
                Ok(found) if found.exited => break,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        let _ = self.child.try_wait();
    }
}

impl Log {
    fn take(&mut self, stderr: &[u8]) {
        self.stderr.push(stderr);
        loop {
            match self.stderr.next_line() {
                Ok(Some(line)) => self.standard_error(&line),
                Ok(None) => break,
                Err(protocol::TooLong) => self.standard_error(b"(a line too long to be shown)"),
            }
        }
    }

    /// What is still in the pipe of a process that has ended, up to what a pipe holds.
    fn finish(&mut self, pipes: &mut Pipes) {
        if let Ok(found) = pipes.wait(Some(Instant::now()), None) {
            self.take(&found.stderr);
        }
        let rest = self.stderr.rest();
        if !rest.is_empty() {
            self.standard_error(&rest);
        }
    }

    fn standard_error(&mut self, line: &[u8]) {
        let text = protocol::cut(&String::from_utf8_lossy(line));
        self.last_words = Some(text.clone());
        self.line(Level::Warn, text);
    }

    fn line(&mut self, level: Level, message: String) {
        if self.second.elapsed() >= Duration::from_secs(1) {
            let dropped = self.lines.saturating_sub(LOG_LINES_A_SECOND_MAX);
            (self.second, self.lines) = (Instant::now(), 0);
            if dropped > 0 {
                self.pass_on(Level::Warn, format!("{dropped} lines were left out"));
            }
        }
        self.lines = self.lines.saturating_add(1);
        if self.lines <= LOG_LINES_A_SECOND_MAX {
            self.pass_on(level, message);
        }
    }

    fn pass_on(&mut self, level: Level, message: String) {
        (self.sink)(LogLine { level, message, event_id: self.event_id.clone() });
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status.map(|status| (status.code(), status.signal())) {
            Some((Some(code), _)) => write!(f, "with code {code}")?,
            Some((None, signal)) => write!(f, "by signal {}", signal.unwrap_or_default())?,
            None => f.write_str("and cannot be waited for")?,
        }
        self.last_words.iter().try_for_each(|words| write!(f, ", its last words: {words}"))
    }
}

fn too_long() -> WorkerFault {
    WorkerFault::Protocol(format!("a line of more than {} bytes", protocol::LINE_MAX))
}

fn kill_group(child: &Child) {
    if let Ok(id) = i32::try_from(child.id()) {
        // Gone already is as good.
        let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
    }
}
