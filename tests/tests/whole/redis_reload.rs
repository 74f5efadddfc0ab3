//! A daemon that is told by SIGHUP to publish to another Redis, with another password, or at another rate.

use std::fs;
use std::path::PathBuf;

use autoweave_usb_testbus::{Bus, Device};
use nix::sys::signal::Signal;

use crate::harness::{Daemon, PATIENCE, QUICK, StateDir, last_seq};
use crate::redis_server::{Server, compare, health, order, wait_until_degraded, wait_until_published};

const PORTS: [&str; 4] = ["1-1", "1-2", "1-3", "1-4"];

struct Bed {
    bus: Bus,
    state: StateDir,
    file: PathBuf,
}

impl Bed {
    fn new() -> Self {
        let mut bus = Bus::enter().unwrap();
        for (number, port) in (0..).zip(PORTS) {
            bus.plug_silent(port, &Device::numbered(number)).unwrap();
        }
        let state = StateDir::new();
        let file = state.path().join("usbd.toml");
        Self { bus, state, file }
    }

    /// Writes a configuration: where Redis is, what else `[redis]` has, and the rate.
    fn configure(&self, server: &Server, redis: &str, max_events_per_second: u32) {
        let host = server.socket();
        let text = format!(
            "[redis]\nhost = {host:?}\n{redis}\n[performance]\nmax_events_per_second = {max_events_per_second}\n"
        );
        fs::write(&self.file, text).unwrap();
    }

    fn start(&self) -> Daemon {
        let file = self.file.to_str().unwrap();
        let env = [("AUTOWEAVE_USB_CONFIG", file), ("AUTOWEAVE_USB__MONITORING__INTERVAL", "500")];
        Daemon::start(&self.bus, &self.state, &[QUICK, &env].concat())
    }

    /// Plugs, and waits until the journal has it.
    fn plug(&mut self, daemon: &Daemon, cycles: u32) {
        let told = last_seq(&self.state) + self.bus.cycle(&PORTS, cycles).unwrap();
        daemon.wait_until("the journal has them", || last_seq(&self.state) >= told);
    }
}

fn reload(daemon: &Daemon) {
    let said = || daemon.log().matches("the configuration was reloaded").count();
    let before = said();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_until("the configuration was reloaded", || said() > before);
}

#[test]
fn another_server_gets_all_of_the_journal_once_also_amid_a_flow() {
    let mut bed = Bed::new();
    let (first, second) = (Server::start(), Server::start());
    bed.configure(&first, "", 0);
    let daemon = bed.start();
    bed.plug(&daemon, 5);
    wait_until_published(&daemon, &bed.state, &first);
    // Twice to each: the second time most of the journal is there already.
    for server in [&second, &first, &second, &first] {
        let told = last_seq(&bed.state) + bed.bus.cycle(&PORTS, 50).unwrap();
        bed.configure(server, "", 0);
        reload(&daemon);
        bed.plug(&daemon, 5);
        daemon.wait_until("the journal has them", || last_seq(&bed.state) >= told);
        wait_until_published(&daemon, &bed.state, server);
        compare(&bed.state, server);
    }
    let log = daemon.stop();
    compare(&bed.state, &first);
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn another_password_file_opens_a_server_that_refused_the_old_one() {
    let mut bed = Bed::new();
    let server = Server::start();
    // A connection of before stays logged in.
    let mut operator = server.connect().unwrap();
    order(&mut operator, "CONFIG SET requirepass sesame");
    let [wrong, right] = [("wrong", "swordfish\n"), ("right", "sesame\n")].map(|(name, password)| {
        let file = bed.state.path().join(name);
        fs::write(&file, password).unwrap();
        format!("password_file = {file:?}")
    });
    bed.configure(&server, &wrong, 0);
    let daemon = bed.start();
    bed.plug(&daemon, 5);
    wait_until_degraded(&daemon, "Redis refuses the user or password: WRONGPASS");
    bed.configure(&server, &right, 0);
    reload(&daemon);
    daemon.wait_until("all is published", || {
        let health = health();
        health["status"] == "ok" && health["journal"]["unpublished"] == 0
    });
    let log = daemon.stop();
    order(&mut operator, "CONFIG SET requirepass ");
    compare(&bed.state, &server);
    assert!(!log.contains("swordfish") && !log.contains("sesame"), "{log}");
}

#[test]
fn another_rate_applies_at_once_and_what_it_makes_wait_is_not_lost() {
    let mut bed = Bed::new();
    let server = Server::start();
    bed.configure(&server, "", 0);
    let daemon = bed.start();
    bed.plug(&daemon, 5);
    wait_until_published(&daemon, &bed.state, &server);
    bed.configure(&server, "", 1);
    reload(&daemon);
    // More than a test waits for at that rate.
    let published = server.length();
    bed.plug(&daemon, 50);
    daemon.wait_until("the first is published", || server.length() > published);
    let waiting = health()["journal"]["unpublished"].as_u64().unwrap();
    assert!(waiting > 2 * PATIENCE.as_secs(), "{waiting} of 400 wait");
    bed.configure(&server, "", 0);
    reload(&daemon);
    wait_until_published(&daemon, &bed.state, &server);
    daemon.stop();
    compare(&bed.state, &server);
}
