//! Prints what is plugged in and out, as it happens. Keeps nothing.

use std::sync::atomic::Ordering;

use autoweave_usb_device::{Edge, Reason};
use autoweave_usb_source::{Events, has_usb};

use crate::cli::{Common, Watch};
use crate::exit::Failure;
use crate::stamp::{self, Stamp};
use crate::{show, signals};

pub fn run(common: &Common, arguments: &Watch) -> Result<(), Failure> {
    let config = super::load(common, arguments.source.as_deref())?.config;
    let events = Events::with_policy(super::options(&config), super::policy(&config));
    let mut events = events.map_err(Failure::unavailable)?;
    signals::exit_when_interrupted();
    anstream::eprintln!("watching {}; Ctrl-C to end", events.watch().sources().source().description());
    if !has_usb() {
        anstream::eprintln!("this machine has no USB bus; try `autoweave-usbd simulate --json`");
    }
    let mut stamp = Stamp::ephemeral(stamp::host(config.host.as_ref()));
    let mut overruns = 0;
    while let Some(edge) = events.next() {
        let edge: Edge = edge.map_err(Failure::unavailable)?;
        let overruns_now = events.watch().sources().counters().overruns.load(Ordering::Relaxed);
        if overruns_now > std::mem::replace(&mut overruns, overruns_now) {
            anstream::eprintln!("the kernel dropped messages; a scan tells the difference");
        }
        // What was there before is shown by `devices`; here it would only bury what happens.
        if edge.reason == Reason::Coldplug {
            continue;
        }
        if arguments.json {
            super::print_json(&stamp.event(&edge))?;
        } else {
            super::print_line(&show::edge_line(&edge))?;
        }
    }
    Ok(())
}
