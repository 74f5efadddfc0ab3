//! Examines the journal, beside a running daemon or without one.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, stdout};
use std::time::{Duration, Instant};

use autoweave_usb_journal::{ROWS_MAX, ReadError, Reader, Stored};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;

use super::history::{History, fingerprint};
use super::{Finding, finding, print};
use crate::cli::Check;
use crate::exit::Failure;
use crate::pipeline::{META_OVERRUN_AT, META_OVERRUNS};
use crate::show::Outcome;
use crate::state_dir;

/// A bar is shown for what takes longer.
const QUICK: Duration = Duration::from_millis(500);

/// Ids that occur more than once are looked up, and so many of them are kept for that.
const SUSPECTS_MAX: usize = 1000;

/// Reads every event once, and says what is wrong with them.
pub fn run(arguments: &Check) -> Result<(), Failure> {
    let directory = state_dir::find(arguments.state_dir.as_deref())?;
    let mut reader = Reader::open(&directory).map_err(unreadable)?;
    let producer = reader.producer().map_err(Failure::io)?;
    let devices = reader.devices().map_err(Failure::io)?.len() as u64;
    if let Some(fault) = reader.fault().map_err(Failure::io)? {
        let mend =
            "the daemon sets a damaged journal aside when it starts; `sqlite3 FILE .recover` may save it";
        print(&[finding("sqlite", Outcome::Fail, fault, mend)], arguments.json)?;
        return Err(damaged());
    }
    // What a daemon adds meanwhile is left for the next time, or this would never end.
    let last_seq = reader.last_seq().map_err(Failure::io)?;
    let mut history = History::default();
    read(&mut reader, last_seq, &mut history).map_err(Failure::io)?;
    let suspects = history.end(last_seq);
    if !suspects.is_empty() {
        look_up(&mut reader, last_seq, &suspects, &mut history).map_err(Failure::io)?;
    }
    if reader.producer().map_err(Failure::io)? != producer {
        return Err(Failure::unavailable("the journal was begun anew while it was read; try again"));
    }
    let found = format!("{}: last event {last_seq}, {devices} devices connected", directory.display());
    let mut findings =
        vec![finding("journal", Outcome::Ok, found, "").with([("last_seq", last_seq), ("devices", devices)])];
    findings.push(finding("sqlite", Outcome::Ok, "quick_check finds nothing wrong with the file", ""));
    findings.extend(history.findings());
    findings.push(overruns(&mut reader).map_err(Failure::io)?);
    if print(&findings, arguments.json)? {
        return Ok(());
    }
    Err(damaged())
}

fn damaged() -> Failure {
    Failure::io("the journal is damaged")
}

/// The one proof that uevents were lost: the kernel said so.
fn overruns(reader: &mut Reader) -> Result<Finding, ReadError> {
    let mut number = |key| Ok(reader.meta(key)?.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0));
    let (count, at) = (number(META_OVERRUNS)?, number(META_OVERRUN_AT)?);
    let finding = if count == 0 {
        finding("overrun", Outcome::Ok, "the kernel never said that it had dropped uevents (ENOBUFS)", "")
    } else {
        let last = i64::try_from(at).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let last = last.map_or_else(|| format!("{at} ms"), |last| last.to_string());
        let found = format!("the kernel dropped uevents {count} times (ENOBUFS), last at {last}");
        let mend = "devices that came and went then are not in the log; `autoweave-usbd check` says what buffer is granted";
        finding("overrun", Outcome::Warn, found, mend)
    };
    Ok(finding.with([("overruns", count), ("overrun_at", at)]))
}

/// Hands on every event up to `last_seq`.
fn read(reader: &mut Reader, last_seq: u64, history: &mut History) -> Result<(), ReadError> {
    let first_seq = reader.first_seq()?.unwrap_or(last_seq + 1);
    let mut progress = Progress::new((last_seq + 1).saturating_sub(first_seq));
    let mut since = 0;
    loop {
        let rows = page(reader, since, last_seq)?;
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { break };
        // A daemon may remove the oldest ones faster than they are read here. Within a page it cannot.
        if since > 0 && first.seq > since + 1 && reader.first_seq()?.is_some_and(|oldest| oldest > since + 1)
        {
            history.retired_before(first.seq);
        }
        since = last.seq;
        rows.iter().for_each(|row| history.take(row));
        progress.inc(rows.len() as u64);
    }
    Ok(())
}

/// Finds which events have the same `event_id`.
fn look_up(
    reader: &mut Reader,
    last_seq: u64,
    suspects: &[u64],
    history: &mut History,
) -> Result<(), ReadError> {
    let suspects = &suspects[..suspects.len().min(SUSPECTS_MAX)];
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut since = 0;
    loop {
        let rows = page(reader, since, last_seq)?;
        let Some(last) = rows.last() else { return Ok(()) };
        since = last.seq;
        for Stored { seq, event_id, .. } in rows {
            if suspects.binary_search(&fingerprint(&event_id)).is_err() {
                continue;
            }
            match seen.get(&event_id) {
                Some(first) => history.repeats(&event_id, *first, seq),
                None => drop(seen.insert(event_id, seq)),
            }
        }
    }
}

/// The next events behind `since`, none behind `last_seq`.
fn page(reader: &mut Reader, since: u64, last_seq: u64) -> Result<Vec<Stored>, ReadError> {
    let mut rows = reader.since(since, ROWS_MAX)?;
    rows.retain(|row| row.seq <= last_seq);
    Ok(rows)
}

fn unreadable(error: ReadError) -> Failure {
    match error {
        ReadError::Missing { .. } => Failure::unavailable(format!("{error} --state-dir names another")),
        error => Failure::io(error),
    }
}

/// A bar, if there is somebody to see it and something to wait for.
struct Progress {
    bar: ProgressBar,
    begin: Instant,
}

impl Progress {
    fn new(events: u64) -> Self {
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} events  {per_sec}  {eta} left");
        let bar = ProgressBar::with_draw_target(Some(events), ProgressDrawTarget::hidden())
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, begin: Instant::now() }
    }

    fn inc(&mut self, events: u64) {
        self.bar.inc(events);
        if self.bar.is_hidden() && stdout().is_terminal() && self.begin.elapsed() > QUICK {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
