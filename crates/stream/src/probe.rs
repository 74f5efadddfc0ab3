//! One look at the server, for people who wonder why nothing arrives.

use std::collections::HashMap;

use redis::Value;

use crate::failure::Failure;
use crate::link::Link;
use crate::server::Server;
use crate::settings::Settings;

/// What a server that lets us in shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// The server that was asked, `host:port` or the path of its socket: who it was that sentinels or a cluster led
    /// to.
    pub address: String,
    /// The version; empty when the server does not say. Valkey gives the Redis version it is compatible with.
    pub version: String,
    /// 6.2 or later, or unknown.
    pub version_suffices: bool,
    /// `maxmemory-policy`; empty when the server does not say.
    pub maxmemory_policy: String,
    /// Whether that policy may throw the stream away: it takes any key and there is a limit.
    pub may_evict: bool,
    /// `None`: the server takes writes. Otherwise why not.
    pub refuses_writes: Option<Failure>,
    /// Entries in the stream; `None`: there is no stream yet.
    pub stream_length: Option<u64>,
    /// The stream's consumer groups.
    pub groups: Vec<Group>,
}

/// A consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// How many consumers it knows.
    pub consumers: u64,
    /// Entries delivered and not acknowledged.
    pub pending: u64,
    /// Entries not delivered yet; `None`: the server does not know (before Redis 7, or after deletions).
    pub lag: Option<u64>,
}

/// Connects, asks and changes nothing.
///
/// # Errors
/// [`Failure::Unreachable`], [`Failure::AuthRefused`] and what else stands before any answer; a key of the stream's
/// name that is no stream is [`Failure::Refused`].
pub fn probe(settings: &Settings) -> Result<Findings, Failure> {
    let mut link = Link::connect(settings)?;
    // Unlike INFO, which a user may not be allowed, this says when a password is missing.
    match link.query::<()>(&redis::cmd("PING")) {
        Err(failure @ (Failure::NotPermitted(_) | Failure::Refused(_))) => drop(failure),
        other => other?,
    }
    let server = Server::ask(&mut link)?;
    let exists: bool = link.query(redis::cmd("EXISTS").arg(&settings.stream))?;
    let (stream_length, groups) = if exists {
        let length = link.query(redis::cmd("XLEN").arg(&settings.stream))?;
        let groups: Vec<HashMap<String, Value>> =
            link.query(redis::cmd("XINFO").arg("GROUPS").arg(&settings.stream))?;
        (Some(length), groups.iter().map(group).collect())
    } else {
        (None, Vec::new())
    };
    Ok(Findings {
        address: link.address().to_string(),
        version_suffices: !server.is_too_old(),
        may_evict: server.may_evict(),
        version: server.version,
        maxmemory_policy: server.policy,
        refuses_writes: refuses_writes(&mut link, settings)?,
        stream_length,
        groups,
    })
}

/// Deleting a field that nobody has changes nothing, yet is a write: it meets the replica and the permissions.
fn refuses_writes(link: &mut Link, settings: &Settings) -> Result<Option<Failure>, Failure> {
    let result = link.query::<()>(redis::cmd("HDEL").arg(settings.marks_key()).arg(""));
    match result {
        Ok(()) => Ok(None),
        Err(failure @ Failure::Unreachable(_)) => Err(failure),
        Err(failure) => Ok(Some(failure)),
    }
}

fn group(fields: &HashMap<String, Value>) -> Group {
    let number = |name: &str| {
        let value = fields.get(name)?.clone();
        redis::from_redis_value::<Option<u64>>(value).ok().flatten()
    };
    let name = fields.get("name").cloned().and_then(|value| redis::from_redis_value::<Vec<u8>>(value).ok());
    Group {
        name: String::from_utf8_lossy(&name.unwrap_or_default()).into_owned(),
        consumers: number("consumers").unwrap_or(0),
        pending: number("pending").unwrap_or(0),
        lag: number("lag"),
    }
}
