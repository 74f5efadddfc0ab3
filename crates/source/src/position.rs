//! How far the journal has what a source received.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use autoweave_usb_device::Port;

/// Which messages of a receiver led to something that is in the journal. Written down in the same transaction, so
/// that a daemon that finds them again in the receiver's memory takes none twice and leaves none out.
///
/// As text, which is persisted: `RECEIVER NUMBER PORT=NUMBER …`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    /// The receiver's name; numbers of another one mean nothing.
    pub receiver: String,
    /// All up to this one is written down …
    pub number: u64,
    /// … but what came from these ports from these numbers on.
    pub pending: BTreeMap<Port, u64>,
}

impl Position {
    /// Whether what comes of a message is written down; `port` is the one it is about.
    pub fn covers(&self, number: u64, port: Option<Port>) -> bool {
        let is_pending = port.and_then(|port| self.pending.get(&port)).is_some_and(|first| number >= *first);
        number <= self.number && !is_pending
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.receiver, self.number)?;
        self.pending.iter().try_for_each(|(port, number)| write!(f, " {port}={number}"))
    }
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split(' ');
        let position = (|| {
            let receiver = words.next()?.to_owned();
            let number = words.next()?.parse().ok()?;
            let pending = words.map(|word| {
                let (port, number) = word.split_once('=')?;
                Some((port.parse().ok()?, number.parse().ok()?))
            });
            Some(Self { receiver, number, pending: pending.collect::<Option<_>>()? })
        })();
        position.ok_or_else(|| format!("{text:?} is no position of a receiver"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_their_text() {
        for text in ["ring 0", "ring 4096 1-1=96 1-1.2=400 usb2=4000", " 7"] {
            assert_eq!(text.parse::<Position>().unwrap().to_string(), text);
        }
        for text in ["", "ring", "ring x", "ring 1 1-1", "ring 1 1-1=x", "ring 1 1=1", "ring 1  1-1=1"] {
            assert!(text.parse::<Position>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_waits_is_not_covered() {
        let position: Position = "ring 100 1-1=50".parse().unwrap();
        let port = |text: &str| Some(text.parse().unwrap());
        assert!(
            position.covers(100, port("1-2"))
                && position.covers(49, port("1-1"))
                && position.covers(60, None)
        );
        assert!(!position.covers(50, port("1-1")) && !position.covers(101, port("1-2")));
    }
}
