//! Who holds the socket of a daemon: the keeper, systemd, or the daemon that it was before a re-exec.

#![expect(unsafe_code, reason = "file descriptors come from the environment as numbers")]

use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, io, thread};

pub use autoweave_usb_source::Reception;
use autoweave_usb_source::{OpenErrors, Options, Supervisor};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::getppid;
use sd_notify::NotifyState;
use tracing::{error, warn};

use crate::exit::Failure;
use crate::keeper::{self, EXECUTABLE, FDS, KEEPER, RESTARTED, UNSTEADY};
use crate::signals;

/// The first descriptor that systemd passes, sd_listen_fds(3).
const LISTEN_FDS_START: RawFd = 3;

/// After so many, what they were to begin with is taken for the cause.
const UNSTEADY_STARTS_MAX: u32 = 5;

/// How often at most systemd has to start a daemon that ends by itself.
const START_PERIOD: Duration = Duration::from_secs(10);

/// More than anyone has a reason to pass.
const LISTEN_FDS_MAX: RawFd = 16;

/// A reception, and what holds it when its source is gone. Where nobody would when this process is gone, this process
/// becomes the keeper and does not return. `None`: there is no uevent socket to be had.
///
/// To be called once, before the process opens anything.
///
/// # Errors
/// What it was given is no uevent socket, or no daemon can be started.
pub fn begin(receive_buffer_bytes: usize) -> Result<Option<(Reception, Held)>, Failure> {
    let is_under_systemd = env::var_os("NOTIFY_SOCKET").is_some();
    if let Some((name, mut numbers)) = numbers() {
        die_with_keeper()?;
        numbers.sort_unstable();
        numbers.dedup();
        let fds = numbers.into_iter().filter_map(take);
        match Reception::adopt(fds, receive_buffer_bytes).map_err(Failure::unavailable)? {
            // systemd holds the socket of a socket unit, but nobody the memory.
            Some(reception) if name != FDS && !is_under_systemd => {
                return Err(keeper::become_one(&reception));
            }
            Some(mut reception) => {
                if unsteady_starts() >= UNSTEADY_STARTS_MAX {
                    reception.forget();
                }
                return Held::new(reception).map(Some);
            }
            // A service that is passed something else.
            None if is_under_systemd => {}
            None => {
                return Err(Failure::usage(format!(
                    "{name}: none of the file descriptors is a uevent socket (ListenNetlink=kobject-uevent 1)"
                )));
            }
        }
    }
    match Reception::open(receive_buffer_bytes) {
        Ok(reception) if is_under_systemd => Held::new(reception).map(Some),
        Ok(reception) => Err(keeper::become_one(&reception)),
        // Opening the source says so, and goes on with another.
        Err(_) => Ok(None),
    }
}

/// The sources, the first on what is held.
///
/// # Errors
/// See [`OpenErrors`].
pub fn sources(reception: Reception, options: Options) -> Result<Supervisor, OpenErrors> {
    Supervisor::with_reception(reception, options)
}

fn numbers() -> Option<(&'static str, Vec<RawFd>)> {
    if let Ok(text) = env::var(FDS) {
        return Some((FDS, text.split(':').filter_map(|number| number.parse().ok()).collect()));
    }
    let number = |name| env::var(name).ok()?.parse::<i32>().ok();
    let is_for_this_process = u32::try_from(number("LISTEN_PID")?) == Ok(std::process::id());
    let count = number("LISTEN_FDS").filter(|count| is_for_this_process && *count > 0)?.min(LISTEN_FDS_MAX);
    Some(("LISTEN_FDS", (LISTEN_FDS_START..LISTEN_FDS_START + count).collect()))
}

/// Takes over an open descriptor that this process inherited.
fn take(number: RawFd) -> Option<OwnedFd> {
    // Standard input and output belong to others; a number that is not open would be somebody's later.
    if number < LISTEN_FDS_START || !Path::new(&format!("/proc/self/fd/{number}")).exists() {
        return None;
    }
    // SAFETY: it is open, and nothing in this process was given it before: this runs first and once.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    Some(fd)
}

/// Without its keeper a daemon would stand in the way of the next one.
fn die_with_keeper() -> Result<(), Failure> {
    let Some(keeper) = env::var(KEEPER).ok().and_then(|text| text.parse::<i32>().ok()) else { return Ok(()) };
    set_pdeathsig(Signal::SIGKILL).map_err(Failure::unavailable)?;
    if getppid().as_raw() == keeper { Ok(()) } else { Err(Failure::unavailable("the keeper has ended")) }
}

/// Says what whoever started this process has to say, once there is a log.
pub fn tell(held: Option<&Held>) {
    if let Ok(restarted) = env::var(RESTARTED) {
        warn!("the daemon before this one was ended by {restarted}");
    }
    if unsteady_starts() >= UNSTEADY_STARTS_MAX {
        error!(
            "{UNSTEADY_STARTS_MAX} daemons in a row crashed soon after their start: what the last one had received and \
             not written down is left out, in case that is why; the bus is scanned instead"
        );
    }
    let Some(held) = held else { return };
    if let Some(problem) = &held.problem {
        warn!("systemd does not take the uevent socket: {problem}");
    }
    let stores = env::var("FDSTORE").ok().and_then(|count| count.parse::<u32>().ok()).unwrap_or(0);
    if env::var_os("NOTIFY_SOCKET").is_some() && stores < 2 {
        warn!(
            "systemd may hold nothing when this daemon is killed: the unit needs FileDescriptorStoreMax=4 (and before \
             systemd 254 Environment=FDSTORE=4, which says so)"
        );
    }
}

/// How many daemons in a row crashed soon after their start.
fn unsteady_starts() -> u32 {
    env::var(UNSTEADY).ok().and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Where the program is, or was when it was started.
pub fn executable() -> Result<PathBuf, Failure> {
    env::var_os(EXECUTABLE).map(PathBuf::from).map_or_else(env::current_exe, Ok).map_err(Failure::unavailable)
}

/// What keeps a reception open beside its source.
pub struct Held {
    fds: [OwnedFd; 2],
    /// Why systemd does not hold them.
    problem: Option<io::Error>,
}

impl Held {
    /// Holds `reception`, and gives it to systemd as well, if there is one that takes it.
    ///
    /// # Errors
    /// The process may have no more files.
    fn new(reception: Reception) -> Result<(Reception, Self), Failure> {
        let [socket, memory] =
            reception.fds().map(|fd| fd.try_clone_to_owned().map_err(Failure::unavailable));
        let fds = [socket?, memory?];
        let borrowed = reception.fds();
        // It polls what it stores, and would throw a socket away that says that messages were lost.
        let no_poll = NotifyState::Custom("FDPOLL=0");
        let state = [NotifyState::FdStore, NotifyState::FdName("autoweave-usb"), no_poll];
        let problem = sd_notify::notify_with_fds(false, &state, &borrowed).err();
        Ok((reception, Self { fds, problem }))
    }
}

/// Becomes what is now on disk at `executable`, which goes on with what is held. Returns only if it cannot.
pub fn exec(held: Option<&Held>, executable: &Path) -> Failure {
    let mut inherited = Vec::new();
    for fd in held.iter().flat_map(|held| &held.fds) {
        match fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())) {
            Ok(_) => inherited.push(fd.as_raw_fd().to_string()),
            Err(error) => error!("a file descriptor cannot be passed on: {error}"),
        }
    }
    // The old program, if there is no new one.
    for path in [executable, Path::new("/proc/self/exe")] {
        let mut command = Command::new(path);
        command.args(env::args_os().skip(1)).env(EXECUTABLE, executable);
        command.env_remove(RESTARTED).env_remove(UNSTEADY);
        if !inherited.is_empty() {
            command.env(FDS, inherited.join(":"));
        }
        error!("{} cannot be started: {}", path.display(), command.exec());
    }
    Failure::unavailable("the daemon has ended: neither the program on disk nor the old one can be started")
}

/// How a daemon under systemd ends that cannot go on: it says why at once, and lets the time until the next one is to be
/// started pass before it is gone. A signal ends that wait.
///
/// The unit cannot see to it. What keeps a daemon from running (a mistake in the configuration, a port that is taken) may
/// stay for long, but a pause that suits it would hold up the successor of one that was killed as well, and pauses that
/// grow are unknown before systemd 254. A service that is given up is started by its socket unit at the next message, at
/// once and again, until the socket is closed (`TriggerLimitBurst=` in systemd.socket(5)), and with it what it holds.
pub fn end_slowly(failure: Failure, begun: Instant) -> Failure {
    if env::var_os("NOTIFY_SOCKET").is_none() {
        return failure;
    }
    let failure = failure.told();
    signals::release();
    thread::sleep(START_PERIOD.saturating_sub(begun.elapsed()));
    failure
}

/// Says to systemd, if there is one that wants to know, that the daemon does its job.
pub fn tell_ready() {
    if let Err(error) = sd_notify::notify(false, &[NotifyState::Ready]) {
        warn!("systemd cannot be told that the daemon is ready: {error}");
    }
}

/// Says to systemd that the daemon lives, as often as the unit's `WatchdogSec=` asks for; sd_watchdog_enabled(3).
pub struct Watchdog {
    /// `None`: nobody asks.
    period: Option<Duration>,
    told: Option<Instant>,
}

impl Watchdog {
    /// What the environment says.
    pub fn from_environment() -> Self {
        let mut microseconds = 0;
        let is_asked = sd_notify::watchdog_enabled(false, &mut microseconds);
        // Four times as often, so that one late answer is no death.
        let period = is_asked.then(|| Duration::from_micros(microseconds) / 4);
        Self { period, told: None }
    }

    /// How long the daemon may wait for something to happen, which is at most `patience`.
    pub fn bound(&self, patience: Duration) -> Duration {
        self.period.map_or(patience, |period| patience.min(period))
    }

    /// Says it, if it is time.
    pub fn tell(&mut self) {
        let Some(period) = self.period else { return };
        if self.told.is_some_and(|told| told.elapsed() < period) {
            return;
        }
        self.told = Some(Instant::now());
        if let Err(error) = sd_notify::notify(false, &[NotifyState::Watchdog]) {
            warn!("systemd cannot be told that the daemon lives: {error}");
        }
    }
}
