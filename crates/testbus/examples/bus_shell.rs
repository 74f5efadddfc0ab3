//! A command, or a shell, on a virtual USB bus with a hub, a receiver and a memory stick.
//!
//! ```text
//! cargo run --example bus_shell -- [--busy] [COMMAND [ARGUMENT…]]
//! ```
//!
//! `--busy` plugs and unplugs one more device every second for as long as the command runs.
//! Needs root or `unshare -Ur`.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode};
use std::time::Duration;
use std::{env, io, thread};

use autoweave_usb_testbus::{Bus, Device};

fn main() -> ExitCode {
    let mut words = env::args_os().skip(1).peekable();
    let busy = words.next_if(|word| word == "--busy").is_some();
    let program = words.next().or_else(|| env::var_os("SHELL")).unwrap_or_else(|| OsString::from("/bin/sh"));
    let mut command = Command::new(program);
    match run(command.args(words), busy) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bus_shell: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &mut Command, busy: bool) -> io::Result<ExitCode> {
    let mut bus = Bus::enter()?;
    bus.add_root_hub(1)?;
    bus.plug("1-1", &Device::hub())?;
    bus.plug("1-1.2", &Device::receiver())?;
    bus.plug("1-2", &Device::storage("4C530001230101117392"))?;
    if !busy {
        let error = command.exec();
        return Err(cannot_run(command, error));
    }
    // Replacing this process would end the thread that keeps the bus busy.
    let mut child = command.spawn().map_err(|error| cannot_run(command, error))?;
    thread::spawn(move || {
        if let Err(error) = keep_busy(&mut bus) {
            eprintln!("bus_shell: the bus is no longer busy: {error}");
        }
    });
    let status = child.wait()?;
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

fn cannot_run(command: &Command, error: io::Error) -> io::Error {
    let text = format!("cannot run {}: {error}", command.get_program().display());
    io::Error::new(error.kind(), text)
}

fn keep_busy(bus: &mut Bus) -> io::Result<()> {
    for number in 0.. {
        thread::sleep(Duration::from_secs(1));
        bus.plug("1-1.4", &Device::numbered(number))?;
        thread::sleep(Duration::from_secs(1));
        bus.unplug("1-1.4")?;
    }
    Ok(())
}
