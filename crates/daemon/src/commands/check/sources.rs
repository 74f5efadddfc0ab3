//! The ways to hear of devices: which of them work here.

use autoweave_usb_source::{Kind, OpenError, Options, Source};

use super::{Finding, finding};
use crate::config::Config;
use crate::show::Outcome;

/// A finding for each source of the chain that may fail.
pub fn findings(config: &Config) -> Vec<Finding> {
    let options = super::super::options(config);
    let looked_at = options.chain.iter().enumerate().filter(|(_, kind)| **kind != Kind::Poll);
    looked_at.map(|(index, kind)| source(kind, &options.chain[index + 1..], &options, config)).collect()
}

fn source(kind: &Kind, next: &[Kind], options: &Options, config: &Config) -> Finding {
    if *kind == Kind::Udev {
        return helper(config, next);
    }
    let what = match kind {
        Kind::Uevent => "uevents",
        Kind::Libusb => "libusb",
        _ => "notifications",
    };
    match Source::open(kind, options) {
        Ok(source) if kind.may_be_deaf(options) => finding(
            what,
            Outcome::Warn,
            format!(
                "{}; the kernel sends none to the network namespaces of a user namespace",
                source.description()
            ),
            "run the daemon outside of it, or share the host's udev helper with it (docs/operations.md); until \
             something is heard, the bus is polled",
        ),
        Ok(source) if *kind == Kind::Uevent => buffer(what, &source, options.receive_buffer_bytes),
        Ok(source) => finding(what, Outcome::Ok, source.description(), ""),
        Err(error) => missing(what, &error, next),
    }
}

fn buffer(what: &'static str, source: &Source, asked: usize) -> Finding {
    // The kernel counts twice what it is asked for (socket(7), SO_RCVBUF).
    if source.receive_buffer_bytes() / 2 >= asked {
        return finding(what, Outcome::Ok, source.description(), "");
    }
    finding(
        what,
        Outcome::Warn,
        source.description(),
        format!("to get the {asked} bytes asked for: CAP_NET_ADMIN, or sysctl -w net.core.rmem_max={asked}"),
    )
}

fn missing(what: &'static str, error: &OpenError, next: &[Kind]) -> Finding {
    match next.first() {
        Some(next) => finding(
            what,
            Outcome::Warn,
            error.to_string(),
            format!("the daemon uses {} instead", next.name()),
        ),
        None => finding(what, Outcome::Fail, error.to_string(), "add poll to source.chain"),
    }
}

/// Whether there is a helper for udev to run. The socket is a running daemon's.
fn helper(config: &Config, next: &[Kind]) -> Finding {
    let helper = &config.fallback.udev_script_path;
    let place = helper.display();
    if helper.exists() {
        return finding("udev", Outcome::Ok, format!("the helper is {place}"), "");
    }
    let found = format!("there is no helper {place}, so that udev tells nothing");
    match next {
        [] => finding("udev", Outcome::Fail, found, "install it and its rules, see docs/operations.md"),
        // It is a way among others, and nobody has to have it.
        _ => finding("udev", Outcome::Ok, found, ""),
    }
}
