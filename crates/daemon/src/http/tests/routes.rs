use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use autoweave_usb_device::SourceName;
use serde_json::json;

use super::super::server::Limits;
use super::super::status::SourceStatus;
use super::super::{Listener, Phase, Severity, ask_health};
use super::client::Client;
use super::fixture::{Fixture, PATIENCE, append, device, event, serve_for};

fn seqs(body: &serde_json::Value) -> Vec<u64> {
    body["events"].as_array().unwrap().iter().map(|event| event["seq"].as_u64().unwrap()).collect()
}

#[test]
fn every_route_answers_with_its_type_and_safe_headers() {
    let mut fixture = Fixture::new();
    fixture.monitor.update(|status| status.phase = Phase::Ready);
    fixture.plug(3);
    let mut client = fixture.client();
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/health", "application/json"),
        ("/ready", "application/json"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/api/v1/devices", "application/json"),
        ("/api/v1/events", "application/json"),
    ] {
        let answer = client.get(path, "");
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.headers["content-type"], kind, "{path}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert!(!answer.headers.keys().any(|name| name.starts_with("access-control")));
        assert!(!answer.body.is_empty());
        assert_eq!(client.ask("HEAD", path, "").status, 200, "{path}");
        let refused = client.ask("POST", path, "");
        assert!(refused.problem(405).contains("POST"));
        assert_eq!(refused.headers["allow"], "GET,HEAD");
    }
    assert!(client.get("/api/v2", "").problem(404).contains("/api/v2"));
    assert!(client.get("/health/", "").problem(404).contains("/health/"));
}

/// What the files of the page name as theirs: `from "./x.js"`, `src="/page/x.js"`, `href="/page/x.css"`.
fn named(text: &str) -> Vec<String> {
    let quoted = text.split(['"', '\'']).skip(1).step_by(2);
    let path = |name: &str| match name.strip_prefix("./") {
        Some(name) => format!("/page/{name}"),
        None => name.to_owned(),
    };
    quoted.map(path).filter(|path| path.starts_with("/page/")).collect()
}

#[test]
fn the_page_is_whole_and_asks_nobody_else() {
    let fixture = Fixture::new();
    let mut waiting = vec!["/".to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(path) = waiting.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let answer = fixture.get(&path);
        assert_eq!(answer.status, 200, "{path}");
        let policy = &answer.headers["content-security-policy"];
        for part in ["default-src 'none'", "script-src 'self'", "require-trusted-types-for 'script'"] {
            assert!(policy.split("; ").any(|found| found == part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        // SVG is known by its URL, and sources of meanings may be named.
        let others = answer.body.replace("http://www.w3.org/2000/svg", "").replace("(https://html.spec", "");
        assert!(!others.contains("http://") && !others.contains("https://"), "{path}");
        waiting.extend(named(&answer.body));
    }
    assert!(seen.contains("/page/style.css") && seen.contains("/page/words.js"), "{seen:?}");
    let index = fixture.get("/").body;
    assert!(!index.contains("<style") && !index.contains(" style=") && !index.contains(" on"), "{index}");
    let api = fixture.get("/api/v1/devices");
    assert_eq!(api.headers["content-security-policy"], "default-src 'none'; frame-ancestors 'none'");
}

#[test]
fn with_a_token_devices_and_events_are_for_those_who_know_it() {
    let mut fixture = Fixture::new();
    fixture.plug(1);
    let server = serve_for(Some("s3cret"), Limits::DEFAULT, &fixture.monitor, fixture.dir.path());
    let ask = |path: &str, headers: &str| Client::connect(server.address()).get(path, headers);
    for path in ["/", "/page/main.js", "/health", "/metrics"] {
        assert_eq!(ask(path, "").status, 200, "{path}");
    }
    let descriptors = "/api/v1/devices/1-1/descriptors";
    for path in ["/api/v1/devices", descriptors, "/api/v1/events", "/api/v1/events/stream"] {
        for wrong in [
            "",
            "Authorization: Bearer s3cre\r\n",
            "Authorization: Bearer s3cret2\r\n",
            "Authorization: x\r\n",
        ] {
            let answer = ask(path, wrong);
            assert!(answer.problem(401).contains("monitoring.token"), "{path} {wrong}");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
            assert!(!answer.body.contains("s3cret"));
        }
    }
    for right in ["Authorization: Bearer s3cret\r\n", "authorization: bearer s3cret\r\n"] {
        assert_eq!(ask("/api/v1/devices", right).status, 200);
        ask(descriptors, right).problem(404);
    }
    let follower = Client::connect(server.address());
    let path = "/api/v1/events/stream?since=0";
    assert_eq!(follower.follow(path, "Authorization: Bearer s3cret\r\n").unwrap().message().unwrap().id, 1);
    server.stop(PATIENCE);
}

#[cfg(target_os = "linux")]
#[test]
fn what_plugins_said_is_for_those_who_know_the_token() {
    let fixture = Fixture::new();
    let plugin = super::super::PluginStatus {
        name: "p".to_owned(),
        version: "1.0.0".to_owned(),
        state: super::super::RESTING,
        workers: 0,
        waiting: 1,
        done: 0,
        given_up: 0,
        failed: 0,
        crashes: 5,
        last_error: Some("it broke the protocol: \"SERIAL A17\"".to_owned()),
        durations: Vec::new(),
        bounds_us: &[],
        sum_us: 0,
    };
    fixture.monitor.set_plugins(Box::new(move || super::super::PluginsStatus {
        running: vec![plugin.clone()],
        refused: Vec::new(),
    }));
    let health = |token: Option<&str>, headers: &str| {
        let server = serve_for(token, Limits::DEFAULT, &fixture.monitor, fixture.dir.path());
        let health = Client::connect(server.address()).get("/health", headers).json();
        server.stop(PATIENCE);
        (health["reasons"][0].as_str().unwrap().to_owned(), health["plugins"][0]["last_error"].clone())
    };
    let all = (
        "plugin p: crashed too often, its events wait: it broke the protocol: \"SERIAL A17\"".to_owned(),
        json!("it broke the protocol: \"SERIAL A17\""),
    );
    assert_eq!(health(None, ""), all);
    assert_eq!(health(Some("s3cret"), "Authorization: Bearer s3cret\r\n"), all);
    let bare = ("plugin p: crashed too often, its events wait".to_owned(), serde_json::Value::Null);
    for headers in ["", "Authorization: Bearer s3cre\r\n"] {
        assert_eq!(health(Some("s3cret"), headers), bare, "{headers}");
    }
}

#[test]
fn health_is_200_until_it_fails() {
    let mut fixture = Fixture::new();
    fixture.plug(5);
    let health = |fixture: &Fixture| {
        let answer = fixture.get("/health");
        (answer.status, answer.json()["status"].as_str().unwrap().to_owned())
    };
    assert_eq!(health(&fixture), (200, "ok".to_owned()));
    fixture.monitor.update(|status| status.raise("stream", Severity::Degraded, "Redis is away".to_owned()));
    assert_eq!(health(&fixture), (200, "degraded".to_owned()));
    fixture.monitor.update(|status| status.raise("source", Severity::Failed, "none works".to_owned()));
    assert_eq!(health(&fixture), (503, "failed".to_owned()));
    let body = fixture.get("/health").json();
    assert_eq!(body["reasons"], json!(["source: none works", "stream: Redis is away"]));
    assert_eq!((&body["journal"]["last_seq"], &body["devices"]["connected"]), (&json!(5), &json!(2)));
    fixture.monitor.update(|status| {
        status.clear("source");
        status.clear("stream");
    });
    assert_eq!(health(&fixture), (200, "ok".to_owned()));
}

#[test]
fn it_is_ready_between_the_first_scan_and_the_stop() {
    let fixture = Fixture::new();
    assert!(fixture.get("/ready").problem(503).contains("first scan"));
    fixture.monitor.update(|status| status.phase = Phase::Ready);
    assert_eq!(fixture.get("/ready").status, 200);
    fixture.monitor.update(|status| status.raise("stream", Severity::Degraded, "no Redis".to_owned()));
    assert_eq!(fixture.get("/ready").status, 200);
    fixture.monitor.update(|status| status.raise("journal", Severity::Failed, "disk full".to_owned()));
    assert!(fixture.get("/ready").problem(503).contains("/health"));
    fixture.monitor.update(|status| status.clear("journal"));
    assert_eq!(fixture.get("/ready").status, 200);
    fixture.monitor.update(|status| status.phase = Phase::Stopping);
    assert!(fixture.get("/ready").problem(503).contains("stopping"));
}

#[test]
fn metrics_follow_the_events() {
    let mut fixture = Fixture::new();
    fixture.monitor.update(|status| {
        status.source = Some(SourceStatus { active: Some(SourceName::Uevent), failovers: 0, overruns: 2 });
        status.journal.unpublished = 4;
    });
    fixture.monitor.metrics.event(&event(1));
    fixture.monitor.metrics.acknowledged(Duration::from_micros(1500));
    fixture.plug(1);
    let text = fixture.get("/metrics").body;
    for line in [
        "usb_events_total{action=\"attach\",source=\"uevent\",reason=\"hotplug\"} 1",
        "usb_events_total{action=\"detach\",source=\"uevent\",reason=\"reconcile\"} 0",
        "usb_devices_connected 2",
        "usb_event_processing_duration_ms_count 1",
        "usb_event_processing_duration_ms_sum 1.500",
        "usb_events_filtered_total{rule=\"vendor_whitelist\"} 0",
        "usb_events_coalesced_total 0",
        "usb_source_overruns_total 2",
        "usb_source_failovers_total 0",
        "usb_source_active{source=\"uevent\"} 1",
        "usb_journal_unpublished 4",
        "usb_publish_errors_total 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(text.contains("\nprocess_resident_memory_bytes "));
}

#[test]
fn devices_are_those_of_the_last_commit() {
    let fixture = Fixture::new();
    assert_eq!(fixture.get("/api/v1/devices").json(), json!({"devices": [], "seq": 0}));
    let connected = [device(1), device(2), device(3)];
    fixture.monitor.committed(9, connected.iter());
    assert_eq!(fixture.get("/api/v1/devices").json(), json!({"devices": connected, "seq": 9}));
}

#[test]
fn descriptors_that_cannot_be_had_are_not_found() {
    let fixture = Fixture::new();
    // A root hub has address 1 on its bus, so that no machine has this one.
    fixture.monitor.committed(1, [device(1)].iter());
    let missing = |port: &str| fixture.get(&format!("/api/v1/devices/{port}/descriptors")).problem(404);
    let gone = missing("1-1");
    assert!(gone.contains("sysfs"), "{gone}");
    if cfg!(target_os = "linux") {
        assert!(gone.contains("the device at 1-1 has gone"), "{gone}");
    }
    assert_eq!(missing("1-2"), "no device is at 1-2; see /api/v1/devices");
    assert_eq!(missing("usb1"), "no device is at usb1; see /api/v1/devices");
    let malformed =
        ["1", "usb0", "1-01", "1-1:1.0", "1-1%2F..", "..%2F..%2Fetc", "1-1.2.3.4.5.6.7.8", "%00", "1-1%20"];
    for port in malformed {
        let detail = missing(port);
        assert!(detail.contains("expected a name such as 1-4.2 or usb1"), "{port}: {detail}");
    }
    assert!(missing("%ff").contains("UTF-8"));
    assert!(fixture.get("/api/v1/devices/1-1").problem(404).contains("/api/v1/devices/1-1"));
    let path = "/api/v1/devices/1-1/descriptors";
    assert!(fixture.client().ask("POST", path, "").problem(405).contains("POST"));
}

#[test]
fn events_are_paged_without_a_gap() {
    let mut fixture = Fixture::new();
    let empty = fixture.get("/api/v1/events").json();
    assert_eq!(empty, json!({"events": [], "next": 0}));
    append(&mut fixture.journal, 250);
    let mut client = fixture.client();
    let mut all = Vec::new();
    let mut path = "/api/v1/events".to_owned();
    loop {
        let page = client.get(&path, "").json();
        let found = seqs(&page);
        path = format!("/api/v1/events?since={}", page["next"]);
        if found.is_empty() {
            assert_eq!(page["next"], 250);
            break;
        }
        assert_eq!(page["next"], *found.last().unwrap());
        all.extend(found);
    }
    assert_eq!(all, (1..=250).collect::<Vec<_>>());
    let one = client.get("/api/v1/events?since=41&limit=1", "").json();
    assert_eq!(one, json!({"events": [event(42)], "next": 42}));
    for limit in [1, 15, 16, 17, 31, 32, 33, 249, 250, 251, 1000, 1001, usize::MAX] {
        let page = client.get(&format!("/api/v1/events?since=0&limit={limit}"), "").json();
        assert_eq!(seqs(&page), (1..=250).take(limit).collect::<Vec<_>>(), "limit {limit}");
    }
}

#[test]
fn a_position_that_is_not_in_the_log_is_gone() {
    let mut fixture = Fixture::with(Limits::DEFAULT, 10);
    for _ in 0..30 {
        append(&mut fixture.journal, 1);
    }
    let oldest = seqs(&fixture.get("/api/v1/events").json())[0];
    assert!(oldest > 1);
    let path = |since: u64| format!("/api/v1/events?since={since}");
    assert_eq!(seqs(&fixture.get(&path(oldest - 1)).json())[0], oldest);
    let detail = fixture.get(&path(oldest - 2)).problem(410);
    assert!(detail.contains(&format!("the oldest is {oldest}")), "{detail}");
    assert!(seqs(&fixture.get(&path(30)).json()).is_empty());
    fixture.get(&path(31)).problem(410);
    fixture.get(&path(u64::MAX)).problem(410);
    let follow = |headers: &str| fixture.client().follow("/api/v1/events/stream", headers);
    let gone = follow("Last-Event-ID: 3\r\n").err().unwrap();
    gone.problem(410);
    follow("Last-Event-ID: 18446744073709551615\r\n").err().unwrap().problem(410);
    let mut stream = follow(&format!("Last-Event-ID: {}\r\n", oldest - 1)).ok().unwrap();
    assert_eq!(stream.message().unwrap().id, oldest);
}

#[test]
fn what_makes_no_sense_is_a_bad_request() {
    let mut fixture = Fixture::new();
    fixture.plug(1);
    let mut client = fixture.client();
    for query in
        ["since=x", "since=-1", "since=1&since=2", "limit=0", "limit=-1", "limit=", "limits=5", "since=1.5"]
    {
        let detail = client.get(&format!("/api/v1/events?{query}"), "").problem(400);
        assert!(!detail.is_empty(), "{query}");
    }
    assert!(client.get("/api/v1/events?limits=5", "").problem(400).contains("limits"));
    client.get("/api/v1/events/stream?limit=5", "").problem(400);
    client.get("/api/v1/events/stream", "Last-Event-ID: abc\r\n").problem(400);
}

#[test]
fn without_a_journal_the_rest_answers_still() {
    let dir = tempfile::tempdir().unwrap();
    let monitor = std::sync::Arc::new(super::super::Monitor::new(super::super::Status::new(
        super::super::StreamKind::Embedded,
    )));
    let server = super::fixture::serve(Limits::DEFAULT, &monitor, &dir.path().join("none"));
    let mut client = Client::connect(server.address());
    assert!(client.get("/api/v1/events", "").problem(503).contains("there is no journal"));
    assert_eq!(client.get("/health", "").status, 200);
    // Once there is one, it is found.
    append(&mut super::fixture::journal(&dir.path().join("none"), 10), 1);
    assert_eq!(seqs(&client.get("/api/v1/events", "").json()), [1]);
}

#[test]
fn an_address_in_use_is_named_with_its_key() {
    let fixture = Fixture::new();
    let address = fixture.server.address();
    let message = Listener::bind(address).unwrap_err().to_string();
    assert!(message.contains(&address.to_string()), "{message}");
    assert!(message.contains("monitoring.healthcheck_port"), "{message}");
}

#[test]
fn health_can_be_asked_without_a_runtime() {
    let fixture = Fixture::new();
    let (status, body) = ask_health(fixture.server.address(), PATIENCE).unwrap();
    assert_eq!(status, 200);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&body).unwrap()["status"], "ok");
    fixture.monitor.update(|status| status.raise("journal", Severity::Failed, "closed".to_owned()));
    assert_eq!(ask_health(fixture.server.address(), PATIENCE).unwrap().0, 503);
}

fn speaker(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 512]);
        let _ = stream.write_all(answer);
        if answer.is_empty() {
            // Says nothing for as long as the other side waits.
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    address
}

#[test]
fn nobody_somebody_else_and_silence_are_told_apart() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = ask_health(free, PATIENCE).unwrap_err().to_string();
    assert!(nobody.contains("refused") && nobody.contains(&free.to_string()), "{nobody}");
    let other = ask_health(speaker(b"220 mail ESMTP\r\n"), PATIENCE).unwrap_err().to_string();
    assert!(other.contains("does not speak HTTP"), "{other}");
    let silent = ask_health(speaker(b""), Duration::from_millis(50)).unwrap_err().to_string();
    assert!(silent.contains("timed out"), "{silent}");
    let endless: &[u8] = Box::leak(vec![b'x'; 1 << 20].into_boxed_slice());
    let endless = ask_health(speaker(endless), PATIENCE).unwrap_err().to_string();
    assert!(endless.contains("does not end"), "{endless}");
}
