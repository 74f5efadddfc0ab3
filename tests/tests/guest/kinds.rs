//! Devices of QEMU, of every kind it has: what they are is what the stream says they are.

use std::path::Path;

use autoweave_usb_tests::guest::{Entry, Kernel, Qmp, executable, load, run, wait_until};
use serde_json::{Value, json};

use crate::rig::Rig;

/// Class, subclass and protocol.
type Class = (u64, u64, u64);

struct Kind {
    driver: &'static str,
    ids: (&'static str, &'static str),
    device_class: u64,
    speed: &'static str,
    interfaces: &'static [Class],
    product: &'static str,
}

/// As `hw/usb/dev-*.c` in QEMU has them.
const KINDS: [Kind; 7] = [
    Kind {
        driver: "usb-kbd",
        ids: ("0627", "0001"),
        device_class: 0,
        speed: "480",
        interfaces: &[(3, 1, 1)],
        product: "QEMU USB Keyboard",
    },
    Kind {
        driver: "usb-tablet",
        ids: ("0627", "0001"),
        device_class: 0,
        speed: "480",
        interfaces: &[(3, 0, 0)],
        product: "QEMU USB Tablet",
    },
    Kind {
        driver: "usb-storage",
        ids: ("46f4", "0001"),
        device_class: 0,
        speed: "5000",
        interfaces: &[(8, 6, 80)],
        product: "QEMU USB HARDDRIVE",
    },
    Kind {
        driver: "usb-serial",
        ids: ("0403", "6001"),
        device_class: 0,
        speed: "12",
        interfaces: &[(255, 255, 255)],
        product: "QEMU USB SERIAL",
    },
    Kind {
        driver: "usb-hub",
        ids: ("0409", "55aa"),
        device_class: 9,
        speed: "12",
        interfaces: &[(9, 0, 0)],
        product: "QEMU USB Hub",
    },
    Kind {
        driver: "usb-audio",
        ids: ("46f4", "0002"),
        device_class: 0,
        speed: "12",
        interfaces: &[(1, 1, 4), (1, 2, 0)],
        product: "QEMU USB Audio",
    },
    Kind {
        driver: "usb-net",
        ids: ("0525", "a4a2"),
        device_class: 2,
        speed: "12",
        // Of its second configuration: Linux would rather not speak RNDIS (drivers/usb/core/generic.c).
        interfaces: &[(2, 6, 0), (10, 0, 0)],
        product: "RNDIS/QEMU USB Network Device",
    },
];

/// What a device of this kind is plugged with, made first where QEMU has to have it.
fn properties(qmp: &mut Qmp, driver: &str) -> Value {
    let backend = qmp.name("backend");
    let mut properties = match driver {
        "usb-storage" => {
            let disk =
                json!({"driver": "null-co", "node-name": backend, "size": 1 << 20, "read-zeroes": true});
            qmp.execute("blockdev-add", &disk);
            json!({"drive": backend})
        }
        "usb-serial" => {
            let ring = json!({"type": "ringbuf", "data": {"size": 4096}});
            qmp.execute("chardev-add", &json!({"id": backend, "backend": ring}));
            json!({"chardev": backend})
        }
        "usb-net" => {
            qmp.execute("netdev_add", &json!({"type": "hubport", "id": backend, "hubid": 0}));
            json!({"netdev": backend})
        }
        // Of the guest's command line.
        "usb-audio" => json!({"audiodev": "sound"}),
        _ => json!({}),
    };
    properties["serial"] = serial(driver).into();
    properties
}

fn serial(driver: &str) -> String {
    format!("SERIAL-{driver}")
}

#[test]
fn each_kind_is_told_as_what_it_is() {
    let mut qmp = Qmp::open();
    let mut rig = Rig::start(&[]);
    for (controller, kind) in KINDS.iter().enumerate() {
        let mut properties = properties(&mut qmp, kind.driver);
        properties["bus"] = format!("xhci{}.0", controller % 4).into();
        let id = qmp.plug(kind.driver, properties);
        let port = rig.kernel.wait_for("bind", 1).remove(0).port;
        let is_told = |entry: &Entry| entry.get("action") == "attach" && entry.port() == port;
        let mut told = None;
        wait_until(kind.driver, || {
            told = rig.redis.entries().into_iter().rfind(is_told);
            told.is_some()
        });
        check(kind, &told.unwrap());
        qmp.unplug(&id);
        rig.kernel.wait_for("remove", 1);
    }
    let told = rig.finish();
    for (kind, pair) in KINDS.iter().zip(told.chunks(2)) {
        assert_eq!(pair[1].get("action"), "detach");
        check(kind, &pair[1]);
    }
}

/// What drivers make for each kind; a disk is found after a second.
#[test]
fn device_nodes_are_shown_once_they_exist() {
    let mut qmp = Qmp::open();
    load(&["usbhid", "hid_generic", "evdev", "usb_storage", "sd_mod", "ftdi_sio", "snd_usb_audio"]);
    let mut kernel = Kernel::listen();
    for (driver, nodes) in [
        ("usb-kbd", &["/dev/hidraw", "/dev/input/event"][..]),
        ("usb-storage", &["/dev/sd"]),
        ("usb-serial", &["/dev/ttyUSB"]),
        ("usb-audio", &["/dev/snd/pcm"]),
    ] {
        let mut properties = properties(&mut qmp, driver);
        properties["bus"] = "xhci0.0".into();
        let id = qmp.plug(driver, properties);
        kernel.wait_for("bind", 1);
        wait_until(&format!("{driver} has its nodes"), || {
            let devices = run(&[executable().to_str().unwrap(), "devices", "--json"]);
            let mut devices = devices.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let device = devices.find(|device| device["serial_number"] == serial(driver).as_str()).unwrap();
            let shown: Vec<&str> =
                device["nodes"].as_array().unwrap().iter().map(|node| node.as_str().unwrap()).collect();
            assert!(shown.iter().all(|node| Path::new(node).exists()), "{driver}: {shown:?}");
            nodes.iter().all(|node| shown.iter().any(|shown| shown.starts_with(node)))
        });
        qmp.unplug(&id);
        kernel.wait_for("remove", 1);
    }
}

fn check(kind: &Kind, entry: &Entry) {
    let what = kind.driver;
    assert_eq!((entry.get("vendor_id"), entry.get("product_id")), kind.ids, "{what}: {entry:?}");
    let strings = [entry.get("manufacturer"), entry.get("product"), entry.get("serial_number")];
    assert_eq!(strings, ["QEMU", kind.product, &serial(kind.driver)], "{what}: {entry:?}");
    assert_eq!(entry.get("speed_mbps"), kind.speed, "{what}: {entry:?}");
    let descriptor: Value = serde_json::from_str(entry.get("device_descriptor")).unwrap();
    assert_eq!(descriptor["bDeviceClass"], kind.device_class, "{what}: {entry:?}");
    let interfaces: Vec<Value> = serde_json::from_str(entry.get("interfaces")).unwrap();
    let number = |interface: &Value, name: &str| interface[name].as_u64().unwrap();
    let classes: Vec<Class> = interfaces
        .iter()
        .map(|interface| {
            (number(interface, "class"), number(interface, "subclass"), number(interface, "protocol"))
        })
        .collect();
    assert_eq!(classes, kind.interfaces, "{what}: {entry:?}");
}
