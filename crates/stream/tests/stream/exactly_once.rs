//! In order and once, whatever is cut, asked twice or forgotten by the server.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use autoweave_usb_stream::{Endpoint, Notice, State};

use crate::bed::{Bed, assert_once, stop, stream};
use crate::server::{Server, until};

#[test]
fn every_event_arrives_once_and_in_order() {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    bed.add(2500);
    let publisher = bed.publish(server.settings());
    for _ in 0..50 {
        bed.add(7);
        publisher.wake();
    }
    bed.until_level(&publisher);
    bed.add(3);
    let status = stop(publisher);
    assert_eq!(
        (status.state, status.published_seq),
        (State::Stopped, Some(2853)),
        "a stop publishes what is there"
    );
    let again = bed.publish(server.settings());
    bed.add(10);
    bed.until_level(&again);
    let mut connection = server.connection();
    assert_once(&mut connection, "a", 1, 2863);
    let mark: String =
        redis::cmd("HGET").arg("{aw:hotplug}:seq").arg(bed.producer()).query(&mut connection).unwrap();
    assert!(mark.starts_with(&format!("2863 a{:020} ", 2863)), "{mark}");
    assert!(!bed.told(|notice| !matches!(notice, Notice::Up { .. })), "{:?}", bed.notices);
}

#[test]
fn a_commit_wakes_the_publisher() {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    let mut settings = server.settings();
    settings.interval = Duration::from_secs(3600);
    let publisher = bed.publish(settings);
    bed.until_level(&publisher);
    bed.add(1);
    bed.until_level(&publisher);
    assert_once(&mut server.connection(), "a", 1, 1);
}

#[test]
fn the_script_cache_may_be_emptied_at_any_time() {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    let publisher = bed.publish(server.settings());
    let mut connection = server.connection();
    for _ in 0..20 {
        bed.add(100);
        publisher.wake();
        redis::cmd("SCRIPT").arg("FLUSH").exec(&mut connection).unwrap();
        bed.until_level(&publisher);
    }
    assert_once(&mut connection, "a", 1, 2000);
    assert!(!bed.told(|notice| matches!(notice, Notice::Down(_))), "{:?}", bed.notices);
}

#[test]
fn what_cannot_be_read_keeps_its_number() {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    bed.add(1);
    let broken = autoweave_usb_journal::NewEvent { event_id: format!("a{:020}", 2), event: "{}".to_owned() };
    let commit = autoweave_usb_journal::Commit { first_seq: 2, events: vec![broken], ..Default::default() };
    bed.journal().commit(&commit).unwrap();
    bed.add(1);
    let publisher = bed.publish(server.settings());
    bed.until_level(&publisher);
    assert_once(&mut server.connection(), "a", 1, 3);
    assert!(bed.told(|notice| matches!(notice, Notice::Unreadable { seq: 2, .. })));
}

#[test]
fn a_rate_makes_events_wait_and_drops_none() {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    bed.add(150);
    let mut settings = server.settings();
    settings.max_events_per_second = 100.try_into().ok();
    let begin = Instant::now();
    let publisher = bed.publish(settings);
    bed.until_level(&publisher);
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(490), "a burst of 100, then 50 at 100 per second: {took:?}");
    assert_once(&mut server.connection(), "a", 1, 150);
}

#[test]
fn two_producers_share_a_stream() {
    let server = Server::start(&[]);
    let (mut a, mut b) = (Bed::new("a"), Bed::new("b"));
    a.add(500);
    b.add(500);
    let (first, second) = (a.publish(server.settings()), b.publish(server.settings()));
    a.until_level(&first);
    b.until_level(&second);
    let found = stream(&mut server.connection(), "aw:hotplug");
    for name in ["a", "b"] {
        let seqs: Vec<_> = found.iter().filter(|(_, id)| id.starts_with(name)).map(|(seq, _)| *seq).collect();
        assert_eq!(seqs, (1..=500).collect::<Vec<_>>(), "{name}");
    }
}

/// Passes bytes on until the connection has carried its share in either direction, then cuts it in the middle.
fn proxy(listen: &Path, server: &Path, cut_request: &Arc<AtomicUsize>, cut_reply: &Arc<AtomicUsize>) {
    let listener = UnixListener::bind(listen).unwrap();
    let (server, cut_request, cut_reply) = (server.to_owned(), cut_request.clone(), cut_reply.clone());
    thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(client) = client else { return };
            let Ok(upstream) = UnixStream::connect(&server) else { return };
            let (from, to) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
            let limit = cut_request.load(Ordering::SeqCst);
            let requests = thread::spawn(move || pass(from, to, limit));
            pass(upstream, client, cut_reply.load(Ordering::SeqCst));
            requests.join().unwrap();
        }
    });
}

fn pass(mut from: UnixStream, mut to: UnixStream, mut left: usize) {
    let mut buffer = [0; 4096];
    while left > 0 {
        let room = left.min(buffer.len());
        let Ok(count @ 1..) = from.read(&mut buffer[..room]) else { break };
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
        left -= count;
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn a_connection_cut_anywhere_neither_loses_nor_repeats() {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    let path = server.dir().join("proxy.sock");
    let (cut_request, cut_reply) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    proxy(&path, &server.socket(), &cut_request, &cut_reply);
    let mut settings = server.settings();
    settings.endpoint = Endpoint::Unix(path);
    let mut connection = server.connection();
    // A connection of 60 events is asked about 30,000 bytes and answers about 6,000, most of it to INFO.
    let requests = (0..40).map(|round| (20 + round * 650, usize::MAX));
    let replies = (0..40).map(|round| (usize::MAX, 4000 + round * 43));
    for (request_bytes, reply_bytes) in requests.chain(replies) {
        cut_request.store(request_bytes, Ordering::SeqCst);
        cut_reply.store(reply_bytes, Ordering::SeqCst);
        bed.add(60);
        let publisher = bed.publish(settings.clone());
        until("the connection was cut, or that did no harm", || {
            let status = publisher.status();
            status.errors_total > 0 || status.published_seq == Some(bed.last_seq())
        });
        cut_request.store(usize::MAX, Ordering::SeqCst);
        cut_reply.store(usize::MAX, Ordering::SeqCst);
        bed.until_level(&publisher);
        assert_eq!(stop(publisher).published_seq, Some(bed.last_seq()));
    }
    let cuts = bed.notices.lock().unwrap().iter().filter(|n| matches!(n, Notice::Down(_))).count();
    assert!(cuts >= 50, "only {cuts} of 80 publishers saw a cut");
    assert_once(&mut connection, "a", 1, bed.last_seq());
}

#[test]
fn connections_that_die_early_still_get_somewhere() {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    bed.add(40);
    let path = server.dir().join("proxy.sock");
    // Enough for the scripts and one call of ten events. All four calls are sent before the first answer is read.
    let (cut_request, cut_reply) =
        (Arc::new(AtomicUsize::new(16_000)), Arc::new(AtomicUsize::new(usize::MAX)));
    proxy(&path, &server.socket(), &cut_request, &cut_reply);
    let mut settings = server.settings();
    settings.endpoint = Endpoint::Unix(path);
    let publisher = bed.publish(settings);
    until("something is published", || publisher.published_seq() > Some(0));
    cut_request.store(usize::MAX, Ordering::SeqCst);
    bed.until_level(&publisher);
    assert_once(&mut server.connection(), "a", 1, 40);
}

#[test]
fn a_large_batch_is_one_call() {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    bed.add(10_000);
    let mut settings = server.settings();
    settings.batch_size = 5000.try_into().unwrap();
    settings.interval = Duration::from_secs(3600);
    let publisher = bed.publish(settings);
    bed.until_level(&publisher);
    let mut connection = server.connection();
    assert_once(&mut connection, "a", 1, 10_000);
    let info: String = redis::cmd("INFO").arg("commandstats").query(&mut connection).unwrap();
    let calls = info.split_once("cmdstat_evalsha:calls=").and_then(|(_, rest)| rest.split_once(','));
    let calls: u32 = calls.unwrap().0.parse().unwrap();
    assert!(calls < 15, "{calls} calls, 2 of them with events");
}
