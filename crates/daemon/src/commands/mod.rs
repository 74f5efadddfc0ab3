//! One file a command.

mod check;
#[cfg(all(feature = "device-plugin", target_os = "linux"))]
mod device_plugin;
mod devices;
mod events;
mod health;
#[cfg(target_os = "linux")]
mod install;
mod manual;
#[cfg(target_os = "linux")]
pub mod notify;
#[cfg(target_os = "linux")]
mod plugins;
mod record;
mod run;
mod simulate;
mod watch;

use std::env;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use autoweave_usb_device::Policy;
use autoweave_usb_journal as journal;
use autoweave_usb_source::{Kind, Options, Supervisor};
use autoweave_usb_stream::Settings;
use clap::CommandFactory as _;
use clap_complete::Shell;

use tracing::warn;

use crate::cli::{Arguments, Command, Common, Role};
use crate::config::{self, Chain, Config, Loaded, Password, Secret, SourceName};
use crate::exit::Failure;
use crate::http::{Listener, Monitor, Server};
use crate::{pipeline, show, stamp};

/// Does what the command line asks for.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { common, run: run_arguments, command } = arguments;
    let is_run = matches!(command, None | Some(Command::Run(_)));
    if !is_run && (run_arguments != crate::cli::Run::default()) {
        return Err(Failure::usage("--state-dir, --source and --role go behind the command"));
    }
    match command {
        None => run::run(&common, &run_arguments),
        Some(Command::Run(inner)) => run::run(
            &common,
            &crate::cli::Run {
                state_dir: inner.state_dir.or(run_arguments.state_dir),
                source: inner.source.or(run_arguments.source),
                role: if inner.role == Role::default() { run_arguments.role } else { inner.role },
            },
        ),
        Some(Command::Watch(watch)) => watch::run(&common, &watch),
        #[cfg(all(feature = "device-plugin", target_os = "linux"))]
        Some(Command::DevicePlugin(plugin)) => device_plugin::run(&common, &plugin),
        Some(Command::Devices(devices)) => devices::run(&common, &devices),
        Some(Command::Events(events)) => events::run(&common, &events),
        Some(Command::Health { json: _ }) => health::run(&common),
        #[cfg(target_os = "linux")]
        Some(Command::Plugins(plugins)) => plugins::run(&common, &plugins),
        Some(Command::Check(check)) => check::run(&common, &check),
        Some(Command::Record(record)) => record::run(&common, &record),
        #[cfg(target_os = "linux")]
        Some(Command::Notify(notify)) => notify::run(&notify),
        #[cfg(target_os = "linux")]
        Some(Command::Install(arguments)) => install::install(&common, &arguments),
        #[cfg(target_os = "linux")]
        Some(Command::Uninstall(arguments)) => install::uninstall(&common, &arguments),
        Some(Command::Replay(replay)) => simulate::replay(&common, &replay),
        Some(Command::Simulate(simulate)) => simulate::simulate(&common, &simulate),
        Some(Command::Completions { shell }) => print_bytes(&completions(shell)),
        Some(Command::Man) => print_bytes(&manual::page()?),
    }
}

/// What makes `shell` complete our command lines.
fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "autoweave-usbd", &mut script);
    script
}

/// The configuration as this command line and this environment make it. Says which files it passed over.
fn load(common: &Common, source: Option<&str>) -> Result<Loaded, Failure> {
    let loaded = load_for(common, source, false)?;
    for file in &loaded.passed_over {
        anstream::eprintln!("autoweave-usbd: {file}");
    }
    Ok(loaded)
}

/// The same for what runs until it is stopped. What it passes over is for the log: see [`warn_passed_over`].
fn load_for_daemon(common: &Common, source: Option<&str>) -> Result<Loaded, Failure> {
    load_for(common, source, true)
}

/// Logs which files a configuration is without.
pub fn warn_passed_over(loaded: &Loaded) {
    loaded.passed_over.iter().for_each(|file| warn!("{file}"));
}

fn load_for(common: &Common, source: Option<&str>, is_daemon: bool) -> Result<Loaded, Failure> {
    let env: Vec<_> = env::vars_os().collect();
    let given = [
        ("log.level", common.log_level.as_deref(), "--log-level"),
        ("log.format", common.log_format.as_deref(), "--log-format"),
        ("source.chain", source, "--source"),
    ];
    let flags =
        given.into_iter().filter_map(|(key, value, flag)| Some((key, value?.to_owned(), flag))).collect();
    let search_paths = config::search_paths(&env, is_daemon);
    config::load(&config::Sources { file: common.config.clone(), env, flags, search_paths })
        .map_err(Failure::usage)
}

/// The sources the configuration asks for, in order.
fn chain(config: &Config) -> Vec<Kind> {
    let names = match &config.source.chain {
        Chain::Auto if config.fallback.enable_udev => return Kind::system(),
        Chain::Auto => return Kind::system().into_iter().filter(|kind| *kind != Kind::Udev).collect(),
        Chain::Only(names) => names,
    };
    let kind = |name: &SourceName| match name {
        SourceName::Uevent => Kind::Uevent,
        SourceName::Libusb => Kind::Libusb,
        SourceName::Udev => Kind::Udev,
        SourceName::Poll => Kind::Poll,
        SourceName::Nusb => Kind::Nusb,
    };
    names.iter().map(kind).collect()
}

/// Whether kernel uevents come before anything else that is wanted, and can be told.
fn wants_uevents(config: &Config) -> bool {
    let is_wanted = |chain: Vec<Kind>| {
        let may_be_deaf = || Kind::Uevent.may_be_deaf(&Options::default());
        chain.first() == Some(&Kind::Uevent) && (chain.len() == 1 || !may_be_deaf())
    };
    is_wanted(chain(config))
}

/// Opens the door to look in, if there is to be one.
pub fn serve(config: &Config, monitor: &Arc<Monitor>, directory: &Path) -> Result<Option<Server>, Failure> {
    let Some(address) = config.monitoring.http else { return Ok(None) };
    let listener = Listener::bind(address).map_err(Failure::unavailable)?;
    // A machine that is called otherwise in events is still reached by its own name.
    let mut hosts = vec![stamp::host(config.host.as_ref()), stamp::host(None)];
    hosts.dedup();
    hosts.extend_from_slice(&config.monitoring.hosts);
    let token = config.monitoring.token.as_ref().map(token).transpose()?;
    if token.is_none() && !address.ip().is_loopback() {
        warn!("HTTP tells anyone who reaches {address} what is connected: set monitoring.token");
    }
    let server = Server::start(hosts, token, listener, monitor.clone(), directory.to_owned());
    server.map(Some).map_err(|error| Failure::unavailable(format!("HTTP cannot be served: {error}")))
}

/// What clients of HTTP have to show.
fn token(from: &Password) -> Result<Secret, Failure> {
    let path = match from {
        Password::Inline(token) => return Ok(token.clone()),
        Password::File(path) => path,
    };
    let wrong =
        |why: String| Failure::unavailable(format!("monitoring.token_file: {}: {why}", path.display()));
    let text = config::read_file(path).map_err(|error| wrong(error.to_string()))?;
    let token = text.trim_end_matches(['\r', '\n']);
    // An empty one would open the door to everyone.
    if token.is_empty() || !config::is_token(token) {
        return Err(wrong("it has to hold 1 to 255 ASCII characters without spaces".to_owned()));
    }
    Ok(Secret::new(token.to_owned()))
}

/// Opens the sources of the configuration.
fn open_sources(options: Options) -> Result<Supervisor, Failure> {
    Supervisor::open(options).map_err(Failure::unavailable)
}

/// How to open the sources of the configuration.
fn options(config: &Config) -> Options {
    options_for(config, chain(config))
}

fn options_for(config: &Config, chain: Vec<Kind>) -> Options {
    let receive_buffer_bytes = receive_buffer_bytes(config);
    Options { chain, interval: config.monitoring.interval, receive_buffer_bytes, ..Options::default() }
}

fn receive_buffer_bytes(config: &Config) -> usize {
    // 32 bits fit everywhere the daemon runs.
    usize::try_from(config.source.receive_buffer_bytes).unwrap_or(usize::MAX)
}

/// How to reach the Redis that was asked for.
fn redis(config: &Config) -> Result<Settings, Failure> {
    pipeline::settings(config).ok_or_else(|| {
        Failure::unavailable(
            "no Redis is configured: set redis.host or redis.url in the configuration file, or $REDIS_HOST or \
             $REDIS_URL",
        )
    })
}

fn policy(config: &Config) -> Policy {
    Policy { filters: config.filters.clone(), debounce_ms: milliseconds(config.performance.debounce) }
}

fn journal_options(config: &Config) -> journal::Options {
    let config::Journal { durability, max_events } = config.journal;
    journal::Options { durability, max_events }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Prints a line of data, coloured if stdout is a terminal.
fn print_line(line: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| Failure::stdout(&error))
}

/// Prints a value as one line of JSON.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    print_json_text(&serde_json::to_string(value).map_err(Failure::io)?)
}

/// Prints a line of JSON, with what a terminal would obey or hide escaped as JSON has it: the value is the same.
fn print_json_text(json: &str) -> Result<(), Failure> {
    print_bytes(format!("{}\n", show::escape_json(json)).as_bytes())
}

fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| Failure::stdout(&error))
}
