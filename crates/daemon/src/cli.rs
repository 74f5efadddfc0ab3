//! The command line.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Hears every USB plug and unplug on this machine, exactly once, and keeps it.
#[derive(Debug, Parser)]
#[command(
    name = "autoweave-usbd",
    version,
    subcommand_required = false,
    after_help = "Without a command it runs the daemon. Example:\n  autoweave-usbd --state-dir ./state"
)]
pub struct Arguments {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub run: Run,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What every command takes.
#[derive(Debug, Args)]
pub struct Common {
    /// Read this configuration file instead of the usual ones
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Log this and what is worse: error, warn, info, debug or trace
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// The form of a log line: text or json
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon (the default)
    #[command(after_help = "Example:\n  autoweave-usbd run --source uevent --state-dir ./state")]
    Run(Run),
    /// Print what is plugged in and out, as it happens
    #[command(after_help = "Example:\n  autoweave-usbd watch --json | jq .device.product")]
    Watch(Watch),
    /// Show what is connected now
    #[command(after_help = "Example:\n  autoweave-usbd devices --tree")]
    Devices(Devices),
    /// Show what the daemon has written down
    #[command(
        after_help = "Example:\n  autoweave-usbd events -n 3\n  autoweave-usbd events --since 41 --follow --json\n  \
                      autoweave-usbd events --create-group audit\n  \
                      autoweave-usbd events --group audit --follow --json >> audit.jsonl"
    )]
    Events(Events),
    /// Make, check, try and show plugins
    #[cfg(target_os = "linux")]
    #[command(subcommand)]
    Plugins(Plugins),
    /// Say what works here and how to mend what does not
    #[command(after_help = "Example:\n  autoweave-usbd check")]
    Check(Check),
    /// Ask the daemon how it is: exit code 0 if it does its job, else 1
    #[command(after_help = "Example:\n  autoweave-usbd health --json | jq .journal")]
    Health {
        /// One JSON object on one line: what it prints without this, too
        #[arg(long)]
        json: bool,
    },
    /// Record what a source sees, until interrupted
    #[command(after_help = "Example:\n  autoweave-usbd record bus.jsonl")]
    Record(Record),
    /// Feed a recording through the pipeline
    #[command(after_help = "Example:\n  autoweave-usbd replay bus.jsonl --json")]
    Replay(Replay),
    /// Feed synthetic devices through the pipeline
    #[command(after_help = "Example:\n  autoweave-usbd simulate --devices 50 --cycles 20 --rate 0")]
    Simulate(Simulate),
    /// Offer USB devices to the kubelet of a Kubernetes node
    #[cfg(all(feature = "device-plugin", target_os = "linux"))]
    #[command(
        after_help = "Which devices, the configuration says. Example:\n  autoweave-usbd device-plugin --config /etc/autoweave/usbd.toml"
    )]
    DevicePlugin(DevicePlugin),
    /// Leave word of a plug or unplug for the daemon, as udev rules do
    #[cfg(target_os = "linux")]
    #[command(after_help = "Example:\n  autoweave-usbd notify add 1-1.2 046d c52b")]
    Notify(Notify),
    /// Make this program a service of the machine: files, user and group, udev rules, systemd units
    #[cfg(target_os = "linux")]
    #[command(after_help = "Example:\n  sudo ./autoweave-usbd install\n  ./autoweave-usbd install --dry-run")]
    Install(Install),
    /// Undo `install`; the configuration and what was written down stay
    #[cfg(target_os = "linux")]
    #[command(after_help = "Example:\n  sudo autoweave-usbd uninstall")]
    Uninstall(Uninstall),
    /// Print completions for a shell
    #[command(
        after_help = "Example:\n  autoweave-usbd completions bash > /etc/bash_completion.d/autoweave-usbd"
    )]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    #[command(after_help = "Example:\n  autoweave-usbd man | man -l -")]
    Man,
}

#[derive(Debug, Default, PartialEq, Args)]
pub struct Run {
    /// Where to keep the journal
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// How to hear of devices: auto, uevent, libusb, udev, nusb or poll
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<String>,
    /// What to do of it: all, watch the bus without running plugins, or only run plugins, on the events in Redis
    #[arg(long, value_enum, default_value_t, value_name = "ROLE")]
    pub role: Role,
}

/// What a daemon does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Everything: plugins too, if a directory of them is configured
    #[default]
    All,
    /// Everything but plugins
    Watcher,
    /// Plugins only, on the events in Redis; of all with the same plugins.group, one is active
    Plugins,
}

#[derive(Debug, Args)]
pub struct Watch {
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    /// How to hear of devices: auto, uevent, libusb, udev, nusb or poll
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<String>,
}

#[derive(Debug, Args)]
pub struct Devices {
    /// Show what hangs below what
    #[arg(long, conflicts_with = "json")]
    pub tree: bool,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Events {
    /// How many: the newest ones first, or with --since the first ones after it; with --group, end after so many
    #[arg(short = 'n', value_name = "COUNT")]
    pub count: Option<u64>,
    /// Keep printing events as they come, oldest first
    #[arg(long)]
    pub follow: bool,
    /// Only events after this sequence number, oldest first; in the Redis stream, after this number of each producer
    #[arg(long, value_name = "SEQ")]
    pub since: Option<u64>,
    /// Read the Redis stream, not the journal
    #[arg(long, conflicts_with = "state_dir")]
    pub redis: bool,
    /// Read the Redis stream as a consumer group: print and acknowledge what it did not acknowledge before. All that
    /// read as one group on one host are one consumer: run one at a time, or each prints what another is printing
    #[arg(
        long,
        value_name = "NAME",
        value_parser = NonEmptyStringValueParser::new(),
        conflicts_with_all = ["since", "state_dir"],
    )]
    pub group: Option<String>,
    /// Make a consumer group, which gets all of the Redis stream
    #[arg(
        long,
        value_name = "NAME",
        value_parser = NonEmptyStringValueParser::new(),
        conflicts_with_all = ["group", "follow", "count", "since", "json", "state_dir"],
    )]
    pub create_group: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    /// Where the journal is
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

#[cfg(target_os = "linux")]
#[derive(Debug, Subcommand)]
pub enum Plugins {
    /// Make a plugin to begin with, in a directory of its name
    #[command(after_help = "Example:\n  autoweave-usbd plugins new scanner-log --lang python")]
    New {
        /// Its name: lower case, digits and single hyphens, 3 to 50 characters
        #[arg(value_name = "NAME")]
        name: String,
        /// What it is written in
        #[arg(long, value_enum, value_name = "LANGUAGE", default_value_t)]
        lang: Language,
    },
    /// Say what is wrong with a package and where, or what it may do
    #[command(after_help = "Example:\n  autoweave-usbd plugins check ./scanner-log")]
    Check {
        /// The package
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Run one plugin here, in its sandbox, and print what it hears and answers; takes no daemon
    #[command(after_help = "Example:\n  autoweave-usbd plugins run ./scanner-log --simulate\n  \
                      autoweave-usbd events -n 1 --json > event.json\n  \
                      autoweave-usbd plugins run ./scanner-log --event event.json")]
    Run(PluginRun),
    /// Show the plugins of the daemon, and how they are
    #[command(after_help = "Example:\n  autoweave-usbd plugins list")]
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Show the events that plugins gave up, and why: oldest first
    #[command(after_help = "Example:\n  autoweave-usbd plugins dead --json | jq .error")]
    Dead {
        /// Read the dead letters in Redis (of --role plugins), not those beside the journal
        #[arg(long, conflicts_with = "state_dir")]
        redis: bool,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
        /// Where the journal is
        #[arg(long, value_name = "DIR")]
        state_dir: Option<PathBuf>,
    },
}

/// What a new plugin is written in.
#[cfg(target_os = "linux")]
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Language {
    /// Node
    #[default]
    Node,
    /// Python
    Python,
    /// A POSIX shell
    Shell,
}

#[cfg(target_os = "linux")]
#[derive(Debug, Args)]
pub struct PluginRun {
    /// The package
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// The events it hears: JSON, one a line, as `events --json` and `watch --json` print them; `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "simulate", required_unless_present = "simulate")]
    pub event: Option<PathBuf>,
    /// A made-up device that it asks for comes and goes
    #[arg(long)]
    pub simulate: bool,
}

#[cfg(all(feature = "device-plugin", target_os = "linux"))]
#[derive(Debug, Args)]
pub struct DevicePlugin {
    /// How to hear of devices: auto, uevent, libusb, udev, nusb or poll
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<String>,
}

#[derive(Debug, Args)]
pub struct Check {
    /// Examine the journal instead, every event in it; beside a running daemon or without one
    #[arg(long)]
    pub journal: bool,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    /// Where the journal is
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Record {
    /// The recording; it must not exist yet
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How to hear of devices: auto, uevent, libusb, udev, nusb or poll
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<String>,
}

#[derive(Debug, Args)]
pub struct Replay {
    /// The recording
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Publish the events to the configured Redis, too
    #[arg(long)]
    pub redis: bool,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    /// Where to keep the journal; without it, it is thrown away
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Simulate {
    /// How many devices
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=i64::from(autoweave_usb_source::Simulation::DEVICES_MAX)))]
    pub devices: u32,
    /// How often each comes and goes
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub cycles: u32,
    /// Plugs and unplugs a second; 0 for as fast as they are written down
    #[arg(long, value_name = "PER_SECOND", default_value_t = 100)]
    pub rate: u32,
    /// Publish the events to the configured Redis, too
    #[arg(long)]
    pub redis: bool,
    /// Print the events, one JSON object a line
    #[arg(long)]
    pub json: bool,
    /// Where to keep the journal; without it, it is thrown away
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

#[cfg(target_os = "linux")]
#[derive(Debug, Args)]
pub struct Notify {
    /// What happened: add or remove
    #[arg(value_name = "ACTION")]
    pub action: std::ffi::OsString,
    /// The kernel's name of the device (udev's %k): 1-1.2, or usb1 for a root hub
    #[arg(value_name = "DEVICE")]
    pub device: std::ffi::OsString,
    /// Its vendor id in hexadecimal; without it, what $PRODUCT says
    #[arg(value_name = "VENDOR", requires = "product")]
    pub vendor: Option<std::ffi::OsString>,
    /// Its product id in hexadecimal
    #[arg(value_name = "PRODUCT")]
    pub product: Option<std::ffi::OsString>,
}

#[cfg(target_os = "linux")]
#[derive(Debug, Args)]
pub struct Install {
    /// Only print what would be done
    #[arg(long, conflicts_with = "package")]
    pub dry_run: bool,
    /// Only lay the files out in this directory, as a package has them: below /usr
    #[arg(long, value_name = "DIR")]
    pub package: Option<PathBuf>,
}

#[cfg(target_os = "linux")]
#[derive(Debug, Args)]
pub struct Uninstall {
    /// Only print what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Take away the configuration, everything that was written down, and user and group, too
    #[arg(long)]
    pub purge: bool,
}
