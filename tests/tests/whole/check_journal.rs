//! `check --journal`: what it says of a sound journal, and that it finds what is wrong with another.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use autoweave_usb_testbus::{Bus, Device};
use rusqlite::{Connection, OptionalExtension};
use serde_json::Value;

use crate::flood::{Random, hub_and_others, plug_or_unplug};
use crate::harness::{Daemon, QUICK, StateDir, last_seq};
use crate::keeper::bus;
use crate::program::{Finished, usbd};

const PORTS: [&str; 2] = ["1-1", "1-2"];

fn check(state: &Path, more: &[&str]) -> Finished {
    usbd(&[&["check", "--journal", "--state-dir", state.to_str().unwrap()], more].concat())
}

/// The findings by what they are about.
fn findings(state: &Path) -> BTreeMap<String, Value> {
    let findings = check(state, &["--json"]).ok().json();
    findings.into_iter().map(|finding| (finding["what"].as_str().unwrap().to_owned(), finding)).collect()
}

/// A journal of `cycles` times two devices that left and came, without a daemon.
fn sound(cycles: u32) -> StateDir {
    let mut bus = bus();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    let edges = last_seq(&state) + bus.cycle(&PORTS, cycles).unwrap();
    daemon.wait_until("all is told", || last_seq(&state) == edges);
    daemon.stop();
    state
}

fn spoil(state: &StateDir, statement: &str) {
    let connection = Connection::open(state.path().join("journal.db")).unwrap();
    assert!(connection.execute(statement, []).unwrap() > 0, "{statement}");
}

#[test]
fn beside_a_running_daemon_and_without_one_a_sound_journal_passes() {
    let mut bus = bus();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    let coldplugged = last_seq(&state);
    let edges = coldplugged + bus.cycle(&PORTS, 600).unwrap();
    daemon.wait_until("all is told", || last_seq(&state) == edges);
    let beside = findings(state.path());
    daemon.stop();
    assert_eq!(findings(state.path()), beside);
    let figure = |what: &str, name: &str| beside[what][name].as_u64().unwrap();
    assert_eq!((figure("numbers", "from"), figure("numbers", "to")), (1, edges));
    assert_eq!((figure("numbers", "events"), figure("numbers", "gaps")), (edges, 0));
    assert_eq!(figure("uevents", "with_seqnum"), edges - coldplugged, "what a scan finds has none");
    assert_eq!(figure("overrun", "overruns"), 0);
    let span = figure("uevents", "seqnum_to") - figure("uevents", "seqnum_from");
    assert!(span >= edges - coldplugged - 1, "the kernel numbers each: {span}");
    let shown = check(state.path(), &[]).ok().stdout;
    assert!(shown.contains("none missing") && shown.lines().all(|line| line.starts_with("ok")), "{shown}");
}

#[test]
fn what_was_done_to_a_journal_is_found() {
    let sound = sound(4);
    for (statement, what) in [
        ("DELETE FROM events WHERE seq IN (10, 11)", "events 10 to 11 are missing"),
        ("DELETE FROM events WHERE seq > 14", "are missing"),
        (
            "UPDATE events SET event_id = (SELECT event_id FROM events WHERE seq = 9) WHERE seq = 12",
            "events 9 and 12 are both",
        ),
        (
            "UPDATE events SET event = replace(event, '\"detach\"', '\"attach\"') WHERE seq = 12",
            "event 12 is an attach of",
        ),
        ("UPDATE events SET event = substr(event, 1, 40) WHERE seq = 12", "event 12 cannot be read"),
    ] {
        let state = StateDir::new();
        fs::copy(sound.path().join("journal.db"), state.path().join("journal.db")).unwrap();
        spoil(&state, statement);
        let checked = check(state.path(), &[]);
        checked.fails(74, &["damaged"]);
        assert!(checked.stdout.contains(what), "{statement}: {}", checked.stdout);
    }
}

#[test]
fn the_oldest_may_go() {
    let state = sound(4);
    spoil(&state, "DELETE FROM events WHERE seq < 12");
    assert_eq!(findings(state.path())["numbers"]["from"], 12);
}

#[test]
fn a_damaged_file_and_none_end_as_in_other_commands() {
    let state = sound(600);
    let path = state.path().join("journal.db");
    let middle = fs::metadata(&path).unwrap().len() / 4096 / 2 * 4096;
    let mut file = OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(middle)).unwrap();
    file.write_all(&[0xa5; 4096]).unwrap();
    let damaged = check(state.path(), &[]);
    damaged.fails(74, &["damaged"]);
    assert!(damaged.stdout.starts_with("fail  sqlite"), "{}", damaged.stdout);
    fs::remove_file(&path).unwrap();
    check(state.path(), &[]).fails(69, &["there is no journal"]);
}

#[test]
fn overruns_are_counted_over_restarts() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    bus.plug_silent("1-9", &Device::numbered(9)).unwrap();
    let ports = hub_and_others(20);
    let state = StateDir::new();
    let env = [QUICK, &[("AUTOWEAVE_USB__SOURCE__RECEIVE_BUFFER_BYTES", "4096")]].concat();
    let (mut random, mut counted, mut last_at) = (Random(11), 0, None);
    for _ in 0..2 {
        let daemon = Daemon::start(&bus, &state, &env);
        assert_eq!(recorded(&state, "overruns").unwrap_or(0), counted);
        daemon.wait_until("the small buffer overflows", || {
            for step in 0..300 {
                plug_or_unplug(&mut bus, &ports[random.below(ports.len())], step);
            }
            daemon.log().contains("usb_source_overruns_total=")
        });
        counted += overruns_told(&daemon.stop());
        assert_eq!(recorded(&state, "overruns"), Some(counted));
        let at = recorded(&state, "overrun_at");
        assert!(at > last_at, "{at:?} is later than {last_at:?}");
        last_at = at;
    }
    let overrun = &findings(state.path())["overrun"];
    assert_eq!((&overrun["outcome"], overrun["overruns"].as_u64()), (&"warn".into(), Some(counted)));
    assert_eq!(overrun["overrun_at"].as_u64(), last_at);
}

/// How many overruns a daemon that has ended says there were.
fn overruns_told(log: &str) -> u64 {
    let (_, rest) = log.rsplit_once("usb_source_overruns_total=").unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

fn recorded(state: &StateDir, key: &str) -> Option<u64> {
    let connection = Connection::open(state.path().join("journal.db")).unwrap();
    let value: Option<String> = connection
        .query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0))
        .optional()
        .unwrap();
    value.map(|value| value.parse().unwrap())
}
