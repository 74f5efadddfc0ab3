//! What is connected as of the group's place in the journal: what plugins that start have to be told.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use autoweave_usb_device::{Action, Device, Event, Port, Reason, SourceName};
use autoweave_usb_journal::{Journal, Reader};

use crate::exit::Failure;
use crate::pipeline::Group;
use crate::stamp;

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
    let mut since = Vec::new();
    if done < journal.last_seq() {
        let mut reader = Reader::open(state_dir).map_err(Failure::io)?;
        let mut after = done;
        loop {
            let page = reader.since(after, usize::MAX).map_err(Failure::io)?;
            let Some(last) = page.last() else { break };
            after = last.seq;
            since.extend(page.iter().filter_map(|stored| serde_json::from_str::<Event>(&stored.event).ok()));
        }
    }
    let devices = take_back(now.into_iter().map(Arc::new).collect(), &since);
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

fn take_back(now: Vec<Arc<Device>>, since: &[Event]) -> Vec<Arc<Device>> {
    let mut connected: BTreeMap<Port, Arc<Device>> =
        now.into_iter().map(|device| (device.port(), device)).collect();
    for event in since.iter().rev() {
        let port = event.device.port();
        match event.action {
            Action::Attach => drop(connected.remove(&port)),
            Action::Detach => drop(connected.insert(port, event.device.clone())),
        }
    }
    connected.into_values().collect()
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
        let then = take_back(vec![stays.clone(), came], &since);
        assert_eq!(then, [stays, other, went]);
    }
}
