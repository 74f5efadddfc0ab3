//! Where to publish, and how fast.

use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

/// Everything the publisher and the reading side need to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where the server is, or who knows.
    pub endpoint: Endpoint,
    /// The ACL user; `None`: Redis' `default` user.
    pub username: Option<String>,
    /// `None`: the server asks for none.
    pub password: Option<Password>,
    /// Number of the database.
    pub db: u32,
    /// Key of the stream.
    pub stream: String,
    /// About how many entries the stream keeps. What a group has not acknowledged is kept up to ten times that.
    pub max_len: NonZeroU32,
    /// The most events one call of the script appends.
    pub batch_size: NonZeroUsize,
    /// Events beyond it wait; one second's worth may burst. `None`: no limit.
    pub max_events_per_second: Option<NonZeroU32>,
    /// How often mark, stream and journal are compared.
    pub interval: Duration,
}

/// Where the Redis server is, or who knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A TCP port, with or without TLS. The certificate is checked against the system's roots
    /// (`SSL_CERT_FILE`, `SSL_CERT_DIR` name others).
    Tcp {
        /// Host name or IP address (IPv6 without brackets).
        host: String,
        /// Never 0.
        port: u16,
        /// Whether the connection is encrypted.
        tls: bool,
    },
    /// A Unix socket.
    Unix(PathBuf),
    /// The master that sentinels name. They are asked at each connect, in order, until one leads to it.
    Sentinel {
        /// Host name or IP address (IPv6 without brackets) and port of each. One that asks for a password gets
        /// the server's.
        sentinels: Vec<(String, u16)>,
        /// What the sentinels call the master.
        master: String,
        /// Whether the connections are encrypted, those to the sentinels as well.
        tls: bool,
    },
    /// The node of a cluster that serves the stream. It is asked for at each connect.
    Cluster {
        /// Host name or IP address (IPv6 without brackets) of any node.
        host: String,
        /// Never 0.
        port: u16,
        /// Whether the connections are encrypted.
        tls: bool,
    },
}

/// A password, or the file that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    /// The password itself.
    Inline(Secret),
    /// A file to read at each connect, so that a rotated password needs no reload. A line end at its end does
    /// not belong to the password.
    File(PathBuf),
}

/// Text that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Settings {
    /// Whether `other` is about the same stream.
    pub(crate) fn is_same_stream(&self, other: &Self) -> bool {
        self.endpoint == other.endpoint && self.db == other.db && self.stream == other.stream
    }

    /// Whether `other` is the same user with the same password.
    pub(crate) fn is_same_user(&self, other: &Self) -> bool {
        self.username == other.username && self.password == other.password
    }

    /// Key of the hash of marks, in the same cluster slot as the stream.
    pub(crate) fn marks_key(&self) -> String {
        self.key_beside("seq")
    }

    /// Key of the stream of dead letters.
    pub(crate) fn dead_key(&self) -> String {
        self.key_beside("dead")
    }

    /// Key of the lease of a group.
    pub(crate) fn lease_key(&self, group: &str) -> String {
        self.key_beside(&format!("lease:{group}"))
    }

    /// In the same cluster slot as the stream.
    fn key_beside(&self, name: &str) -> String {
        let tag = self.stream.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
        match tag {
            Some((tag, _)) if !tag.is_empty() => format!("{}:{name}", self.stream),
            _ => format!("{{{}}}:{name}", self.stream),
        }
    }
}

impl Secret {
    /// Hides `text`.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for where it has to be known.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } => f.write_str(&host_port(host, *port)),
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Sentinel { sentinels, master, .. } => {
                let sentinels: Vec<_> = sentinels.iter().map(|(host, port)| host_port(host, *port)).collect();
                write!(f, "master {master} of the sentinels {}", sentinels.join(", "))
            }
            Self::Cluster { host, port, .. } => write!(f, "cluster of {}", host_port(host, *port)),
        }
    }
}

/// As people write them.
pub(crate) fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
