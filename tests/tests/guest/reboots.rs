//! A state directory on a disk that outlives the guest: `cargo xtask test --guest` starts two guests with one disk.
//! The Redis of the first is gone with it, so the second gets everything again.

use std::fs;
use std::path::Path;

use autoweave_usb_tests::guest::{Daemon, Entry, Gadget, Kernel, Redis, load, run, wait_until};

const DISK: &str = "/dev/vda";
const MOUNTED: &str = "/run/disk";

fn mount() -> &'static Path {
    fs::create_dir_all(MOUNTED).unwrap();
    run(&["mount", "-t", "ext4", DISK, MOUNTED]);
    Path::new(MOUNTED)
}

/// What is told of gadgets, in order of their serial numbers.
fn of(entries: &[Entry], reason: &str, action: &str) -> Vec<String> {
    let is_meant = |entry: &&Entry| entry.get("reason") == reason && entry.get("action") == action;
    let gadgets = entries.iter().filter(is_meant).filter(|entry| entry.get("vendor_id") == "1209");
    let mut serials: Vec<String> = gadgets.map(|entry| entry.get("serial_number").to_owned()).collect();
    serials.sort();
    serials
}

fn plug(gadgets: &[&Gadget]) {
    let mut kernel = Kernel::listen();
    for gadget in gadgets {
        gadget.plug();
    }
    kernel.wait_for("bind", gadgets.len());
}

#[test]
fn first_boot() {
    load(&["virtio_blk", "ext4"]);
    wait_until("the disk is there (by `cargo xtask test --guest`)", || Path::new(DISK).exists());
    run(&["mkfs.ext4", "-q", DISK]);
    let (gadgets, redis, state) = (Gadget::several(2), Redis::start(), mount().join("state"));
    plug(&[&gadgets[0], &gadgets[1]]);
    let daemon = Daemon::start(&redis, &state, &[]);
    wait_until("both are told", || of(&redis.entries(), "coldplug", "attach").len() == 2);
    daemon.stop();
    run(&["umount", MOUNTED]);
}

#[test]
fn second_boot() {
    load(&["virtio_blk", "ext4"]);
    wait_until("the disk is there", || Path::new(DISK).exists());
    let (gadgets, redis, state) = (Gadget::several(3), Redis::start(), mount().join("state"));
    plug(&[&gadgets[0], &gadgets[2]]);
    let daemon = Daemon::start(&redis, &state, &[]);
    wait_until("both are told", || of(&redis.entries(), "reboot", "attach").len() == 2);
    daemon.stop();
    let told = redis.entries();
    assert_eq!(of(&told, "coldplug", "attach"), ["SN000000", "SN000001"], "of the first boot");
    assert_eq!(of(&told, "reboot", "detach"), ["SN000000", "SN000001"]);
    assert_eq!(of(&told, "reboot", "attach"), ["SN000000", "SN000002"]);
    let numbers: Vec<usize> = told.iter().map(|entry| entry.get("seq").parse().unwrap()).collect();
    assert_eq!(numbers, (1..=told.len()).collect::<Vec<_>>());
    run(&["umount", MOUNTED]);
}
