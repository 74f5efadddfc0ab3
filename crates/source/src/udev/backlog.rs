//! What helpers left while no daemon ran.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use autoweave_usb_device::{Moment, Observed, Port, SourceName};

use super::spool::Spool;
use crate::linux::Devices;
use crate::{Counters, Notice, NoticeAction};

/// How long all devices together may take to be read. What was not read then is, by the first scan.
const READ_LIMIT: Duration = Duration::from_secs(1);

/// See the module's description.
#[derive(Debug)]
pub struct Backlog {
    /// What was seen meanwhile, in order, on a clock that begins with the first of it.
    pub observed: Vec<Observed>,
    /// How many notices a full spool refused. What they were about is for the scan to find.
    pub refused: u64,
    /// The spool and what to delete there, or why there is none.
    pub(super) spool: io::Result<(Spool, Vec<String>)>,
}

impl Backlog {
    pub(super) fn new(
        mut notices: Vec<Notice>,
        known: u64,
        spool: io::Result<(Spool, Vec<String>)>,
        counters: &Arc<Counters>,
    ) -> Self {
        let refused = spool.as_ref().map_or(0, |(spool, _)| spool.refused());
        notices.sort_by_key(|notice| (notice.seqnum.is_none(), notice.seqnum));
        let observed = observed(&untold(notices, known), counters);
        Self { observed, refused, spool }
    }

    /// Why there is no spool to read, if so.
    pub fn problem(&self) -> Option<&io::Error> {
        self.spool.as_ref().err()
    }
}

/// Without what the journal has. One that has no number may have been told before as well, so that only the last of a
/// port counts: told again, it changes nothing.
fn untold(mut notices: Vec<Notice>, known: u64) -> Vec<Notice> {
    let mut by_hand = BTreeSet::new();
    notices.reverse();
    notices.retain(|notice| match notice.seqnum {
        Some(seqnum) => seqnum > known,
        None => by_hand.insert(notice.port),
    });
    notices.reverse();
    notices
}

fn observed(notices: &[Notice], counters: &Arc<Counters>) -> Vec<Observed> {
    let last: BTreeMap<Port, usize> =
        notices.iter().enumerate().map(|(index, notice)| (notice.port, index)).collect();
    let is_there =
        |index: usize, notice: &Notice| notice.action == NoticeAction::Add && last[&notice.port] == index;
    let is_one_there = notices.iter().enumerate().any(|(index, notice)| is_there(index, notice));
    // Without threads to read with, the scan reads.
    let mut devices = if is_one_there { Devices::open(counters).ok() } else { None };
    let deadline = Instant::now() + READ_LIMIT;
    let begin = notices.first().map_or(0, |notice| notice.timestamp);
    let mut mono_ms = 0;
    let observe = |(index, notice): (usize, &Notice)| {
        // Helpers that ran at the same time may have looked at the clock in another order.
        mono_ms = notice.timestamp.saturating_sub(begin).max(mono_ms);
        let at = Moment { wall_ms: notice.timestamp, mono_ms };
        let readable = devices.as_mut().filter(|_| is_there(index, notice) && Instant::now() < deadline);
        let observation = super::observation(notice, readable)?;
        Some(Observed { number: 0, seqnum: notice.seqnum, at, source: SourceName::Udev, observation })
    };
    notices.iter().enumerate().filter_map(observe).collect()
}
