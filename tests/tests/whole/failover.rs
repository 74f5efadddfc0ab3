//! Each source fails in the midst of what happens, and the next one takes over.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use autoweave_usb_testbus::Device;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::fault::{self, Instead};
use crate::flood::{Random, hub_and_others, plug_or_unplug};
use crate::harness::{Daemon, QUICK, devices, events, last_seq};
use crate::http::answer;
use crate::invariants::{check, check_hubs, net, on_bus, places, text};
use crate::machine::{Machine, bound_name};

const INTERVAL: (&str, &str) = ("AUTOWEAVE_USB__MONITORING__INTERVAL", "100");

/// Between two steps of what goes on: about as fast as a hub with ten people at it, and then some.
const PACE: Duration = Duration::from_millis(4);

/// Something goes on until it is told to end.
pub struct Flow<M> {
    end: Sender<()>,
    thread: JoinHandle<M>,
}

impl<M: Send + 'static> Flow<M> {
    pub fn begin(mut machine: M, mut step: impl FnMut(&mut M, u32) + Send + 'static) -> Self {
        let (end, is_ended) = mpsc::channel();
        let thread = thread::spawn(move || {
            for number in 1.. {
                step(&mut machine, number);
                if is_ended.recv_timeout(PACE).is_ok() {
                    break;
                }
            }
            machine
        });
        Self { end, thread }
    }

    pub fn end(self) -> M {
        self.end.send(()).unwrap();
        self.thread.join().unwrap()
    }
}

/// Devices that come and go, a hub among them.
fn at_random() -> impl FnMut(&mut Machine, u32) + Send {
    let (ports, mut random) = (hub_and_others(5), Random(7));
    move |machine, number| plug_or_unplug(&mut machine.bus, &ports[random.below(ports.len())], number)
}

/// The same, told by udev's helper alone.
fn by_helper(machine: &mut Machine, number: u32) {
    let port = format!("1-{}", number % 3 + 1);
    if machine.bus.devices().iter().any(|device| device.port == port) {
        machine.unplug(&port);
    } else {
        machine.plug(&port, &Device::numbered(number));
    }
}

/// Devices that have gone before anybody who only looks could see them.
pub fn flashes(machine: &mut Machine, number: u32) {
    let port = format!("1-{}", number % 3 + 1);
    machine.bus.plug(&port, &Device::numbered(number)).unwrap();
    machine.bus.unplug(&port).unwrap();
}

/// Starts the daemon with the sources of `chain`.
pub fn start(machine: &Machine, chain: &str) -> Daemon {
    let runtime = machine.runtime();
    let own = [INTERVAL, ("RUNTIME_DIRECTORY", runtime.to_str().unwrap())];
    Daemon::start_with(&machine.bus, machine.state.path(), &[QUICK, &own].concat(), &["--source", chain])
}

/// Waits until the table is what is there.
pub fn settle(daemon: &Daemon, machine: &Machine) {
    daemon.wait_until("the table is what is there", || {
        places(&devices(&machine.state)) == on_bus(&machine.bus)
    });
}

/// What has to hold once it has ended what it was in the midst of.
pub fn check_all(machine: &Machine) {
    let events = events(&machine.state);
    check(&events);
    check_hubs(&events);
    check_once(&events);
    let there = on_bus(&machine.bus);
    assert_eq!((net(&events), places(&devices(&machine.state))), (there.clone(), there));
}

/// What [`Device::numbered`] makes is told to come once, and to go once.
fn check_once(events: &[Value]) {
    let mut told = BTreeSet::new();
    for event in events.iter().filter(|event| number(event).is_some()) {
        assert!(told.insert((text(&event["action"]), number(event))), "told twice: {event}");
    }
}

/// From the first event after `after` that `source` told on, every device is told to come and to go.
pub fn check_none_missing(events: &[Value], after: u64, source: &str) {
    let is_first = |event: &&Value| event["seq"].as_u64() > Some(after) && event["source"] == source;
    let first = events.iter().filter(is_first).find_map(number).unwrap();
    let last = events.iter().filter_map(number).max().unwrap();
    for action in ["attach", "detach"] {
        let told: BTreeSet<u32> =
            events.iter().filter(|event| event["action"] == action).filter_map(number).collect();
        let missing: Vec<u32> = (first + 1..=last).filter(|number| !told.contains(number)).collect();
        assert!(missing.is_empty(), "{missing:?}: {action} after {first}, up to {last}");
    }
}

/// What [`Device::numbered`] made the device from.
fn number(event: &Value) -> Option<u32> {
    let device = &event["device"];
    let product = || u32::from_str_radix(text(&device["product_id"]), 16).unwrap();
    (device["vendor_id"] == "1209").then(|| product() - 1)
}

/// Waits until `/health` and `/metrics` agree on who is in use. `reason`: why it is not the best one.
pub fn check_health(daemon: &Daemon, active: &str, failovers: u64, reason: Option<&str>) {
    daemon.wait_until(&format!("{active} is in use"), || health()["source"]["active"] == active);
    daemon.wait_until("health and metrics agree", || {
        let metrics = answer("/metrics").1;
        metrics.contains(&format!("usb_source_failovers_total {failovers}\n"))
            && metrics.contains(&format!("usb_source_active{{source=\"{active}\"}} 1\n"))
            && metrics.matches("usb_source_active{").count() == 1
    });
    let health = health();
    assert_eq!(health["source"]["failovers"], failovers);
    match reason {
        None => assert_eq!(health["status"], "ok", "{health}"),
        Some(reason) => {
            assert_eq!(health["status"], "degraded", "{health}");
            let reasons = health["reasons"].as_array().unwrap();
            assert!(reasons.iter().any(|told| text(told).contains(reason)), "{reason:?}: {health}");
        }
    }
}

/// How many switches are in a log.
pub fn switches(log: &str) -> usize {
    let is_switch =
        |line: &&str| ["takes over", "opened anew", "take over"].iter().any(|words| line.contains(words));
    log.lines().filter(is_switch).count()
}

fn health() -> Value {
    serde_json::from_str(&answer("/health").1).unwrap()
}

/// Waits until `count` more events are told.
pub fn wait_for_more(daemon: &Daemon, count: u64) {
    let last = || health()["journal"]["last_seq"].as_u64().unwrap();
    let told = last();
    daemon.wait_until(&format!("{count} events after {told}"), || last() >= told + count);
}

/// What is done to a source, and what the daemon says of it then.
#[derive(Clone, Copy)]
struct Fault {
    chain: &'static str,
    to: &'static str,
    why: &'static str,
    strike: fn(&Daemon, &Path),
}

impl Fault {
    fn from(&self) -> &'static str {
        self.chain.split(',').next().unwrap()
    }

    /// Starts what is to fail, amid what goes on.
    fn begin(&self) -> (Daemon, Flow<Machine>, PathBuf) {
        let mut machine = Machine::new();
        // What is mounted from here on, the daemon sees, and the bus does not.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let socket = machine.socket();
        let daemon = start(&machine, self.chain);
        let flow = if self.from() == "udev" {
            // Before a helper was heard it is not known to be one.
            machine.plug("1-9", &Device::receiver());
            daemon.wait_for_log("the source udev works and takes over from poll");
            Flow::begin(machine, by_helper)
        } else {
            Flow::begin(machine, at_random())
        };
        wait_for_more(&daemon, 20);
        (daemon, flow, socket)
    }

    fn wait_for_switch(&self, daemon: &Daemon) {
        daemon.wait_for_log(&format!("the source {} failed ({}", self.from(), self.why));
        daemon.wait_for_log(&format!("{} takes over", self.to));
    }

    /// How long after the fault the log says that another source takes over, and that one tells something.
    fn measure(self) -> [Duration; 2] {
        let (daemon, flow, socket) = self.begin();
        let struck = Instant::now();
        (self.strike)(&daemon, &socket);
        self.wait_for_switch(&daemon);
        let switched = struck.elapsed();
        let switch = format!("{} takes over", self.to);
        daemon.wait_until("the other tells something", || {
            daemon.log().split_once(&switch).is_some_and(|(_, rest)| rest.contains(" seq="))
        });
        let told = struck.elapsed();
        flow.end();
        [switched, told]
    }

    /// The source fails, and the next one takes over.
    fn check(self) {
        if !fault::is_possible() {
            return;
        }
        let (daemon, flow, socket) = self.begin();
        (self.strike)(&daemon, &socket);
        self.wait_for_switch(&daemon);
        wait_for_more(&daemon, 20);
        let machine = flow.end();
        settle(&daemon, &machine);
        let failovers = if self.from() == "udev" { 2 } else { 1 };
        let reason = format!("{} instead of {}: {}", self.to, self.from(), self.why);
        check_health(&daemon, self.to, failovers, Some(&reason));
        let log = daemon.stop();
        assert_eq!(switches(&log) as u64, failovers, "{log}");
        check_all(&machine);
    }
}

const DEAF: &str = "it does not hear what scans find";
const SILENT: &str = "nothing has come from it for 5200 ms";

const UEVENT: Fault = Fault {
    chain: "uevent,libusb,poll",
    to: "libusb",
    why: "the uevent socket failed: Socket operation on non-socket",
    strike: |daemon, _| fault::break_uevent_sockets(daemon.daemon_pid(), Instead::File),
};

const UEVENT_CLOSED: Fault = Fault {
    why: "the uevent socket failed: Bad file descriptor",
    strike: |daemon, _| fault::break_uevent_sockets(daemon.daemon_pid(), Instead::Closed),
    ..UEVENT
};

const UEVENT_MUTE: Fault = Fault {
    why: DEAF,
    strike: |daemon, _| fault::break_uevent_sockets(daemon.daemon_pid(), Instead::Mute),
    ..UEVENT
};

const LIBUSB_MUTE: Fault = Fault { chain: "libusb,poll", to: "poll", ..UEVENT_MUTE };

const LIBUSB_UNHANDLED: Fault =
    Fault { strike: |daemon, _| fault::kill_thread(daemon.daemon_pid(), "usb-libusb"), ..LIBUSB_MUTE };

const UDEV_UNLINKED: Fault = Fault {
    chain: "udev,poll",
    to: "poll",
    why: "the udev helper's socket failed",
    strike: |_, socket| fs::remove_file(socket).unwrap(),
};

const UDEV_BROKEN: Fault = Fault {
    strike: |daemon, socket| {
        let name = bound_name(socket, daemon);
        fault::break_unix_socket(daemon.daemon_pid(), &name, Instead::File);
    },
    ..UDEV_UNLINKED
};

const RECEIVER_GONE: Fault = Fault {
    why: SILENT,
    strike: |daemon, _| fault::kill_thread(daemon.daemon_pid(), "usb-receive"),
    ..UEVENT
};

const OBSERVER_GONE: Fault =
    Fault { strike: |daemon, _| fault::kill_thread(daemon.daemon_pid(), "usb-observe"), ..RECEIVER_GONE };

const SILENT_ONES: [Fault; 5] = [
    RECEIVER_GONE,
    OBSERVER_GONE,
    Fault { chain: "libusb,poll", to: "poll", ..OBSERVER_GONE },
    Fault { chain: "udev,poll", to: "poll", ..OBSERVER_GONE },
    Fault {
        chain: "poll,uevent",
        to: "uevent",
        strike: |daemon, _| fault::kill_thread(daemon.daemon_pid(), "usb-poll"),
        ..RECEIVER_GONE
    },
];

#[test]
fn a_uevent_socket_that_fails_is_noticed_with_the_next_message() {
    UEVENT.check();
}

#[test]
fn so_is_one_that_was_closed() {
    UEVENT_CLOSED.check();
}

#[test]
fn a_uevent_socket_that_says_nothing_is_deaf() {
    UEVENT_MUTE.check();
}

#[test]
fn a_libusb_whose_socket_says_nothing_is_deaf() {
    LIBUSB_MUTE.check();
}

#[test]
fn a_libusb_whose_events_nobody_handles_is_deaf() {
    LIBUSB_UNHANDLED.check();
}

#[test]
fn libusb_needs_usbfs_to_begin_and_not_to_go_on() {
    if !fault::is_possible() {
        return;
    }
    let (daemon, flow, socket) = LIBUSB_MUTE.begin();
    mount(Some("none"), "/dev/bus/usb", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
    wait_for_more(&daemon, 50);
    assert_eq!(switches(&daemon.log()), 0, "{}", daemon.log());
    (LIBUSB_MUTE.strike)(&daemon, &socket);
    LIBUSB_MUTE.wait_for_switch(&daemon);
    let reason = "poll instead of libusb: libusb does not start";
    daemon.wait_until("it was tried again", || health()["reasons"].to_string().contains(reason));
    let machine = flow.end();
    settle(&daemon, &machine);
    assert_eq!(switches(&daemon.stop()), 1);
    check_all(&machine);
}

#[test]
fn a_helpers_socket_that_was_taken_away_is_noticed() {
    UDEV_UNLINKED.check();
}

#[test]
fn a_helpers_socket_that_fails_is_noticed_with_the_next_notice() {
    UDEV_BROKEN.check();
}

#[test]
fn a_thread_that_is_gone_is_noticed_by_silence() {
    let stories = SILENT_ONES.map(|fault| thread::spawn(move || fault.check()));
    for story in stories {
        story.join().unwrap();
    }
}

#[test]
fn a_pinned_source_is_opened_anew_once() {
    if !fault::is_possible() {
        return;
    }
    let pinned = Fault { chain: "uevent", ..UEVENT };
    let (mut daemon, flow, socket) = pinned.begin();
    (pinned.strike)(&daemon, &socket);
    daemon.wait_for_log("the source uevent failed (the uevent socket failed");
    daemon.wait_for_log("and was opened anew");
    wait_for_more(&daemon, 20);
    check_health(&daemon, "uevent", 1, None);
    (pinned.strike)(&daemon, &socket);
    assert_eq!(daemon.wait().code(), Some(69), "{}", daemon.log());
    let machine = flow.end();
    let daemon = start(&machine, "uevent");
    settle(&daemon, &machine);
    daemon.stop();
    check_all(&machine);
}

#[test]
fn after_a_failover_a_daemon_that_is_killed_tells_nothing_twice() {
    if !fault::is_possible() {
        return;
    }
    let machine = Machine::new();
    let daemon = start(&machine, UEVENT.chain);
    let flow = Flow::begin(machine, flashes);
    wait_for_more(&daemon, 20);
    (UEVENT.strike)(&daemon, Path::new(""));
    UEVENT.wait_for_switch(&daemon);
    wait_for_more(&daemon, 100);
    kill_and_go_on(&daemon);
    let machine = flow.end();
    settle(&daemon, &machine);
    daemon.stop();
    check_all(&machine);
}

/// Kills the daemon, and waits until another one tells something.
fn kill_and_go_on(daemon: &Daemon) {
    kill(Pid::from_raw(daemon.daemon_pid().try_into().unwrap()), Signal::SIGKILL).unwrap();
    daemon.wait_until("another one watches", || daemon.log().matches("watching ").count() == 2);
    wait_for_more(daemon, 20);
}

#[test]
fn the_better_source_comes_back_when_it_works() {
    if !fault::is_possible() {
        return;
    }
    let (daemon, flow, socket) = UEVENT.begin();
    (UEVENT.strike)(&daemon, &socket);
    UEVENT.wait_for_switch(&daemon);
    daemon.wait_for_log("the source uevent works and takes over from libusb");
    wait_for_more(&daemon, 20);
    check_health(&daemon, "uevent", 2, None);
    kill_and_go_on(&daemon);
    let machine = flow.end();
    settle(&daemon, &machine);
    assert_eq!(switches(&daemon.stop()), 2);
    check_all(&machine);
}

#[test]
fn on_the_way_back_from_poll_no_edge_is_lost() {
    if !fault::is_possible() {
        return;
    }
    let fault = Fault { chain: "uevent,poll", to: "poll", ..UEVENT };
    let machine = Machine::new();
    let daemon = start(&machine, fault.chain);
    let flow = Flow::begin(machine, flashes);
    wait_for_more(&daemon, 20);
    (fault.strike)(&daemon, Path::new(""));
    fault.wait_for_switch(&daemon);
    let after = health()["journal"]["last_seq"].as_u64().unwrap();
    daemon.wait_for_log("the source uevent works and takes over from poll");
    wait_for_more(&daemon, 100);
    let machine = flow.end();
    wait_for_last(&daemon, &machine);
    daemon.stop();
    check_all(&machine);
    check_none_missing(&events(&machine.state), after, "uevent");
}

#[test]
fn what_hears_nothing_gives_way_and_comes_back_when_it_hears() {
    if !fault::is_possible() {
        return;
    }
    let mut machine = Machine::new();
    let daemon = start(&machine, "uevent,libusb,poll");
    for (from, port) in [("uevent", "1-5"), ("libusb", "1-6")] {
        daemon.wait_until("it is deaf", || {
            machine.bus.plug_silent(port, &Device::receiver()).unwrap();
            settle(&daemon, &machine);
            machine.bus.unplug_silent(port).unwrap();
            settle(&daemon, &machine);
            daemon.log().contains(&format!("the source {from} failed ({DEAF})"))
        });
    }
    check_health(&daemon, "poll", 2, Some(&format!("poll instead of uevent: {DEAF}")));
    let after = last_seq(&machine.state);
    let flow = Flow::begin(machine, flashes);
    daemon.wait_for_log("the source uevent works and takes over from poll");
    wait_for_more(&daemon, 20);
    check_health(&daemon, "uevent", 3, None);
    let machine = flow.end();
    wait_for_last(&daemon, &machine);
    assert_eq!(switches(&daemon.stop()), 3);
    check_all(&machine);
    check_none_missing(&events(&machine.state), after, "uevent");
}

/// Waits until the last of [`flashes`] has gone.
pub fn wait_for_last(daemon: &Daemon, machine: &Machine) {
    settle(daemon, machine);
    daemon.wait_until("all is told", || {
        let events = events(&machine.state);
        let last = events.last().unwrap();
        last["action"] == "detach" && number(last) == events.iter().filter_map(number).max()
    });
}

/// Fast faults once; with `AUTOWEAVE_LONG` every kind five times, of which docs/benchmarks.md has the figures.
#[test]
fn how_long_a_failover_takes() {
    let [receiver, observer, libusb, udev, poll] = SILENT_ONES;
    let faults = [
        ("uevent socket fails", UEVENT),
        ("uevent socket closed", UEVENT_CLOSED),
        ("helper's socket fails", UDEV_BROKEN),
        ("uevent socket mute", UEVENT_MUTE),
        ("libusb socket mute", LIBUSB_MUTE),
        ("libusb event thread gone", LIBUSB_UNHANDLED),
        ("helper's socket unlinked", UDEV_UNLINKED),
        ("usb-receive gone", receiver),
        ("usb-observe of uevent gone", observer),
        ("usb-observe of libusb gone", libusb),
        ("usb-observe of udev gone", udev),
        ("usb-poll gone", poll),
    ];
    let (faults, runs) =
        if std::env::var_os("AUTOWEAVE_LONG").is_some() { (&faults[..], 5) } else { (&faults[..3], 1) };
    println!("scans every {} ms; median [least–most] of {runs} runs, in ms", INTERVAL.1);
    for (name, fault) in faults {
        let times: Vec<_> = (0..runs)
            .map(|_| thread::scope(|scope| scope.spawn(|| fault.measure()).join().unwrap()))
            .collect();
        let of = |index: usize| {
            let mut ms: Vec<_> = times.iter().map(|run| run[index].as_millis()).collect();
            ms.sort_unstable();
            format!("{} [{}–{}]", ms[runs / 2], ms[0], ms[runs - 1])
        };
        println!("{name}: switched {}, told {}", of(0), of(1));
    }
}
