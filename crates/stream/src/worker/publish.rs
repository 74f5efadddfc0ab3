//! One round of sending.

use std::time::Instant;

use super::{Worker, not_connected};
use crate::failure::Failure;
use crate::mark::Place;
use crate::rows::Following;
use crate::send::{Call, Flight, Landed};
use crate::trim;

/// Events read, packed and sent in one go. While the server works on one such window the next is packed.
const WINDOW: usize = 500;

/// Windows before orders and the interval are looked at again.
const WINDOWS_MAX: usize = 20;

/// How a round of sending ended.
pub(super) enum Round {
    /// The stream has all of the journal.
    Level,
    /// There is more to send, as soon as allowed.
    More,
    /// Where to go on must be found out first.
    Unsettled,
}

impl Worker {
    pub(super) fn publish(&mut self) -> Result<Round, Failure> {
        let mut flight = Flight::default();
        let mut sent = self.place.clone();
        for _ in 0..WINDOWS_MAX {
            let wanted = self.shape.allowed(WINDOW, Instant::now());
            let Following::Events(events) = self.rows.after(&sent, wanted.max(1))? else {
                self.land_all_but(&mut flight, 0)?;
                return Ok(Round::Unsettled);
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
            let batch_size = self.settings.batch_size.get();
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
                Landed::At(Call { place, timestamps }) => {
                    if place.seq > self.acknowledged {
                        self.report.acknowledged(&timestamps);
                    }
                    let added = place.seq.saturating_sub(self.place.seq);
                    self.added_since_trim = self.added_since_trim.saturating_add(added);
                    self.acknowledged = place.seq;
                    self.shared.set_published(place.seq);
                    self.place = place;
                    self.gets_through();
                }
            }
        }
        Ok(Round::More)
    }

    pub(super) fn trim_when_due(&mut self) -> Result<(), Failure> {
        if self.added_since_trim < trim::every(self.settings.max_len) {
            return Ok(());
        }
        self.added_since_trim = 0;
        let link = self.link.as_mut().ok_or_else(not_connected)?;
        let trimmed = trim::trim(link, &self.keys.stream, self.settings.max_len)?;
        self.report.trimmed(trimmed);
        Ok(())
    }
}
