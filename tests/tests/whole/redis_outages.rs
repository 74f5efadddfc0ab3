//! A Redis that dies, sleeps, is full, read-only or locked while things are plugged: the daemon says so and keeps
//! the events, and once Redis is mended they arrive in order, each once.

use std::fs;
use std::time::{Duration, Instant};

use autoweave_usb_testbus::{Bus, Device};
use nix::sys::signal::Signal;

use crate::harness::{Daemon, StateDir, last_seq, wait_until};
use crate::redis_server::{
    Server, compare, health, is_degraded, order, start, start_at, wait_until_degraded, wait_until_published,
};

const PORTS: [&str; 8] = ["1-1", "1-2", "1-3", "1-4", "1-5", "1-6", "1-7", "1-8"];

const KILLS: usize = 3;

/// How long Redis stays away.
const OUTAGE: Duration = Duration::from_secs(2);

fn crowded_bus() -> Bus {
    let mut bus = Bus::enter().unwrap();
    for (number, port) in (0..).zip(PORTS) {
        bus.plug_silent(port, &Device::numbered(number)).unwrap();
    }
    bus
}

/// Plugs a little while Redis is not as it should be, and waits until the daemon has the events and says why they
/// wait.
fn plug_into_the_journal(bus: &mut Bus, state: &StateDir, daemon: &Daemon, cause: &str) {
    let before = last_seq(state);
    bus.cycle(&PORTS, 1).unwrap();
    daemon.wait_until("the journal has them", || last_seq(state) >= before + 16);
    wait_until_degraded(daemon, cause);
    daemon.wait_until("it counts what waits", || health()["journal"]["unpublished"].as_u64() >= Some(16));
}

#[test]
fn killed_for_seconds_again_and_again_amid_a_flow() {
    let mut bus = crowded_bus();
    let mut server = Server::start();
    let state = StateDir::new();
    let daemon = start(&bus, &state, &server);
    for _ in 0..KILLS {
        let published = server.length();
        bus.cycle(&PORTS, 50).unwrap();
        daemon.wait_until("some are published", || server.length() > published);
        server.kill();
        let back = Instant::now() + OUTAGE;
        while Instant::now() < back {
            let journaled = last_seq(&state);
            bus.cycle(&PORTS[..2], 1).unwrap();
            daemon.wait_until("the journal grows", || last_seq(&state) > journaled);
        }
        wait_until_degraded(&daemon, "Redis cannot be reached");
        server.restart();
    }
    wait_until_published(&daemon, &state, &server);
    daemon.stop();
    compare(&state, &server);
}

#[test]
fn a_redis_that_sleeps_is_noticed_and_waited_for() {
    let mut bus = crowded_bus();
    let server = Server::start();
    let state = StateDir::new();
    let daemon = start(&bus, &state, &server);
    wait_until_published(&daemon, &state, &server);
    server.signal(Signal::SIGSTOP);
    // What it finds in its sockets when it wakes was sent again meanwhile.
    plug_into_the_journal(&mut bus, &state, &daemon, "Redis cannot be reached");
    server.signal(Signal::SIGCONT);
    wait_until_published(&daemon, &state, &server);
    daemon.stop();
    compare(&state, &server);
}

#[test]
fn a_redis_that_is_full_gets_the_rest_when_there_is_room() {
    let mut bus = crowded_bus();
    let server = Server::start();
    let state = StateDir::new();
    let daemon = start(&bus, &state, &server);
    wait_until_published(&daemon, &state, &server);
    let info: String = redis::cmd("INFO").arg("memory").query(&mut server.connect().unwrap()).unwrap();
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    server.order("CONFIG SET maxmemory-policy noeviction");
    server.order(&format!("CONFIG SET maxmemory {}", used.parse::<u64>().unwrap() + 300_000));
    let cause = "Redis is out of memory: OOM";
    daemon.wait_until("it is full", || {
        bus.cycle(&PORTS, 20).unwrap();
        is_degraded(cause)
    });
    plug_into_the_journal(&mut bus, &state, &daemon, cause);
    server.order("CONFIG SET maxmemory 0");
    wait_until_published(&daemon, &state, &server);
    daemon.stop();
    compare(&state, &server);
}

#[test]
fn a_redis_that_became_a_replica_is_waited_for_and_told_what_it_lost() {
    const FIRST: &str = "6379";
    const SECOND: &str = "6380";
    let follow = |follower: &Server, port: &str| {
        follower.order(&format!("REPLICAOF 127.0.0.1 {port}"));
        wait_until("the replica is level", || {
            let mut connection = follower.connect().unwrap();
            let info: String = redis::cmd("INFO").arg("replication").query(&mut connection).unwrap();
            info.contains("master_link_status:up")
        });
    };
    let mut bus = crowded_bus();
    let server = |port| Server::start_with(&["--port", port, "--repl-diskless-sync-delay", "0"]);
    let (first, second) = (server(FIRST), server(SECOND));
    let state = StateDir::new();
    let daemon = start(&bus, &state, &first);
    follow(&second, FIRST);
    wait_until_published(&daemon, &state, &first);
    wait_until_published(&daemon, &state, &second);

    // A planned failover, and back.
    second.order("REPLICAOF NO ONE");
    follow(&first, SECOND);
    let cause = "this Redis is a read-only replica: READONLY";
    plug_into_the_journal(&mut bus, &state, &daemon, cause);
    first.order("REPLICAOF NO ONE");
    wait_until_published(&daemon, &state, &first);
    compare(&state, &first);

    // One to a server that had not heard of anything.
    second.order("FLUSHALL");
    follow(&first, SECOND);
    assert_eq!(first.length(), 0);
    plug_into_the_journal(&mut bus, &state, &daemon, cause);
    first.order("REPLICAOF NO ONE");
    wait_until_published(&daemon, &state, &first);
    let log = daemon.stop();
    compare(&state, &first);
    assert!(log.contains("the stream lacks events it should have; sending 1 to "), "{log}");
}

#[test]
fn a_wrong_password_is_named_kept_secret_and_can_be_mended_while_the_daemon_runs() {
    let mut bus = crowded_bus();
    let server = Server::start();
    let state = StateDir::new();
    // A connection of before stays logged in.
    let mut operator = server.connect().unwrap();
    order(&mut operator, "CONFIG SET requirepass sesame");

    let password_file = state.path().join("password");
    fs::write(&password_file, "swordfish\n").unwrap();
    let socket = server.socket();
    let host = ("REDIS_HOST", socket.to_str().unwrap());
    let password = ("AUTOWEAVE_USB__REDIS__PASSWORD_FILE", password_file.to_str().unwrap());
    let daemon = start_at(&bus, &state, &[host, password]);
    let refused = "Redis refuses the user or password: ";
    plug_into_the_journal(&mut bus, &state, &daemon, &format!("{refused}WRONGPASS"));
    let report = health().to_string();
    fs::write(&password_file, "sesame\n").unwrap();
    daemon.wait_until("all is published", || {
        let health = health();
        health["status"] == "ok" && health["journal"]["unpublished"] == 0
    });
    let said = daemon.stop() + &report;
    assert!(!said.contains("swordfish") && !said.contains("sesame"), "{said}");

    let daemon = start_at(&bus, &state, &[host]);
    plug_into_the_journal(&mut bus, &state, &daemon, &format!("{refused}NOAUTH"));
    order(&mut operator, "CONFIG SET requirepass ");
    wait_until_published(&daemon, &state, &server);
    daemon.stop();
    compare(&state, &server);
}
