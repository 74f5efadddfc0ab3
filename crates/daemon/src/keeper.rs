//! The keeper: the process that `run` begins as. It holds what has to outlive the daemon, starts the daemon, and
//! starts it again when it is killed.
//!
//! It does nothing else, so that there is nothing in it to fail: one thread, no journal, no configuration. What a
//! daemon decides itself is final; its exit code becomes the keeper's.

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
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::exit::Failure;

/// The numbers of the file descriptors that hold a reception, joined by `:`.
pub const FDS: &str = "AUTOWEAVE_USBD_FDS";

/// The process id of the keeper, if there is one.
pub const KEEPER: &str = "AUTOWEAVE_USBD_KEEPER";

/// How often the daemon was started again, and what had ended it: `3 SIGKILL`.
pub const RESTARTED: &str = "AUTOWEAVE_USBD_RESTARTED";

/// The numbers of the file descriptors that the keeper holds, joined by `:`. They stay open by themselves.
const KEEP: &str = "AUTOWEAVE_USBD_KEEP";

/// How long to wait before a daemon is started again: after the first kill, then twice as long each time.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A daemon that ran for so long is not killed for what it does at its start.
const STEADY: Duration = Duration::from_secs(10);

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
    /// How often the daemon was killed, and by what last.
    restarted: Option<(u32, Signal)>,
    is_stopping: bool,
}

impl Keeper {
    fn new(fds: String) -> io::Result<Self> {
        let mut mask = SigSet::empty();
        FORWARDED.into_iter().chain([Signal::SIGCHLD]).for_each(|signal| mask.add(signal));
        mask.thread_block()?;
        Ok(Self {
            executable: env::current_exe()?,
            fds,
            signals: SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?,
            child: None,
            started: Instant::now(),
            pause: PAUSE_FIRST,
            restarted: None,
            is_stopping: false,
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
        self.is_stopping |= matches!(signal, Signal::SIGTERM | Signal::SIGINT);
        if let Some(child) = self.child {
            // It was not waited for, so the process id is its own; if it has ended, that is seen next.
            let _ = kill(child, signal);
        }
    }

    /// Starts the daemon if it was killed. Returns its exit code if it has ended itself.
    fn look_after_child(&mut self) -> io::Result<Option<i32>> {
        if let Some(status) = self.reap()? {
            self.child = None;
            let code = match status {
                WaitStatus::Signaled(_, signal, _) => self.was_killed(signal),
                WaitStatus::Exited(_, code) => Some(code),
                _ => None,
            };
            return Ok(code);
        }
        match self.child {
            None if self.is_stopping => return Ok(Some(0)),
            None if self.started.elapsed() >= self.pause => self.start_again(),
            _ => {}
        }
        Ok(None)
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

    /// Returns the keeper's exit code if it was stopping anyway.
    fn was_killed(&mut self, signal: Signal) -> Option<i32> {
        if self.is_stopping {
            // As a shell says it.
            return Some(128 + signal as i32);
        }
        let count = self.restarted.map_or(1, |(count, _)| count.saturating_add(1));
        self.restarted = Some((count, signal));
        self.pause =
            if self.started.elapsed() >= STEADY { PAUSE_FIRST } else { (self.pause * 2).min(PAUSE_MAX) };
        self.started = Instant::now();
        None
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
        if let Some((count, signal)) = self.restarted {
            command.env(RESTARTED, format!("{count} {signal}"));
        }
        let child = i32::try_from(command.spawn()?.id()).map_err(io::Error::other)?;
        self.child = Some(Pid::from_raw(child));
        self.started = Instant::now();
        Ok(())
    }
}
