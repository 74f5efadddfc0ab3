//! Reading the stream back: all of it, or as a consumer group.
//!
//! Each reader has a connection of its own: a blocked read would hold up everything else on it.

use std::collections::HashMap;
use std::time::Duration;

use redis::{Cmd, Value};

use crate::failure::Failure;
use crate::link::{Link, RESPONSE_TIMEOUT, decode};
use crate::settings::Settings;

/// The most entries one call returns.
const ENTRIES_MAX: usize = 1000;

/// An entry of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id in the stream, `ms-n`.
    pub id: String,
    /// Names and values in the stream's order. Empty: the entry was trimmed before this group acknowledged it.
    pub fields: Vec<(String, String)>,
}

impl Entry {
    /// The value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// Reads what is in the stream, whoever else does.
pub struct StreamReader {
    link: Link,
    stream: String,
}

/// One consumer of a group. It first gets what it once got and did not acknowledge, also after an error, then what
/// no consumer of the group got.
pub struct GroupReader {
    link: Link,
    stream: String,
    group: String,
    consumer: String,
    /// Up to where the own unacknowledged entries were read again; `None`: all of them were.
    own_after: Option<String>,
}

/// Creates the group `name`, and the stream where there is none, so that it gets every entry from the oldest on.
/// Says whether it did: a group that exists is left as it is.
///
/// # Errors
/// See [`Failure`].
pub fn create_group(settings: &Settings, name: &str) -> Result<bool, Failure> {
    create(&mut Link::connect(settings)?, &settings.stream, name, "0")
}

/// Creates a group that gets every entry after `from`.
pub(crate) fn create(link: &mut Link, stream: &str, name: &str, from: &str) -> Result<bool, Failure> {
    let mut command = redis::cmd("XGROUP");
    command.arg("CREATE").arg(stream).arg(name).arg(from).arg("MKSTREAM");
    match link.query::<()>(&command) {
        Err(Failure::Refused(text)) if text.starts_with("BUSYGROUP") => Ok(false),
        other => other.map(|()| true),
    }
}

impl StreamReader {
    /// Connects.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn connect(settings: &Settings) -> Result<Self, Failure> {
        Ok(Self { link: Link::connect(settings)?, stream: settings.stream.clone() })
    }

    /// Connects, to read the dead letters of the stream.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn dead_letters(settings: &Settings) -> Result<Self, Failure> {
        Ok(Self { link: Link::connect(settings)?, stream: settings.dead_key() })
    }

    /// The newest entries before the entry `before`, or of all, newest first and at most `count` (and 1,000). A
    /// stream that does not exist is empty.
    ///
    /// # Errors
    /// See [`Failure`]. Connect again after an error.
    pub fn newest(&mut self, before: Option<&str>, count: usize) -> Result<Vec<Entry>, Failure> {
        let end = before.map_or("+".to_owned(), |id| format!("({id}"));
        let mut command = redis::cmd("XREVRANGE");
        command.arg(&self.stream).arg(end).arg("-").arg("COUNT").arg(count.min(ENTRIES_MAX));
        Ok(entries(self.link.query(&command)?))
    }

    /// The entries after the id `after`, `0` for all, oldest first and at most `count` (and 1,000). Waits up to
    /// `block` for one; none came if the answer is empty. `block` under a millisecond does not wait.
    ///
    /// # Errors
    /// See [`Failure`]. Connect again after an error.
    pub fn after(&mut self, after: &str, count: usize, block: Duration) -> Result<Vec<Entry>, Failure> {
        // `COUNT 0` would be all of them.
        if count == 0 {
            return Ok(Vec::new());
        }
        read_waiting(&mut self.link, redis::cmd("XREAD"), &self.stream, after, count, block)
    }

    /// The highest id that the stream ever gave; `None`: there is no stream.
    ///
    /// # Errors
    /// See [`Failure`]. Connect again after an error.
    pub fn last_id(&mut self) -> Result<Option<String>, Failure> {
        if !self.link.query::<bool>(redis::cmd("EXISTS").arg(&self.stream))? {
            return Ok(None);
        }
        let stream: HashMap<String, Value> =
            self.link.query(redis::cmd("XINFO").arg("STREAM").arg(&self.stream))?;
        stream.get("last-generated-id").cloned().map(decode).transpose()
    }

    /// Whether the entry `id` is still there.
    ///
    /// # Errors
    /// See [`Failure`]. Connect again after an error.
    pub fn has(&mut self, id: &str) -> Result<bool, Failure> {
        let found: Raw = self.link.query(redis::cmd("XRANGE").arg(&self.stream).arg(id).arg(id))?;
        Ok(!found.is_empty())
    }
}

impl GroupReader {
    /// Connects as `consumer` of `group`, which must exist.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn connect(settings: &Settings, group: &str, consumer: &str) -> Result<Self, Failure> {
        Ok(Self {
            link: Link::connect(settings)?,
            stream: settings.stream.clone(),
            group: group.to_owned(),
            consumer: consumer.to_owned(),
            own_after: Some("0".to_owned()),
        })
    }

    /// The next entries, at most `count` (and 1,000). Waits up to `block` for new ones; none came if the answer is
    /// empty. `block` under a millisecond does not wait.
    ///
    /// # Errors
    /// See [`Failure`]; `NOGROUP` is a [`Failure::Refused`]. Connect again after an error: what this consumer got
    /// and did not acknowledge comes first then.
    pub fn read(&mut self, count: usize, block: Duration) -> Result<Vec<Entry>, Failure> {
        // `COUNT 0` would be all of them.
        if count == 0 {
            return Ok(Vec::new());
        }
        if let Some(after) = self.own_after.take() {
            let own = self.read_after(&after, count, Duration::ZERO)?;
            if let Some(last) = own.last() {
                self.own_after = Some(last.id.clone());
                return Ok(own);
            }
        }
        self.read_after(">", count, block)
    }

    /// Acknowledges entries; those that were before are no error.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn ack<'a>(&mut self, ids: impl IntoIterator<Item = &'a str>) -> Result<(), Failure> {
        let ids: Vec<&str> = ids.into_iter().collect();
        if ids.is_empty() {
            return Ok(());
        }
        self.link.query(redis::cmd("XACK").arg(&self.stream).arg(&self.group).arg(ids))
    }

    fn read_after(&mut self, after: &str, count: usize, block: Duration) -> Result<Vec<Entry>, Failure> {
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(&self.group).arg(&self.consumer);
        read_waiting(&mut self.link, command, &self.stream, after, count, block)
    }
}

/// Completes `command`, an XREAD or XREADGROUP, and takes its answer.
fn read_waiting(
    link: &mut Link,
    mut command: Cmd,
    stream: &str,
    after: &str,
    count: usize,
    block: Duration,
) -> Result<Vec<Entry>, Failure> {
    command.arg("COUNT").arg(count.min(ENTRIES_MAX));
    // `BLOCK 0` would be for ever.
    let block_ms = u64::try_from(block.as_millis()).unwrap_or(u64::MAX);
    if block_ms > 0 {
        command.arg("BLOCK").arg(block_ms);
    }
    command.arg("STREAMS").arg(stream).arg(after);
    // A wait that ended before the server's would leave its entries delivered to nobody.
    link.limit_waits(block.saturating_add(RESPONSE_TIMEOUT))?;
    let Value::Array(streams) = link.query(&command)? else { return Ok(Vec::new()) };
    let mut read = Vec::new();
    for stream in streams {
        let (_, found): (String, Raw) = decode(stream)?;
        read.extend(entries(found));
    }
    Ok(read)
}

/// Ids and fields; no fields where the entry is gone. Bytes, because anyone may write to a stream.
pub(crate) type Raw = Vec<(Vec<u8>, Option<RawFields>)>;

pub(crate) type RawFields = Vec<(Vec<u8>, Vec<u8>)>;

fn entries(raw: Raw) -> Vec<Entry> {
    let entry = |(id, raw): (Vec<u8>, Option<RawFields>)| Entry {
        id: String::from_utf8_lossy(&id).into_owned(),
        fields: fields(raw.unwrap_or_default()),
    };
    raw.into_iter().map(entry).collect()
}

pub(crate) fn fields(raw: RawFields) -> Vec<(String, String)> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    raw.into_iter().map(|(name, value)| (text(name), text(value))).collect()
}
