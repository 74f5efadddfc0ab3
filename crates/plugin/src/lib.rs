//! Plugins: packages whose programs are run when a device they asked for comes or goes.

pub mod manifest;
pub mod package;
pub mod protocol;
