//! Records what a source sees, until interrupted.

use std::time::Duration;

use autoweave_usb_source::{Position, Recorder, Wire};

use crate::cli::{Common, Record};
use crate::exit::Failure;
use crate::signals;

/// How long to wait for the source before looking at the clock again; a signal ends the wait.
const WAIT: Duration = Duration::from_secs(3600);

pub fn run(common: &Common, arguments: &Record) -> Result<(), Failure> {
    signals::block()?;
    let config = super::load(common, arguments.source.as_deref())?.config;
    let mut sources = super::open_sources(super::options(&config))?;
    sources.start(Position::default());
    let mut recorder = Recorder::create(&arguments.file).map_err(Failure::io)?;
    let interrupter = sources.interrupter();
    let requests = signals::handle(move || interrupter.interrupt())?;
    let file = arguments.file.display();
    anstream::eprintln!("recording {} to {file}; Ctrl-C to end", sources.source().description());
    let mut count = 0u64;
    while !requests.is_stop() {
        match sources.next(WAIT) {
            Some(Wire::Observed(observed)) => {
                recorder.record(&observed).map_err(Failure::io)?;
                sources.journaled(observed.number, observed.number);
                count += 1;
            }
            Some(Wire::ScanFailed(error)) => anstream::eprintln!("the bus cannot be scanned: {error}"),
            Some(Wire::Failed(error)) => return Err(Failure::unavailable(error)),
            Some(Wire::Ended) => break,
            Some(Wire::Switched(switch)) => anstream::eprintln!("{switch}"),
            Some(Wire::Interrupted) | None => {}
        }
    }
    anstream::eprintln!("{count} observations in {file}; play them with `autoweave-usbd replay {file}`");
    if requests.is_stop() { Err(Failure::interrupted()) } else { Ok(()) }
}
