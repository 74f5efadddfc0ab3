//! A build without the feature `otel`: nothing is recorded.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use autoweave_usb_device::{Event, Traceparent};
use autoweave_usb_stream::Acknowledged;
use tracing::warn;
use tracing_subscriber::layer::Identity;

use crate::config::Config;
use crate::exit::Failure;
use crate::http::Monitor;

/// Takes no log.
pub type LogBridge = Identity;

/// Exports nothing.
pub struct Telemetry {
    is_wanted: bool,
}

/// Records nothing.
#[derive(Clone, Debug, Default)]
pub struct Recorder(());

/// Records nothing.
#[cfg(target_os = "linux")]
pub struct Consumption;

impl Telemetry {
    pub fn start(config: &Config) -> Result<Self, Failure> {
        Ok(Self { is_wanted: config.telemetry_endpoint.is_some() })
    }

    pub fn log_bridge(&self) -> Option<LogBridge> {
        None
    }

    pub fn recorder(&self) -> Recorder {
        Recorder(())
    }

    pub fn begin(&self, _: &Arc<Monitor>) {
        if self.is_wanted {
            warn!("telemetry.endpoint has no effect: this program was built without the feature `otel`");
        }
    }

    pub fn stop(self, _: Instant) {}
}

impl Recorder {
    pub fn lost(&self) -> Option<[(&'static str, u64); 2]> {
        None
    }

    pub fn clock(&self) -> Option<SystemTime> {
        None
    }

    pub fn observed(&self, _: &mut Event, _: u64) -> Option<Infallible> {
        None
    }

    pub fn journaled(&self, _: Vec<Infallible>, _: Option<SystemTime>) {}

    pub fn acknowledged(&self, _: u64) {}

    pub fn published(&self, _: &Acknowledged<'_>) {}

    #[cfg(target_os = "linux")]
    pub fn answered(&self, _: String, _: std::time::Duration) {}

    pub fn enter(&self, _: Option<Traceparent>) -> Option<Infallible> {
        None
    }
}

#[cfg(target_os = "linux")]
impl Consumption {
    pub fn new(_: Recorder, _: &'static str, _: &str, _: &str) -> Self {
        Self
    }

    pub fn clock(&self) -> Option<SystemTime> {
        None
    }

    pub fn received(&self, _: &Event, _: Option<SystemTime>, _: Option<SystemTime>) {}

    pub fn processed(&self, _: &Event, _: &autoweave_usb_plugin::pool::Outcome) {}

    pub fn settled(&self, _: Option<Traceparent>, _: Option<SystemTime>) {}
}
