//! One trace is as long as an event's way.

use std::time::Duration;

use autoweave_usb_testbus::{Bus, Device};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::collector::{Collector, Manner, Rotel, Seen};
use crate::harness::{Daemon, StateDir, command, events, last_seq, wait_until};
use crate::http::answer;
use crate::plugins::bed::{Bed, pairs};
use crate::program::Running;
use crate::redis_server::{STREAM, Server, start_at};

const COUNT: &str = "usb_event_processing_duration_ms_count";
const SUM: &str = "usb_event_processing_duration_ms_sum";

fn bus() -> Bus {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    bus
}

fn exporting(url: &str) -> Vec<(String, String)> {
    let pairs = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "50"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec()
}

fn loader(bed: &Bed, server: &Server, url: &str) -> Running {
    let mut env = [bed.env(), exporting(url)].concat();
    let more = [("AUTOWEAVE_USB__MONITORING__HEALTHCHECK_PORT", "0"), ("OTEL_SERVICE_NAME", "elsewhere")];
    env.extend(more.map(|(key, value)| (key.to_owned(), value.to_owned())));
    env.push(("REDIS_URL".to_owned(), server.url()));
    let mut command = command(&pairs(&env));
    Running::start(command.args(["run", "--role", "plugins", "--state-dir"]).arg(bed.state.path()))
}

/// The trace and the span that an event carries.
fn origin(event: &Value) -> (String, String) {
    let traceparent = event["traceparent"].as_str().unwrap();
    let parts: Vec<&str> = traceparent.split('-').collect();
    assert_eq!((parts[0], parts[3]), ("00", "01"), "{traceparent}");
    (parts[1].to_owned(), parts[2].to_owned())
}

/// All but the first are children of the first, and in time.
fn assert_family(spans: &[Seen]) {
    let (root, others) = spans.split_first().unwrap();
    assert_eq!(root.parent, "", "{root:?}");
    for span in others {
        assert_eq!(span.parent, root.id, "{span:?}");
        assert!(span.begin >= root.begin && span.end >= span.begin, "{root:?} {span:?}");
    }
}

#[test]
fn a_trace_begins_at_the_microsecond() {
    let (mut bus, state, collector) = (bus(), StateDir::new(), Collector::start(Manner::Takes));
    let daemon = Daemon::start(&bus, &state, &pairs(&exporting(&collector.url())));
    for port in 1..=3 {
        bus.plug(&format!("1-{port}"), &Device::receiver()).unwrap();
    }
    daemon.wait_until("all are told", || last_seq(&state) == 4);
    let traces = events(&state).into_iter().map(|event| origin(&event).0);
    let begins: Vec<u64> =
        traces.map(|trace| collector.trace(&trace, &["usb attach"]).remove(0).begin).collect();
    // In nanoseconds; of four, one may be at a whole millisecond.
    assert!(begins.iter().filter(|begin| *begin % 1_000_000 != 0).count() >= 2, "{begins:?}");
    daemon.stop();
}

/// A sample of `/metrics`, whose labels are among the name.
fn sample(name: &str) -> Option<f64> {
    let metrics = answer("/metrics").1;
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn the_histogram_begins_at_the_microsecond_and_ends_with_the_commit() {
    let (mut bus, state, collector) = (bus(), StateDir::new(), Collector::start(Manner::Takes));
    let daemon = Daemon::start(&bus, &state, &pairs(&exporting(&collector.url())));
    daemon.wait_until("the root hub is counted", || sample(COUNT) == Some(1.0));
    let mut told = Vec::new();
    for count in 1..=40 {
        let before = sample(SUM).unwrap();
        if count % 2 == 1 {
            bus.plug("1-1", &Device::receiver()).unwrap();
        } else {
            bus.unplug("1-1").unwrap();
        }
        daemon.wait_until("it is counted", || sample(COUNT) == Some(f64::from(1 + count)));
        told.push(sample(SUM).unwrap() - before);
    }
    // However long that takes where there is much else to do, the trace says it too. From a timestamp's whole
    // milliseconds on, it would be half of one more on the average.
    let more = events(&state).into_iter().skip(1).zip(told).map(|(event, told)| {
        let root = format!("usb {}", event["action"].as_str().unwrap());
        let spans = collector.trace(&origin(&event).0, &[&root, "journal commit"]);
        let traced = spans[1].end - spans[0].begin;
        told - Duration::from_nanos(traced).as_secs_f64() * 1_000.0
    });
    let mut more: Vec<f64> = more.collect();
    more.sort_by(f64::total_cmp);
    assert!(more[0] > -0.002 && more[more.len() / 2] < 0.2, "{more:?}");
    daemon.stop();
}

#[test]
fn a_plugins_hooks_are_counted_alike_in_both_places_whatever_they_are_told_of() {
    let (mut bus, bed, collector) = (bus(), Bed::new(), Collector::start(Manner::Takes));
    bus.plug_silent("1-1", &Device::receiver()).unwrap();
    let env = [bed.env(), exporting(&collector.url())].concat();
    let daemon = Daemon::start(&bus, &bed.state, &pairs(&env));
    daemon.wait_until("both are told", || last_seq(&bed.state) == 2);
    // Of what is there when it starts, and of one more; of that, twice.
    bed.shell("late", "note; case $delivery,$reason in 1,hotplug) fail again;; *) ok;; esac");
    daemon.wait_until("it heard of both", || bed.heard("late").len() == 2);
    bus.plug("1-2", &Device::storage("A")).unwrap();
    let counted = || sample(r#"plugin_duration_ms_count{plugin="late"}"#);
    daemon.wait_until("all is counted", || counted() == Some(4.0));
    wait_until("as many are exported", || collector.count_of("plugin_duration_ms") == 4);
    daemon.stop();
}

#[test]
fn a_plugin_of_the_same_daemon_is_in_the_events_trace() {
    let (mut bus, bed) = (bus(), Bed::new());
    let collector = Collector::start(Manner::Takes);
    bed.shell("desk", "note; ok");
    let env = [bed.env(), exporting(&collector.url())].concat();
    let daemon = Daemon::start(&bus, &bed.state, &pairs(&env));
    daemon.wait_for_log("loaded");
    bus.plug("1-1", &Device::storage("A")).unwrap();
    daemon.wait_until("it is heard", || bed.heard("desk").len() == 2);
    let event = events(&bed.state).remove(1);
    let (trace, span) = origin(&event);
    let names = ["usb attach", "journal commit", "receive journal", "process journal", "settle journal"];
    let spans = collector.trace(&trace, &names);
    assert_eq!(spans[0].id, span);
    assert_family(&spans);
    assert!(spans.iter().all(|span| span.service == "autoweave-usb-daemon"));
    let process = &spans[3];
    assert_eq!(process.links, [(trace.clone(), span)]);
    assert_eq!(process.attributes["autoweave.plugin.name"], "desk");
    assert_eq!(process.attributes["autoweave.plugin.hook"], "onUSBAttach");
    assert_eq!(process.attributes["messaging.operation.type"], "process");
    assert_eq!(process.attributes["messaging.consumer.group.name"], "plugin-loader");
    // The log's line of the event is in the trace, too; others are in none.
    wait_until("the log is exported", || {
        collector.logs().iter().any(|(text, of)| text == "attach" && *of == trace)
    });
    assert!(collector.logs().iter().any(|(text, of)| text.starts_with("watching ") && of.is_empty()));
    // What /metrics shows is exported under the same names.
    for name in [
        "usb_events_total",
        "usb_devices_connected",
        "usb_event_processing_duration_ms",
        "plugin_events_total",
        "plugin_duration_ms",
        "process_resident_memory_bytes",
    ] {
        daemon.wait_until(&format!("{name} is exported"), || collector.metrics().contains(name));
    }
    daemon.stop();
}

#[test]
fn what_is_replayed_after_an_outage_and_a_plugin_elsewhere_are_in_the_events_trace() {
    let (mut bus, bed, state, mut server) = (bus(), Bed::new(), StateDir::new(), Server::start());
    let collector = Collector::start(Manner::Takes);
    // What a real collector takes is what the others get.
    let rotel = Rotel::start(&collector);
    let url = rotel.as_ref().map_or_else(|| collector.url(), Rotel::url);
    bed.shell("desk", "note; case $action in detach) fail broken;; *) ok;; esac");
    server.kill();
    let redis = ("REDIS_URL".to_owned(), server.url());
    let env = [exporting(&url), vec![redis]].concat();
    let daemon = start_at(&bus, &state, &pairs(&env));
    bus.plug("1-1", &Device::storage("A")).unwrap();
    bus.unplug("1-1").unwrap();
    daemon.wait_until("all is journaled", || events(&state).len() == 3);
    daemon.kill();
    server.restart();
    // Another process publishes it, and another one still runs the plugin.
    let daemon = start_at(&bus, &state, &pairs(&env));
    daemon.wait_until("all is published", || server.length() == 3);
    let loader = loader(&bed, &server, &url);
    let attach = events(&state).remove(1);
    let (trace, span) = origin(&attach);
    let field = server.entries()[1].iter().find(|(name, _)| name == "traceparent").unwrap().1.clone();
    assert_eq!(field, attach["traceparent"].as_str().unwrap());
    let names = ["publish aw:hotplug", "receive aw:hotplug", "process aw:hotplug", "settle aw:hotplug"];
    let spans = collector.trace(&trace, &names);
    for found in &spans {
        assert_eq!(found.parent, span, "{found:?}");
        assert_eq!(found.attributes["messaging.system"], "redis");
        assert_eq!(found.attributes["messaging.destination.name"], STREAM);
    }
    let services: Vec<&str> = spans.iter().map(|span| span.service.as_str()).collect();
    assert_eq!(services, ["autoweave-usb-daemon", "elsewhere", "elsewhere", "elsewhere"]);
    assert_eq!(spans[0].attributes["messaging.operation.type"], "publish");
    assert_eq!(spans[2].links, [(trace, span)]);
    assert!(!spans[2].is_error);
    // A hook that fails for good is an error in the trace of its own event.
    let (trace, _) = origin(&events(&state)[2]);
    let process = collector.trace(&trace, &["process aw:hotplug"]).remove(0);
    assert!(process.is_error);
    assert_eq!(process.attributes["autoweave.delivery"], "3");
    loader.end(Signal::SIGTERM).ok();
    daemon.stop();
}

#[test]
fn a_hostile_traceparent_of_another_program_is_harmless() {
    let (bus, bed, state, server) = (bus(), Bed::new(), StateDir::new(), Server::start());
    let collector = Collector::start(Manner::Takes);
    bed.shell("desk", "note; ok");
    let daemon = start_at(&bus, &state, &[("REDIS_URL", &server.url())]);
    daemon.wait_until("it is published", || server.length() == 1);
    daemon.stop();
    // Without an endpoint nothing is recorded, and the field is as empty as ever.
    let genuine = server.entries().remove(0);
    assert!(genuine.contains(&("traceparent".to_owned(), String::new())));
    let huge = "0".repeat(1 << 20);
    let hostile =
        ["00-", "\x1b]0;x\x07\r\n", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", &huge];
    for (number, traceparent) in hostile.iter().enumerate() {
        let mut add = redis::cmd("XADD");
        add.arg(STREAM).arg("*");
        for (name, value) in &genuine {
            let value = match name.as_str() {
                "traceparent" => (*traceparent).to_owned(),
                "event_id" => format!("hostile {number}"),
                "seq" => (number + 2).to_string(),
                _ => value.clone(),
            };
            add.arg(name).arg(value);
        }
        add.exec(&mut server.connect().unwrap()).unwrap();
    }
    let loader = loader(&bed, &server, &collector.url());
    wait_until("all is heard", || bed.heard("desk").len() == 1 + hostile.len());
    let processed = || collector.spans().into_iter().filter(|span| span.name == "process aw:hotplug");
    wait_until("all is recorded", || processed().count() == 1 + hostile.len());
    assert!(processed().all(|span| span.parent.is_empty() && span.links.is_empty()));
    loader.end(Signal::SIGTERM).ok();
}
