//! All devices as a tree for each bus: hubs, and what hangs below them.

use std::collections::{BTreeMap, BTreeSet};

use autoweave_usb_device::{Device, Port};

use super::columns::{Cell, Layout};
use super::text::Span;
use super::{BOLD, DIM, NO_DEVICES, PLAIN, names};

const NAME: usize = 0;
const PORT: usize = 1;
const ID: usize = 2;
const SPEED: usize = 3;
const CLASS: usize = 4;
const DRIVERS: usize = 5;

const LAYOUT: Layout<6> = Layout {
    right_aligned: &[SPEED],
    shrink: &[
        (NAME, 36),
        (DRIVERS, 8),
        (CLASS, 8),
        (NAME, 26),
        (DRIVERS, 0),
        (CLASS, 0),
        (SPEED, 0),
        (ID, 0),
        (PORT, 0),
        (NAME, 1),
    ],
    main: NAME,
};

/// Which devices hang from which port.
type Children<'a> = BTreeMap<Port, Vec<&'a Device>>;

/// `devices` as trees, at most `width` columns wide if there is a width to keep to. A device whose hub is
/// not among them hangs from its bus.
pub fn devices_tree(devices: &[&Device], width: Option<usize>) -> String {
    if devices.is_empty() {
        return NO_DEVICES.to_owned();
    }
    let by_port: BTreeMap<Port, &Device> = devices.iter().map(|device| (device.port(), *device)).collect();
    let buses: BTreeSet<u8> = by_port.keys().map(|port| port.bus).collect();
    let mut children = Children::new();
    for (port, device) in &by_port {
        let Some(hub) = port.parent() else { continue };
        let hub = if by_port.contains_key(&hub) { hub } else { Port::root(port.bus) };
        children.entry(hub).or_default().push(device);
    }
    let mut rows = Vec::new();
    for bus in buses {
        if !rows.is_empty() {
            rows.push(Default::default());
        }
        let root = Port::root(bus);
        rows.push(bus_row(bus, by_port.get(&root).copied()));
        branches(root, "", &children, &mut rows);
    }
    LAYOUT.lines(&rows, width)
}

fn branches(hub: Port, indent: &str, children: &Children<'_>, rows: &mut Vec<[Cell; 6]>) {
    let below = children.get(&hub).map_or(&[][..], Vec::as_slice);
    for (position, device) in below.iter().enumerate() {
        let (branch, continued) =
            if position + 1 == below.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        rows.push(row(Span::new(DIM, &format!("{indent}{branch}")), device));
        branches(device.port(), &format!("{indent}{continued}"), children, rows);
    }
}

fn bus_row(bus: u8, root_hub: Option<&Device>) -> [Cell; 6] {
    let bus = format!("Bus {bus}");
    match root_hub {
        Some(root_hub) => row(Span::new(PLAIN, &format!("{bus}  ")), root_hub),
        None => {
            std::array::from_fn(|column| if column == NAME { vec![Span::new(PLAIN, &bus)] } else { vec![] })
        }
    }
}

fn row(before: Span, device: &Device) -> [Cell; 6] {
    [
        vec![before, Span::new(BOLD, &names::name(device))],
        vec![Span::new(DIM, &device.port().to_string())],
        vec![Span::new(PLAIN, &names::id(device))],
        vec![Span::new(PLAIN, &names::speed(device))],
        vec![Span::new(PLAIN, &names::class(device))],
        vec![Span::new(DIM, &names::drivers(device))],
    ]
}
