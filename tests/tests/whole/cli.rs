//! The command line: what each command prints, what it leaves behind, and how it ends.

mod configuration;
mod manners;
mod recordings;

use std::time::{SystemTime, UNIX_EPOCH};

use autoweave_usb_testbus::{Bus, Device, Interface};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{Daemon, StateDir, command, devices, events, last_seq, wait_until};
use crate::program::{CALM, Finished, Running, Unprivileged, files, finish, until_read, usbd, watch};

/// A root hub, a hub and a receiver.
fn small_bus() -> Bus {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    bus.plug_silent("1-1", &Device::hub()).unwrap();
    bus.plug_silent("1-1.2", &Device::receiver()).unwrap();
    bus
}

/// Plugs a device that is complete in sysfs before anyone hears of it, so that every reader sees the same.
fn plug_whole(bus: &mut Bus, port: &str, device: &Device) {
    bus.plug_silent(port, device).unwrap();
    bus.announce(port).unwrap();
}

fn seqs(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["seq"].as_u64().unwrap()).collect()
}

/// The event without what differs from one observer to another.
fn common(mut event: Value) -> Value {
    let object = event.as_object_mut().unwrap();
    for key in ["seq", "event_id", "producer", "timestamp"] {
        assert!(object.remove(key).is_some(), "{key} is missing");
    }
    event
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

fn assert_has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
}

#[test]
fn run_greets_and_a_signal_ends_it_with_0() {
    let _bus = small_bus();
    for (words, signal) in [(&["run"][..], Signal::SIGTERM), (&[], Signal::SIGINT)] {
        let state = StateDir::new();
        let daemon = Running::start(command(CALM).args(words).arg("--state-dir").arg(state.path()));
        let place = format!("the log is in {}, last event 3", state.path().display());
        daemon.wait_for_stderr(&place);
        let stderr = daemon.stderr();
        assert_has(
            &stderr,
            &["watching kernel uevents", "autoweave-usbd devices --tree", "autoweave-usbd events"],
        );
        let connected =
            stderr.lines().find(|line| line.contains("connected: ")).expect("it says what is connected");
        assert_has(connected, &["device"]);

        let ended = daemon.end(signal).ok();
        assert_has(&ended.stderr, &["stopped"]);
        assert_eq!(ended.stdout, "", "the daemon has no data to print");
        let events = events(&state);
        let coldplug = |event: &Value| (event["action"] == "attach") && event["reason"] == "coldplug";
        assert!(events.len() == 3 && events.iter().all(coldplug), "{events:?}");
    }
}

#[test]
fn a_machine_without_usb_is_told_so_and_waited_for() {
    let mut bus = Bus::without_usb().unwrap();
    let state = StateDir::new();
    let mut daemon = Running::start(command(CALM).args(["run", "--state-dir"]).arg(state.path()));
    daemon.wait_for_stderr("no USB bus");
    assert_has(&daemon.stderr(), &["autoweave-usbd simulate"]);
    let watch = Running::start(command(CALM).args(["watch", "--json"]));
    watch.wait_for_stderr("no USB bus");

    let devices = usbd(&["devices"]).ok();
    assert_has(&devices.stderr, &["no USB bus", "simulate"]);
    assert_eq!(usbd(&["devices", "--json"]).ok().stdout, "");
    let check = usbd(&["check", "--state-dir", state.path().to_str().unwrap()]).ok();
    assert_has(&check.stdout, &["no USB bus"]);

    assert!(daemon.is_running());
    bus.plug("1-1", &Device::receiver()).unwrap();
    let receiver = |event: &Value| event["device"]["port_path"] == "1";
    wait_until("the first device is seen", || events(&state).iter().any(receiver));
    assert!(watch.end(Signal::SIGTERM).code() > 0, "watch is interrupted");
    daemon.end(Signal::SIGTERM).ok();
}

/// The contract's example, with what only this machine and this moment can say left to the caller.
fn example(action: &str, event: &Value) -> Value {
    json!({
        "seq": event["seq"], "event_id": event["event_id"], "producer": event["producer"],
        "action": action, "reason": "hotplug", "source": "uevent", "host": "edge-7",
        "timestamp": event["timestamp"], "edges": 1, "seqnum": event["seqnum"],
        "device": {
            "device_id": "046d:c52b:ABC123", "signature": "a97118a5ce9e2a06", "vendor_id": "046d",
            "product_id": "c52b", "manufacturer": "Logitech", "product": "USB Receiver",
            "serial_number": "ABC123", "bus_number": 1, "device_address": 5, "port_path": "1.2",
            "speed_mbps": 12, "device_class": 0,
            "interfaces": [{
                "number": 0, "class": 3, "subclass": 1, "protocol": 1,
                "driver": event["device"]["interfaces"][0]["driver"],
            }],
            "device_descriptor": {
                "bLength": 18, "bDescriptorType": 1, "bcdUSB": 0x0200, "bDeviceClass": 0,
                "bDeviceSubClass": 0, "bDeviceProtocol": 0, "bMaxPacketSize0": 64, "idVendor": 0x046d,
                "idProduct": 0xc52b, "bcdDevice": 0x1201, "iManufacturer": 1, "iProduct": 2,
                "iSerialNumber": 3, "bNumConfigurations": 1,
            },
        },
    })
}

/// What `watch` prints of a receiver that is the fifth device on its bus.
fn receiver_comes_and_goes(user: &Unprivileged) -> Vec<Value> {
    let mut bus = Bus::enter().unwrap();
    // After these come the one that `watch` takes out again and the receiver.
    bus.plug_silent("1-1", &Device::hub()).unwrap();
    bus.plug_silent("1-2", &Device::numbered(1)).unwrap();
    let env = [CALM, &[("AUTOWEAVE_USB__HOST", "edge-7")]].concat();
    let program = watch(&mut bus, user.command().args(["watch", "--json"]).envs(env));
    plug_whole(&mut bus, "1-1.2", &Device::receiver());
    program.wait_for_lines(2);
    bus.unplug("1-1.2").unwrap();
    program.wait_for_lines(3);
    let ended = program.end(Signal::SIGINT);
    assert_eq!(ended.code(), 130);
    ended.json()
}

#[test]
fn watch_prints_the_contracts_example_without_privileges_and_leaves_nothing_behind() {
    let (user, begin) = (Unprivileged::new(), now_ms());
    let [events] = until_read(|| [receiver_comes_and_goes(&user)]);
    assert_eq!(seqs(&events), [1, 2, 3]);
    assert_eq!(events[1], example("attach", &events[1]));
    assert_eq!(events[1]["device"]["interfaces"][0]["driver"], "usbhid");
    assert_eq!(events[2], example("detach", &events[2]));
    assert_eq!(events[2]["device"], events[1]["device"], "the kernel took its driver off before it left");
    for event in &events[1..] {
        let id = event["event_id"].as_str().unwrap();
        assert!(
            id.len() == 26 && id.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase()),
            "{id}"
        );
        let producer = event["producer"].as_str().unwrap();
        assert!(producer.len() == 32 && producer.bytes().all(|byte| byte.is_ascii_hexdigit()), "{producer}");
        let timestamp = event["timestamp"].as_u64().unwrap();
        assert!((begin..=now_ms()).contains(&timestamp), "{timestamp} is not between {begin} and now");
        assert!(event["device"]["speed_mbps"].is_u64());
    }
    assert_ne!(events[1]["event_id"], events[2]["event_id"]);
    assert_eq!(files(user.home.path()), [""; 0], "watch keeps no state");
}

#[test]
fn watch_prints_a_line_a_person_can_read() {
    let mut bus = small_bus();
    bus.plug_silent("1-2", &Device::storage("4C53")).unwrap();
    let program = watch(&mut bus, command(CALM).arg("watch"));
    bus.unplug("1-2").unwrap();
    program.wait_for_lines(2);
    bus.plug("1-2", &Device::storage("4C53")).unwrap();
    let text = program.wait_for_lines(3);
    let lines: Vec<&str> = text.lines().collect();
    assert_has(lines[1], &["detach", "1-2", "0781:5581", "SanDisk", "Ultra"]);
    assert_has(lines[2], &["attach", "1-2", "0781:5581"]);
    assert!(!text.contains('\x1b'), "no colours where there is no terminal");
    assert_eq!(program.end(Signal::SIGINT).code(), 130);
}

#[test]
fn devices_are_listed_as_a_table_a_tree_and_json() {
    let mut bus = small_bus();
    let nameless = Device { manufacturer: None, product_name: None, serial: None, ..Device::receiver() };
    bus.plug_silent("1-4", &nameless).unwrap();
    let user = Unprivileged::new();
    let devices = |arguments: &[&str]| finish(user.command().arg("devices").args(arguments)).ok();

    let table = devices(&[]).stdout;
    let row = |text: &str, id: &str, nth: usize| -> String {
        text.lines()
            .filter(|line| line.contains(id))
            .nth(nth)
            .unwrap_or_else(|| panic!("no {id} in:\n{text}"))
            .to_owned()
    };
    assert_has(&row(&table, "05e3:0608", 0), &["1-1", "GenesysLogic", "USB2.0 Hub"]);
    assert_has(&row(&table, "046d:c52b", 0), &["1-1.2", "Logitech", "USB Receiver"]);
    // usb.ids knows what the device does not say.
    assert_has(&row(&table, "046d:c52b", 1), &["1-4", "Logitech", "Unifying Receiver"]);

    let tree = devices(&["--tree"]).stdout;
    let position = |id: &str| tree.find(id).unwrap_or_else(|| panic!("no {id} in:\n{tree}"));
    assert!(position("xHCI Host Controller") < position("05e3:0608"), "the root hub comes first:\n{tree}");
    assert!(position("05e3:0608") < position("046d:c52b"), "a hub comes before what hangs from it:\n{tree}");
    assert_has(&tree, &["1-1.2", "1-4", "USB Receiver", "Unifying Receiver"]);

    let json = devices(&["--json"]).json();
    let ids: Vec<&str> = json.iter().map(|device| device["device_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["1d6b:0002:0000:00:14.0", "05e3:0608@1-1", "046d:c52b:ABC123", "046d:c52b@1-4"]);
    assert_eq!(json[0]["port_path"], "0");
    assert_eq!(json[2]["interfaces"][0]["driver"], "usbhid");
    assert_eq!([&json[3]["manufacturer"], &json[3]["product"], &json[3]["serial_number"]], [&Value::Null; 3]);
    assert_eq!(files(user.home.path()), [""; 0]);
}

/// A daemon that has written down three coldplugs, then two attaches and two detaches.
fn seven_events(bus: &mut Bus) -> (StateDir, Daemon) {
    let state = StateDir::new();
    let daemon = Daemon::start(bus, &state, CALM);
    for port in ["1-2", "1-3"] {
        plug_whole(bus, port, &Device::storage(port));
    }
    let is_read = |device: &Value| device["device_descriptor"].is_object();
    daemon.wait_until("both devices are read", || {
        devices(&state).iter().filter(|device| is_read(device)).count() == 5
    });
    for port in ["1-2", "1-3"] {
        bus.unplug(port).unwrap();
    }
    daemon.wait_until("seven events are written down", || last_seq(&state) == 7);
    (state, daemon)
}

fn read_events(state: &StateDir, arguments: &[&str]) -> Finished {
    finish(command(CALM).args(["events", "--state-dir"]).arg(state.path()).args(arguments)).ok()
}

#[test]
fn events_are_read_beside_the_daemon_and_without_it() {
    let mut bus = small_bus();
    let (state, daemon) = seven_events(&mut bus);
    let check = || {
        for (arguments, expected) in [
            (&["-n", "3"][..], &[7, 6, 5][..]),
            (&[], &[7, 6, 5, 4, 3, 2, 1]),
            (&["-n", "100"], &[7, 6, 5, 4, 3, 2, 1]),
            (&["-n", "0"], &[]),
            (&["--since", "4"], &[5, 6, 7]),
            (&["--since", "2", "-n", "2"], &[3, 4]),
            (&["--since", "0", "-n", "1"], &[1]),
            (&["--since", "7"], &[]),
            (&["--since", "99"], &[]),
        ] {
            let read = read_events(&state, &[arguments, &["--json"]].concat());
            assert_eq!(seqs(&read.json()), expected, "{arguments:?}");
        }
        let text = read_events(&state, &["-n", "1"]).stdout;
        assert_has(&text, &["detach", "1-3", "0781:5581", "Ultra"]);
        assert_eq!(text.lines().count(), 1);
    };
    check();
    let before = events(&state);
    daemon.stop();
    check();
    assert_eq!(events(&state), before, "reading changes nothing");
    let mut newest_first = read_events(&state, &["-n", "100", "--json"]).json();
    newest_first.reverse();
    assert_eq!(newest_first, before, "what is printed is what is written down");
}

#[test]
fn following_events_prints_what_comes_later() {
    let mut bus = small_bus();
    let (state, daemon) = seven_events(&mut bus);
    let follow = |arguments: &[&str]| {
        let mut command = command(CALM);
        Running::start(
            command.args(["events", "--follow", "--json", "--state-dir"]).arg(state.path()).args(arguments),
        )
    };
    let programs = [follow(&[]), follow(&["--since", "6"]), follow(&["-n", "2"]), follow(&["--since", "8"])];
    for (program, lines) in programs.iter().zip([7, 1, 2, 0]) {
        program.wait_for_lines(lines);
    }
    plug_whole(&mut bus, "1-5", &Device::storage("late"));
    bus.unplug("1-5").unwrap();
    for (program, first) in programs.into_iter().zip([1, 7, 6, 9]) {
        program.wait_for_lines(10 - first);
        let expected: Vec<u64> = (first as u64..=9).collect();
        assert_eq!(seqs(&program.json()), expected);
        assert_eq!(program.end(Signal::SIGINT).code(), 130);
    }
    daemon.stop();
}

/// What the journal holds and what `watch` prints of a bus on which much comes and goes.
fn written_and_printed() -> [Vec<Value>; 2] {
    let mut bus = small_bus();
    let state = StateDir::new();
    let program = watch(&mut bus, command(CALM).args(["watch", "--json"]));
    let daemon = Daemon::start(&bus, &state, CALM);
    let interface = |number, class, driver: Option<&str>| Interface {
        number,
        class,
        subclass: 1,
        protocol: 2,
        driver: driver.map(str::to_owned),
    };
    let interfaces = vec![interface(0, 3, Some("usbhid")), interface(1, 1, None)];
    let composite = Device { interfaces, ..Device::numbered(7) };
    for (port, device) in [("1-1.4", composite), ("1-3", Device::hub()), ("1-3.1", Device::storage("S"))] {
        plug_whole(&mut bus, port, &device);
    }
    daemon.wait_until("three attaches are written down", || last_seq(&state) == 6);
    program.wait_for_lines(4);
    bus.unplug("1-3").unwrap();
    bus.unplug("1-1").unwrap();
    daemon.wait_until("five detaches are written down", || last_seq(&state) == 11);
    program.wait_for_lines(9);
    daemon.stop();
    [read_events(&state, &["--since", "3", "--json"]).json(), program.json().split_off(1)]
}

#[test]
fn the_journal_holds_what_watch_prints() {
    let [written, printed] = until_read(written_and_printed);
    for (written, printed) in written.iter().zip(&printed) {
        let [ours, theirs] = [written, printed].map(|event| event["timestamp"].as_u64().unwrap());
        assert!(ours.abs_diff(theirs) < 5000, "both saw it at about the same time: {ours}, {theirs}");
    }
    let [written, printed] =
        [written, printed].map(|events| events.into_iter().map(common).collect::<Vec<_>>());
    assert_eq!(written, printed);
}

#[test]
fn events_without_a_journal_say_what_to_do() {
    let state = StateDir::new();
    let missing = state.path().join("nothing");
    let failed = usbd(&["events", "--state-dir", missing.to_str().unwrap()]);
    failed.fails(69, &[missing.to_str().unwrap(), "daemon", "--state-dir"]);
    assert_eq!(failed.stdout, "");
    assert_eq!(failed.stderr.lines().count(), 1, "{}", failed.stderr);
    assert!(!missing.exists(), "reading makes nothing");
}

#[test]
fn systemds_state_directory_is_used_by_the_daemon_and_found_by_events() {
    let _bus = small_bus();
    let state = StateDir::new();
    let list = format!("{}:/nowhere", state.path().join("own").display());
    let env = [CALM, &[("STATE_DIRECTORY", list.as_str())]].concat();
    let daemon = Running::start(command(&env).arg("run"));
    daemon.wait_for_stderr("last event 3");
    let events = finish(command(&env).args(["events", "--json"])).ok();
    assert_eq!(seqs(&events.json()), [3, 2, 1]);
    daemon.end(Signal::SIGTERM).ok();
}
