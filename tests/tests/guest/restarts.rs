//! Daemons that end and begin again: what changed in between is told, once.

use autoweave_usb_tests::guest::{Daemon, Entry, Gadget, Kernel, Redis, wait_until};

use crate::rig::open_to_all;

fn of(entries: &[Entry], reason: &str) -> Vec<String> {
    let about =
        entries.iter().filter(|entry| entry.get("reason") == reason && entry.get("vendor_id") == "1209");
    let mut lines: Vec<String> =
        about.map(|entry| format!("{} {}", entry.get("action"), entry.get("serial_number"))).collect();
    lines.sort();
    lines
}

#[test]
fn what_is_there_at_the_start_and_what_changed_while_no_daemon_ran() {
    let gadgets = Gadget::several(4);
    let (redis, state) = (Redis::start(), tempfile::tempdir().unwrap());
    open_to_all(state.path());
    let mut kernel = Kernel::listen();
    for gadget in &gadgets[..2] {
        gadget.plug();
    }
    kernel.wait_for("bind", 2);

    let daemon = Daemon::start(&redis, state.path(), &[]);
    wait_until("both are told", || of(&redis.entries(), "coldplug").len() == 2);
    daemon.stop();
    assert_eq!(of(&redis.entries(), "coldplug"), ["attach SN000000", "attach SN000001"]);

    gadgets[0].unplug();
    kernel.wait_for("remove", 1);
    gadgets[2].plug();
    gadgets[3].plug();
    kernel.wait_for("bind", 2);
    let before = redis.entries().len();
    let daemon = Daemon::start(&redis, state.path(), &[]);
    wait_until("the changes are told", || redis.entries().len() >= before + 3);
    daemon.stop();
    let told = redis.entries().split_off(before);
    assert_eq!(of(&told, "reconcile"), ["attach SN000002", "attach SN000003", "detach SN000000"]);
    assert_eq!(told.len(), 3, "{told:?}");
}
