//! Reads the journal, beside the daemon or without one.

use std::thread;
use std::time::Duration;

use autoweave_usb_device::Event;
use autoweave_usb_journal::{ROWS_MAX, ReadError, Reader, Stored};

use super::COUNT_DEFAULT;
use crate::cli::Events;
use crate::commands::{print_json_text, print_line};
use crate::exit::Failure;
use crate::{show, state_dir};

/// How long `--follow` waits before it looks again. A look without news takes some microseconds.
const FOLLOW_PAUSE: Duration = Duration::from_millis(50);

/// Prints what `arguments` ask for.
pub fn run(arguments: &Events) -> Result<(), Failure> {
    let directory = state_dir::find(arguments.state_dir.as_deref())?;
    let mut reader = Reader::open(&directory).map_err(unreadable)?;
    let producer = reader.producer().map_err(Failure::io)?;
    let mut out = Out { reader: &mut reader, is_json: arguments.json, last: 0, producer };
    let last_seq = out.reader.last_seq().map_err(Failure::io)?;
    match (arguments.since, arguments.follow) {
        (Some(since), _) => out.ascending(since, arguments.count.unwrap_or(u64::MAX))?,
        (None, true) => {
            let count = arguments.count.unwrap_or(COUNT_DEFAULT);
            out.ascending(last_seq.saturating_sub(count), count)?;
        }
        (None, false) => return out.newest_first(last_seq, arguments.count.unwrap_or(COUNT_DEFAULT)),
    }
    if !arguments.follow {
        return Ok(());
    }
    loop {
        match out.reader.changed() {
            Ok(true) => out.follow(arguments.since.unwrap_or(0))?,
            // It is being set aside and begun anew.
            Ok(false) | Err(ReadError::Missing { .. }) => thread::sleep(FOLLOW_PAUSE),
            Err(error) => return Err(Failure::io(error)),
        }
    }
}

struct Out<'a> {
    reader: &'a mut Reader,
    is_json: bool,
    /// The last event printed.
    last: u64,
    /// Whose events these are.
    producer: String,
}

impl Out<'_> {
    /// Prints up to `count` events after `since`, oldest first.
    fn ascending(&mut self, mut since: u64, mut count: u64) -> Result<(), Failure> {
        self.last = self.last.max(since);
        while count > 0 {
            let limit = usize::try_from(count).unwrap_or(ROWS_MAX).min(ROWS_MAX);
            let rows = self.reader.since(since, limit).map_err(Failure::io)?;
            let (Some(first), Some(last)) = (rows.first(), rows.last()) else { break };
            if first.seq > since + 1 {
                anstream::eprintln!(
                    "autoweave-usbd: events {} to {} are no longer kept",
                    since + 1,
                    first.seq - 1
                );
            }
            (since, self.last) = (last.seq, last.seq);
            count -= rows.len() as u64;
            rows.iter().try_for_each(|row| self.print(row))?;
        }
        Ok(())
    }

    /// Prints what was added since the last look.
    fn follow(&mut self, since: u64) -> Result<(), Failure> {
        let producer = self.reader.producer().map_err(Failure::io)?;
        if producer != self.producer {
            anstream::eprintln!("autoweave-usbd: this is a new journal; its events are numbered from 1");
            (self.producer, self.last) = (producer, 0);
        } else if self.last == 0 {
            self.last = since;
        }
        self.ascending(self.last, u64::MAX)
    }

    /// Prints `count` events up to `last_seq`, newest first, in pages so that no read is long.
    fn newest_first(&mut self, last_seq: u64, count: u64) -> Result<(), Failure> {
        let mut end = last_seq;
        let oldest = last_seq.saturating_sub(count);
        while end > oldest {
            let begin = end.saturating_sub(ROWS_MAX as u64).max(oldest);
            let limit = usize::try_from(end - begin).unwrap_or(ROWS_MAX);
            let rows = self.reader.since(begin, limit).map_err(Failure::io)?;
            let rows: Vec<&Stored> = rows.iter().filter(|row| row.seq <= end).collect();
            if rows.is_empty() {
                break;
            }
            rows.iter().rev().try_for_each(|row| self.print(row))?;
            end = begin;
        }
        Ok(())
    }

    fn print(&self, row: &Stored) -> Result<(), Failure> {
        if self.is_json {
            return print_json_text(&row.event);
        }
        match serde_json::from_str::<Event>(&row.event) {
            Ok(event) => print_line(&show::event_line(&event)),
            Err(problem) => print_line(&format!("event {} cannot be read: {problem}", row.seq)),
        }
    }
}

fn unreadable(error: ReadError) -> Failure {
    match error {
        ReadError::Missing { .. } => Failure::unavailable(format!("{error} --state-dir names another")),
        error => Failure::io(error),
    }
}
