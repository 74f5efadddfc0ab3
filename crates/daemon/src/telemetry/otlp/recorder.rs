//! An event's way as spans. What they are called and say is OpenTelemetry's, where it has conventions
//! (<https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/>).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use autoweave_usb_device::{Action, Event, Traceparent};
use autoweave_usb_stream::Acknowledged;
use opentelemetry::metrics::{Histogram, MeterProvider};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, TraceFlags, TraceState, Tracer,
    TracerProvider,
};
use opentelemetry::{Context, ContextGuard, KeyValue, SpanId, TraceId};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span};

use super::losses::Losses;
use super::meters::{self, SCOPE};
use super::queue::Queue;

/// Records what becomes of events. Costs nothing where nothing is exported.
#[derive(Clone, Default)]
pub struct Recorder {
    traces: Option<Arc<Traces>>,
    processing: Option<Histogram<f64>>,
    losses: Option<Arc<Losses>>,
    #[cfg(target_os = "linux")]
    hooks: Option<Histogram<f64>>,
}

pub(super) struct Traces {
    tracer: SdkTracer,
    queue: Arc<Queue>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("traces", &self.traces.is_some()).finish_non_exhaustive()
    }
}

impl Recorder {
    pub(super) fn new(
        traces: Option<&SdkTracerProvider>,
        metrics: Option<&SdkMeterProvider>,
        queue: Arc<Queue>,
        losses: Arc<Losses>,
    ) -> Self {
        let traces = traces.map(|traces| Arc::new(Traces { tracer: traces.tracer(SCOPE), queue }));
        let meter = metrics.map(|metrics| metrics.meter(SCOPE));
        Self {
            traces,
            processing: meter.as_ref().map(meters::processing),
            losses: Some(losses),
            #[cfg(target_os = "linux")]
            hooks: meter.as_ref().map(meters::hooks),
        }
    }

    /// What of each kind no collector got since the start, where something is exported.
    pub fn lost(&self) -> Option<[(&'static str, u64); 2]> {
        self.losses.as_deref().map(Losses::counts)
    }

    /// The time, if somebody wants to know how long something takes.
    pub fn clock(&self) -> Option<SystemTime> {
        self.traces.is_some().then(SystemTime::now)
    }

    /// A trace begins with `event`, which carries where from now on. It was observed at `observed_us`, in microseconds
    /// since the Unix epoch.
    pub fn observed(&self, event: &mut Event, observed_us: u64) -> Option<Span> {
        let traces = self.traces.as_deref()?;
        let name = match event.action {
            Action::Attach => "usb attach",
            Action::Detach => "usb detach",
        };
        let builder = SpanBuilder::from_name(name).with_start_time(time(observed_us));
        // Alone in its context: whatever else this thread is at is not its parent.
        let mut span = traces.tracer.build_with_context(builder, &Context::new());
        if span.is_recording() && !traces.queue.is_full() {
            span.set_attributes(about(event));
        }
        let context = span.span_context();
        event.traceparent = Some(Traceparent {
            trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(context.span_id().to_bytes()),
            is_sampled: context.is_sampled(),
        });
        Some(span)
    }

    /// Their events were written to the journal, which `began` then.
    pub fn journaled(&self, spans: Vec<Span>, began: Option<SystemTime>) {
        let Some((traces, began)) = self.traces.as_deref().zip(began) else { return };
        let ended = SystemTime::now();
        for mut span in spans {
            let parent = Context::new().with_remote_span_context(span.span_context().clone());
            span.end_with_timestamp(ended);
            let builder = SpanBuilder::from_name("journal commit")
                .with_start_time(began)
                .with_attributes([KeyValue::new("db.system.name", "sqlite")]);
            traces.record(builder, &parent, ended, Status::Unset);
        }
    }

    /// Whatever is an event's store at the end has it: observed at `observed_us`, in microseconds since the Unix epoch.
    pub fn acknowledged(&self, observed_us: u64) {
        if let Some(processing) = &self.processing {
            let elapsed = SystemTime::now().duration_since(time(observed_us)).unwrap_or_default();
            processing.record(milliseconds(elapsed), &[]);
        }
    }

    /// A stream has an event.
    pub fn published(&self, acknowledged: &Acknowledged<'_>) {
        let (Some(traces), Some(origin)) = (&self.traces, acknowledged.traceparent) else { return };
        let stream = acknowledged.stream;
        let builder = SpanBuilder::from_name(format!("publish {stream}"))
            .with_kind(SpanKind::Producer)
            .with_start_time(acknowledged.sent)
            .with_attributes([
                KeyValue::new("messaging.system", "redis"),
                KeyValue::new("messaging.destination.name", stream.to_owned()),
                KeyValue::new("messaging.operation.type", "publish"),
                KeyValue::new("messaging.operation.name", "xadd"),
            ]);
        traces.record(builder, &context(origin), SystemTime::now(), Status::Unset);
    }

    /// `plugin` took this long to answer a delivery.
    #[cfg(target_os = "linux")]
    pub fn answered(&self, plugin: String, took: Duration) {
        if let Some(hooks) = &self.hooks {
            hooks.record(milliseconds(took), &[KeyValue::new("plugin", plugin)]);
        }
    }

    /// What is logged while the guard lives is of this trace.
    pub fn enter(&self, origin: Option<Traceparent>) -> Option<ContextGuard> {
        self.traces.as_ref().and(origin).map(|origin| context(origin).attach())
    }

    #[cfg(target_os = "linux")]
    pub(super) fn traces(&self) -> Option<&Arc<Traces>> {
        self.traces.as_ref()
    }
}

impl Traces {
    /// Records a span that is over. Where the queue is full, not even that is done.
    pub(super) fn record(&self, builder: SpanBuilder, parent: &Context, ended: SystemTime, status: Status) {
        if self.queue.is_full() && is_wanted(parent) {
            return self.queue.lose(1);
        }
        let mut span = self.tracer.build_with_context(builder, parent);
        span.set_status(status);
        span.end_with_timestamp(ended);
    }
}

/// Whether a child would be recorded, as far as its parent decides.
fn is_wanted(parent: &Context) -> bool {
    let parent = parent.span();
    let context = parent.span_context();
    context.is_sampled() || !context.is_valid()
}

/// What is worth finding an event by. Neither names nor serial numbers: they are the device's, and may be a person's.
fn about(event: &Event) -> [KeyValue; 8] {
    let device = &event.device;
    [
        KeyValue::new("messaging.message.id", event.event_id.clone()),
        KeyValue::new("autoweave.event.seq", i64::try_from(event.seq).unwrap_or(i64::MAX)),
        KeyValue::new("autoweave.event.reason", event.reason.as_str()),
        KeyValue::new("autoweave.event.source", event.source.as_str()),
        KeyValue::new("autoweave.event.edges", i64::from(event.edges)),
        KeyValue::new("usb.port", device.port().to_string()),
        KeyValue::new("usb.vendor_id", format!("{:04x}", device.vendor_id)),
        KeyValue::new("usb.product_id", format!("{:04x}", device.product_id)),
    ]
}

/// The context that an event was created in, wherever that was.
pub(super) fn context(origin: Traceparent) -> Context {
    Context::new().with_remote_span_context(span_context(origin))
}

/// As the conventions want it of spans that consume.
#[cfg(target_os = "linux")]
pub(super) fn link(origin: Traceparent) -> Vec<opentelemetry::trace::Link> {
    vec![opentelemetry::trace::Link::with_context(span_context(origin))]
}

fn span_context(origin: Traceparent) -> SpanContext {
    let Traceparent { trace_id, span_id, is_sampled } = origin;
    let flags = if is_sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    let (trace_id, span_id) =
        (TraceId::from_bytes(trace_id.to_be_bytes()), SpanId::from_bytes(span_id.to_be_bytes()));
    SpanContext::new(trace_id, span_id, flags, true, TraceState::NONE)
}

/// `us` microseconds after the Unix epoch.
pub(super) fn time(us: u64) -> SystemTime {
    // One from elsewhere may be beyond what the system can tell.
    UNIX_EPOCH.checked_add(Duration::from_micros(us)).unwrap_or_else(SystemTime::now)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
