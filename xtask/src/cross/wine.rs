//! The daemon for Windows, run by Wine: it writes a journal, reads it back, checks it, and stops at Ctrl-C.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::toolchain::Toolchain;
use crate::step::{command, command_line, need_bare, run, step};
use crate::tools::text;

/// Where Debian puts it: the package alone has nothing in `/usr/bin`.
const WINE: &str = "/usr/lib/wine/wine64";

/// For how long one command may run, in the words of timeout(1).
const PATIENCE: &str = "120";

const EVENTS: usize = 12;

pub struct Wine {
    directory: PathBuf,
}

impl Wine {
    /// Installs Wine, and makes a Windows in `target/` for it.
    ///
    /// # Errors
    /// It is not to be had here.
    pub fn install(toolchain: &Toolchain) -> Result<Self, String> {
        need_bare(WINE, "wine64")?;
        let wine = Self { directory: toolchain.directory("wine")? };
        let library = wine.directory.join("bcryptprimitives.dll");
        let source = "xtask/src/cross/bcryptprimitives.c";
        run(command(&[text(&toolchain.gcc())?, "-shared", "-o", text(&library)?, source, "-ladvapi32"]))?;
        run(wine.command(Path::new("wineboot"), &["-i"]))?;
        Ok(wine)
    }

    /// Runs `program` as a user would.
    ///
    /// # Errors
    /// What it does otherwise than it should.
    pub fn test(&self, program: &Path) -> Result<(), String> {
        let exe = self.directory.join("autoweave-usbd.exe");
        fs::copy(program, &exe).map_err(|error| format!("{}: {error}", program.display()))?;
        let state = self.directory.join("state");
        if state.exists() {
            fs::remove_dir_all(&state).map_err(|error| format!("{}: {error}", state.display()))?;
        }
        // Wine shows the root directory as drive Z.
        let state = format!("Z:{}", text(&state)?);
        let usbd = |words: &[&str]| self.command(&exe, words);
        step("what is simulated is written down and read back", || {
            let simulate = ["simulate", "--json", "--devices=3", "--cycles=2", "--state-dir", &state];
            let simulated = lines(&expect(usbd(&simulate), 0)?);
            let is_numbered =
                |(line, seq): (&String, usize)| line.starts_with(&format!("{{\"seq\":{seq},\"event_id\":"));
            if simulated.len() != EVENTS || !simulated.iter().zip(1..).all(is_numbered) {
                return Err(format!("not events 1 to {EVENTS}: {simulated:#?}"));
            }
            let read = lines(&expect(usbd(&["events", "--json", "--since=0", "--state-dir", &state]), 0)?);
            if read == simulated {
                Ok(())
            } else {
                Err(format!("events are not what was simulated: {read:#?}"))
            }
        })?;
        step("checks", || {
            expect(usbd(&["check", "--state-dir", &state]), 0)?;
            expect(usbd(&["check", "--journal", "--state-dir", &state]), 0)?;
            expect(usbd(&["devices", "--json"]), 0)?;
            expect(usbd(&["simulate", "--devices=0"]), 64).map(drop)
        })?;
        step("the daemon stops at Ctrl-C", || {
            stop_at_interrupt(usbd(&["run", "--source=poll", "--state-dir", &state]))
        })
    }

    fn command(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = command(&["timeout", "--foreground", "--signal=KILL", PATIENCE, WINE]);
        command.arg(program).args(words).stdin(Stdio::null());
        // Everything that Wine makes is to be in one place.
        command.env("WINEPREFIX", self.directory.join("prefix")).env("HOME", &self.directory);
        command.env("WINEDEBUG", "-all");
        command.env("WINEDLLOVERRIDES", "mscoree,mshtml,winemenubuilder.exe=;bcryptprimitives=n");
        // Wine 8 has no CM_Register_Notification, which nusb listens with, and ends a program that calls it.
        command
            .env("AUTOWEAVE_USB__SOURCE__CHAIN", "poll")
            .env("AUTOWEAVE_USB__MONITORING__ENABLED", "false");
        command
    }
}

fn expect(mut command: Command, code: i32) -> Result<Output, String> {
    let line = command_line(&command);
    let output = command.output().map_err(|error| format!("{error}: {line}"))?;
    if output.status.code() == Some(code) {
        return Ok(output);
    }
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    Err(format!("{}, not {code}: {line}\n{out}{err}", output.status))
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Wine makes a Ctrl-C of the SIGINT that timeout(1) passes on: once, in the foreground, or twice.
fn stop_at_interrupt(mut command: Command) -> Result<(), String> {
    let mut child = command.stderr(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
    let stderr = child.stderr.take().expect("it was asked for");
    let mut log = Vec::new();
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if line.contains("watching the bus") {
            run(self::command(&["kill", "-INT", &child.id().to_string()]))?;
        }
        log.push(line);
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let is_finished = log.last().is_some_and(|line| line.ends_with("stopped"));
    if status.success() && is_finished { Ok(()) } else { Err(format!("{status}: {log:#?}")) }
}
