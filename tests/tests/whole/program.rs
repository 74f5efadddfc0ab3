//! Commands of the daemon's executable that are no daemon: run to their end, or looked at while they run.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use autoweave_usb_testbus::{Bus, Device};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{QUICK, command, executable, wait_until};

/// Nobody's user id on every Linux system (`overflowuid`, kernel/sys.c).
pub const NOBODY: u32 = 65_534;

/// [`QUICK`], and no scan but the first: none comes between a device's appearing in sysfs and its uevents.
pub const CALM: &[(&str, &str)] = &[QUICK[0], QUICK[1], ("AUTOWEAVE_USB__MONITORING__INTERVAL", "3600000")];

/// A device for [`watch`], which takes it out again.
const DOORBELL_PORT: &str = "1-15";
const DOORBELL_IDS: &str = "1209:4243";

/// How long to wait before ringing again: a scan leaves out ports that have an edge while it is under way.
const RING_AGAIN: Duration = Duration::from_millis(50);

/// What a program that ended left behind.
pub struct Finished {
    status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    pub fn new(status: ExitStatus, stdout: String, stderr: String) -> Self {
        Self { status, stdout, stderr }
    }

    /// The exit code; panics with what it said when a signal killed it or it panicked.
    pub fn code(&self) -> i32 {
        assert!(!self.stderr.contains("panicked"), "it panicked:\n{}", self.stderr);
        self.status.code().unwrap_or_else(|| panic!("it was killed: {}\n{}", self.status, self.stderr))
    }

    /// Asserts that it ended with 0, and returns itself.
    pub fn ok(self) -> Self {
        assert_eq!(self.code(), 0, "it says:\n{}", self.stderr);
        self
    }

    /// Asserts that it ended with `code` and that stderr has each of `words`.
    pub fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code(), code, "it says:\n{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in:\n{}", self.stderr);
        }
    }

    /// Its stdout as one JSON object a line.
    pub fn json(&self) -> Vec<Value> {
        objects(&self.stdout)
    }
}

/// Runs a command line of the program to its end.
pub fn usbd(arguments: &[&str]) -> Finished {
    finish(command(CALM).args(arguments))
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Finished {
    let output = command.output().expect("the program can be started");
    let stdout = String::from_utf8(output.stdout).expect("what is printed is UTF-8");
    Finished::new(output.status, stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Each line of `text`, which has to be a JSON object.
pub fn objects(text: &str) -> Vec<Value> {
    let object = |line| match serde_json::from_str(line) {
        Ok(value @ Value::Object(_)) => value,
        other => panic!("no JSON object: {line:?}: {other:?}"),
    };
    text.lines().map(object).collect()
}

/// A program that goes on until it is told to end. Dropping it kills it.
pub struct Running {
    child: Child,
    output: TempDir,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let output = tempfile::tempdir().expect("the machine has room for temporary files");
        let file = |name| File::create(output.path().join(name)).expect("the directory is new and ours");
        let child = command.stdout(file("stdout")).stderr(file("stderr")).spawn();
        Self { child: child.expect("the program can be started"), output }
    }

    /// Whole lines it has printed so far.
    pub fn stdout(&self) -> String {
        let text = self.read("stdout");
        text[..text.rfind('\n').map_or(0, |end| end + 1)].to_owned()
    }

    pub fn stderr(&self) -> String {
        self.read("stderr")
    }

    /// What it has printed, as one JSON object a line.
    pub fn json(&self) -> Vec<Value> {
        objects(&self.stdout())
    }

    /// Waits until it has printed `count` lines, and returns what it has printed.
    pub fn wait_for_lines(&self, count: usize) -> String {
        wait_until(&format!("{count} lines are printed"), || self.stdout().lines().count() >= count);
        self.stdout()
    }

    pub fn wait_for_stderr(&self, text: &str) {
        wait_until(&format!("stderr says {text:?}"), || self.stderr().contains(text));
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends `signal` and waits for the end.
    pub fn end(mut self, signal: Signal) -> Finished {
        let pid = Pid::from_raw(self.pid().try_into().expect("a process id fits"));
        kill(pid, signal).expect("it was not waited for, so its process id is its own");
        self.wait()
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> Finished {
        wait_until("the program ends", || !self.is_running());
        let status = self.child.wait().expect("it is our child");
        Finished { status, stdout: self.read("stdout"), stderr: self.stderr() }
    }

    fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.output.path().join(name)).expect("the file is ours");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("stdout:\n{}\nstderr:\n{}", self.stdout(), self.stderr());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts `watch` and waits until it knows what is connected: before that, it may take a device that is being
/// plugged for one that was there. The first line it prints is a detach that has nothing to do with the test.
pub fn watch(bus: &mut Bus, command: &mut Command) -> Running {
    bus.plug_silent(DOORBELL_PORT, &Device::new(0x1209, 0x4243)).unwrap();
    let running = Running::start(command);
    running.wait_for_stderr("watching ");
    ring_until(bus, DOORBELL_PORT, || running.stdout().contains(DOORBELL_IDS));
    bus.unplug_silent(DOORBELL_PORT).unwrap();
    running
}

/// Says that the device in `port`, which nobody was told of, has gone, until `condition` holds. Only whoever has
/// found it in a scan takes that for an event.
pub fn ring_until(bus: &mut Bus, port: &str, mut condition: impl FnMut() -> bool) {
    let mut rung = None;
    wait_until("the bell is answered", || {
        if rung.is_none_or(|at: Instant| at.elapsed() > RING_AGAIN) {
            bus.uevent("remove", port).unwrap();
            rung = Some(Instant::now());
        }
        condition()
    });
}

/// Rounds in which a device is slow to be read, until that is no accident any more.
const ROUNDS_MAX: usize = 20;

/// Plays rounds until every device in the events that one returns was read in time. On a machine that is busy
/// enough, reading a device takes more than the 200 ms that an attach waits for it, and the event says less.
pub fn until_read<const N: usize>(mut round: impl FnMut() -> [Vec<Value>; N]) -> [Vec<Value>; N] {
    for _ in 0..ROUNDS_MAX {
        let told = round();
        if told.iter().flatten().all(|event| event["device"]["device_descriptor"].is_object()) {
            return told;
        }
    }
    panic!("in each of {ROUNDS_MAX} rounds a device was told without having been read")
}

/// The program as a user without any privileges would run it, in an environment with nothing in it but `home`.
pub struct Unprivileged {
    pub home: TempDir,
    program: TempDir,
}

impl Unprivileged {
    pub fn new() -> Self {
        // The build directory may be nobody else's business.
        let program = tempfile::tempdir().expect("the machine has room for temporary files");
        // By another process: what this one has open for writing, a program that another test starts at this
        // moment has open as well, and then the copy cannot be executed.
        let copied = Command::new("cp").arg(executable()).arg(program.path().join("autoweave-usbd")).status();
        assert!(copied.expect("cp is there").success());
        let home = tempfile::tempdir().expect("the machine has room for temporary files");
        fs::set_permissions(program.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
        Self { home, program }
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
        // Under `unshare -Ur` there is no other user to become; root without capabilities is as powerless.
        if has_user(NOBODY) {
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        }
        command.arg(self.program.path().join("autoweave-usbd"));
        let home = self.home.path();
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).current_dir(home).stdin(Stdio::null());
        for variable in
            ["HOME", "TMPDIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"]
        {
            command.env(variable, home);
        }
        command
    }
}

/// Whether this user namespace has the user `id` (user_namespaces(7), "uid_map").
pub fn has_user(id: u32) -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        matches!(numbers[..], [first, _, count] if (first..first + count).contains(&u64::from(id)))
    })
}

/// Every path below `directory`, for a test that says there is none.
pub fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
