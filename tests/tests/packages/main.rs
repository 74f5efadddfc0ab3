//! The packages as their users have them: installed on a Debian that systemd boots, and run as a container. What they
//! take is made by `cargo xtask package-test`, which names it in the environment.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "helpers of tests, which clippy does not recognise as tests"
)]

mod container;
mod debian;

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::gettid;

/// How long anything may take before it counts as never: a machine boots.
const PATIENCE: Duration = Duration::from_secs(120);

const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What `cargo xtask package-test` made.
fn given(variable: &str) -> PathBuf {
    let value = env::var_os(variable);
    value.unwrap_or_else(|| panic!("${variable} is not set: run `cargo xtask package-test`")).into()
}

/// Waits until `condition` holds, or panics.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {} s, and never: {what}", PATIENCE.as_secs());
        thread::sleep(LOOK_AGAIN);
    }
}

/// What a program says on stdout; panics if it fails.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out
}

/// The calling thread's network namespace, for programs of other threads.
fn network_namespace() -> String {
    format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid())
}
