use std::time::Duration;

use super::super::server::Limits;
use super::fixture::{Fixture, HOSTS, eventually};

const STREAM: &str = "/api/v1/events/stream";

#[test]
fn garbage_gets_no_further_than_its_connection() {
    let fixture = Fixture::new();
    let long = |prefix: &str, length: usize| [prefix.as_bytes(), &vec![b'a'; length]].concat();
    let many_headers = (0..200).map(|number| format!("x-{number}: y\r\n")).collect::<String>();
    let mut requests = vec![
        b"\0\0\0\0\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"GET /health HTTP/9.9\r\n\r\n".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        b"GET /health HTTP/1.1\r\nContent-Length: -5\r\n\r\n".to_vec(),
        b"POST /health HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n".to_vec(),
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_vec(),
        b"GET /api/v1/events?since=%ff%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_vec(),
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_vec(),
        format!("GET / HTTP/1.1\r\n{many_headers}\r\n").into_bytes(),
        long("GET /", 100_000),
        long("GET / HTTP/1.1\r\nx: ", 1_000_000),
        long("", 100_000),
    ];
    // A fixed generator, so that a failure is the same tomorrow.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for length in 0..200 {
        let bytes = (0..length).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        });
        requests.push(bytes.chain(*b"\r\n\r\n").collect());
    }
    for request in requests {
        let mut client = fixture.client();
        // The server may close before it has read all of it.
        let _ = client.send(&request);
        let _ = client.finish();
        let answer = client.rest();
        let shown = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || shown.starts_with("HTTP/1.1 4") || shown.starts_with("HTTP/1.0 4"),
            "{shown}"
        );
    }
    assert_eq!(fixture.get("/health").status, 200);
}

#[test]
fn only_who_asks_for_this_machine_is_answered() {
    let fixture = Fixture::new();
    let ask = |path: &str, hosts: &str| {
        let mut client = fixture.client();
        client.send(format!("GET {path} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n").as_bytes()).unwrap();
        client.answer()
    };
    for ours in [
        "localhost",
        "localhost:8080",
        "LocalHost.",
        "127.0.0.1:8080",
        "192.0.2.1",
        "[::1]:8080",
        "[fe80::1]",
        HOSTS[0],
        "EDGE-7:80",
        HOSTS[1],
        "Usb.Example.org.:443",
    ] {
        assert_eq!(ask("/health", &format!("Host: {ours}\r\n")).status, 200, "{ours}");
    }
    assert_eq!(ask("/health", "").status, 200);
    for theirs in [
        "attacker.example:8080",
        "localhost.attacker.example",
        "127.0.0.1.attacker.example",
        "edge-7.attacker.example",
        "example.org",
        "127.1",
        "[attacker.example]",
        "[::1",
        "a b",
        "",
    ] {
        for path in ["/", "/health", "/api/v1/devices", "/api/v1/events/stream", "/nothing"] {
            let answer = ask(path, &format!("Host: {theirs}\r\n"));
            assert!(answer.problem(403).contains(theirs), "{theirs} {path}");
            assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        }
    }
    assert_eq!(ask("/health", "Host: localhost\r\nHost: attacker.example\r\n").status, 403);
}

#[test]
fn bodies_are_not_read() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n").unwrap();
    let chunk = vec![b'a'; 64 * 1024];
    // It closes rather than take a gigabyte.
    assert!((0..16_000).any(|_| client.send(&chunk).is_err()));
    assert_eq!(fixture.get("/health").status, 200);
}

#[test]
fn who_does_not_finish_a_request_is_cut_off() {
    let limits = Limits { header_timeout: Duration::from_millis(200), ..Limits::DEFAULT };
    let fixture = Fixture::with(limits, 1000);
    for begun in ["", "G", "GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: "] {
        let mut client = fixture.client();
        client.send(begun.as_bytes()).unwrap();
        client.rest();
    }
    let mut idle = fixture.client();
    assert_eq!(idle.get("/", "").status, 200);
    assert_eq!(idle.rest(), b"", "an idle connection is not kept for ever");
    // A byte now and then does not help.
    let mut trickling = fixture.client();
    eventually("the slow one is cut off", || trickling.send(b"a").is_err());
}

#[test]
fn who_does_not_read_is_cut_off() {
    let limits = Limits { streams: 1, write_timeout: Duration::from_millis(200), ..Limits::DEFAULT };
    let mut fixture = Fixture::with(limits, 1_000_000);
    fixture.plug(10_000);
    let path = format!("{STREAM}?since=0");
    let follow = || {
        let mut client = fixture.client();
        client.send(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        client
    };
    let _deaf = follow();
    eventually("the deaf client takes the only place", || {
        fixture.client().follow(&path, "").err().is_some_and(|answer| answer.status == 503)
    });
    eventually("the place is free again", || fixture.client().follow(&path, "").is_ok());
}

#[test]
fn more_connections_than_there_may_be_wait() {
    let limits = Limits { connections: 2, ..Limits::DEFAULT };
    let fixture = Fixture::with(limits, 1000);
    let first = fixture.client().follow(STREAM, "").ok().unwrap();
    let second = fixture.client().follow(STREAM, "").ok().unwrap();
    let mut third = fixture.client();
    third.send(b"GET /health HTTP/1.0\r\n\r\n").unwrap();
    assert!(third.is_silent(Duration::from_millis(100)));
    drop(first);
    assert!(third.rest().starts_with(b"HTTP/1.0 200"));
    drop(second);
}
