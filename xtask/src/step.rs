//! Running other programs, and what has to be installed for them.

use std::env;
use std::ffi::OsStr;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Does `work` under a heading and says how long it took.
///
/// # Errors
/// Those of `work`.
pub fn step(heading: &str, work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    println!("== {heading}");
    let start = Instant::now();
    let outcome = work();
    let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
    println!("== {verdict}, {:.1} s", start.elapsed().as_secs_f64());
    outcome
}

/// Runs `command` to its end as a step whose heading is its command line. Its output goes where ours goes.
///
/// # Errors
/// It does not start, or ends with another status than 0.
pub fn run(mut command: Command) -> Result<(), String> {
    let line = command_line(&command);
    step(&line, || match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{status}: {line}")),
        Err(error) => Err(format!("{error}: {line}")),
    })
}

/// Whether the command of these words starts and ends with status 0. Prints nothing.
pub fn succeeds(words: &[&str]) -> bool {
    command(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// What `command` prints.
///
/// # Errors
/// It does not start, or what it says of ending with another status than 0.
pub fn output(mut command: Command) -> Result<Vec<u8>, String> {
    let output = command.output();
    let output = output.map_err(|error| format!("{}: {error}", command.get_program().to_string_lossy()))?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned()),
    }
}

/// The line that the command of these words prints.
///
/// # Errors
/// As [`output`], or it is no UTF-8.
pub fn said(words: &[&str]) -> Result<String, String> {
    let of = |error: &dyn Display| format!("{}: {error}", words.join(" "));
    let text = String::from_utf8(output(command(words)).map_err(|error| of(&error))?);
    Ok(text.map_err(|error| of(&error))?.trim_end().to_owned())
}

/// The command of these words, a program and its arguments, not started yet.
pub fn command(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

/// Where `cargo build --release` leaves a binary.
///
/// # Errors
/// Those of [`target_directory`].
pub fn release_binary(name: &str) -> Result<PathBuf, String> {
    Ok(target_directory()?.join("release").join(name))
}

/// Where cargo puts what it builds: it has the profile directory that we run from.
///
/// # Errors
/// The system does not say where our own executable is.
pub fn target_directory() -> Result<PathBuf, String> {
    let own = env::current_exe().map_err(|error| format!("cannot find our own executable: {error}"))?;
    let target = own.parent().and_then(Path::parent).ok_or("our own executable is in no directory")?;
    Ok(target.to_owned())
}

/// Sees to it that `program` of the Debian package `package` is installed.
///
/// # Errors
/// It is missing and cannot be installed from here.
pub fn need(program: &str, package: &str) -> Result<(), String> {
    need_with(program, package, &[])
}

/// [`need`], without what the package recommends.
///
/// # Errors
/// Those of [`need`].
pub fn need_bare(program: &str, package: &str) -> Result<(), String> {
    need_with(program, package, &["--no-install-recommends"])
}

fn need_with(program: &str, package: &str, options: &[&str]) -> Result<(), String> {
    // openssl has it as a command, mke2fs as a letter.
    if ["--version", "version", "-V"].iter().any(|version| succeeds(&[program, version])) {
        return Ok(());
    }
    if !is_root() || !succeeds(&["apt-get", "--version"]) {
        return Err(format!(
            "`{program}` is missing: install it (on Debian and Ubuntu: `sudo apt-get install {package}`)"
        ));
    }
    run(command(&["apt-get", "update"]))?;
    run(command(&[&["apt-get", "install", "--yes"], options, &[package]].concat()))
}

/// As one would type it: what it adds to the environment, then program and arguments.
pub fn command_line(command: &Command) -> String {
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), quoted(value?))));
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted);
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

/// Whether this is the superuser.
pub fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    if word.contains(' ') { format!("'{word}'") } else { word.into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heading_can_be_typed_into_a_shell() {
        let mut command = command(&["cargo", "doc", "--no-deps"]);
        command.env("RUSTDOCFLAGS", "-D warnings").env_remove("CI");
        assert_eq!(command_line(&command), "RUSTDOCFLAGS='-D warnings' cargo doc --no-deps");
    }

    #[test]
    fn what_does_not_start_or_fails_is_an_error_that_names_it() {
        assert_eq!(run(command(&["true"])), Ok(()));
        assert_eq!(run(command(&["false", "x"])), Err("exit status: 1: false x".into()));
        assert!(run(command(&["/no/such/program"])).unwrap_err().ends_with(": /no/such/program"));
    }

    #[test]
    fn a_programs_line_is_what_it_said() {
        assert_eq!(said(&["echo", "a b"]), Ok("a b".into()));
        assert_eq!(said(&["ls", "/no/such"]).map_err(|error| error.starts_with("ls /no/such: ")), Err(true));
    }

    #[test]
    fn what_is_there_needs_no_installing() {
        assert_eq!(need("cargo", "no-such-package"), Ok(()));
    }
}
