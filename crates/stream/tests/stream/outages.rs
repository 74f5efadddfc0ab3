//! A server that dies, sleeps, refuses, or is not the right one: events wait, then go on in order.

use std::fs;
use std::time::{Duration, Instant};

use autoweave_usb_stream::{Endpoint, Failure, Notice, Password, Secret, State};
use nix::sys::signal::Signal;

use crate::bed::{Bed, assert_once, stop};
use crate::server::{Server, until};

#[test]
fn a_server_that_is_killed_again_and_again_loses_nothing() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let mut bed = Bed::new("a");
    let publisher = bed.publish(server.settings());
    for _ in 0..5 {
        let before = bed.last_seq();
        bed.add(3000);
        publisher.wake();
        until("some are published", || publisher.published_seq() > Some(before));
        server.kill();
        bed.add(10);
        publisher.wake();
        until("the outage is noticed", || publisher.status().state == State::Down);
        server.restart();
        bed.until_level(&publisher);
    }
    assert_once(&mut server.connection(), "a", 1, bed.last_seq());
    assert!(publisher.status().last_error.is_none());
}

#[test]
fn a_server_that_sleeps_is_waited_for() {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    let publisher = bed.publish(server.settings());
    bed.add(100);
    bed.until_level(&publisher);
    server.signal(Signal::SIGSTOP);
    bed.add(5000);
    publisher.wake();
    until("the silence is noticed", || publisher.status().state == State::Down);
    let error = publisher.status().last_error.unwrap();
    assert_eq!(error, "Redis cannot be reached: no answer within 5 s");
    server.signal(Signal::SIGCONT);
    bed.until_level(&publisher);
    assert_once(&mut server.connection(), "a", 1, 5100);
}

#[test]
fn a_stop_ends_at_its_deadline_while_the_server_sleeps() {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    let publisher = bed.publish(server.settings());
    bed.until_level(&publisher);
    server.signal(Signal::SIGSTOP);
    bed.add(10);
    let begin = Instant::now();
    publisher.stop(begin + Duration::from_millis(300));
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    drop(bed.journal.take());
    assert!(
        !bed.dir.path().join("journal.db-wal").exists(),
        "the last to close the journal takes its log away"
    );
}

#[test]
fn a_stop_with_nothing_to_publish_waits_for_no_answer() {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    bed.add(10);
    let publisher = bed.publish(server.settings());
    bed.until_level(&publisher);
    server.signal(Signal::SIGSTOP);
    until("the silence is noticed", || publisher.status().state == State::Down);
    let begin = Instant::now();
    let status = stop(publisher);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!((status.state, status.published_seq), (State::Stopped, Some(10)));
    assert_eq!(status.unpublished, Some(0));
    drop(bed.journal.take());
    assert!(
        !bed.dir.path().join("journal.db-wal").exists(),
        "the last to close the journal takes its log away"
    );
}

#[test]
fn a_reload_of_what_is_set_changes_nothing() {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    let mut settings = server.settings();
    settings.max_events_per_second = 100.try_into().ok();
    let publisher = bed.publish(settings.clone());
    bed.until_level(&publisher);
    let mut connection = server.connection();
    let mut connections = || -> u64 {
        let info: String = redis::cmd("INFO").arg("stats").query(&mut connection).unwrap();
        let count = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        count.unwrap().parse().unwrap()
    };
    let before = connections();
    bed.add(150);
    let begin = Instant::now();
    publisher.wake();
    while publisher.published_seq() < Some(150) {
        publisher.reload(settings.clone());
        assert!(begin.elapsed() < Duration::from_secs(20));
    }
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(400), "each reload allowed another burst: {took:?}");
    settings.max_events_per_second = None;
    settings.interval = Duration::from_secs(1);
    publisher.reload(settings.clone());
    bed.add(10);
    bed.until_level(&publisher);
    assert_eq!(connections(), before, "the connection is kept");

    settings.db = 1;
    publisher.reload(settings);
    until("another database gets everything", || {
        let url = format!("redis+unix://{}?db=1", server.socket().display());
        let mut other = redis::Client::open(url).unwrap().get_connection().unwrap();
        redis::cmd("XLEN").arg("aw:hotplug").query::<u64>(&mut other).unwrap() == 160
    });
}

#[test]
fn a_stop_without_a_server_does_not_wait() {
    let mut server = Server::start(&[]);
    let mut bed = Bed::new("a");
    bed.add(10);
    server.kill();
    let publisher = bed.publish(server.settings());
    until("the outage is noticed", || publisher.status().state == State::Down);
    assert_eq!(publisher.status().unpublished, None, "nobody said what the server has");
    let status = stop(publisher);
    assert_eq!((status.state, status.published_seq), (State::Stopped, None));
}

#[test]
fn users_passwords_and_databases() {
    let server = Server::start(&["--requirepass", "right"]);
    let mut bed = Bed::new("a");
    bed.add(10);
    let file = server.dir().join("password");
    fs::write(&file, "wrong\n").unwrap();
    let mut settings = server.settings();
    settings.db = 3;
    let publisher = bed.publish(settings.clone());
    let refused = || bed.told(|notice| matches!(notice, Notice::Down(Failure::AuthRefused(_))));
    until("no password is refused", refused);
    bed.notices.lock().unwrap().clear();
    settings.password = Some(Password::File(file.clone()));
    publisher.reload(settings.clone());
    until("the wrong one is refused", || publisher.status().errors_total > 2);
    fs::write(&file, "right\n").unwrap();
    bed.until_level(&publisher);
    stop(publisher);

    let url = format!("redis+unix://{}?db=3&pass=right", server.socket().display());
    let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
    assert_once(&mut connection, "a", 1, 10);
    let rules = "on >secret resetkeys ~aw:hotplug ~{aw:hotplug}:seq \
                 +@connection +@scripting +@stream +@read +hset +hdel +info";
    let mut command = redis::cmd("ACL");
    command.arg("SETUSER").arg("usb").arg(rules.split_whitespace().collect::<Vec<_>>());
    command.exec(&mut connection).unwrap();
    settings.username = Some("usb".to_owned());
    settings.password = Some(Password::Inline(Secret::new("secret".to_owned())));
    bed.add(10);
    let publisher = bed.publish(settings);
    bed.until_level(&publisher);
    assert_once(&mut connection, "a", 1, 20);

    redis::cmd("ACL").arg("SETUSER").arg("usb").arg("-hset").exec(&mut connection).unwrap();
    bed.add(10);
    publisher.wake();
    until("the missing permission is told", || {
        bed.told(|notice| matches!(notice, Notice::Down(Failure::NotPermitted(_))))
    });
    assert_once(&mut connection, "a", 1, 20);
    redis::cmd("ACL").arg("SETUSER").arg("usb").arg("+hset").exec(&mut connection).unwrap();
    bed.until_level(&publisher);
    assert_once(&mut connection, "a", 1, 30);
}

#[test]
fn a_replica_is_refused_until_it_is_promoted() {
    let server = Server::start(&["--replicaof", "127.0.0.1", "1"]);
    let mut bed = Bed::new("a");
    bed.add(10);
    let publisher = bed.publish(server.settings());
    until("it is told", || bed.told(|notice| matches!(notice, Notice::Down(Failure::ReadOnly(_)))));
    let mut connection = server.connection();
    redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec(&mut connection).unwrap();
    bed.until_level(&publisher);
    assert_once(&mut connection, "a", 1, 10);
}

#[test]
fn a_full_server_is_waited_for() {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    bed.add(2000);
    let publisher = bed.publish(server.settings());
    bed.until_level(&publisher);
    let mut connection = server.connection();
    let limit = |connection: &mut redis::Connection, bytes: &str| {
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).exec(connection).unwrap();
    };
    limit(&mut connection, "1mb");
    bed.add(2000);
    publisher.wake();
    until("it is told", || bed.told(|notice| matches!(notice, Notice::Down(Failure::OutOfMemory(_)))));
    limit(&mut connection, "0");
    bed.until_level(&publisher);
    assert_once(&mut connection, "a", 1, 4000);
}

#[test]
fn a_policy_that_evicts_is_told() {
    let server = Server::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let bed = Bed::new("a");
    let publisher = bed.publish(server.settings());
    bed.until_level(&publisher);
    assert!(bed.told(|notice| *notice == Notice::EvictingPolicy("allkeys-lru".to_owned())));
}

#[test]
fn over_tcp_too() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = Server::start(&["--port", &port.to_string(), "--bind", "127.0.0.1"]);
    let mut bed = Bed::new("a");
    bed.add(100);
    let mut settings = server.settings();
    settings.endpoint = Endpoint::Tcp { host: "localhost".to_owned(), port, tls: false };
    let publisher = bed.publish(settings);
    bed.until_level(&publisher);
    assert_once(&mut server.connection(), "a", 1, 100);
}
