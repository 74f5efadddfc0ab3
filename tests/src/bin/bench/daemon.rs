//! The daemon that is measured.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use autoweave_usb_journal::Reader;
use tempfile::TempDir;

use crate::{INTERVAL_MS, Outcome, PATIENCE};

/// The release binary.
pub fn binary() -> Outcome<PathBuf> {
    let binary = env::var_os("AUTOWEAVE_USBD").map(PathBuf::from);
    binary.ok_or_else(|| "AUTOWEAVE_USBD does not name the binary; run `cargo xtask bench`".into())
}

/// A daemon in a state directory of its own.
pub struct Daemon {
    child: Child,
    pub directory: TempDir,
}

impl Daemon {
    /// Starts one that publishes nowhere.
    pub fn start(durability: &str) -> Outcome<Self> {
        Self::start_with(durability, &[])
    }

    /// Starts one with more in its environment.
    pub fn start_with(durability: &str, env: &[(&str, &str)]) -> Outcome<Self> {
        Self::start_in(tempfile::tempdir()?, durability, env)
    }

    /// Starts one in a directory that it finds something in.
    pub fn start_in(directory: TempDir, durability: &str, env: &[(&str, &str)]) -> Outcome<Self> {
        let child = Command::new(binary()?)
            .arg("run")
            .arg("--state-dir")
            .arg(directory.path())
            .env("AUTOWEAVE_USB__PERFORMANCE__DEBOUNCE_MS", "0")
            .env("AUTOWEAVE_USB__MONITORING__INTERVAL", INTERVAL_MS)
            .env("AUTOWEAVE_USB__JOURNAL__DURABILITY", durability)
            .env("AUTOWEAVE_USB__LOG__LEVEL", "warn")
            .env("AUTOWEAVE_USB__MONITORING__HEALTHCHECK_PORT", "0")
            .envs(env.iter().copied())
            .stderr(Stdio::inherit())
            .spawn()?;
        Ok(Self { child, directory })
    }

    /// Waits until the journal has an event `seq`, and returns the last there is.
    pub fn wait_for(&self, seq: u64) -> Outcome<u64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let last = Reader::open(self.directory.path()).ok().and_then(|mut reader| reader.last_seq().ok());
            if let Some(last) = last.filter(|last| *last >= seq) {
                return Ok(last);
            }
            if Instant::now() > deadline {
                return Err(format!("the journal has {last:?} events, not {seq}").into());
            }
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// The keeper and the daemon it runs.
    fn processes(&self) -> Vec<String> {
        let keeper = self.child.id().to_string();
        let children =
            fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap_or_default();
        let children: Vec<String> = children.split_whitespace().map(str::to_owned).collect();
        [vec![keeper], children].concat()
    }

    /// What the daemon itself has started: the plugins.
    pub fn workers(&self) -> Outcome<Vec<String>> {
        let mut workers = Vec::new();
        for process in self.processes().into_iter().skip(1) {
            for task in fs::read_dir(format!("/proc/{process}/task"))? {
                let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
                workers.extend(children.split_whitespace().map(str::to_owned));
            }
        }
        Ok(workers)
    }

    /// Proportional set size, `/proc/PID/smaps_rollup`.
    pub fn pss_mb(&self) -> Outcome<f64> {
        let mut kib = 0.0;
        for process in self.processes() {
            let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss")?;
            kib += line.trim_end_matches("kB").trim().parse::<f64>()?;
        }
        Ok(kib / 1024.0)
    }

    /// User and system time, `/proc/PID/stat`, fields 14 and 15, in clock ticks of 10 ms.
    pub fn cpu_seconds(&self) -> Outcome<f64> {
        let mut ticks = 0.0;
        for process in self.processes() {
            let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
            let behind_name = stat.rsplit(')').next().ok_or("no stat")?;
            let times = behind_name.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
            ticks += times.sum::<Result<f64, _>>()?;
        }
        Ok(ticks / 100.0)
    }

    pub fn stop(mut self) -> Outcome<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the daemon ended with {status}").into()) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has ended already unless something went wrong.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
