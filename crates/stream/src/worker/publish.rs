//! One round of sending.

use std::time::Instant;

use super::{Worker, not_connected};
use crate::failure::Failure;
use crate::mark::Place;
use crate::rows::Following;
use crate::send::{Flight, Landed};
use crate::trim;

/// Events read, packed and sent in one go, unless a single call takes more. While the server works on one such
/// window the next is packed.
const WINDOW: usize = 500;

/// Events after which orders and the interval are looked at again.
const EVENTS_MAX: usize = 10_000;

/// How a round of sending ended.
pub(super) enum Round {
    /// The stream has all of the journal.
    Level,
    /// There is more to send, as soon as allowed.
    More,
    /// What comes next has been removed from the journal: where to go on must be found out first.
    Overtaken,
    /// Where to go on must be found out first.
    Unsettled,
}

impl Worker {
    pub(super) fn publish(&mut self) -> Result<Round, Failure> {
        let mut flight = Flight::default();
        let mut sent = self.place.clone().ok_or_else(not_connected)?;
        let batch_size = self.settings.batch_size.get();
        let window = batch_size.max(WINDOW);
        for _ in 0..EVENTS_MAX.div_ceil(window) {
            let wanted = self.shape.allowed(window, Instant::now());
            let events = match self.rows.after(&sent, wanted.max(1))? {
                Following::Events(events) => events,
                Following::Removed => {
                    return Ok(match self.land_all_but(&mut flight, 0)? {
                        Round::Unsettled => Round::Unsettled,
                        _ => Round::Overtaken,
                    });
                }
                Following::Replaced => {
                    self.land_all_but(&mut flight, 0)?;
                    return Ok(Round::Unsettled);
                }
            };
            if events.is_empty() || wanted == 0 {
                let level = events.is_empty();
                return Ok(match self.land_all_but(&mut flight, 0)? {
                    Round::Unsettled => Round::Unsettled,
                    _ if level => Round::Level,
                    _ => Round::More,
                });
            }
            let link = self.link.as_mut().ok_or_else(not_connected)?;
            let in_flight = flight.len();
            let notices = flight.send(link, &self.keys, &self.producer, &sent, &events, batch_size)?;
            self.report.notices(notices);
            self.shape.take(events.len());
            if let Some(last) = events.last() {
                sent = Place { seq: last.seq, event_id: last.event_id.clone() };
            }
            let newest = flight.len() - in_flight;
            if matches!(self.land_all_but(&mut flight, newest)?, Round::Unsettled) {
                return Ok(Round::Unsettled);
            }
        }
        self.land_all_but(&mut flight, 0)
    }

    /// Waits until at most `left` calls are in flight.
    fn land_all_but(&mut self, flight: &mut Flight, left: usize) -> Result<Round, Failure> {
        while flight.len() > left {
            let link = self.link.as_mut().ok_or_else(not_connected)?;
            match flight.land(link)? {
                Landed::Unsettled => return Ok(Round::Unsettled),
                Landed::At(call) => {
                    if call.place.seq > self.acknowledged {
                        self.report.acknowledged(&call, &self.keys.stream);
                    }
                    let place = call.place;
                    let before = self.place.as_ref().map_or(place.seq, |before| before.seq);
                    let added = place.seq.saturating_sub(before);
                    self.added_since_trim = self.added_since_trim.saturating_add(added);
                    self.acknowledged = place.seq;
                    self.last_seq = self.last_seq.max(place.seq);
                    self.set_place(Some(place));
                    self.gets_through();
                }
            }
        }
        Ok(Round::More)
    }

    /// A server that refuses to trim may well take events: only what another connection mends is an error.
    pub(super) fn trim_when_due(&mut self) -> Result<(), Failure> {
        if self.added_since_trim < trim::every(self.settings.max_len) {
            return Ok(());
        }
        self.added_since_trim = 0;
        let link = self.link.as_mut().ok_or_else(not_connected)?;
        match trim::trim(link, &self.keys.stream, self.settings.max_len) {
            Ok(trimmed) => self.report.trimmed(trimmed),
            Err(failure @ (Failure::Unreachable(_) | Failure::ReadOnly(_) | Failure::NotServed(_))) => {
                return Err(failure);
            }
            Err(failure) => self.report.not_trimmed(failure),
        }
        Ok(())
    }
}
