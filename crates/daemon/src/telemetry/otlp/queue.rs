//! The library's queues, with a count of what is lost: it keeps its own to itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogBatch, LogExporter, LogProcessor, SdkLogRecord};
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};

use super::environment::variable;

/// How full a queue is.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: AtomicUsize,
    max: usize,
    lost: Arc<AtomicU64>,
}

impl Queue {
    /// A queue as long as the variable `name` or else `default` says: that is how the library reads it as well.
    pub(super) fn new(lost: Arc<AtomicU64>, name: &str, default: usize) -> Arc<Self> {
        let max = variable(name).and_then(|text| text.parse().ok()).unwrap_or(default);
        Arc::new(Self { waiting: AtomicUsize::new(0), max, lost })
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= self.max
    }

    pub(super) fn lose(&self, count: usize) {
        self.lost.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Whether there is room, which is taken then.
    fn enter(&self) -> bool {
        let has_room = self.waiting.fetch_add(1, Ordering::Relaxed) < self.max;
        if !has_room {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.lose(1);
        }
        has_room
    }

    fn leave(&self, count: usize) {
        self.waiting.fetch_sub(count, Ordering::Relaxed);
    }

    fn sent(&self, count: usize, result: &OTelSdkResult) {
        if result.is_err() {
            self.lose(count);
        }
    }
}

/// A processor before which `queue` is counted up.
#[derive(Debug)]
pub(super) struct Bounded<P> {
    processor: P,
    queue: Arc<Queue>,
}

/// An exporter before which `queue` is counted down.
#[derive(Debug)]
pub(super) struct Counted<E> {
    exporter: E,
    queue: Arc<Queue>,
}

impl<P> Bounded<P> {
    pub(super) fn new(processor: P, queue: &Arc<Queue>) -> Self {
        Self { processor, queue: queue.clone() }
    }
}

impl<E> Counted<E> {
    pub(super) fn new(exporter: E, queue: &Arc<Queue>) -> Self {
        Self { exporter, queue: queue.clone() }
    }
}

impl<P: SpanProcessor> SpanProcessor for Bounded<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.processor.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        // The processor passes over what is not sampled.
        if span.span_context.is_sampled() && self.queue.enter() {
            self.processor.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.processor.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.processor.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.processor.set_resource(resource);
    }
}

impl<P: LogProcessor> LogProcessor for Bounded<P> {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        if self.queue.enter() {
            self.processor.emit(record, scope);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.processor.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.processor.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.processor.set_resource(resource);
    }
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        self.queue.leave(count);
        let result = self.exporter.export(batch).await;
        self.queue.sent(count, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: LogExporter> LogExporter for Counted<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let count = batch.iter().count();
        self.queue.leave(count);
        let result = self.exporter.export(batch).await;
        self.queue.sent(count, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
