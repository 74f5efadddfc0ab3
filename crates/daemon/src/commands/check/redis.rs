//! How the Redis is that events are published to.

use autoweave_usb_stream::{Endpoint, Failure as StreamFailure, Findings, Group, Settings, probe};

use super::{Finding, finding};
use crate::show::Outcome;

/// A finding for each thing that matters there, so that none hides another.
pub fn findings(settings: &Settings) -> Vec<Finding> {
    let endpoint = &settings.endpoint;
    match probe(settings) {
        Ok(found) => {
            let Findings { stream_length, groups, .. } = &found;
            let length =
                stream_length.map_or("no stream yet".to_owned(), |length| format!("{length} entries"));
            let stream = finding("stream", Outcome::Ok, format!("{}: {length}", settings.stream), "");
            let mut all = vec![version(settings, &found)];
            all.extend(policy(&found));
            all.extend([writes(&found), stream]);
            all.extend(groups.iter().map(group));
            all
        }
        Err(failure @ StreamFailure::NotServed(_)) if !matches!(endpoint, Endpoint::Cluster { .. }) => {
            let mend = "set redis.cluster = true: the node that does is then found";
            vec![finding("redis", Outcome::Fail, format!("{endpoint}: {failure}"), mend)]
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
        | StreamFailure::NotServed(_)
        | StreamFailure::OutOfMemory(_)
        | StreamFailure::Loading(_)
        | StreamFailure::CannotSave(_) => Outcome::Warn,
        StreamFailure::PasswordFile(_)
        | StreamFailure::AuthRefused(_)
        | StreamFailure::NotPermitted(_)
        | StreamFailure::TooOld(_)
        | StreamFailure::Refused(_)
        | StreamFailure::Journal(_)
        | StreamFailure::DeadLetters(_) => Outcome::Fail,
    }
}

fn version(settings: &Settings, found: &Findings) -> Finding {
    let endpoint = match &settings.endpoint {
        plain @ (Endpoint::Tcp { .. } | Endpoint::Unix(_)) => plain.to_string(),
        asked => format!("{} ({asked})", found.address),
    };
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
