//! What plugins, loader and consumer say: to the log, the health report and the metrics.

use std::sync::Arc;

use autoweave_usb_plugin::loader::{Loader, Status};
use autoweave_usb_plugin::protocol::Level;
use autoweave_usb_plugin::report::{Report, Sink};
use autoweave_usb_plugin::worker::LogLine;
use autoweave_usb_stream::{ConsumerListener, ConsumerNotice, Delivery, Letter};
use tracing::{debug, error, info, trace, warn};

use crate::http::{Monitor, PluginStatus, PluginsStatus, RESTING, RefusedPlugin, Severity};
use crate::show::escape_json;
use crate::telemetry::Recorder;

/// Who says in the health report that plugins get no events.
const CONSUMER: &str = "plugins' events";

/// Takes what a loader tells.
pub fn sink(recorder: Recorder) -> Sink {
    Arc::new(move |report| match report {
        Report::Answered { plugin, took } => recorder.answered(plugin, took),
        Report::Loaded { plugin, version, notes } => loaded("loaded", &plugin, &version, &notes),
        Report::Swapped { plugin, version, notes } => {
            loaded("swapped for a new version", &plugin, &version, &notes);
        }
        Report::RolledBack { plugin, version, error } => {
            let error = escape_json(&error);
            error!(plugin, version, "the new version was not ready, the old one goes on: {error}");
        }
        Report::NotStarted { plugin, version, error } => {
            error!(plugin, version, "did not start, its events wait: {}", escape_json(&error));
        }
        Report::Missed { package, events } => {
            let package = package.display().to_string();
            error!(
                events,
                "{}: events went by while it was no plugin that can be run",
                escape_json(&package)
            );
        }
        Report::Refused { error, .. } => error!("no plugin that can be run: {}", escape_json(&error)),
        Report::Removed { plugin, unheard: 0 } => info!(plugin, "removed"),
        Report::Removed { plugin, unheard } => {
            warn!(plugin, unheard, "removed, with events that waited for it");
        }
        Report::ColdplugGivenUp { plugin, event, deliveries, error } => {
            let (device, error) = (&event.device.device_id, escape_json(&error));
            error!(plugin, device, deliveries, "gave up what was there when it started: {error}");
        }
        Report::Log { plugin, line } => log(&plugin, &line),
        Report::Started { plugin, process, restart } => debug!(plugin, process, restart, "worker started"),
        Report::Crashed { plugin, error, wait } => {
            let (error, wait_ms) = (escape_json(&error), wait.as_millis());
            warn!(plugin, wait_ms, "worker crashed: {error}");
        }
        Report::CircuitOpened { plugin, error, wait } => {
            let (error, wait_ms) = (escape_json(&error), wait.as_millis());
            error!(plugin, wait_ms, "crashed too often, its events wait: {error}");
        }
        Report::CircuitClosed { plugin } => info!(plugin, "works again"),
        Report::ShutdownFailed { plugin, error } => {
            warn!(plugin, "did not end well: {}", escape_json(&error));
        }
        Report::DirectoryFailed { directory, error } => {
            error!("the plugin directory {} cannot be read: {error}", directory.display());
        }
    })
}

fn loaded(what: &str, plugin: &str, version: &str, notes: &[String]) {
    info!(plugin, version, "{what}");
    for note in notes {
        warn!(plugin, "{note}");
    }
}

fn log(plugin: &str, LogLine { level, message, event_id }: &LogLine) {
    // Written by the plugin: a terminal is not to obey it.
    let (message, event_id) = (escape_json(message), event_id.as_deref());
    match level {
        Level::Error => error!(plugin, event_id, "{message}"),
        Level::Warn => warn!(plugin, event_id, "{message}"),
        Level::Info => info!(plugin, event_id, "{message}"),
        Level::Debug => debug!(plugin, event_id, "{message}"),
        Level::Trace => trace!(plugin, event_id, "{message}"),
    }
}

/// Takes what a consumer tells.
pub fn listener(monitor: Arc<Monitor>) -> ConsumerListener {
    Arc::new(move |notice| match &notice {
        ConsumerNotice::Up => {
            info!("plugins: {notice}");
            monitor.update(|status| status.clear(CONSUMER));
        }
        ConsumerNotice::Down(_) => {
            warn!("plugins: {notice}");
            monitor.update(|status| status.raise(CONSUMER, Severity::Degraded, notice.to_string()));
        }
        ConsumerNotice::GroupMade(_) => warn!("plugins: {notice}"),
        ConsumerNotice::Lost { count, .. } => {
            error!("plugins: {notice}");
            monitor.metrics.plugin_events_lost(*count);
        }
    })
}

/// An event became a dead letter.
pub fn given_up(delivery: &Delivery, letter: &Letter) {
    let Letter { error, deliveries, plugin } = letter;
    let seq = delivery.event.as_ref().ok().map(|event| event.seq);
    let event_id = delivery.event.as_ref().ok().map(|event| event.event_id.as_str());
    let error = escape_json(error);
    error!(plugin, seq, event_id, deliveries, "given up, see `autoweave-usbd plugins dead`: {error}");
}

/// What there is in the plugin directory, as health and metrics show it.
pub fn all(loader: &Loader) -> PluginsStatus {
    let refused = loader.refused().into_iter().map(|(package, error)| RefusedPlugin {
        package: package.display().to_string(),
        state: "refused",
        error,
    });
    PluginsStatus { running: loader.plugins().into_iter().map(status).collect(), refused: refused.collect() }
}

fn status(Status { plugin, version, tallies, last_error, .. }: Status) -> PluginStatus {
    PluginStatus {
        name: plugin,
        version,
        state: if tallies.circuit_open { RESTING } else { "running" },
        workers: tallies.workers,
        waiting: tallies.waiting,
        done: tallies.done,
        given_up: tallies.given_up,
        failed: tallies.failed,
        crashes: tallies.crashes,
        last_error: Some(last_error).filter(|error| !error.is_empty()),
        durations: tallies.durations.counts.to_vec(),
        bounds_us: &autoweave_usb_plugin::pool::Durations::BOUNDS_US,
        sum_us: tallies.durations.sum_us,
    }
}
