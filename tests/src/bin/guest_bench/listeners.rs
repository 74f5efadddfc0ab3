//! Who listens: the daemon, the one in Node, `udevadm monitor`, and a program on libusb.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use autoweave_usb_tests::guest::{Daemon, Entry, Redis, changes, memory_kib, wait_until};
use tempfile::TempDir;

/// After this long without another, no more are to come.
const QUIET: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Clock ticks of `/proc/PID/stat` in a second.
const TICKS: f64 = 100.0;

/// As it is by default: the tests scan more often.
const DEFAULT_INTERVAL: &str = "AUTOWEAVE_USB__MONITORING__INTERVAL=5000";

pub type Start = fn() -> Listener;

/// Those that publish are measured by themselves as well.
pub const PUBLISHERS: [Start; 2] = [daemon, node];

/// In the order of the table.
pub const ALL: [Start; 5] = [daemon, node, udevadm_kernel, udevadm_udev, libusb];

/// A program that hears of devices. Ended when it is dropped.
pub struct Listener {
    pub name: &'static str,
    process: Process,
    hears: Hears,
}

enum Process {
    Daemon { daemon: Daemon, _state: TempDir },
    Child(Child),
}

enum Hears {
    Stream(Redis),
    Counts(Arc<AtomicUsize>),
}

fn daemon() -> Listener {
    let (redis, state) =
        (Redis::start(), tempfile::tempdir().expect("the guest has room for temporary files"));
    let daemon = Daemon::start_under(&["env", DEFAULT_INTERVAL], &redis, state.path(), &[]);
    let process = Process::Daemon { daemon, _state: state };
    Listener { name: "autoweave-usbd", process, hears: Hears::Stream(redis) }
}

fn node() -> Listener {
    let redis = Redis::start();
    let modules = env::var("AUTOWEAVE_NODE")
        .expect("AUTOWEAVE_NODE names a directory; run `cargo xtask bench --guest`");
    // Node looks for packages beside the program.
    let script = Path::new("/run/daemon.mjs");
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/node/daemon.mjs"), script)
        .expect("it is in the repository");
    let _ = std::os::unix::fs::symlink(Path::new(&modules).join("node_modules"), "/run/node_modules");
    let mut command = Command::new("node");
    command.arg(script).arg(redis.socket()).stderr(Stdio::null());
    let (child, lines) = spawn(&mut command, |_| true);
    wait_until("Node is ready", || lines.load(Ordering::Relaxed) > 0);
    Listener {
        name: "Node, npm usb and ioredis",
        process: Process::Child(child),
        hears: Hears::Stream(redis),
    }
}

fn udevadm_kernel() -> Listener {
    udevadm("udevadm monitor --kernel", "--kernel", "KERNEL[")
}

fn udevadm_udev() -> Listener {
    udevadm("udevadm monitor --udev", "--udev", "UDEV  [")
}

fn udevadm(name: &'static str, from: &str, line: &'static str) -> Listener {
    let mut command = Command::new("udevadm");
    command.args(["monitor", from, "--subsystem-match=usb/usb_device"]);
    let (child, count) = spawn(&mut command, move |said| {
        said.starts_with(line) && (said.contains(" add ") || said.contains(" remove "))
    });
    Listener { name, process: Process::Child(child), hears: Hears::Counts(count) }
}

fn libusb() -> Listener {
    let program = env::current_exe().expect("the guest has /proc").with_file_name("libusb_peer");
    let mut command = Command::new(program);
    let (child, count) = spawn(command.arg("--print").stdin(Stdio::piped()), |line| line != "ready");
    Listener { name: "libusb (crate rusb)", process: Process::Child(child), hears: Hears::Counts(count) }
}

/// Starts a program and counts the lines that are `meant`. Waits until it has said anything at all.
fn spawn(command: &mut Command, meant: impl Fn(&str) -> bool + Send + 'static) -> (Child, Arc<AtomicUsize>) {
    let mut child =
        command.stdout(Stdio::piped()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut lines = BufReader::new(child.stdout.take().expect("it was asked for")).lines();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let first = lines.next().expect("it says that it is ready").expect("its output is text");
    let count_line = move |line: &str| {
        if meant(line) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    };
    count_line(&first);
    thread::spawn(move || lines.map_while(Result::ok).for_each(|line| count_line(&line)));
    (child, count)
}

impl Listener {
    /// What it has told so far.
    pub fn count(&self) -> usize {
        match &self.hears {
            Hears::Stream(_) => self.entries().map_or(0, |entries| entries.len()),
            Hears::Counts(count) => count.load(Ordering::Relaxed),
        }
    }

    /// What it has told of changes; `None` where it only counts.
    pub fn entries(&self) -> Option<Vec<Entry>> {
        match &self.hears {
            Hears::Stream(redis) => Some(changes(redis.entries())),
            Hears::Counts(_) => None,
        }
    }

    /// Waits until it has told `expected` changes, or nothing further.
    pub fn wait_until_quiet(&self, expected: usize) {
        let (mut told, mut since) = (self.count(), Instant::now());
        while told < expected && since.elapsed() < QUIET {
            thread::sleep(LOOK_AGAIN);
            let now = self.count();
            if now != told {
                (told, since) = (now, Instant::now());
            }
        }
    }

    fn processes(&self) -> Vec<u32> {
        match &self.process {
            Process::Daemon { daemon, .. } => daemon.processes(),
            Process::Child(child) => vec![child.id()],
        }
    }

    /// Resident memory of its processes; pages that two of them share count twice.
    pub fn rss_mb(&self) -> f64 {
        memory_kib(&self.processes(), "VmRSS") as f64 / 1024.0
    }

    /// Proportional set size of its processes (`/proc/PID/smaps_rollup`).
    pub fn pss_mb(&self) -> f64 {
        let of = |process: u32| {
            let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).expect("it runs");
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).expect("Linux 4.14 has it");
            line.trim_end_matches("kB").trim().parse::<f64>().expect("a number of KiB")
        };
        self.processes().into_iter().map(of).sum::<f64>() / 1024.0
    }

    /// User and system time of its processes (`/proc/PID/stat`, fields 14 and 15).
    pub fn cpu_seconds(&self) -> f64 {
        let of = |process: u32| {
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
            let behind_name = stat.rsplit(')').next().expect("a name in parentheses").to_owned();
            let times = behind_name.split_whitespace().skip(11).take(2);
            times.map(|ticks| ticks.parse::<f64>().expect("a number of ticks")).sum::<f64>()
        };
        self.processes().into_iter().map(of).sum::<f64>() / TICKS
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Self::Child(child) = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
