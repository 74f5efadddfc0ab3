//! What has to hold of the events in a journal, looked at one by one.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use autoweave_usb_device::{Action, Event, Port, Reason};
use autoweave_usb_journal::Stored;

use super::{Finding, finding};
use crate::show::Outcome;

/// The events of a journal, in order. Takes 8 bytes an event, and little else.
#[derive(Default)]
pub struct History {
    /// The first event.
    from: Option<u64>,
    /// The number that the next one has to have.
    next: u64,
    read: u64,
    missing: Faults,
    unreadable: Faults,
    /// Of every `event_id`.
    fingerprints: Vec<u64>,
    repeated: Faults,
    ports: BTreeMap<Port, Last>,
    /// Whether a port without an event is empty: nothing is missing before.
    is_complete: bool,
    unpaired: Faults,
    kernel: Kernel,
}

/// What is wrong, told once.
#[derive(Default)]
struct Faults {
    count: u64,
    first: String,
}

/// A port's last event.
struct Last {
    seq: u64,
    action: Action,
    seqnum: Option<u64>,
}

/// The kernel's own numbers of its uevents (`SEQNUM`).
#[derive(Default)]
struct Kernel {
    count: u64,
    first: u64,
    last: u64,
    /// The highest since the machine was booted.
    highest: Option<u64>,
    jumps: u64,
    backwards: Faults,
}

impl Faults {
    fn add(&mut self, what: impl FnOnce() -> String) {
        if self.count == 0 {
            self.first = what();
        }
        self.count += 1;
    }

    /// Nothing wrong, or what is, and how often.
    fn finding(&self, what: &'static str, if_bad: Outcome, fine: String, mend: &str) -> Finding {
        match self.count {
            0 => finding(what, Outcome::Ok, fine, ""),
            1 => finding(what, if_bad, &self.first, mend),
            count => finding(what, if_bad, format!("{}; and {} more", self.first, count - 1), mend),
        }
    }
}

impl History {
    /// Takes in the next row.
    pub fn take(&mut self, row: &Stored) {
        if self.from.is_none() {
            (self.from, self.next, self.is_complete) = (Some(row.seq), row.seq, row.seq == 1);
        }
        if row.seq != self.next {
            self.miss(row.seq - 1);
        }
        self.next = row.seq + 1;
        self.read += 1;
        self.fingerprints.push(fingerprint(&row.event_id));
        match serde_json::from_str::<Event>(&row.event) {
            Ok(event) if (event.seq, &event.event_id) == (row.seq, &row.event_id) => self.look_at(&event),
            Ok(event) => self.unreadable.add(|| {
                format!(
                    "event {} says that it is {} {}, not {}",
                    row.seq, event.seq, event.event_id, row.event_id
                )
            }),
            Err(error) => self.unreadable.add(|| format!("event {} cannot be read: {error}", row.seq)),
        }
    }

    /// Of the events not taken in yet, those before `seq` are no longer kept, as they need not be.
    pub fn retired_before(&mut self, seq: u64) {
        self.next = self.next.max(seq);
        self.forget_ports();
    }

    /// There are no more rows, and the last event was `last_seq`. Returns fingerprints that more than one `event_id` has,
    /// see [`fingerprint`].
    pub fn end(&mut self, last_seq: u64) -> Vec<u64> {
        if self.from.is_none() {
            self.next = 1;
        }
        if self.next <= last_seq {
            self.miss(last_seq);
        }
        self.fingerprints.sort_unstable();
        let pairs = self.fingerprints.windows(2).filter(|pair| pair[0] == pair[1]);
        let mut suspects: Vec<u64> = pairs.map(|pair| pair[0]).collect();
        suspects.dedup();
        suspects
    }

    /// Two events have the same `event_id`.
    pub fn repeats(&mut self, event_id: &str, first_seq: u64, seq: u64) {
        self.repeated.add(|| format!("events {first_seq} and {seq} are both {event_id}"));
    }

    /// What there is to say.
    pub fn findings(&self) -> [Finding; 5] {
        let last = self.next.saturating_sub(1);
        let numbers = match self.from {
            Some(from) => format!("events {from} to {last}, none missing"),
            None => "no events yet".to_owned(),
        };
        let by_hand = "the daemon leaves none out: the file was changed by something else";
        let numbers = self.missing.finding("numbers", Outcome::Fail, numbers, by_hand).with([
            ("from", self.from.unwrap_or(0)),
            ("to", last),
            ("events", self.read),
            ("gaps", self.missing.count),
        ]);
        let readable = format!("{} of {} can be read", self.read - self.unreadable.count, self.read);
        let content = self
            .unreadable
            .finding("content", Outcome::Fail, readable, "a newer daemon wrote it, or the file is damaged")
            .with([("unreadable", self.unreadable.count)]);
        let ids = self
            .repeated
            .finding("ids", Outcome::Fail, "every event_id is used once".to_owned(), by_hand)
            .with([("repeated", self.repeated.count)]);
        let alternate = format!("attach and detach alternate in each of {} ports", self.ports.len());
        let ports = self
            .unpaired
            .finding("ports", Outcome::Fail, alternate, "please report it, with the events of that port")
            .with([("unpaired", self.unpaired.count)]);
        [numbers, content, ids, ports, self.kernel.finding(self.read)]
    }

    fn miss(&mut self, to: u64) {
        let from = self.next;
        self.missing.add(|| {
            if from == to {
                format!("event {to} is missing")
            } else {
                format!("events {from} to {to} are missing")
            }
        });
        self.next = to + 1;
        self.forget_ports();
    }

    fn forget_ports(&mut self) {
        self.ports.clear();
        self.is_complete = false;
    }

    fn look_at(&mut self, event: &Event) {
        let Event { seq, action, reason, seqnum, .. } = *event;
        let port = event.device.port();
        let before = self.ports.get(&port);
        let is_odd = match before {
            Some(last) => last.action == action,
            None => self.is_complete && action == Action::Detach,
        };
        if is_odd {
            let before =
                before.map_or("never attached".to_owned(), |last| format!("so was event {}", last.seq));
            self.unpaired.add(|| format!("event {seq} is {} {action} of {port}; {before}", article(action)));
        }
        if reason == Reason::Reboot {
            self.kernel.highest = None;
            self.ports.values_mut().for_each(|last| last.seqnum = None);
        }
        let seqnum_before = self.ports.get(&port).and_then(|last| last.seqnum);
        if let Some(seqnum) = seqnum {
            self.kernel.take(seqnum, seqnum_before, || format!("event {seq}, of {port}"));
        }
        self.ports.insert(port, Last { seq, action, seqnum: seqnum.or(seqnum_before) });
    }
}

impl Kernel {
    /// An event with this number, whose port had `before` last. Ports overtake each other in debounce windows, but none
    /// itself.
    fn take(&mut self, seqnum: u64, before: Option<u64>, event: impl FnOnce() -> String) {
        if self.count == 0 {
            self.first = seqnum;
        }
        (self.count, self.last) = (self.count + 1, seqnum);
        self.jumps += u64::from(self.highest.is_some_and(|highest| seqnum > highest + 1));
        self.highest = self.highest.max(Some(seqnum));
        if let Some(before) = before.filter(|before| seqnum < *before) {
            self.backwards
                .add(|| format!("{} has number {seqnum} of the kernel's, behind {before}", event()));
        }
    }

    fn finding(&self, events: u64) -> Finding {
        let &Self { count, first, last, jumps, .. } = self;
        let numbers = match count {
            0 => format!("none of {events} events has a number of the kernel's (SEQNUM)"),
            _ => format!(
                "{count} of {events} events have the kernel's number (SEQNUM), {first} to {last}, with {jumps} jumps: it \
                 counts the uevents of all subsystems, so a jump is no loss"
            ),
        };
        let mend = "the machine was booted without the daemon's seeing it, or the journal was moved to another machine";
        self.backwards.finding("uevents", Outcome::Warn, numbers, mend).with([
            ("with_seqnum", count),
            ("seqnum_from", first),
            ("seqnum_to", last),
            ("seqnum_jumps", jumps),
            ("seqnum_backwards", self.backwards.count),
        ])
    }
}

/// Equal for equal ids. That two others have the same is unlikely, and has to be looked at.
pub fn fingerprint(event_id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    event_id.hash(&mut hasher);
    hasher.finish()
}

fn article(action: Action) -> &'static str {
    match action {
        Action::Attach => "an",
        Action::Detach => "a",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use autoweave_usb_device::{Device, Reading, SourceName};

    use super::*;

    const PORT: &str = "1-1";

    fn row(seq: u64, port: &str, action: Action, reason: Reason, seqnum: Option<u64>) -> Stored {
        let event_id = format!("ID{seq}");
        let reading = Reading::bare(port.parse().unwrap(), 5, 0x1209, 1, None);
        let event = Event {
            seq,
            event_id: event_id.clone(),
            producer: "p".to_owned(),
            action,
            reason,
            source: SourceName::Uevent,
            host: "h".to_owned(),
            timestamp: 0,
            edges: 1,
            seqnum,
            traceparent: None,
            device: Arc::new(Device::new(&reading, "d".to_owned())),
        };
        Stored { seq, event_id, event: serde_json::to_string(&event).unwrap() }
    }

    fn hotplug(seq: u64, action: Action, seqnum: u64) -> Stored {
        row(seq, PORT, action, Reason::Hotplug, Some(seqnum))
    }

    fn examine(rows: &[Stored], last_seq: u64) -> [Finding; 5] {
        let mut history = History::default();
        rows.iter().for_each(|row| history.take(row));
        assert_eq!(history.end(last_seq), [] as [u64; 0]);
        history.findings()
    }

    /// The findings that are not fine, as `WHAT: FOUND`.
    fn faults(rows: &[Stored], last_seq: u64) -> Vec<String> {
        let bad = examine(rows, last_seq).into_iter().filter(|finding| finding.outcome != Outcome::Ok);
        bad.map(|finding| format!("{}: {}", finding.what, finding.found)).collect()
    }

    use Action::{Attach, Detach};

    #[test]
    fn what_is_as_it_should_be_is_counted() {
        let rows = [hotplug(8, Detach, 100), hotplug(9, Attach, 101), hotplug(10, Detach, 110)];
        let [numbers, content, ids, ports, uevents] = examine(&rows, 10);
        assert_eq!(numbers.found, "events 8 to 10, none missing");
        assert_eq!(content.found, "3 of 3 can be read");
        assert_eq!(ids.outcome, Outcome::Ok);
        assert_eq!(ports.found, "attach and detach alternate in each of 1 ports");
        assert!(
            uevents.found.starts_with("3 of 3 events") && uevents.found.contains("100 to 110, with 1 jumps")
        );
        assert_eq!(uevents.outcome, Outcome::Ok);
        assert_eq!(faults(&[], 0), [] as [&str; 0]);
    }

    #[test]
    fn what_is_missing_is_named_and_pairs_are_not_looked_for_across_it() {
        let rows =
            [hotplug(1, Attach, 1), hotplug(2, Detach, 2), hotplug(5, Detach, 3), hotplug(7, Detach, 4)];
        assert_eq!(faults(&rows, 7), ["numbers: events 3 to 4 are missing; and 1 more"]);
        assert_eq!(faults(&rows[..2], 3), ["numbers: event 3 is missing"]);
        assert_eq!(faults(&[], 3), ["numbers: events 1 to 3 are missing"]);
    }

    #[test]
    fn what_retention_took_meanwhile_is_not_missing() {
        let mut history = History::default();
        history.take(&hotplug(1, Attach, 1));
        history.retired_before(5);
        history.take(&hotplug(5, Attach, 5));
        history.end(5);
        assert!(history.findings().iter().all(|finding| finding.outcome == Outcome::Ok));
    }

    #[test]
    fn actions_that_do_not_alternate_are_found() {
        let twice = [hotplug(4, Attach, 1), hotplug(5, Attach, 2)];
        assert_eq!(faults(&twice, 5), ["ports: event 5 is an attach of 1-1; so was event 4"]);
        assert_eq!(
            faults(&[hotplug(1, Detach, 1)], 1),
            ["ports: event 1 is a detach of 1-1; never attached"]
        );
        assert_eq!(faults(&[hotplug(2, Detach, 1)], 2), [] as [&str; 0], "its attach is no longer kept");
    }

    #[test]
    fn the_kernels_numbers_rise_in_a_port_until_the_machine_is_booted() {
        let back = [hotplug(4, Attach, 9), hotplug(5, Detach, 8)];
        assert_eq!(faults(&back, 5), ["uevents: event 5, of 1-1 has number 8 of the kernel's, behind 9"]);
        let other_port = row(5, "1-2", Attach, Reason::Hotplug, Some(8));
        assert_eq!(faults(&[hotplug(4, Attach, 9), other_port], 5), [] as [&str; 0]);
        let boot = [
            hotplug(4, Attach, 9),
            row(5, PORT, Detach, Reason::Reboot, None),
            row(6, PORT, Attach, Reason::Reboot, None),
            hotplug(7, Detach, 2),
        ];
        assert_eq!(faults(&boot, 7), [] as [&str; 0]);
    }

    #[test]
    fn rows_that_are_not_what_they_say_are_found() {
        let mut rows = [hotplug(4, Attach, 1), hotplug(5, Detach, 2)];
        rows[0].event = "{".to_owned();
        rows[1].event_id = "other".to_owned();
        let found = faults(&rows, 5);
        assert!(found.len() == 1 && found[0].starts_with("content: event 4 cannot be read"), "{found:?}");
        assert!(found[0].ends_with("and 1 more"), "{found:?}");
    }

    #[test]
    fn ids_that_occur_twice_are_suspects() {
        let mut history = History::default();
        let mut twin = hotplug(5, Detach, 2);
        "ID4".clone_into(&mut twin.event_id);
        history.take(&hotplug(4, Attach, 1));
        history.take(&twin);
        assert_eq!(history.end(5), [fingerprint("ID4")]);
    }
}
