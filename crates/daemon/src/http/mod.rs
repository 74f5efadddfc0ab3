//! The door to look in: health, metrics, devices and events over HTTP.
//!
//! # Invariants
//!
//! - Data flows one way: the core tells a [`Monitor`], the server reads it, the journal, and when asked a
//!   device's descriptors in sysfs.
//! - No client can hold up an event, nor the answer to another client for longer than a read of the journal, or,
//!   of descriptors, of sysfs.
//! - A client costs a bounded amount of memory, whether or not it reads, and there is a bounded number of them.
//!
//! # Errors
//!
//! What is not a 200 is `application/problem+json`, except a `/health` of 503, which is as informative as ever,
//! and a request that is no HTTP, which gets an empty 400 (or 431, or 414) and the end of the connection.

mod ask;
mod counters;
mod descriptors;
mod log;
mod metrics;
mod monitor;
mod page;
mod patient;
mod problem;
mod process;
mod routes;
mod server;
mod status;
mod stream;
#[cfg(test)]
mod tests;
mod text;
mod token;

pub use ask::ask_health;
#[cfg(feature = "otel")]
pub use metrics::render as render_metrics;
pub use monitor::Monitor;
#[cfg(target_os = "linux")]
pub use monitor::PluginsProbe;
pub use server::{Listener, Server};
pub use status::{Phase, Severity, SourceStatus, Status, StreamKind, StreamState};
#[cfg(target_os = "linux")]
pub use status::{PluginStatus, PluginsStatus, RESTING, RefusedPlugin};
