//! How the daemon ends, and what it does with what it had received by then.

use autoweave_usb_testbus::{Bus, Device};
use nix::sys::signal::Signal;

use crate::harness::{Daemon, QUICK, StateDir, events, last_seq};
use crate::invariants::check;

#[test]
fn what_was_received_before_sigterm_is_written_down() {
    let mut bus = Bus::enter().unwrap();
    bus.plug_silent("1-1", &Device::receiver()).unwrap();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    let before = last_seq(&state);
    // Few enough for the smallest buffer a kernel grants.
    let sent = bus.cycle(&["1-1"], 60).unwrap();
    let log = daemon.stop();
    assert!(!log.contains("overruns"), "{log}");
    let events = events(&state);
    check(&events);
    assert_eq!(events.len() as u64, before + sent);
}

#[test]
fn sigterm_is_heard_while_messages_keep_coming() {
    is_heard_amid_a_flood(Bus::enter().unwrap(), &[]);
}

/// Sends SIGTERM to a daemon while a device on `bus` comes and goes as fast as can be.
pub fn is_heard_amid_a_flood(mut bus: Bus, arguments: &[&str]) {
    bus.plug_silent("1-1", &Device::receiver()).unwrap();
    let state = StateDir::new();
    let timeout = [QUICK, &[("AUTOWEAVE_USB__PERFORMANCE__SHUTDOWN_TIMEOUT_MS", "200")]].concat();
    let mut daemon = Daemon::start_with(&bus, state.path(), &timeout, arguments);
    let before = last_seq(&state);
    std::thread::scope(|scope| {
        let (done, stop) = std::sync::mpsc::channel::<()>();
        let flood = scope.spawn(move || {
            while stop.try_recv().is_err() {
                bus.cycle(&["1-1"], 100).unwrap();
            }
        });
        daemon.wait_until("events come", || last_seq(&state) > before);
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait().code(), Some(0));
        done.send(()).unwrap();
        flood.join().unwrap();
    });
    check(&events(&state));
}

#[test]
fn signals_are_heard_while_the_journal_cannot_be_written() {
    let mut bus = Bus::enter().unwrap();
    bus.plug_silent("1-1", &Device::receiver()).unwrap();
    let state = StateDir::new();
    let kib = Some("size=2048k");
    nix::mount::mount(Some("tmpfs"), state.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), kib).unwrap();
    let mut daemon = Daemon::start(&bus, &state, QUICK);
    // More than the disk and the channel behind the source hold.
    bus.cycle(&["1-1"], 3000).unwrap();
    daemon.wait_for_log("the journal cannot be written");
    for signal in [Signal::SIGHUP, Signal::SIGHUP, Signal::SIGTERM] {
        daemon.signal(signal);
    }
    assert_eq!(daemon.wait().code(), Some(74));
    let log = daemon.log();
    assert!(log.contains("events could not be written") && log.contains("full"), "{log}");
}
