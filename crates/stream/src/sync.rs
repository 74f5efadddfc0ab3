//! Where publishing must go on: the mark, the stream and the journal compared.

use crate::failure::Failure;
use crate::link::Link;
use crate::mark::{self, Fit, Mark, NO_EVENT, Place};
use crate::notice::Notice;
use crate::rows::Rows;
use crate::script;

/// Entries looked at by one call of the script: about a millisecond of the server's time.
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
    At(Place, Vec<Notice>),
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
    rows: &mut Rows,
    producer: &str,
    acknowledged: u64,
) -> Result<Compared, Failure> {
    for _ in 0..ATTEMPTS_MAX {
        let (text, stale): (String, bool) = link.call(&script::INSPECT, &keys.both(), &[producer])?;
        let believed = !text.is_empty() && !stale;
        let mut mark = if believed {
            text.parse().map_err(Failure::Refused)?
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
        let mut notices = Vec::new();
        let fit = mark::fit(&mark.place, &journal);
        match fit {
            Fit::GoesOn => {}
            Fit::Foreign => {
                return Ok(Compared::Foreign { stream_seq: mark.place.seq, journal_seq: journal.last_seq });
            }
            Fit::Lost { resumes } => {
                notices.push(Notice::NoLongerKept { from: mark.place.seq + 1, to: resumes - 1 });
                mark.place = Place::before(resumes);
            }
        }
        let behind = mark.place.seq < acknowledged || stale;
        if behind && mark.place.seq < journal.last_seq {
            notices.push(Notice::Replaying { from: mark.place.seq + 1, to: journal.last_seq });
        }
        if (believed && fit == Fit::GoesOn) || adopt(link, keys, producer, &text, &mark)? {
            return Ok(Compared::At(mark.place, notices));
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

fn adopt(link: &mut Link, keys: &Keys, producer: &str, seen: &str, mark: &Mark) -> Result<bool, Failure> {
    link.call(&script::ADOPT, &keys.both(), &[producer, seen, &mark.to_string()])
}

/// Looks in the stream for what the mark should say. The journal may have been given a new producer since it was
/// made: then the newest entry of its first one that the journal knows is where the new one begins.
fn scan(link: &mut Link, keys: &Keys, rows: &mut Rows, producer: &str) -> Result<Found, Failure> {
    let first_producer = rows.producer()?;
    let count = SCAN_ENTRIES.to_string();
    let mut from = "+".to_owned();
    while !from.is_empty() {
        let args = [&from, &count, producer, &first_producer];
        let mut answer: Vec<String> = link.call(&script::SCAN, &[&keys.stream], &args)?;
        for hit in answer.get(1..).unwrap_or_default().chunks_exact(4) {
            let [entry_id, by, seq, event_id] = hit else { continue };
            let Ok(seq) = seq.parse() else { continue };
            let place = Place { seq, event_id: event_id.clone() };
            let foreign = mark::fit(&place, &rows.kept(seq)?) == Fit::Foreign || event_id == NO_EVENT;
            match (foreign, by == producer) {
                (false, _) => return Ok(Found::Entry(Mark { place, entry_id: entry_id.clone() })),
                (true, true) => return Ok(Found::Foreign(seq)),
                (true, false) => {}
            }
        }
        from = answer.drain(..).next().unwrap_or_default();
    }
    Ok(Found::Nothing)
}
