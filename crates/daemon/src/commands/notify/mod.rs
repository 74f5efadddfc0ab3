//! Leaves word of a plug or unplug for the daemon: what a udev rule runs.
//!
//! It reads no configuration and waits for nobody: one datagram, or one file. Run as `autoweave-udev-notify` it ends
//! with 0 whatever happens, because udev takes anything else for a failure of its rule.

mod spool;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};
use std::{env, fs};

use autoweave_usb_source::{NOTICE_SOCKET, Notice, NoticeArguments, SPOOL_DIRECTORY};

use crate::cli::Notify;
use crate::exit::Failure;
use crate::state_dir;
use spool::Outcome;

/// The name to be called by as the helper of udev.
const HELPER: &str = "autoweave-udev-notify";

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Where a notice went.
enum Told {
    Daemon,
    Spool(PathBuf, Outcome),
}

/// The command, given by hand.
pub fn run(arguments: &Notify) -> Result<(), Failure> {
    let vendor = arguments.vendor.as_deref().unwrap_or_default();
    let product = arguments.product.as_deref().unwrap_or_default();
    if let Told::Spool(spool, outcome) = tell(&[&arguments.action, &arguments.device, vendor, product])? {
        let spool = spool.display();
        match outcome {
            Outcome::Written => anstream::eprintln!("no daemon takes notices now: this one is in {spool}"),
            Outcome::Refused => anstream::eprintln!("no daemon takes notices now, and {spool} is full"),
        }
    }
    Ok(())
}

/// Does what the helper is for if this process was called by its name.
pub fn as_helper() -> Option<ExitCode> {
    let mut arguments = env::args_os();
    let called = arguments.next()?;
    if PathBuf::from(called).file_name() != Some(OsStr::new(HELPER)) {
        return None;
    }
    let arguments: Vec<OsString> = arguments.collect();
    let arguments: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
    if let Err(failure) = tell(&arguments) {
        // Nobody is left to tell if this cannot be written either.
        let _ = writeln!(io::stderr(), "{HELPER}: {failure}");
    }
    Some(ExitCode::SUCCESS)
}

fn tell(arguments: &[&OsStr]) -> Result<Told, Failure> {
    let empty = OsStr::new("");
    let (action, device, vendor, product) = match *arguments {
        [action, device] | [action, device, _] => (action, device, empty, empty),
        [action, device, vendor, product] => (action, device, vendor, product),
        _ => return Err(Failure::usage("it takes ACTION DEVICE [VENDOR PRODUCT]")),
    };
    let arguments = NoticeArguments {
        action: action.as_bytes(),
        device: device.as_bytes(),
        vendor: vendor.as_bytes(),
        product: product.as_bytes(),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let notice = Notice::from_udev(arguments, |name| env::var(name).ok(), super::milliseconds(now));
    let notice = notice.map_err(Failure::usage)?;
    let notice = match fs::read_to_string(BOOT_ID) {
        Ok(boot_id) => notice.in_boot(&boot_id),
        Err(_) => notice,
    };
    if send(&notice).is_ok() {
        return Ok(Told::Daemon);
    }
    let state = state_dir::find(None)?;
    let spool = state.join(SPOOL_DIRECTORY);
    match spool::write(&state, &notice, now) {
        Ok(outcome) => Ok(Told::Spool(spool, outcome)),
        Err(error) => {
            let spool = spool.display();
            Err(Failure::state(format!(
                "no daemon takes notices now, and {spool} cannot be written: {error}"
            )))
        }
    }
}

/// Whatever the reason is that nobody takes it, the spool will.
fn send(notice: &Notice) -> io::Result<()> {
    let directory = state_dir::runtime().ok_or(io::ErrorKind::NotFound)?;
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to(&notice.format(), directory.join(NOTICE_SOCKET)).map(drop)
}
