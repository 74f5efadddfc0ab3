//! Where publishing must go on: the mark, the stream and the journal compared.

use std::ops::RangeInclusive;

use crate::failure::Failure;
use crate::link::Link;
use crate::mark::{self, Fit, Mark, NotAMark, Place};
use crate::rows::Rows;
use crate::script;

/// Entries looked at by one call of the script: about three milliseconds of the server's time.
const SCAN_ENTRIES: usize = 500;

/// How often a mark may change between looking and setting before something is wrong.
const ATTEMPTS_MAX: usize = 3;

/// The two keys in the server.
pub(crate) struct Keys {
    pub(crate) stream: String,
    pub(crate) marks: String,
}

impl Keys {
    pub(crate) fn both(&self) -> [&str; 2] {
        [&self.stream, &self.marks]
    }
}

/// The result of a comparison.
pub(crate) enum Compared {
    /// Publishing goes on behind this place.
    At {
        place: Place,
        /// What the stream lacks and the journal does not keep any more.
        lost: Option<RangeInclusive<u64>>,
        /// What the stream once had and gets again.
        replayed: Option<RangeInclusive<u64>>,
    },
    /// The stream has events of this producer that the journal never wrote.
    Foreign { stream_seq: u64, journal_seq: u64 },
}

/// What the stream itself shows of this producer.
enum Found {
    Nothing,
    Entry(Mark),
    Foreign(u64),
}

/// Compares, and sets the mark where it is missing or misleading. `acknowledged` is up to where the server has
/// acknowledged events to this process.
pub(crate) fn compare(
    link: &mut Link,
    keys: &Keys,
    rows: &Rows,
    producer: &str,
    acknowledged: u64,
) -> Result<Compared, Failure> {
    for _ in 0..ATTEMPTS_MAX {
        let (text, stale): (Vec<u8>, bool) = link.call(&script::INSPECT, &keys.both(), &[producer])?;
        let text = String::from_utf8(text).map_err(|error| not_ours(keys, producer, error.as_bytes()))?;
        let believed = !text.is_empty() && !stale;
        let mut mark = if believed {
            text.parse().map_err(|NotAMark| not_ours(keys, producer, text.as_bytes()))?
        } else {
            match scan(link, keys, rows, producer)? {
                Found::Entry(mark) => mark,
                Found::Nothing => Mark { place: Place::before(1), entry_id: "0-0".to_owned() },
                Found::Foreign(stream_seq) => {
                    return Ok(Compared::Foreign { stream_seq, journal_seq: rows.last_seq()? });
                }
            }
        };
        let journal = rows.kept(mark.place.seq)?;
        let mut lost = None;
        let fit = mark::fit(&mark.place, &journal);
        match fit {
            Fit::GoesOn => {}
            Fit::Foreign => {
                return Ok(Compared::Foreign { stream_seq: mark.place.seq, journal_seq: journal.last_seq });
            }
            Fit::Lost { resumes } => {
                lost = Some(mark.place.seq + 1..=resumes - 1);
                mark.place = Place::before(resumes);
            }
        }
        let behind = mark.place.seq < acknowledged || stale;
        let replayed =
            (behind && mark.place.seq < journal.last_seq).then(|| mark.place.seq + 1..=journal.last_seq);
        if (believed && fit == Fit::GoesOn) || adopt(link, keys, producer, &text, &mark)? {
            return Ok(Compared::At { place: mark.place, lost, replayed });
        }
    }
    Err(another_publisher())
}

/// When marks change although this is the one who changes them.
pub(crate) fn another_publisher() -> Failure {
    Failure::Refused(
        "the mark keeps changing: does another daemon publish with a copy of this journal?".to_owned(),
    )
}

fn not_ours(keys: &Keys, producer: &str, mark: &[u8]) -> Failure {
    let mark = String::from_utf8_lossy(mark);
    let marks = &keys.marks;
    Failure::Refused(format!(
        "the mark {mark:?} is none that this program writes; HDEL {marks} {producer} removes it, and a new one is \
         then made from the stream"
    ))
}

fn adopt(link: &mut Link, keys: &Keys, producer: &str, seen: &str, mark: &Mark) -> Result<bool, Failure> {
    link.call(&script::ADOPT, &keys.both(), &[producer, seen, &mark.to_string()])
}

/// Looks in the stream for what the mark should say. A journal that was restored has been given another producer
/// than those who published what it has, so the newest event that the journal knows counts, whoever published it.
fn scan(link: &mut Link, keys: &Keys, rows: &Rows, producer: &str) -> Result<Found, Failure> {
    let count = SCAN_ENTRIES.to_string();
    // Spares a look into the journal for most entries of other hosts in a stream that many share.
    let last_seq = rows.last_seq()?;
    let mut from = "+".to_owned();
    while !from.is_empty() {
        // Anyone may write to a stream, and write what is no text.
        let answer: Vec<Vec<u8>> = link.call(&script::SCAN, &[&keys.stream], &[&from, &count])?;
        let answer: Vec<_> = answer.iter().map(|bytes| String::from_utf8_lossy(bytes)).collect();
        for hit in answer.get(1..).unwrap_or_default().chunks_exact(4) {
            let [entry_id, by, seq, event_id] = hit else { continue };
            let Ok(seq) = seq.parse() else { continue };
            let place = Place { seq, event_id: event_id.clone().into_owned() };
            let is_ours = by == producer;
            let fits = if is_ours {
                place.names_an_event() && mark::fit(&place, &rows.kept(seq)?) != Fit::Foreign
            } else {
                seq <= last_seq && rows.event_id(seq)?.as_ref() == Some(&place.event_id)
            };
            match (fits, is_ours) {
                (true, _) => {
                    return Ok(Found::Entry(Mark { place, entry_id: entry_id.clone().into_owned() }));
                }
                (false, true) => return Ok(Found::Foreign(seq)),
                (false, false) => {}
            }
        }
        from = answer.first().map(|from| from.clone().into_owned()).unwrap_or_default();
    }
    Ok(Found::Nothing)
}
