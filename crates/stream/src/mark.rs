//! What the server says of this producer, and what that means beside the journal. Pure.

use std::fmt;
use std::str::FromStr;

/// The event id of a mark that names no event.
pub(crate) const NO_EVENT: &str = "-";

/// A place in the journal: a sequence number and the event that must be under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) seq: u64,
    /// [`NO_EVENT`] before the first event, and where the event is no longer kept.
    pub(crate) event_id: String,
}

impl Place {
    pub(crate) fn before(seq: u64) -> Self {
        Self { seq: seq.saturating_sub(1), event_id: NO_EVENT.to_owned() }
    }

    pub(crate) fn names_an_event(&self) -> bool {
        self.event_id != NO_EVENT
    }
}

/// A producer's high-water mark: its last event in the stream and the entry that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) place: Place,
    pub(crate) entry_id: String,
}

/// A text that is no mark of ours.
#[derive(Debug)]
pub(crate) struct NotAMark;

impl FromStr for Mark {
    type Err = NotAMark;

    fn from_str(text: &str) -> Result<Self, NotAMark> {
        let mut words = text.split(' ');
        let mark = (|| {
            let seq = words.next()?.parse().ok()?;
            let event_id = words.next()?.to_owned();
            let entry_id = words.next()?.to_owned();
            Some(Self { place: Place { seq, event_id }, entry_id })
        })();
        mark.filter(|_| words.next().is_none()).ok_or(NotAMark)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.place.seq, self.place.event_id, self.entry_id)
    }
}

/// What the journal has, as far as a mark is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The oldest number behind the one in question that is kept; `None`: none is.
    pub(crate) next_seq: Option<u64>,
    /// The highest number ever committed.
    pub(crate) last_seq: u64,
    /// The event under the number in question, if it is kept.
    pub(crate) event_id: Option<String>,
}

/// How a place in the stream and the journal fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Publishing goes on behind it.
    GoesOn,
    /// Events between it and the oldest that is kept are lost: publishing goes on at the oldest.
    Lost {
        /// The first number that is kept, or that will be.
        resumes: u64,
    },
    /// The stream has an event that this journal never wrote.
    Foreign,
}

/// Compares a place in the stream with the journal.
pub(crate) fn fit(place: &Place, journal: &Kept) -> Fit {
    if place.seq > journal.last_seq {
        return Fit::Foreign;
    }
    if let Some(event_id) = &journal.event_id
        && place.names_an_event()
        && *event_id != place.event_id
    {
        return Fit::Foreign;
    }
    let resumes = journal.next_seq.unwrap_or(journal.last_seq + 1);
    if resumes > place.seq + 1 { Fit::Lost { resumes } } else { Fit::GoesOn }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(seq: u64, event_id: &str) -> Place {
        Place { seq, event_id: event_id.to_owned() }
    }

    #[test]
    fn marks_survive_their_text() {
        let mark: Mark = "42 01J 1767225600123-7".parse().unwrap();
        assert_eq!(mark, Mark { place: place(42, "01J"), entry_id: "1767225600123-7".to_owned() });
        assert_eq!(mark.to_string(), "42 01J 1767225600123-7");
        for text in ["", "42", "42 01J", "x 01J 1-1", "42 01J 1-1 more", "-1 01J 1-1"] {
            assert!(text.parse::<Mark>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn every_relation_of_stream_and_journal_has_its_answer() {
        let kept = |next_seq, last_seq, event_id: Option<&str>| Kept {
            next_seq,
            last_seq,
            event_id: event_id.map(str::to_owned),
        };
        let cases = [
            ("nothing anywhere", place(0, NO_EVENT), kept(None, 0, None), Fit::GoesOn),
            ("a first start", place(0, NO_EVENT), kept(Some(1), 9, None), Fit::GoesOn),
            ("level", place(9, "e9"), kept(None, 9, Some("e9")), Fit::GoesOn),
            ("behind", place(5, "e5"), kept(Some(6), 9, Some("e5")), Fit::GoesOn),
            ("just behind what is kept", place(4, "e4"), kept(Some(5), 9, None), Fit::GoesOn),
            ("level, nothing kept", place(9, "e9"), kept(None, 9, None), Fit::GoesOn),
            ("far behind", place(2, "e2"), kept(Some(5), 9, None), Fit::Lost { resumes: 5 }),
            ("far behind, nothing kept", place(2, "e2"), kept(None, 9, None), Fit::Lost { resumes: 10 }),
            (
                "none, but the oldest went",
                place(0, NO_EVENT),
                kept(Some(5), 9, None),
                Fit::Lost { resumes: 5 },
            ),
            ("a gap behind it", place(5, "e5"), kept(Some(8), 9, Some("e5")), Fit::Lost { resumes: 8 }),
            ("set by the publisher", place(4, NO_EVENT), kept(Some(5), 9, Some("e4")), Fit::GoesOn),
            ("ahead", place(10, "e10"), kept(None, 9, None), Fit::Foreign),
            ("another event", place(5, "x"), kept(Some(6), 9, Some("e5")), Fit::Foreign),
        ];
        for (name, place, journal, expected) in cases {
            assert_eq!(fit(&place, &journal), expected, "{name}");
        }
    }
}
