//! Shows what the daemon has written down: the journal, or the Redis stream it goes into.

mod entry;
mod group;
mod journal;
mod session;
mod stream;

use crate::cli::{Common, Events};
use crate::exit::Failure;
use crate::signals;

/// How many of the newest events are shown where no count is given.
const COUNT_DEFAULT: u64 = 10;

pub fn run(common: &Common, arguments: &Events) -> Result<(), Failure> {
    let config = super::load(common, None)?.config;
    signals::exit_when_interrupted();
    if !(arguments.redis || arguments.group.is_some() || arguments.create_group.is_some()) {
        return journal::run(arguments);
    }
    let settings = super::redis(&config)?;
    match (&arguments.create_group, &arguments.group) {
        (Some(name), _) => group::create(&settings, name),
        (None, Some(name)) => group::run(&config, &settings, name, arguments),
        (None, None) => stream::run(&settings, arguments),
    }
}

/// How many entries to read in one go if `left` are wanted.
fn at_most(page: usize, left: u64) -> usize {
    usize::try_from(left).unwrap_or(page).min(page)
}
