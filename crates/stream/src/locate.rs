//! Which server has the stream at present.

use std::collections::HashMap;
use std::time::Duration;

use redis::{ConnectionAddr, Value};

use crate::failure::Failure;
use crate::link::{Link, decode};
use crate::settings::{Endpoint, Settings, host_port};

/// How long connecting to a sentinel may take, per address of its host, and then each of its answers.
const SENTINEL_TIMEOUT: Duration = Duration::from_millis(500);

/// One leads from any node to the one that serves the stream; there are more while the nodes disagree.
const REDIRECTIONS_MAX: usize = 5;

impl Link {
    /// Connects to the server that has the stream.
    pub(crate) fn connect(settings: &Settings) -> Result<Self, Failure> {
        match &settings.endpoint {
            Endpoint::Unix(path) => Self::enter(ConnectionAddr::Unix(path.clone()), settings),
            Endpoint::Tcp { host, port, tls } => Self::enter(address(host, *port, *tls), settings),
            Endpoint::Sentinel { sentinels, master, tls } => of_sentinels(settings, sentinels, master, *tls),
            Endpoint::Cluster { host, port, tls } => of_cluster(settings, host, *port, *tls),
        }
    }
}

fn address(host: &str, port: u16, tls: bool) -> ConnectionAddr {
    let host = host.to_owned();
    if tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    }
}

/// Asks one sentinel after the other until one leads to a master ("Guidelines for Redis clients with support for
/// Redis Sentinel" in Redis' documentation): one that was cut off may still name the old one.
fn of_sentinels(
    settings: &Settings,
    sentinels: &[(String, u16)],
    name: &str,
    tls: bool,
) -> Result<Link, Failure> {
    let (mut in_vain, mut why) = (Vec::new(), Vec::new());
    for (host, port) in sentinels {
        let sentinel = format!("sentinel {}", host_port(host, *port));
        let master = match ask_sentinel(settings, address(host, *port, tls), name) {
            Ok(Some((host, port))) => address(&host, port, tls),
            Ok(None) => {
                why.push(format!("{sentinel} knows no master {name}"));
                continue;
            }
            Err(failure) => {
                why.push(format!("{sentinel}: {}", reason(failure)));
                continue;
            }
        };
        if in_vain.contains(&master) {
            continue;
        }
        match enter_master(master.clone(), settings) {
            Err(failure @ (Failure::Unreachable(_) | Failure::ReadOnly(_))) => {
                why.push(format!("{sentinel} names {master}: {}", reason(failure)));
                in_vain.push(master);
            }
            led => return led,
        }
    }
    Err(Failure::Unreachable(why.join("; ")))
}

fn ask_sentinel(
    settings: &Settings,
    sentinel: ConnectionAddr,
    name: &str,
) -> Result<Option<(String, u16)>, Failure> {
    let mut link = Link::open(sentinel, SENTINEL_TIMEOUT, SENTINEL_TIMEOUT)?;
    let mut command = redis::cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    match link.query(&command) {
        // Sentinels have to know the password of the server they watch: to give them it tells them nothing new.
        Err(Failure::AuthRefused(_)) => {
            link.log_in(settings)?;
            link.query(&command)
        }
        answer => answer,
    }
}

/// `HELLO` tells the role to every user who may log in; `ROLE` is for administrators.
fn enter_master(server: ConnectionAddr, settings: &Settings) -> Result<Link, Failure> {
    let mut link = Link::enter(server, settings)?;
    let mut hello: HashMap<String, Value> = link.query(&redis::cmd("HELLO"))?;
    match hello.remove("role").map(decode::<String>).transpose()?.as_deref() {
        Some("master") => Ok(link),
        role => Err(Failure::ReadOnly(format!("its role is {}", role.unwrap_or("unknown")))),
    }
}

/// Asks for the stream where the cluster says it is, until a node does not send elsewhere.
fn of_cluster(settings: &Settings, host: &str, port: u16, tls: bool) -> Result<Link, Failure> {
    let (mut host, mut port) = (host.to_owned(), port);
    for _ in 0..=REDIRECTIONS_MAX {
        let at_node = |failure| match failure {
            Failure::Unreachable(why) => {
                Failure::Unreachable(format!("cluster node {}: {why}", host_port(&host, port)))
            }
            other => other,
        };
        let mut link = Link::enter(address(&host, port, tls), settings).map_err(at_node)?;
        match link.query::<Value>(redis::cmd("EXISTS").arg(&settings.stream)) {
            Ok(_) => return Ok(link),
            Err(Failure::NotServed(answer)) => {
                let Some(to) = moved_to(&answer, &host) else { return Err(Failure::NotServed(answer)) };
                (host, port) = to;
            }
            Err(failure) => return Err(at_node(failure)),
        }
    }
    Err(Failure::NotServed(format!("more than {REDIRECTIONS_MAX} redirections, the last to {host}:{port}")))
}

/// Where `MOVED SLOT HOST:PORT` leads; no host is that of the node `host` which said so.
fn moved_to(answer: &str, host: &str) -> Option<(String, u16)> {
    let (_slot, to) = answer.strip_prefix("MOVED ")?.split_once(' ')?;
    let (to, port) = to.rsplit_once(':')?;
    Some((if to.is_empty() { host } else { to }.to_owned(), port.parse().ok()?))
}

/// Without what is said of every failure to connect.
fn reason(failure: Failure) -> String {
    match failure {
        Failure::Unreachable(why) => why,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirection_is_understood() {
        let to = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(moved_to("MOVED 3999 127.0.0.1:6381", "seed"), to("127.0.0.1", 6381));
        assert_eq!(moved_to("MOVED 3999 ::1:6381", "seed"), to("::1", 6381));
        assert_eq!(moved_to("MOVED 3999 :6381", "seed"), to("seed", 6381));
        for other in ["ASK 3999 127.0.0.1:6381", "MOVED 3999", "MOVED 3999 h:70000", "TRYAGAIN later"] {
            assert_eq!(moved_to(other, "seed"), None, "{other}");
        }
    }
}
