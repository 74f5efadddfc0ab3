//! Each other source by itself.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use autoweave_usb_tests::guest::{Gadget, Udevd, executable};

use crate::rig::Rig;

const RULES: &str = "99-autoweave-usb.rules";

/// A scan may be faster than these, udevd takes its time: so there are few.
const RARE_SCANS: &[&str] = &["env", "AUTOWEAVE_USB__MONITORING__INTERVAL=60000"];

fn tells_all(source: &str) {
    let gadgets = Gadget::several(4);
    let mut rig = Rig::start_under(RARE_SCANS, &["--source", source]);
    rig.plug_and_unplug(&gadgets, 5);
    let told = rig.finish_scanning();
    assert_eq!(told.len(), 40);
    assert!(told.iter().filter(|entry| entry.get("reason") == "hotplug").count() > 20, "{told:#?}");
    for entry in told {
        assert_eq!(entry.get("source"), source, "{entry:?}");
        assert!(entry.get("serial_number").starts_with("SN"), "{entry:?}");
    }
}

#[test]
fn libusb_alone() {
    tells_all("libusb");
}

/// The rules as a package would install them, read by udevd itself, which runs the helper.
#[test]
fn udev_rules_and_helper_alone() {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/udev").join(RULES);
    fs::create_dir_all("/run/udev/rules.d").unwrap();
    fs::copy(&rules, Path::new("/run/udev/rules.d").join(RULES)).unwrap();
    fs::create_dir_all("/usr/local/bin").unwrap();
    symlink(executable(), "/usr/local/bin/autoweave-udev-notify").unwrap();
    let group = fs::read_to_string("/etc/group").unwrap();
    fs::write("/etc/group", format!("{}\nautoweave:x:4242:\n", group.trim_end())).unwrap();
    let udevd = Udevd::start();
    tells_all("udev");
    drop(udevd);
    fs::remove_file(Path::new("/run/udev/rules.d").join(RULES)).unwrap();
    fs::remove_file("/usr/local/bin/autoweave-udev-notify").unwrap();
}
