//! What a source saw. Edges are hints; a scan is the truth about the ports it covers.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{Port, Reading, SourceName};

/// A point in time on two clocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Microseconds since the Unix epoch, so that short durations can be measured. People, events and recordings are told
    /// milliseconds.
    #[serde(rename = "wall_ms", with = "milliseconds")]
    pub wall_us: u64,
    /// Milliseconds on a clock that never jumps: what debounce windows are measured with.
    pub mono_ms: u64,
}

impl Moment {
    /// Whole milliseconds since the Unix epoch.
    pub fn wall_ms(self) -> u64 {
        self.wall_us / 1_000
    }
}

/// Microseconds as milliseconds.
mod milliseconds {
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    pub fn serialize<S: Serializer>(us: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(us / 1_000)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        u64::deserialize(deserializer).map(|ms| ms.saturating_mul(1_000))
    }
}

/// An observation with its place in the flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// The number of the source's message this came from. Once the journal has everything up to a number,
    /// the source may forget the messages up to it.
    pub number: u64,
    /// The kernel's number of the uevent it came from (`SEQNUM`, `lib/kobject_uevent.c`), if it came from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seqnum: Option<u64>,
    /// When the source received it.
    pub at: Moment,
    /// Who saw it.
    pub source: SourceName,
    /// What was seen.
    pub observation: Observation,
}

/// What a source saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Observation {
    /// A device came.
    Arrived {
        /// What could be read of it.
        reading: Box<Reading>,
    },
    /// A device went.
    Left {
        /// Where it was.
        port: Port,
        /// The address it had (`devnum`), where the source knows.
        address: Option<u8>,
    },
    /// More is known of a device that is connected: it was slow to be read, or was configured anew.
    Refreshed {
        /// What could be read of it.
        reading: Box<Reading>,
    },
    /// A driver took an interface, or let go of it.
    Bound {
        /// Where the device is.
        port: Port,
        /// `bInterfaceNumber`.
        interface: u8,
        /// The driver; none when it let go.
        driver: Option<String>,
    },
    /// A full enumeration, begun after the edges before it had been handed on.
    Scan {
        /// Every device that was there.
        readings: Vec<Reading>,
        /// Ports that this scan says nothing about: they had an edge since it began, or could not be read.
        except: BTreeSet<Port>,
    },
    /// The operating system dropped messages. A scan follows.
    Overrun {
        /// How many, where it says.
        lost: Option<u64>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recordings_have_whole_milliseconds() {
        let moment = Moment { wall_us: 1_767_225_600_123_456, mono_ms: 7 };
        let json = serde_json::to_string(&moment).unwrap();
        assert_eq!(json, r#"{"wall_ms":1767225600123,"mono_ms":7}"#);
        let read: Moment = serde_json::from_str(&json).unwrap();
        assert_eq!((read.wall_us, read.wall_ms()), (1_767_225_600_123_000, 1_767_225_600_123));
        let huge: Moment = serde_json::from_str(r#"{"wall_ms":18446744073709551615,"mono_ms":0}"#).unwrap();
        assert_eq!(huge.wall_us, u64::MAX);
    }
}
