//! A journal full of events that the stream lacks.

use autoweave_usb_testbus::{Bus, Device};

use crate::harness::{Daemon, QUICK, StateDir, command, devices, last_seq};
use crate::http::answer;
use crate::invariants::{on_bus, places};
use crate::program::finish;
use crate::redis_server::{Server, health, start_at, wait_until_published};

const MAX_EVENTS: u64 = 1000;

/// What one batch may add beyond the bound before it is noticed, and what the ports may when it is over.
const BEYOND: u64 = 512 + 2 * 11;

fn start(bus: &Bus, state: &StateDir, server: &Server) -> Daemon {
    let max_events = MAX_EVENTS.to_string();
    start_at(bus, state, &[("REDIS_URL", &server.url()), ("AUTOWEAVE_USB__JOURNAL__MAX_EVENTS", &max_events)])
}

fn is_full() -> bool {
    let health = health();
    health["status"] == "degraded" && health["reasons"].to_string().contains("joined into their net effect")
}

fn coalesced() -> u64 {
    let metrics = answer("/metrics").1;
    let line = metrics.lines().find_map(|line| line.strip_prefix("usb_events_coalesced_total "));
    line.and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[test]
fn when_it_is_full_edges_become_their_net_effect_and_nothing_that_is_needed_goes() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let ports: Vec<String> = (1..=10).map(|port| format!("1-{port}")).collect();
    for (number, port) in (0..).zip(&ports) {
        bus.plug_silent(port, &Device::numbered(number)).unwrap();
    }
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let mut server = Server::start();
    let state = StateDir::new();
    let daemon = start(&bus, &state, &server);
    let published = 11 + bus.cycle(&ports, 20).unwrap();
    daemon.wait_until("all is written down", || last_seq(&state) == published);
    wait_until_published(&daemon, &state, &server);

    server.kill();
    bus.cycle(&ports, 200).unwrap();
    daemon.wait_until("the journal is full", is_full);
    bus.cycle(&ports, 200).unwrap();
    daemon.kill();
    let daemon = start(&bus, &state, &server);
    daemon.wait_until("it knows that the journal is full", is_full);
    bus.cycle(&ports, 200).unwrap();
    // All but what a port may end with.
    let joined = 10 * (2 * 200 - 2);
    daemon.wait_until("what is joined is counted meanwhile", || coalesced() >= joined);
    bus.unplug("1-1").unwrap();
    bus.plug("1-11", &Device::receiver()).unwrap();
    let grown = last_seq(&state) - published;
    assert!((MAX_EVENTS..=MAX_EVENTS + BEYOND).contains(&grown), "{grown} events wait");

    server.restart();
    daemon.wait_until("what happened meanwhile is told", || places(&devices(&state)) == on_bus(&bus));
    wait_until_published(&daemon, &state, &server);
    assert_eq!(health()["status"], "ok");
    daemon.stop();
    let entries = server.entries();
    let seqs = entries.iter().map(|entry| &entry.iter().find(|(name, _)| name == "seq").unwrap().1);
    assert!(seqs.eq((1..=last_seq(&state)).map(|seq| seq.to_string()).collect::<Vec<_>>().iter()));
}

#[test]
fn what_was_never_published_is_kept_over_restarts_until_there_is_a_redis() {
    let mut bus = Bus::enter().unwrap();
    let mut server = Server::start();
    server.kill();
    let state = StateDir::new();
    bus.plug_silent("1-1", &Device::numbered(1)).unwrap();
    for _ in 0..3 {
        let daemon = start(&bus, &state, &server);
        let told = last_seq(&state) + bus.cycle(&["1-1"], 200).unwrap();
        daemon.wait_until("they are written down", || last_seq(&state) >= told || is_full());
        daemon.stop();
    }
    assert!(last_seq(&state) >= MAX_EVENTS);
    server.restart();
    let daemon = start(&bus, &state, &server);
    wait_until_published(&daemon, &state, &server);
    daemon.stop();
    assert_eq!(server.entries().len() as u64, last_seq(&state));
}

#[test]
fn what_was_written_before_there_was_a_redis_waits_for_it_from_the_start_on_and_is_no_reason_to_join_edges() {
    let mut bus = Bus::enter().unwrap();
    let mut server = Server::start();
    server.kill();
    let state = StateDir::new();
    bus.plug_silent("1-1", &Device::numbered(1)).unwrap();
    let max_events = MAX_EVENTS.to_string();
    let alone = [QUICK, &[("AUTOWEAVE_USB__JOURNAL__MAX_EVENTS", &max_events)]].concat();
    let daemon = Daemon::start(&bus, &state, &alone);
    let told = last_seq(&state) + bus.cycle(&["1-1"], 550).unwrap();
    daemon.wait_until("they are written down", || last_seq(&state) >= told);
    assert_eq!(health()["journal"]["unpublished"], 0);
    daemon.stop();
    // As many as may be kept, or a few more.
    let mut waiting = 0;
    for _ in 0..2 {
        let daemon = start(&bus, &state, &server);
        let unpublished = health()["journal"]["unpublished"].as_u64().unwrap();
        assert!(unpublished >= MAX_EVENTS && unpublished >= waiting, "{unpublished}, {waiting} before");
        let told = last_seq(&state) + bus.cycle(&["1-1"], 10).unwrap();
        daemon.wait_until("each edge is told", || last_seq(&state) == told);
        daemon.wait_until("they wait, too", || health()["journal"]["unpublished"] == unpublished + 20);
        waiting = unpublished;
        daemon.stop();
    }
    server.restart();
    let daemon = start(&bus, &state, &server);
    daemon.wait_until("nothing waits", || {
        let health = health();
        health["stream"]["state"] == "up" && health["journal"]["unpublished"] == 0
    });
    daemon.stop();
    let entries = server.entries().len() as u64;
    assert!(entries >= MAX_EVENTS, "{entries}");
}

#[test]
fn what_is_simulated_is_in_the_stream_when_the_command_ends_and_only_if_asked_for() {
    let server = Server::start();
    let simulate = |arguments: &[&str]| {
        let url = server.url();
        let env = [("REDIS_URL", url.as_str()), ("AUTOWEAVE_USB__JOURNAL__MAX_EVENTS", "20")];
        let simulate = ["simulate", "--devices", "50", "--cycles", "20", "--rate", "0", "--json"];
        finish(command(&env).args(simulate).args(arguments)).ok().stdout.lines().count() as u64
    };
    assert_eq!((simulate(&[]), server.length()), (2000, 0));
    let told = simulate(&["--redis"]);
    assert_eq!(server.length(), told);
    assert!(told < 2000, "the journal was full, and {told} events are what it came to");
}
