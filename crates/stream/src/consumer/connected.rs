//! What is connected as of a group's place in a stream.

use std::collections::HashMap;
use std::sync::Arc;

use autoweave_usb_device::{Action, Event};
use redis::Value;

use crate::entry::event;
use crate::failure::Failure;
use crate::link::{Link, decode};
use crate::read::{Raw, fields};
use crate::settings::Settings;

const PAGE: usize = 1000;

/// The last attach of each device that is connected as of the last entry that all before are acknowledged of: what a
/// reader that begins there does not hear of otherwise. What was trimmed from the stream is not known.
///
/// # Errors
/// See [`Failure`].
pub fn connected_in_stream(settings: &Settings, group: &str) -> Result<Vec<Arc<Event>>, Failure> {
    let mut link = Link::connect(settings)?;
    let Some(end) = place(&mut link, settings, group)? else { return Ok(Vec::new()) };
    let mut connected: HashMap<(String, String), Arc<Event>> = HashMap::new();
    let mut from = "-".to_owned();
    loop {
        let mut command = redis::cmd("XRANGE");
        command.arg(&settings.stream).arg(&from).arg(&end).arg("COUNT").arg(PAGE);
        let page: Raw = link.query(&command)?;
        let Some((last, _)) = page.last() else { break };
        from = format!("({}", String::from_utf8_lossy(last));
        let events = page.into_iter().filter_map(|(_, raw)| event(&fields(raw.unwrap_or_default())).ok());
        for event in events {
            let key = (event.producer.clone(), event.device.device_id.clone());
            match event.action {
                Action::Attach => drop(connected.insert(key, Arc::new(event))),
                Action::Detach => drop(connected.remove(&key)),
            }
        }
    }
    Ok(connected.into_values().collect())
}

/// The end of a range up to the group's first unacknowledged entry, or to its last delivered one; none where there is no
/// such group.
fn place(link: &mut Link, settings: &Settings, group: &str) -> Result<Option<String>, Failure> {
    if !link.query::<bool>(redis::cmd("EXISTS").arg(&settings.stream))? {
        return Ok(None);
    }
    let groups: Vec<HashMap<String, Value>> =
        link.query(redis::cmd("XINFO").arg("GROUPS").arg(&settings.stream))?;
    for found in groups {
        let text = |name: &str| {
            found.get(name).cloned().map(decode::<Vec<u8>>).transpose().map(Option::unwrap_or_default)
        };
        if text("name")? == group.as_bytes() {
            let delivered = String::from_utf8_lossy(&text("last-delivered-id")?).into_owned();
            let pending: (u64, Option<String>, Option<String>, Value) =
                link.query(redis::cmd("XPENDING").arg(&settings.stream).arg(group))?;
            return Ok(Some(pending.1.map_or(delivered, |first| format!("({first}"))));
        }
    }
    Ok(None)
}
