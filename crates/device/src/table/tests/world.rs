//! A property: whatever is seen, missed or seen twice, in whatever order, what was published is in order,
//! alternates, and ends up as what is there.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

/// What the outside believes, from the events alone; panics on anything out of order.
#[derive(Default)]
struct Outside {
    by_port: BTreeMap<Port, String>,
    ids: HashSet<String>,
    edges: u64,
}

impl Outside {
    fn hear(&mut self, changes: &[Change]) {
        for change in changes {
            let Change::Edge(edge) = change else { continue };
            let (port, id) = (edge.device.port(), edge.device.device_id.clone());
            self.edges += u64::from(edge.edges);
            match edge.action {
                Action::Attach => {
                    assert!(self.ids.insert(id.clone()), "{id} attached twice");
                    assert_eq!(self.by_port.insert(port, id), None, "{port} attached twice");
                }
                Action::Detach => {
                    assert_eq!(
                        self.by_port.remove(&port).as_ref(),
                        Some(&id),
                        "{port} detached, not attached"
                    );
                    assert!(self.ids.remove(&id));
                    let below = self.by_port.keys().find(|other| other.is_below(port));
                    assert_eq!(below, None, "left behind below {port}");
                }
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Plug { port: usize, serial: u8, seen: bool, twice: bool },
    Unplug { port: usize, seen: bool },
    Scan,
    Overrun,
    Wait(u64),
    Hold(bool),
    Filter(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let lucky = || proptest::bool::weighted(0.85);
    prop_oneof![
        6 => (0..9usize, 0..4u8, lucky(), proptest::bool::weighted(0.1))
            .prop_map(|(port, serial, seen, twice)| Step::Plug { port, serial, seen, twice }),
        6 => (0..9usize, lucky()).prop_map(|(port, seen)| Step::Unplug { port, seen }),
        1 => Just(Step::Scan),
        1 => Just(Step::Overrun),
        2 => (0..80u64).prop_map(Step::Wait),
        1 => any::<bool>().prop_map(Step::Hold),
        1 => any::<bool>().prop_map(Step::Filter),
    ]
}

const PORTS: [&str; 9] = ["usb1", "1-1", "1-1.1", "1-1.1.1", "1-1.1.2", "1-1.2", "1-2", "usb2", "2-1"];

/// A bus whose every change may go unseen or be seen twice, and the table that watches it.
struct World {
    bus: BTreeMap<Port, Reading>,
    next_address: HashMap<u8, u8>,
    table: DeviceTable,
    outside: Outside,
    now: u64,
    number: u64,
    edges: u64,
    /// How many events there were since the table was held, if it is.
    heard_while_held: Option<usize>,
    policy: Policy,
}

impl World {
    fn observe(&mut self, observation: Observation) {
        self.number += 1;
        let at = Moment { wall_us: 1_000 * self.now, mono_ms: self.now };
        let observed =
            Observed { number: self.number, seqnum: None, at, source: SourceName::Uevent, observation };
        let changes = self.table.observe(&observed, Reason::Reconcile);
        self.hear(&changes);
        assert!(first_pending(&self.table).is_none_or(|first| first <= self.number));
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Plug { port, serial, seen, twice } => {
                self.plug(PORTS[port].parse().unwrap(), serial, seen, twice);
            }
            Step::Unplug { port, seen } => self.unplug(PORTS[port].parse().unwrap(), seen),
            Step::Scan => self.scan(),
            Step::Overrun => self.observe(Observation::Overrun { lost: None }),
            Step::Wait(ms) => {
                self.now += ms;
                let changes = self.table.advance(self.now);
                self.hear(&changes);
            }
            Step::Filter(is_hidden) => {
                let vendor_blacklist = if is_hidden { vec![0x046d] } else { Vec::new() };
                self.policy.filters = Filters { vendor_blacklist, ..Filters::default() };
                let at = Moment { wall_us: 1_000 * self.now, mono_ms: self.now };
                let changes = self.table.set_policy(self.policy.clone(), at, SourceName::Uevent);
                self.hear(&changes);
            }
            Step::Hold(is_held) => {
                self.table.hold(is_held);
                self.heard_while_held = is_held.then_some(0);
            }
        }
    }

    fn hear(&mut self, changes: &[Change]) {
        self.outside.hear(changes);
        if let Some(heard) = &mut self.heard_while_held {
            *heard += changes.iter().filter(|change| matches!(change, Change::Edge(_))).count();
            assert!(*heard <= PORTS.len(), "{heard} events while held");
        }
    }

    fn plug(&mut self, port: Port, serial: u8, seen: bool, twice: bool) {
        let hub_is_there = port.parent().is_none_or(|hub| self.bus.contains_key(&hub));
        if !hub_is_there || self.bus.contains_key(&port) {
            return;
        }
        let address = self.next_address.entry(port.bus).or_default();
        *address = *address % 5 + 1;
        let name = ["", "A", "A", "B"][usize::from(serial)];
        let reading = reading(&port.to_string(), *address, name);
        self.bus.insert(port, reading.clone());
        for _ in 0..u8::from(seen) + u8::from(twice) {
            self.edges += 1;
            self.observe(arrived(reading.clone()));
        }
    }

    fn unplug(&mut self, port: Port, seen: bool) {
        let gone: Vec<Port> =
            self.bus.keys().rev().filter(|p| **p == port || p.is_below(port)).copied().collect();
        for port in gone {
            let address = self.bus.remove(&port).unwrap().address;
            if seen {
                self.edges += 1;
                self.observe(Observation::Left { port, address: Some(address) });
            }
        }
    }

    fn scan(&mut self) {
        let readings: Vec<Reading> = self.bus.values().cloned().collect();
        self.observe(scan(&readings));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn whatever_is_seen_the_outside_ends_up_knowing_what_is_there(
        debounce_ms in prop_oneof![Just(0u64), Just(50)],
        root_first in any::<bool>(),
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let policy = Policy { debounce_ms, ..Policy::default() };
        let mut world = World {
            bus: BTreeMap::new(), next_address: HashMap::new(), table: DeviceTable::new(policy.clone()),
            outside: Outside::default(), now: 0, number: 0, edges: 0,
            heard_while_held: None, policy: policy.clone(),
        };
        if root_first { world.plug("usb1".parse().unwrap(), 1, true, false); }
        for step in steps { world.step(step); }
        world.step(Step::Hold(false));
        world.step(Step::Filter(false));
        world.scan();
        world.step(Step::Wait(1000));
        let told: Vec<Port> = world.outside.by_port.keys().copied().collect();
        let there: Vec<Port> = world.bus.keys().copied().collect();
        prop_assert_eq!(told, there);
        let published: Vec<(Port, u8)> = world.table.devices().map(|d| (d.port(), d.device_address)).collect();
        let bus: Vec<(Port, u8)> = world.bus.values().map(|r| (r.port, r.address)).collect();
        prop_assert_eq!(published, bus);
        prop_assert_eq!(first_pending(&world.table), None);
        // Every edge that was seen is in an event, or counted.
        let Tallies { coalesced, filtered, duplicate, unmatched, .. } = world.table.tallies();
        let hidden: u64 = filtered.iter().sum();
        prop_assert!(world.outside.edges + coalesced + hidden + duplicate + unmatched >= world.edges);
    }
}
