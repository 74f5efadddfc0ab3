//! The Compose file, as docker-compose reads it.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use autoweave_usb_testbus::Bus;
use nix::mount::{MsFlags, mount};
use serde_json::Value;
use tempfile::TempDir;

use crate::chart::programs::Redis;
use crate::chart::{documents, python};
use crate::harness::{Daemon, StateDir, wait_until};
use crate::http::status_by;
use crate::installed::has_prometheus;
use crate::prometheus::Prometheus;

/// What the file says where `$HOSTNAME` is `host`; `None` where what reads it is not installed, which is said.
fn compose(host: &str) -> Option<Value> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut config = Command::new("docker-compose");
    config.arg("--project-directory").arg(&source).arg("--file").arg(source.join("compose.yaml"));
    config.args(["--profile", "observability", "config"]).env("HOSTNAME", host).stderr(Stdio::inherit());
    let (Ok(output), Some(python)) = (config.output(), python()) else {
        eprintln!("SKIPPED: docker-compose is not installed, `cargo xtask test` does it");
        return None;
    };
    assert!(output.status.success());
    documents(&python, &String::from_utf8(output.stdout).unwrap()).pop()
}

/// The daemon's variables, but for where Redis is.
fn variables(compose: &Value) -> Vec<(&str, &str)> {
    let environment = compose["services"]["usb-daemon"]["environment"].as_object().unwrap();
    let without_redis = environment.iter().filter(|(name, _)| *name != "REDIS_HOST");
    without_redis.map(|(name, value)| (name.as_str(), value.as_str().unwrap())).collect()
}

/// Shows this thread the files that `service` is given in `directory`, and only those there; `None` where there is no
/// such directory, which is said.
fn give_files(compose: &Value, service: &str, directory: &str) -> Option<()> {
    if !Path::new(directory).is_dir() {
        eprintln!("SKIPPED: there is no {directory}, which Debian's package makes");
        return None;
    }
    mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    for volume in compose["services"][service]["volumes"].as_array().unwrap() {
        let [from, to] = volume.as_str().unwrap().splitn(3, ':').collect::<Vec<_>>()[..2] else {
            unreachable!()
        };
        if !Path::new(to).starts_with(directory) {
            continue;
        }
        if Path::new(from).is_dir() {
            fs::create_dir(to).unwrap();
        } else {
            File::create(to).unwrap();
        }
        mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    }
    Some(())
}

/// Makes `name` a name of the loopback for this thread, as the Compose file's network does with a service's.
fn call_loopback(name: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("hosts");
    fs::write(&hosts, format!("127.0.0.1 localhost {name}\n")).unwrap();
    mount(Some(&hosts), "/etc/hosts", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    directory
}

#[test]
fn prometheus_is_answered_whatever_the_machine_is_called() {
    let Some(compose) = compose("edge-7") else { return };
    let environment = compose["services"]["usb-daemon"]["environment"].as_object().unwrap();
    assert_eq!(environment["AUTOWEAVE_USB__HOST"], "edge-7");
    assert_eq!(environment["REDIS_HOST"], "redis");
    let env = variables(&compose);

    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let prometheus = fs::read_to_string(source.join("packaging/observability/prometheus.yml")).unwrap();
    let prometheus = documents(&python().unwrap(), &prometheus).pop().unwrap();
    let targets = &prometheus["scrape_configs"][0]["static_configs"][0]["targets"];
    let bus = Bus::enter().unwrap();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, &env);
    for target in targets.as_array().unwrap() {
        let answer = status_by(target.as_str().unwrap());
        assert!(answer.contains("200"), "{target}: {answer}");
    }
    daemon.stop();
}

#[test]
fn a_prometheus_on_its_files_scrapes_the_daemon_and_has_the_alerts() {
    let Some(compose) = compose("edge-7").filter(|_| has_prometheus()) else { return };
    let bus = Bus::enter().unwrap();
    let state = StateDir::new();
    let Some(()) = give_files(&compose, "prometheus", "/etc/prometheus") else { return };
    let _hosts = call_loopback("usb-daemon");
    let daemon = Daemon::start(&bus, &state, &variables(&compose));
    let prometheus = Prometheus::start_with(Path::new("/etc/prometheus/prometheus.yml"));
    wait_until("it has scraped the daemon", || {
        let up = prometheus.query("up{job=\"usb-daemon\"}");
        up.len() == 1 && up[0]["value"][1] == "1"
    });
    assert_eq!(prometheus.query("usb_devices_connected{job=\"usb-daemon\"}").len(), 1);
    let groups = &prometheus.ask("rules")["groups"];
    assert!(
        groups.as_array().unwrap().iter().any(|group| group["rules"][0]["type"] == "alerting"),
        "{groups}"
    );
    daemon.stop();
}

#[test]
fn redis_keeps_what_it_has_and_is_full_at_some_time() {
    let Some(compose) = compose("edge-7") else { return };
    let words = compose["services"]["redis"]["command"].as_array().unwrap();
    let words: Vec<_> = words.iter().map(|word| word.as_str().unwrap()).collect();
    let bus = Bus::enter().unwrap();
    let redis = Redis::start(&bus, &words, "");
    let setting = |name: &str| redis.setting("", name).unwrap();
    assert_eq!((setting("appendonly"), setting("maxmemory-policy")), ("yes".into(), "noeviction".into()));
    assert!(setting("maxmemory").parse::<u64>().unwrap() > 100 << 20);
}
