//! What `/metrics` says: the counters, and what follows from the status and the device table.

use std::sync::atomic::{AtomicU64, Ordering};

use autoweave_usb_device::Rule;

use super::counters::{BUCKETS_US, Histogram};
use super::monitor::Monitor;
use super::process;
use super::status::{PluginStatus, RESTING, SourceStatus, StreamState};
use super::text::Text;

/// The body of `/metrics`.
pub fn render(monitor: &Monitor) -> String {
    let metrics = &monitor.metrics;
    let (source, unpublished, stream) =
        monitor.look(|status| (status.source, status.journal.unpublished, status.stream.state));
    let mut text = Text(String::with_capacity(6 * 1024));
    text.family("usb_events_total", "counter", "Events written to the journal.");
    for ([action, source, reason], count) in metrics.events_with(source.and_then(|source| source.active)) {
        let labels = format!("{{action=\"{action}\",source=\"{source}\",reason=\"{reason}\"}}");
        text.sample("usb_events_total", &labels, count);
    }
    text.single("usb_devices_connected", "gauge", "Connected devices.", monitor.snapshot().devices.len());
    metrics.processing.render(&mut text);
    text.family("usb_events_filtered_total", "counter", "Edges hidden by a filter.");
    for (rule, count) in Rule::ALL.iter().zip(&metrics.filtered) {
        text.sample("usb_events_filtered_total", &format!("{{rule=\"{rule}\"}}"), read(count));
    }
    let coalesced = read(&metrics.coalesced);
    text.single(
        "usb_events_coalesced_total",
        "counter",
        "Edges joined with others into an event.",
        coalesced,
    );
    if let Some(source) = source {
        sources(source, &mut text);
    }
    text.single("usb_journal_unpublished", "gauge", "Events the stream has not acknowledged.", unpublished);
    let help = "1 while the stream takes events, as the journal always does where it is the stream.";
    text.family("usb_stream_up", "gauge", help);
    // Before the first connection nobody knows; a loader of plugins that stands by makes none.
    if stream != StreamState::Connecting {
        text.sample("usb_stream_up", "", u8::from(stream == StreamState::Up));
    }
    let help = "How often the stream refused an event or did not answer.";
    text.single("usb_publish_errors_total", "counter", help, read(&metrics.publish_errors));
    plugins(&monitor.plugins().running, read(&metrics.plugin_events_lost), &mut text);
    if let Some(lost) = monitor.recorder.lost() {
        let help = "Spans, and records of the log, that no collector got.";
        text.family("usb_telemetry_lost_total", "counter", help);
        for (kind, count) in lost {
            text.sample("usb_telemetry_lost_total", &format!("{{kind=\"{kind}\"}}"), count);
        }
    }
    process::render(&mut text);
    text.0
}

fn sources(status: SourceStatus, text: &mut Text) {
    let help = "How often the operating system dropped messages; each leads to a scan.";
    text.single("usb_source_overruns_total", "counter", help, status.overruns);
    let help = "How often another source had to take over.";
    text.single("usb_source_failovers_total", "counter", help, status.failovers);
    text.family("usb_source_active", "gauge", "The source in use.");
    if let Some(active) = status.active {
        text.sample("usb_source_active", &format!("{{source=\"{active}\"}}"), 1);
    }
}

fn plugins(plugins: &[PluginStatus], lost: u64, text: &mut Text) {
    text.single("plugin_events_lost_total", "counter", "Events removed before plugins heard of them.", lost);
    let help = "Events a plugin is done with, gave up, or failed at (and may have got again).";
    text.family("plugin_events_total", "counter", help);
    for plugin in plugins {
        let outcomes = [("done", plugin.done), ("given_up", plugin.given_up), ("failed", plugin.failed)];
        for (outcome, count) in outcomes {
            let labels = format!("{{plugin=\"{}\",outcome=\"{outcome}\"}}", plugin.name);
            text.sample("plugin_events_total", &labels, count);
        }
    }
    text.family("plugin_restarts_total", "counter", "Workers that crashed, hung or broke the protocol.");
    for plugin in plugins {
        text.sample("plugin_restarts_total", &format!("{{plugin=\"{}\"}}", plugin.name), plugin.crashes);
    }
    text.family("plugin_breaker_open", "gauge", "1 for a plugin that crashed too often and rests.");
    for plugin in plugins {
        let is_open = u8::from(plugin.state == RESTING);
        text.sample("plugin_breaker_open", &format!("{{plugin=\"{}\"}}", plugin.name), is_open);
    }
    text.family("plugin_duration_ms", "histogram", "From an event's delivery to the plugin's answer, in ms.");
    for plugin in plugins {
        let bounds = plugin.bounds_us.iter().map(in_ms).chain(["+Inf".to_owned()]);
        let mut count = 0;
        for (bound, bucket) in bounds.zip(&plugin.durations) {
            count += bucket;
            let labels = format!("{{plugin=\"{}\",le=\"{bound}\"}}", plugin.name);
            text.sample("plugin_duration_ms_bucket", &labels, count);
        }
        let label = format!("{{plugin=\"{}\"}}", plugin.name);
        let sum = format_args!("{}.{:03}", plugin.sum_us / 1_000, plugin.sum_us % 1_000).to_string();
        text.sample("plugin_duration_ms_sum", &label, sum);
        text.sample("plugin_duration_ms_count", &label, count);
    }
}

impl Histogram {
    fn render(&self, text: &mut Text) {
        let name = "usb_event_processing_duration_ms";
        text.family(name, "histogram", "From the observation of an event to its acknowledgement, in ms.");
        let bounds = BUCKETS_US.iter().map(in_ms).chain(["+Inf".to_owned()]);
        let mut count = 0;
        for (bound, bucket) in bounds.zip(&self.buckets) {
            count += read(bucket);
            text.sample(name, &format!("_bucket{{le=\"{bound}\"}}"), count);
        }
        let sum_us = read(&self.sum_us);
        text.sample(name, "_sum", format_args!("{}.{:03}", sum_us / 1_000, sum_us % 1_000));
        text.sample(name, "_count", count);
    }
}

/// A bound of a histogram, from microseconds.
fn in_ms(bound_us: &u32) -> String {
    (f64::from(*bound_us) / 1_000.0).to_string()
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use autoweave_usb_device::{SourceName, Tallies};

    use super::super::status::{Status, StreamKind};
    use super::*;

    fn lines(monitor: &Monitor, prefix: &str) -> Vec<String> {
        render(monitor).lines().filter(|line| line.starts_with(prefix)).map(str::to_owned).collect()
    }

    #[test]
    fn durations_fall_into_the_bucket_that_bounds_them() {
        let monitor = Monitor::new(Status::new(StreamKind::Embedded));
        for micros in [0, 1_000, 1_001, 60_000_000, 60_000_001] {
            monitor.metrics.acknowledged(Duration::from_micros(micros));
        }
        let histogram = lines(&monitor, "usb_event_processing_duration_ms");
        let has = |line: &str| histogram.iter().any(|found| found == line);
        assert!(has("usb_event_processing_duration_ms_bucket{le=\"0.1\"} 1"), "{histogram:#?}");
        assert!(has("usb_event_processing_duration_ms_bucket{le=\"1\"} 2"), "{histogram:#?}");
        assert!(has("usb_event_processing_duration_ms_bucket{le=\"2.5\"} 3"), "{histogram:#?}");
        assert!(has("usb_event_processing_duration_ms_bucket{le=\"10000\"} 3"), "{histogram:#?}");
        assert!(has("usb_event_processing_duration_ms_bucket{le=\"60000\"} 4"), "{histogram:#?}");
        assert!(has("usb_event_processing_duration_ms_bucket{le=\"+Inf\"} 5"), "{histogram:#?}");
        assert!(has("usb_event_processing_duration_ms_sum 120002.002"), "{histogram:#?}");
        assert!(has("usb_event_processing_duration_ms_count 5"), "{histogram:#?}");
    }

    fn in_use(source: SourceName) -> SourceStatus {
        SourceStatus { active: Some(source), ..SourceStatus::default() }
    }

    #[test]
    fn who_has_no_source_by_design_has_no_family_of_it() {
        let daemon = Monitor::new(Status::new(StreamKind::Redis));
        assert_eq!(lines(&daemon, "usb_source_failovers_total").len(), 1);
        let loader = Monitor::new(Status::of_loader());
        assert!(!render(&loader).contains("usb_source_"));
    }

    #[test]
    fn the_stream_is_up_while_it_takes_events() {
        let monitor = Monitor::new(Status::new(StreamKind::Embedded));
        assert_eq!(lines(&monitor, "usb_stream_up"), ["usb_stream_up 1"]);
        let monitor = Monitor::new(Status::new(StreamKind::Redis));
        assert!(lines(&monitor, "usb_stream_up").is_empty());
        for (state, up) in [(StreamState::Up, 1), (StreamState::Down, 0)] {
            monitor.update(|status| status.stream.state = state);
            assert_eq!(lines(&monitor, "usb_stream_up"), [format!("usb_stream_up {up}")]);
        }
    }

    #[test]
    fn the_series_of_the_active_source_begin_at_zero() {
        let monitor = Monitor::new(Status::new(StreamKind::Embedded));
        assert!(lines(&monitor, "usb_events_total").is_empty());
        assert!(lines(&monitor, "usb_source_active").is_empty());
        monitor.update(|status| status.source = Some(in_use(SourceName::Poll)));
        let events = lines(&monitor, "usb_events_total");
        assert_eq!(events.len(), 8);
        assert!(
            events.iter().all(|line| line.contains("source=\"poll\"") && line.ends_with(" 0")),
            "{events:#?}"
        );
        assert_eq!(lines(&monitor, "usb_source_active"), ["usb_source_active{source=\"poll\"} 1"]);
    }

    #[test]
    fn every_family_has_help_and_type_once_and_before_its_samples() {
        let monitor = Monitor::new(Status::new(StreamKind::Embedded));
        monitor.update(|status| status.source = Some(in_use(SourceName::Uevent)));
        monitor.metrics.tallies(&Tallies { coalesced: 9, filtered: [1, 2, 3], ..Tallies::default() });
        monitor.metrics.publish_error();
        let text = render(&monitor);
        let mut families: Vec<&str> = Vec::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                assert!(!families.contains(&name) && !help.is_empty(), "{line}");
                families.push(name);
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(Some(&name), families.last());
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            } else {
                let family = families.last().unwrap();
                let (series, value) = line.rsplit_once(' ').unwrap();
                assert!(series.starts_with(family), "{line}");
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
        assert_eq!(lines(&monitor, "usb_events_coalesced_total"), ["usb_events_coalesced_total 9"]);
        assert_eq!(lines(&monitor, "usb_publish_errors_total"), ["usb_publish_errors_total 1"]);
        assert_eq!(
            lines(&monitor, "usb_events_filtered_total")[1],
            "usb_events_filtered_total{rule=\"vendor_blacklist\"} 2"
        );
    }
}
