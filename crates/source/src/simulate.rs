//! Devices that are not there, for trying the pipeline and for measuring it.

use std::collections::BTreeSet;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use autoweave_usb_device::{HexBytes, Observation, Observed, Port, PortPath, Reading, SourceName, Speed};

use crate::started::{Closed, Started};
use crate::{Wire, clock};

/// What to simulate: every device is plugged in, then every device is unplugged, and again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Simulation {
    /// How many devices, 1 to [`Self::DEVICES_MAX`].
    pub devices: u32,
    /// How often each comes and goes.
    pub cycles: u32,
    /// Edges a second; 0 for as fast as they are taken.
    pub rate: u32,
}

/// A bus has 127 addresses, one of them the root hub's.
const DEVICES_A_BUS: u32 = 126;

/// A boot keyboard's: one configuration, one HID interface, one interrupt endpoint (USB HID 1.11, appendix E).
const DESCRIPTORS: [u8; 52] = [
    18, 1, 0x00, 0x02, 0, 0, 0, 64, 0x09, 0x12, 0x01, 0x00, 0x00, 0x01, 1, 2, 3, 1, // device
    9, 2, 34, 0, 1, 1, 0, 0xa0, 49, // configuration
    9, 4, 0, 0, 1, 3, 1, 1, 0, // interface
    9, 0x21, 0x11, 0x01, 0, 1, 0x22, 63, 0, // HID
    7, 5, 0x81, 3, 8, 0, 10, // endpoint
];

impl Simulation {
    /// As many as fit on 255 buses.
    pub const DEVICES_MAX: u32 = 255 * DEVICES_A_BUS;

    /// How many edges there will be.
    pub fn edges(&self) -> u64 {
        u64::from(self.devices) * u64::from(self.cycles) * 2
    }
}

/// Starts simulating. The source ends by itself.
pub fn spawn(started: Started, simulation: Simulation) -> io::Result<()> {
    let run = move || {
        // An error means that nobody wants to hear of it any longer.
        let _ = run(&started, simulation);
    };
    thread::Builder::new().name("usb-simulate".to_owned()).spawn(run).map(drop)
}

fn run(started: &Started, simulation: Simulation) -> Result<(), Closed> {
    let mut number = 0;
    let mut send = |observation| {
        number += 1;
        let observed =
            Observed { number, seqnum: None, at: clock::now(), source: SourceName::Simulate, observation };
        started.wire.send(Wire::Observed(observed))
    };
    send(Observation::Scan { readings: Vec::new(), except: BTreeSet::new() })?;
    let begin = Instant::now();
    let mut sent = 0u64;
    let mut pace = || {
        if simulation.rate > 0 {
            let due = Duration::from_secs_f64(sent as f64 / f64::from(simulation.rate));
            thread::sleep(due.saturating_sub(begin.elapsed()));
        }
        sent += 1;
    };
    for cycle in 0..simulation.cycles {
        for index in 0..simulation.devices {
            pace();
            send(Observation::Arrived { reading: Box::new(device(index, cycle, simulation.devices)) })?;
        }
        for index in 0..simulation.devices {
            pace();
            let Reading { port, address, .. } = device(index, cycle, simulation.devices);
            send(Observation::Left { port, address: Some(address) })?;
        }
    }
    started.wire.send(Wire::Ended)
}

/// The device `index` of `devices` as it is in `cycle`: each plug gives it the bus's next address, as the
/// kernel does.
fn device(index: u32, cycle: u32, devices: u32) -> Reading {
    let (bus, place) = (index / DEVICES_A_BUS, index % DEVICES_A_BUS);
    let on_bus = u64::from((devices - bus * DEVICES_A_BUS).min(DEVICES_A_BUS));
    let address = (u64::from(cycle) * on_bus + u64::from(place)) % u64::from(DEVICES_A_BUS) + 2;
    // All are below 256 by construction; 1 is what they would be if they were not.
    let byte = |value: u64| u8::try_from(value).unwrap_or(1);
    let bus = u8::try_from(bus + 1).unwrap_or(1);
    let port = Port { bus, path: PortPath::new(&[byte(u64::from(place) + 1)]).unwrap_or_default() };
    let bytes = |text: String| Some(HexBytes(text.into_bytes()));
    Reading {
        speed: Speed::parse("480"),
        manufacturer: bytes("AutoWeave".to_owned()),
        product: bytes(format!("Simulated device {index}")),
        serial_number: bytes(format!("SIM{index:05}")),
        descriptors: HexBytes(DESCRIPTORS.to_vec()),
        configuration: Some(1),
        ..Reading::bare(port, byte(address), 0x1209, 0x0001, Some(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_devices_share_a_port_or_an_address() {
        let devices = Simulation::DEVICES_MAX - 7;
        let all: Vec<Reading> = (0..devices).map(|index| device(index, 3, devices)).collect();
        let ports: HashSet<Port> = all.iter().map(|reading| reading.port).collect();
        let addresses: HashSet<(u8, u8)> =
            all.iter().map(|reading| (reading.port.bus, reading.address)).collect();
        assert_eq!((ports.len(), addresses.len()), (all.len(), all.len()));
        assert!(all.iter().all(|reading| (2..=127).contains(&reading.address)));
        assert_ne!(device(4, 1, 5).address, device(4, 2, 5).address, "each plug gives another address");
    }
}
