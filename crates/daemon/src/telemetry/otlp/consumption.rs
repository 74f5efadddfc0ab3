//! The end of an event's way: what plugins' loaders do with it.

use std::sync::Arc;
use std::time::SystemTime;

use autoweave_usb_device::{Event, Traceparent};
use autoweave_usb_plugin::pool::{Ending, Outcome};
use autoweave_usb_plugin::protocol;
use opentelemetry::trace::{SpanBuilder, SpanKind, Status};
use opentelemetry::{Context, KeyValue};

use super::recorder::{Recorder, Traces, context, link, time};

/// Of what a plugin gives as its reason.
const ERROR_CHARS_MAX: usize = 256;

/// Records what one group does with the events of one store.
pub struct Consumption {
    recorder: Recorder,
    system: &'static str,
    destination: Arc<str>,
    group: Arc<str>,
}

impl Consumption {
    /// `system`: `redis` or `journal`; `destination`: the stream's key.
    pub fn new(recorder: Recorder, system: &'static str, destination: &str, group: &str) -> Self {
        Self { recorder, system, destination: destination.into(), group: group.into() }
    }

    /// See [`Recorder::clock`].
    pub fn clock(&self) -> Option<SystemTime> {
        self.recorder.clock()
    }

    /// `event` is among what was asked for at `asked` and came at `came`.
    pub fn received(&self, event: &Event, asked: Option<SystemTime>, came: Option<SystemTime>) {
        let Some((asked, came)) = asked.zip(came).filter(|(asked, came)| asked <= came) else { return };
        let Some((traces, origin)) = self.recorder.traces().zip(event.traceparent) else { return };
        // It cannot have been received before it happened, however long somebody waited for it. That was within the
        // millisecond that it tells.
        let happened = time(event.timestamp.saturating_add(1).saturating_mul(1_000));
        let began = happened.clamp(asked, came);
        self.record(traces, origin, "receive", SpanKind::Client, began, came);
    }

    /// A plugin is done with `event`, or gave it up.
    pub fn processed(&self, event: &Event, outcome: &Outcome) {
        let Some(run) = outcome.hook else { return };
        let Some(traces) = self.recorder.traces() else { return };
        let mut builder = self.builder("process", SpanKind::Consumer, run.began);
        if let Some(attributes) = &mut builder.attributes {
            attributes.extend([
                KeyValue::new("autoweave.plugin.name", outcome.plugin.clone()),
                KeyValue::new("autoweave.plugin.hook", protocol::hook(event.action)),
                KeyValue::new("autoweave.delivery", i64::from(outcome.deliveries)),
                KeyValue::new("messaging.message.id", event.event_id.clone()),
            ]);
        }
        let status = match &outcome.ending {
            Ending::GaveUp { error } => {
                Status::error(error.chars().take(ERROR_CHARS_MAX).collect::<String>())
            }
            _ => Status::Unset,
        };
        let (builder, parent) = of(builder, event.traceparent);
        traces.record(builder, &parent, run.began + run.took, status);
    }

    /// The store knows that the event of `origin` is done with; it was told at `began`.
    pub fn settled(&self, origin: Option<Traceparent>, began: Option<SystemTime>) {
        let Some((traces, (origin, began))) = self.recorder.traces().zip(origin.zip(began)) else { return };
        self.record(traces, origin, "settle", SpanKind::Client, began, SystemTime::now());
    }

    fn record(
        &self,
        traces: &Traces,
        origin: Traceparent,
        operation: &'static str,
        kind: SpanKind,
        began: SystemTime,
        ended: SystemTime,
    ) {
        let (builder, parent) = of(self.builder(operation, kind, began), Some(origin));
        traces.record(builder, &parent, ended, Status::Unset);
    }

    fn builder(&self, operation: &'static str, kind: SpanKind, began: SystemTime) -> SpanBuilder {
        SpanBuilder::from_name(format!("{operation} {}", self.destination))
            .with_kind(kind)
            .with_start_time(began)
            .with_attributes([
                KeyValue::new("messaging.system", self.system),
                KeyValue::new("messaging.destination.name", self.destination.clone()),
                KeyValue::new("messaging.consumer.group.name", self.group.clone()),
                KeyValue::new("messaging.operation.type", operation),
            ])
    }
}

/// The span as one of the event's trace, with the link that the conventions want; a trace of its own where the event has
/// none.
fn of(builder: SpanBuilder, origin: Option<Traceparent>) -> (SpanBuilder, Context) {
    match origin {
        Some(origin) => (builder.with_links(link(origin)), context(origin)),
        None => (builder, Context::new()),
    }
}
