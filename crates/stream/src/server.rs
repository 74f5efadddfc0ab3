//! What the server says of itself.

use crate::failure::Failure;
use crate::link::Link;

/// The oldest version whose `XRANGE` and `XREVRANGE` take exclusive ends, `(id`: scripts and reader page with them.
const OLDEST: (u64, u64) = (6, 2);

/// From `INFO`. Unknown values are empty: a managed server may refuse the command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) version: String,
    pub(crate) policy: String,
    pub(crate) maxmemory: u64,
}

impl Server {
    pub(crate) fn ask(link: &mut Link) -> Result<Self, Failure> {
        match link.query::<String>(&redis::cmd("INFO")) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(Failure::NotPermitted(_) | Failure::Refused(_)) => Ok(Self::default()),
            Err(failure) => Err(failure),
        }
    }

    /// The lines are `name:value`. Valkey keeps `redis_version` at 7.2 for old clients and has its own beside it.
    fn parse(info: &str) -> Self {
        let value = |name: &str| {
            let mut lines = info.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default()
        };
        Self {
            version: value("redis_version").to_owned(),
            policy: value("maxmemory_policy").to_owned(),
            maxmemory: value("maxmemory").parse().unwrap_or(0),
        }
    }

    pub(crate) fn is_too_old(&self) -> bool {
        let mut numbers = self.version.split('.').map_while(|part| part.parse::<u64>().ok());
        numbers.next().is_some_and(|major| (major, numbers.next().unwrap_or(0)) < OLDEST)
    }

    /// The `volatile-*` policies spare keys without an expiry, and ours have none.
    pub(crate) fn may_evict(&self) -> bool {
        self.maxmemory > 0 && self.policy.starts_with("allkeys")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_understood() {
        let info = "# Server\r\nredis_version:6.0.16\r\n# Memory\r\nmaxmemory:100\r\nmaxmemory_human:1M\r\n\
                    maxmemory_policy:allkeys-lru\r\n";
        let server = Server::parse(info);
        assert_eq!((server.version.as_str(), server.maxmemory), ("6.0.16", 100));
        assert!(server.is_too_old() && server.may_evict());
        for (version, too_old) in
            [("6.2.0", false), ("7.0.15", false), ("10.0.1", false), ("5.0", true), ("", false)]
        {
            let server = Server { version: version.to_owned(), ..Server::default() };
            assert_eq!(server.is_too_old(), too_old, "{version}");
        }
    }

    #[test]
    fn only_a_policy_that_takes_any_key_is_dangerous() {
        for (policy, maxmemory, evicts) in [
            ("noeviction", 1, false),
            ("volatile-lru", 1, false),
            ("allkeys-lfu", 1, true),
            ("allkeys-lfu", 0, false),
        ] {
            let server = Server { version: String::new(), policy: policy.to_owned(), maxmemory };
            assert_eq!(server.may_evict(), evicts, "{policy} {maxmemory}");
        }
    }
}
