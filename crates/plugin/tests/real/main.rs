//! Real packages, real processes, a real sandbox.

#![allow(clippy::unwrap_used, reason = "tests")]

mod bed;
mod escape;
mod examples;
mod loader;
mod same_user;
mod support;
mod waiting;
mod worker;
