//! What only some tests need and `cargo xtask test` installs beside what cargo builds.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::{env, fs};

use crate::redis_server::Program;

/// Valkey, of the system or from Debian's packages.
pub fn valkey() -> Option<Program> {
    let unpacked = directory().join("valkey/usr/bin");
    let in_directory = |directory: PathBuf| Program {
        server: directory.join("valkey-server"),
        check_aof: directory.join("valkey-check-aof"),
    };
    let found = [in_directory(PathBuf::new()), in_directory(unpacked)];
    let starts = |program: &Program| starts(&mut Command::new(&program.server));
    found.into_iter().find(starts).or_else(|| skip("valkey-server"))
}

/// Chromium's driver, where there is a Chromium for it.
pub fn chromedriver() -> Option<PathBuf> {
    let found = PathBuf::from("chromedriver");
    let mut both = [Command::new("chromium"), Command::new(&found)];
    if both.iter_mut().all(starts) { Some(found) } else { skip("chromium or its driver") }
}

/// The script of the npm package axe-core.
pub fn axe() -> Option<String> {
    let script = directory().join("node/node_modules/axe-core/axe.min.js");
    fs::read_to_string(script).ok().or_else(|| skip("the npm package axe-core"))
}

/// Whether there are `prometheus` and its `promtool`.
pub fn has_prometheus() -> bool {
    let mut both = ["prometheus", "promtool"].map(Command::new);
    both.iter_mut().all(starts) || skip::<()>("prometheus").is_some()
}

/// Where tests leave what people may want to look at: `target/page`.
pub fn pictures() -> PathBuf {
    directory().with_file_name("page")
}

/// The directory `node_modules` with the npm package ioredis, for a `node` that is there.
pub fn node_modules() -> Option<PathBuf> {
    let modules = directory().join("node/node_modules");
    if !starts(&mut Command::new("node")) {
        return skip("node");
    }
    if modules.join("ioredis").is_dir() { Some(modules) } else { skip("the npm package ioredis") }
}

/// The daemon built with the feature `kill-points`.
pub fn kill_points() -> Option<PathBuf> {
    let program = directory().join("autoweave-usbd-kill-points");
    if program.is_file() { Some(program) } else { skip("the daemon with kill points") }
}

/// udev's `udevadm`.
pub fn udevadm() -> Option<PathBuf> {
    let found = PathBuf::from("udevadm");
    if starts(&mut Command::new(&found)) { Some(found) } else { skip("udevadm, of Debian's package udev,") }
}

/// `target/test-tools`; this test is `target/debug/deps/whole-…`.
fn directory() -> PathBuf {
    let own = env::current_exe().unwrap();
    own.ancestors().nth(3).unwrap().join("test-tools")
}

fn starts(command: &mut Command) -> bool {
    let quiet = command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Says that a test is not run for want of `what`, which in CI is a failure.
fn skip<T>(what: &str) -> Option<T> {
    let missing = format!("{what} is missing: run `cargo xtask test`, which installs it");
    assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "{missing}");
    eprintln!("SKIPPED: {missing}");
    None
}
