//! Reads the stream as a consumer group: each entry goes to one consumer of the group, and is acknowledged once it is
//! printed. Whatever ends the program in between, the next start begins with what was not acknowledged.

use std::ops::ControlFlow;
use std::time::Duration;

use autoweave_usb_stream::{self as stream, Entry, GroupReader, Settings, create_group};

use super::session::{self, BLOCK, Trouble, tell, unavailable};
use super::{at_most, entry};
use crate::cli::Events;
use crate::commands::print_line;
use crate::config::Config;
use crate::exit::Failure;
use crate::{show, stamp};

/// The most entries read in one go: so many may be printed again after a kill.
const PAGE: usize = 100;

/// Makes the group `name`, unless it is there.
pub fn create(settings: &Settings, name: &str) -> Result<(), Failure> {
    let stream = &settings.stream;
    let text = match create_group(settings, name) {
        Ok(true) => format!("group {name} is made; it gets all of {stream}, from the oldest entry on"),
        Ok(false) => format!("group {name} of {stream} was there already and stays as it is"),
        Err(failure) => return Err(unavailable(settings, &failure)),
    };
    print_line(&show::escape_json(&text))
}

/// Prints and acknowledges what `arguments` ask for, as this host's consumer of the group `name`.
pub fn run(config: &Config, settings: &Settings, name: &str, arguments: &Events) -> Result<(), Failure> {
    let consumer = format!("events-{}", stamp::host(config.host.as_ref()));
    let left = arguments.count.unwrap_or(u64::MAX);
    let mut reading = Reading { settings, name, arguments, left, printed: Vec::new() };
    let connect = || GroupReader::connect(settings, name, &consumer);
    session::run(settings, arguments.follow, connect, |reader, is_new| reading.step(reader, is_new))
}

struct Reading<'a> {
    settings: &'a Settings,
    name: &'a str,
    arguments: &'a Events,
    /// How many entries may still be printed.
    left: u64,
    /// Ids of the entries that were printed and not acknowledged.
    printed: Vec<String>,
}

impl Reading<'_> {
    /// What is printed is acknowledged before anything else is read, also on a new connection: an outage makes nothing
    /// be printed twice.
    fn step(&mut self, reader: &mut GroupReader, is_new: bool) -> Result<ControlFlow<()>, Trouble> {
        reader.ack(self.printed.iter().map(String::as_str))?;
        self.printed.clear();
        if self.left == 0 {
            return Ok(ControlFlow::Break(()));
        }
        let is_follow = self.arguments.follow;
        let block = if is_follow && !is_new { BLOCK } else { Duration::ZERO };
        let page = match reader.read(at_most(PAGE, self.left), block) {
            Err(stream::Failure::Refused(text)) if text.starts_with("NOGROUP") => {
                return Err(self.no_group().into());
            }
            page => page?,
        };
        if page.is_empty() && !is_follow {
            return Ok(ControlFlow::Break(()));
        }
        let (lost, entries): (Vec<_>, Vec<_>) = page.into_iter().partition(|entry| entry.fields.is_empty());
        tell_lost(&lost);
        self.printed.extend(lost.into_iter().map(|entry| entry.id));
        for entry in entries {
            entry::print(&entry, self.arguments.json)?;
            self.left -= 1;
            self.printed.push(entry.id);
        }
        Ok(ControlFlow::Continue(()))
    }

    fn no_group(&self) -> Failure {
        let (stream, name) = (&self.settings.stream, self.name);
        Failure::unavailable(show::escape_json(&format!(
            "{stream} has no group {name}; `autoweave-usbd events --create-group {name}` makes it"
        )))
    }
}

fn tell_lost(lost: &[Entry]) {
    let text = match lost {
        [] => return,
        [one] => format!("the entry {} is lost: it was", one.id),
        [first, .., last] => {
            format!("{} entries from {} to {} are lost: they were", lost.len(), first.id, last.id)
        }
    };
    tell(&format!("{text} trimmed from the stream before this group acknowledged what it got"));
}
