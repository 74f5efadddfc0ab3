//! A daemon that may do nothing in particular hears what one of root's hears.

use std::fs;

use autoweave_usb_tests::guest::Gadget;

use crate::rig::Rig;

/// `nobody`, and nothing that root has.
const NOBODY: &[&str] = &[
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=-all",
    "--bounding-set=-all",
    "--no-new-privs",
];

/// What a container has to itself, and `/sys` as it finds it.
const CONTAINER: &[&str] = &["unshare", "--net", "--ipc", "--uts", "--mount"];

fn tells_all_as(words: &[&str]) {
    let gadgets = Gadget::several(8);
    let mut rig = Rig::start_under(words, &[]);
    rig.plug_and_unplug(&gadgets, 5);
    let told = rig.finish();
    assert_eq!(told.len(), 80);
    for entry in told {
        assert!(entry.get("serial_number").starts_with("SN"), "{entry:?}");
        assert_eq!(entry.get("source"), "uevent");
    }
}

#[test]
fn a_user_without_privileges_hears_everything() {
    tells_all_as(NOBODY);
}

#[test]
fn a_network_namespace_hears_everything() {
    tells_all_as(CONTAINER);
}

#[test]
fn a_user_without_privileges_in_a_network_namespace_hears_everything() {
    tells_all_as(&[CONTAINER, NOBODY].concat());
}

/// Where the kernel tells nothing: polling finds what stays long enough.
#[test]
fn a_user_namespace_is_told_by_scans() {
    let gadgets = Gadget::several(2);
    let mut rig = Rig::start_under(&["unshare", "--user", "--map-root-user", "--net"], &[]);
    for gadget in &gadgets {
        gadget.plug();
        rig.kernel.wait_for("bind", 1);
        rig.wait();
    }
    for gadget in &gadgets {
        gadget.unplug();
        rig.kernel.wait_for("remove", 1);
        rig.wait();
    }
    assert_eq!(rig.finish_scanning().len(), 4);
}

/// No test is more telling than the tool that they rely on.
#[test]
fn nobody_has_no_capabilities() {
    let words = [NOBODY, &["cat", "/proc/self/status"]].concat();
    let status = autoweave_usb_tests::guest::run(&words);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(status.contains(&format!("{set}:\t0000000000000000")), "{status}");
    }
    assert!(status.contains("Uid:\t65534"));
    assert!(fs::read_to_string("/proc/self/status").unwrap().contains("Uid:\t0"));
}
