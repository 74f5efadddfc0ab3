//! The Compose file, as docker-compose reads it.

use std::path::Path;
use std::process::{Command, Stdio};

use autoweave_usb_testbus::Bus;
use serde_json::Value;

use crate::chart::programs::Redis;
use crate::chart::{documents, python};
use crate::harness::{Daemon, StateDir};
use crate::http::status_by;

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

#[test]
fn prometheus_is_answered_whatever_the_machine_is_called() {
    let Some(compose) = compose("edge-7") else { return };
    let environment = compose["services"]["usb-daemon"]["environment"].as_object().unwrap();
    assert_eq!(environment["AUTOWEAVE_USB__HOST"], "edge-7");
    assert_eq!(environment["REDIS_HOST"], "redis");
    let without_redis = environment.iter().filter(|(name, _)| *name != "REDIS_HOST");
    let env: Vec<_> = without_redis.map(|(name, value)| (name.as_str(), value.as_str().unwrap())).collect();

    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let prometheus = std::fs::read_to_string(source.join("packaging/observability/prometheus.yml")).unwrap();
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
