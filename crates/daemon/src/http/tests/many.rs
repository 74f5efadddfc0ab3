use std::time::Instant;

use super::super::server::Limits;
use super::client::Client;
use super::fixture::{Fixture, event, eventually};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

const CLIENTS: usize = 1000;
/// Each takes some 200 KB first, which the kernel keeps.
const STUCK: usize = 200;
const STREAM: &str = "/api/v1/events/stream";

fn resident_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Both ends of each connection are in this process.
fn allow_files() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = CLIENTS as u64 * 2 + 512;
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).unwrap();
    }
}

fn follow_all(fixture: &Fixture, count: usize, path: &str) -> Vec<Client> {
    (0..count).map(|_| fixture.client().follow(path, "").ok().unwrap()).collect()
}

#[test]
fn a_thousand_clients_follow_at_once() {
    allow_files();
    let mut fixture = Fixture::new();
    fixture.plug(1);
    assert_eq!(fixture.get("/api/v1/events").status, 200);
    let before = resident_kib();
    let mut clients = follow_all(&fixture, CLIENTS, STREAM);
    let kib = resident_kib() - before;
    let refused = fixture.client().follow(STREAM, "").err().unwrap();
    refused.problem(503);
    assert_eq!(fixture.get("/health").status, 200, "there is room to ask for the health");
    let begin = Instant::now();
    for seq in 2..=21 {
        fixture.plug(1);
        for client in &mut clients {
            let message = client.message().unwrap();
            assert_eq!((message.id, message.event), (seq, event(seq).action.to_string()));
        }
    }
    let elapsed = begin.elapsed() / 20;
    println!(
        "{CLIENTS} clients take {kib} KiB, {} KiB each; an event reaches all in {elapsed:?}",
        kib / 1000
    );
    assert!(kib < 32 * 1024, "{kib} KiB");
    let grown = resident_kib() - before;
    println!("after 20 events: {grown} KiB");
    assert!(grown < 40 * 1024, "{grown} KiB");
}

#[test]
fn clients_that_do_not_read_are_bounded() {
    allow_files();
    let mut fixture = Fixture::with(Limits::DEFAULT, 1_000_000);
    fixture.plug(5000);
    assert_eq!(fixture.get("/api/v1/events").status, 200);
    let before = resident_kib();
    let clients = follow_all(&fixture, STUCK, &format!("{STREAM}?since=0"));
    // All have filled what the kernel takes when the server's thread has nothing to do any more.
    let mut busy = thread_ticks("http");
    let mut quiet_since = Instant::now();
    eventually("all are stuck", || {
        let now = thread_ticks("http");
        if now != busy {
            (busy, quiet_since) = (now, Instant::now());
        }
        quiet_since.elapsed() > std::time::Duration::from_millis(300)
    });
    let kib = resident_kib() - before;
    println!("{STUCK} stuck clients take {kib} KiB, {} KiB each", kib / STUCK as i64);
    assert!(kib < 64 * STUCK as i64, "{kib} KiB");
    let health = Instant::now();
    assert_eq!(fixture.get("/health").status, 200);
    println!("/health answers after {:?}", health.elapsed());
    drop(clients);
}

/// CPU time of all threads of this process with that name, proc_pid_stat(5), in clock ticks.
fn thread_ticks(name: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    stats
        .filter(|stat| stat.contains(&format!("({name})")))
        .map(|stat| {
            let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        })
        .sum()
}
