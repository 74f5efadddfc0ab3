//! Plugins: packages whose programs are run when a device they asked for comes or goes.

mod breaker;
pub mod launch;
pub mod loader;
pub mod manifest;
mod node;
pub mod package;
mod pidfd;
pub mod pool;
pub mod protocol;
pub mod report;
pub mod sandbox;
pub mod worker;
