//! Why the kubelet cannot be served.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why the kubelet cannot be served any longer. None of these mends itself.
#[derive(Debug, Error)]
pub enum Error {
    /// The directory that the kubelet shares with plugins cannot be watched.
    #[error(
        "the kubelet's directory {path} cannot be watched: {source}; mount it, or name another in device_plugin.directory"
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory is not there any more.
    #[error("the kubelet's directory {0} is gone; start again once it is back")]
    DirectoryGone(PathBuf),
    /// A socket cannot be made.
    #[error("the socket {path} cannot be made: {source}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another plugin for the same resource put its socket in place of ours.
    #[error("another device plugin has taken {0}; one of the two has to go")]
    Taken(PathBuf),
    /// The kubelet answered, and said no.
    #[error("the kubelet refuses {resource}: {reason:?}")]
    Refused {
        /// The name of the resource.
        resource: String,
        /// What the kubelet said.
        reason: String,
    },
    /// The system has no thread or no file descriptor left.
    #[error("the kubelet cannot be served: {0}")]
    System(#[from] io::Error),
}
