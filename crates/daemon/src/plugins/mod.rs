//! Plugins in the daemon: events from the journal or from Redis to the loader, and what the loader says to log, health
//! and metrics. Linux only: elsewhere there is no sandbox.

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod linux;

#[cfg(not(target_os = "linux"))]
pub use elsewhere::*;
#[cfg(target_os = "linux")]
pub use linux::*;
