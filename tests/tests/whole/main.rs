//! The built daemon on a virtual USB bus, run as its users run it.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "helpers of tests, which clippy does not recognise as tests"
)]

mod backlog;
mod bad_input;
mod browser;
mod chart;
mod check_journal;
mod cli;
mod compose;
mod containers;
mod crash;
mod crowd;
mod device_plugin;
mod failover;
mod fault;
mod flood;
mod harness;
mod http;
mod install;
mod installed;
mod invariants;
mod keeper;
mod kill_points;
mod kubelet;
mod libusb;
mod machine;
mod notify;
mod nusb;
mod page;
mod plugins;
mod policy;
mod poll;
mod program;
mod prometheus;
mod reading;
mod redis;
mod redis_cut;
mod redis_loss;
mod redis_node;
mod redis_outages;
mod redis_reload;
mod redis_server;
mod restart;
mod secrets;
mod sources;
mod state;
mod stop;
mod stream_cli;
mod systemd;
mod telemetry;
mod udev;
mod udev_rules;
