//! What `/metrics` shows, as instruments of the same names. Their values are read from there when they are exported, so
//! nothing is counted twice; only durations are recorded as they come, since a finished histogram cannot be handed on.

use std::collections::BTreeMap;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Histogram, Meter, MeterProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;

use super::Told;
use crate::http::render_metrics;

/// Who measures and records.
pub(super) const SCOPE: &str = "autoweave-usbd";

/// Upper bounds, in milliseconds.
const BOUNDS_MS: [f64; 18] = [
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0,
    10_000.0, 30_000.0, 60_000.0,
];

/// A family of the text: its kind, its help, and each series' labels and value.
#[derive(Debug, PartialEq)]
struct Family<'a> {
    kind: &'a str,
    help: &'a str,
    series: Vec<(Vec<KeyValue>, f64)>,
}

/// From the observation of an event to its acknowledgement. Without a unit, which would become a part of the name.
pub(super) fn processing(meter: &Meter) -> Histogram<f64> {
    histogram(
        meter,
        "usb_event_processing_duration_ms",
        "From the observation of an event to its acknowledgement, in ms.",
    )
}

/// From an event's delivery to the plugin's answer.
#[cfg(target_os = "linux")]
pub(super) fn hooks(meter: &Meter) -> Histogram<f64> {
    histogram(meter, "plugin_duration_ms", "From an event's delivery to the plugin's answer, in ms.")
}

fn histogram(meter: &Meter, name: &'static str, help: &'static str) -> Histogram<f64> {
    meter.f64_histogram(name).with_description(help).with_boundaries(BOUNDS_MS.to_vec()).build()
}

/// Makes an instrument of each family that is no histogram.
pub(super) fn register(provider: &SdkMeterProvider, told: Told) {
    let Some(monitor) = told.upgrade() else { return };
    let meter = provider.meter(SCOPE);
    let text = render_metrics(&monitor);
    for (name, Family { kind, help, .. }) in families(&text) {
        let (name, help, told) = (name.to_owned(), help.to_owned(), told.clone());
        let series = {
            let name = name.clone();
            move || {
                let text = told.upgrade().map(|monitor| render_metrics(&monitor)).unwrap_or_default();
                families(&text).remove(name.as_str()).map(|family| family.series).unwrap_or_default()
            }
        };
        let observe = move |observer: &dyn opentelemetry::metrics::AsyncInstrument<f64>| {
            for (labels, value) in series() {
                observer.observe(value, &labels);
            }
        };
        // Kept by the provider.
        match kind {
            "counter" => {
                let counter = meter.f64_observable_counter(name).with_description(help);
                let _ = counter.with_callback(observe).build();
            }
            "gauge" => {
                let gauge = meter.f64_observable_gauge(name).with_description(help);
                let _ = gauge.with_callback(observe).build();
            }
            _ => {}
        }
    }
}

/// The families of a text for Prometheus, by name.
fn families(text: &str) -> BTreeMap<&str, Family<'_>> {
    let mut families: BTreeMap<&str, Family<'_>> = BTreeMap::new();
    let (mut help, mut family) = ("", "");
    for line in text.lines() {
        if let Some((_, text)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
            help = text;
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' '))
        {
            family = name;
            families.insert(name, Family { kind, help, series: Vec::new() });
        } else if let (Some(family), Some(sample)) = (families.get_mut(family), sample(line)) {
            family.series.push(sample);
        }
    }
    families
}

/// `name{label="value",…} 42`; no label's value has a quote or a comma in it.
fn sample(line: &str) -> Option<(Vec<KeyValue>, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let labels = series.split_once('{').map_or("", |(_, labels)| labels.trim_end_matches('}'));
    let label = |label: &str| {
        let (name, value) = label.split_once('=')?;
        Some(KeyValue::new(name.to_owned(), value.trim_matches('"').to_owned()))
    };
    Some((labels.split(',').filter_map(label).collect(), value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Monitor, Status, StreamKind};

    #[test]
    fn the_text_is_read_as_it_is_written() {
        let monitor = Monitor::new(Status::new(StreamKind::Embedded));
        monitor.metrics.publish_error();
        let text = render_metrics(&monitor);
        let families = families(&text);
        let types = text.lines().filter(|line| line.starts_with("# TYPE")).count();
        assert_eq!(families.len(), types);
        let errors = &families["usb_publish_errors_total"];
        assert_eq!((errors.kind, &errors.series[..]), ("counter", &[(Vec::new(), 1.0)][..]));
        let filtered = &families["usb_events_filtered_total"];
        assert_eq!(filtered.series[1], (vec![KeyValue::new("rule", "vendor_blacklist")], 0.0));
        assert!(families.values().all(|family| !family.help.is_empty()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn plugins_are_counted_by_the_same_bounds_everywhere() {
        let bounds_us = autoweave_usb_plugin::pool::Durations::BOUNDS_US;
        assert_eq!(bounds_us.map(|bound| f64::from(bound) / 1_000.0), BOUNDS_MS);
    }

    #[test]
    fn labels_are_taken_apart() {
        let (labels, value) = sample(r#"usb_events_total{action="attach",source="uevent"} 12"#).unwrap();
        assert_eq!(labels, [KeyValue::new("action", "attach"), KeyValue::new("source", "uevent")]);
        assert!((value - 12.0).abs() < f64::EPSILON);
        assert_eq!(sample("nothing"), None);
    }
}
