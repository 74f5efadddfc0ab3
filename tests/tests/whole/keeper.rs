//! What outlives a killed daemon: nothing that the kernel said is lost, and nothing is told twice.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use autoweave_usb_testbus::{Bus, Device};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::flood::{Random, hub_and_others, plug_or_unplug};
use crate::harness::{Daemon, QUICK, StateDir, devices, events, executable, last_seq, wait_until};
use crate::invariants::{check, check_hubs, net, on_bus, places};

const PORTS: [&str; 6] = ["1-1", "1-2", "1-3", "1-4", "1-5", "1-6"];

/// A bus with devices that are there before any daemon.
pub fn bus() -> Bus {
    let mut bus = Bus::enter().unwrap();
    for (number, port) in (0..).zip(PORTS) {
        bus.plug_silent(port, &Device::numbered(number)).unwrap();
    }
    bus
}

/// Kills the daemon, not its keeper, and returns the process id it had.
fn kill_daemon(daemon: &Daemon) -> u32 {
    kill_daemon_by(daemon, Signal::SIGKILL)
}

fn kill_daemon_by(daemon: &Daemon, signal: Signal) -> u32 {
    let pid = daemon.daemon_pid();
    assert_ne!(pid, daemon.pid(), "a keeper runs it");
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    pid
}

fn wait_for_another(daemon: &Daemon, before: u32) {
    daemon
        .wait_until("another daemon was started", || ![before, daemon.pid()].contains(&daemon.daemon_pid()));
}

/// Every edge is an event, in order, and the table is what is there.
fn check_told(bus: &Bus, state: &StateDir, edges: u64) {
    let events = events(state);
    check(&events);
    assert_eq!(events.len() as u64, edges, "every edge is told once");
    assert_eq!((net(&events), places(&devices(state))), (on_bus(bus), on_bus(bus)));
}

/// [`check_told`], of a bus whose sysfs stays as it is: what a scan finds there had been lost.
pub fn check_all(bus: &Bus, state: &StateDir, edges: u64) {
    check_told(bus, state, edges);
    let by_scan = events(state).iter().filter(|event| event["reason"] == "reconcile").count();
    assert_eq!(by_scan, 0, "what was found by a scan had been lost");
}

#[test]
fn killed_at_any_moment_of_a_flood_it_loses_nothing_and_repeats_nothing() {
    let mut bus = bus();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    let mut edges = last_seq(&state);
    let mut random = Random(7);
    for _ in 0..8 {
        edges += bus.cycle(&PORTS, 100).unwrap();
        // Any moment will do: while it receives, reads, writes, starts or replays.
        thread::sleep(Duration::from_micros(random.below(30_000) as u64));
        let before = kill_daemon(&daemon);
        // Wholly while no daemon runs.
        edges += bus.cycle(&PORTS, 5).unwrap();
        wait_for_another(&daemon, before);
    }
    daemon.wait_until("all is told", || last_seq(&state) >= edges);
    let log = daemon.stop();
    assert!(log.contains("was ended by SIGKILL"), "{log}");
    check_all(&bus, &state, edges);
}

#[test]
fn killed_while_hubs_come_and_go_it_tells_every_edge_once_and_in_order() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let ports = hub_and_others(5);
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    let mut edges = last_seq(&state);
    let (mut random, mut steps) = (Random(11), 0);
    let mut plug = |bus: &mut Bus, count: u32, random: &mut Random| {
        for _ in 0..count {
            steps += 1;
            let before = bus.devices().len();
            plug_or_unplug(bus, &ports[random.below(ports.len())], steps);
            edges += bus.devices().len().abs_diff(before) as u64;
        }
        edges
    };
    for _ in 0..6 {
        plug(&mut bus, 150, &mut random);
        thread::sleep(Duration::from_micros(random.below(20_000) as u64));
        let before = kill_daemon(&daemon);
        plug(&mut bus, 20, &mut random);
        wait_for_another(&daemon, before);
    }
    let edges = plug(&mut bus, 0, &mut random);
    daemon.wait_until("all is told", || last_seq(&state) >= edges);
    daemon.stop();
    check_hubs(&events(&state));
    // A scan may see a device come or go before its message is sent; then that is no news.
    check_told(&bus, &state, edges);
}

#[test]
fn with_windows_open_a_kill_loses_no_device_that_came_and_went() {
    let mut bus = bus();
    let state = StateDir::new();
    // Only the first edge of a port is told before the window ends.
    let daemon = Daemon::start(&bus, &state, &[("AUTOWEAVE_USB__PERFORMANCE__DEBOUNCE_MS", "700"), QUICK[1]]);
    bus.plug("1-9", &Device::receiver()).unwrap();
    bus.unplug("1-9").unwrap();
    // Its window was opened last, so that no other is open any more.
    daemon.wait_until("the windows of the start end", || last_seq(&state) == 9);
    let told = last_seq(&state);
    bus.unplug("1-1").unwrap();
    bus.plug("1-1", &Device::storage("S1")).unwrap();
    bus.unplug("1-2").unwrap();
    daemon.wait_until("the first edges are told", || last_seq(&state) == told + 2);
    let before = kill_daemon(&daemon);
    wait_for_another(&daemon, before);
    daemon.wait_until("the arrival that waited is told", || last_seq(&state) == told + 3);
    bus.unplug("1-1").unwrap();
    daemon.wait_until("and its departure", || last_seq(&state) == told + 4);
    daemon.stop();
    check_told(&bus, &state, told + 4);
}

#[test]
fn without_its_keeper_a_daemon_makes_room_at_once() {
    let bus = bus();
    let state = StateDir::new();
    let first = Daemon::start(&bus, &state, QUICK);
    let worker = first.daemon_pid();
    first.kill();
    let second = Daemon::start(&bus, &state, QUICK);
    let is_gone =
        || fs::read_to_string(format!("/proc/{worker}/cmdline")).map_or(true, |line| line.is_empty());
    wait_until("the first one's daemon has ended", is_gone);
    second.stop();
}

#[test]
fn what_the_daemon_decides_the_keeper_passes_on() {
    let bus = bus();
    let state = StateDir::new();
    fs::write(state.path().join("journal.lock"), "").unwrap();
    fs::create_dir(state.path().join("journal.db")).unwrap();
    let mut daemon = Daemon::spawn(&bus, state.path(), QUICK, &[]);
    assert_eq!(daemon.wait().code(), Some(73));
    assert!(!daemon.log().contains("was ended by"), "it is not started again: {}", daemon.log());
}

#[test]
fn the_keeper_is_small() {
    let bus = bus();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    // What it shares with the daemon depends on who else runs the same program.
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", daemon.pid())).unwrap();
    let anonymous = rollup.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).unwrap();
    let kib: u64 = anonymous.trim().trim_end_matches(" kB").trim().parse().unwrap();
    assert!(kib < 512, "the keeper holds {kib} KiB of its own");
    daemon.stop();
}

#[test]
fn an_upgrade_leaves_no_gap() {
    let mut bus = bus();
    let state = StateDir::new();
    let place = StateDir::new();
    let program = install(&place);
    let daemon = Daemon::spawn_program(&bus, &program, state.path(), QUICK, &[]);
    daemon.wait_for_log("watching ");
    let mut edges = last_seq(&state);
    for upgrade in 1..=4 {
        edges += bus.cycle(&PORTS, 50).unwrap();
        let worker = daemon.daemon_pid();
        fs::rename(install(&place).with_file_name("next"), &program).unwrap();
        daemon.signal(Signal::SIGUSR2);
        edges += bus.cycle(&PORTS, 50).unwrap();
        daemon.wait_until("the new one watches", || daemon.log().matches("watching ").count() == upgrade + 1);
        assert_eq!(daemon.daemon_pid(), worker, "it is the same process");
        let running = fs::read_link(format!("/proc/{worker}/exe")).unwrap();
        assert_eq!(running, program, "and another program");
    }
    fs::remove_file(&program).unwrap();
    daemon.signal(Signal::SIGUSR2);
    daemon.wait_until("the old one goes on", || daemon.log().matches("watching ").count() == 6);
    install(&place);
    daemon.signal(Signal::SIGUSR2);
    daemon.wait_until("until there is a new one", || daemon.log().matches("watching ").count() == 7);
    assert_eq!(fs::read_link(format!("/proc/{}/exe", daemon.daemon_pid())).unwrap(), program);
    edges += bus.cycle(&PORTS, 50).unwrap();
    daemon.wait_until("all is told", || last_seq(&state) >= edges);
    daemon.stop();
    check_all(&bus, &state, edges);
}

/// Puts a copy of the program under the name `autoweave-usbd`, or `next` if that is there.
fn install(place: &StateDir) -> PathBuf {
    let program = place.path().join("autoweave-usbd");
    let copy = if program.exists() { place.path().join("next") } else { program.clone() };
    fs::copy(executable(), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    // A child of another test may just now hold it open for writing: then it cannot be executed yet.
    wait_until("it can be executed", || Command::new(&copy).arg("--version").output().is_ok());
    program
}

#[test]
fn a_stop_amid_an_upgrade_is_a_stop() {
    let bus = bus();
    for delay_ms in [0, 1, 2, 3, 4, 6, 10] {
        let state = StateDir::new();
        let mut daemon = Daemon::start(&bus, &state, QUICK);
        daemon.signal(Signal::SIGUSR2);
        // Amid whichever step of it: any has to do.
        thread::sleep(Duration::from_millis(delay_ms));
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait().code(), Some(0), "after {delay_ms} ms: {}", daemon.log());
    }
}

#[test]
fn a_stop_while_no_daemon_runs_writes_down_what_was_received() {
    let mut bus = bus();
    let state = StateDir::new();
    let mut daemon = Daemon::start(&bus, &state, QUICK);
    let mut edges = last_seq(&state);
    // Each kill makes the pause before the next start longer.
    for _ in 0..5 {
        let before = kill_daemon(&daemon);
        wait_for_another(&daemon, before);
    }
    let worker = Pid::from_raw(daemon.daemon_pid().try_into().unwrap());
    kill(worker, Signal::SIGSTOP).unwrap();
    edges += bus.cycle(&PORTS, 10).unwrap();
    kill(worker, Signal::SIGKILL).unwrap();
    daemon.wait_until("it is gone", || daemon.daemon_pid() == daemon.pid());
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.log());
    check_all(&bus, &state, edges);
}

#[test]
fn after_a_kill_what_may_pass_is_waited_for() {
    let mut bus = bus();
    let state = StateDir::new();
    let file = state.path().join("usbd.toml");
    let good = "[performance]\ndebounce_ms = 0\n";
    fs::write(&file, good).unwrap();
    let daemon = Daemon::start(&bus, &state, &[("AUTOWEAVE_USB_CONFIG", file.to_str().unwrap())]);
    let mut edges = last_seq(&state);
    fs::write(&file, &good[..8]).unwrap();
    kill_daemon(&daemon);
    daemon.wait_for_log("usbd.toml");
    edges += bus.cycle(&PORTS, 3).unwrap();
    fs::write(&file, good).unwrap();
    daemon.wait_until("all is told", || last_seq(&state) >= edges);
    let log = daemon.stop();
    assert!(log.contains("was ended by itself, with 64"), "{log}");
    check_all(&bus, &state, edges);
}

#[test]
fn daemons_that_cannot_stand_what_they_begin_with_get_something_else() {
    let mut bus = bus();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    for _ in 0..5 {
        let before = kill_daemon_by(&daemon, Signal::SIGABRT);
        wait_for_another(&daemon, before);
    }
    daemon.wait_for_log("in a row crashed soon after their start");
    bus.unplug("1-1").unwrap();
    daemon.wait_until("it does its job", || places(&devices(&state)) == on_bus(&bus));
    daemon.stop();
}
