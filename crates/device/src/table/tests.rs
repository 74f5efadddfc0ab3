//! Examples for each rule.

mod world;

use super::*;
use crate::HexBytes;

fn reading(port: &str, address: u8, serial: &str) -> Reading {
    let mut reading = Reading::bare(port.parse().unwrap(), address, 0x046d, 0xc52b, Some(0));
    reading.serial_number = Some(HexBytes(serial.as_bytes().to_vec()));
    reading
}

fn arrived(reading: Reading) -> Observation {
    Observation::Arrived { reading: Box::new(reading) }
}

fn left(port: &str, address: u8) -> Observation {
    Observation::Left { port: port.parse().unwrap(), address: Some(address) }
}

fn scan(readings: &[Reading]) -> Observation {
    Observation::Scan { readings: readings.to_vec(), except: BTreeSet::new() }
}

fn at(ms: u64, observation: Observation) -> Observed {
    let at = Moment { wall_us: 1_000_000_456 + 1_000 * ms, mono_ms: ms };
    Observed { number: ms, seqnum: None, at, source: SourceName::Uevent, observation }
}

/// One line a change, as `action id*edges reason`, with the reason left out for hot-plug.
fn tell(changes: &[Change]) -> Vec<String> {
    let line = |change: &Change| match change {
        Change::Refreshed(device) => format!("refresh {}", device.device_id),
        Change::Edge(edge) => {
            let mut line = format!("{} {}", edge.action, edge.device.device_id.replace("046d:c52b", ""));
            if edge.edges != 1 {
                line += &format!("*{}", edge.edges);
            }
            if edge.reason != Reason::Hotplug {
                line += &format!(" {}", edge.reason);
            }
            line
        }
    };
    changes.iter().map(line).collect()
}

fn first_pending(table: &DeviceTable) -> Option<u64> {
    table.pending().into_values().min()
}

fn check(
    debounce_ms: u64,
    script: impl IntoIterator<Item = (u64, Observation)>,
    expected: &[&str],
) -> DeviceTable {
    let mut table = DeviceTable::new(Policy { debounce_ms, ..Policy::default() });
    let mut changes = Vec::new();
    for (ms, observation) in script {
        changes.extend(table.observe(&at(ms, observation), Reason::Reconcile));
    }
    changes.extend(table.flush());
    assert_eq!(tell(&changes), expected);
    table
}

#[test]
fn every_edge_is_an_event_without_debouncing() {
    check(
        0,
        [(0, arrived(reading("1-1", 2, "A"))), (0, left("1-1", 2)), (0, arrived(reading("1-1", 3, "A")))],
        &["attach :A", "detach :A", "attach :A"],
    );
}

#[test]
fn a_detach_tells_what_was_known_at_the_attach() {
    let mut table = DeviceTable::new(Policy::default());
    let attach = table.observe(&at(0, arrived(reading("1-1", 2, "A"))), Reason::Reconcile);
    let detach = table.observe(&at(5, left("1-1", 2)), Reason::Reconcile);
    let (Change::Edge(attach), Change::Edge(detach)) = (&attach[0], &detach[0]) else { panic!("{detach:?}") };
    assert_eq!(attach.device, detach.device);
    assert_eq!((attach.timestamp(), detach.timestamp()), (1_000_000, 1_000_005));
    assert_eq!((attach.observed_us, detach.observed_us), (1_000_000_456, 1_000_005_456));
}

#[test]
fn what_was_seen_twice_is_published_once() {
    let twice = reading("1-1", 2, "A");
    let table = check(
        0,
        [(0, arrived(twice.clone())), (1, arrived(twice)), (2, left("1-1", 2)), (3, left("1-1", 2))],
        &["attach :A", "detach :A"],
    );
    assert_eq!((table.tallies().duplicate, table.tallies().unmatched), (1, 1));
}

#[test]
fn a_departure_of_another_address_is_of_the_device_before() {
    check(0, [(0, arrived(reading("1-1", 3, "A"))), (1, left("1-1", 2))], &["attach :A"]);
}

#[test]
fn a_missed_departure_is_told_at_the_next_arrival() {
    check(
        0,
        [(0, arrived(reading("1-1", 2, "A"))), (1, arrived(reading("1-1", 3, "B")))],
        &["attach :A", "detach :A", "attach :B"],
    );
}

#[test]
fn the_address_that_wrapped_around_to_the_same_is_no_change() {
    check(0, [(0, arrived(reading("1-1", 2, "A"))), (1, scan(&[reading("1-1", 2, "A")]))], &["attach :A"]);
}

#[test]
fn a_scan_tells_the_difference_leaves_first_then_hubs_first() {
    check(
        0,
        [
            (0, arrived(reading("1-1", 2, "hub"))),
            (1, arrived(reading("1-1.1", 3, "A"))),
            (2, arrived(reading("1-1.1.1", 4, "B"))),
            (3, scan(&[reading("1-2.1", 6, "B"), reading("1-2", 5, "hub")])),
        ],
        &[
            "attach :hub",
            "attach :A",
            "attach :B",
            "detach :B reconcile",
            "detach :A reconcile",
            "detach :hub reconcile",
            "attach :hub reconcile",
            "attach :B reconcile",
        ],
    );
}

#[test]
fn a_scan_says_nothing_about_the_ports_it_excepts() {
    let except = BTreeSet::from(["1-1".parse().unwrap(), "1-2".parse().unwrap()]);
    let scan = Observation::Scan { readings: vec![reading("1-2", 3, "B")], except };
    check(0, [(0, arrived(reading("1-1", 2, "A"))), (1, scan)], &["attach :A"]);
}

#[test]
fn below_a_hub_that_goes_everything_goes_first() {
    check(
        0,
        [
            (0, arrived(reading("usb1", 1, "root"))),
            (0, arrived(reading("1-1", 2, "hub"))),
            (0, arrived(reading("1-1.4", 3, "A"))),
            (1, left("usb1", 1)),
        ],
        &["attach :root", "attach :hub", "attach :A", "detach :A", "detach :hub", "detach :root"],
    );
}

#[test]
fn edges_in_a_window_are_joined_into_their_net_effect() {
    let (a, again) = (reading("1-1", 2, "A"), reading("1-1", 3, "A"));
    let flap = [(0, arrived(a.clone())), (10, left("1-1", 2)), (20, arrived(again)), (30, left("1-1", 3))];
    let table = check(50, flap, &["attach :A", "detach :A*3"]);
    assert_eq!(table.tallies().coalesced, 2);

    let table = check(50, [(0, arrived(a.clone())), (10, left("1-1", 2)), (20, arrived(a))], &["attach :A"]);
    assert_eq!(table.tallies().coalesced, 2);
}

#[test]
fn another_device_in_the_window_is_a_detach_and_an_attach() {
    let script =
        [(0, arrived(reading("1-1", 2, "A"))), (10, left("1-1", 2)), (20, arrived(reading("1-1", 3, "B")))];
    check(50, script, &["attach :A", "detach :A", "attach :B"]);
}

#[test]
fn the_window_is_fixed_and_begins_with_the_first_edge() {
    let mut table = DeviceTable::new(Policy { debounce_ms: 50, ..Policy::default() });
    assert_eq!(table.observe(&at(100, arrived(reading("1-1", 2, "A"))), Reason::Reconcile).len(), 1);
    assert_eq!(table.next_deadline(), Some(150));
    assert_eq!(first_pending(&table), None);
    assert!(table.observe(&at(140, left("1-1", 2)), Reason::Reconcile).is_empty());
    assert_eq!((table.next_deadline(), first_pending(&table)), (Some(150), Some(140)));
    assert!(table.advance(149).is_empty());
    assert_eq!(tell(&table.advance(150)), ["detach :A"]);
    assert_eq!((table.next_deadline(), first_pending(&table)), (None, None));
    assert_eq!(
        tell(&table.observe(&at(151, arrived(reading("1-1", 3, "A"))), Reason::Reconcile)),
        ["attach :A"]
    );
}

#[test]
fn a_hubs_detach_ends_the_windows_below_it() {
    let script = [
        (0, arrived(reading("1-1", 2, "hub"))),
        (60, arrived(reading("1-1.1", 3, "A"))),
        (70, left("1-1.1", 3)),
        (71, left("1-1", 2)),
    ];
    check(50, script, &["attach :hub", "attach :A", "detach :A", "detach :hub"]);
}

#[test]
fn a_hub_plugged_anew_is_told_before_what_is_now_below_it() {
    let script = [
        (0, arrived(reading("1-1", 2, "hub"))),
        (1, arrived(reading("1-1.1", 3, "A"))),
        (10, left("1-1.1", 3)),
        (11, left("1-1", 2)),
        (20, arrived(reading("1-1", 4, "hub"))),
        (30, arrived(reading("1-1.2", 5, "A"))),
    ];
    check(50, script, &["attach :hub", "attach :A", "detach :A", "detach :hub", "attach :hub", "attach :A"]);
}

#[test]
fn what_is_held_comes_to_its_net_effect_however_much_happens() {
    let policy = |debounce_ms| Policy { debounce_ms, ..Policy::default() };
    for debounce_ms in [0, 50] {
        let mut table = DeviceTable::new(policy(debounce_ms));
        let see = |table: &mut DeviceTable, ms, observation| {
            tell(&table.observe(&at(ms, observation), Reason::Reconcile))
        };
        assert_eq!(see(&mut table, 0, arrived(reading("1-1", 2, "A"))), ["attach :A"]);
        assert_eq!(see(&mut table, 0, arrived(reading("1-2", 3, "B"))), ["attach :B"]);
        table.hold(true);
        for round in 0..100 {
            let (ms, address) = (100 + round * 10, 4 + u8::try_from(round).unwrap());
            assert!(see(&mut table, ms, left("1-1", if round == 0 { 2 } else { address - 1 })).is_empty());
            assert!(see(&mut table, ms, arrived(reading("1-1", address, "A"))).is_empty());
        }
        assert!(see(&mut table, 2000, left("1-2", 3)).is_empty());
        assert!(see(&mut table, 2000, arrived(reading("1-3", 120, "C"))).is_empty());
        assert!(see(&mut table, 2001, left("1-3", 120)).is_empty());
        assert_eq!((table.next_deadline(), first_pending(&table)), (None, None));
        assert_eq!(table.advance(3000), []);
        assert_eq!(table.tallies().coalesced, 198, "what surely becomes no event counts before the end");
        table.hold(false);
        assert!(table.next_deadline().is_some_and(|deadline| deadline <= 3000));
        assert_eq!(tell(&table.advance(3000)), ["detach :A", "attach :A*199", "detach :B"]);
        assert_eq!(table.tallies().coalesced, 198 + 2);
    }
}

#[test]
fn two_devices_never_go_by_the_same_name() {
    let same = [
        (0, arrived(reading("1-1", 2, "A"))),
        (1, arrived(reading("1-2", 3, "A"))),
        (2, arrived(reading("1-3", 4, "A@1-2"))),
        (3, left("1-1", 2)),
        (4, left("1-2", 3)),
        (5, arrived(reading("1-2", 5, "A"))),
    ];
    check(
        0,
        same,
        &["attach :A", "attach :A@1-2", "attach :A@1-2@1-3", "detach :A", "detach :A@1-2", "attach :A"],
    );
}

#[test]
fn a_device_without_a_serial_number_is_named_after_its_port() {
    let mut table = DeviceTable::new(Policy::default());
    for serial in [None, Some(HexBytes(b"  ".to_vec()))] {
        let mut reading = reading("1-1.2", 9, "");
        reading.serial_number = serial;
        table.observe(&at(0, left("1-1.2", 9)), Reason::Reconcile);
        table.observe(&at(0, arrived(reading)), Reason::Reconcile);
        assert_eq!(table.devices().next().unwrap().device_id, "046d:c52b@1-1.2");
    }
}

#[test]
fn what_is_learned_later_is_kept_for_the_detach() {
    let bare = Reading::bare("1-1".parse().unwrap(), 2, 0x046d, 0xc52b, Some(0));
    let mut table = DeviceTable::new(Policy::default());
    table.observe(&at(0, arrived(bare)), Reason::Reconcile);
    let learned = Observation::Refreshed { reading: Box::new(reading("1-1", 2, "A")) };
    assert_eq!(tell(&table.observe(&at(1, learned.clone()), Reason::Reconcile)), ["refresh 046d:c52b@1-1"]);
    assert!(table.observe(&at(1, learned), Reason::Reconcile).is_empty(), "nothing new is nothing to write");
    let detach = table.observe(&at(2, left("1-1", 2)), Reason::Reconcile);
    let Change::Edge(edge) = &detach[0] else { panic!("{detach:?}") };
    assert_eq!(edge.device.serial_number.as_deref(), Some("A"));
}

#[test]
fn a_filter_hides_the_attach_and_its_detach_and_counts_both() {
    let filters = Filters { vendor_blacklist: vec![0x046d], ..Filters::default() };
    let mut table = DeviceTable::new(Policy { filters, debounce_ms: 0 });
    assert!(table.observe(&at(0, arrived(reading("1-1", 2, "A"))), Reason::Reconcile).is_empty());
    assert!(table.observe(&at(0, left("1-1", 2)), Reason::Reconcile).is_empty());
    assert_eq!(table.tallies().filtered, [0, 2, 0]);
    assert_eq!(table.devices().count(), 0);
}

#[test]
fn a_new_policy_tells_the_difference() {
    let mut table = DeviceTable::new(Policy::default());
    for (port, serial) in [("1-1", "hub"), ("1-1.1", "A"), ("1-2", "B")] {
        table.observe(&at(0, arrived(reading(port, 2, serial))), Reason::Reconcile);
    }
    let moment = Moment::default();
    let class = Filters { device_class_filter: vec![3], ..Filters::default() };
    let hidden = table.set_policy(Policy { filters: class, debounce_ms: 0 }, moment, SourceName::Uevent);
    assert_eq!(tell(&hidden), ["detach :B reconcile", "detach :A reconcile", "detach :hub reconcile"]);
    let shown = table.set_policy(Policy::default(), moment, SourceName::Uevent);
    assert_eq!(tell(&shown), ["attach :hub reconcile", "attach :A reconcile", "attach :B reconcile"]);
    assert!(table.set_policy(Policy::default(), moment, SourceName::Uevent).is_empty());
    assert_eq!(table.tallies(), Tallies::default());
}

#[test]
fn a_device_that_shows_a_wanted_interface_later_attaches_then() {
    let class = Filters { device_class_filter: vec![3], ..Filters::default() };
    let mut table = DeviceTable::new(Policy { filters: class, debounce_ms: 0 });
    assert!(table.observe(&at(0, arrived(reading("1-1", 2, "A"))), Reason::Reconcile).is_empty());
    let mut hid = reading("1-1", 2, "A");
    hid.interfaces =
        vec![crate::InterfaceReading { number: 0, class: 3, subclass: 1, protocol: 1, driver: None }];
    let learned = Observation::Refreshed { reading: Box::new(hid) };
    assert_eq!(tell(&table.observe(&at(1, learned), Reason::Reconcile)), ["attach :A reconcile"]);
}

#[test]
fn after_a_reboot_everything_old_goes_leaves_first() {
    let devices = [("1-1", "hub"), ("1-1.1", "A")];
    let mut table =
        DeviceTable::restore(devices.map(|(port, id)| Device::new(&reading(port, 2, id), id.into())));
    let gone = table.reboot(Moment::default(), SourceName::Uevent);
    assert_eq!(tell(&gone), ["detach A reboot", "detach hub reboot"]);
    let back = table.observe(&at(0, scan(&[reading("1-1", 2, "hub")])), Reason::Reboot);
    assert_eq!(tell(&back), ["attach :hub reboot"]);
}

#[test]
fn what_arrives_before_the_scan_that_tells_of_its_hub_waits_for_it() {
    let hubs = [reading("usb1", 1, "R"), reading("1-1", 2, "H")];
    let child = reading("1-1.2", 3, "A");
    for debounce_ms in [0, 50] {
        let lost = Observation::Overrun { lost: None };
        let all = [&hubs[..], std::slice::from_ref(&child)].concat();
        let script = [(0, lost), (1, arrived(child.clone())), (2, scan(&all)), (3, left("1-1.2", 3))];
        check(debounce_ms, script, &["attach :R reconcile", "attach :H reconcile", "attach :A", "detach :A"]);
    }
}

#[test]
fn what_leaves_before_the_scan_is_told_all_the_same() {
    let lost = Observation::Overrun { lost: None };
    let script = [(0, lost), (1, arrived(reading("1-1", 2, "A"))), (2, arrived(reading("1-1", 3, "B")))];
    let script = script.into_iter().chain([(3, left("1-1", 3)), (4, scan(&[]))]);
    check(0, script, &["attach :A", "detach :A", "attach :B", "detach :B"]);
}

#[test]
fn a_device_known_from_before_goes_even_where_its_hub_is_not_known() {
    let known = Device::new(&reading("1-1", 2, "A"), "046d:c52b:A".into());
    let mut table = DeviceTable::restore([known]);
    table.expect_scan();
    let mut changes = table.observe(&at(1, arrived(reading("1-1", 3, "B"))), Reason::Reconcile);
    changes.extend(table.observe(&at(2, left("1-1", 3)), Reason::Reconcile));
    changes.extend(table.observe(&at(3, scan(&[])), Reason::Reconcile));
    assert_eq!(tell(&changes), ["detach :A", "attach :B", "detach :B"]);
}

#[test]
fn a_successor_that_waits_leaves_the_name_before_it_free() {
    let lost = Observation::Overrun { lost: None };
    let found = [reading("usb1", 1, "A"), reading("usb2", 1, "R"), reading("2-1", 3, "B")];
    let script = [(0, arrived(reading("2-1", 2, "A"))), (1, lost), (2, arrived(reading("2-1", 3, "B")))];
    let script = script.into_iter().chain([(3, scan(&found))]);
    check(0, script, &["attach :A", "detach :A", "attach :A reconcile", "attach :R reconcile", "attach :B"]);
}

#[test]
fn a_device_waits_for_one_scan_only() {
    let mut table = DeviceTable::new(Policy::default());
    table.expect_scan();
    assert_eq!(table.observe(&at(5, arrived(reading("1-1", 2, "A"))), Reason::Coldplug), []);
    assert_eq!(first_pending(&table), Some(5), "what waits for a scan is not told yet");
    assert_eq!(tell(&table.forgo_scan()), ["attach :A"], "the bus cannot be scanned");
    assert_eq!(
        tell(&table.observe(&at(6, arrived(reading("2-1", 2, "B"))), Reason::Reconcile)),
        ["attach :B"]
    );
    table.expect_scan();
    assert_eq!(table.observe(&at(7, arrived(reading("3-1", 2, "C"))), Reason::Reconcile), []);
    let found = ["1-1 A", "2-1 B", "3-1 C"].map(|text| reading(&text[..3], 2, &text[4..]));
    assert_eq!(tell(&table.observe(&at(8, scan(&found)), Reason::Reconcile)), ["attach :C"]);
}

#[test]
fn a_device_waits_for_one_more_scan_where_the_first_said_nothing_of_its_hub() {
    let below = [arrived(reading("1-1", 2, "H")), arrived(reading("1-1.1", 3, "A"))];
    let other = arrived(reading("2-1", 2, "B"));
    let nothing_of_the_root = || Observation::Scan {
        readings: Vec::new(),
        except: BTreeSet::from(["usb1", "1-1", "1-1.1", "2-1"].map(|port| port.parse().unwrap())),
    };
    let start =
        || [Observation::Overrun { lost: None }].into_iter().chain(below.clone()).chain([other.clone()]);
    let found = ["usb1", "1-1", "1-1.1", "2-1"].into_iter().zip([1, 2, 3, 2]).zip(["R", "H", "A", "B"]);
    let found: Vec<Reading> = found.map(|((port, address), name)| reading(port, address, name)).collect();
    let script = (1..).zip(start().chain([nothing_of_the_root(), scan(&found)]));
    check(0, script, &["attach :B", "attach :R reconcile", "attach :H", "attach :A"]);
    let script = (1..).zip(start().chain([nothing_of_the_root(), nothing_of_the_root()]));
    check(0, script, &["attach :B", "attach :H", "attach :A"]);
}

#[test]
fn what_arrives_below_a_hub_that_was_plugged_anew_unseen_is_told_once() {
    let before = [reading("usb1", 1, "R"), reading("1-1", 2, "H"), reading("1-1.2", 3, "A")];
    let child = reading("1-1.1", 5, "B");
    let after = [before[0].clone(), reading("1-1", 4, "H"), child.clone()];
    let script = [scan(&before), Observation::Overrun { lost: None }, arrived(child), scan(&after)];
    let old = ["attach :R reconcile", "attach :H reconcile", "attach :A reconcile"];
    let new = ["detach :A reconcile", "detach :H reconcile", "attach :H reconcile", "attach :B"];
    check(0, (1..).zip(script), &[&old[..], &new].concat());
}

#[test]
fn below_a_hub_that_was_heard_of_since_the_loss_nothing_waits() {
    let script = [Observation::Overrun { lost: None }, arrived(reading("usb1", 1, "R"))];
    let script =
        script.into_iter().chain([arrived(reading("1-1", 2, "H")), arrived(reading("1-1.1", 3, "A"))]);
    check(0, (1..).zip(script), &["attach :R", "attach :H", "attach :A"]);
}

/// The driver that the last detach of `1-1` tells, of a device that was unbound at `unbound_ms` and left at 10 s.
fn driver_told(debounce_ms: u64, unbound_ms: u64, leaving: Observation) -> Option<String> {
    let mut hid = reading("1-1", 2, "A");
    let driver = Some("usbhid".to_owned());
    hid.interfaces = vec![crate::InterfaceReading { number: 0, class: 3, subclass: 1, protocol: 1, driver }];
    let mut table = DeviceTable::new(Policy { debounce_ms, ..Policy::default() });
    table.observe(&at(0, arrived(hid)), Reason::Reconcile);
    let unbound = Observation::Bound { port: "1-1".parse().unwrap(), interface: 0, driver: None };
    let refreshed = table.observe(&at(unbound_ms, unbound), Reason::Reconcile);
    let [Change::Refreshed(device)] = &refreshed[..] else { panic!("{refreshed:?}") };
    assert_eq!(device.interfaces[0].driver, None);
    let told = table.observe(&at(10_000, leaving), Reason::Reconcile);
    let detach = told.iter().find_map(|change| match change {
        Change::Edge(edge) if edge.action == Action::Detach => Some(edge.device.clone()),
        _ => None,
    });
    detach.unwrap().interfaces[0].driver.clone()
}

#[test]
fn a_detach_tells_the_drivers_that_let_go_because_of_it() {
    for debounce_ms in [0, 50] {
        for leaving in [left("1-1", 2), scan(&[]), arrived(reading("1-1", 3, "B"))] {
            assert_eq!(driver_told(debounce_ms, 9_990, leaving.clone()).as_deref(), Some("usbhid"));
            assert_eq!(driver_told(debounce_ms, 4_000, leaving), None);
        }
    }
}
