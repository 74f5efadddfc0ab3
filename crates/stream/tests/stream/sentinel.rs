//! A master, its replica and three sentinels: failovers, and sentinels that are of no help.

use std::fs;
use std::ops::ControlFlow;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use autoweave_usb_stream::{
    Consumer, Endpoint, Failure, Member, Notice, Password, Secret, Settings, Sharing, StreamReader, probe,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::bed::{Bed, assert_once, stream};
use crate::server::{Server, ask, free_ports, until};

pub struct Sentinel {
    child: Child,
    port: u16,
    _dir: TempDir,
}

struct Watched {
    servers: [Server; 2],
    ports: [u16; 2],
    sentinels: [Sentinel; 3],
}

impl Sentinel {
    /// Watches the master at `master`, which is `HOST PORT`.
    pub fn start(port: u16, master: &str, more: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor mymaster {master} 2\n\
             sentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 4000\n{more}",
            dir.path().display()
        );
        fs::write(&file, text).unwrap();
        let mut command = Command::new("redis-server");
        command.arg(file).arg("--sentinel").stdout(Stdio::null()).stderr(Stdio::null());
        Self { child: command.spawn().unwrap(), port, _dir: dir }
    }

    fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        redis::cmd("SENTINEL").arg(words).query(&mut client.get_connection()?)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Watched {
    fn start() -> Self {
        let watched = Self::start_with(&[], "");
        until("the replica follows", || watched.info(1).contains("master_link_status:up"));
        until("the sentinels know each other and the replica", || {
            watched.sentinels.iter().all(|sentinel| {
                let quorum = sentinel.ask::<String>(&["CKQUORUM", "mymaster"]);
                let replicas = sentinel.ask::<Vec<redis::Value>>(&["REPLICAS", "mymaster"]);
                quorum.is_ok_and(|text| text.starts_with("OK 3 ")) && replicas.is_ok_and(|all| all.len() == 1)
            })
        });
        watched
    }

    fn start_with(arguments: &[&str], sentinel_lines: &str) -> Self {
        let [master, replica, a, b, c] = free_ports();
        let start = |port: u16, more: &[&str]| {
            let port = port.to_string();
            let own = ["--port", &port, "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0"]
                .map(str::to_owned);
            let all: Vec<&str> = own
                .iter()
                .map(String::as_str)
                .chain(arguments.iter().copied())
                .chain(more.iter().copied())
                .collect();
            Server::start(&all)
        };
        Self {
            servers: [start(master, &[]), start(replica, &["--replicaof", "127.0.0.1", &master.to_string()])],
            ports: [master, replica],
            sentinels: [a, b, c]
                .map(|port| Sentinel::start(port, &format!("127.0.0.1 {master}"), sentinel_lines)),
        }
    }

    fn settings(&self) -> Settings {
        let sentinels = self.sentinels.iter().map(|sentinel| ("127.0.0.1".to_owned(), sentinel.port));
        Settings { endpoint: named("mymaster", sentinels.collect()), ..self.servers[0].settings() }
    }

    /// Empty where a sentinel cuts the connection off, as it does when it changes a server's role.
    fn info(&self, server: usize) -> String {
        let client =
            redis::Client::open(format!("unix://{}", self.servers[server].socket().display())).unwrap();
        let info = |mut connection| redis::cmd("INFO").arg("replication").query(&mut connection);
        client.get_connection().and_then(info).unwrap_or_default()
    }

    fn is_master(&self, server: usize) -> bool {
        self.info(server).contains("role:master")
    }

    /// What the master acknowledges from now on dies with it.
    fn cut_the_replica_off(&self) {
        ask::<()>(&self.servers[1], &["CONFIG", "SET", "masterauth", "wrong"]);
        ask::<()>(&self.servers[0], &["CLIENT", "KILL", "TYPE", "replica"]);
        until("the replica is cut off", || self.info(1).contains("master_link_status:down"));
    }
}

fn named(master: &str, sentinels: Vec<(String, u16)>) -> Endpoint {
    Endpoint::Sentinel { sentinels, master: master.to_owned(), tls: false }
}

pub fn consumer(settings: &Settings) -> Consumer {
    let member = Member {
        group: "g".to_owned(),
        consumer: "c".to_owned(),
        max_deliveries: 3,
        sharing: Sharing::MinIdle(Duration::from_secs(60)),
    };
    Consumer::redis(settings.clone(), member, Arc::new(|_| {}))
}

/// Settles what comes until it is event `last`; the numbers, each where it came first.
pub fn consume(consumer: &mut Consumer, seen: &mut Vec<u64>, last: u64) {
    until("a consumer has seen all", || {
        for delivery in consumer.deliveries.next(100, Duration::from_millis(100)) {
            let seq = delivery.event.as_ref().unwrap().seq;
            if !seen.contains(&seq) {
                seen.push(seq);
            }
            assert_eq!(consumer.settlements.settle(&delivery, &[], &|| false), ControlFlow::Continue(()));
        }
        seen.last() == Some(&last)
    });
}

#[test]
fn what_a_failover_lost_is_in_the_new_master_once_and_in_order() {
    let mut watched = Watched::start();
    let settings = watched.settings();
    let mut bed = Bed::new("a");
    let publisher = bed.publish(settings.clone());
    let (mut consumer, mut seen) = (consumer(&settings), Vec::new());
    bed.add(1000);
    bed.until_level(&publisher);
    consume(&mut consumer, &mut seen, 1000);
    until("the replica has them", || {
        stream(&mut watched.servers[1].connection(), "aw:hotplug").len() == 1000
    });
    watched.cut_the_replica_off();
    bed.add(500);
    bed.until_level(&publisher);
    watched.servers[0].kill();
    bed.add(100);
    publisher.wake();
    until("the replica is promoted", || watched.is_master(1));
    bed.until_level(&publisher);
    assert_once(&mut watched.servers[1].connection(), "a", 1, 1600);
    assert!(bed.told(|notice| matches!(notice, Notice::Replaying { from: 1001, .. })), "{:?}", bed.notices);
    assert!(matches!(bed.failures()[..], [Failure::Unreachable(_)]), "told once: {:?}", bed.notices);
    consume(&mut consumer, &mut seen, 1600);
    assert_eq!(seen, (1..=1600).collect::<Vec<_>>());
    let mut reader = StreamReader::connect(&settings).unwrap();
    assert_eq!(reader.newest(None, 1).unwrap()[0].get("seq"), Some("1600"));
}

#[test]
fn a_failover_while_events_flow_and_both_servers_stay_up() {
    let watched = Watched::start();
    let mut bed = Bed::new("a");
    let publisher = bed.publish(watched.settings());
    watched.sentinels[0].ask::<()>(&["FAILOVER", "mymaster"]).unwrap();
    until("the roles are changed", || {
        bed.add(1);
        publisher.wake();
        watched.is_master(1) && watched.info(0).contains("role:slave")
    });
    let mut connection = watched.servers[1].connection();
    until("the new master has all", || stream(&mut connection, "aw:hotplug").len() as u64 == bed.last_seq());
    bed.until_level(&publisher);
    assert_once(&mut connection, "a", 1, bed.last_seq());
}

#[test]
fn sentinels_that_are_gone_or_asleep_are_passed_over() {
    let watched = Watched::start();
    let [nobody] = free_ports();
    watched.sentinels[0].signal(Signal::SIGSTOP);
    let localhost = |port| ("127.0.0.1".to_owned(), port);
    let sentinels = vec![
        localhost(nobody),
        localhost(watched.sentinels[0].port),
        localhost(watched.ports[0]),
        localhost(watched.sentinels[1].port),
    ];
    let mut settings = watched.settings();
    settings.endpoint = named("mymaster", sentinels.clone());
    let begin = Instant::now();
    assert_eq!(probe(&settings).unwrap().address, format!("127.0.0.1:{}", watched.ports[0]));
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    settings.endpoint = named("other", sentinels);
    let Err(Failure::Unreachable(why)) = probe(&settings) else { panic!() };
    for part in ["refused", "no answer within 500 ms", "unknown command", "knows no master other"] {
        assert!(why.contains(part), "{part}: {why}");
    }
}

#[test]
fn a_server_that_is_no_master_is_not_taken_for_one() {
    let watched = Watched::start();
    ask::<()>(&watched.servers[1], &["REPLICAOF", "NO", "ONE"]);
    ask::<()>(&watched.servers[0], &["REPLICAOF", "127.0.0.1", &watched.ports[1].to_string()]);
    let failure = probe(&watched.settings());
    let Err(Failure::Unreachable(why)) = &failure else { panic!("{failure:?}") };
    assert!(why.contains("its role is replica"), "{why}");
    assert_eq!(why.matches(" names ").count(), 1, "one server is tried once: {why}");
}

#[test]
fn sentinels_that_ask_for_a_password_get_the_servers() {
    let watched = Watched::start_with(
        &["--requirepass", "pw", "--masterauth", "pw"],
        "requirepass pw\nsentinel auth-pass mymaster pw\n",
    );
    let mut settings = watched.settings();
    until("a sentinel listens", || {
        std::net::TcpStream::connect(("127.0.0.1", watched.sentinels[0].port)).is_ok()
    });
    let Err(Failure::Unreachable(why)) = probe(&settings) else { panic!() };
    assert!(why.contains("NOAUTH"), "{why}");
    settings.password = Some(Password::Inline(Secret::new("pw".to_owned())));
    assert_eq!(probe(&settings).unwrap().address, format!("127.0.0.1:{}", watched.ports[0]));
}
