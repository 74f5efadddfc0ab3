//! A collector that is not there, or does not answer, costs a word in the log and nothing else.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use autoweave_usb_testbus::{Bus, Device};

use super::collector::{Collector, Manner};
use crate::harness::{Daemon, QUICK, StateDir, events, last_seq};
use crate::invariants::check;

/// What a test machine may need beyond a limit, with others at work on it.
const SLACK: Duration = Duration::from_secs(4);

const FAILING: &str = "telemetry does not reach the collector";

const CYCLES: u32 = 200;

fn bus() -> Bus {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    bus.plug("1-1", &Device::storage("A")).unwrap();
    bus
}

/// A daemon with short queues; two events are there at the start.
fn start(bus: &Bus, state: &StateDir, url: &str) -> Daemon {
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "64"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "64"),
        ("AUTOWEAVE_USB__PERFORMANCE__SHUTDOWN_TIMEOUT_MS", "1000"),
    ];
    Daemon::start(bus, state, &[QUICK, &env].concat())
}

fn cycle(bus: &mut Bus, daemon: &Daemon, state: &StateDir) {
    let edges = bus.cycle(&["1-1"], CYCLES).unwrap();
    daemon.wait_until("every edge is journaled", || last_seq(state) == 2 + edges);
}

#[test]
fn an_unreachable_collector_costs_a_warning_and_is_found_again() {
    let (mut bus, state) = (bus(), StateDir::new());
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let daemon = start(&bus, &state, &format!("http://{address}"));
    daemon.wait_for_log(FAILING);
    cycle(&mut bus, &daemon, &state);
    let collector = Collector::start_at(address, Manner::Takes);
    daemon.wait_for_log("telemetry reaches the collector again");
    daemon.wait_until("it gets spans again", || {
        bus.cycle(&["1-1"], 1).unwrap();
        !collector.spans().is_empty()
    });
    // What is said of the collector is not for the collector.
    assert!(collector.logs().iter().all(|(text, _)| !text.contains("telemetry")), "{:?}", collector.logs());
    check(&events(&state));
    let log = daemon.stop();
    assert_eq!(log.matches(FAILING).count(), 1, "{log}");
    assert!(log.contains("failed="), "{log}");
}

#[test]
fn a_collector_that_never_answers_holds_up_neither_events_nor_the_end() {
    let (mut bus, state) = (bus(), StateDir::new());
    let collector = Collector::start(Manner::Hangs);
    let daemon = start(&bus, &state, &collector.url());
    daemon.wait_until("it waits for the collector", || collector.requests() > 0);
    cycle(&mut bus, &daemon, &state);
    let begin = Instant::now();
    let log = daemon.stop();
    assert!(begin.elapsed() < Duration::from_secs(1) + SLACK, "{:?}", begin.elapsed());
    assert!(log.contains("telemetry was dropped"), "{log}");
    check(&events(&state));
}

#[test]
fn without_an_endpoint_nothing_of_it_is_there() {
    let (mut bus, state) = (bus(), StateDir::new());
    for env in
        [&[][..], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"), ("OTEL_SDK_DISABLED", "true")]]
    {
        let daemon = Daemon::start(&bus, &state, &[QUICK, env].concat());
        bus.cycle(&["1-1"], 1).unwrap();
        let tasks = fs::read_dir(format!("/proc/{}/task", daemon.daemon_pid())).unwrap();
        let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
        let names: Vec<String> = names.collect();
        assert!(names.iter().all(|name| !name.contains("OpenTelemetry")), "{names:?}");
        let log = daemon.stop();
        assert!(!log.contains("OTLP"), "{log}");
    }
    assert!(events(&state).iter().all(|event| event.get("traceparent").is_none()));
}

#[test]
fn an_endpoint_that_is_none_is_refused() {
    for url in ["collector:4317", "http://", "ftp://collector"] {
        let env = [("OTEL_EXPORTER_OTLP_ENDPOINT", url)];
        let refused = crate::program::finish(crate::harness::command(&env).arg("run"));
        refused.fails(64, &["OTEL_EXPORTER_OTLP_ENDPOINT", "http://"]);
    }
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "127.0.0.1:4318"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "99999999999"),
        ("OTEL_BSP_SCHEDULE_DELAY", "0"),
    ] {
        let env = [endpoint, (name, value)];
        crate::program::finish(crate::harness::command(&env).arg("run")).fails(64, &[name, "expected"]);
    }
}

#[test]
fn what_has_no_effect_and_what_is_lost_is_told() {
    let (bus, state) = (bus(), StateDir::new());
    let ignored = [("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"), ("OTEL_LOGS_EXPORTER", "console")];
    let env = [QUICK, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")], &ignored].concat();
    let daemon = Daemon::start(&bus, &state, &env);
    daemon.wait_until("what no collector got is counted", || {
        let metrics = crate::http::answer("/metrics").1;
        let lost =
            metrics.lines().find_map(|line| line.strip_prefix("usb_telemetry_lost_total{kind=\"records\"} "));
        lost.is_some_and(|lost| lost != "0")
    });
    let log = daemon.stop();
    for (name, value) in ignored {
        assert!(log.contains(&format!("{name}: {value:?} has no effect")), "{log}");
    }
}
