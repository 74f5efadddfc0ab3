//! The checked configuration: what the rest of the daemon reads.
//!
//! Every value is in range and no combination contradicts itself; only [`super::load`] builds one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

pub use autoweave_usb_device::{Filters, Selector};
pub use autoweave_usb_journal::Durability;
pub use autoweave_usb_stream::{Endpoint, Password, Secret};

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name of this machine in events; `None`: ask the system.
    pub host: Option<String>,
    /// What the daemon logs, and how.
    pub log: Log,
    /// The Redis to publish to; `None`: the embedded log is the stream.
    pub redis: Option<Redis>,
    /// HTTP and the slow timer.
    pub monitoring: Monitoring,
    /// Which devices become events.
    pub filters: Filters,
    /// Where observations come from.
    pub source: Source,
    /// Pace and patience.
    pub performance: Performance,
    /// The udev helper.
    pub fallback: Fallback,
    /// The durable log on disk.
    pub journal: Journal,
    /// The plugins to run; `None`: no plugin directory is set.
    pub plugins: Option<Plugins>,
    /// What a Kubernetes node offers.
    pub device_plugin: DevicePlugin,
    /// Where OTLP is taken over HTTP; `None`: not given here.
    pub telemetry_endpoint: Option<String>,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is written.
    pub level: LogLevel,
    /// The form of a line.
    pub format: LogFormat,
}

/// How severe a log line must be to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Failures only.
    Error,
    /// Failures and what looks wrong.
    Warn,
    /// The daemon's milestones as well.
    Info,
    /// Each step.
    Debug,
    /// Everything.
    Trace,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[redis]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    /// Where the server is, or who knows.
    pub endpoint: Endpoint,
    /// The ACL user; `None`: Redis' `default` user.
    pub username: Option<String>,
    /// How to find the password; `None`: the server asks for none.
    pub password: Option<Password>,
    /// Number of the database.
    pub db: u32,
    /// Key of the stream.
    pub stream: String,
    /// Entries to keep in the stream, at least 1.
    pub max_len: u32,
}

/// `[monitoring]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitoring {
    /// Where HTTP is served (port 0: the system picks one); `None`: not at all.
    pub http: Option<SocketAddr>,
    /// Names that HTTP may be asked by, beside the machine's own.
    pub hosts: Vec<String>,
    /// How to find what those who ask for devices and events have to show; `None`: they have to show nothing.
    pub token: Option<Password>,
    /// Period of the slow reconcile, of the stream check and of the poll source, 100 ms to 1 h.
    pub interval: Duration,
}

/// `[source]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Which sources to try, in order.
    pub chain: Chain,
    /// Receive buffer to ask of the kernel, 4096 bytes to 1 GiB.
    pub receive_buffer_bytes: u32,
}

/// Which sources to try, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chain {
    /// The order that suits this system.
    Auto,
    /// These, each once, at least one.
    Only(Vec<SourceName>),
}

/// A way to observe the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceName {
    /// The kernel's uevents over netlink.
    Uevent,
    /// libusb's hot-plug callbacks.
    Libusb,
    /// The udev helper.
    Udev,
    /// A scan now and then.
    Poll,
    /// nusb's hot-plug watch.
    Nusb,
}

impl SourceName {
    /// Every source with its name in the configuration.
    pub const ALL: [(&'static str, Self); 5] = [
        ("uevent", Self::Uevent),
        ("libusb", Self::Libusb),
        ("udev", Self::Udev),
        ("poll", Self::Poll),
        ("nusb", Self::Nusb),
    ];
}

/// `[performance]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Performance {
    /// Events let out per second; `None`: no limit.
    pub max_events_per_second: Option<NonZeroU32>,
    /// The window in which the edges of one port are coalesced, up to 60 s; zero: every edge goes out.
    pub debounce: Duration,
    /// Events published in one go, 1 to 10,000.
    pub batch_size: u32,
    /// How long a stopping daemon goes on publishing, up to 10 min.
    pub shutdown_timeout: Duration,
}

/// `[fallback]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// Whether the notify socket and the spool are served, and `udev` is in the automatic chain.
    pub enable_udev: bool,
    /// Where `install` puts the helper and the udev rules point.
    pub udev_script_path: PathBuf,
}

/// `[journal]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// What a written event survives.
    pub durability: Durability,
    /// Rows the journal may hold, 1 to 1,000,000,000.
    pub max_events: u64,
}

/// `[plugins]`, when a directory is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugins {
    /// The directory of plugin packages.
    pub dir: PathBuf,
    /// Name of the consumer group.
    pub group: String,
    /// Name in the group, before `-PRODUCER` is appended.
    pub consumer: String,
    /// Attempts before an event is parked, at least 1.
    pub max_deliveries: u32,
    /// Whether a package without a signature is refused.
    pub require_signature: bool,
    /// Who may run where there is no Landlock.
    pub without_landlock: Vec<String>,
}

/// `[device_plugin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePlugin {
    /// The resources by name, each with the devices it is made of; at most 64.
    pub resources: BTreeMap<String, Selector>,
    /// Where the kubelet's socket is.
    pub directory: PathBuf,
}
