//! `cargo xtask fuzz`: libFuzzer on the parsers of bytes that others write, through cargo-fuzz.

use std::fs;

use clap::Args;

use crate::step::{command, need, run as run_command, succeeds};

const TARGETS: [&str; 2] = ["descriptor", "uevent"];

/// Of `cargo xtask fuzz`.
#[derive(Args)]
pub struct Arguments {
    /// What to fuzz; everything, one after the other, when not given
    #[arg(value_parser = TARGETS)]
    target: Option<String>,
    /// For how long, each
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
}

/// Runs one target, or all.
///
/// # Errors
/// The target crashed (the input is kept in `fuzz/artifacts/`), or does not build.
pub fn run(arguments: &Arguments) -> Result<(), String> {
    match &arguments.target {
        None => run_all(arguments.seconds),
        Some(target) => {
            install()?;
            run_target(target, arguments.seconds)
        }
    }
}

/// Runs every target for `seconds`.
///
/// # Errors
/// As [`run`].
pub fn run_all(seconds: u32) -> Result<(), String> {
    install()?;
    TARGETS.into_iter().try_for_each(|target| run_target(target, seconds))
}

fn install() -> Result<(), String> {
    // libFuzzer itself is C++.
    need("c++", "g++")?;
    if succeeds(&["cargo", "fuzz", "--version"]) {
        return Ok(());
    }
    run_command(command(&["cargo", "install", "cargo-fuzz", "--locked"]))
}

fn run_target(target: &str, seconds: u32) -> Result<(), String> {
    let (corpus, seeds) = (format!("fuzz/corpus/{target}"), format!("fuzz/seeds/{target}"));
    fs::create_dir_all(&corpus).map_err(|error| format!("{corpus}: {error}"))?;
    let time = format!("-max_total_time={seconds}");
    // New inputs go to the first directory; an input that takes longer than 5 s is a finding like a crash.
    let words = ["cargo", "fuzz", "run", target, &corpus, &seeds, "--", &time, "-timeout=5"];
    let mut fuzz = command(&words);
    // The stable toolchain is to accept the flags of the sanitizer.
    fuzz.env("RUSTC_BOOTSTRAP", "1");
    run_command(fuzz)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_target_has_a_program_and_seeds() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let names = |folder: &str| {
            let entries = fs::read_dir(fuzz.join(folder)).unwrap();
            let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
            let mut names: Vec<String> = entries.map(|entry| stem(&entry.unwrap().path())).collect();
            names.sort();
            names
        };
        assert_eq!(names("fuzz_targets"), TARGETS);
        assert_eq!(names("seeds"), TARGETS);
        for target in TARGETS {
            assert!(!names(&format!("seeds/{target}")).is_empty(), "{target}");
        }
    }
}
