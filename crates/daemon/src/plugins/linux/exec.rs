//! The program as the launcher of a plugin: it shuts itself in and becomes the plugin.

use std::env;
use std::process::ExitCode;

use autoweave_usb_plugin::sandbox;

/// The first argument that makes it so.
pub const COMMAND: &str = "plugin-exec";

/// Nothing of a plugin has run.
const NOT_RUN: u8 = 126;

/// Does that if the command line says so. To be called before there are threads.
pub fn as_launcher() -> Option<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    if arguments.next()? != COMMAND {
        return None;
    }
    let Err(fault) = sandbox::exec(&arguments.next().unwrap_or_default());
    anstream::eprintln!("autoweave-usbd: {fault}");
    Some(ExitCode::from(NOT_RUN))
}
