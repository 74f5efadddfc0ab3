//! `run` feeds its plugins from its own journal.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::Duration;

use autoweave_usb_testbus::{Bus, Device};

use super::bed::{Bed, assert_all_in_order, pairs};
use crate::flood::Random;
use crate::harness::{Daemon, events, last_seq};
use crate::program::usbd;
use crate::redis_server::health;

const PORTS: [&str; 8] = ["1-1", "1-2", "1-3", "1-4", "1-5", "1-6", "1-7", "1-8"];

fn bus() -> Bus {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    bus
}

fn start(bus: &Bus, bed: &Bed, more: &[(&str, &str)]) -> Daemon {
    Daemon::start(bus, &bed.state, &[&pairs(&bed.env()), more].concat())
}

fn shown(bed: &Bed, name: &str) -> Vec<(u64, String, String)> {
    bed.heard(name).into_iter().map(|heard| (heard.seq, heard.action, heard.reason)).collect()
}

fn told(seq: u64, action: &str, reason: &str) -> (u64, String, String) {
    (seq, action.to_owned(), reason.to_owned())
}

#[test]
fn a_plugin_hears_what_comes_and_goes_and_after_a_restart_what_is_there() {
    let (mut bus, bed) = (bus(), Bed::new());
    bed.shell("desk", "note; ok");
    let daemon = start(&bus, &bed, &[]);
    daemon.wait_for_log("loaded");
    bus.plug("1-1", &Device::storage("A")).unwrap();
    bus.plug("1-2", &Device::storage("B")).unwrap();
    bus.unplug("1-1").unwrap();
    let expected = [
        told(1, "attach", "coldplug"),
        told(2, "attach", "hotplug"),
        told(3, "attach", "hotplug"),
        told(4, "detach", "hotplug"),
    ];
    daemon.wait_until("all is heard", || shown(&bed, "desk") == expected);
    daemon.wait_until("it is counted", || health()["plugins"][0]["done"] == 4);
    let listed = usbd(&["plugins", "list"]).ok().stdout;
    assert!(listed.contains("desk") && listed.contains("1.0.0") && listed.contains("running"), "{listed}");
    daemon.stop();
    // A later start: what is there, then what happened meanwhile.
    bus.unplug_silent("1-2").unwrap();
    bus.plug_silent("1-3", &Device::storage("C")).unwrap();
    let daemon = start(&bus, &bed, &[]);
    let found = || shown(&bed, "desk")[expected.len()..].to_vec();
    daemon.wait_until("all is heard", || found().len() >= 4);
    let later = found();
    assert!(
        later[..2].iter().all(|(_, action, reason)| action == "attach" && reason == "coldplug"),
        "{later:?}"
    );
    assert_eq!(later[2..].iter().map(|(seq, ..)| *seq).collect::<Vec<_>>(), [5, 6], "{later:?}");
    daemon.stop();
}

#[test]
fn a_package_that_cannot_be_run_is_in_the_list_with_the_reason_until_it_is_mended() {
    let (bus, bed) = (bus(), Bed::new());
    let alone = usbd(&["plugins", "list"]);
    alone.fails(
        69,
        &["the plugins of the daemon cannot be listed", "no answer from", "is the daemon running"],
    );
    bed.shell("desk", "note; ok");
    let broken = bed.plugins.path().join("broken");
    fs::create_dir(&broken).unwrap();
    let daemon = start(&bus, &bed, &[]);
    daemon.wait_for_log("no plugin that can be run");
    daemon.wait_for_log("loaded");
    let list = |more: &[&str]| usbd(&[&["plugins", "list"], more].concat()).ok();
    let text = list(&[]).stdout;
    let manifest = broken.join("autoweave.plugin.json");
    assert!(text.contains("desk") && text.contains(&format!("not run: {}", manifest.display())), "{text}");
    let json = list(&["--json"]).json();
    assert_eq!(json.len(), 2, "{json:?}");
    assert_eq!((&json[0]["name"], &json[0]["state"]), (&"desk".into(), &"running".into()));
    assert_eq!(json[1]["package"], broken.to_str().unwrap());
    assert_eq!(json[1]["state"], "refused");
    fs::remove_dir(&broken).unwrap();
    daemon.wait_until("it is gone", || list(&["--json"]).json().len() == 1);
    daemon.stop();
}

#[test]
fn with_redis_away_plugins_hear_all_the_same() {
    let (mut bus, bed) = (bus(), Bed::new());
    bed.shell("desk", "note; ok");
    let nowhere = format!("unix://{}/no.sock", bed.state.path().display());
    let daemon = start(&bus, &bed, &[("REDIS_URL", &nowhere)]);
    daemon.wait_for_log("Redis cannot be reached");
    bus.plug("1-1", &Device::storage("A")).unwrap();
    daemon.wait_until("it is heard", || shown(&bed, "desk").contains(&told(2, "attach", "hotplug")));
    daemon.stop();
}

#[test]
fn what_a_plugin_gives_up_is_a_dead_letter_and_others_go_on() {
    let (mut bus, bed) = (bus(), Bed::new());
    bed.shell("picky", "case $device in *:BAD) fail 'will not have it';; *) note; ok;; esac");
    bed.shell("dies", "case $device in *:BAD) exit 3;; *) note; ok;; esac");
    bed.shell("well", "note; ok");
    let daemon = start(&bus, &bed, &[]);
    bus.plug("1-1", &Device::storage("BAD")).unwrap();
    bus.plug("1-2", &Device::storage("GOOD")).unwrap();
    daemon.wait_until("it is given up", || bed.dead().len() == 2);
    assert_eq!(
        bed.dead(),
        [("dies", 2), ("picky", 2)].map(|(name, seq)| (name.to_owned(), [seq].into())).into()
    );
    for name in ["picky", "dies", "well"] {
        daemon.wait_until("it goes on", || shown(&bed, name).contains(&told(3, "attach", "hotplug")));
    }
    let state = bed.state.path().to_str().unwrap();
    let letters = usbd(&["plugins", "dead", "--state-dir", state, "--json"]).ok().json();
    let letter = letters.iter().find(|letter| letter["plugin"] == "picky").unwrap();
    assert_eq!(
        (&letter["error"], &letter["deliveries"]),
        (&"will not have it".into(), &3.into()),
        "{letter}"
    );
    assert_eq!(letter["event"]["device"]["serial_number"], "BAD");
    let text = usbd(&["plugins", "dead", "--state-dir", state]).ok().stdout;
    assert!(text.contains("picky gave it up after 3 deliveries: will not have it"), "{text}");
    let metrics = metrics();
    for line in [
        "plugin_events_total{plugin=\"picky\",outcome=\"given_up\"} 1",
        "plugin_restarts_total{plugin=\"dies\"} 3",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    daemon.stop();
}

#[test]
fn killed_again_and_again_over_ten_thousand_events_each_is_heard_and_the_poison_is_given_up() {
    const EVENTS: u64 = 10_000;
    let (mut bus, bed) = (bus(), Bed::new());
    bed.shell("well", "note; ok");
    bed.shell("picky", "note; case $device in *:BAD) fail no;; *) ok;; esac");
    for (number, port) in (0..).zip(PORTS) {
        bus.plug_silent(port, &Device::numbered(number)).unwrap();
    }
    let mut daemon = start(&bus, &bed, &[]);
    let (mut random, mut kills, first) = (Random(7), 0, last_seq(&bed.state));
    let mut poison = 0;
    while last_seq(&bed.state) < first + EVENTS {
        let before = last_seq(&bed.state);
        if poison < 5 {
            poison += 1;
            bus.plug("1-15", &Device::storage("BAD")).unwrap();
            daemon.wait_until("it is read", || last_seq(&bed.state) > before);
            bus.unplug("1-15").unwrap();
            daemon.wait_until("it is gone", || last_seq(&bed.state) > before + 1);
        }
        let before = last_seq(&bed.state);
        bus.cycle(&PORTS, 40).unwrap();
        daemon.wait_until("it writes", || last_seq(&bed.state) > before);
        thread::sleep(Duration::from_millis(random.below(400) as u64));
        daemon.kill();
        kills += 1;
        daemon = start(&bus, &bed, &[]);
    }
    assert!(kills >= 10, "{kills}");
    let all = events(&bed.state);
    let last = all.len() as u64;
    daemon.wait_until("all is settled", || {
        let is_idle = |plugin: &serde_json::Value| plugin["waiting"] == 0 && plugin["state"] == "running";
        let health = health();
        let plugins = health["plugins"].as_array().unwrap();
        plugins.len() == 2
            && plugins.iter().all(is_idle)
            && bed.heard("well").iter().any(|heard| heard.seq == last)
    });
    // The last few may still be on their way to being settled.
    let bad: BTreeSet<u64> = all
        .iter()
        .filter(|event| event["device"]["serial_number"] == "BAD")
        .map(|event| event["seq"].as_u64().unwrap())
        .collect();
    assert!(!bad.is_empty());
    daemon.wait_until("the poison is given up", || bed.dead().get("picky") == Some(&bad));
    daemon.stop();
    assert_eq!(bed.dead().len(), 1, "nobody else gave anything up");
    let expected = || first + 1..=last;
    assert_all_in_order(&bed.heard("well"), expected(), "well");
    assert_all_in_order(&bed.heard("picky"), expected(), "picky");
}

#[test]
fn a_new_version_and_a_new_plugin_are_taken_up_and_a_removed_one_ends() {
    let (mut bus, bed) = (bus(), Bed::new());
    bed.shell("desk", "note; ok");
    let daemon = start(&bus, &bed, &[]);
    bus.plug("1-1", &Device::storage("A")).unwrap();
    daemon.wait_until("it is heard", || bed.heard("desk").iter().any(|heard| heard.seq == 2));
    bed.shell("late", "note; ok");
    daemon.wait_until("it is told what is there", || bed.heard("late").len() == 2);
    assert!(bed.heard("late").iter().all(|heard| heard.reason == "coldplug"));
    bed.shell("desk", "note; note; ok");
    daemon.wait_for_log("swapped for a new version");
    bus.unplug("1-1").unwrap();
    daemon.wait_until("the new one hears", || {
        bed.heard("desk").iter().filter(|heard| heard.action == "detach").count() == 2
    });
    fs::remove_dir_all(bed.plugins.path().join("desk")).unwrap();
    daemon.wait_for_log("removed");
    assert_eq!(health()["plugins"].as_array().unwrap().len(), 1);
    daemon.stop();
}

#[test]
fn plugins_that_are_too_far_behind_are_cut_off_with_an_alarm() {
    let (mut bus, bed) = (bus(), Bed::new());
    bed.shell("slow", "until [ -e $out.go ]; do sleep 0.05; done; note; ok");
    for (number, port) in (0..).zip(PORTS) {
        bus.plug_silent(port, &Device::numbered(number)).unwrap();
    }
    let daemon = start(&bus, &bed, &[("AUTOWEAVE_USB__JOURNAL__MAX_EVENTS", "100")]);
    bus.cycle(&PORTS, 40).unwrap();
    daemon.wait_for_log("the plugins are as many events behind as the journal may hold");
    daemon.wait_until("it is degraded", || health()["status"] == "degraded");
    bed.let_go("slow");
    daemon.wait_for_log("events are lost");
    daemon.wait_until("it is well again", || health()["status"] == "ok");
    assert!(!metrics().contains("plugin_events_lost_total 0"));
    daemon.stop();
}

/// What `/metrics` says, asked as a scraper does.
fn metrics() -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect("127.0.0.1:8080").unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}
