//! The keeper: the process that `run` begins as. It holds what has to outlive the daemon, starts the daemon, and
//! starts it again when it is killed.
//!
//! It does nothing else, so that there is nothing in it to fail: one thread, no journal, no configuration. What a
//! daemon decides itself is final; its exit code becomes the keeper's.

#![expect(unsafe_code, reason = "a system call that could set a signal handler")]

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{self, Command, ExitCode};
use std::time::{Duration, Instant};
use std::{env, io};

use autoweave_usb_source::Reception;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{self, SigHandler, SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::exit::Failure;

/// The numbers of the file descriptors that hold a reception, joined by `:`.
pub const FDS: &str = "AUTOWEAVE_USBD_FDS";

/// The process id of the keeper, if there is one.
pub const KEEPER: &str = "AUTOWEAVE_USBD_KEEPER";

/// What ended the daemon before: `SIGKILL (3 times in all)`.
pub const RESTARTED: &str = "AUTOWEAVE_USBD_RESTARTED";

/// How many daemons in a row crashed soon after their start.
pub const UNSTEADY: &str = "AUTOWEAVE_USBD_UNSTEADY";

/// Where the program is on disk.
pub const EXECUTABLE: &str = "AUTOWEAVE_USBD_EXECUTABLE";

/// The numbers of the file descriptors that the keeper holds, joined by `:`. They stay open by themselves.
const KEEP: &str = "AUTOWEAVE_USBD_KEEP";

/// How long to wait before a daemon is started again: twice this after the first kill, then twice as long each time.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A daemon that ran for so long is not killed for what it does at its start.
const STEADY: Duration = Duration::from_secs(10);

/// For how long after a kill, or an upgrade, the keeper does not believe a daemon that it cannot run: a port may be
/// taken, a file half written.
const DOUBT: Duration = Duration::from_secs(60);

/// The exit codes of what may pass.
const PASSING: [i32; 4] = [64, 69, 73, 74];

/// What a process is killed by that does what it must not, and one that panics.
const CRASHES: [Signal; 6] =
    [Signal::SIGABRT, Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGSYS];

/// What the keeper passes on, as it comes.
const FORWARDED: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2];

/// Becomes a keeper that holds `reception`. Returns only if that cannot be.
///
/// The process is made anew by `execve`, so that nothing which the command line or the configuration left in memory
/// stays for as long as the keeper does.
pub fn become_one(reception: &Reception) -> Failure {
    let exec = || -> io::Result<io::Error> {
        let fds = reception.fds();
        for fd in fds {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        let mut command = Command::new(env::current_exe()?);
        command.args(env::args_os().skip(1));
        Ok(command.env(KEEP, fds.map(|fd| fd.as_raw_fd().to_string()).join(":")).exec())
    };
    let error = exec().unwrap_or_else(|error| error);
    Failure::unavailable(format!("the keeper cannot be started: {error}"))
}

/// If this process is to be a keeper: keeps a daemon running, until one ends by itself; its exit code.
pub fn run() -> Option<ExitCode> {
    let fds = env::var(KEEP).ok()?;
    let code = Keeper::new(fds).and_then(Keeper::run).unwrap_or_else(|error| {
        anstream::eprintln!("autoweave-usbd: no daemon can be started: {error}");
        69
    });
    Some(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

struct Keeper {
    /// As it was at the start: the file may be replaced by a newer one.
    executable: PathBuf,
    fds: String,
    signals: SignalFd,
    /// The daemon, until it was waited for.
    child: Option<Pid>,
    started: Instant,
    pause: Duration,
    /// What ended daemons that did not end on purpose: the last of it.
    ended_by: String,
    restarts: u32,
    /// How many of them in a row crashed before they were steady.
    unsteady: u32,
    /// When the last daemon began that is not to be believed at once that it cannot start.
    doubted: Option<Instant>,
    stop: Stop,
}

/// How far a stop that was asked for has come.
#[derive(Clone, Copy, PartialEq)]
enum Stop {
    No,
    /// By this signal.
    Asked(Signal),
    /// A daemon was started to write down what the one before did not.
    Last,
}

impl Keeper {
    fn new(fds: String) -> io::Result<Self> {
        // Inherited as ignored, as some supervisors leave it, it would not say when the daemon has ended.
        // SAFETY: this sets no handler.
        unsafe { signal::signal(Signal::SIGCHLD, SigHandler::SigDfl)? };
        let mut mask = SigSet::empty();
        FORWARDED.into_iter().chain([Signal::SIGCHLD]).for_each(|signal| mask.add(signal));
        mask.thread_set_mask()?;
        Ok(Self {
            executable: env::current_exe()?,
            fds,
            signals: SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?,
            child: None,
            started: Instant::now(),
            pause: PAUSE_FIRST,
            ended_by: String::new(),
            restarts: 0,
            unsteady: 0,
            doubted: None,
            stop: Stop::No,
        })
    }

    /// Runs until a daemon has ended by itself; its exit code.
    fn run(mut self) -> io::Result<i32> {
        self.start()?;
        loop {
            self.wait()?;
            while let Some(signal) = self.signals.read_signal()? {
                let signal =
                    i32::try_from(signal.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
                if let Some(signal) = signal.filter(|signal| FORWARDED.contains(signal)) {
                    self.forward(signal);
                }
            }
            if let Some(code) = self.look_after_child()? {
                return Ok(code);
            }
        }
    }

    /// Waits for a signal, or until a daemon is to be started.
    fn wait(&self) -> io::Result<()> {
        let pause = match self.child {
            Some(_) => PollTimeout::NONE,
            None => PollTimeout::try_from(self.pause.saturating_sub(self.started.elapsed()))
                .unwrap_or(PollTimeout::MAX),
        };
        match poll(&mut [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)], pause) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn forward(&mut self, signal: Signal) {
        if matches!(signal, Signal::SIGTERM | Signal::SIGINT) && self.stop == Stop::No {
            self.stop = Stop::Asked(signal);
        }
        if signal == Signal::SIGUSR2 {
            self.doubted = Some(Instant::now());
        }
        if let Some(child) = self.child {
            // It was not waited for, so the process id is its own; if it has ended, that is seen next.
            let _ = kill(child, signal);
        }
    }

    /// Starts the daemon if it was killed. Returns its exit code if it has ended itself.
    fn look_after_child(&mut self) -> io::Result<Option<i32>> {
        if let Some(status) = self.reap()? {
            self.child = None;
            if let Some(code) = self.ended(status) {
                return Ok(Some(code));
            }
        }
        match (self.child, self.stop) {
            (Some(_), _) => {}
            (None, Stop::No) if self.started.elapsed() < self.pause => {}
            (None, Stop::No) => self.start_again(),
            // What was received and not written down is not to be lost with this process.
            (None, Stop::Asked(signal)) => {
                self.stop = Stop::Last;
                self.start()?;
                if let Some(child) = self.child {
                    let _ = kill(child, signal);
                }
            }
            (None, Stop::Last) => return Ok(Some(1)),
        }
        Ok(None)
    }

    /// The keeper's exit code, if that was the end.
    fn ended(&mut self, status: WaitStatus) -> Option<i32> {
        let is_steady = self.started.elapsed() >= STEADY;
        let is_doubted = self.doubted.is_some_and(|since| since.elapsed() < DOUBT);
        match status {
            WaitStatus::Exited(_, code)
                if !(is_doubted && PASSING.contains(&code)) || self.stop != Stop::No =>
            {
                return Some(code);
            }
            WaitStatus::Exited(_, code) => self.ended_by = format!("itself, with {code}"),
            // As a shell says it.
            WaitStatus::Signaled(_, signal, _) if self.stop == Stop::Last => {
                return Some(128 + signal as i32);
            }
            WaitStatus::Signaled(_, signal, _) => {
                self.ended_by = signal.to_string();
                self.unsteady = match signal {
                    _ if is_steady => 0,
                    signal if CRASHES.contains(&signal) => self.unsteady.saturating_add(1),
                    // Somebody else's doing says nothing of the daemon.
                    _ => self.unsteady,
                };
            }
            _ => return None,
        }
        self.restarts = self.restarts.saturating_add(1);
        self.doubted = Some(Instant::now());
        self.pause = if is_steady { PAUSE_FIRST } else { (self.pause * 2).min(PAUSE_MAX) };
        self.started = Instant::now();
        None
    }

    /// How the daemon ended, if it did. In a container the keeper is process 1, which others' orphans are left to.
    fn reap(&self) -> io::Result<Option<WaitStatus>> {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(None),
                Ok(status) if status.pid() == self.child => return Ok(Some(status)),
                Ok(_) | Err(Errno::EINTR) => {}
                // It was waited for, but has ended by a real-time signal, which has no name.
                Err(Errno::EINVAL) => {
                    if let Some(child) = self.child.filter(|child| kill(*child, None) == Err(Errno::ESRCH)) {
                        return Ok(Some(WaitStatus::Signaled(child, Signal::SIGKILL, false)));
                    }
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn start_again(&mut self) {
        if let Err(error) = self.start() {
            anstream::eprintln!("autoweave-usbd: {} cannot be started: {error}", self.executable.display());
            self.pause = (self.pause * 2).min(PAUSE_MAX);
            self.started = Instant::now();
        }
    }

    fn start(&mut self) -> io::Result<()> {
        let mut command = Command::new(&self.executable);
        // In a process group of its own, or a terminal's Ctrl-C would reach it twice.
        command.args(env::args_os().skip(1)).process_group(0);
        command.env_remove(KEEP).env(FDS, &self.fds).env(KEEPER, process::id().to_string());
        if self.restarts > 0 {
            command.env(RESTARTED, format!("{} ({} times in all)", self.ended_by, self.restarts));
            command.env(UNSTEADY, self.unsteady.to_string());
        }
        let child = i32::try_from(command.spawn()?.id()).map_err(io::Error::other)?;
        self.child = Some(Pid::from_raw(child));
        self.started = Instant::now();
        Ok(())
    }
}
