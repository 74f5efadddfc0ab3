//! Real packages, real processes, a real sandbox.

#![allow(clippy::unwrap_used, reason = "tests")]

mod escape;
mod support;
mod worker;
