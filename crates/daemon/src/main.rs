//! `autoweave-usbd`: turns every USB plug and unplug into exactly one durable, ordered event.

mod cli;
mod commands;
mod config;
mod exit;
mod held;
mod http;
#[cfg(target_os = "linux")]
mod keeper;
mod logging;
mod pipeline;
mod places;
mod plugins;
mod show;
mod signals;
mod stamp;
mod state_dir;
mod system;
mod telemetry;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    if let Some(code) = plugins::exec::as_launcher() {
        return code;
    }
    #[cfg(target_os = "linux")]
    if let Some(code) = commands::notify::as_helper() {
        return code;
    }
    #[cfg(target_os = "linux")]
    if let Some(code) = keeper::run() {
        return code;
    }
    let arguments = match cli::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return exit::usage(&error),
    };
    match commands::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
