use std::time::{Duration, Instant};

use super::super::server::Limits;
use super::client::Message;
use super::fixture::{Fixture, PATIENCE, append, device, event, serve};

const STREAM: &str = "/api/v1/events/stream";

fn message(seq: u64) -> Message {
    let event = event(seq);
    Message { id: seq, event: event.action.to_string(), data: serde_json::to_string(&event).unwrap() }
}

#[test]
fn a_new_client_hears_what_is_new() {
    let mut fixture = Fixture::new();
    fixture.plug(5);
    let mut client = fixture.client().follow(STREAM, "").ok().unwrap();
    fixture.plug(1);
    assert_eq!(client.message(), Some(message(6)));
    fixture.plug(40);
    for seq in 7..=46 {
        assert_eq!(client.message(), Some(message(seq)));
    }
}

#[test]
fn a_client_takes_up_right_behind_its_last_event() {
    let mut fixture = Fixture::new();
    fixture.plug(300);
    let starts = [
        (format!("{STREAM}?since=0"), "", 1),
        (format!("{STREAM}?since=299"), "", 300),
        (STREAM.to_owned(), "Last-Event-ID: 17\r\n", 18),
        // A browser that comes back: the header is newer than the address.
        (format!("{STREAM}?since=3"), "Last-Event-ID: 250\r\n", 251),
        (format!("{STREAM}?since=300"), "", 301),
    ];
    for (path, headers, first) in starts {
        let mut client = fixture.client().follow(&path, headers).ok().unwrap();
        let newest = fixture.journal.last_seq() + 2;
        fixture.plug(2);
        for seq in first..=newest {
            assert_eq!(client.message().map(|message| message.id), Some(seq), "{path} {headers}");
            if first == 301 && seq > 301 {
                break;
            }
        }
    }
}

#[test]
fn chunks_of_http_1_1_carry_whole_events() {
    let mut fixture = Fixture::new();
    fixture.plug(2);
    let mut client = fixture.client();
    client.send(format!("GET {STREAM}?since=1 HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
    let mut lines = Vec::new();
    while !lines.last().is_some_and(|line: &String| line.starts_with("data: ")) {
        lines.push(client.line().unwrap());
    }
    assert!(lines.iter().any(|line| line.eq_ignore_ascii_case("transfer-encoding: chunked")), "{lines:?}");
    assert!(lines.contains(&"id: 2".to_owned()), "{lines:?}");
}

#[test]
fn silence_is_broken_by_comments() {
    let limits = Limits { keep_alive: Duration::from_millis(20), ..Limits::DEFAULT };
    let mut fixture = Fixture::with(limits, 1000);
    let mut client = fixture.client().follow(STREAM, "").ok().unwrap();
    for _ in 0..3 {
        assert_eq!(client.line().unwrap(), ": keep-alive");
        assert_eq!(client.line().unwrap(), "");
    }
    fixture.plug(1);
    assert_eq!(client.message(), Some(message(1)));
}

#[test]
fn a_client_survives_restarts_without_a_gap_or_a_repeat() {
    const EVENTS: u64 = 3000;
    let Fixture { dir, monitor, mut journal, mut server } = Fixture::new();
    let writer = std::thread::spawn({
        let monitor = monitor.clone();
        move || {
            while journal.last_seq() < EVENTS {
                let count = 1 + journal.last_seq() % 7;
                let last_seq = append(&mut journal, count);
                monitor.committed(last_seq, [device(1)].iter());
            }
            journal
        }
    });
    let mut heard = 0;
    for stop_at in [1, 40, 700, 1500, EVENTS] {
        let last = format!("Last-Event-ID: {heard}\r\n");
        let mut client = super::client::Client::connect(server.address()).follow(STREAM, &last).ok().unwrap();
        while heard < stop_at {
            assert_eq!(client.message(), Some(message(heard + 1)));
            heard += 1;
        }
        server.stop(PATIENCE);
        // What was under way when it stopped.
        while let Some(message) = client.message() {
            assert_eq!(message.id, heard + 1);
            heard += 1;
        }
        server = serve(Limits::DEFAULT, &monitor, dir.path());
    }
    assert!(heard >= EVENTS);
    server.stop(PATIENCE);
    writer.join().unwrap().close().unwrap();
    assert!(!dir.path().join("journal.db-wal").exists(), "the server has let go of the journal");
}

#[test]
fn a_stop_ends_streams_at_an_event_and_waits_for_nobody() {
    let mut fixture = Fixture::new();
    fixture.plug(10);
    let mut follower = fixture.client().follow(&format!("{STREAM}?since=8"), "").ok().unwrap();
    assert_eq!(follower.message(), Some(message(9)));
    assert_eq!(follower.message(), Some(message(10)));
    let mut idle = fixture.client();
    assert_eq!(idle.get("/", "").status, 200);
    let mut deaf = fixture.client();
    deaf.send(b"GET /health HT").unwrap();
    // Connections are accepted in order: it is in conversation by now.
    assert_eq!(fixture.get("/").status, 200);
    let begin = Instant::now();
    let address = fixture.server.address();
    fixture.server.stop(Duration::from_millis(300));
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(follower.message(), None);
    assert_eq!((idle.rest(), deaf.rest().len()), (Vec::new(), 0));
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn a_stop_with_only_followers_takes_no_time() {
    let fixture = Fixture::new();
    let mut clients: Vec<_> = (0..20).map(|_| fixture.client().follow(STREAM, "").ok().unwrap()).collect();
    let begin = Instant::now();
    fixture.server.stop(PATIENCE);
    assert!(begin.elapsed() < PATIENCE / 2, "{:?}", begin.elapsed());
    for client in &mut clients {
        assert_eq!(client.message(), None);
    }
}
