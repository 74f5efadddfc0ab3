//! The tests of `tests/tests/guest`: cargo builds them, and runs them by way of ourselves.

use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::step::{command, need, need_bare, run, target_directory};
use crate::tools::text;

/// What a change is tested with each time, of each kind the most telling.
const SMOKE: [&str; 6] = [
    "gadgets::what_stays_",
    "hubs::children_",
    "kinds::",
    "privileges::a_user_without_privileges_hears",
    "quiet::",
    "restarts::",
];
const SMOKE_SECONDS: u64 = 300;
const ALL_SECONDS: u64 = 1200;

/// For a state directory that outlives a guest.
const DISK_BYTES: u64 = 64 << 20;

/// How to run a guest's tests, asked for before anything is built: our own executable may be replaced.
pub struct Runner {
    executable: PathBuf,
    target: PathBuf,
}

impl Runner {
    /// Of this process.
    ///
    /// # Errors
    /// The system does not say where our own executable is.
    pub fn find() -> Result<Self, String> {
        let executable =
            env::current_exe().map_err(|error| format!("cannot find our own executable: {error}"))?;
        Ok(Self { executable, target: target_directory()? })
    }

    /// The quick ones, or all of them.
    ///
    /// # Errors
    /// What is missing, or the first guest with a test that failed.
    pub fn run(&self, daemon: &Path, all: bool) -> Result<(), String> {
        super::install()?;
        need("redis-server", "redis-server")?;
        if !all {
            return run(self.command(daemon, SMOKE_SECONDS, None, &SMOKE)?);
        }
        need_bare("udevadm", "udev")?;
        need("/sbin/mke2fs", "e2fsprogs")?;
        let disk = self.target.join("guest/disk");
        let empty = || File::create(&disk)?.set_len(DISK_BYTES);
        empty().map_err(|error| format!("{}: {error}", disk.display()))?;
        run(self.command(daemon, ALL_SECONDS, Some(&disk), &["--skip", "second_boot"])?)?;
        run(self.command(daemon, SMOKE_SECONDS, Some(&disk), &["second_boot"])?)
    }

    fn command(
        &self,
        daemon: &Path,
        seconds: u64,
        disk: Option<&Path>,
        words: &[&str],
    ) -> Result<Command, String> {
        let seconds = format!("--timeout={seconds}");
        let daemon = format!("AUTOWEAVE_USBD={}", text(daemon)?);
        let disk = disk.map(|disk| Ok::<_, String>(format!("--disk={}", text(disk)?))).transpose()?;
        let mut runner = vec![text(&self.executable)?, "guest", &seconds];
        runner.extend(disk.as_deref());
        runner.extend(["--", "env", &daemon]);
        let runner: Vec<String> = runner.iter().map(|word| format!("'{word}'")).collect();
        let runner = format!("target.'cfg(unix)'.runner=[{}]", runner.join(","));
        let cargo = ["cargo", "test", "-p", "autoweave-usb-tests", "--test", "guest", "--config", &runner];
        Ok(command(&[&cargo[..], &["--", "--test-threads=1"], words].concat()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::command_line;

    #[test]
    fn cargo_runs_them_by_way_of_ourselves() {
        let runner = Runner { executable: "/t/debug/xtask".into(), target: "/t".into() };
        let line = command_line(
            &runner.command(Path::new("/t/d"), 9, Some(Path::new("/t/disk")), &["kinds::"]).unwrap(),
        );
        let words =
            "['/t/debug/xtask','guest','--timeout=9','--disk=/t/disk','--','env','AUTOWEAVE_USBD=/t/d']";
        assert!(line.contains(&format!("--config target.'cfg(unix)'.runner={words} -- ")), "{line}");
        assert!(line.ends_with("-- --test-threads=1 kinds::"), "{line}");
    }
}
