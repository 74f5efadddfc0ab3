//! Shows what is connected now. Asks sysfs, not the daemon.

use std::collections::BTreeSet;

use autoweave_usb_device::{Device, DeviceTable, Moment, Observation, Observed, Policy, Reason, SourceName};
use autoweave_usb_source::{enumerate, has_usb, nodes};
use serde::Serialize;

use crate::cli::{Common, Devices};
use crate::exit::Failure;
use crate::show;

/// A device, and what can be opened of it.
#[derive(Serialize)]
struct Connected<'a> {
    #[serde(flatten)]
    device: &'a Device,
    nodes: Vec<String>,
}

pub fn run(common: &Common, arguments: &Devices) -> Result<(), Failure> {
    let config = super::load(common, None)?.config;
    let (readings, unread) = enumerate()
        .map_err(|error| Failure::unavailable(format!("the USB bus cannot be listed: {error}")))?;
    // The table gives each device the name it goes by in events.
    let mut table = DeviceTable::new(Policy { filters: config.filters, debounce_ms: 0 });
    let observation = Observation::Scan { readings, except: BTreeSet::new() };
    let scan =
        Observed { number: 0, seqnum: None, at: Moment::default(), source: SourceName::Poll, observation };
    table.observe(&scan, Reason::Coldplug);
    let devices: Vec<&Device> = table.devices().map(AsRef::as_ref).collect();
    for port in unread {
        anstream::eprintln!("autoweave-usbd: the device in {port} cannot be read and is not shown");
    }
    if arguments.json {
        let connected = |device| Connected { device, nodes: nodes(Device::port(device)) };
        return devices.into_iter().map(connected).try_for_each(|connected| super::print_json(&connected));
    }
    if devices.is_empty() && !has_usb() {
        anstream::eprintln!("this machine has no USB bus; try `autoweave-usbd simulate --json`");
        return Ok(());
    }
    let width = terminal_width();
    let text = if arguments.tree {
        show::devices_tree(&devices, width)
    } else {
        show::devices_table(&devices, width)
    };
    super::print_line(&text)
}

/// The columns of the terminal on stdout; none where it is no terminal, and nothing has to be cut.
fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0))
}
