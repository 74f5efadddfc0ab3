//! From the journal to Redis: the publisher as the daemon's configuration has it, and what it says.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use autoweave_usb_source::Interrupter;
use autoweave_usb_stream::{Acknowledged, Listener, Notice, Publisher, Settings, State};
use tracing::{error, info, warn};

use super::receipts::Receipts;
use crate::config::Config;
use crate::exit::Failure;
use crate::http::{Monitor, Severity, StreamState};

/// Who says in the health report that events do not get through.
const STREAM: &str = "stream";

/// A running publisher.
pub struct Publishing {
    publisher: Publisher,
    needs_producer: Arc<AtomicBool>,
    monitor: Arc<Monitor>,
    errors_told: u64,
}

/// The publisher's settings, if the configuration names a Redis.
pub fn settings(config: &Config) -> Option<Settings> {
    let redis = config.redis.as_ref()?;
    let batch_size = usize::try_from(config.performance.batch_size).ok().and_then(NonZeroUsize::new);
    Some(Settings {
        endpoint: redis.endpoint.clone(),
        username: redis.username.clone(),
        password: redis.password.clone(),
        db: redis.db,
        stream: redis.stream.clone(),
        max_len: NonZeroU32::new(redis.max_len).unwrap_or(NonZeroU32::MIN),
        batch_size: batch_size.unwrap_or(NonZeroUsize::MIN),
        max_events_per_second: config.performance.max_events_per_second,
        interval: config.monitoring.interval,
    })
}

impl Publishing {
    /// Starts to publish the journal in `directory` as `producer`.
    pub fn start(
        settings: Settings,
        directory: &Path,
        producer: String,
        (monitor, receipts): (Arc<Monitor>, Arc<Receipts>),
        interrupter: Interrupter,
    ) -> Result<Self, Failure> {
        let needs_producer = Arc::new(AtomicBool::new(false));
        let asks = needs_producer.clone();
        let counts = monitor.clone();
        let on_acknowledged = move |acknowledged: Acknowledged<'_>| {
            let observed_us = receipts.observed_us(acknowledged.seq, acknowledged.timestamp);
            counts.metrics.acknowledged_now(observed_us);
            counts.recorder.acknowledged(observed_us);
            counts.recorder.published(&acknowledged);
            // Nothing else says so before the next event, or the interval's end.
            counts.update(|told| told.journal.unpublished = told.journal.unpublished.saturating_sub(1));
        };
        let on_notice = move |notice: Notice| {
            tell(&notice);
            if matches!(notice, Notice::NewProducerNeeded { .. }) {
                asks.store(true, Ordering::SeqCst);
            }
            // The daemon's own thread looks at the publisher's status, and it alone may write a new producer
            // down.
            interrupter.interrupt();
        };
        let listener =
            Listener { on_notice: Box::new(on_notice), on_acknowledged: Box::new(on_acknowledged) };
        let publisher = Publisher::spawn(settings, directory, producer, listener)
            .map_err(|error| Failure::unavailable(format!("the publisher cannot be started: {error}")))?;
        Ok(Self { publisher, needs_producer, monitor, errors_told: 0 })
    }

    /// Up to where the stream has the events, once it has said so.
    pub fn published_seq(&self) -> Option<u64> {
        self.publisher.published_seq()
    }

    /// Events were committed, or a notice came: has them published, and passes on how it goes. As long as the server
    /// did not say where it is, `believed_unpublished` is how many events it is taken to lack.
    pub fn step(&mut self, believed_unpublished: u64) {
        self.publisher.wake();
        let status = self.publisher.status();
        for _ in self.errors_told..status.errors_total {
            self.monitor.metrics.publish_error();
        }
        self.errors_told = status.errors_total;
        self.monitor.update(|told| {
            told.journal.unpublished = status.unpublished.unwrap_or(believed_unpublished);
            told.stream.state = match status.state {
                State::Connecting => StreamState::Connecting,
                State::Up => StreamState::Up,
                State::Down | State::Stopped => StreamState::Down,
            };
            if let Some(error) = &status.last_error {
                told.stream.last_error = Some(error.clone());
            }
            match status.state {
                State::Down | State::Stopped => {
                    let problem = status.last_error.clone();
                    let problem = problem.unwrap_or_else(|| "the publisher has ended".to_owned());
                    told.raise(STREAM, Severity::Degraded, problem);
                }
                State::Connecting | State::Up => told.clear(STREAM),
            }
        });
    }

    /// Why nothing can be published now, if so.
    pub fn problem(&self) -> Option<String> {
        let status = self.publisher.status();
        matches!(status.state, State::Down | State::Stopped)
            .then(|| status.last_error.unwrap_or_else(|| "the publisher has ended".to_owned()))
    }

    /// Whether the publisher waits for another producer id; asked once.
    pub fn take_producer_request(&self) -> bool {
        self.needs_producer.swap(false, Ordering::SeqCst)
    }

    /// Goes on under a producer id that was written down.
    pub fn resume_as(&self, producer: String) {
        self.publisher.resume_as(producer);
    }

    /// Goes on with other settings.
    pub fn reload(&self, settings: Settings) {
        self.publisher.reload(settings);
    }

    /// Publishes what can be published until `deadline`; returns up to where the stream acknowledged it.
    pub fn stop(self, deadline: Instant) -> Option<u64> {
        let status = self.publisher.stop(deadline);
        if status.unpublished != Some(0) {
            warn!(waiting = status.unpublished, "not all events are published; the next start goes on");
        }
        status.published_seq
    }
}

fn tell(notice: &Notice) {
    match notice {
        Notice::Up { .. } => info!("{notice}"),
        Notice::NoLongerKept { .. } | Notice::NewProducerNeeded { .. } | Notice::GroupCutOff { .. } => {
            error!("{notice}");
        }
        _ => warn!("{notice}"),
    }
}
