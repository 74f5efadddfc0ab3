//! The daemon.

use autoweave_usb_device::{Device, Event};
use autoweave_usb_journal::{Durability, Journal, Options as JournalOptions};
use autoweave_usb_source::{Batch, Source, has_usb};
use tracing::{debug, error, info, warn};

use crate::cli::{Common, Run};
use crate::config::{self, Config, Loaded};
use crate::exit::Failure;
use crate::pipeline::{Pipeline, Step, tell_set_aside};
use crate::{logging, show, signals, stamp, state_dir};

/// Runs until SIGTERM or SIGINT.
pub fn run(common: &Common, arguments: &Run) -> Result<(), Failure> {
    let loaded = super::load(common, arguments.source.as_deref())?;
    let _logging = logging::start(&loaded.config.log);
    for (key, origin) in loaded.without_effect() {
        warn!("{origin}: `{key}` is set, but this version does not use it yet");
    }
    let config = &loaded.config;
    let directory = state_dir::find(arguments.state_dir.as_deref())?;
    let journal = Journal::open(&directory, journal_options(config)).map_err(Failure::state)?;
    tell_set_aside(&journal);
    let source = Source::open(&super::source_options(config)?).map_err(Failure::unavailable)?;
    let requests = signals::handle(source.interrupter())?;
    let host = stamp::host(config.host.as_ref());
    let (pipeline, events) = Pipeline::open(journal, source, super::policy(config), host, requests.clone())?;
    log_events(&events);
    let mut daemon = Daemon { pipeline, loaded, is_ready: false };
    loop {
        let Step { events, batch } = daemon.pipeline.step()?;
        log_events(&events);
        daemon.report(&batch);
        if batch.scanned && !daemon.is_ready {
            daemon.is_ready = true;
            daemon.greet(&directory);
        }
        if requests.take_reload() {
            daemon.reload(common, arguments)?;
        }
        if requests.is_stop() {
            break;
        }
    }
    daemon.stop()
}

pub fn journal_options(config: &Config) -> JournalOptions {
    let durability = match config.journal.durability {
        config::Durability::Power => Durability::Power,
        config::Durability::Process => Durability::Process,
    };
    JournalOptions { durability, max_events: config.journal.max_events }
}

struct Daemon {
    pipeline: Pipeline,
    loaded: Loaded,
    is_ready: bool,
}

impl Daemon {
    /// What a person who started the daemon wants to know, once: what it watches, what is there, and where to
    /// look.
    fn greet(&self, directory: &std::path::Path) {
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
        info!("the log is in {}, last event {last_seq}; see `autoweave-usbd events`", directory.display());
    }

    /// Says what became of observations that are no events.
    fn report(&self, batch: &Batch) {
        for lost in &batch.overruns {
            let usb_source_overruns_total = self.counter("overruns");
            warn!(
                usb_source_overruns_total,
                lost, "the kernel dropped messages; the bus is scanned for what was lost"
            );
        }
        for failure in &batch.scan_failures {
            error!("the bus cannot be scanned: {failure}; what is known of it stands");
        }
    }

    fn counter(&self, name: &str) -> u64 {
        let counters = self.pipeline.watch().source().counters().all();
        counters.iter().find(|(known, _)| *known == name).map_or(0, |(_, count)| *count)
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
        if applied != loaded.config {
            warn!(
                "the configuration was reloaded; what changed besides filters and debounce_ms needs a restart"
            );
        } else {
            info!("the configuration was reloaded");
        }
        self.loaded.config = applied;
        Ok(())
    }

    fn stop(self) -> Result<(), Failure> {
        let counters = self.pipeline.watch().source().counters().all();
        for (name, count) in counters.into_iter().filter(|(_, count)| *count > 0) {
            info!(count, "counted: {name}");
        }
        let tallies = self.pipeline.watch().table().tallies();
        debug!(?tallies, "edges that became no event");
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
