//! The daemon is killed between any two steps of a message's way, and taken up again.

use crate::harness::{Daemon, QUICK, StateDir, last_seq};
use crate::installed;
use crate::keeper::{bus, check_all};

const PORTS: [&str; 4] = ["1-1", "1-2", "1-3", "1-4"];

/// In the order in which a message passes them.
const POINTS: [&str; 6] = ["landed", "appended", "taken", "committing", "committed", "forgotten"];

#[test]
fn killed_between_any_two_steps_it_loses_nothing_and_repeats_nothing() {
    let Some(program) = installed::kill_points() else { return };
    let mut bus = bus();
    for point in POINTS {
        for count in [3, 10] {
            let state = StateDir::new();
            let done = state.path().join("killed");
            let order = format!("{point}:{count}:{}", done.display());
            let env = [QUICK[0], QUICK[1], ("AUTOWEAVE_USBD_KILL_AT", &order)];
            let daemon = Daemon::spawn_program(&bus, &program, state.path(), &env, &[]);
            daemon.wait_for_log("watching ");
            let mut edges = last_seq(&state);
            // Some arrive together, some alone.
            while !done.exists() {
                edges += bus.cycle(&PORTS, 1).unwrap();
                daemon.wait_until("they are told, or it is killed", || {
                    done.exists() || last_seq(&state) >= edges
                });
            }
            edges += bus.cycle(&PORTS, 20).unwrap();
            daemon.wait_until(&format!("all is told after {order}"), || last_seq(&state) >= edges);
            let log = daemon.stop();
            assert!(log.contains("was ended by SIGKILL"), "{log}");
            check_all(&bus, &state, edges);
        }
    }
}
