//! Development tasks: `cargo xtask test` is what a change has to pass, here and in CI.

mod bench;
mod cross;
mod fuzz;
mod guest;
mod step;
mod test;
mod tidy;
mod tools;

use std::env;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Development tasks of AutoWeave USB.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything a change has to pass: style, lints, tests, documentation.
    Test(test::Arguments),
    /// Feeds the parsers of untrusted bytes with random ones.
    Fuzz(fuzz::Arguments),
    /// Measures the release binary on the virtual bus, as a table.
    Bench(bench::Arguments),
    /// Runs a command in a QEMU guest with a kernel and USB controllers of its own.
    Guest(guest::Arguments),
    /// Checks the daemon for Linux, macOS and Windows, and runs the one for Windows under Wine.
    CrossCheck,
    /// Checks of style that no lint makes.
    Tidy,
}

fn main() -> ExitCode {
    let task = Cli::parse().task;
    match run(&task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ is in the workspace");
    env::set_current_dir(root).map_err(|error| format!("{}: {error}", root.display()))?;
    match task {
        Task::Test(arguments) => test::run(arguments),
        Task::Fuzz(arguments) => fuzz::run(arguments),
        Task::Bench(arguments) => bench::run(arguments),
        Task::Guest(arguments) => guest::run(arguments),
        Task::CrossCheck => cross::run(),
        Task::Tidy => tidy::run(),
    }
}
