//! What goes wrong on machines of people: a mistake in the configuration, two ways to install at once.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::{Machine, UNIT, bus_elsewhere, plug_and_unplug};
use crate::{LOOK_AGAIN, given, wait_until};

/// How long a service that cannot run is looked at, and how often it may be started meanwhile.
const LOOK: Duration = Duration::from_secs(10);
const STARTS_MAX: u32 = 2;

#[test]
fn a_mistake_in_the_configuration_is_neither_a_storm_nor_the_end_of_the_socket() {
    let (mut bus, network) = bus_elsewhere();
    let machine = Machine::boot(&network);
    fs::copy(given("AUTOWEAVE_PACKAGE"), machine.root().join("root/usb.deb")).unwrap();
    machine.run(&["dpkg", "--install", "/root/usb.deb"]);
    machine.wait_until_healthy();
    let restarts = || machine.ask("NRestarts").parse::<u32>().unwrap();

    let configuration = machine.root().join("etc/autoweave/usbd.toml");
    let right = fs::read_to_string(&configuration).unwrap();
    fs::write(&configuration, format!("nonsense = 1\n{right}")).unwrap();
    machine.run(&["systemctl", "restart", "--no-block", UNIT]);
    wait_until("it has failed", || restarts() > 0);
    let (before, deadline) = (restarts(), Instant::now() + LOOK);
    for port in ["1-1", "1-2", "1-3"] {
        plug_and_unplug(&mut bus, port);
    }
    while Instant::now() < deadline {
        thread::sleep(LOOK_AGAIN);
    }
    println!("started {} times in {} s", restarts() - before, LOOK.as_secs());
    assert!(restarts() - before <= STARTS_MAX, "{} starts", restarts() - before);

    fs::write(&configuration, right).unwrap();
    machine.wait_until_healthy();
    wait_until("what came meanwhile is told", || machine.events().len() >= 6);
    let told = machine.events();
    assert!(told.len() == 6 && told.iter().all(|event| event.ends_with(" hotplug")), "{told:?}");

    // What an administrator asks for does not wait.
    fs::write(&configuration, "nonsense = 1\n").unwrap();
    machine.run(&["systemctl", "restart", "--no-block", UNIT]);
    wait_until("it says why", || {
        machine.run(&["journalctl", "--unit", UNIT, "--lines=5"]).contains("nonsense")
    });
    let begun = Instant::now();
    machine.run(&["systemctl", "stop", UNIT]);
    assert!(begun.elapsed() < LOOK / 2, "stopping took {:?}", begun.elapsed());
}

#[test]
fn the_package_takes_over_only_from_what_was_uninstalled() {
    let (_bus, network) = bus_elsewhere();
    let machine = Machine::boot(&network);
    fs::copy(given("AUTOWEAVE_PACKAGE"), machine.root().join("root/usb.deb")).unwrap();
    fs::copy(given("AUTOWEAVE_USBD"), machine.root().join("root/autoweave-usbd")).unwrap();
    let refused = |words: &[&str], why: &str| {
        let output = machine.command(words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{words:?}: {said}");
    };

    machine.run(&["/root/autoweave-usbd", "install"]);
    machine.wait_until_healthy();
    refused(&["dpkg", "--install", "/root/usb.deb"], "sudo autoweave-usbd uninstall");
    machine.wait_until_healthy();
    machine.run(&["/root/autoweave-usbd", "uninstall"]);
    // Nobody is there to be asked about the configuration.
    machine.run(&["dpkg", "--install", "/root/usb.deb"]);
    machine.wait_until_healthy();
    assert!(machine.ask("ExecStart").contains("/usr/bin/autoweave-usbd"));
    let checked = machine.run(&["autoweave-usbd", "check"]);
    assert!(checked.contains("the helper is /usr/bin/autoweave-udev-notify"), "{checked}");
    assert_eq!(
        machine.run(&["stat", "--format=%U:%G %a", "/etc/autoweave/usbd.toml"]),
        "root:autoweave 640\n"
    );
    for words in [&["autoweave-usbd", "uninstall"][..], &["autoweave-usbd", "uninstall", "--purge"]] {
        refused(words, "apt-get remove autoweave-usb");
    }
    machine.wait_until_healthy();
}
