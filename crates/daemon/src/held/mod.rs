//! What a daemon is given by whoever holds its socket, so that nothing is lost while it is not there. Linux only:
//! elsewhere there is nothing to hold, and what happened meanwhile is found by the first scan.

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod linux;

#[cfg(not(target_os = "linux"))]
pub use elsewhere::*;
#[cfg(target_os = "linux")]
pub use linux::*;
