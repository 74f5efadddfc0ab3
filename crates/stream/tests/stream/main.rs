//! The publisher and the reading side against real Redis servers, each started by its test.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bed;
mod cluster;
mod consuming;
mod encrypted;
mod event;
mod exactly_once;
mod outages;
mod reading;
mod rollback;
mod sentinel;
mod server;
mod trimming;
