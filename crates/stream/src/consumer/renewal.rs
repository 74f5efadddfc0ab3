//! Keeps what a consumer is at from being taken for left behind.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use super::Member;
use super::flight::Flight;
use crate::failure::Failure;
use crate::link::Link;
use crate::settings::Settings;

/// A thread that claims the consumer's own entries again and again, so that they are not idle. Dropped, it ends.
pub(super) struct Renewal {
    _stop: Sender<()>,
}

impl Renewal {
    pub(super) fn start(
        settings: Settings,
        member: Member,
        flight: Arc<Flight>,
        min_idle: Duration,
    ) -> Result<Self, Failure> {
        let (stop, stopped) = channel::<()>();
        let renew = move || {
            let mut link = None;
            while stopped.recv_timeout(min_idle / 4) == Err(RecvTimeoutError::Timeout) {
                // What cannot be renewed now is tried again: there are three tries to a loss.
                link = renew(link.take(), &settings, &member, &flight).ok();
            }
        };
        thread::Builder::new()
            .name("consumer-renew".to_owned())
            .spawn(renew)
            .map_err(|error| Failure::Refused(format!("no thread can be started: {error}")))?;
        Ok(Self { _stop: stop })
    }
}

fn renew(link: Option<Link>, settings: &Settings, member: &Member, flight: &Flight) -> Result<Link, Failure> {
    let mut link = link.map_or_else(|| Link::connect(settings), Ok)?;
    let ids: Vec<String> = flight.out().iter().map(ToString::to_string).collect();
    if !ids.is_empty() {
        let mut command = redis::cmd("XCLAIM");
        command.arg(&settings.stream).arg(&member.group).arg(&member.consumer).arg(0).arg(ids).arg("JUSTID");
        link.query::<redis::Value>(&command)?;
    }
    Ok(link)
}
