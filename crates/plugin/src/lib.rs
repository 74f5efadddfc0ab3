//! Plugins: packages whose programs are run when a device they asked for comes or goes.

pub mod launch;
pub mod manifest;
pub mod package;
pub mod protocol;
pub mod sandbox;
pub mod worker;
