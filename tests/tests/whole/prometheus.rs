//! What a real Prometheus makes of the daemon's metrics, and of the alerts and panels on them.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use autoweave_usb_testbus::{Bus, Device};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Daemon, QUICK, StateDir, command, last_seq, wait_until};
use crate::http::{answer, answer_of};
use crate::installed::has_prometheus;
use crate::plugins::bed::{Bed, pairs};
use crate::program::{Running, finish};
use crate::redis_server::{Server, start_at};

const ADDRESS: &str = "127.0.0.1:9090";

/// As the specification's dashboard has them (chapter 7.2).
const EXPRESSIONS: [&str; 4] = [
    "rate(usb_events_total[5m])",
    "usb_devices_connected",
    "process_resident_memory_bytes{job=\"usb-daemon\"}",
    "histogram_quantile(0.95, usb_event_processing_duration_ms_bucket)",
];

/// Of plugins: of these, a daemon without any exports the type and no sample.
const PLUGINS: &str = "plugin_";

/// A real one, with what it writes.
pub struct Prometheus {
    _running: Running,
    _directory: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes the daemons of this bus.
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("prometheus.yml");
        fs::write(
            &config,
            "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\nscrape_configs: [{job_name: usb-daemon, \
             static_configs: [{targets: ['127.0.0.1:8080', '127.0.0.1:8081']}]}]\n",
        )
        .unwrap();
        Self::start_in(directory, &config)
    }

    /// Starts one on a configuration.
    pub fn start_with(config: &Path) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), config)
    }

    fn start_in(directory: TempDir, config: &Path) -> Self {
        let running = Running::start(
            Command::new("prometheus")
                .arg(format!("--config.file={}", config.display()))
                .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
                .arg(format!("--web.listen-address={ADDRESS}"))
                .current_dir(directory.path()),
        );
        wait_until("Prometheus listens", || TcpStream::connect(ADDRESS).is_ok());
        wait_until("Prometheus is ready", || answer_of(ADDRESS, "/-/ready").0.contains("200"));
        Self { _running: running, _directory: directory }
    }

    /// The series that an expression gives now.
    pub fn query(&self, expression: &str) -> Vec<Value> {
        let query: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        self.ask(&format!("query?query={query}"))["result"].as_array().unwrap().clone()
    }

    /// What a part of its API answers.
    pub fn ask(&self, path: &str) -> Value {
        let (_, body) = answer_of(ADDRESS, &format!("/api/v1/{path}"));
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(answer["status"], "success", "{path}: {body}");
        answer["data"].clone()
    }
}

fn packaging(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging")).join(path)
}

fn promtool(arguments: &[&str]) {
    finish(Command::new("promtool").args(arguments).current_dir(packaging("prometheus"))).ok();
}

/// The expressions of the dashboard's panels, with its variable filled in.
fn panels() -> Vec<String> {
    let text = fs::read_to_string(packaging("grafana/dashboards/autoweave-usb.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().unwrap().replace("$host", "127.0.0.1:8080")).collect()
}

/// The expressions of the alerts.
fn alerts() -> Vec<String> {
    let rules = fs::read_to_string(packaging("prometheus/autoweave-usb.rules.yml")).unwrap();
    rules.lines().filter_map(|line| line.trim_start().strip_prefix("expr: ")).map(str::to_owned).collect()
}

fn is_finite(series: &Value) -> bool {
    series["value"][1].as_str().and_then(|value| value.parse().ok()).is_some_and(f64::is_finite)
}

/// The metrics that a text names: words that begin as those of the daemon do.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    let families = ["usb_", "process_", PLUGINS];
    words.filter(|word| families.iter().any(|family| word.starts_with(family))).collect()
}

fn daemon_with_events(bus: &mut Bus, state: &StateDir) -> Daemon {
    bus.add_root_hub(1).unwrap();
    let daemon = Daemon::start(bus, state, QUICK);
    bus.plug("1-1", &Device::receiver()).unwrap();
    daemon.wait_until("the plug is journaled", || last_seq(state) >= 2);
    daemon
}

#[test]
fn prometheus_answers_the_specifications_expressions() {
    if !has_prometheus() {
        return;
    }
    let mut bus = Bus::enter().unwrap();
    let state = StateDir::new();
    let daemon = daemon_with_events(&mut bus, &state);
    let prometheus = Prometheus::start();
    for expression in EXPRESSIONS {
        wait_until(expression, || {
            let series = prometheus.query(expression);
            !series.is_empty() && series.iter().all(is_finite)
        });
    }
    let of_four: BTreeSet<String> = panels().into_iter().take(5).collect();
    assert!(EXPRESSIONS.iter().all(|expression| of_four.contains(*expression)), "{of_four:?}");
    daemon.stop();
}

/// Of a daemon that publishes to Redis and runs plugins, and of one that only runs plugins.
#[test]
fn every_panel_shows_something_of_a_daemon_that_works_and_no_alert_does() {
    if !has_prometheus() {
        return;
    }
    let (mut bus, server, here, there) = (Bus::enter().unwrap(), Server::start(), Bed::new(), Bed::new());
    bus.add_root_hub(1).unwrap();
    for (bed, name) in [(&here, "here"), (&there, "there")] {
        bed.shell(name, "note; ok");
    }
    let redis = ("REDIS_URL".to_owned(), server.url());
    let daemon = start_at(&bus, &here.state, &pairs(&[here.env(), vec![redis.clone()]].concat()));
    let port = ("AUTOWEAVE_USB__MONITORING__HEALTHCHECK_PORT".to_owned(), "8081".to_owned());
    let mut loader = command(&pairs(&[there.env(), vec![redis, port]].concat()));
    let loader =
        Running::start(loader.args(["run", "--role", "plugins", "--state-dir"]).arg(there.state.path()));
    let prometheus = Prometheus::start();
    wait_until("the loader's metrics are known", || {
        !prometheus.query(r#"plugin_events_total{instance="127.0.0.1:8081",plugin="there"}"#).is_empty()
    });
    for expression in panels() {
        wait_until(&expression, || {
            bus.plug("1-1", &Device::receiver()).unwrap();
            bus.unplug("1-1").unwrap();
            let mut series = prometheus.query(&expression);
            series.retain(|one| one["metric"]["instance"] != "127.0.0.1:8081");
            !series.is_empty() && series.iter().all(is_finite)
        });
    }
    let variable = prometheus.query("group by (instance) (usb_devices_connected)");
    assert_eq!(variable.len(), 2, "what the dashboard's variable offers");
    for alert in alerts() {
        wait_until(&alert, || prometheus.query(&alert).is_empty());
    }
    loader.end(Signal::SIGTERM).ok();
    daemon.stop();
}

#[test]
fn the_alerts_say_what_they_should() {
    if !has_prometheus() {
        return;
    }
    promtool(&["check", "rules", "autoweave-usb.rules.yml"]);
    promtool(&["test", "rules", "autoweave-usb.test.yml"]);
    promtool(&["check", "config", "--syntax-only", "../observability/prometheus.yml"]);
}

#[test]
fn what_panels_and_alerts_name_is_exported_and_well_formed() {
    if !has_prometheus() {
        return;
    }
    let mut bus = Bus::enter().unwrap();
    let state = StateDir::new();
    let daemon = daemon_with_events(&mut bus, &state);
    let metrics = answer("/metrics").1;
    let exported: BTreeSet<&str> = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let rules = alerts().join("\n");
    let panels = panels().join("\n");
    let named: BTreeSet<&str> = metrics_in(&panels).union(&metrics_in(&rules)).copied().collect();
    assert!(named.len() > 10, "{named:?}");
    for metric in named {
        let family = metric.strip_suffix("_bucket").unwrap_or(metric);
        let is_announced = metric.starts_with(PLUGINS) && metrics.contains(&format!("# TYPE {family} "));
        assert!(exported.contains(metric) || is_announced, "{metric} is not exported");
    }
    let mut check = Command::new("promtool");
    check.args(["check", "metrics"]).stdin(Stdio::from(file_with(&metrics)));
    let said = check.output().unwrap();
    let findings = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    // The specification's name has its unit abbreviated, and what it names another after it.
    let foreign = |line: &&str| !line.contains("_duration_ms ");
    assert_eq!(findings.lines().filter(foreign).collect::<Vec<_>>(), [""; 0], "{metrics}");
    daemon.stop();
}

fn file_with(text: &str) -> fs::File {
    use std::io::{Seek, Write};
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).and_then(|()| file.rewind()).unwrap();
    file
}
