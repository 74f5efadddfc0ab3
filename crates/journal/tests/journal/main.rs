//! The journal on real files, real processes and real small disks.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod crash;
mod damage;
mod readers;
#[cfg(target_os = "linux")]
mod small_disk;
mod support;
mod writing;
