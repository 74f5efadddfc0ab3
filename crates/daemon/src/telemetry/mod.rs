//! Traces, metrics and logs for an OpenTelemetry collector, over OTLP as protobuf in HTTP.
//!
//! - Nothing of it runs, and no thread of it is there, where no endpoint is configured.
//! - What is recorded waits in bounded queues. What finds them full is dropped and counted; nothing waits for a
//!   collector but the end of the daemon, within its deadline.
//! - A trace begins with an event's observation and is as long as the event's way: its [`Traceparent`] is in the
//!   journal's row and the stream's entry, so that what is replayed, and plugins elsewhere, are in it.
//!
//! [`Traceparent`]: autoweave_usb_device::Traceparent

#[cfg(not(feature = "otel"))]
mod absent;
#[cfg(feature = "otel")]
mod otlp;

#[cfg(not(feature = "otel"))]
pub use absent::*;
#[cfg(feature = "otel")]
pub use otlp::*;
