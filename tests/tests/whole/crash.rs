//! The daemon is killed at any moment, and taken up again.

use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use autoweave_usb_testbus::Bus;

use crate::flood::{Random, hub_and_others, plug_or_unplug};
use crate::harness::{Daemon, QUICK, StateDir, devices, events, last_seq};
use crate::invariants::{check, check_hubs, net, on_bus, places};

const KILLS: usize = 20;

/// The time between two plugs.
const PAUSE: Duration = Duration::from_micros(200);

#[test]
fn killed_twenty_times_amid_plugging_it_ends_with_what_is_there() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let bus = Mutex::new(bus);
    let state = StateDir::new();
    // Plugging ends with the sender, so also when something here panics.
    let (end, ended) = mpsc::channel::<()>();
    let shared = &bus;
    thread::scope(|scope| {
        let plugging = scope.spawn(move || {
            let (ports, mut random) = (hub_and_others(6), Random(3));
            let mut steps = 0;
            while ended.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                steps += 1;
                plug_or_unplug(&mut shared.lock().unwrap(), &ports[random.below(ports.len())], steps);
            }
            steps
        });
        let mut random = Random(4);
        for kill in 0..KILLS {
            let before = last_seq(&state);
            let daemon = Daemon::spawn(&bus.lock().unwrap(), state.path(), QUICK, &[]);
            if kill % 2 == 0 {
                daemon.wait_until("it writes", || last_seq(&state) > before);
            }
            // Any moment will do: while it starts, scans, writes, or is idle.
            thread::sleep(Duration::from_micros(random.below(60_000) as u64));
            daemon.kill();
        }
        drop(end);
        let steps = plugging.join().unwrap();
        assert!(steps >= 200, "only {steps} plugs and unplugs");
    });

    let bus = bus.into_inner().unwrap();
    let daemon = Daemon::start(&bus, &state, QUICK);
    let at_rest = || places(&devices(&state)) == on_bus(&bus);
    daemon.wait_until("the table is what is there", at_rest);
    daemon.stop();
    let events = events(&state);
    check(&events);
    check_hubs(&events);
    assert_eq!(net(&events), on_bus(&bus));
    assert!(at_rest());
}
