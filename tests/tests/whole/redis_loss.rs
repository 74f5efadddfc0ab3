//! A stream, marks or a journal that somebody deleted, or restored from an old copy: what is lost is sent again, what
//! is there stays once, and what cannot be continued is begun anew with an alarm.

use std::fs;
use std::path::Path;

use autoweave_usb_testbus::{Bus, Device};

use crate::harness::{Daemon, StateDir, events, last_seq};
use crate::invariants::{check, text};
use crate::program::files;
use crate::redis_server::{
    Entry, MARKS, STREAM, Server, compare, health, start, start_at, url, wait_until_published,
};

const PORTS: [&str; 4] = ["1-1", "1-2", "1-3", "1-4"];

/// What the daemon says when the stream has what its journal never wrote.
const ALARM: &str = "it was restored or copied, and needs a new producer id";

struct Bed {
    bus: Bus,
    server: Server,
    state: StateDir,
}

impl Bed {
    fn new() -> Self {
        let mut bus = Bus::enter().unwrap();
        for (number, port) in (0..).zip(PORTS) {
            bus.plug_silent(port, &Device::numbered(number)).unwrap();
        }
        Self { bus, server: Server::start(), state: StateDir::new() }
    }

    fn start(&self) -> Daemon {
        start(&self.bus, &self.state, &self.server)
    }

    /// Makes 40 events, and waits until the journal has them.
    fn plug(&mut self, daemon: &Daemon) {
        let told = last_seq(&self.state) + self.bus.cycle(&PORTS, 5).unwrap();
        daemon.wait_until("the journal has them", || last_seq(&self.state) >= told);
    }

    fn wait_until_published(&self, daemon: &Daemon) {
        wait_until_published(daemon, &self.state, &self.server);
    }

    /// A run of the daemon that publishes 40 events.
    fn publish(&mut self) {
        let daemon = self.start();
        self.plug(&daemon);
        wait_until_level(&daemon);
        daemon.stop();
    }

    fn copy_of_the_journal(&self) -> StateDir {
        let copy = StateDir::new();
        copy_journal(self.state.path(), copy.path());
        copy
    }

    fn restore(&self, copy: &StateDir) {
        self.delete_journal();
        copy_journal(copy.path(), self.state.path());
    }

    fn delete_journal(&self) {
        for file in files(self.state.path()).iter().filter(|name| name.starts_with("journal.db")) {
            fs::remove_file(self.state.path().join(file)).unwrap();
        }
    }
}

fn copy_journal(from: &Path, to: &Path) {
    for file in files(from).iter().filter(|name| name.starts_with("journal.")) {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

/// Waits until the daemon says that it is well and nothing waits: for a stream that has more than the journal.
fn wait_until_level(daemon: &Daemon) {
    daemon.wait_until("nothing waits", || {
        let health = health();
        let is_well = health["status"] == "ok" && health["stream"]["state"] == "up";
        is_well && health["journal"]["unpublished"] == 0
    });
}

fn field<'a>(entry: &'a Entry, name: &str) -> &'a str {
    &entry.iter().find(|(known, _)| known == name).unwrap().1
}

/// What was in the stream is there as it was, each event of the journal is in it once, and those that came since are
/// in order and by one producer, which is none of before.
fn compare_anew(bed: &Bed, before: &[Entry]) {
    let events = events(&bed.state);
    check(&events);
    let entries = bed.server.entries();
    let (old, new) = entries.split_at(before.len());
    assert_eq!(old, before);
    for entry in new {
        assert_eq!(field(entry, "producer"), field(&new[0], "producer"));
        assert!(before.iter().all(|old| field(old, "producer") != field(entry, "producer")), "{entry:?}");
    }
    let known = |event_id: &str| before.iter().any(|entry| field(entry, "event_id") == event_id);
    let since = events.iter().filter(|event| !known(text(&event["event_id"])));
    let since = since.map(|event| (event["seq"].to_string(), text(&event["event_id"]).to_owned()));
    let named = new.iter().map(|entry| (field(entry, "seq").to_owned(), field(entry, "event_id").to_owned()));
    assert_eq!(named.collect::<Vec<_>>(), since.collect::<Vec<_>>());
}

#[test]
fn a_deleted_stream_is_written_again() {
    let mut bed = Bed::new();
    let daemon = bed.start();
    bed.plug(&daemon);
    bed.wait_until_published(&daemon);
    bed.server.order(&format!("DEL {STREAM}"));
    // Nothing has to happen for that.
    bed.wait_until_published(&daemon);
    bed.server.order(&format!("DEL {STREAM}"));
    bed.plug(&daemon);
    bed.wait_until_published(&daemon);
    let log = daemon.stop();
    compare(&bed.state, &bed.server);
    assert!(log.contains("the stream lacks events it should have; sending 1 to "), "{log}");
}

#[test]
fn deleted_marks_are_found_again_in_the_stream() {
    let mut bed = Bed::new();
    let daemon = bed.start();
    bed.plug(&daemon);
    bed.wait_until_published(&daemon);
    bed.server.order(&format!("DEL {MARKS}"));
    bed.plug(&daemon);
    bed.wait_until_published(&daemon);
    // While nobody looks, too.
    daemon.stop();
    bed.server.order(&format!("DEL {MARKS}"));
    let daemon = bed.start();
    bed.plug(&daemon);
    bed.wait_until_published(&daemon);
    daemon.stop();
    compare(&bed.state, &bed.server);
}

#[test]
fn a_deleted_journal_is_begun_anew_under_its_own_producer() {
    let mut bed = Bed::new();
    bed.publish();
    let before = bed.server.entries();
    bed.delete_journal();
    bed.publish();
    compare_anew(&bed, &before);
}

#[test]
fn a_journal_deleted_under_the_daemon_ends_it_loudly_and_the_next_one_begins_anew() {
    let mut bed = Bed::new();
    let mut daemon = bed.start();
    bed.plug(&daemon);
    bed.wait_until_published(&daemon);
    let before = bed.server.entries();
    bed.delete_journal();
    bed.bus.plug("1-9", &Device::receiver()).unwrap();
    assert_eq!(daemon.wait().code(), Some(74));
    let log = daemon.log();
    assert!(log.contains("journal.db was removed") && log.contains("start again"), "{log}");
    bed.publish();
    compare_anew(&bed, &before);
    let entries = bed.server.entries();
    assert_eq!(entries.iter().filter(|entry| field(entry, "port_path") == "9").count(), 1);
}

#[test]
fn a_journal_restored_from_an_old_copy_goes_on_under_another_producer_with_an_alarm() {
    let mut bed = Bed::new();
    bed.publish();
    let copy = bed.copy_of_the_journal();
    bed.publish();
    // More than once: each time the stream has more that the copy does not know.
    for _ in 0..2 {
        let before = bed.server.entries();
        bed.restore(&copy);
        let daemon = bed.start();
        daemon.wait_for_log(ALARM);
        bed.plug(&daemon);
        wait_until_level(&daemon);
        let log = daemon.stop();
        let alarm = log.lines().find(|line| line.contains(ALARM)).unwrap();
        assert!(alarm.contains("ERROR"), "{alarm}");
        // It stays with the new one.
        let daemon = bed.start();
        bed.plug(&daemon);
        wait_until_level(&daemon);
        let log = daemon.stop();
        assert!(!log.contains(ALARM), "{log}");
        compare_anew(&bed, &before);
    }
}

#[test]
fn a_restored_journal_that_has_overtaken_the_stream_is_not_taken_for_the_old_one() {
    let mut bed = Bed::new();
    bed.publish();
    let copy = bed.copy_of_the_journal();
    bed.publish();
    let before = bed.server.entries();
    bed.restore(&copy);
    // The numbers that the stream has are given to other events while Redis is away.
    let nowhere = url(&bed.state.path().join("nowhere.sock"));
    let daemon = start_at(&bed.bus, &bed.state, &[("REDIS_URL", &nowhere)]);
    while last_seq(&bed.state) <= before.len() as u64 {
        bed.plug(&daemon);
    }
    daemon.stop();
    let daemon = bed.start();
    daemon.wait_for_log(ALARM);
    wait_until_level(&daemon);
    daemon.stop();
    compare_anew(&bed, &before);
}
