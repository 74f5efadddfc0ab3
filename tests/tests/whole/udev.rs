//! The udev helper and the daemon together: over the socket, by the spool, and with all that may stand in between.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use autoweave_usb_testbus::Device;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::fault::{self};
use crate::harness::{Daemon, StateDir, devices, events, executable, last_seq, wait_until};
use crate::installed;
use crate::invariants::headline;
use crate::machine::Machine;
use crate::program::{CALM, NOBODY, Unprivileged, files, finish, has_user};

const UDEV: &[&str] = &["--source", "udev"];

fn notice(action: &str, port: &str, seqnum: u64, address: u8) -> Vec<u8> {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let told = json!({
        "version": 1, "action": action, "port": port, "address": address, "vendor_id": "1209",
        "product_id": "4243", "seqnum": seqnum, "boot_id": boot_id.trim(), "timestamp": 1_767_225_600_000_u64,
    });
    told.to_string().into_bytes()
}

#[test]
fn notices_become_events() {
    let mut machine = Machine::new();
    let daemon = machine.start(UDEV);
    assert!(daemon.log().contains("watching the udev helper's notices on"), "{}", daemon.log());
    machine.plug("1-1", &Device::storage("AA"));
    machine.wait_for(&daemon, 2);
    machine.unplug("1-1");
    machine.wait_for(&daemon, 3);
    assert_eq!(machine.last(2), ["attach 1 udev", "detach 1 udev"]);
    for event in &events(&machine.state)[1..] {
        assert_eq!([&event["device"]["serial_number"], &event["reason"]], ["AA", "hotplug"], "{event}");
        assert!(
            event["seqnum"].as_u64() > Some(1_000_000) && event["device"]["device_descriptor"].is_object()
        );
    }

    // Gone before anybody could read it; and by hand, without what the kernel says.
    let socket = UnixDatagram::unbound().unwrap();
    socket.send_to(&notice("add", "1-2", 2_000_000, 9), machine.socket()).unwrap();
    socket.send_to(&notice("remove", "1-2", 2_000_001, 9), machine.socket()).unwrap();
    machine.wait_for(&daemon, 5);
    let told = events(&machine.state);
    assert!(told[3]["device"]["vendor_id"] == "1209" && told[3]["device"]["device_descriptor"].is_null());
    machine.bus.plug_silent("1-3", &Device::receiver()).unwrap();
    let by_hand = br#"{"version":1,"action":"add","port":"1-3","timestamp":1}"#;
    socket.send_to(by_hand, machine.socket()).unwrap();
    machine.wait_for(&daemon, 6);
    assert_eq!(machine.last(1), ["attach 3 udev"]);
    daemon.stop();
    assert!(!machine.socket().exists());
    machine.check();
}

#[test]
fn what_is_out_of_date_is_not_told() {
    let machine = Machine::new();
    let daemon = machine.start(UDEV);
    let socket = UnixDatagram::unbound().unwrap();
    let send = |action, seqnum| {
        socket.send_to(&notice(action, "1-2", seqnum, 9), machine.socket()).unwrap();
    };
    send("add", 10);
    machine.wait_for(&daemon, 2);
    send("remove", 14);
    machine.wait_for(&daemon, 3);
    // Held up on its way, and overtaken.
    send("add", 12);
    send("add", 16);
    send("remove", 18);
    machine.wait_for(&daemon, 5);
    daemon.stop();
    assert_eq!(machine.last(4), ["attach 2 udev", "detach 2 udev", "attach 2 udev", "detach 2 udev"]);
    let seqnums: Vec<_> = events(&machine.state)[1..].iter().map(|event| event["seqnum"].clone()).collect();
    assert_eq!(seqnums, [10, 14, 16, 18]);
}

#[test]
fn what_scans_have_told_late_notices_do_not_tell_again() {
    let mut machine = Machine::new();
    let daemon = machine.start_scanning(UDEV);
    machine.wait_for(&daemon, 1);
    let first = machine.flash_scanned(&daemon, "1-1");
    let second = machine.flash_scanned(&daemon, "1-1");
    for (action, message) in first.into_iter().chain(second) {
        machine.notify_late(&message, action, "1-1");
    }
    let socket = UnixDatagram::unbound().unwrap();
    for (action, seqnum) in [("add", 3_000_000), ("remove", 3_000_001)] {
        socket.send_to(&notice(action, "1-2", seqnum, 99), machine.socket()).unwrap();
    }
    machine.wait_for(&daemon, 7);
    daemon.stop();
    let told = events(&machine.state);
    assert_eq!(told.len(), 7, "{told:?}");
    assert!(told[1..5].iter().all(|event| event["device"]["serial_number"] == "AA"), "{told:?}");
    assert_eq!(machine.last(2), ["attach 2 udev", "detach 2 udev"]);
    machine.check();
}

#[test]
fn what_udev_s_scans_told_late_helpers_do_not_tell_again() {
    check_late_helpers("udev");
}

#[test]
fn what_poll_told_late_helpers_do_not_tell_again() {
    check_late_helpers("poll");
}

/// Both tell of a device without a number of the kernel's.
fn check_late_helpers(source: &str) {
    let mut machine = Machine::new();
    let daemon = machine.start_scanning(&["--source", source]);
    machine.wait_for(&daemon, 1);
    let told = machine.flash_scanned(&daemon, "1-1");
    daemon.stop();
    for (action, message) in told {
        machine.notify_late(&message, action, "1-1");
    }
    machine.flash("1-1");
    assert_eq!(files(&machine.spool()).len(), 4);
    machine.start(&["--source", source]).stop();
    assert_eq!(last_seq(&machine.state), 5, "{:?}", events(&machine.state));
    assert_eq!(files(&machine.spool()), [""; 0]);
    machine.check();
}

#[test]
fn a_full_socket_delays_and_loses_nothing() {
    const DEVICES: u64 = 60;
    let mut machine = Machine::new();
    let daemon = machine.start(UDEV);
    daemon.signal(Signal::SIGSTOP);
    for _ in 0..DEVICES {
        machine.flash("1-1");
    }
    assert!(files(&machine.spool()).len() > 10, "the socket took all");
    daemon.signal(Signal::SIGCONT);
    machine.wait_for(&daemon, 1 + 2 * DEVICES);
    daemon.wait_until("the spool is empty", || files(&machine.spool()).is_empty());
    daemon.stop();
    assert_eq!(last_seq(&machine.state), 1 + 2 * DEVICES);
    machine.check();
}

#[test]
fn what_came_and_went_while_no_daemon_ran_is_told_once() {
    tells_what_came_and_went(&[]);
}

#[test]
fn so_it_is_by_the_source_udev() {
    tells_what_came_and_went(UDEV);
}

#[test]
fn so_it_is_where_the_bus_is_polled() {
    tells_what_came_and_went(&["--source", "poll"]);
}

fn tells_what_came_and_went(source: &[&str]) {
    let mut machine = Machine::new();
    machine.start(source).stop();
    machine.plug("1-1", &Device::storage("AA"));
    machine.flash("1-2");
    machine.flash("1-2");
    machine.unplug("1-1");
    machine.plug("1-3", &Device::storage("BB"));
    assert_eq!(files(&machine.spool()).len(), 7);
    let daemon = machine.start(source);
    let told = [
        "attach 1 udev",
        "attach 2 udev",
        "detach 2 udev",
        "attach 2 udev",
        "detach 2 udev",
        "detach 1 udev",
        "attach 3 udev",
    ];
    assert_eq!(machine.last(7), told, "{source:?}");
    let last = events(&machine.state).pop().unwrap();
    assert_eq!(last["device"]["serial_number"], "BB");
    assert_eq!(files(&machine.spool()), [""; 0]);
    daemon.stop();
    machine.start(source).stop();
    assert_eq!(last_seq(&machine.state), 8);
    machine.check();
}

#[test]
fn the_first_daemon_ever_tells_what_came_and_went_before_it() {
    let mut machine = Machine::new();
    machine.flash("1-1");
    machine.plug("1-2", &Device::receiver());
    machine.start(&[]).stop();
    let told: Vec<_> = events(&machine.state).iter().map(headline).collect();
    let expected = ["attach 1-1 hotplug", "detach 1-1 hotplug", "attach usb1 coldplug", "attach 1-2 hotplug"];
    assert_eq!(told, expected);
    machine.check();
}

#[test]
fn notices_of_another_boot_and_by_hand_change_nothing_that_is_known() {
    let mut machine = Machine::new();
    machine.bus.set_boot_id("11111111-1111-4111-8111-111111111111").unwrap();
    machine.flash("1-2");
    machine.bus.set_boot_id("22222222-2222-4222-8222-222222222222").unwrap();
    machine.bus.plug_silent("1-1", &Device::storage("AA")).unwrap();
    machine.start(&[]).stop();
    let before = last_seq(&machine.state);
    for (action, port) in [("add", "1-1"), ("remove", "1-3"), ("add", "1-1")] {
        let mut by_hand = Command::new(executable());
        by_hand.env_clear().env("RUNTIME_DIRECTORY", machine.runtime());
        by_hand.env("STATE_DIRECTORY", machine.state.path()).args(["notify", action, port]);
        finish(&mut by_hand).ok();
    }
    machine.start(&[]).stop();
    assert_eq!((before, last_seq(&machine.state)), (2, 2));
    assert_eq!(files(&machine.spool()), [""; 0]);
}

#[test]
fn killed_amid_the_spool_it_tells_every_notice_once() {
    const ROUNDS: u32 = 12;
    const FLASHES: u64 = 40;
    let mut machine = Machine::new();
    machine.start(UDEV).stop();
    let mut edges = last_seq(&machine.state);
    let mut killed_amid = 0;
    for round in 0..ROUNDS {
        for index in 0..FLASHES {
            machine.flash(["1-1", "1-2", "1-3"][usize::try_from(index % 3).unwrap()]);
        }
        edges += 2 * FLASHES;
        let daemon = machine.spawn(machine.state.path(), UDEV);
        let begin = Instant::now();
        let pause = Duration::from_millis(2) * round;
        wait_until("it is time", || begin.elapsed() >= pause);
        daemon.kill();
        let left = files(&machine.spool()).len();
        killed_amid += u32::from(left > 0);
        let daemon = machine.start(UDEV);
        machine.wait_for(&daemon, edges);
        daemon.stop();
        assert_eq!(last_seq(&machine.state), edges, "round {round}, {left} files were left");
        assert_eq!(files(&machine.spool()), [""; 0]);
    }
    assert!(killed_amid > 0);
    machine.check();
}

#[test]
fn killed_at_each_step_of_catching_up_it_tells_every_notice_once() {
    let Some(program) = installed::kill_points() else { return };
    let mut machine = Machine::new();
    machine.start(UDEV).stop();
    for (point, edges) in [("committing", 5), ("committed", 9), ("spooled", 13)] {
        machine.flash("1-1");
        machine.flash("1-2");
        let done = machine.state.path().join(point);
        let order = format!("{point}:1:{}", done.display());
        let runtime = machine.runtime();
        let own =
            [("RUNTIME_DIRECTORY", runtime.to_str().unwrap()), ("AUTOWEAVE_USBD_KILL_AT", order.as_str())];
        let env = [CALM, &own].concat();
        let mut daemon = Daemon::spawn_program(&machine.bus, &program, machine.state.path(), &env, UDEV);
        assert_eq!(daemon.wait().signal(), Some(Signal::SIGKILL as i32), "{}", daemon.log());
        assert_eq!(files(&machine.spool()).len(), 4);
        machine.start(UDEV).stop();
        assert_eq!((last_seq(&machine.state), files(&machine.spool()).len()), (edges, 0), "{point}");
    }
    machine.check();
}

#[test]
fn while_another_source_listens_no_notice_is_told_and_none_is_kept() {
    let mut machine = Machine::new();
    let daemon = machine.start(&[]);
    for _ in 0..40 {
        machine.flash("1-2");
    }
    fs::write(machine.spool().join("00000000000000000001-1-1.json"), notice("add", "1-3", 1, 9)).unwrap();
    fs::write(machine.spool().join("00000000000000000002-1-1.json"), "garbage").unwrap();
    UnixDatagram::unbound().unwrap().send_to(b"garbage", machine.socket()).unwrap();
    daemon.wait_until("the spool is empty", || files(&machine.spool()).is_empty());
    let log = daemon.stop();
    assert!(log.contains("counted: malformed"), "{log}");
    assert_eq!(last_seq(&machine.state), 1);
    assert_eq!(files(&machine.spool()), [""; 0]);
}

#[test]
fn what_the_keeper_kept_is_not_told_by_the_spool_as_well() {
    const FLASHES: u64 = 30;
    let mut machine = Machine::new();
    let daemon = machine.start(&[]);
    let pid = Pid::from_raw(daemon.daemon_pid().try_into().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    for _ in 0..FLASHES {
        machine.bus.plug("1-1", &Device::receiver()).unwrap();
        machine.notify("add", "1-1");
        machine.notify("remove", "1-1");
        machine.bus.unplug("1-1").unwrap();
    }
    assert!(!files(&machine.spool()).is_empty());
    kill(pid, Signal::SIGKILL).unwrap();
    machine.wait_for(&daemon, 1 + 2 * FLASHES);
    daemon.wait_until("the spool is empty", || files(&machine.spool()).is_empty());
    daemon.stop();
    machine.start(&[]).stop();
    assert_eq!(last_seq(&machine.state), 1 + 2 * FLASHES);
    assert!(events(&machine.state).iter().all(|event| event["source"] == "uevent"));
    machine.check();
}

/// Whatever is sent or lies there, a notice behind it is told soon.
#[test]
fn hostile_datagrams_harm_nothing() {
    let mut machine = Machine::new();
    let daemon = machine.start(UDEV);
    let socket = UnixDatagram::unbound().unwrap();
    let kept = "[0-9a-f]".repeat(1000).into_bytes();
    for bytes in [&b""[..], b"\xff\xfe", b"{}", b"{\"version\":1}", &kept, &[b'['; 4096], &[0; 150_000]] {
        socket.send_to(bytes, machine.socket()).unwrap();
    }
    assert!(socket.send_to(&vec![b'x'; 1 << 20], machine.socket()).is_err(), "the kernel takes no megabyte");
    daemon.wait_until("all were taken", || daemon.log().contains("malformed"));
    if has_user(NOBODY) {
        // Not even the mode of the socket is in the way of this one.
        fs::set_permissions(machine.shared.path(), Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(machine.socket(), Permissions::from_mode(0o666)).unwrap();
        let user = Unprivileged::new();
        let mut foreign = user.command();
        foreign.env("RUNTIME_DIRECTORY", machine.runtime()).args(["notify", "add", "1-4", "1209", "4243"]);
        assert_eq!(finish(&mut foreign).ok().stderr, "");
    }
    machine.flash("1-1");
    machine.wait_for(&daemon, 3);
    let log = daemon.stop();
    assert!(log.contains("malformed") && (!has_user(NOBODY) || log.contains("foreign")), "{log}");
    assert_eq!(machine.last(2), ["attach 1 udev", "detach 1 udev"]);
    assert_eq!(last_seq(&machine.state), 3);
}

#[test]
fn a_hostile_spool_harms_nothing() {
    const FILES: u64 = 30_000;
    let mut machine = Machine::new();
    machine.start(UDEV).stop();
    let spool = machine.spool();
    let at = |number: u64, name: &str| spool.join(format!("{number:020}-{name}.json"));
    for number in 0..FILES {
        File::create(at(number, "1-1")).unwrap();
    }
    let secret = machine.shared.path().join("secret");
    fs::write(&secret, notice("add", "1-5", 3, 9)).unwrap();
    symlink(&secret, at(1, "2-1")).unwrap();
    fs::hard_link(&secret, at(1, "2-2")).unwrap();
    fs::create_dir(at(1, "2-3")).unwrap();
    assert!(Command::new("mkfifo").arg(at(1, "2-4")).status().unwrap().success());
    File::create(at(1, "2-5")).unwrap().set_len(1 << 40).unwrap();
    if has_user(NOBODY) {
        fs::write(at(1, "2-6"), notice("add", "1-6", 4, 9)).unwrap();
        std::os::unix::fs::chown(at(1, "2-6"), Some(NOBODY), None).unwrap();
    }
    symlink("/dev/zero", spool.join("overflow")).unwrap();
    fs::create_dir(spool.join("directory")).unwrap();
    fs::write(spool.join("garbage"), "garbage").unwrap();

    let begin = Instant::now();
    let daemon = machine.start(UDEV);
    let started = begin.elapsed();
    machine.flash("1-1");
    // Of the hard link, nobody can know that it is one: it is root's file with a notice in it.
    daemon.wait_until("a notice is told", || {
        events(&machine.state).iter().filter(|event| event["device"]["port_path"] == "1").count() >= 2
    });
    let told = begin.elapsed();
    daemon.wait_until("only what nobody may delete is left", || files(&spool).len() == 2);
    let log = daemon.stop();
    println!("started after {started:?}, told after {told:?}");
    assert!(told < Duration::from_secs(10), "{told:?}");
    assert!(secret.exists() && log.contains("malformed"));
    assert!(events(&machine.state).iter().all(|event| event["device"]["port_path"] != "6"));
}

#[test]
fn a_socket_that_is_taken_away_is_made_anew() {
    let machine = Machine::new();
    let daemon = machine.start(UDEV);
    fs::remove_file(machine.socket()).unwrap();
    daemon.wait_for_log("the source udev failed (the udev helper's socket failed");
    daemon.wait_until("it is there again", || machine.socket().exists());
    daemon.stop();

    // Other sources do not need it, and make it anew.
    let daemon = machine.start(&[]);
    fs::remove_file(machine.socket()).unwrap();
    daemon.wait_until("it is there again", || machine.socket().exists());
    daemon.stop();
}

#[test]
fn a_socket_that_fails_is_made_anew() {
    if !fault::is_possible() {
        return;
    }
    let mut machine = Machine::new();
    let daemon = machine.start(UDEV);
    machine.break_socket(&daemon);
    daemon.wait_for_log("the source udev failed (the udev helper's socket failed");
    let helper = UnixDatagram::unbound().unwrap();
    daemon.wait_until("there is another one", || helper.connect(machine.socket()).is_ok());
    machine.flash("1-1");
    machine.wait_for(&daemon, 3);
    assert_eq!(files(&machine.spool()), [""; 0]);
    daemon.stop();
    machine.check();
}

#[test]
fn a_dead_daemons_socket_is_replaced_and_a_living_ones_is_not() {
    let machine = Machine::new();
    machine.start(UDEV).kill();
    assert!(machine.socket().exists());
    let first = machine.start(UDEV);
    let other = StateDir::new();
    let second = machine.spawn(other.path(), &[]);
    second.wait_for_log("watching ");
    assert!(second.log().contains("another daemon listens on"), "{}", second.log());
    second.stop();
    let mode = fs::metadata(machine.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    first.stop();
    assert_eq!(devices(&machine.state).len(), 1);
}
