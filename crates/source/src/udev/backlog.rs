//! What helpers left while no daemon ran.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use autoweave_usb_device::{Action, Moment, Observed, Port, SourceName};

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
        unnumbered: HashSet<(Port, u8, Action)>,
        spool: io::Result<(Spool, Vec<String>)>,
        counters: &Arc<Counters>,
    ) -> Self {
        let refused = spool.as_ref().map_or(0, |(spool, _)| spool.refused());
        notices.sort_by_key(|notice| (notice.seqnum.is_none(), notice.seqnum));
        let observed = observed(&untold(notices, known, unnumbered), counters);
        Self { observed, refused, spool }
    }

    /// Why there is no spool to read, if so.
    pub fn problem(&self) -> Option<&io::Error> {
        self.spool.as_ref().err()
    }
}

/// Without what the journal has. One by hand may have been told before as well, so that only the last of a port counts:
/// told again, it changes nothing.
fn untold(mut notices: Vec<Notice>, known: u64, mut unnumbered: HashSet<(Port, u8, Action)>) -> Vec<Notice> {
    notices.retain(|notice| {
        if notice.seqnum.is_some_and(|seqnum| seqnum <= known) {
            return false;
        }
        let Notice { port, action, .. } = *notice;
        let told = notice.address.map(|address| (port, address, action.into()));
        let is_known = told.is_some_and(|told| unnumbered.remove(&told));
        if !is_known && action == NoticeAction::Remove && port.path.ports().is_empty() {
            // With a new root hub the addresses of its bus begin anew.
            unnumbered.retain(|(told, ..)| told.bus != port.bus);
        }
        !is_known
    });
    let mut by_hand = BTreeSet::new();
    notices.reverse();
    notices.retain(|notice| notice.seqnum.is_some() || by_hand.insert(notice.port));
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
        let at = Moment { wall_us: notice.timestamp.saturating_mul(1_000), mono_ms };
        let readable = devices.as_mut().filter(|_| is_there(index, notice) && Instant::now() < deadline);
        let observation = super::observation(notice, readable)?;
        Some(Observed { number: 0, seqnum: notice.seqnum, at, source: SourceName::Udev, observation })
    };
    notices.iter().enumerate().filter_map(observe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(action: NoticeAction, port: &str, address: u8, seqnum: u64) -> Notice {
        Notice {
            action,
            port: port.parse().unwrap(),
            devpath: None,
            address: Some(address),
            vendor_id: None,
            product_id: None,
            class: None,
            seqnum: Some(seqnum),
            boot_id: None,
            timestamp: 0,
        }
    }

    fn seqnums_untold(notices: Vec<Notice>, known: u64, told: &[(&str, u8, Action)]) -> Vec<u64> {
        let told = told.iter().map(|(port, address, action)| (port.parse().unwrap(), *address, *action));
        untold(notices, known, told.collect()).iter().filter_map(|notice| notice.seqnum).collect()
    }

    #[test]
    fn what_was_told_without_a_number_is_not_told_again() {
        use NoticeAction::{Add, Remove};
        let notices = || {
            vec![
                notice(Add, "1-1", 5, 1),
                notice(Remove, "1-1", 5, 2),
                notice(Add, "1-1", 6, 3),
                // The next time round; what was told was told once.
                notice(Add, "1-1", 5, 4),
                notice(Remove, "1-1", 5, 5),
            ]
        };
        let both = [("1-1", 5, Action::Attach), ("1-1", 5, Action::Detach)];
        assert_eq!(seqnums_untold(notices(), 0, &both), [3, 4, 5]);
        assert_eq!(seqnums_untold(notices(), 0, &both[..1]), [2, 3, 4, 5]);
        assert_eq!(seqnums_untold(notices(), 4, &[]), [5]);
        assert_eq!(seqnums_untold(notices(), 0, &[("1-2", 5, Action::Attach)]), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_bus_that_begins_anew_has_new_devices() {
        use NoticeAction::{Add, Remove};
        let notices = vec![notice(Remove, "usb1", 1, 1), notice(Add, "usb1", 1, 2), notice(Add, "1-1", 2, 3)];
        let told = [("usb1", 1, Action::Attach), ("1-1", 2, Action::Attach)];
        assert_eq!(seqnums_untold(notices, 0, &told), [1, 2, 3]);
    }
}
