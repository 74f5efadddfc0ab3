//! The standard's variables
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>), of which the library says
//! nothing: which values cannot be, and which have no effect.

use std::env;

use crate::config::is_http_url;

/// Of a queue: some 500 MB of spans.
const QUEUE_MAX: u64 = 1_000_000;

/// A day, in milliseconds.
const TIME_MAX: u64 = 86_400_000;

/// The samplers that the library has.
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// What is after `OTEL_EXPORTER_OTLP_`: nothing, or a signal.
const PREFIXES: [&str; 4] = ["", "TRACES_", "METRICS_", "LOGS_"];

/// The variable `name`. Set but empty is not set.
pub(super) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether every one of them makes sense.
///
/// # Errors
/// The first that does not, and what it should be: a queue without a bound, a pause of nothing, or an endpoint that is none
/// would fail or cost much for as long as the daemon runs.
pub(super) fn check(variable: impl Fn(&str) -> Option<String>) -> Result<(), String> {
    let queues = ["OTEL_BSP_MAX_", "OTEL_BLRP_MAX_"].map(|queue| {
        ["QUEUE_SIZE", "EXPORT_BATCH_SIZE"].map(|what| (format!("{queue}{what}"), QUEUE_MAX, ""))
    });
    let pauses = ["OTEL_BSP_SCHEDULE_DELAY", "OTEL_BLRP_SCHEDULE_DELAY", "OTEL_METRIC_EXPORT_INTERVAL"];
    let pauses = pauses.map(|name| (name.to_owned(), TIME_MAX, " (milliseconds)"));
    let timeouts = PREFIXES.map(|prefix| (of(prefix, "TIMEOUT"), TIME_MAX, " (milliseconds)"));
    for (name, max, unit) in queues.into_iter().flatten().chain(pauses).chain(timeouts) {
        let Some(value) = variable(&name) else { continue };
        if !value.parse().is_ok_and(|number: u64| (1..=max).contains(&number)) {
            return Err(format!("{name}: expected an integer from 1 to {max}{unit}, found {value:?}"));
        }
    }
    for name in PREFIXES.map(|prefix| of(prefix, "ENDPOINT")) {
        let Some(value) = variable(&name) else { continue };
        if !is_http_url(&value) {
            // Not what was found: it may have a password in it.
            return Err(format!("{name}: expected a URL `http://…` or `https://…`"));
        }
    }
    Ok(())
}

/// What is set and has no effect, a sentence each. Other programs may be told so by the same variables, so it is no error.
pub(super) fn unheeded(variable: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut said = Vec::new();
    for prefix in PREFIXES {
        let mut unless = |what: &str, known: &[&str], instead: &str| {
            let name = of(prefix, what);
            if let Some(value) = variable(&name).filter(|value| !known.contains(&value.as_str())) {
                said.push(format!("{name}: {value:?} has no effect, {instead}"));
            }
        };
        unless("PROTOCOL", &["http/protobuf"], "http/protobuf is spoken (mostly on port 4318)");
        unless("COMPRESSION", &["gzip", "none"], "gzip is known, and nothing is compressed");
        unless("CERTIFICATE", &[], "the certificates that the machine trusts are trusted");
        unless("CLIENT_CERTIFICATE", &[], "none is shown");
        unless("CLIENT_KEY", &[], "no client certificate is shown");
    }
    for name in PREFIXES.iter().skip(1).map(|signal| format!("OTEL_{signal}EXPORTER")) {
        if let Some(value) = variable(&name).filter(|value| !["otlp", "none"].contains(&value.as_str())) {
            said.push(format!("{name}: {value:?} has no effect, it is exported over OTLP"));
        }
    }
    let sampler = variable("OTEL_TRACES_SAMPLER").filter(|sampler| !SAMPLERS.contains(&sampler.as_str()));
    if let Some(sampler) = sampler {
        said.push(format!("OTEL_TRACES_SAMPLER: {sampler:?} has no effect, every event is recorded"));
    }
    said
}

fn of(prefix: &str, what: &str) -> String {
    format!("OTEL_EXPORTER_OTLP_{prefix}{what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(name: &str, value: &str) -> Result<(), String> {
        check(|asked| (asked == name).then(|| value.to_owned()))
    }

    #[test]
    fn what_would_fail_or_cost_much_for_ever_is_refused() {
        for (name, value) in [
            ("OTEL_BSP_MAX_QUEUE_SIZE", "99999999999"),
            ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "0"),
            ("OTEL_BSP_SCHEDULE_DELAY", "0"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "-1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "127.0.0.1:4318"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://"),
        ] {
            let refused = checked(name, value).unwrap_err();
            assert!(refused.starts_with(&format!("{name}: expected ")), "{refused}");
        }
        for (name, value) in [
            ("OTEL_BSP_MAX_QUEUE_SIZE", "1000000"),
            ("OTEL_BLRP_SCHEDULE_DELAY", "1"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://collector/v1/metrics"),
        ] {
            checked(name, value).unwrap();
        }
    }

    #[test]
    fn what_has_no_effect_is_told() {
        let told = |name: &str, value: &str| unheeded(|asked| (asked == name).then(|| value.to_owned()));
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "zstd"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
            ("OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", "/key.pem"),
            ("OTEL_TRACES_EXPORTER", "console"),
            ("OTEL_TRACES_SAMPLER", "xray"),
        ] {
            let said = told(name, value);
            assert!(
                said.len() == 1 && said[0].starts_with(&format!("{name}: {value:?} has no effect, ")),
                "{said:?}"
            );
        }
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_LOGS_EXPORTER", "none"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b"),
        ] {
            assert_eq!(told(name, value), [""; 0], "{name}");
        }
    }
}
