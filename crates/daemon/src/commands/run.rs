//! The daemon.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use autoweave_usb_device::{Device, Event, Tallies};
use autoweave_usb_journal::Journal;
use autoweave_usb_source::{Batch, has_usb};
use tracing::{error, info, warn};

use crate::cli::{Common, Run};
use crate::config::{Config, Loaded};
use crate::exit::Failure;
use crate::http::{Listener, Monitor, Phase, Server, Severity, Status, StreamKind};
use crate::pipeline::{Pipeline, Step, tell_set_aside};
use crate::publish::{self, Publishing};
use crate::{logging, show, signals, stamp, state_dir};

/// A wait begins anew after this long; it only has to be finite.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Who says in the health report that the bus cannot be scanned.
const BUS: &str = "bus";

/// How long a stopping daemon waits for HTTP clients to take their answers.
const HTTP_STOP: Duration = Duration::from_millis(500);

/// What a stopping daemon leaves its publisher at least, however long writing down took.
const PUBLISH_STOP: Duration = Duration::from_millis(200);

/// Runs until SIGTERM or SIGINT.
pub fn run(common: &Common, arguments: &Run) -> Result<(), Failure> {
    let loaded = super::load(common, arguments.source.as_deref())?;
    let _logging = logging::start(&loaded.config.log);
    for (key, origin) in loaded.without_effect() {
        warn!("{origin}: `{key}` is set, but this version does not use it yet");
    }
    let config = &loaded.config;
    // First the source: what happens while a large journal is opened waits in its buffer.
    let source = super::open_source(config)?;
    let requests = signals::handle(source.interrupter())?;
    let directory = state_dir::find(arguments.state_dir.as_deref())?;
    let journal = Journal::open(&directory, super::journal_options(config)).map_err(Failure::state)?;
    tell_set_aside(&journal);
    let settings = publish::settings(config);
    let kind = if settings.is_some() { StreamKind::Redis } else { StreamKind::Embedded };
    let monitor = Arc::new(Monitor::new(Status::new(kind)));
    let interrupter = source.interrupter();
    let server = serve(config, &monitor, &directory)?;
    let host = stamp::host(config.host.as_ref());
    let (pipeline, events) =
        Pipeline::open(journal, source, super::policy(config), host, requests.clone(), monitor.clone())?;
    log_events(&events);
    let publishing = match settings {
        Some(settings) => {
            let producer = pipeline.stream_producer()?;
            Some(Publishing::start(settings, &directory, producer, monitor.clone(), interrupter)?)
        }
        None => None,
    };
    // With a publisher, how it does is looked at now and then, whether or not anything happens.
    let patience = if publishing.is_some() { config.monitoring.interval } else { PATIENCE };
    let mut daemon =
        Daemon { pipeline, loaded, monitor, server, publishing, is_ready: false, told: Vec::new() };
    while !requests.is_stop() {
        let batch = daemon.step(patience)?;
        if batch.scanned && !daemon.is_ready {
            daemon.is_ready = true;
            daemon.monitor.update(|status| status.phase = Phase::Ready);
            daemon.greet(&directory);
        }
        if requests.take_reload() {
            daemon.reload(common, arguments)?;
        }
    }
    daemon.stop()
}

/// Opens the door to look in, if there is to be one.
fn serve(config: &Config, monitor: &Arc<Monitor>, directory: &Path) -> Result<Option<Server>, Failure> {
    let Some(address) = config.monitoring.http else { return Ok(None) };
    let listener = Listener::bind(address).map_err(Failure::unavailable)?;
    let server = Server::start(listener, monitor.clone(), directory.to_owned());
    server.map(Some).map_err(|error| Failure::unavailable(format!("HTTP cannot be served: {error}")))
}

struct Daemon {
    pipeline: Pipeline,
    loaded: Loaded,
    monitor: Arc<Monitor>,
    server: Option<Server>,
    publishing: Option<Publishing>,
    is_ready: bool,
    /// The counters whose first count was told.
    told: Vec<&'static str>,
}

impl Daemon {
    /// Waits for something to happen, and tells it once it is written down.
    fn step(&mut self, patience: Duration) -> Result<Batch, Failure> {
        let Step { events, batch } = self.pipeline.step(patience)?;
        log_events(&events);
        self.report(&batch);
        if let Some(publishing) = &mut self.publishing {
            publishing.step();
            if publishing.take_producer_request() {
                publishing.resume_as(self.pipeline.new_stream_producer()?);
            }
        }
        Ok(batch)
    }

    /// What a person who started the daemon wants to know, once: what it watches, what is there, and where to
    /// look.
    fn greet(&self, directory: &Path) {
        let source = self.pipeline.watch().source();
        let devices: Vec<&Device> = self.pipeline.watch().table().devices().map(AsRef::as_ref).collect();
        info!("watching {}", source.description());
        if devices.is_empty() && !has_usb() {
            info!(
                "this machine has no USB bus; `autoweave-usbd simulate` shows what the daemon does with one"
            );
        } else {
            info!("connected: {}; see `autoweave-usbd devices --tree`", show::summary(&devices));
        }
        let last_seq = self.pipeline.journal().last_seq();
        if let Some(server) = &self.server {
            info!("HTTP on http://{}; see /health, /metrics and /api/v1/devices", server.address());
        }
        info!("the log is in {}, last event {last_seq}; see `autoweave-usbd events`", directory.display());
    }

    /// Says what became of observations that are no events.
    fn report(&mut self, batch: &Batch) {
        let counters = self.pipeline.watch().source().counters().all();
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
        let loaded = match super::load(common, arguments.source.as_deref()) {
            Ok(loaded) => loaded,
            Err(failure) => {
                error!("the configuration was not reloaded, the old one stands: {failure}");
                return Ok(());
            }
        };
        log_events(&self.pipeline.set_policy(super::policy(&loaded.config))?);
        let mut applied = self.loaded.config.clone();
        applied.filters.clone_from(&loaded.config.filters);
        applied.performance.debounce = loaded.config.performance.debounce;
        if let (Some(publishing), Some(settings)) = (&self.publishing, publish::settings(&loaded.config)) {
            publishing.reload(settings);
            applied.redis.clone_from(&loaded.config.redis);
            applied.performance = loaded.config.performance.clone();
        }
        if applied != loaded.config {
            warn!(
                "the configuration was reloaded; some of what changed needs a restart (see docs/operations.md)"
            );
        } else {
            info!("the configuration was reloaded");
        }
        self.loaded.config = applied;
        Ok(())
    }

    /// Writes down what was received, as far as there is time, and closes the journal.
    fn stop(mut self) -> Result<(), Failure> {
        self.monitor.update(|status| status.phase = Phase::Stopping);
        self.pipeline.watch().source().finish();
        let timeout = self.loaded.config.performance.shutdown_timeout;
        let deadline = Instant::now() + timeout;
        while !self.step(deadline.saturating_duration_since(Instant::now()))?.ended {
            if Instant::now() >= deadline {
                warn!("not all that was received could be written down within {} ms", timeout.as_millis());
                break;
            }
        }
        let watch = self.pipeline.watch();
        for (name, count) in watch.source().counters().all().into_iter().filter(|(_, count)| *count > 0) {
            info!(count, "counted: {name}");
        }
        let Tallies { coalesced, filtered, duplicate, unmatched } = watch.table().tallies();
        info!(
            coalesced,
            filtered = filtered.iter().sum::<u64>(),
            duplicate,
            unmatched,
            "edges that became no event"
        );
        if let Some(publishing) = self.publishing {
            publishing.stop(deadline.max(Instant::now() + PUBLISH_STOP));
        }
        if let Some(server) = self.server {
            // It reads the journal, which can only be closed cleanly by its last user.
            server.stop(HTTP_STOP);
        }
        log_events(&self.pipeline.finish()?);
        info!("stopped");
        Ok(())
    }
}

fn log_events(events: &[Event]) {
    for event in events {
        let Event { seq, action, reason, edges, device, .. } = event;
        let port = device.port();
        // `?`: names come from the device, and Debug escapes what a terminal would take for an order.
        info!(seq, %port, id = ?device.device_id, name = ?show::name(device), %reason, edges, "{action}");
    }
}
