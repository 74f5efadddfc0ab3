//! Reads the stream as it is, without a group: nobody else reads more or less for it.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Duration;

use autoweave_usb_stream::{self as stream, Entry, Settings, StreamReader};

use super::session::{self, BLOCK, Trouble, tell, unavailable};
use super::{COUNT_DEFAULT, at_most, entry};
use crate::cli::Events;
use crate::exit::Failure;

/// The most entries read in one go.
const PAGE: usize = 1000;

/// How many of the entries it read last a reader remembers, to find its place in a stream that lost its newest ones.
const RECENT_MAX: usize = 100;

/// The place before the first entry.
const BEGINNING: &str = "0-0";

/// Prints what `arguments` ask for.
pub fn run(settings: &Settings, arguments: &Events) -> Result<(), Failure> {
    if arguments.since.is_none() && !arguments.follow {
        return newest_first(settings, arguments.count.unwrap_or(COUNT_DEFAULT), arguments.json);
    }
    let mut forward = Forward {
        stream: &settings.stream,
        arguments,
        left: if arguments.follow { u64::MAX } else { arguments.count.unwrap_or(u64::MAX) },
        recent: VecDeque::new(),
    };
    let connect = || StreamReader::connect(settings);
    session::run(settings, arguments.follow, connect, |reader, is_new| forward.step(reader, is_new))
}

fn newest_first(settings: &Settings, count: u64, is_json: bool) -> Result<(), Failure> {
    let failed = |failure| unavailable(settings, &failure);
    let mut reader = StreamReader::connect(settings).map_err(failed)?;
    let mut before: Option<String> = None;
    let mut left = count;
    while left > 0 {
        let page = reader.newest(before.as_deref(), at_most(PAGE, left)).map_err(failed)?;
        let Some(oldest) = page.last() else { break };
        page.iter().try_for_each(|entry| entry::print(entry, is_json))?;
        left -= page.len() as u64;
        before = Some(oldest.id.clone());
    }
    Ok(())
}

/// Reads on, oldest first.
struct Forward<'a> {
    stream: &'a str,
    arguments: &'a Events,
    /// How many entries may still be printed.
    left: u64,
    /// Ids of the entries read last, oldest first; the last is where to go on. Empty before the first connection.
    recent: VecDeque<String>,
}

impl Forward<'_> {
    fn step(&mut self, reader: &mut StreamReader, is_new: bool) -> Result<ControlFlow<()>, Trouble> {
        if is_new {
            self.find_place(reader)?;
            return Ok(ControlFlow::Continue(()));
        }
        let is_follow = self.arguments.follow;
        let block = if is_follow { BLOCK } else { Duration::ZERO };
        let place = self.recent.back().map_or(BEGINNING, String::as_str);
        let page = reader.after(place, PAGE, block)?;
        if page.is_empty() {
            if !is_follow {
                return Ok(ControlFlow::Break(()));
            }
            self.find_place(reader)?;
        }
        for entry in page {
            if self.left == 0 {
                return Ok(ControlFlow::Break(()));
            }
            if self.is_asked_for(&entry) {
                entry::print(&entry, self.arguments.json)?;
                self.left -= 1;
            }
            self.go_on_after(entry.id);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Each producer has numbers of its own. What has none comes after none.
    fn is_asked_for(&self, entry: &Entry) -> bool {
        let seq = || entry.get("seq")?.parse::<u64>().ok();
        self.arguments.since.is_none_or(|since| seq().is_some_and(|seq| seq > since))
    }

    fn go_on_after(&mut self, id: String) {
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(id);
    }

    /// Where to begin, and again after each silence and each outage where to go on: ids rise as long as the stream
    /// is the same, but a server that lost it, or its newest entries, may give lower ones, which no read after the
    /// last id would ever get.
    fn find_place(&mut self, reader: &mut StreamReader) -> Result<(), stream::Failure> {
        let Some(place) = self.recent.back() else {
            let place = self.beginning(reader)?;
            self.go_on_after(place);
            return Ok(());
        };
        let last_id = reader.last_id()?;
        if last_id.as_deref().map_or((0, 0), numbers) >= numbers(place) {
            return Ok(());
        }
        while let Some(id) = self.recent.back() {
            if last_id.is_some() && reader.has(id)? {
                tell(&format!("the newest entries of {} were lost; going on after {id}", self.stream));
                return Ok(());
            }
            self.recent.pop_back();
        }
        tell(&format!("{} was deleted; it is printed from its new beginning", self.stream));
        self.go_on_after(BEGINNING.to_owned());
        Ok(())
    }

    /// The place before the first entry that is to be printed, as far as that is known before it is read.
    fn beginning(&self, reader: &mut StreamReader) -> Result<String, stream::Failure> {
        if self.arguments.since.is_some() {
            return Ok(BEGINNING.to_owned());
        }
        let mut before: Option<String> = None;
        let mut left = self.arguments.count.unwrap_or(COUNT_DEFAULT);
        loop {
            let page = reader.newest(before.as_deref(), at_most(PAGE, left.saturating_add(1)))?;
            if let Some(place) = usize::try_from(left).ok().and_then(|left| page.get(left)) {
                return Ok(place.id.clone());
            }
            let Some(oldest) = page.last() else { return Ok(BEGINNING.to_owned()) };
            left -= page.len() as u64;
            before = Some(oldest.id.clone());
        }
    }
}

/// An id is `ms-n`, ordered as numbers.
fn numbers(id: &str) -> (u64, u64) {
    let number = |text: &str| text.parse().unwrap_or(0);
    id.split_once('-').map_or((0, 0), |(ms, n)| (number(ms), number(n)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_ordered_as_numbers() {
        for (earlier, later) in [(BEGINNING, "1-0"), ("9-0", "10-0"), ("5-9", "5-10"), ("", "0-1")] {
            assert!(numbers(earlier) < numbers(later), "{earlier} {later}");
        }
    }
}
