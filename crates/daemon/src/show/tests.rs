//! A small bus as people see it, and that nothing hostile gets through.

use std::sync::Arc;

use anstream::adapter::strip_str;
use autoweave_usb_device::{
    Action, Device, Edge, HexBytes, InterfaceReading, Port, PortPath, Reading, Reason, SourceName, Speed,
};
use proptest::prelude::*;
use unicode_width::UnicodeWidthChar;

use super::*;

/// Of ids, class and speed, [manufacturer, product, serial number], and interfaces with class and driver;
/// what is empty is not there.
pub fn device(
    port: &str,
    (vendor_id, product_id): (u16, u16),
    (class, speed): (u8, &str),
    strings: [&str; 3],
    interfaces: &[(u8, &str)],
) -> Device {
    let mut reading = Reading::bare(port.parse().unwrap(), 5, vendor_id, product_id, Some(class));
    reading.speed = Speed::parse(speed);
    let [manufacturer, product, serial_number] = strings.map(|text| Some(HexBytes(text.into())));
    (reading.manufacturer, reading.product, reading.serial_number) = (manufacturer, product, serial_number);
    let interface = |(number, (class, driver)): (u8, &(u8, &str))| InterfaceReading {
        number,
        class: *class,
        subclass: 0,
        protocol: 0,
        driver: Some((*driver).to_owned()).filter(|driver| !driver.is_empty()),
    };
    reading.interfaces = (0..).zip(interfaces).map(interface).collect();
    Device::new(&reading, String::new())
}

/// Two buses: a receiver below a hub, names of double width and none at all, a hub that is not listed.
pub fn bus() -> Vec<Device> {
    let root = ["Linux 6.8.0 xhci-hcd", "xHCI Host Controller", ""];
    let hid = (3, "usbhid");
    vec![
        device("2-3", (0xfff1, 1), (0, "unknown"), ["", "", ""], &[]),
        device("1-10", (0x0781, 0x5581), (0, "5000"), ["SanDisk", "Ultra", "4C530001"], &[(8, "uas")]),
        device("1-1.2", (0x046d, 0xc52b), (0, "12"), ["Logitech", "USB Receiver", "ABC123"], &[hid, hid]),
        device("1-1", (0x05e3, 0x0608), (9, "480"), ["", "", ""], &[(9, "hub")]),
        device("1-1.3.1", (0x2717, 0x5001), (0, "1.5"), ["小米", "无线鼠标 🎧", ""], &[hid]),
        device("usb1", (0x1d6b, 2), (9, "480"), root, &[(9, "hub")]),
    ]
}

fn plain(text: &str) -> String {
    strip_str(text).to_string()
}

fn shown(
    show: impl Fn(&[&Device], Option<usize>) -> String,
    devices: &[Device],
    width: Option<usize>,
) -> String {
    plain(&show(&devices.iter().collect::<Vec<_>>(), width))
}

/// Where `part` begins, in terminal columns.
fn column_of(line: &str, part: &str) -> usize {
    columns(&line[..line.find(part).unwrap()])
}

fn columns(text: &str) -> usize {
    text.chars().filter_map(UnicodeWidthChar::width).sum()
}

#[test]
fn a_small_bus_as_a_table() {
    let expected = "
PORT     ID            SPEED  CLASS    DEVICE                   SERIAL    DRIVERS
usb1     1d6b:0002  480 Mb/s  hub      xHCI Host Controller               hub
1-1      05e3:0608  480 Mb/s  hub      Genesys Logic Hub                  hub
1-1.2    046d:c52b   12 Mb/s  HID ×2   Logitech USB Receiver    ABC123    usbhid
1-1.3.1  2717:5001  1.5 Mb/s  HID      小米 无线鼠标 🎧                   usbhid
1-10     0781:5581    5 Gb/s  storage  SanDisk Ultra            4C530001  uas
2-3      fff1:0001                     Vendor fff1 Device 0001";
    assert_eq!(format!("\n{}", shown(devices_table, &bus(), None)), expected);
}

#[test]
fn a_small_bus_as_a_tree() {
    let expected = "
Bus 1  xHCI Host Controller  usb1     1d6b:0002  480 Mb/s  hub      hub
├─ Genesys Logic Hub         1-1      05e3:0608  480 Mb/s  hub      hub
│  └─ Logitech USB Receiver  1-1.2    046d:c52b   12 Mb/s  HID ×2   usbhid
├─ 小米 无线鼠标 🎧          1-1.3.1  2717:5001  1.5 Mb/s  HID      usbhid
└─ SanDisk Ultra             1-10     0781:5581    5 Gb/s  storage  uas

Bus 2
└─ Vendor fff1 Device 0001   2-3      fff1:0001";
    assert_eq!(format!("\n{}", shown(devices_tree, &bus(), None)), expected);
}

#[test]
fn a_narrow_terminal_loses_the_least_first() {
    let table_at_50 = "
PORT     ID            SPEED  DEVICE
usb1     1d6b:0002  480 Mb/s  xHCI Host Controller
1-1      05e3:0608  480 Mb/s  Genesys Logic Hub
1-1.2    046d:c52b   12 Mb/s  Logitech USB Receiv…
1-1.3.1  2717:5001  1.5 Mb/s  小米 无线鼠标 🎧
1-10     0781:5581    5 Gb/s  SanDisk Ultra
2-3      fff1:0001            Vendor fff1 Device…";
    assert_eq!(format!("\n{}", shown(devices_table, &bus(), Some(50))), table_at_50);
    let tree_at_60 = "
Bus 1  xHCI Host Controller  usb1     1d6b:0002  480 Mb/s
├─ Genesys Logic Hub         1-1      05e3:0608  480 Mb/s
│  └─ Logitech USB Receiver  1-1.2    046d:c52b   12 Mb/s
├─ 小米 无线鼠标 🎧          1-1.3.1  2717:5001  1.5 Mb/s
└─ SanDisk Ultra             1-10     0781:5581    5 Gb/s

Bus 2
└─ Vendor fff1 Device 0001   2-3      fff1:0001";
    assert_eq!(format!("\n{}", shown(devices_tree, &bus(), Some(60))), tree_at_60);
}

#[test]
fn every_column_begins_at_the_same_place_in_all_rows() {
    for width in [None, Some(120), Some(80), Some(78)] {
        let table = shown(devices_table, &bus(), width);
        let parts = [
            ["PORT", "ID", "CLASS", "DEVICE", "DRIVERS"],
            ["1-1.2", "046d", "HID", "Logi", "usbhid"],
            ["1-1.3.1", "2717", "HID", "小米", "usbhid"],
            ["1-10", "0781", "storage", "SanDisk", "uas"],
        ];
        let offsets = parts.map(|parts| {
            let line = table.lines().find(|line| line.starts_with(parts[0])).unwrap();
            parts.map(|part| column_of(line, part))
        });
        assert!(offsets.iter().all(|row| *row == offsets[0]), "{offsets:?} in\n{table}");
    }
}

#[test]
fn styles_are_there_for_who_wants_them() {
    let table = devices_table(&bus().iter().collect::<Vec<_>>(), None);
    assert!(table.starts_with("\x1b[2mPORT\x1b[0m "), "{table:?}");
    assert!(table.contains("\x1b[1mLogitech USB Receiver\x1b[0m "), "{table:?}");
}

#[test]
fn no_devices_are_told_in_one_sentence() {
    for text in [devices_table(&[], Some(80)), devices_tree(&[], None), summary(&[])] {
        assert_eq!(text, NO_DEVICES);
    }
}

#[test]
fn the_summary_counts() {
    let bus = bus();
    for (ports, expected) in [
        (&["usb1", "1-1", "1-1.2", "1-10", "2-3"][..], "3 devices on 2 buses (hubs not counted), 2 hubs"),
        (&["1-1.2"], "1 device on 1 bus"),
        (&["usb1"], "no devices on 1 bus (hubs not counted), 1 hub"),
    ] {
        let is_meant = |device: &&Device| ports.contains(&device.port().to_string().as_str());
        assert_eq!(summary(&bus.iter().filter(is_meant).collect::<Vec<_>>()), expected);
    }
}

const OUR_STYLES: [&str; 5] = ["[0m", "[1m", "[2m", "[31m", "[32m"];

/// What makes a terminal act, hides, or turns text around; each would do harm on its own.
const NASTY: [&str; 20] = [
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x1bP",
    "\u{9b}31m",
    "\u{9d}",
    "\r",
    "\n",
    "\t",
    "\x08",
    "\x7f",
    "\u{202e}",
    "\u{2066}",
    "\u{200b}",
    "\u{200d}",
    "\u{feff}",
    "\u{ad}",
    "\u{2028}",
    "\u{e0041}",
    "\u{301}",
    "漢",
];

fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        proptest::sample::select(&NASTY[..]).prop_map(str::to_owned),
        any::<char>().prop_map(String::from),
        "[a-z ]{1,8}",
    ];
    proptest::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

fn hostile_device() -> impl Strategy<Value = Device> {
    let path = proptest::collection::vec(1..=255u8, 0..=7).prop_map(|ports| PortPath::new(&ports).unwrap());
    let texts = proptest::array::uniform4(hostile());
    (1..=3u8, path, any::<(u16, u16)>(), proptest::option::of(any::<u8>()), texts, 0..9u8).prop_map(
        |(bus, path, (vendor_id, product_id), class, [manufacturer, product, serial, driver], interfaces)| {
            let [manufacturer, product, serial_number] =
                [manufacturer, product, serial].map(|text| Some(HexBytes(text.into_bytes())));
            let interface = |number| InterfaceReading {
                number,
                class: number,
                subclass: 0,
                protocol: 0,
                driver: Some(format!("{driver}{}", number % 3)),
            };
            let reading = Reading {
                manufacturer,
                product,
                serial_number,
                interfaces: (0..interfaces).map(interface).collect(),
                ..Reading::bare(Port { bus, path }, 1, vendor_id, product_id, class)
            };
            Device::new(&reading, String::new())
        },
    )
}

/// That nothing in `text` but our own styles and line ends is more than something to look at.
fn check_is_harmless(text: &str) -> Result<(), TestCaseError> {
    for after_escape in text.split('\x1b').skip(1) {
        prop_assert!(OUR_STYLES.iter().any(|style| after_escape.starts_with(style)), "{text:?}");
    }
    let is_harmful = |character: char| match character {
        '\x1b' | '\n' => false,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => true,
        '\u{ad}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}' => true,
        _ => character.is_control(),
    };
    prop_assert!(!text.contains(is_harmful), "{text:?}");
    Ok(())
}

proptest! {
    #[test]
    fn nothing_hostile_reaches_the_terminal(
        devices in proptest::collection::vec(hostile_device(), 1..5),
        width in proptest::option::of(4..200usize),
    ) {
        let by_port: BTreeSet<Port> = devices.iter().map(Device::port).collect();
        let rootless: BTreeSet<u8> =
            by_port.iter().map(|port| port.bus).filter(|bus| !by_port.contains(&Port::root(*bus))).collect();
        let buses: BTreeSet<u8> = by_port.iter().map(|port| port.bus).collect();
        let borrowed: Vec<&Device> = devices.iter().collect();
        let table = devices_table(&borrowed, width);
        let tree = devices_tree(&borrowed, width);
        prop_assert_eq!(table.lines().count(), devices.len() + 1);
        prop_assert_eq!(tree.lines().count(), by_port.len() + rootless.len() + buses.len() - 1);
        for text in [&table, &tree] {
            check_is_harmless(text)?;
            for line in plain(text).lines() {
                prop_assert!(columns(line) <= width.unwrap_or(usize::MAX), "{:?} in {:?}", line, width);
                prop_assert!(!line.ends_with(' '), "{:?}", line);
            }
        }
    }

    #[test]
    fn an_event_is_one_harmless_line_of_bounded_length(device in hostile_device(), observed_us in any::<u64>()) {
        let edge = Edge {
            seqnum: None,
            action: Action::Attach,
            reason: Reason::Reboot,
            source: SourceName::Replay,
            observed_us,
            edges: u32::MAX,
            device: Arc::new(device),
        };
        let line = edge_line(&edge);
        check_is_harmless(&line)?;
        prop_assert!(!line.contains('\n') && columns(&plain(&line)) < 400, "{line:?}");
    }

    #[test]
    fn a_span_holds_no_escape_sequence_but_its_style(text in hostile()) {
        let shown = Span::new(PLAIN, &text).to_string();
        prop_assert!(!shown.contains(char::is_control), "{shown:?}");
        prop_assert_eq!(Span::new(BOLD, &text).to_string(), format!("\x1b[1m{shown}\x1b[0m"));
    }
}
