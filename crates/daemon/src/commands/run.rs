//! The daemon.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use autoweave_usb_device::{Device, Event, Tallies};
use autoweave_usb_journal::Journal;
use autoweave_usb_source::{Batch, Notices, Options, Supervisor, has_usb};
use autoweave_usb_stream::Settings;
use tracing::{error, info, warn};

use crate::cli::{Common, Role, Run};
use crate::config::{Config, Loaded};
use crate::exit::Failure;
use crate::held::{self, Held, Reception};
use crate::http::{Monitor, Phase, Server, Severity, Status, StreamKind};
use crate::logging::{self, Logging};
use crate::pipeline::{self, Group, Parts, Pipeline, Restored, Step, tell_set_aside};
use crate::plugins::{self, Plugins};
use crate::signals::{self, Requests};
use crate::telemetry::{Recorder, Telemetry};
use crate::{show, stamp, state_dir};

/// A wait begins anew after this long; it only has to be finite.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Who says in the health report that the bus cannot be scanned.
const BUS: &str = "bus";

/// Who says in the health report that another source than the best is in use.
const SOURCE: &str = "source";

/// How long a stopping daemon waits for HTTP clients to take their answers.
const HTTP_STOP: Duration = Duration::from_millis(500);

/// What a stopping daemon leaves its publisher at least, however long writing down took.
const PUBLISH_STOP: Duration = Duration::from_millis(200);

/// Runs until SIGTERM or SIGINT.
pub fn run(common: &Common, arguments: &Run) -> Result<(), Failure> {
    let begun = Instant::now();
    live(common, arguments).map_err(|failure| held::end_slowly(failure, begun))
}

fn live(common: &Common, arguments: &Run) -> Result<(), Failure> {
    signals::block()?;
    let loaded = super::load_for_daemon(common, arguments.source.as_deref())?;
    if arguments.role == Role::Plugins {
        return plugins::run_alone(&loaded, &state_dir::find(arguments.state_dir.as_deref())?);
    }
    let executable = held::executable()?;
    let held = hold(&loaded.config)?;
    let telemetry = Telemetry::start(&loaded.config)?;
    let logging = logging::start(&loaded.config.log, telemetry.log_bridge());
    held::tell(held.as_ref().map(|(_, held)| held));
    super::warn_passed_over(&loaded);
    warn_without_effect(&loaded);
    let config = &loaded.config;
    // First the source: what happens while a large journal is opened waits in its buffer.
    let directory = state_dir::find(arguments.state_dir.as_deref())?;
    let options = super::options(config);
    let notices = if config.fallback.enable_udev { serve_helper(&options, &directory) } else { None };
    let options = Options { notices: notices.clone(), ..options };
    let (sources, held) = open_sources(options, held)?;
    let interrupter = sources.interrupter();
    let requests = signals::handle(move || interrupter.interrupt())?;
    let journal = Journal::open(&directory, super::journal_options(config)).map_err(Failure::state)?;
    tell_set_aside(&journal);
    let redis = pipeline::settings(config);
    let group = plugin_group(arguments.role, config, &journal)?;
    // How publisher and plugins do is looked at now and then, whether or not anything happens.
    let patience = if redis.is_some() || group.is_some() { config.monitoring.interval } else { PATIENCE };
    let kind = if redis.is_some() { StreamKind::Redis } else { StreamKind::Embedded };
    let monitor = Arc::new(Monitor::new(Status::new(kind)).with_recorder(telemetry.recorder()));
    telemetry.begin(&monitor);
    let restored = pipeline::restore(&journal)?;
    restored.tell(&journal, &monitor);
    let server = super::serve(config, &monitor, &directory)?;
    let start = |group: &Group| start_plugins(&loaded, group, &journal, &restored, &directory, &monitor);
    let plugins = group.as_ref().map(start);
    let plugins = plugins.transpose()?;
    let (pipeline, events) = Pipeline::open(Parts {
        sources,
        notices: notices.clone(),
        journal,
        restored,
        directory: directory.clone(),
        max_events: config.journal.max_events,
        redis,
        group,
        policy: super::policy(config),
        host: stamp::host(config.host.as_ref()),
        requests: requests.clone(),
        monitor: monitor.clone(),
    })?;
    log_events(&monitor.recorder, &events);
    let config = loaded.config.clone();
    let mut daemon = Daemon {
        pipeline,
        config,
        started: loaded,
        logging,
        monitor,
        notices,
        server,
        plugins,
        telemetry,
        is_ready: false,
        told: Vec::new(),
    };
    if daemon.run(patience, &requests, common, arguments, &directory)? == Next::Upgrade {
        // What could not be written down is in the memory that is handed on.
        if let Err(failure) = daemon.stop() {
            error!("{failure}; the upgrade goes on");
        }
        return Err(held::exec(held.as_ref(), &executable));
    }
    daemon.stop()
}

/// Whose events the plugins here get, if any run here.
fn plugin_group(role: Role, config: &Config, journal: &Journal) -> Result<Option<Group>, Failure> {
    if role == Role::All {
        return plugins::group(config, journal);
    }
    if config.plugins.is_some() {
        info!("no plugin runs here, whatever plugins.dir says: this is --role watcher");
    }
    Ok(None)
}

/// Why a daemon runs no longer.
#[derive(PartialEq)]
enum Next {
    Stop,
    Upgrade,
}

/// Begins to feed the plugins of `group` what is behind its place.
fn start_plugins(
    loaded: &Loaded,
    group: &Group,
    journal: &Journal,
    restored: &Restored,
    directory: &Path,
    monitor: &Arc<Monitor>,
) -> Result<Plugins, Failure> {
    let host = stamp::host(loaded.config.host.as_ref());
    let connected = plugins::connected(group, journal, directory, restored.devices(), &host)?;
    Plugins::start(loaded, directory, group, connected, monitor)
}

fn warn_without_effect(loaded: &Loaded) {
    for (key, origin) in loaded.without_effect() {
        warn!("{origin}: `{key}` is set, but has no effect without plugins.dir");
    }
}

/// The sources, the first on what is held.
fn open_sources(
    options: Options,
    held: Option<(Reception, Held)>,
) -> Result<(Supervisor, Option<Held>), Failure> {
    let Some((reception, held)) = held else { return Ok((super::open_sources(options)?, None)) };
    let sources = held::sources(reception, options);
    Ok((sources.map_err(Failure::unavailable)?, Some(held)))
}

/// The socket of the udev helper, if it can be served.
fn serve_helper(options: &Options, state: &Path) -> Option<Arc<Notices>> {
    let directory = match state_dir::make_runtime() {
        Ok(directory) => directory?,
        Err(problem) => {
            warn!("the udev helper cannot reach this daemon: {problem}");
            return None;
        }
    };
    let notices = Notices::open(&directory, state, options.counters.clone());
    let tell = |error| warn!("the udev helper cannot reach this daemon: {error}");
    notices.map(Arc::new).map_err(tell).ok()
}

/// The uevent socket, if it is wanted, and what holds it. May begin a keeper instead of returning.
fn hold(config: &Config) -> Result<Option<(Reception, Held)>, Failure> {
    if super::wants_uevents(config) { held::begin(super::receive_buffer_bytes(config)) } else { Ok(None) }
}

/// A daemon that would not start with its configuration goes on instead.
fn may_upgrade(common: &Common, arguments: &Run) -> bool {
    match super::load_for_daemon(common, arguments.source.as_deref()) {
        Ok(_) => {
            info!("upgrading: going on as what is now on disk");
            true
        }
        Err(failure) => {
            error!("not upgraded, the configuration is refused: {failure}");
            false
        }
    }
}

struct Daemon {
    pipeline: Pipeline,
    logging: Logging,
    /// What it was started with.
    started: Loaded,
    /// What was loaded last.
    config: Config,
    monitor: Arc<Monitor>,
    /// Where the udev helper's notices arrive, if they do.
    notices: Option<Arc<Notices>>,
    server: Option<Server>,
    plugins: Option<Plugins>,
    telemetry: Telemetry,
    is_ready: bool,
    /// The counters whose first count was told.
    told: Vec<&'static str>,
}

impl Daemon {
    /// Runs until it is asked to stop, or to become what is on disk.
    fn run(
        &mut self,
        patience: Duration,
        requests: &Requests,
        common: &Common,
        arguments: &Run,
        directory: &Path,
    ) -> Result<Next, Failure> {
        while !requests.is_stop() {
            let batch = self.step(patience)?;
            if batch.scanned && !self.is_ready {
                self.become_ready(directory);
            }
            if requests.take_reload() {
                self.reload(common, arguments)?;
            }
            if requests.is_upgrade() {
                if may_upgrade(common, arguments) {
                    return Ok(Next::Upgrade);
                }
                requests.go_on();
            }
        }
        Ok(Next::Stop)
    }

    /// Waits for something to happen, and tells it once it is written down.
    fn step(&mut self, patience: Duration) -> Result<Batch, Failure> {
        let Step { events, batch } = self.pipeline.step(patience)?;
        log_events(&self.monitor.recorder, &events);
        self.report(&batch);
        Ok(batch)
    }

    /// From now on the device table is what is connected.
    fn become_ready(&mut self, directory: &Path) {
        self.is_ready = true;
        self.tell_source_problem();
        self.monitor.update(|status| status.phase = Phase::Ready);
        held::tell_ready();
        self.greet(directory);
    }

    /// What a person who started the daemon wants to know, once: what it watches, what is there, and where to
    /// look.
    fn greet(&self, directory: &Path) {
        let source = self.pipeline.watch().sources().source();
        let devices: Vec<&Device> = self.pipeline.watch().table().devices().map(AsRef::as_ref).collect();
        info!("watching {}", source.description());
        if let Some(problem) = self.pipeline.watch().sources().problem() {
            warn!("the source is {problem}");
        }
        if devices.is_empty() && !has_usb() {
            info!(
                "this machine has no USB bus; `autoweave-usbd simulate` shows what the daemon does with one"
            );
        } else {
            info!("connected: {}; see `autoweave-usbd devices --tree`", show::summary(&devices));
        }
        let last_seq = self.pipeline.journal().last_seq();
        if let Some(server) = &self.server {
            info!("HTTP on http://{}; open it in a browser, or see /health and /metrics", server.address());
        }
        info!("the log is in {}, last event {last_seq}; see `autoweave-usbd events`", directory.display());
    }

    /// Tells those who ask for the daemon's health when not the first source of the chain is in use.
    fn tell_source_problem(&self) {
        let problem = self.pipeline.watch().sources().problem();
        self.monitor.update(|status| match problem {
            Some(problem) => status.raise(SOURCE, Severity::Degraded, problem),
            None => status.clear(SOURCE),
        });
    }

    /// Says what became of observations that are no events.
    fn report(&mut self, batch: &Batch) {
        let counters = self.pipeline.watch().sources().counters().all();
        if !batch.overruns.is_empty() {
            let usb_source_overruns_total =
                counters.iter().find(|(name, _)| *name == "overruns").map(|found| found.1);
            let lost: u64 = batch.overruns.iter().flatten().sum();
            warn!(
                usb_source_overruns_total,
                lost, "the kernel dropped messages; the bus is scanned for what was lost"
            );
        }
        if batch.scanned {
            self.monitor.update(|status| status.clear(BUS));
        }
        for switch in &batch.switches {
            if switch.why.is_some() {
                error!("{switch}");
            } else {
                info!("{switch}");
            }
        }
        // A better source that is tried again may have another reason by now.
        if batch.scanned || !batch.switches.is_empty() {
            self.tell_source_problem();
        }
        for failure in &batch.scan_failures {
            self.monitor.update(|status| status.raise(BUS, Severity::Degraded, failure.to_string()));
            error!("the bus cannot be scanned: {failure}; what is known of it stands");
        }
        for (name, _) in counters.into_iter().filter(|(_, count)| *count > 0) {
            if !self.told.contains(&name) {
                self.told.push(name);
                info!("the first of its kind: {name}; they are counted");
            }
        }
    }

    /// Loads the configuration again. What can change without losing events does; a bad one is refused.
    fn reload(&mut self, common: &Common, arguments: &Run) -> Result<(), Failure> {
        let loaded = match super::load_for_daemon(common, arguments.source.as_deref()) {
            Ok(loaded) => loaded,
            Err(failure) => {
                error!("the configuration was not reloaded, the old one stands: {failure}");
                return Ok(());
            }
        };
        super::warn_passed_over(&loaded);
        let config = &loaded.config;
        self.logging.set_level(config.log.level);
        self.pipeline.set_max_events(config.journal.max_events);
        log_events(&self.monitor.recorder, &self.pipeline.set_policy(super::policy(config))?);
        if let Some(settings) = pipeline::settings(config) {
            self.pipeline
                .set_redis(Settings { interval: self.started.config.monitoring.interval, ..settings });
        }
        match self.started.needs_restart(&loaded).as_slice() {
            [] => info!("the configuration was reloaded"),
            keys => warn!("the configuration was reloaded, but these need a restart: {}", keys.join(", ")),
        }
        self.config = loaded.config;
        Ok(())
    }

    /// Writes down what was received, as far as there is time, and closes the journal.
    fn stop(mut self) -> Result<(), Failure> {
        self.monitor.update(|status| status.phase = Phase::Stopping);
        if let Some(notices) = &self.notices {
            // What helpers say from now on is for the next daemon.
            notices.close();
        }
        self.pipeline.finish_sources();
        let timeout = self.config.performance.shutdown_timeout;
        let deadline = Instant::now() + timeout;
        while !self.step(deadline.saturating_duration_since(Instant::now()))?.ended {
            if Instant::now() >= deadline {
                warn!("not all that was received could be written down within {} ms", timeout.as_millis());
                break;
            }
        }
        let watch = self.pipeline.watch();
        for (name, count) in watch.sources().counters().all().into_iter().filter(|(_, count)| *count > 0) {
            info!(count, "counted: {name}");
        }
        let Tallies { coalesced, filtered, duplicate, unmatched, found } = watch.table().tallies();
        info!(
            coalesced,
            filtered = filtered.iter().sum::<u64>(),
            duplicate,
            unmatched,
            "edges that became no event"
        );
        info!(found, "edges that only a scan told");
        let deadline = deadline.max(Instant::now() + PUBLISH_STOP);
        if let Some(plugins) = &self.plugins {
            plugins.begin_to_stop(deadline);
        }
        self.pipeline.stop_publishing(deadline);
        if let Some(plugins) = self.plugins {
            plugins.stop();
        }
        if let Some(server) = self.server {
            // It reads the journal, which can only be closed cleanly by its last user.
            server.stop(HTTP_STOP);
        }
        log_events(&self.monitor.recorder, &self.pipeline.finish()?);
        info!("stopped");
        self.telemetry.stop(deadline);
        Ok(())
    }
}

fn log_events(recorder: &Recorder, events: &[Event]) {
    for event in events {
        let _of_its_trace = recorder.enter(event.traceparent);
        let Event { seq, action, reason, edges, device, .. } = event;
        let port = device.port();
        // As strings, so that they are that in JSON; the log escapes what a terminal would take for an order.
        let (id, name) = (device.device_id.as_str(), show::name(device));
        info!(seq, %port, id, name, %reason, edges, "{action}");
    }
}
