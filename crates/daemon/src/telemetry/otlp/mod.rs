//! See [`super`].

mod client;
#[cfg(target_os = "linux")]
mod consumption;
mod environment;
mod losses;
mod meters;
mod queue;
mod recorder;

use std::sync::mpsc::channel;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::{ExporterBuildError, Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{self, BatchLogProcessor, SdkLogger, SdkLoggerProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{self, BatchSpanProcessor, SdkTracerProvider};
use tracing::{info, warn};

use crate::config::Config;
use crate::exit::Failure;
use crate::http::Monitor;
use crate::stamp;

use client::Client;
use environment::variable;
use losses::Losses;
use queue::{Bounded, Counted, Queue};

#[cfg(target_os = "linux")]
pub use consumption::Consumption;
pub use recorder::Recorder;

/// Unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` say otherwise.
const SERVICE_NAME: &str = "autoweave-usb-daemon";

/// What an export may take, unless `OTEL_EXPORTER_OTLP_TIMEOUT` says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long a daemon that ends tries at least to get rid of what is recorded.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// Takes the log.
pub type LogBridge = OpenTelemetryTracingBridge<SdkLoggerProvider, SdkLogger>;

/// What is exported, and by what. Dropped, it tries shortly to get rid of what is recorded.
#[derive(Default)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
    logs: Option<SdkLoggerProvider>,
    recorder: Recorder,
    losses: Arc<Losses>,
}

/// One of the three, as the standard's variables and paths name it.
#[derive(Clone, Copy)]
struct Signal {
    variable: &'static str,
    path: &'static str,
}

const TRACES: Signal = Signal { variable: "TRACES", path: "/v1/traces" };
const METRICS: Signal = Signal { variable: "METRICS", path: "/v1/metrics" };
const LOGS: Signal = Signal { variable: "LOGS", path: "/v1/logs" };

impl Telemetry {
    /// Starts to export what has an endpoint; nothing where none is configured.
    ///
    /// # Errors
    /// An endpoint, or another of the standard's variables, has no sense.
    pub fn start(config: &Config) -> Result<Self, Failure> {
        if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(Self::default());
        }
        let base = config.telemetry_endpoint.as_deref();
        if [TRACES, METRICS, LOGS].iter().all(|signal| signal.endpoint(base).is_none()) {
            return Ok(Self::default());
        }
        environment::check(variable).map_err(Failure::usage)?;
        let resource = || resource(config);
        let losses = Arc::<Losses>::default();
        let spans = Queue::new(
            losses.spans(),
            trace::OTEL_BSP_MAX_QUEUE_SIZE,
            trace::OTEL_BSP_MAX_QUEUE_SIZE_DEFAULT,
        );
        let records = Queue::new(
            losses.records(),
            logs::OTEL_BLRP_MAX_QUEUE_SIZE,
            logs::OTEL_BLRP_MAX_QUEUE_SIZE_DEFAULT,
        );
        let traces = TRACES.endpoint(base).map(|endpoint| {
            let exporter = opentelemetry_otlp::SpanExporter::builder().with_http();
            let exporter = TRACES.configure(exporter, endpoint, &losses).build()?;
            let processor = BatchSpanProcessor::builder(Counted::new(exporter, &spans)).build();
            let provider = SdkTracerProvider::builder().with_span_processor(Bounded::new(processor, &spans));
            Ok(provider.with_resource(resource()).build())
        });
        let metrics = METRICS.endpoint(base).map(|endpoint| {
            let exporter = opentelemetry_otlp::MetricExporter::builder().with_http();
            let exporter = METRICS.configure(exporter, endpoint, &losses).build()?;
            Ok(SdkMeterProvider::builder().with_periodic_exporter(exporter).with_resource(resource()).build())
        });
        let logs = LOGS.endpoint(base).map(|endpoint| {
            let exporter = opentelemetry_otlp::LogExporter::builder().with_http();
            let exporter = LOGS.configure(exporter, endpoint, &losses).build()?;
            let processor = BatchLogProcessor::builder(Counted::new(exporter, &records)).build();
            let provider = SdkLoggerProvider::builder().with_log_processor(Bounded::new(processor, &records));
            Ok(provider.with_resource(resource()).build())
        });
        let refused = |error: ExporterBuildError| Failure::usage(format!("telemetry: {error}"));
        let traces = traces.transpose().map_err(refused)?;
        let metrics = metrics.transpose().map_err(refused)?;
        let logs = logs.transpose().map_err(refused)?;
        let recorder = Recorder::new(traces.as_ref(), metrics.as_ref(), spans, losses.clone());
        Ok(Self { traces, metrics, logs, recorder, losses })
    }

    /// What the log is to be given to as well.
    pub fn log_bridge(&self) -> Option<LogBridge> {
        self.logs.as_ref().map(OpenTelemetryTracingBridge::new)
    }

    /// What the way of events is recorded with.
    pub fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }

    /// Exports what `monitor` counts, too, and says what is exported.
    pub fn begin(&self, monitor: &Arc<Monitor>) {
        if let Some(metrics) = &self.metrics {
            meters::register(metrics, Arc::downgrade(monitor));
        }
        let signals = [
            self.traces.as_ref().map(|_| "traces"),
            self.metrics.as_ref().map(|_| "metrics"),
            self.logs.as_ref().map(|_| "logs"),
        ];
        let signals: Vec<&str> = signals.into_iter().flatten().collect();
        if !signals.is_empty() {
            info!("exporting {} over OTLP", signals.join(", "));
            environment::unheeded(variable).iter().for_each(|said| warn!("{said}"));
        }
    }

    /// Exports what is recorded, until `deadline` or for [`STOP_PATIENCE`]: others may have taken all the time there was.
    pub fn stop(mut self, deadline: Instant) {
        self.shut_down(deadline.max(Instant::now() + STOP_PATIENCE));
    }

    /// Side by side and on threads that are left behind if they must be: the library's own waits do not all end in time.
    fn shut_down(&mut self, deadline: Instant) {
        let (done, all_done) = channel();
        let run = |shut_down: Box<dyn FnOnce() + Send>| {
            let done = done.clone();
            let thread = thread::Builder::new().name("telemetry-stop".to_owned());
            // Without a thread there is nothing to be done, nor to be waited for.
            let _ = thread.spawn(move || {
                shut_down();
                drop(done);
            });
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if let Some(traces) = self.traces.take() {
            run(Box::new(move || drop(traces.shutdown_with_timeout(left))));
        }
        if let Some(metrics) = self.metrics.take() {
            run(Box::new(move || drop(metrics.shutdown_with_timeout(left))));
        }
        if let Some(logs) = self.logs.take() {
            run(Box::new(move || drop(logs.shutdown_with_timeout(left))));
        }
        drop(done);
        // Nothing is ever sent: it ends when the last of them has.
        let _: Result<(), _> = all_done.recv_timeout(left);
        self.losses.tell_the_rest();
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if self.traces.is_some() || self.metrics.is_some() || self.logs.is_some() {
            self.shut_down(Instant::now() + STOP_PATIENCE);
        }
    }
}

impl Signal {
    /// Where it goes; `None`: nowhere.
    fn endpoint(self, base: Option<&str>) -> Option<String> {
        let Self { variable: name, path } = self;
        if variable(&format!("OTEL_{name}_EXPORTER")).is_some_and(|exporter| exporter == "none") {
            return None;
        }
        let own = variable(&format!("OTEL_EXPORTER_OTLP_{name}_ENDPOINT"));
        own.or_else(|| base.map(|base| format!("{}{path}", base.trim_end_matches('/'))))
    }

    fn configure<B: WithExportConfig + WithHttpConfig>(
        self,
        builder: B,
        endpoint: String,
        losses: &Arc<Losses>,
    ) -> B {
        let is_encrypted = endpoint.starts_with("https://");
        let client = Client::new(self.timeout(), is_encrypted, losses.clone());
        builder
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint)
            .with_timeout(self.timeout())
            .with_http_client(client)
    }

    /// `OTEL_EXPORTER_OTLP_TIMEOUT` or the signal's own, in milliseconds.
    fn timeout(self) -> Duration {
        let own = variable(&format!("OTEL_EXPORTER_OTLP_{}_TIMEOUT", self.variable));
        let milliseconds = own.or_else(|| variable("OTEL_EXPORTER_OTLP_TIMEOUT"));
        milliseconds.and_then(|text| text.parse().ok()).map_or(TIMEOUT, Duration::from_millis)
    }
}

/// Who exports: the name of the service and of the host, and what the environment adds or changes.
fn resource(config: &Config) -> Resource {
    let host = KeyValue::new("host.name", stamp::host(config.host.as_ref()));
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let ours = Resource::builder_empty().with_service_name(SERVICE_NAME).with_attributes([host, version]);
    let resource =
        ours.with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())]);
    match variable("OTEL_SERVICE_NAME") {
        Some(name) => resource.with_service_name(name).build(),
        None => resource.build(),
    }
}

/// What is asked when metrics are exported; the daemon may be gone by then.
type Told = Weak<Monitor>;
