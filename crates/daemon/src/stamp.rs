//! Edges become events: what only the producer can add.

use std::time::{Duration, UNIX_EPOCH};

use autoweave_usb_device::{Edge, Event};
use ulid::Generator;

use crate::system;

/// Numbers and signs events.
#[derive(Debug)]
pub struct Stamp {
    producer: String,
    host: String,
    last_seq: u64,
    ids: Generator,
}

impl Stamp {
    /// Goes on behind `last_seq`.
    pub fn new(producer: String, host: String, last_seq: u64) -> Self {
        Self { producer, host, last_seq, ids: Generator::new() }
    }

    /// A producer for as long as the process runs, for what is not kept.
    pub fn ephemeral(host: String) -> Self {
        Self::new(new_producer(), host, 0)
    }

    /// Whose events these are.
    pub fn producer(&self) -> &str {
        &self.producer
    }

    /// The next event.
    pub fn event(&mut self, edge: &Edge) -> Event {
        self.last_seq += 1;
        let at = UNIX_EPOCH + Duration::from_micros(edge.observed_us);
        let id =
            self.ids.generate_from_datetime(at).unwrap_or_else(|overflow| overflow.commit_overflow_random());
        Event {
            seq: self.last_seq,
            event_id: id.to_string(),
            producer: self.producer.clone(),
            action: edge.action,
            reason: edge.reason,
            source: edge.source,
            host: self.host.clone(),
            timestamp: edge.timestamp(),
            edges: edge.edges,
            seqnum: edge.seqnum,
            traceparent: None,
            device: edge.device.clone(),
        }
    }
}

/// A producer id that nobody has: 32 hexadecimal digits.
pub fn new_producer() -> String {
    format!("{:032x}", u128::from_be_bytes(ulid::Ulid::generate().to_bytes()))
}

/// The configured name of this machine, or its own.
pub fn host(configured: Option<&String>) -> String {
    configured.cloned().or_else(system::host_name).unwrap_or_else(|| "localhost".to_owned())
}

/// An event id that nobody has.
#[cfg(target_os = "linux")]
pub fn new_event_id() -> String {
    ulid::Ulid::generate().to_string()
}

/// Milliseconds since the Unix epoch.
#[cfg(target_os = "linux")]
pub fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
