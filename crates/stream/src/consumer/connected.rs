//! What is connected as far as a group has acknowledged.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use autoweave_usb_device::{Action, Event};
use redis::Value;

use crate::entry::event;
use crate::failure::Failure;
use crate::link::{Link, decode};
use crate::read::{Raw, fields};
use crate::settings::Settings;

const PAGE: usize = 1000;

/// The last attach of each device that is connected by the entries that are acknowledged, which are the first ones of each
/// device: what a reader that is given the others does not hear of otherwise. What was trimmed from the stream is not
/// known.
///
/// # Errors
/// See [`Failure`].
pub fn connected_in_stream(settings: &Settings, group: &str) -> Result<Vec<Arc<Event>>, Failure> {
    let mut link = Link::connect(settings)?;
    let Some(end) = last_delivered(&mut link, settings, group)? else { return Ok(Vec::new()) };
    let pending = pending(&mut link, settings, group)?;
    let mut connected: HashMap<(String, String), Arc<Event>> = HashMap::new();
    let mut from = "-".to_owned();
    loop {
        let mut command = redis::cmd("XRANGE");
        command.arg(&settings.stream).arg(&from).arg(&end).arg("COUNT").arg(PAGE);
        let page: Raw = link.query(&command)?;
        let Some((last, _)) = page.last() else { break };
        from = format!("({}", String::from_utf8_lossy(last));
        let acknowledged = page.into_iter().filter(|(id, _)| !pending.contains(id));
        let events = acknowledged.filter_map(|(_, raw)| event(&fields(raw.unwrap_or_default())).ok());
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

/// The last entry that the group was given; none where there is no such group.
fn last_delivered(link: &mut Link, settings: &Settings, group: &str) -> Result<Option<String>, Failure> {
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
            return Ok(Some(String::from_utf8_lossy(&text("last-delivered-id")?).into_owned()));
        }
    }
    Ok(None)
}

/// The entries that the group was given and has not acknowledged.
fn pending(link: &mut Link, settings: &Settings, group: &str) -> Result<HashSet<Vec<u8>>, Failure> {
    let mut all = HashSet::new();
    let mut from = "-".to_owned();
    loop {
        let mut command = redis::cmd("XPENDING");
        command.arg(&settings.stream).arg(group).arg(&from).arg("+").arg(PAGE);
        let page: Vec<(Vec<u8>, Value, Value, Value)> = link.query(&command)?;
        let Some((last, ..)) = page.last() else { return Ok(all) };
        from = format!("({}", String::from_utf8_lossy(last));
        all.extend(page.into_iter().map(|(id, ..)| id));
    }
}
