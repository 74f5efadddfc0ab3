//! What devices call themselves: escaped wherever a person may see it, faithful wherever a program reads it.

use autoweave_usb_testbus::{Bus, Device};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{Daemon, StateDir, command, events, wait_until};
use crate::program::{CALM, Running, finish, objects, usbd, watch};

/// Colours, a window title, a bell, C1 controls, a right-to-left override, a line of its own, and an invisible one.
const PRODUCT: &str =
    "\u{1b}[31mRed\u{1b}]0;title\u{7} \u{9b}2J\u{202e}gnp.exe\u{2066}\r\nattach 9-9 \u{200b}\u{0}";
const SERIAL: &str = "S\tN\u{8}\u{2028}\u{feff}1";
/// Not UTF-8, and an escape sequence as well.
const MANUFACTURER: &[u8] = b"Ev\xffil\x1b[2J\xc3";

/// What a terminal would obey, and what a person would not see.
const FORBIDDEN: [char; 9] =
    ['\u{202e}', '\u{2066}', '\u{200b}', '\u{feff}', '\u{2028}', '\u{7f}', '\u{9b}', '\u{1b}', '\u{7}'];

fn hostile() -> Device {
    Device {
        manufacturer: Some(MANUFACTURER.to_vec()),
        product_name: Some(PRODUCT.into()),
        serial: Some(SERIAL.into()),
        ..Device::receiver()
    }
}

fn hostile_bus() -> Bus {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    bus.plug_silent("1-1", &hostile()).unwrap();
    bus
}

/// Asserts that `text` is safe on a terminal and still tells what the device calls itself.
fn assert_escaped(what: &str, text: &str) {
    for character in text.chars() {
        let is_obeyed = character.is_control() && character != '\n';
        assert!(!is_obeyed && !FORBIDDEN.contains(&character), "{what} has {character:?} in it:\n{text}");
    }
    assert!(text.contains("Red"), "{what} does not show the name:\n{text}");
    assert!(
        !text.lines().any(|line| line.trim_start().starts_with("attach 9-9")),
        "{what} has a forged line:\n{text}"
    );
}

fn assert_faithful(device: &Value) {
    assert_eq!(device["product"], PRODUCT);
    assert_eq!(device["serial_number"], SERIAL);
    assert_eq!(device["manufacturer"], "Ev\u{fffd}il\u{1b}[2J\u{fffd}");
    assert_eq!(device["raw_strings"], json!({"manufacturer": "4576ff696c1b5b324ac3"}));
    assert_eq!(device["device_id"], format!("046d:c52b:{SERIAL}"));
}

#[test]
fn devices_shows_hostile_names_escaped_and_hands_them_on_exactly() {
    let _bus = hostile_bus();
    for arguments in [&["devices"][..], &["devices", "--tree"]] {
        assert_escaped(&arguments.join(" "), &usbd(arguments).ok().stdout);
    }
    let json = usbd(&["devices", "--json"]).ok();
    assert_eq!(json.stdout.lines().count(), 2, "one object a line, whatever a name says");
    assert!(!json.stdout.bytes().any(|byte| byte < 0x20 && byte != b'\n'), "JSON escapes control characters");
    assert_faithful(&json.json()[1]);
}

#[test]
fn events_show_hostile_names_escaped_and_hand_them_on_exactly() {
    let mut bus = hostile_bus();
    let state = StateDir::new();
    let json = watch(&mut bus, command(CALM).args(["watch", "--json"]));
    let text = watch(&mut bus, command(CALM).arg("watch"));
    let daemon = Daemon::start(&bus, &state, CALM);
    bus.unplug("1-1").unwrap();
    let is_hostile = |event: &&Value| event["device"]["product"] == PRODUCT;
    wait_until("all have seen it go", || {
        let printed = json.json().iter().filter(is_hostile).count();
        let shown = text.stdout().matches("Red").count();
        (events(&state).iter().filter(is_hostile).count(), printed, shown) == (2, 1, 1)
    });
    assert_escaped("watch", &text.end(Signal::SIGINT).stdout);
    json.json().iter().filter(is_hostile).for_each(|event| assert_faithful(&event["device"]));
    let log = daemon.stop();
    assert_escaped("the log", &log);
    assert!(log.contains("\\u{202e}"), "{log}");

    let events = |arguments: &[&str]| {
        finish(command(CALM).args(["events", "--state-dir"]).arg(state.path()).args(arguments)).ok()
    };
    assert_escaped("events", &events(&[]).stdout);
    let written = events(&["--json"]).json();
    assert_eq!(written.iter().filter(is_hostile).count(), 2);
    written.iter().filter(is_hostile).for_each(|event| assert_faithful(&event["device"]));
}

#[test]
fn a_log_in_json_is_one_object_a_line() {
    let bus = hostile_bus();
    let state = StateDir::new();
    let daemon = Daemon::start_with(&bus, state.path(), CALM, &["--log-format", "json"]);
    let log = daemon.stop();
    assert_escaped("the JSON log", &log);
    let lines = objects(&log);
    let attach = lines.iter().find(|line| line["port"] == "1-1").expect("the attach is logged");
    assert_eq!(attach["id"], format!("046d:c52b:{SERIAL}"), "no quotes in it, and nothing escaped twice");
    assert!(attach["name"].as_str().unwrap().ends_with(PRODUCT), "{attach}");
}

#[test]
fn a_recording_of_hostile_names_replays_them_exactly() {
    let _bus = hostile_bus();
    let directory = StateDir::new();
    let file = directory.path().join("bus.jsonl");
    let recorder = Running::start(command(CALM).arg("record").arg(&file));
    wait_until("the scan is recorded", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.lines().count() >= 2 && text.ends_with('\n'))
    });
    recorder.end(Signal::SIGINT).fails(130, &["observations in"]);
    let replay = |arguments: &[&str]| finish(command(CALM).arg("replay").arg(&file).args(arguments)).ok();
    assert_faithful(&replay(&["--json"]).json()[1]["device"]);
    assert_escaped("replay", &replay(&[]).stdout);
}
