//! Says what works here, and how to mend what does not.

mod history;
mod journal;
#[cfg(target_os = "linux")]
mod plugins;
mod redis;
mod sources;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use autoweave_usb_journal::{ReadError, Reader};
use autoweave_usb_source::{enumerate, has_usb};
use serde::Serialize;

use crate::cli::{Check, Common};
use crate::config::Loaded;
use crate::exit::Failure;
use crate::http::{Listener, ask_health};
use crate::pipeline;
use crate::show::{self, Outcome};
use crate::{state_dir, system};

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at.
    what: &'static str,
    /// Whether the daemon can do its job with it.
    outcome: Outcome,
    /// What was found.
    found: String,
    /// What to do about it; empty if nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    mend: String,
    /// The numbers in `found`, for programs.
    #[serde(flatten)]
    figures: BTreeMap<&'static str, u64>,
}

impl Finding {
    fn with(mut self, figures: impl IntoIterator<Item = (&'static str, u64)>) -> Self {
        self.figures.extend(figures);
        self
    }
}

pub fn run(common: &Common, arguments: &Check) -> Result<(), Failure> {
    if arguments.journal {
        return journal::run(arguments);
    }
    let loaded = super::load_for(common, None, false)?;
    let mut findings = vec![configuration(&loaded)];
    findings.extend(
        loaded.passed_over.iter().map(|file| finding("config", Outcome::Warn, file.as_str(), UNREAD)),
    );
    findings.extend(loaded.without_effect().map(|(key, origin)| {
        finding(
            "config",
            Outcome::Warn,
            format!("{origin}: `{key}` is set"),
            "it has no effect without plugins.dir",
        )
    }));
    #[cfg(unix)]
    findings.extend(open_secrets(&loaded));
    findings.push(bus());
    findings.extend(sources::findings(&loaded.config));
    findings.push(boot_id());
    findings.push(match state_dir::find(arguments.state_dir.as_deref()) {
        Ok(directory) => state(&directory),
        Err(failure) => finding("journal", Outcome::Fail, failure.to_string(), ""),
    });
    findings.extend(loaded.config.monitoring.http.map(port));
    let token = loaded.config.monitoring.token.as_ref().map(super::token);
    if let Some(Err(failure)) = token {
        findings.push(finding(
            "http",
            Outcome::Fail,
            failure.to_string(),
            "the daemon's user has to be able to read it",
        ));
    }
    findings.extend(pipeline::settings(&loaded.config).iter().flat_map(redis::findings));
    #[cfg(target_os = "linux")]
    findings.extend(plugins::findings(&loaded));
    if print(&findings, arguments.json)? {
        return Ok(());
    }
    Err(Failure::unavailable("something that the daemon needs does not work here"))
}

/// Prints what was found. True if all of it is good enough.
fn print(findings: &[Finding], is_json: bool) -> Result<bool, Failure> {
    for finding in findings {
        if is_json {
            super::print_json(finding)?;
        } else {
            super::print_line(&show::finding(finding.outcome, finding.what, &finding.found, &finding.mend))?;
        }
    }
    Ok(findings.iter().all(|finding| finding.outcome != Outcome::Fail))
}

fn finding(
    what: &'static str,
    outcome: Outcome,
    found: impl Into<String>,
    mend: impl Into<String>,
) -> Finding {
    Finding { what, outcome, found: found.into(), mend: mend.into(), figures: BTreeMap::new() }
}

fn configuration(loaded: &Loaded) -> Finding {
    let found = match &loaded.file {
        Some(file) => format!("{} is valid", file.display()),
        None => "no file, the defaults and the environment are valid".to_owned(),
    };
    finding("config", Outcome::Ok, found, "")
}

/// Secrets that every user of the machine can read.
#[cfg(unix)]
fn open_secrets(loaded: &Loaded) -> Option<Finding> {
    use std::os::unix::fs::PermissionsExt as _;
    let file = loaded.file.as_ref()?;
    let secrets = loaded.secrets_in_file();
    let is_open = std::fs::metadata(file).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0);
    (is_open && !secrets.is_empty()).then(|| {
        finding(
            "config",
            Outcome::Warn,
            format!("every user can read {}, which sets {}", file.display(), secrets.join(" and ")),
            "take that away (chgrp to the daemon's group, chmod 0640), or use redis.password_file and \
             monitoring.token_file",
        )
    })
}

/// What becomes of a file that may not be read.
const UNREAD: &str = "what it sets counts only for those who may read it";

/// Who lists the devices.
const BUS: &str = if cfg!(target_os = "linux") { "sysfs" } else { "the operating system" };

fn bus() -> Finding {
    match enumerate() {
        Ok(_) if !has_usb() => finding(
            "bus",
            Outcome::Warn,
            "this machine has no USB bus",
            "the daemon hears of one when it comes; `autoweave-usbd simulate` needs none",
        ),
        Ok((readings, unread)) if unread.is_empty() => {
            finding("bus", Outcome::Ok, format!("{BUS} shows {} devices, hubs included", readings.len()), "")
        }
        Ok((readings, unread)) => {
            let ports: Vec<String> = unread.iter().map(ToString::to_string).collect();
            let found = format!("{BUS} shows {} devices, not readable: {}", readings.len(), ports.join(", "));
            finding(
                "bus",
                Outcome::Warn,
                found,
                "look at the kernel log; the daemon tries them again at every scan",
            )
        }
        Err(error) => {
            let mend = if cfg!(target_os = "linux") { "mount sysfs on /sys" } else { "" };
            finding("bus", Outcome::Fail, format!("{BUS} cannot be read: {error}"), mend)
        }
    }
}

fn boot_id() -> Finding {
    match system::boot_id() {
        Ok(_) => finding("boot id", Outcome::Ok, "reboots are told from restarts", ""),
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            finding("boot id", Outcome::Ok, format!("{error}: a reboot looks like a restart"), "")
        }
        Err(error) => finding(
            "boot id",
            Outcome::Warn,
            error.to_string(),
            "mount proc; without it, a reboot looks like a restart",
        ),
    }
}

fn state(directory: &Path) -> Finding {
    let place = directory.display();
    let read =
        Reader::open(directory).and_then(|mut reader| Ok((reader.last_seq()?, reader.devices()?.len())));
    match read {
        Ok((last_seq, devices)) => finding(
            "journal",
            Outcome::Ok,
            format!("{place}: last event {last_seq}, {devices} devices connected"),
            "",
        ),
        Err(ReadError::Missing { .. }) => match may_make_files_in(directory) {
            Ok(()) => finding("journal", Outcome::Ok, format!("{place}: none yet; the daemon makes it"), ""),
            Err(error) => finding(
                "journal",
                Outcome::Fail,
                format!("{place} cannot be used: {error}"),
                "make it writable for this user, or name another with --state-dir",
            ),
        },
        Err(error) => finding(
            "journal",
            Outcome::Fail,
            error.to_string(),
            "the daemon sets a damaged journal aside when it starts; --state-dir names another directory",
        ),
    }
}

fn port(address: SocketAddr) -> Finding {
    if address.port() == 0 {
        return finding("http", Outcome::Ok, format!("the system picks a free port of {}", address.ip()), "");
    }
    let Err(taken) = Listener::bind(address) else {
        return finding("http", Outcome::Ok, format!("{address} is free"), "");
    };
    match ask_health(address, Duration::from_secs(2)) {
        Ok((200, _)) => finding("http", Outcome::Ok, format!("a healthy daemon answers on {address}"), ""),
        Ok((status, _)) => finding(
            "http",
            Outcome::Warn,
            format!("something answers {status} on {address}"),
            "`autoweave-usbd health` shows what; if it is no daemon, change monitoring.healthcheck_port",
        ),
        Err(_) => finding("http", Outcome::Fail, taken.to_string(), ""),
    }
}

/// Whether files can be made in `directory`, or in the nearest directory above it that is there.
fn may_make_files_in(directory: &Path) -> std::io::Result<()> {
    let absolute = std::path::absolute(directory)?;
    let there = absolute.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/"));
    tempfile::tempfile_in(there).map(drop)
}
