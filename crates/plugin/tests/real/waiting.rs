//! Events that wait: for a plugin that does not start, for room, for a circuit.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use autoweave_usb_device::Action;
use autoweave_usb_plugin::pool::Ending;

use crate::bed::{ALL, Bed, NOTE, done, endings, send};
use crate::support::{self, attach, event, until};

#[test]
fn events_wait_for_a_plugin_that_did_not_start_and_it_hears_them_when_it_does() {
    let mut bed = Bed::new();
    bed.policy.patience = Duration::from_secs(60);
    bed.shell("late", NOTE, "");
    let run = bed.package("late").join("run");
    let code = fs::read_to_string(&run).unwrap();
    let waits = code.replacen("ready\n", "[ -e $out-go ] || exit 7; ready\n", 1);
    fs::write(&run, waits).unwrap();
    let loader = bed.open(vec![Arc::new(event(1, "1-1", Action::Attach))]);
    assert!(bed.told("NotStarted { plugin: \"late\"") && loader.plugins()[0].tallies.circuit_open);
    let pending = loader.dispatch(&Arc::new(event(2, "1-2", Action::Attach)), 1);
    fs::write(bed.output.path().join("late-go"), "").unwrap();
    assert_eq!(endings(pending), [done("late")]);
    assert_eq!(bed.heard("late"), ["1 attach coldplug 1", "2 attach hotplug 1"]);
    assert!(!loader.plugins()[0].tallies.circuit_open);
}

#[test]
fn a_plugin_that_never_starts_gives_its_events_up() {
    let mut bed = Bed::new();
    bed.policy.patience = Duration::from_secs(3);
    support::write(&bed.package("never"), "never", "run", "#!/bin/sh\nexit 7\n", ALL);
    let loader = bed.open(vec![]);
    let ended = send(&loader, 1);
    let (_, _, Ending::GaveUp { error }) = &ended[0] else { panic!("{ended:?}") };
    assert!(error.contains("it ended: with code 7"), "{error}");
}

#[test]
fn another_version_hears_what_waited_for_one_that_did_not_start() {
    let mut bed = Bed::new();
    bed.policy.patience = Duration::from_secs(60);
    support::write(&bed.package("never"), "never", "run", "#!/bin/sh\nexit 7\n", ALL);
    let loader = bed.open(vec![]);
    let pending = loader.dispatch(&Arc::new(attach(1)), 1);
    bed.shell("never", NOTE, "");
    assert_eq!(endings(pending), [done("never")]);
    assert!(bed.told("Loaded { plugin: \"never\""));
}

#[test]
fn what_went_by_while_a_package_could_not_be_run_is_counted() {
    let bed = Bed::new();
    bed.shell("broken", NOTE, "");
    let manifest = bed.package("broken").join("autoweave.plugin.json");
    let whole = fs::read(&manifest).unwrap();
    fs::write(&manifest, "{").unwrap();
    let loader = bed.open(vec![]);
    assert!(send(&loader, 1).is_empty() && send(&loader, 2).is_empty());
    fs::write(&manifest, whole).unwrap();
    bed.wait_for("events: 2 }");
    assert_eq!(send(&loader, 3), [done("broken")]);
}

const HELD: &str = "while ! [ -e $out-go ]; do sleep 0.01; done; echo $seq >>$out; ok";

#[test]
fn who_waits_for_room_goes_when_the_gate_is_shut_and_nothing_more_is_delivered() {
    let bed = Bed::new();
    bed.shell("held", HELD, "");
    let loader = Arc::new(bed.open(vec![]));
    let (mine, (sender, dispatched)) = (Arc::clone(&loader), std::sync::mpsc::channel());
    let feeder = std::thread::spawn(move || {
        (1..=300).for_each(|number| sender.send(mine.dispatch(&Arc::new(attach(number)), 1)).unwrap());
    });
    until("it is full", || loader.plugins()[0].tallies.waiting == 256);
    bed.gate.store(false, Ordering::SeqCst);
    feeder.join().unwrap();
    fs::write(bed.output.path().join("held-go"), "").unwrap();
    until("the first is done", || loader.plugins()[0].tallies.done == 1);
    loader.close(Duration::from_secs(5));
    let ended: Vec<_> = dispatched.into_iter().flat_map(endings).map(|(_, _, ending)| ending).collect();
    assert_eq!((ended.len(), &ended[0]), (300, &Ending::Done));
    assert!(ended[1..].iter().all(|ending| *ending == Ending::Left));
    assert_eq!(bed.heard("held"), ["1"]);
}

#[test]
fn what_was_there_at_the_start_takes_no_room_from_what_comes() {
    let bed = Bed::new();
    bed.shell("held", HELD, "");
    let connected = (1..=300).map(|number| {
        let port = format!("{}-{}", 1 + number / 100, 1 + number % 100);
        Arc::new(event(number, &port, Action::Attach))
    });
    let loader = bed.open(connected.collect());
    until("it is at the first", || loader.plugins()[0].tallies.waiting == 299);
    let pending = loader.dispatch(&Arc::new(event(301, "9-1", Action::Attach)), 1);
    fs::write(bed.output.path().join("held-go"), "").unwrap();
    assert_eq!(endings(pending), [done("held")]);
    assert_eq!(bed.heard("held").len(), 301);
}

#[test]
fn what_waited_before_a_circuit_opened_waits_for_it_from_then_on() {
    let mut bed = Bed::new();
    bed.policy.patience = Duration::from_secs(11);
    bed.policy.deliveries_max = 1;
    bed.shell("crashes", "case $seq in ?|10) exit 1;; esac; echo $seq >>$out; ok", "");
    let loader = bed.open(vec![]);
    let pending: Vec<_> = (1..=12).map(|number| loader.dispatch(&Arc::new(attach(number)), 1)).collect();
    let ended: Vec<_> = pending.into_iter().map(endings).collect();
    assert!(ended[..10].iter().all(|ended| matches!(ended[0].2, Ending::GaveUp { .. })), "{ended:?}");
    assert_eq!(ended[10..], [[done("crashes")], [done("crashes")]]);
    assert!(bed.told("CircuitOpened"));
}

#[test]
fn a_circuit_that_stays_open_holds_up_nobody_for_long() {
    let mut bed = Bed::new();
    bed.policy.patience = Duration::from_secs(1);
    support::write(&bed.package("never"), "never", "run", "#!/bin/sh\nexit 7\n", ALL);
    let loader = bed.open(vec![]);
    let begun = Instant::now();
    for number in 1..=50 {
        let ended = send(&loader, number);
        assert!(matches!(ended[0], (_, 0, Ending::GaveUp { .. })), "{ended:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn a_new_version_hears_what_waits_in_its_order_and_of_the_others_that_they_are_there() {
    let bed = Bed::new();
    let two = r#", "memory": {"max_workers": 2}"#;
    bed.shell("swapped", "while ! [ -e $out-go$seq ]; do sleep 0.01; done; echo $seq >>$out; ok", two);
    let go = |number| fs::write(bed.output.path().join(format!("swapped-go{number}")), "").unwrap();
    let loader = bed.open(vec![]);
    let send = |number, port: &str, action| loader.dispatch(&Arc::new(event(number, port, action)), 1);
    let first = send(1, "1-1", Action::Attach);
    until("it is at the first", || loader.plugins()[0].tallies.waiting == 0);
    let second = send(2, "1-2", Action::Attach);
    until("it is at the second", || loader.plugins()[0].tallies.waiting == 0);
    let rest = [send(3, "1-2", Action::Detach), send(4, "1-2", Action::Attach)];
    // One worker is free to be the new version's, the other keeps its device's events waiting.
    go(1);
    assert_eq!(endings(first), [done("swapped")]);
    bed.shell("swapped", "echo $seq $action $reason >>$out; ok", two);
    bed.wait_for("Swapped");
    until("coldplug", || bed.heard("swapped") == ["1", "1 attach coldplug"]);
    go(2);
    assert_eq!(endings(second), [done("swapped")]);
    rest.into_iter().for_each(|pending| assert_eq!(endings(pending), [done("swapped")]));
    assert_eq!(bed.heard("swapped"), ["1", "1 attach coldplug", "2", "3 detach hotplug", "4 attach hotplug"]);
}

#[test]
fn what_is_given_up_without_a_dead_letter_is_told() {
    let bed = Bed::new();
    let fails =
        "id; echo '{\"type\":\"done\",\"id\":\"'$id'\",\"ok\":false,\"error\":\"no\",\"retry\":false}'";
    bed.shell("fails", fails, "");
    bed.shell("held", "while :; do sleep 0.01; done", "");
    let loader = bed.open(vec![Arc::new(attach(1))]);
    bed.wait_for("ColdplugGivenUp { plugin: \"fails\"");
    let pending = loader.dispatch(&Arc::new(attach(2)), 1);
    fs::remove_dir_all(bed.package("held")).unwrap();
    bed.wait_for("Removed { plugin: \"held\", unheard: 1 }");
    assert_eq!(endings(pending)[1].2, Ending::Removed);
}
