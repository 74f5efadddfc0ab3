//! Network namespaces of containers: some hear the kernel's uevents, others do not.

use std::env;
use std::process::Command;

use autoweave_usb_testbus::Device;

use crate::failover::{
    Flow, check_all, check_health, check_none_missing, flashes, settle, start, switches, wait_for_last,
    wait_for_more,
};
use crate::harness::{events, last_seq};
use crate::invariants::headline;
use crate::machine::Machine;
use crate::program::{NOBODY, has_user};

const NOT_HEARD: &str = "poll instead of uevent: it has not been heard to hear anything yet";

/// Whether this is a user namespace of its own. If not, runs the test `name` in one.
fn is_in_user_namespace(name: &str) -> bool {
    if !has_user(NOBODY) {
        return true;
    }
    let mut again = Command::new("unshare");
    again.args(["--user", "--map-root-user"]).arg(env::current_exe().unwrap());
    let output = again.args(["--exact", "--nocapture", name]).output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success() && said[0].contains("1 passed"), "{said:?}");
    false
}

#[test]
fn in_a_user_namespace_of_its_own_it_polls_until_a_uevent_comes() {
    if !is_in_user_namespace("containers::in_a_user_namespace_of_its_own_it_polls_until_a_uevent_comes") {
        return;
    }
    let mut machine = Machine::new();
    let daemon = start(&machine, "auto");
    let log = daemon.log();
    assert!(log.contains("watching the bus, every 100 ms"), "{log}");
    daemon.wait_for_log(NOT_HEARD);
    check_health(&daemon, "poll", 0, Some(NOT_HEARD));
    machine.bus.plug_silent("1-5", &Device::receiver()).unwrap();
    settle(&daemon, &machine);
    let after = last_seq(&machine.state);
    let flow = Flow::begin(machine, flashes);
    daemon.wait_for_log("the source uevent works and takes over from poll");
    wait_for_more(&daemon, 200);
    check_health(&daemon, "uevent", 1, None);
    let machine = flow.end();
    wait_for_last(&daemon, &machine);
    assert_eq!(switches(&daemon.stop()), 1);
    check_all(&machine);
    check_none_missing(&events(&machine.state), after, "uevent");
}

#[test]
fn in_a_user_namespace_of_its_own_the_hosts_helper_is_heard() {
    if !is_in_user_namespace("containers::in_a_user_namespace_of_its_own_the_hosts_helper_is_heard") {
        return;
    }
    let mut machine = Machine::new();
    let daemon = start(&machine, "auto");
    machine.plug("1-1", &Device::receiver());
    daemon.wait_for_log("the source udev works and takes over from poll");
    machine.unplug("1-1");
    settle(&daemon, &machine);
    check_health(&daemon, "udev", 1, Some("udev instead of uevent"));
    daemon.stop();
    let told: Vec<_> = events(&machine.state).iter().map(headline).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    check_all(&machine);
}

#[test]
fn in_a_network_namespace_of_the_initial_user_namespace_uevents_are_heard() {
    if !has_user(NOBODY) {
        eprintln!("SKIPPED: this is a user namespace of its own");
        return;
    }
    let mut machine = Machine::new();
    let daemon = start(&machine, "auto");
    let log = daemon.log();
    assert!(log.contains("watching kernel uevents"), "{log}");
    machine.bus.plug("1-1", &Device::receiver()).unwrap();
    settle(&daemon, &machine);
    check_health(&daemon, "uevent", 0, None);
    assert_eq!(switches(&daemon.stop()), 0);
    assert_eq!(events(&machine.state)[1]["source"], "uevent");
}
