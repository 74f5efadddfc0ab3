//! The ways to hear of devices: which of them work here.

use std::fs;
use std::path::Path;

use autoweave_usb_source::{Kind, OpenError, Options, Source};

use super::{Finding, finding};
use crate::config::Config;
use crate::show::Outcome;

/// Our rules for udev, as `install` and the package name them.
const RULES: &str = "99-autoweave-usb.rules";

/// Where udev looks for rules; of several files with one name, the first counts (udev(7), "Rules files"; `/lib` is where
/// `/usr` is not merged).
const RULES_DIRECTORIES: [&str; 5] = [
    "etc/udev/rules.d",
    "run/udev/rules.d",
    "usr/local/lib/udev/rules.d",
    "usr/lib/udev/rules.d",
    "lib/udev/rules.d",
];

/// What the sources of the chain need: a finding for each thing that may be missing.
pub fn findings(config: &Config) -> Vec<Finding> {
    let options = super::super::options(config);
    let looked_at = options.chain.iter().enumerate().filter(|(_, kind)| **kind != Kind::Poll);
    let found = looked_at.map(|(index, kind)| match (kind, &options.chain[index + 1..]) {
        (Kind::Udev, next) => vec![helper(config, next), rules(Path::new("/"), next)],
        (kind, next) => vec![source(kind, next, &options)],
    });
    found.flatten().collect()
}

fn source(kind: &Kind, next: &[Kind], options: &Options) -> Finding {
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

/// Whether udev below `root` has rules that run the helper.
fn rules(root: &Path, next: &[Kind]) -> Finding {
    let mut files = RULES_DIRECTORIES.iter().map(|directory| root.join(directory).join(RULES));
    let found = match files.find(|file| file.symlink_metadata().is_ok()) {
        // An administrator's way of switching a package's rules off.
        Some(file) if fs::read(&file).is_ok_and(|text| text.is_empty()) => {
            format!("switched off: {} is empty", file.display())
        }
        Some(file) => {
            return finding("rules", Outcome::Ok, format!("udev has them: {}", file.display()), "");
        }
        None => format!("not installed: udev finds no {RULES}"),
    };
    // As with the helper.
    let outcome = if next.is_empty() { Outcome::Fail } else { Outcome::Ok };
    finding("rules", outcome, found, "for the source udev: `autoweave-usbd install`, as root")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_found_where_udev_finds_them() {
        let root = tempfile::tempdir().unwrap();
        let install = |directory: &str, text: &str| {
            let directory = root.path().join(directory);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(RULES), text).unwrap();
        };
        let told = |next: &[Kind]| {
            let finding = rules(root.path(), next);
            (finding.outcome, finding.found, finding.mend.is_empty())
        };
        let (outcome, found, _) = told(&[Kind::Poll]);
        assert!(outcome == Outcome::Ok && found.starts_with("not installed"), "{found}");
        assert!(told(&[]).0 == Outcome::Fail, "nothing else could tell");
        for directory in RULES_DIRECTORIES.iter().rev() {
            install(directory, "SUBSYSTEM==\"usb\"");
            let (outcome, found, is_well) = told(&[]);
            assert!(outcome == Outcome::Ok && is_well && found.contains(directory), "{found}");
        }
        install("etc/udev/rules.d", "");
        let (outcome, found, _) = told(&[]);
        assert!(outcome == Outcome::Fail && found.starts_with("switched off"), "{found}");
    }
}
