//! Why publishing does not go on at present. None of these is final: each is tried again.

use redis::{ErrorKind, RedisError, ServerError};
use thiserror::Error;

/// What stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Failure {
    /// No connection, or it broke, or the server did not answer in time or not as Redis does.
    #[error("Redis cannot be reached: {0}")]
    Unreachable(String),
    /// The file with the password cannot be read.
    #[error("the password file cannot be read: {0}")]
    PasswordFile(String),
    /// Wrong user or password, or none where one is needed.
    #[error("Redis refuses the user or password: {0}")]
    AuthRefused(String),
    /// The ACL user lacks a permission.
    #[error("the Redis user may not do what is needed: {0}")]
    NotPermitted(String),
    /// The server is a replica that cannot be written.
    #[error("this Redis is a read-only replica: {0}")]
    ReadOnly(String),
    /// The node of a cluster has given the stream's slot away, is about to, or cannot serve any.
    #[error("this node of the Redis cluster does not serve the stream: {0}")]
    NotServed(String),
    /// `maxmemory` is reached and nothing may be evicted.
    #[error("Redis is out of memory: {0}")]
    OutOfMemory(String),
    /// The server is loading its data.
    #[error("Redis is still loading its data: {0}")]
    Loading(String),
    /// The server cannot save and therefore refuses writes.
    #[error("Redis refuses writes because it cannot save: {0}")]
    CannotSave(String),
    /// The server is too old.
    #[error("Redis {0} is too old; 6.2 or later is needed")]
    TooOld(String),
    /// Something of this name in the server is not what it should be.
    #[error("Redis answered: {0}")]
    Refused(String),
    /// The journal cannot be read.
    #[error("{0}")]
    Journal(String),
    /// The file of dead letters cannot be written.
    #[error("dead letters cannot be written: {0}")]
    DeadLetters(String),
}

/// How a node of a cluster says that it does not serve a slot, or not at present (Redis Cluster Specification,
/// "Redirection and resharding").
const NOT_SERVED: [&str; 4] = ["MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"];

/// Inside a script a missing permission has no code of its own: Redis 7 and later, then 6.2 (`script_lua.c`,
/// `scripting.c`).
const DENIED: [&str; 2] = ["ACL failure in script", "The user executing the script can't"];

impl Failure {
    pub(crate) fn of_answer(error: &ServerError) -> Self {
        let code = error.code();
        let text = format!("{code} {}", error.details().unwrap_or_default()).trim_end().to_owned();
        // Before Redis 7 the code of an error inside a script is somewhere in the text of an `ERR`.
        let is = |name: &str| code == name || text.contains(&format!("-{name} "));
        match () {
            () if is("READONLY") => Self::ReadOnly(text),
            () if NOT_SERVED.contains(&code) => Self::NotServed(text),
            () if is("OOM") => Self::OutOfMemory(text),
            () if is("LOADING") => Self::Loading(text),
            () if is("MISCONF") => Self::CannotSave(text),
            () if is("NOPERM") || DENIED.iter().any(|words| text.contains(words)) => Self::NotPermitted(text),
            () if is("NOAUTH") || is("WRONGPASS") => Self::AuthRefused(text),
            () => Self::Refused(text),
        }
    }

    /// Whether this is the same trouble as `other`, whatever the words.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// What the client library says without the server: the server's own words come as [`ServerError`].
impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        match error.kind() {
            ErrorKind::Server(_) => Self::Refused(error.to_string()),
            _ => Self::Unreachable(error.to_string()),
        }
    }
}

impl From<autoweave_usb_journal::ReadError> for Failure {
    fn from(error: autoweave_usb_journal::ReadError) -> Self {
        Self::Journal(error.to_string())
    }
}
