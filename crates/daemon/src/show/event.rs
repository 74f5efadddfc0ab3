//! An attach or a detach in one line.

use anstyle::Style;
use autoweave_usb_device::{Action, Device, Edge, Event, Reason};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::text::Span;
use super::{BOLD, DIM, GREEN, PLAIN, RED, names};

const PORT_WIDTH: usize = 7;
const NAME_WIDTH_MAX: usize = 60;
const SERIAL_WIDTH_MAX: usize = 40;

/// An event from the journal or the stream, which may be days old: with its date, in local time.
pub fn event_line(event: &Event) -> String {
    let happening = Happening {
        action: event.action,
        reason: event.reason,
        edges: event.edges,
        seq: Some(event.seq),
        device: &event.device,
    };
    line(time(event.timestamp, "%Y-%m-%d %H:%M:%S%.3f", &TimeZone::system()), &happening)
}

/// An edge as it happens: with the local time of day.
pub fn edge_line(edge: &Edge) -> String {
    let happening = Happening {
        action: edge.action,
        reason: edge.reason,
        edges: edge.edges,
        seq: None,
        device: &edge.device,
    };
    line(time(edge.timestamp, "%H:%M:%S%.3f", &TimeZone::system()), &happening)
}
