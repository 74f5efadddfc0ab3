//! Says what works here, and how to mend what does not.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use autoweave_usb_journal::{ReadError, Reader};
use autoweave_usb_source::{Kind, Options, Source, enumerate, has_usb};
use autoweave_usb_stream::{Failure as StreamFailure, Findings, Group, Settings, probe};
use serde::Serialize;

use crate::cli::{Check, Common};
use crate::config::Loaded;
use crate::exit::Failure;
use crate::http::{Listener, ask_health};
use crate::pipeline;
use crate::show::{self, Outcome};
use crate::state_dir;

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
}

pub fn run(common: &Common, arguments: &Check) -> Result<(), Failure> {
    let loaded = super::load(common, None)?;
    let mut findings = vec![configuration(&loaded)];
    findings.extend(loaded.without_effect().map(|(key, origin)| {
        finding(
            "config",
            Outcome::Warn,
            format!("{origin}: `{key}` is set"),
            "this version does not use it yet",
        )
    }));
    findings.push(bus());
    findings.push(uevents(&loaded));
    findings.push(boot_id());
    findings.push(match state_dir::find(arguments.state_dir.as_deref()) {
        Ok(directory) => journal(&directory),
        Err(failure) => finding("journal", Outcome::Fail, failure.to_string(), ""),
    });
    findings.extend(loaded.config.monitoring.http.map(port));
    findings.extend(pipeline::settings(&loaded.config).iter().flat_map(redis));
    for finding in &findings {
        if arguments.json {
            super::print_json(finding)?;
        } else {
            super::print_line(&show::finding(finding.outcome, finding.what, &finding.found, &finding.mend))?;
        }
    }
    if findings.iter().any(|finding| finding.outcome == Outcome::Fail) {
        return Err(Failure::unavailable("something that the daemon needs does not work here"));
    }
    Ok(())
}

fn finding(
    what: &'static str,
    outcome: Outcome,
    found: impl Into<String>,
    mend: impl Into<String>,
) -> Finding {
    Finding { what, outcome, found: found.into(), mend: mend.into() }
}

fn configuration(loaded: &Loaded) -> Finding {
    let found = match &loaded.file {
        Some(file) => format!("{} is valid", file.display()),
        None => "no file, the defaults and the environment are valid".to_owned(),
    };
    finding("config", Outcome::Ok, found, "")
}

fn bus() -> Finding {
    match enumerate() {
        Ok(_) if !has_usb() => finding(
            "bus",
            Outcome::Warn,
            "this machine has no USB bus",
            "the daemon hears of one when it comes; `autoweave-usbd simulate` needs none",
        ),
        Ok((readings, unread)) if unread.is_empty() => {
            finding("bus", Outcome::Ok, format!("sysfs shows {} devices, hubs included", readings.len()), "")
        }
        Ok((readings, unread)) => {
            let ports: Vec<String> = unread.iter().map(ToString::to_string).collect();
            let found = format!("sysfs shows {} devices, not readable: {}", readings.len(), ports.join(", "));
            finding(
                "bus",
                Outcome::Warn,
                found,
                "look at the kernel log; the daemon tries them again at every scan",
            )
        }
        Err(error) => {
            finding("bus", Outcome::Fail, format!("sysfs cannot be read: {error}"), "mount sysfs on /sys")
        }
    }
}

fn uevents(loaded: &Loaded) -> Finding {
    let asked = loaded.config.source.receive_buffer_bytes;
    let bytes = usize::try_from(asked).unwrap_or(usize::MAX);
    let options =
        Options { kind: Kind::Uevent, interval: Duration::from_secs(3600), receive_buffer_bytes: bytes };
    match Source::open(&options) {
        Ok(source) if source.receive_buffer_bytes() / 2 < bytes => finding(
            "uevents",
            Outcome::Warn,
            source.description(),
            format!(
                "to get the {asked} bytes asked for: CAP_NET_ADMIN, or sysctl -w net.core.rmem_max={asked}"
            ),
        ),
        Ok(source) => finding("uevents", Outcome::Ok, source.description(), ""),
        Err(error) if super::chain(&loaded.config).is_ok_and(|chain| chain.contains(&Kind::Poll)) => {
            finding("uevents", Outcome::Warn, error.to_string(), "the daemon polls the bus instead")
        }
        Err(error) => finding("uevents", Outcome::Fail, error.to_string(), "add poll to source.chain"),
    }
}

fn boot_id() -> Finding {
    match fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        Ok(_) => finding("boot id", Outcome::Ok, "reboots are told from restarts", ""),
        Err(error) => finding(
            "boot id",
            Outcome::Warn,
            format!("/proc/sys/kernel/random/boot_id cannot be read: {error}"),
            "mount proc; without it, a reboot looks like a restart",
        ),
    }
}

fn journal(directory: &Path) -> Finding {
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

/// A finding for each thing that matters there, so that none hides another.
fn redis(settings: &Settings) -> Vec<Finding> {
    let endpoint = &settings.endpoint;
    match probe(settings) {
        Ok(found) => {
            let Findings { stream_length, groups, .. } = &found;
            let length =
                stream_length.map_or("no stream yet".to_owned(), |length| format!("{length} entries"));
            let stream = finding("stream", Outcome::Ok, format!("{}: {length}", settings.stream), "");
            let mut findings = vec![version(settings, &found)];
            findings.extend(policy(&found));
            findings.extend([writes(&found), stream]);
            findings.extend(groups.iter().map(group));
            findings
        }
        Err(failure) => vec![finding(
            "redis",
            gravity(&failure),
            format!("{endpoint}: {failure}"),
            "events wait in the journal until it answers; look at the keys under [redis]",
        )],
    }
}

/// What time may mend is a warning: the journal keeps the events meanwhile.
fn gravity(failure: &StreamFailure) -> Outcome {
    match failure {
        StreamFailure::Unreachable(_)
        | StreamFailure::ReadOnly(_)
        | StreamFailure::OutOfMemory(_)
        | StreamFailure::Loading(_)
        | StreamFailure::CannotSave(_) => Outcome::Warn,
        StreamFailure::PasswordFile(_)
        | StreamFailure::AuthRefused(_)
        | StreamFailure::NotPermitted(_)
        | StreamFailure::TooOld(_)
        | StreamFailure::Refused(_)
        | StreamFailure::Journal(_) => Outcome::Fail,
    }
}

fn version(settings: &Settings, found: &Findings) -> Finding {
    let endpoint = &settings.endpoint;
    let shown = match found.version.as_str() {
        "" => format!("{endpoint}: answers, and does not say its version"),
        version => format!("{endpoint}: version {version}"),
    };
    if found.version_suffices {
        finding("redis", Outcome::Ok, shown, "")
    } else {
        finding("redis", Outcome::Fail, shown, "version 6.2 or later is needed")
    }
}

/// A server that keeps its policy to itself is taken at its silence, as by the daemon.
fn policy(found: &Findings) -> Option<Finding> {
    let policy = match found.maxmemory_policy.as_str() {
        "" => return None,
        policy => format!("maxmemory-policy {policy}"),
    };
    Some(if found.may_evict {
        let mend = "it may throw the stream away: set maxmemory-policy noeviction";
        finding("redis", Outcome::Warn, policy, mend)
    } else {
        finding("redis", Outcome::Ok, policy, "")
    })
}

fn writes(found: &Findings) -> Finding {
    match &found.refuses_writes {
        None => finding("redis", Outcome::Ok, "it takes writes", ""),
        Some(failure) => finding(
            "redis",
            gravity(failure),
            failure.to_string(),
            "events wait in the journal until it takes writes",
        ),
    }
}

fn group(Group { name, consumers, pending, lag }: &Group) -> Finding {
    let lag = lag.map_or("an unknown number".to_owned(), |lag| lag.to_string());
    finding(
        "group",
        Outcome::Ok,
        format!("{name}: {consumers} consumers, {pending} entries not acknowledged, {lag} not delivered"),
        "",
    )
}

/// Whether files can be made in `directory`, or in the nearest directory above it that is there.
fn may_make_files_in(directory: &Path) -> std::io::Result<()> {
    let absolute = std::path::absolute(directory)?;
    let there = absolute.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/"));
    tempfile::tempfile_in(there).map(drop)
}
