//! What the chart says to the programs in its containers, said to them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Child, Command, Stdio};

use autoweave_usb_testbus::Bus;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Chart, pod, variables};
use crate::harness::{Daemon, StateDir, command, wait_until};
use crate::http::status_by;
use crate::program::{CALM, NOBODY, finish, has_user};

#[test]
fn the_daemon_takes_its_variables_and_is_asked_by_the_names_of_its_service() {
    let Some(chart) = Chart::find() else { return };
    let values = json!({
        "usbDaemon": {"env": {
            "AUTOWEAVE_USB__JOURNAL__MAX_EVENTS": 1_000_000,
            "AUTOWEAVE_USB__SOURCE__RECEIVE_BUFFER_BYTES": 134_217_728,
            "AUTOWEAVE_USB__FALLBACK__ENABLE_UDEV": false,
        }},
        "redis": {"enabled": false},
        "monitoring": {"hosts": ["usb.example.org"]},
    });
    let objects = chart.render("usb", &values);
    let mut env = variables(objects.get("DaemonSet", "usb"));
    assert!(env.contains(&("AUTOWEAVE_USB__JOURNAL__MAX_EVENTS", "1000000")));
    // What Kubernetes fills in.
    env.push(("AUTOWEAVE_USB__HOST", "node-7"));
    let bus = Bus::enter().unwrap();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, &env);
    let names = ["", ".watch", ".watch.svc", ".watch.svc.cluster.local"];
    let names = names.map(|domain| format!("usb-autoweave-usb{domain}:8080"));
    for host in names.iter().map(String::as_str).chain(["node-7", "usb.example.org", "10.1.2.3:8080"]) {
        assert!(status_by(host).contains("200"), "{host}: {}", status_by(host));
    }
    assert!(status_by("usb-autoweave-usb.other").contains("403"));
    daemon.stop();
}

#[test]
fn the_state_is_the_daemons_also_after_one_that_was_root() {
    let Some(chart) = Chart::find() else { return };
    if !has_user(NOBODY) {
        eprintln!("SKIPPED: this user namespace has root only");
        return;
    }
    let objects = chart.render("usb", &json!({}));
    let own = &pod(objects.get("DaemonSet", "usb"))["initContainers"][0];
    assert_eq!(own["securityContext"]["capabilities"]["add"], json!(["CHOWN"]));
    let state = StateDir::new();
    let paths = ["", "spool", "journal.db", "spool/1"].map(|path| state.path().join(path));
    fs::create_dir(&paths[1]).unwrap();
    fs::write(&paths[2], "").unwrap();
    fs::write(&paths[3], "").unwrap();
    let closed = [0o750, 0o750, 0o640, 0o640];
    for (path, mode) in paths.iter().zip(closed) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    // Once for what is root's, once for what is the daemon's already.
    for _ in 0..2 {
        let mut init = Command::new("setpriv");
        init.args(["--reuid=0", "--regid=65532", "--clear-groups", "--no-new-privs"]);
        init.args(["--bounding-set=-all,+chown", "--inh-caps=-all,+chown"]);
        init.args(words(own).iter().map(|word| word.replace("/state", &state.path().display().to_string())));
        assert!(init.status().unwrap().success());
        for path in &paths {
            let owner = fs::metadata(path).unwrap();
            assert_eq!((owner.uid(), owner.gid()), (65_532, 65_532), "{}", path.display());
        }
    }
}

#[test]
fn the_device_plugin_takes_its_resources() {
    let Some(chart) = Chart::find() else { return };
    let values = json!({"devicePlugin": {"enabled": true, "devices": {
        "autoweave.dev/usb-camera": {"class": 14},
        "autoweave.dev/usb-serial": {"vendor": "0403", "product": "6001"},
        "example.org/the-scope": {"vendor": "0x0957", "class": "0e", "serial": "MY<\"\\12é"},
        "e/A_b.c": {"class": "0x00FF"},
    }}});
    let objects = chart.render("usb", &values);
    let env = variables(objects.get("DaemonSet", "-device-plugin"));
    let mut plugin = command(CALM);
    // It reads its configuration first; there is no kubelet.
    plugin.arg("device-plugin").envs(env).env("AUTOWEAVE_USB__DEVICE_PLUGIN__DIRECTORY", "/nowhere");
    finish(&mut plugin).fails(69, &["/nowhere"]);
}

/// Redis as a deployment starts it, its volumes in a directory of the test's.
pub struct Redis {
    server: Child,
    _directory: TempDir,
}

impl Redis {
    /// Runs `words`, with `password` where the secret would be. The bus has a loopback of its own, so the usual port is
    /// free.
    pub fn start(_bus: &Bus, words: &[&str], password: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name).display().to_string();
        fs::create_dir(place("data")).unwrap();
        fs::write(place("password"), password).unwrap();
        let words = words.iter().map(|word| word.replace("/run/secrets/redis/password", &place("password")));
        let words: Vec<_> = words.map(|word| word.replace("/data", &place("data"))).collect();
        let mut server = Command::new(&words[0]);
        server.args(&words[1..]).current_dir(place("data")).stdin(Stdio::null()).stdout(Stdio::null());
        let mut redis = Self { server: server.spawn().unwrap(), _directory: directory };
        wait_until("Redis listens", || {
            assert!(redis.server.try_wait().unwrap().is_none(), "Redis has ended");
            connect().is_some()
        });
        redis
    }

    /// The value of a setting, for who knows `password`; none if it is wrong.
    pub fn setting(&self, password: &str, name: &str) -> Option<String> {
        let mut connection = connect()?;
        if !password.is_empty() {
            redis::cmd("AUTH").arg(password).query::<String>(&mut connection).ok()?;
        }
        let pair: Vec<String> = redis::cmd("CONFIG").arg("GET").arg(name).query(&mut connection).ok()?;
        pair.into_iter().nth(1)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn connect() -> Option<redis::Connection> {
    redis::Client::open("redis://127.0.0.1").unwrap().get_connection().ok()
}

/// The command line of a container.
fn words(container: &Value) -> Vec<&str> {
    let lists = ["command", "args"].iter().filter_map(|list| container[list].as_array());
    lists.flatten().map(|word| word.as_str().unwrap()).collect()
}

#[test]
fn redis_has_the_password_of_the_secret_whatever_is_in_it() {
    let Some(chart) = Chart::find() else { return };
    let objects = chart.render("usb", &json!({"redis": {"auth": {"enabled": true}}}));
    let container = &pod(objects.get("StatefulSet", "-redis"))["containers"][0];
    let bus = Bus::enter().unwrap();
    for password in ["plain", "a\"b", "back\\", "a\\nb", "it's $HOME `id` $(id) #", "END"] {
        let redis = Redis::start(&bus, &words(container), password);
        assert_eq!(redis.setting(password, "appendonly").as_deref(), Some("yes"), "{password}");
        assert_eq!(redis.setting("", "appendonly"), None, "{password}");
    }
}

#[test]
fn redis_is_full_before_the_kernel_kills_it() {
    let Some(chart) = Chart::find() else { return };
    let bus = Bus::enter().unwrap();
    for auth in [false, true] {
        let objects = chart.render("usb", &json!({"redis": {"auth": {"enabled": auth}}}));
        let container = &pod(objects.get("StatefulSet", "-redis"))["containers"][0];
        let limit = container["resources"]["limits"]["memory"].as_str().unwrap();
        let limit: u64 = limit.strip_suffix("Mi").unwrap().parse().unwrap();
        let redis = Redis::start(&bus, &words(container), "known");
        let setting = |name: &str| redis.setting(if auth { "known" } else { "" }, name).unwrap();
        let maxmemory = setting("maxmemory").parse::<u64>().unwrap() >> 20;
        assert!((1..=limit * 7 / 10).contains(&maxmemory), "{maxmemory} MiB of {limit}");
        assert_eq!(setting("maxmemory-policy"), "noeviction");
    }
}
