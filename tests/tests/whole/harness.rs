//! The daemon as its users run it, on a virtual bus: start, watch, end, and read what it wrote.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use autoweave_usb_testbus::Bus;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use tempfile::TempDir;

use crate::program::{NOBODY, has_user};

/// How long anything may take before it counts as never. Only a failing test waits that long.
pub const PATIENCE: Duration = Duration::from_secs(30);

const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// What most tests want: every edge, and a journal that does not wait for the disk.
pub const QUICK: &[(&str, &str)] =
    &[("AUTOWEAVE_USB__PERFORMANCE__DEBOUNCE_MS", "0"), ("AUTOWEAVE_USB__JOURNAL__DURABILITY", "process")];

/// A state directory that goes when the test ends.
pub struct StateDir {
    directory: TempDir,
}

impl StateDir {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("the machine has room for temporary files") }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// The built daemon: `$AUTOWEAVE_USBD`, or what `cargo build --release` leaves.
pub fn executable() -> PathBuf {
    let target = || match env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
    };
    let path =
        env::var_os("AUTOWEAVE_USBD").map_or_else(|| target().join("release/autoweave-usbd"), PathBuf::from);
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build --release` first, or name the daemon with $AUTOWEAVE_USBD",
        path.display()
    );
    path
}

/// In a user namespace of its own a daemon would poll, until it hears the first uevent that the bus sends.
const UEVENT: (&str, &str) = ("AUTOWEAVE_USB__SOURCE__CHAIN", "uevent");

/// A command line of the daemon in an environment with nothing in it but `env`: what the machine has
/// configured does not count.
pub fn command(env: &[(&str, &str)]) -> Command {
    command_of(&executable(), env)
}

fn command_of(program: &Path, env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("AUTOWEAVE_USB_CONFIG", "/dev/null")
        .envs(is_in_user_namespace().then_some(UEVENT))
        .envs(env.iter().copied())
        .stdin(Stdio::null());
    command
}

/// Whether the tests are run under `unshare -Ur`.
pub fn is_in_user_namespace() -> bool {
    let namespace = fs::read_link("/proc/self/ns/user").unwrap();
    // PROC_USER_INIT_INO, include/linux/proc_ns.h.
    namespace != Path::new("user:[4026531837]")
}

/// A running daemon. Dropping it kills it, and shows its log if the test failed.
pub struct Daemon {
    child: Child,
    log: PathBuf,
    _log_directory: TempDir,
    ended: bool,
}

impl Daemon {
    /// Starts a daemon and waits until it is ready. The bus shows that the calling thread is in its namespaces.
    pub fn start(bus: &Bus, state: &StateDir, env: &[(&str, &str)]) -> Self {
        Self::start_with(bus, state.path(), env, &[])
    }

    /// [`Self::start`] with further arguments.
    pub fn start_with(bus: &Bus, state: &Path, env: &[(&str, &str)], arguments: &[&str]) -> Self {
        let daemon = Self::spawn(bus, state, env, arguments);
        daemon.wait_for_log("watching ");
        daemon
    }

    /// Starts a daemon, ready or not.
    pub fn spawn(bus: &Bus, state: &Path, env: &[(&str, &str)], arguments: &[&str]) -> Self {
        Self::spawn_program(bus, &executable(), state, env, arguments)
    }

    /// [`Self::spawn`], of an executable elsewhere.
    pub fn spawn_program(
        _bus: &Bus,
        program: &Path,
        state: &Path,
        env: &[(&str, &str)],
        arguments: &[&str],
    ) -> Self {
        let log_directory = tempfile::tempdir().expect("the machine has room for temporary files");
        let log = log_directory.path().join("log");
        let stderr = File::create(&log).expect("the directory is new and ours");
        let mut command = command_of(program, &[]);
        command.env("RUNTIME_DIRECTORY", log_directory.path()).envs(env.iter().copied());
        command.arg("run").arg("--state-dir").arg(state).args(arguments).stdout(Stdio::null()).stderr(stderr);
        // In a user namespace of its own it would poll until it has heard a uevent; the bus sends them there as well.
        if !has_user(NOBODY) && !arguments.contains(&"--source") {
            command.args(["--source", "uevent"]);
        }
        let child = command.spawn().expect("the daemon is an executable");
        Self { child, log, _log_directory: log_directory, ended: false }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process id of the daemon itself where a keeper runs it.
    pub fn daemon_pid(&self) -> u32 {
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children
            .split_whitespace()
            .next()
            .map_or(pid, |child| child.parse().expect("a process id is a number"))
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).expect("the log is ours")).into_owned()
    }

    /// Waits until `condition` holds; panics when it never does, or the daemon ends first.
    pub fn wait_until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let pid = Pid::from_raw(self.pid().try_into().expect("a process id fits"));
        let is_running = || kill(pid, None).is_ok() && !is_zombie(self.pid());
        wait_until(what, || {
            // Asked in this order because a daemon that ends may do it just before.
            let may_still = is_running();
            let holds = condition();
            assert!(holds || may_still, "the daemon ended, and never: {what}");
            holds
        });
    }

    /// Waits for a line with `text`.
    pub fn wait_for_log(&self, text: &str) {
        self.wait_until(&format!("the log says {text:?}"), || self.log().contains(text));
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().try_into().expect("a process id fits"));
        kill(pid, signal).expect("the daemon was not waited for, so its process id is its own");
    }

    /// Ends it with SIGTERM, which has to succeed, and returns its log.
    pub fn stop(mut self) -> String {
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        assert!(status.success(), "SIGTERM ends the daemon with 0, not {status}");
        self.log()
    }

    /// Ends it with SIGKILL.
    pub fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        let status = self.wait();
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "the daemon ended by itself: {status}");
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the daemon ends", || {
            status = self.child.try_wait().expect("the daemon is our child");
            status.is_some()
        });
        self.ended = true;
        status.expect("the wait ends with a status")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read(&self.log).unwrap_or_default();
            let tail = &log[log.len().saturating_sub(8000)..];
            eprintln!("the daemon's log ends:\n{}", String::from_utf8_lossy(tail));
        }
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Waits until `condition` holds, or panics after [`PATIENCE`].
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {} s, and never: {what}", PATIENCE.as_secs());
        thread::sleep(LOOK_AGAIN);
    }
}

/// Every event in the journal, in order; none where there is no journal.
pub fn events(state: &StateDir) -> Vec<Value> {
    events_in(state.path())
}

/// [`events`], of any directory.
pub fn events_in(state: &Path) -> Vec<Value> {
    rows(state, "SELECT event FROM events ORDER BY seq")
}

/// The devices the journal says are connected, by port.
pub fn devices(state: &StateDir) -> Vec<Value> {
    devices_in(state.path())
}

/// [`devices`], of any directory.
pub fn devices_in(state: &Path) -> Vec<Value> {
    rows(state, "SELECT device FROM devices ORDER BY port")
}

/// The highest sequence number, 0 where there is no event. Cheap enough to wait on.
pub fn last_seq(state: &StateDir) -> u64 {
    let max = |connection: &Connection| {
        connection.query_row("SELECT coalesce(max(seq), 0) FROM events", [], |row| row.get::<_, i64>(0))
    };
    let last = read(state.path(), max).unwrap_or(0);
    last.try_into().expect("sequence numbers start at 1")
}

fn rows(state: &Path, query: &str) -> Vec<Value> {
    let rows = read(state, |connection| {
        connection
            .prepare(query)?
            .query_map([], |row| row.get::<_, String>(0))?
            .collect::<Result<Vec<_>, _>>()
    });
    let parse = |row: &String| serde_json::from_str(row).expect("the journal holds JSON");
    rows.unwrap_or_default().iter().map(parse).collect()
}

/// `None` where there is no journal yet.
fn read<T>(state: &Path, query: impl Fn(&Connection) -> rusqlite::Result<T>) -> Option<T> {
    let path = state.join("journal.db");
    // A daemon that starts or is killed in this moment makes a reader fail; it comes right by itself.
    let deadline = Instant::now() + PATIENCE;
    loop {
        if fs::metadata(&path).map_or(0, |metadata| metadata.len()) == 0 {
            return None;
        }
        let answer =
            Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).and_then(|connection| {
                connection.busy_timeout(PATIENCE)?;
                query(&connection)
            });
        match answer {
            Ok(answer) => return Some(answer),
            Err(error) => assert!(Instant::now() < deadline, "the journal cannot be read: {error}"),
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// Ended, but not yet waited for.
fn is_zombie(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}
