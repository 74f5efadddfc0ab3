//! Real packages, real processes, a real sandbox.

#![allow(clippy::unwrap_used, reason = "tests")]

mod escape;
mod examples;
mod loader;
mod same_user;
mod support;
mod worker;
