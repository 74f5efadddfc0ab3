use std::collections::BTreeMap;

use proptest::option;
use proptest::prelude::*;

use super::*;

const DEVPATH: &str = "/devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1.2";
const UEVENT: &[(&str, &str)] = &[
    ("DEVPATH", DEVPATH),
    ("PRODUCT", "46d/c52b/1201"),
    ("TYPE", "239/2/1"),
    ("BUSNUM", "001"),
    ("DEVNUM", "005"),
    ("SEQNUM", "4711"),
];
const BOOT: &str = "01234567-89ab-cdef-0123-456789abcdef";

fn notice(arguments: [&str; 4], environment: &[(&str, &str)]) -> Result<Notice, String> {
    let [action, device, vendor, product] = arguments.map(str::as_bytes);
    let environment: BTreeMap<_, _> = environment.iter().copied().collect();
    let variable = |name: &str| environment.get(name).map(|value| (*value).to_owned());
    Notice::from_udev(NoticeArguments { action, device, vendor, product }, variable, 1_767_225_600_123)
        .map_err(|error| error.to_string())
}

fn bare(action: NoticeAction, port: &str) -> Notice {
    Notice {
        action,
        port: port.parse().unwrap(),
        devpath: None,
        address: None,
        vendor_id: None,
        product_id: None,
        class: None,
        seqnum: None,
        boot_id: None,
        timestamp: 1_767_225_600_123,
    }
}

#[test]
fn what_udev_passes_becomes_the_documented_message() {
    let notice = notice(["add", "1-1.2", "", ""], UEVENT).unwrap().in_boot(&format!("{BOOT}\n"));
    let text = format!(
        r#"{{"version":1,"action":"add","port":"1-1.2","devpath":"{DEVPATH}","address":5,"vendor_id":"046d","product_id":"c52b","class":239,"seqnum":4711,"boot_id":"{BOOT}","timestamp":1767225600123}}"#
    );
    assert_eq!(String::from_utf8(notice.format()).unwrap(), text + "\n");
    assert_eq!(Notice::parse(&notice.format()), Ok(notice));
}

#[test]
fn arguments_are_enough_and_their_ids_win() {
    assert_eq!(notice(["remove", "usb3", "", ""], &[]), Ok(bare(NoticeAction::Remove, "usb3")));
    let ids = |vendor, product| {
        let notice = notice(["add", "1-1.2", vendor, product], UEVENT).unwrap();
        (notice.vendor_id.unwrap(), notice.product_id.unwrap())
    };
    assert_eq!(ids("1209", "4243"), (0x1209, 0x4243));
    assert_eq!(ids("0x5e3", "1"), (0x05e3, 1));
    assert_eq!(ids("1209", ""), (0x046d, 0xc52b), "half of the ids are none");
}

#[test]
fn an_environment_that_is_no_uevents_says_nothing() {
    let hostile = [
        ("DEVPATH", "/devices/../../etc/1-1.2"),
        ("PRODUCT", "+6d/c52b/1"),
        ("TYPE", "300/0/0"),
        ("DEVNUM", "0"),
        ("SEQNUM", "-1"),
    ];
    assert_eq!(notice(["add", "1-1.2", "", ""], &hostile), Ok(bare(NoticeAction::Add, "1-1.2")));
    let long = format!("/devices/{}/1-1.2", "a".repeat(DEVPATH_BYTES_MAX));
    for devpath in ["/devices/usb1/1-1", "/etc/1-1.2", "/devices/\n/1-1.2", "", &long] {
        let notice = notice(["add", "1-1.2", "", ""], &[("DEVPATH", devpath)]).unwrap();
        assert_eq!(notice.devpath, None, "{devpath:?}");
    }
    for boot_id in ["", "no uuid", &"a".repeat(65)] {
        assert_eq!(bare(NoticeAction::Add, "1-1").in_boot(boot_id).boot_id, None);
    }
}

#[test]
fn wrong_arguments_are_named_in_brief() {
    for (arguments, words) in [
        (["change", "1-1", "", ""], r#""change" is no action"#),
        (["", "1-1", "", ""], r#""" is no action"#),
        (["add", "1-1:1.0", "", ""], r#""1-1:1.0" is no USB device"#),
        (["add", "../../etc", "", ""], "is no USB device"),
        (["add", "1-1", "\x1b[2J", "1"], r#""\u{1b}[2J" is no id"#),
        (["add", "1-1", "12345", "1"], "is no id"),
        (["add", "1-1", "1", "+1"], "is no id"),
    ] {
        let error = notice(arguments, UEVENT).unwrap_err();
        assert!(error.contains(words), "{words:?} is not in {error}");
    }
    let error = notice(["add", &"x".repeat(1 << 20), "", ""], &[]).unwrap_err();
    assert!(error.len() < 200 && error.contains('…'), "{error}");
}

#[test]
fn what_no_helper_writes_is_refused() {
    let change = |from: &str, to: &str| {
        let good = notice(["add", "1-1.2", "", ""], UEVENT).unwrap().in_boot(BOOT).format();
        let changed = String::from_utf8(good).unwrap().replacen(from, to, 1);
        Notice::parse(changed.as_bytes())
    };
    assert!(change("", "").is_ok());
    assert!(change("{", r#"{"later":[1],"#).is_ok(), "a key of a later helper");
    assert_eq!(change(r#""version":1"#, r#""version":2"#), Err(NoticeError::Version(2)));
    for (from, to) in [
        (r#""version":1,"#, ""),
        (r#""version":1,"#, r#""version":1,"version":1,"#),
        ("add", "change"),
        ("\"1-1.2\"", "\"../etc\""),
        ("\"1-1.2\"", "\"1-1.3\""),
        ("/devices/", "/devices/../"),
        (r#""address":5"#, r#""address":0"#),
        (r#""address":5"#, r#""address":256"#),
        ("046d", "46d"),
        (BOOT, "boot"),
        ("}", "} {"),
        ("4711", "-1"),
    ] {
        assert!(matches!(change(from, to), Err(NoticeError::Malformed(_))), "{from} → {to}");
    }
    assert_eq!(Notice::parse(&[b' '; Notice::BYTES_MAX + 1]), Err(NoticeError::TooLong));
    assert!(matches!(Notice::parse(b""), Err(NoticeError::Malformed(_))));
    assert!(matches!(Notice::parse(&[b'['; 4000]), Err(NoticeError::Malformed(_))));
}

#[test]
fn names_of_files_sort_in_the_order_of_the_uevents() {
    let with = |seqnum| Notice { seqnum, ..bare(NoticeAction::Add, "1-1") };
    let now = 1_767_225_600_123_456_789;
    let names = [
        with(Some(9)).file_name(now + 5, 70),
        with(Some(10)).file_name(now, 8),
        with(Some(4_000_000_000)).file_name(now, 8),
        with(None).file_name(now, 99),
        with(None).file_name(now + 1, 1),
    ];
    assert!(names.is_sorted(), "{names:?}");
}

fn any_notice() -> impl Strategy<Value = Notice> {
    let port = (1u8.., proptest::collection::vec(1u8.., 0..8)).prop_map(|(bus, ports)| {
        let path = autoweave_usb_device::PortPath::new(&ports).unwrap();
        Port { bus, path }
    });
    let ids = option::of((any::<u16>(), any::<u16>()));
    // Quotes and backslashes take the most room.
    let devpath = option::of("[\"\\\\a-z:]{0,990}");
    let rest = (option::of(1u8..), option::of(any::<u8>()), option::of(any::<u64>()), any::<u64>());
    (any::<bool>(), port, ids, devpath, rest).prop_map(|(came, port, ids, middle, rest)| {
        let (address, class, seqnum, timestamp) = rest;
        let action = if came { NoticeAction::Add } else { NoticeAction::Remove };
        let devpath = middle.map(|middle| format!("/devices/{middle}/{port}"));
        let devpath = devpath.filter(|devpath| is_devpath_of(devpath, port));
        let (vendor_id, product_id) = ids.unzip();
        let boot_id = Some(BOOT.to_owned());
        Notice { action, port, devpath, address, vendor_id, product_id, class, seqnum, boot_id, timestamp }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_notice_is_read_as_it_was_written(notice in any_notice()) {
        let bytes = notice.format();
        prop_assert!(bytes.len() <= Notice::BYTES_MAX);
        prop_assert_eq!(Notice::parse(&bytes), Ok(notice));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Notice::parse(&bytes);
    }

    #[test]
    fn a_damaged_notice_never_panics(notice in any_notice(), at in 0usize..300, value in any::<u8>(), cut in 0usize..400) {
        let mut bytes = notice.format();
        if let Some(byte) = bytes.get_mut(at) { *byte = value; }
        let _ = Notice::parse(&bytes[..cut.min(bytes.len())]);
    }

    #[test]
    fn hostile_arguments_and_environments_make_a_notice_that_can_be_read_or_none(
        arguments in proptest::array::uniform4("add|remove|1-1|usb1|[0-9a-f]{0,5}|\\PC{0,20}"),
        value in "\\PC{0,50}",
    ) {
        let [action, device, vendor, product] = arguments.each_ref().map(String::as_bytes);
        let arguments = NoticeArguments { action, device, vendor, product };
        if let Ok(notice) = Notice::from_udev(arguments, |_| Some(value.clone()), 0) {
            prop_assert_eq!(Notice::parse(&notice.format()), Ok(notice));
        }
    }
}
