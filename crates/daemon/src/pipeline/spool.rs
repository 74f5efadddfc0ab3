//! What the udev helper left while no daemon ran.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use autoweave_usb_device::{Action, Change, Event, Port, Reason};
use autoweave_usb_journal::Reader;
use autoweave_usb_source::{Backlog, Notices, Watch, kill_point};
use tracing::{error, info, warn};

/// The newest events that are compared with notices, at most.
const EVENTS_MAX: usize = 1_000;

/// The newest connections of a bus that are compared with notices. An address is another device's after 127 more, and by
/// then it must not be taken for the first one's.
const CONNECTIONS_MAX: usize = 63;

/// Takes in the notices whose effect the journal lacks, which has the kernel's numbers up to `known` and events of this
/// boot that have `unnumbered`. What is returned is for [`begin`], once `changes` are written down.
pub(super) fn catch_up(
    notices: &Notices,
    (known, unnumbered): (u64, HashSet<(Port, u8, Action)>),
    watch: &mut Watch,
    changes: &mut Vec<Change>,
) -> Backlog {
    let left = notices.backlog(known, unnumbered);
    if let Some(problem) = left.problem() {
        warn!("what the udev helper leaves in its spool cannot be read: {problem}");
    }
    // Else the kernel's own messages were kept, and have all of it.
    if !watch.resumes() {
        let caught_up = watch.catch_up(&left.observed);
        if !left.observed.is_empty() {
            info!(
                notices = left.observed.len(),
                changes = caught_up.len(),
                "took in what the udev helper left while no daemon ran"
            );
        }
        changes.extend(caught_up);
        if left.refused > 0 {
            warn!(
                refused = left.refused,
                "the udev helper's spool was full; the bus is scanned for what is not in it"
            );
        }
    }
    left
}

/// What the newest events of this boot tell without a number of the kernel's: scans know none, nor do other sources. A
/// helper that ran after the daemon had ended left word of it nevertheless.
pub(super) fn unnumbered(journal: &Path) -> HashSet<(Port, u8, Action)> {
    // Without it a notice is told twice, at worst; the journal that is written is another connection.
    let newest = Reader::open(journal).and_then(|mut reader| reader.last(EVENTS_MAX)).unwrap_or_default();
    let events = newest.iter().filter_map(|stored| serde_json::from_str::<Event>(&stored.event).ok());
    of_newest(events)
}

/// `events` are newest first.
fn of_newest(events: impl Iterator<Item = Event>) -> HashSet<(Port, u8, Action)> {
    let mut connections: BTreeMap<u8, usize> = BTreeMap::new();
    let mut told = HashSet::new();
    for Event { action, reason, seqnum, device, .. } in events {
        let is_detach = action == Action::Detach;
        if is_detach && reason == Reason::Reboot {
            break;
        }
        let port = device.port();
        let connections = connections.entry(port.bus).or_default();
        if *connections < CONNECTIONS_MAX && seqnum.is_none() {
            told.insert((port, device.device_address, action));
        }
        let is_new_bus = is_detach && port.path.ports().is_empty();
        *connections += if is_new_bus { CONNECTIONS_MAX } else { usize::from(!is_detach) };
    }
    told
}

/// Deletes what was taken in and written down, and takes notices from now on.
pub(super) fn begin(notices: &Notices, left: Backlog) {
    kill_point("spooled");
    if let Err(error) = notices.begin(left) {
        error!("the udev helper's notices are not taken: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use autoweave_usb_device::{Device, Reading, SourceName};

    use super::*;

    fn event(action: Action, reason: Reason, port: &str, address: u8, seqnum: Option<u64>) -> Event {
        let reading = Reading::bare(port.parse().unwrap(), address, 0x1209, 0x4243, None);
        Event {
            seq: 1,
            event_id: String::new(),
            producer: String::new(),
            action,
            reason,
            source: SourceName::Poll,
            host: String::new(),
            timestamp: 0,
            edges: 1,
            seqnum,
            traceparent: None,
            device: Arc::new(Device::new(&reading, String::new())),
        }
    }

    #[test]
    fn only_what_was_told_lately_and_without_a_number_counts() {
        use Action::{Attach, Detach};
        use Reason::{Hotplug, Reboot, Reconcile};
        let told = of_newest(
            [
                event(Detach, Reconcile, "1-1", 9, None),
                event(Detach, Hotplug, "1-1", 8, Some(4711)),
                event(Attach, Reboot, "1-2", 7, None),
                event(Detach, Reboot, "1-3", 6, None),
                event(Attach, Hotplug, "1-4", 5, None),
            ]
            .into_iter(),
        );
        let port = |port: &str| port.parse::<Port>().unwrap();
        assert_eq!(told, HashSet::from([(port("1-1"), 9, Detach), (port("1-2"), 7, Attach)]));
    }

    #[test]
    fn an_address_that_may_be_anothers_by_now_does_not_count() {
        use Action::{Attach, Detach};
        use Reason::Reconcile;
        let newest_first = (1..=127_u8).rev().flat_map(|address| {
            [Detach, Attach].map(|action| event(action, Reconcile, "1-1", address, None))
        });
        let told = of_newest(newest_first);
        assert_eq!(told.len(), 2 * CONNECTIONS_MAX);
        assert!(told.iter().all(|(_, address, _)| *address > 64));

        // The bus was taken away and came back.
        let root_hub = event(Detach, Reconcile, "usb1", 1, None);
        let before = event(Attach, Reconcile, "1-1", 2, None);
        let other_bus = event(Attach, Reconcile, "2-1", 2, None);
        let told = of_newest([root_hub, before, other_bus].into_iter());
        assert!(told.len() == 2 && told.iter().all(|(port, address, _)| (port.bus, *address) != (1, 2)));
    }
}
