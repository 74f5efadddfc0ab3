//! A Redis server of the test's own: on a Unix socket in a temporary directory, ended with the test.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use autoweave_usb_stream::{Endpoint, Settings};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(25);

pub struct Server {
    dir: TempDir,
    arguments: Vec<String>,
    child: Child,
}

impl Server {
    pub fn start(arguments: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let child = spawn(dir.path(), &arguments);
        let server = Self { dir, arguments, child };
        server.until_ready();
        server
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn connection(&self) -> redis::Connection {
        let client = redis::Client::open(format!("unix://{}", self.socket().display())).unwrap();
        client.get_connection_with_timeout(PATIENCE).unwrap()
    }

    pub fn settings(&self) -> Settings {
        Settings {
            endpoint: Endpoint::Unix(self.socket()),
            username: None,
            password: None,
            db: 0,
            stream: "aw:hotplug".to_owned(),
            max_len: 100_000.try_into().unwrap(),
            batch_size: 10.try_into().unwrap(),
            max_events_per_second: None,
            interval: Duration::from_millis(200),
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn restart(&mut self) {
        let _ = std::fs::remove_file(self.socket());
        mend_append_only_file(self.dir.path());
        self.child = spawn(self.dir.path(), &self.arguments);
        self.until_ready();
    }

    fn until_ready(&self) {
        until("the server answers", || {
            let client = redis::Client::open(format!("unix://{}", self.socket().display())).unwrap();
            match client.get_connection() {
                // A server that asks for a password is ready too.
                Ok(mut connection) => match redis::cmd("PING").query::<String>(&mut connection) {
                    Ok(_) => true,
                    Err(error) => error.code() == Some("NOAUTH"),
                },
                Err(_) => false,
            }
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A stopped process dies of SIGKILL too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &Path, arguments: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
        .arg(dir.join("redis.sock"))
        .arg("--dir")
        .arg(dir)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server must be installed for these tests")
}

/// Ports that were free just now, all different.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// What the server answers.
pub fn ask<T: redis::FromRedisValue>(server: &Server, words: &[&str]) -> T {
    redis::cmd(words[0]).arg(&words[1..]).query(&mut server.connection()).unwrap()
}

/// Polls a condition, for as long as a loaded machine may need.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Redis 7.0, killed amid writing a script's effects and started twice since, did half of that script again in one
/// run of eight. It seems to cut its file off inside the `MULTI`, which what it writes next then completes.
/// `redis-check-aof` cuts before it; since then, none of 24 runs failed.
fn mend_append_only_file(directory: &Path) {
    let manifest = directory.join("appendonlydir/appendonly.aof.manifest");
    if manifest.exists() {
        let mut check = Command::new("redis-check-aof");
        check.arg("--fix").arg(manifest).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut check = check.spawn().unwrap();
        // It asks, unless nothing is wrong: then nobody reads the answer.
        let _ = check.stdin.take().unwrap().write_all(b"y\n");
        assert!(check.wait().unwrap().success());
    }
}
