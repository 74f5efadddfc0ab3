//! What is connected as of the group's place in the journal: what plugins that start have to be told.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use autoweave_usb_device::{Action, Device, Event, Port, Reason, SourceName};
use autoweave_usb_journal::{Journal, Reader};

use crate::exit::Failure;
use crate::pipeline::Group;
use crate::stamp;

/// Events that are read at a time.
const PAGE: usize = 1000;

/// The attaches of what is connected there: the table as it is now, with what happened since taken back. To be asked
/// before anything more is written.
///
/// # Errors
/// The journal cannot be read.
pub fn connected(
    group: &Group,
    journal: &Journal,
    state_dir: &Path,
    now: Vec<Device>,
    host: &str,
) -> Result<Vec<Arc<Event>>, Failure> {
    let done = group.cursor().done();
    let mut then = Ports::default();
    if done < journal.last_seq() {
        let mut reader = Reader::open(state_dir).map_err(Failure::io)?;
        let mut after = done;
        loop {
            let page = reader.since(after, PAGE).map_err(Failure::io)?;
            let Some(last) = page.last() else { break };
            after = last.seq;
            page.iter()
                .filter_map(|stored| serde_json::from_str::<Event>(&stored.event).ok())
                .for_each(|event| then.hear(&event));
        }
    }
    let devices = then.fill(now.into_iter().map(Arc::new));
    let attach = |device: Arc<Device>| Event {
        seq: done,
        event_id: stamp::new_event_id(),
        producer: journal.producer().to_owned(),
        action: Action::Attach,
        reason: Reason::Coldplug,
        source: SourceName::Poll,
        host: host.to_owned(),
        timestamp: stamp::now_ms(),
        edges: 1,
        seqnum: None,
        traceparent: None,
        device,
    };
    Ok(devices.into_iter().map(attach).map(Arc::new).collect())
}

/// What was in each port that something happened to since: as many as there are ports, however much that was.
#[derive(Default)]
struct Ports(BTreeMap<Port, Option<Arc<Device>>>);

impl Ports {
    /// The next event. The first of a port tells what was in it before.
    fn hear(&mut self, event: &Event) {
        self.0.entry(event.device.port()).or_insert_with(|| match event.action {
            Action::Attach => None,
            Action::Detach => Some(event.device.clone()),
        });
    }

    /// With what is in the other ports, of which that is now the same.
    fn fill(mut self, now: impl Iterator<Item = Arc<Device>>) -> Vec<Arc<Device>> {
        for device in now {
            self.0.entry(device.port()).or_insert(Some(device));
        }
        self.0.into_values().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use autoweave_usb_device::Reading;

    use super::*;

    fn device(port: &str, product: u16) -> Arc<Device> {
        let reading = Reading::bare(port.parse().unwrap(), 5, 1, product, None);
        Arc::new(Device::new(&reading, format!("{product}")))
    }

    fn event(action: Action, device: Arc<Device>) -> Event {
        let (event_id, producer, host) = (String::new(), String::new(), String::new());
        let (reason, source) = (Reason::Hotplug, SourceName::Simulate);
        Event {
            seq: 1,
            event_id,
            producer,
            action,
            reason,
            source,
            host,
            timestamp: 0,
            edges: 1,
            seqnum: None,
            traceparent: None,
            device,
        }
    }

    #[test]
    fn what_happened_since_is_taken_back() {
        let (stays, came, went, other) =
            (device("1-1", 1), device("1-2", 2), device("1-3", 3), device("1-2", 4));
        let since = [
            event(Action::Detach, went.clone()),
            event(Action::Detach, other.clone()),
            event(Action::Attach, came.clone()),
        ];
        let mut then = Ports::default();
        since.iter().for_each(|event| then.hear(event));
        assert_eq!(then.fill([stays.clone(), came].into_iter()), [stays, other, went]);
    }

    #[test]
    fn what_is_kept_does_not_grow_with_what_happened() {
        let mut then = Ports::default();
        for product in 0..1000 {
            let device = device("1-2", product);
            then.hear(&event(Action::Attach, device.clone()));
            then.hear(&event(Action::Detach, device));
        }
        assert_eq!(then.0.len(), 1);
        assert!(then.fill(std::iter::empty()).is_empty());
    }
}
