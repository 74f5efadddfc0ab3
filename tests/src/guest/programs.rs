//! The programs of a test: the daemon, a real redis-server, and udevd.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::stream::{Entry, STREAM, read};
use super::wait_until;

/// Where the daemon's executable is copied to: users without privileges may not reach what cargo built.
const COPY: &str = "/run/autoweave-usbd";

/// For the udev helper's socket, where the helper looks for it.
const RUNTIME_DIRECTORY: &str = "/run/autoweave-usb";

/// The daemon's executable.
pub fn executable() -> &'static Path {
    let copy = Path::new(COPY);
    if !copy.exists() {
        let built = env::var_os("AUTOWEAVE_USBD")
            .expect("AUTOWEAVE_USBD names the daemon; run this by `cargo xtask`");
        fs::copy(built, copy).unwrap();
    }
    copy
}

/// A redis-server in memory. Killed when it is dropped.
pub struct Redis {
    child: Child,
    directory: TempDir,
}

impl Redis {
    /// Starts one, and waits until it answers.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        open_to_all(directory.path());
        let mut command = Command::new("redis-server");
        command.current_dir(directory.path()).stdout(Stdio::null());
        command.args(["--port", "0", "--unixsocket", "redis.sock", "--unixsocketperm", "777"]);
        let child = command.args(["--save", "", "--appendonly", "no"]).spawn().unwrap();
        let redis = Self { child, directory };
        wait_until("Redis answers", || redis.connect().is_some());
        redis
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// As a URL.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// What is in the stream, in order.
    pub fn entries(&self) -> Vec<Entry> {
        read(&mut self.connect().expect("the server answers"))
    }

    /// How many entries are in the stream.
    pub fn length(&self) -> usize {
        redis::cmd("XLEN").arg(STREAM).query(&mut self.connect().expect("the server answers")).unwrap()
    }

    fn connect(&self) -> Option<redis::Connection> {
        let mut connection = redis::Client::open(self.url()).unwrap().get_connection().ok()?;
        redis::cmd("PING").query::<String>(&mut connection).ok()?;
        Some(connection)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A daemon, with every edge an event. Killed when it is dropped, and its log shown if the test failed.
pub struct Daemon {
    child: Child,
    log: PathBuf,
    _log_directory: TempDir,
}

impl Daemon {
    /// Starts one that publishes to `redis`, and waits until it watches.
    pub fn start(redis: &Redis, state: &Path, arguments: &[&str]) -> Self {
        Self::start_under(&[], redis, state, arguments)
    }

    /// [`Self::start`], by way of a command that runs what follows: `setpriv`, `unshare`.
    pub fn start_under(words: &[&str], redis: &Redis, state: &Path, arguments: &[&str]) -> Self {
        let log_directory = tempfile::tempdir().unwrap();
        let log = log_directory.path().join("log");
        let program = executable().to_str().unwrap();
        let words = [words, &[program, "run"], arguments].concat();
        open_to_all(Path::new(RUNTIME_DIRECTORY));
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg("--state-dir").arg(state);
        command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default());
        command.env("AUTOWEAVE_USB_CONFIG", "/dev/null").env("REDIS_URL", redis.url());
        command.env("RUNTIME_DIRECTORY", RUNTIME_DIRECTORY);
        for (key, value) in [
            ("PERFORMANCE__DEBOUNCE_MS", "0"),
            ("PERFORMANCE__MAX_EVENTS_PER_SECOND", "0"),
            ("MONITORING__INTERVAL", "1000"),
            ("MONITORING__HEALTHCHECK_PORT", "0"),
        ] {
            command.env(format!("AUTOWEAVE_USB__{key}"), value);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        let child = command.spawn().unwrap_or_else(|error| panic!("{words:?}: {error}"));
        let mut daemon = Self { child, log, _log_directory: log_directory };
        wait_until("the daemon watches", || {
            assert!(daemon.child.try_wait().unwrap().is_none(), "the daemon ended:\n{}", daemon.log());
            daemon.log().contains("watching ")
        });
        daemon
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// Ends it with SIGTERM, which has to succeed, and returns its log.
    pub fn stop(mut self) -> String {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let mut status = None;
        wait_until("the daemon ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.is_some_and(|status| status.success()), "{status:?}: {}", self.log());
        self.log()
    }

    /// The keeper and the daemon it runs.
    pub fn processes(&self) -> Vec<u32> {
        let keeper = self.child.id();
        let children =
            fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap_or_default();
        let children = children.split_whitespace().map(|child| child.parse().expect("a process id"));
        std::iter::once(keeper).chain(children).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the daemon's log ends:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Resident memory of these processes in KiB, added up: `field` is `VmRSS` or one of its parts (`/proc/PID/status`).
/// What several of them share counts for each.
pub fn memory_kib(processes: &[u32], field: &str) -> u64 {
    let of = |process: &u32| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let line =
            status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).map(str::to_owned);
        let line = line.unwrap_or_else(|| panic!("process {process} has no {field}"));
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of KiB")
    };
    processes.iter().map(of).sum()
}

/// systemd-udevd, without systemd. Killed when it is dropped.
pub struct Udevd {
    child: Child,
}

impl Udevd {
    /// Starts it, has it take in what is plugged, and waits until it has nothing more to do.
    pub fn start() -> Self {
        let mut command = Command::new("udevadm");
        // They are one program.
        command.arg0("systemd-udevd").args(["--resolve-names=early"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let udevd = Self { child };
        wait_until("udevd listens", || Path::new("/run/udev/control").exists());
        super::run(&["udevadm", "trigger", "--action=add", "--subsystem-match=usb"]);
        super::run(&["udevadm", "settle", "--timeout=60"]);
        udevd
    }
}

impl Drop for Udevd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file("/run/udev/control");
    }
}

/// Makes a directory that any user may write to.
fn open_to_all(directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    fs::set_permissions(directory, Permissions::from_mode(0o777)).unwrap();
}
