//! The built daemon on a real kernel with real USB buses, in the guest of `cargo xtask guest`. One test at a time: they
//! share the buses.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "helpers of tests, which clippy does not recognise as tests"
)]

mod gadgets;
mod hubs;
mod kinds;
mod privileges;
mod quiet;
mod reboots;
mod restarts;
mod rig;
mod sources;
