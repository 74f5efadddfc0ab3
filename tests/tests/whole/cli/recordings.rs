//! `record`, `replay` and `simulate`.

use std::fs;
use std::path::Path;

use autoweave_usb_testbus::Device;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{assert_has, common, plug_whole, seqs, small_bus};
use crate::harness::{StateDir, command, wait_until};
use crate::program::{CALM, Running, until_read, usbd, watch};

fn lines(file: &Path) -> usize {
    fs::read_to_string(file).map_or(0, |text| text.lines().count())
}

/// What `watch` prints of some devices while `record` writes `file`.
fn seen_and_recorded(file: &Path) -> Vec<Value> {
    let mut bus = small_bus();
    let watch = watch(&mut bus, command(CALM).args(["watch", "--json"]));
    let recorder = Running::start(command(CALM).arg("record").arg(file));
    wait_until("the first scan is recorded", || lines(file) >= 2);
    let odd = Device { product_name: Some(b"Odd \x1b[1m\xff name".to_vec()), ..Device::receiver() };
    plug_whole(&mut bus, "1-2", &Device::storage("4C53"));
    plug_whole(&mut bus, "1-3", &odd);
    watch.wait_for_lines(3);
    let recorded = |kind: &str| fs::read_to_string(file).unwrap().matches(&format!("\"{kind}\"")).count();
    wait_until("both plugs are recorded", || recorded("arrived") == 2);
    bus.unplug("1-1").unwrap();
    bus.unplug("1-2").unwrap();
    watch.wait_for_lines(6);
    wait_until("all that was seen is recorded", || recorded("left") == 3);
    let ended = recorder.end(Signal::SIGINT);
    ended.fails(130, &["observations in"]);
    assert_has(&ended.stderr, &["recording", "replay", file.to_str().unwrap()]);
    watch.json().split_off(1)
}

#[test]
fn a_replayed_recording_gives_the_same_events() {
    let directory = StateDir::new();
    let file = directory.path().join("bus.jsonl");
    let replay = || usbd(&["replay", file.to_str().unwrap(), "--json"]).ok().json();
    let [seen, replayed] = until_read(|| {
        let _ = fs::remove_file(&file);
        [seen_and_recorded(&file), replay()]
    });
    assert_eq!(seqs(&replayed), (1..=8).collect::<Vec<_>>());
    let (coldplug, later) = replayed.split_at(3);
    assert!(coldplug.iter().all(|event| event["reason"] == "coldplug" && event["source"] == "replay"));
    let as_replayed = |mut event: Value| {
        event["source"] = "replay".into();
        common(event)
    };
    let expected: Vec<Value> = seen.into_iter().map(as_replayed).collect();
    assert_eq!(later.iter().cloned().map(common).collect::<Vec<_>>(), expected);

    let timestamps =
        |events: &[Value]| events.iter().map(|event| event["timestamp"].clone()).collect::<Vec<_>>();
    assert_eq!(timestamps(&replay()), timestamps(&replayed), "the time is the recording's");
    let text = usbd(&["replay", file.to_str().unwrap()]).ok().stdout;
    assert_eq!(text.lines().count(), 8);
    assert_has(&text, &["attach", "detach", "1-1.2", "0781:5581", "coldplug"]);
}

#[test]
fn a_recording_never_overwrites_a_file() {
    let _bus = small_bus();
    let directory = StateDir::new();
    let file = directory.path().join("precious");
    fs::write(&file, "do not lose this").unwrap();
    usbd(&["record", file.to_str().unwrap()]).fails(74, &[file.to_str().unwrap(), "exists"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "do not lose this");
    let nowhere = directory.path().join("no/such/place");
    usbd(&["record", nowhere.to_str().unwrap()]).fails(74, &[nowhere.to_str().unwrap()]);
}

#[test]
fn a_recording_that_cannot_be_understood_is_named_with_the_line() {
    const HEADER: &str = r#"{"format":"autoweave-usb-recording","version":1,"recorded_at":1}"#;
    let directory = StateDir::new();
    let file = directory.path().join("bus.jsonl");
    let name = file.to_str().unwrap();
    for (content, words) in [
        (b"\x7fELF\x00\xff\xfe garbage".to_vec(), ["line 1", ""]),
        (b"".to_vec(), ["line 1", "not a recording"]),
        (b"{}".to_vec(), ["line 1", ""]),
        (HEADER.replace(":1,", ":2,").into_bytes(), ["line 1", "version 2"]),
        (HEADER.replace("usb-recording", "else").into_bytes(), ["line 1", "not a recording"]),
        (format!("{HEADER}\n{{\"number\":1,\"at\":").into_bytes(), ["line 2", ""]),
        (format!("{HEADER}\nnull\n").into_bytes(), ["line 2", ""]),
    ] {
        fs::write(&file, content).unwrap();
        let failed = usbd(&["replay", name, "--json"]);
        assert!([69, 74].contains(&failed.code()), "{}", failed.stderr);
        failed.fails(failed.code(), &[name, words[0], words[1]]);
        assert_eq!(failed.stdout, "");
    }
    let missing = directory.path().join("missing");
    usbd(&["replay", missing.to_str().unwrap()]).fails(69, &[missing.to_str().unwrap(), "No such file"]);
    usbd(&["replay", directory.path().to_str().unwrap()]).fails(69, &["directory"]);
    fs::write(&file, HEADER).unwrap();
    assert_eq!(usbd(&["replay", name, "--json"]).ok().stdout, "", "nothing happened while it was recorded");
}

#[test]
fn simulated_devices_come_and_go_exactly_as_often_as_asked() {
    let events = usbd(&["simulate", "--devices", "3", "--cycles", "4", "--rate", "0", "--json"]).ok().json();
    assert_eq!(seqs(&events), (1..=24).collect::<Vec<_>>());
    for cycle in events.chunks(6) {
        let actions: Vec<&str> = cycle.iter().map(|event| event["action"].as_str().unwrap()).collect();
        assert_eq!(actions, ["attach", "attach", "attach", "detach", "detach", "detach"]);
    }
    for device in 0..3 {
        let id = format!("1209:0001:SIM{device:05}");
        let of_device: Vec<_> = events.iter().filter(|event| event["device"]["device_id"] == *id).collect();
        let alternating: Vec<_> = of_device.iter().map(|event| event["action"].as_str().unwrap()).collect();
        assert_eq!(alternating, ["attach", "detach"].repeat(4), "{id}");
        assert!(of_device.iter().all(|event| event["source"] == "simulate" && event["reason"] == "hotplug"));
    }
    let quiet = usbd(&["simulate", "--devices", "3", "--cycles", "4", "--rate", "0"]).ok();
    assert_eq!(quiet.stdout, "");
    assert_has(&quiet.stderr, &["24 events"]);
}

#[test]
fn a_simulation_with_a_state_directory_keeps_its_journal() {
    let state = StateDir::new();
    let place = state.path().to_str().unwrap();
    let simulate = || {
        let arguments =
            ["simulate", "--devices", "2", "--cycles", "2", "--rate", "0", "--json", "--state-dir", place];
        usbd(&arguments).ok()
    };
    let first = simulate();
    assert_has(&first.stderr, &["autoweave-usbd events", place]);
    let second = simulate().json();
    assert_eq!(seqs(&second), (9..=16).collect::<Vec<_>>(), "a journal goes on where it ended");
    let printed = [first.json(), second].concat();
    let written = usbd(&["events", "--since", "0", "--json", "--state-dir", place]).ok().json();
    assert_eq!(written, printed);
}
