//! Events on their way: packed into calls of the script, several before the first answer.

use std::collections::VecDeque;
use std::time::SystemTime;

use autoweave_usb_device::{Event, Traceparent};
use autoweave_usb_journal::Stored;

use crate::entry::{self, entry};
use crate::failure::Failure;
use crate::link::{Answer, Link, decode};
use crate::mark::Place;
use crate::notice::Notice;
use crate::script;
use crate::sync::Keys;

/// Calls that were sent and not answered, oldest first.
#[derive(Default)]
pub(crate) struct Flight {
    calls: VecDeque<Call>,
}

/// A call of the script.
pub(crate) struct Call {
    /// Its last event.
    pub(crate) place: Place,
    pub(crate) sent: SystemTime,
    /// The numbers of its events, when they were observed, and their traces, of those that can be read.
    pub(crate) origins: Vec<(u64, u64, Option<Traceparent>)>,
}

/// What became of the oldest call.
pub(crate) enum Landed {
    /// Everything up to this call's place is in the stream.
    At(Call),
    /// The server's mark is not where it was believed, or the script is not loaded. Nothing of the call was added.
    Unsettled,
}

impl Flight {
    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    /// Sends `events`, which follow `after`, in calls of at most `batch_size`.
    pub(crate) fn send(
        &mut self,
        link: &mut Link,
        keys: &Keys,
        producer: &str,
        after: &Place,
        events: &[Stored],
        batch_size: usize,
    ) -> Result<Vec<Notice>, Failure> {
        let mut packed = Vec::new();
        let mut notices = Vec::new();
        let mut after = after.clone();
        let sent = SystemTime::now();
        for batch in events.chunks(batch_size) {
            let mut command = redis::cmd("EVALSHA");
            command.arg(&script::APPEND.hash).arg(2).arg(&keys.stream).arg(&keys.marks);
            command.arg(producer).arg(after.seq).arg(&after.event_id);
            let mut origins = Vec::with_capacity(batch.len());
            for stored in batch {
                match serde_json::from_str::<Event>(&stored.event) {
                    Ok(event) => {
                        origins.push((stored.seq, event.timestamp, event.traceparent));
                        command.arg(&values(&event, stored, producer));
                    }
                    Err(error) => {
                        notices.push(Notice::Unreadable { seq: stored.seq, error: error.to_string() });
                        command.arg(&entry::placeholder(stored.seq, &stored.event_id, producer));
                    }
                }
                after = Place { seq: stored.seq, event_id: stored.event_id.clone() };
            }
            command.write_packed_command(&mut packed);
            self.calls.push_back(Call { place: after.clone(), sent, origins });
        }
        link.send(&packed)?;
        Ok(notices)
    }

    /// Waits for the answer to the oldest call. After anything but [`Landed::At`] the flight is over: the answers
    /// to later calls, which can only be refusals, have been taken from the connection.
    pub(crate) fn land(&mut self, link: &mut Link) -> Result<Landed, Failure> {
        let call = self.calls.pop_front().expect("the caller sees by `len` that a call is in flight");
        let refused = match link.receive()? {
            Answer::NoScript => {
                self.drain(link)?;
                link.load(&script::APPEND)?;
                return Ok(Landed::Unsettled);
            }
            Answer::Refused(failure) => failure,
            Answer::Value(value) => {
                let (verdict, _): (String, String) = decode(value)?;
                if verdict == "ok" {
                    return Ok(Landed::At(call));
                }
                self.drain(link)?;
                return Ok(Landed::Unsettled);
            }
        };
        self.drain(link)?;
        Err(refused)
    }

    fn drain(&mut self, link: &mut Link) -> Result<(), Failure> {
        while self.calls.pop_front().is_some() {
            link.receive()?;
        }
        Ok(())
    }
}

/// The number and the name are the journal's own, whatever the text under them says.
fn values(event: &Event, stored: &Stored, producer: &str) -> [String; entry::FIELDS.len()] {
    let mut values = entry(event, producer);
    values[entry::SEQ] = stored.seq.to_string();
    values[entry::EVENT_ID].clone_from(&stored.event_id);
    values
}
