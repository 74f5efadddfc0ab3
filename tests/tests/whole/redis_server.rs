//! A real redis-server, or what speaks its language, and a daemon that publishes to it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use autoweave_usb_testbus::Bus;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Daemon, StateDir, events, last_seq, wait_until};
use crate::invariants::{check, text};
use crate::program::usbd;

pub const STREAM: &str = "aw:hotplug";

/// The publisher's own key, which says how far each producer got.
pub const MARKS: &str = "{aw:hotplug}:seq";

/// Names and values of an entry, in the entry's order.
pub type Entry = Vec<(String, String)>;

/// A server's executable, and its tool that mends an append-only file.
#[derive(Clone)]
pub struct Program {
    pub server: PathBuf,
    pub check_aof: PathBuf,
}

/// A server on a Unix socket, which keeps what it acknowledged over a kill.
pub struct Server {
    program: Program,
    arguments: Vec<String>,
    child: Child,
    directory: TempDir,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// [`Self::start`] with further arguments, such as the TCP port of a server that is to have replicas.
    pub fn start_with(arguments: &[&str]) -> Self {
        let redis = Program { server: "redis-server".into(), check_aof: "redis-check-aof".into() };
        Self::start_program(redis, arguments)
    }

    pub fn start_program(program: Program, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let child = spawn(&program, directory.path(), &arguments);
        let server = Self { program, arguments, child, directory };
        server.wait();
        server
    }

    fn wait(&self) {
        wait_until("Redis answers", || self.connect().is_some());
    }

    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again after [`Self::kill`].
    pub fn restart(&mut self) {
        self.mend_append_only_file();
        self.child = spawn(&self.program, self.directory.path(), &self.arguments);
        self.wait();
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, signal).unwrap();
    }

    /// Redis 7.0, killed amid writing a script's effects and started twice since, did half of that script again in one
    /// run of eight. It seems to cut its file off inside the `MULTI`, which what it writes next then completes.
    /// `redis-check-aof` cuts before it; since then, none of 24 runs failed.
    fn mend_append_only_file(&self) {
        let manifest = self.directory.path().join("appendonlydir/appendonly.aof.manifest");
        if manifest.exists() {
            let mut check = Command::new(&self.program.check_aof);
            check
                .arg("--fix")
                .arg(manifest)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let mut check = check.spawn().unwrap();
            // It asks, unless nothing is wrong: then nobody reads the answer.
            let _ = check.stdin.take().unwrap().write_all(b"y\n");
            assert!(check.wait().unwrap().success());
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    pub fn url(&self) -> String {
        url(&self.socket())
    }

    pub fn connect(&self) -> Option<redis::Connection> {
        let mut connection = redis::Client::open(self.url()).unwrap().get_connection().ok()?;
        redis::cmd("PING").query::<String>(&mut connection).ok()?;
        Some(connection)
    }

    /// Has the server do the command of these words, which has to succeed.
    pub fn order(&self, words: &str) {
        order(&mut self.connect().unwrap(), words);
    }

    pub fn length(&self) -> u64 {
        self.connect()
            .map_or(0, |mut connection| redis::cmd("XLEN").arg(STREAM).query(&mut connection).unwrap())
    }

    /// The stream's entries, in order, each as its fields in order.
    pub fn entries(&self) -> Vec<Entry> {
        let mut connection = self.connect().unwrap();
        let entries: Vec<(String, Vec<String>)> =
            redis::cmd("XRANGE").arg(STREAM).arg("-").arg("+").query(&mut connection).unwrap();
        let pairs = |fields: Vec<String>| {
            fields.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect::<Vec<_>>()
        };
        entries.into_iter().map(|(_, fields)| pairs(fields)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(program: &Program, directory: &Path, arguments: &[String]) -> Child {
    let mut command = Command::new(&program.server);
    command.current_dir(directory).stdout(Stdio::null());
    command.args(["--port", "0", "--unixsocket", "redis.sock"]);
    command.args(["--save", "", "--appendonly", "yes", "--appendfsync", "always"]).args(arguments);
    let missing = |error| panic!("{error}: {} (cargo xtask test installs it)", program.server.display());
    command.spawn().unwrap_or_else(missing)
}

/// Does the command of these words over a connection.
pub fn order(connection: &mut redis::Connection, words: &str) {
    let mut words = words.split(' ');
    redis::cmd(words.next().unwrap()).arg(words.collect::<Vec<_>>()).exec(connection).unwrap();
}

/// The URL of a Redis on this Unix socket.
pub fn url(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

/// A daemon that publishes to `server`, with every edge an event.
pub fn start(bus: &Bus, state: &StateDir, server: &Server) -> Daemon {
    start_at(bus, state, &[("REDIS_URL", &server.url())])
}

/// [`start`], with the environment that says where to publish, and what else is to differ.
pub fn start_at(bus: &Bus, state: &StateDir, redis: &[(&str, &str)]) -> Daemon {
    let env = [
        ("AUTOWEAVE_USB__PERFORMANCE__DEBOUNCE_MS", "0"),
        ("AUTOWEAVE_USB__PERFORMANCE__MAX_EVENTS_PER_SECOND", "0"),
        ("AUTOWEAVE_USB__PERFORMANCE__BATCH_SIZE", "100"),
        ("AUTOWEAVE_USB__JOURNAL__DURABILITY", "process"),
        ("AUTOWEAVE_USB__MONITORING__INTERVAL", "500"),
    ];
    Daemon::start(bus, state, &[&env, redis].concat())
}

/// What the running daemon says of its health. It has to be alive and to say so: an outage of Redis is no failure.
pub fn health() -> Value {
    usbd(&["health"]).ok().json().remove(0)
}

/// Waits until the daemon says that publishing is held up, and why.
pub fn wait_until_degraded(daemon: &Daemon, cause: &str) {
    daemon.wait_until(&format!("it is degraded: {cause}"), || is_degraded(cause));
    daemon.wait_for_log(cause);
}

/// Whether the daemon says that publishing is held up by `cause`.
pub fn is_degraded(cause: &str) -> bool {
    let health = health();
    let (status, stream) = (&health["status"], &health["stream"]);
    let is_down = status == "degraded" && stream["state"] == "down";
    is_down && text(&stream["last_error"]).contains(cause)
}

/// Waits until the stream has as many entries as the journal has events, and the daemon calls itself well.
pub fn wait_until_published(daemon: &Daemon, state: &StateDir, server: &Server) {
    let published = || {
        let health = health();
        let is_well = health["status"] == "ok" && health["stream"]["state"] == "up";
        is_well && health["journal"]["unpublished"] == 0 && server.length() == last_seq(state)
    };
    daemon.wait_until("all is published", published);
}

/// What is in the stream is what is in the journal: all of it, in order, once.
pub fn compare(state: &StateDir, server: &Server) {
    let events = events(state);
    check(&events);
    let told: Vec<(String, String)> =
        events.iter().map(|event| (event["seq"].to_string(), text(&event["event_id"]).to_owned())).collect();
    let published = server.entries().into_iter().map(|entry| {
        let mut fields: BTreeMap<String, String> = entry.into_iter().collect();
        (fields.remove("seq").unwrap(), fields.remove("event_id").unwrap())
    });
    assert_eq!(published.collect::<Vec<_>>(), told);
}
