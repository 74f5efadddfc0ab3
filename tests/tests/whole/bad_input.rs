//! Whatever devices, the kernel's socket, sysfs, users and disks hand it: the program says what is wrong and goes on.

mod settings;
mod strings;
mod sysfs;

use autoweave_usb_testbus::{Bus, Device, UEVENT_BYTES_MAX, padded};
use serde_json::Value;

use crate::harness::{Daemon, StateDir, devices, events};
use crate::program::CALM;

/// What the daemon counted under `name`, by the log it ended with; 0 if it says nothing of it.
fn counted(log: &str, name: &str) -> u64 {
    let words = format!("counted: {name}");
    let Some(line) = log.lines().find(|line| line.contains(&words)) else { return 0 };
    let count = line.split("count=").nth(1).and_then(|rest| rest.split_whitespace().next());
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no count in {line:?}"))
}

fn wait_for_event(daemon: &Daemon, state: &StateDir, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    let mut found = None;
    daemon.wait_until(what, || {
        found = events(state).into_iter().find(|event| is_it(event));
        found.is_some()
    });
    found.expect("it was waited for")
}

/// Plugs a memory stick, which has to be seen: the daemon is well.
fn goes_on(bus: &mut Bus, daemon: &Daemon, state: &StateDir) {
    bus.plug("1-8", &Device::storage("later")).unwrap();
    wait_for_event(daemon, state, "a later plug is seen", |event| {
        event["device"]["port_path"] == "8" && event["action"] == "attach"
    });
}

fn hubs() -> Bus {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    bus
}

/// A message as the kernel writes it, of `words` separated by spaces.
fn message(words: &str) -> Vec<u8> {
    let mut bytes = words.replace(' ', "\0").into_bytes();
    bytes.push(0);
    bytes
}

#[test]
fn malformed_uevents_are_counted_and_come_to_nothing() {
    let mut bus = hubs();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, CALM);
    const ADD: &str = "add@/devices/pci0000:00/0000:00:14.0/usb1/1-5";
    const USB: &str = "SUBSYSTEM=usb DEVTYPE=usb_device";
    let mut malformed: Vec<Vec<u8>> = [
        format!("ACTION=add {USB} PRODUCT=46d/c52b/1201 DEVNUM=005"),
        format!("{ADD} {USB} TYPE=0/0/0 BUSNUM=001 DEVNUM=005"),
        format!("{ADD} {USB} PRODUCT= DEVNUM=005"),
        format!("{ADD} {USB} PRODUCT=46d DEVNUM=005"),
        format!("{ADD} {USB} PRODUCT=46d/c52bc52b/1 DEVNUM=005"),
        format!("{ADD} {USB} PRODUCT=46d/c52b/1201"),
        format!("{ADD} {USB} PRODUCT=46d/c52b/1201 DEVNUM=999"),
        format!("{ADD} {USB} PRODUCT=46d/c52b/1201 DEVNUM=000"),
        format!("{ADD} {USB} PRODUCT=46d/c52b/1201 DEVNUM=-1"),
        format!("add@/devices/../../etc/1-5 {USB} PRODUCT=46d/c52b/1201 DEVNUM=005"),
        format!("add@/etc/1-5 {USB} PRODUCT=46d/c52b/1201 DEVNUM=005"),
        format!("add@/devices/x/1-0 {USB} PRODUCT=46d/c52b/1201 DEVNUM=005"),
        format!("add@/devices/x/1-1.2.3.4.5.6.7.8.9 {USB} PRODUCT=46d/c52b/1201 DEVNUM=005"),
        format!("remove@/devices/x/not-a-port {USB} PRODUCT=46d/c52b/1201 DEVNUM=005"),
        "bind@/devices/x/1-5:x SUBSYSTEM=usb DEVTYPE=usb_interface DRIVER=usbhid".to_owned(),
    ]
    .iter()
    .map(|words| message(words))
    .collect();
    let not_utf8 =
        |text: &[u8]| [text, b"\xff\xfe\0", &message(&format!("{USB} PRODUCT=1/2/3 DEVNUM=005"))].concat();
    malformed.push(not_utf8(b"add@/devices/x/1-5"));
    malformed.push(not_utf8(b"\xc3"));
    malformed.iter().for_each(|message| bus.inject(message).unwrap());

    // Not about USB, not about devices, or without a word: none of these is even malformed.
    for other in [
        "",
        "@",
        "add@/devices/virtual/block/loop0 SUBSYSTEM=block DEVTYPE=disk",
        "add@/bus/usb SUBSYSTEM=usb",
    ] {
        bus.inject(&message(other)).unwrap();
    }
    goes_on(&mut bus, &daemon, &state);
    let log = daemon.stop();
    assert_eq!(counted(&log, "malformed"), malformed.len() as u64, "{log}");
    assert_eq!(counted(&log, "overruns"), 0, "{log}");
    assert_eq!(events(&state).len(), 2, "the root hub and the later plug: {:?}", events(&state));
}

#[test]
fn a_uevent_may_fill_the_kernels_buffer_but_no_more() {
    let mut bus = hubs();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, CALM);
    bus.plug_silent("1-1", &Device::receiver()).unwrap();
    let add = bus.message("add", "1-1").unwrap();
    bus.inject(&padded(&add, UEVENT_BYTES_MAX)).unwrap();
    wait_for_event(&daemon, &state, "a long message is understood", |event| {
        event["device"]["port_path"] == "1"
    });
    assert!(bus.inject(&padded(&add, 4096)).is_err(), "the kernel itself sends nothing longer");
    // A real kernel could send this many fields as well; each is looked at.
    bus.inject(&padded(&message("change@/devices/x/1-1 SUBSYSTEM=usb"), UEVENT_BYTES_MAX)).unwrap();
    goes_on(&mut bus, &daemon, &state);
    daemon.stop();
}

#[test]
fn messages_from_user_space_are_dropped_and_counted() {
    let mut bus = hubs();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, CALM);
    bus.plug_silent("1-1", &Device::receiver()).unwrap();
    let (add, remove) = (bus.message("add", "1-1").unwrap(), bus.message("remove", "usb1").unwrap());
    bus.unplug_silent("1-1").unwrap();
    for forged in [&add[..], &remove, &padded(&add, 60_000), b"\xff", b"libudev\0\xfe\xed\xca\xfe"] {
        bus.send_from_user_space(forged).unwrap();
    }
    goes_on(&mut bus, &daemon, &state);
    let log = daemon.stop();
    assert_eq!(counted(&log, "foreign"), 5, "{log}");
    assert_eq!(counted(&log, "overruns"), 0, "a long one is no loss: {log}");
    assert_eq!(events(&state).len(), 2, "the root hub and the later plug: {:?}", events(&state));
}

#[test]
fn garbage_in_descriptors_costs_only_what_it_garbles() {
    let mut bus = hubs();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, CALM);
    let device_descriptor = [18, 1, 0, 2, 0, 0, 0, 64, 0x6d, 4, 0x2b, 0xc5, 1, 18, 1, 2, 3, 1];
    let noise: Vec<u8> = (0..70_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let garbage = [
        (vec![0], false),
        (vec![0xff; 70_000], false),
        (noise.clone(), false),
        (device_descriptor[..17].to_vec(), false),
        (device_descriptor.to_vec(), true),
        ([&device_descriptor[..], &[0; 64]].concat(), true),
        ([&device_descriptor[..], &[9, 2, 0xff, 0xff, 200, 1, 0, 0xa0, 49, 9, 4, 0]].concat(), true),
        ([&device_descriptor[..], &noise].concat(), true),
    ];
    for (number, (descriptors, is_known)) in garbage.into_iter().enumerate() {
        let serial = format!("garbage-{number}");
        let descriptors = Some(descriptors);
        let device = Device { serial: Some(serial.clone().into()), descriptors, ..Device::receiver() };
        bus.plug(&format!("1-{}", number + 1).replace("1-8", "1-9"), &device).unwrap();
        // Of a device that is slow to be read, the attach says less than the table does in the end.
        let mut device = Value::Null;
        daemon.wait_until("the device is read", || {
            let read = |device: &Value| device["serial_number"] == serial.as_str();
            device = devices(&state).into_iter().find(read).unwrap_or_default();
            !device.is_null()
        });
        assert_eq!([&device["vendor_id"], &device["product_id"]], ["046d", "c52b"], "sysfs says so itself");
        assert_eq!(device["device_descriptor"].is_object(), is_known, "{serial}");
        assert!(device.to_string().len() < 20_000, "{serial} makes no monster of its event");
    }
    goes_on(&mut bus, &daemon, &state);
    daemon.stop();
}

#[test]
fn the_bus_is_right_after_a_message_that_could_not_be_understood() {
    let mut bus = hubs();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, CALM);
    bus.plug_silent("1-1", &Device::receiver()).unwrap();
    let add = String::from_utf8(bus.message("add", "1-1").unwrap()).unwrap();
    bus.inject(add.replace("PRODUCT=", "PROD=").as_bytes()).unwrap();
    let event = wait_for_event(&daemon, &state, "the scan finds what the message was about", |event| {
        event["device"]["device_id"] == "046d:c52b:ABC123"
    });
    assert_eq!(event["reason"], "reconcile");
    assert_eq!(devices(&state).len(), 2);
    daemon.stop();
}
