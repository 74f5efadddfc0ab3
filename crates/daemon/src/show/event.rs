//! An attach or a detach in one line.

use autoweave_usb_device::{Action, Edge, Event, Reason};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::text::Span;
use super::{BOLD, DIM, GREEN, PLAIN, RED, names};

const DATE_AND_TIME: &str = "%Y-%m-%d %H:%M:%S%.3f";
const TIME_OF_DAY: &str = "%H:%M:%S%.3f";

/// Columns the port is padded to; few are wider.
const PORT_WIDTH: usize = 7;
const NAME_WIDTH_MAX: usize = 60;
const SERIAL_WIDTH_MAX: usize = 40;

/// An event that may be days old, in local time with its date.
pub fn event_line(event: &Event) -> String {
    let &Event { action, reason, source, timestamp, edges, seq, .. } = event;
    let (observed_us, device) = (timestamp.saturating_mul(1_000), event.device.clone());
    let edge = Edge { action, reason, source, observed_us, edges, seqnum: event.seqnum, device };
    line(&edge, Some(seq), DATE_AND_TIME, TimeZone::system())
}

/// An edge as it happens, with the local time of day.
pub fn edge_line(edge: &Edge) -> String {
    line(edge, None, TIME_OF_DAY, TimeZone::system())
}

fn line(edge: &Edge, seq: Option<u64>, time_format: &str, zone: TimeZone) -> String {
    let device = &*edge.device;
    let (style, action) = match edge.action {
        Action::Attach => (GREEN, "+ attach"),
        Action::Detach => (RED, "- detach"),
    };
    let spans = [
        Span::new(DIM, &time(edge.timestamp(), time_format, zone)),
        Span::new(style, action),
        Span::new(PLAIN, &format!("{:PORT_WIDTH$}", device.port())),
        Span::new(DIM, &names::id(device)),
        Span::new(BOLD, &names::name(device)).cut(NAME_WIDTH_MAX),
        Span::new(PLAIN, names::serial(device)).cut(SERIAL_WIDTH_MAX),
        Span::new(PLAIN, &names::speed(device)),
        Span::new(PLAIN, &names::class(device)),
        Span::new(DIM, &extras(edge, seq)),
    ];
    let shown = spans.iter().filter(|span| span.width() > 0).map(Span::to_string);
    shown.collect::<Vec<_>>().join("  ")
}

fn time(timestamp: u64, format: &str, zone: TimeZone) -> String {
    let moment = i64::try_from(timestamp).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    match moment {
        Some(moment) => moment.to_zoned(zone).strftime(format).to_string(),
        None => format!("{timestamp} ms"),
    }
}

/// What is not as usual, and where to find the event again.
fn extras(edge: &Edge, seq: Option<u64>) -> String {
    let reason = (edge.reason != Reason::Hotplug).then(|| edge.reason.to_string());
    let edges = (edge.edges > 1).then(|| format!("×{} edges", edge.edges));
    let seq = seq.map(|seq| format!("seq {seq}"));
    let extras: Vec<String> = [reason, edges, seq].into_iter().flatten().collect();
    if extras.is_empty() { String::new() } else { format!("({})", extras.join(", ")) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use anstream::adapter::strip_str;
    use autoweave_usb_device::SourceName;
    use jiff::tz::offset;

    use super::super::tests::bus;
    use super::*;

    fn edge(port: &str, action: Action, reason: Reason, edges: u32) -> Edge {
        let device = bus().into_iter().find(|device| device.port().to_string() == port).unwrap();
        Edge {
            action,
            reason,
            source: SourceName::Uevent,
            observed_us: 1_767_225_600_123_456,
            edges,
            seqnum: None,
            device: Arc::new(device),
        }
    }

    #[test]
    fn a_line_tells_what_happened_and_then_only_what_is_unusual() {
        let zone = TimeZone::fixed(offset(2));
        let live = |edge: Edge| strip_str(&line(&edge, None, TIME_OF_DAY, zone.clone())).to_string();
        assert_eq!(
            live(edge("1-1.2", Action::Attach, Reason::Hotplug, 1)),
            "02:00:00.123  + attach  1-1.2    046d:c52b  Logitech USB Receiver  ABC123  12 Mb/s  HID ×2",
        );
        assert_eq!(
            live(edge("2-3", Action::Detach, Reason::Reconcile, 3)),
            "02:00:00.123  - detach  2-3      fff1:0001  Vendor fff1 Device 0001  (reconcile, ×3 edges)",
        );
        let stored = line(&edge("usb1", Action::Attach, Reason::Coldplug, 1), Some(42), DATE_AND_TIME, zone);
        assert_eq!(
            strip_str(&stored).to_string(),
            "2026-01-01 02:00:00.123  + attach  usb1     1d6b:0002  xHCI Host Controller  480 Mb/s  hub  \
             (coldplug, seq 42)",
        );
    }

    #[test]
    fn attaching_is_green_and_detaching_red() {
        let attach = edge_line(&edge("1-1", Action::Attach, Reason::Hotplug, 1));
        assert!(attach.contains("\x1b[32m+ attach\x1b[0m"), "{attach:?}");
        let detach = edge_line(&edge("1-1", Action::Detach, Reason::Hotplug, 1));
        assert!(detach.contains("\x1b[31m- detach\x1b[0m"), "{detach:?}");
    }

    #[test]
    fn a_time_no_calendar_has_is_still_shown() {
        assert_eq!(time(u64::MAX, TIME_OF_DAY, TimeZone::UTC), "18446744073709551615 ms");
        assert_eq!(time(0, DATE_AND_TIME, TimeZone::UTC), "1970-01-01 00:00:00.000");
    }
}
