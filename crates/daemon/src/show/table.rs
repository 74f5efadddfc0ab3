//! All devices in a table.

use autoweave_usb_device::Device;

use super::columns::{Cell, Layout};
use super::text::Span;
use super::{BOLD, DIM, NO_DEVICES, PLAIN, names};

const HEADER: [&str; 7] = ["PORT", "ID", "SPEED", "CLASS", "DEVICE", "SERIAL", "DRIVERS"];
const PORT: usize = 0;
const ID: usize = 1;
const SPEED: usize = 2;
const CLASS: usize = 3;
const DEVICE: usize = 4;
const SERIAL: usize = 5;
const DRIVERS: usize = 6;

const LAYOUT: Layout<7> = Layout {
    right_aligned: &[SPEED],
    shrink: &[
        (DEVICE, 28),
        (DRIVERS, 12),
        (CLASS, 12),
        (SERIAL, 12),
        (DEVICE, 20),
        (DRIVERS, 8),
        (CLASS, 8),
        (SERIAL, 8),
        (DRIVERS, 0),
        (SERIAL, 0),
        (CLASS, 0),
        (SPEED, 0),
        (ID, 0),
        (PORT, 1),
        (DEVICE, 1),
    ],
    main: DEVICE,
};

/// A table of `devices`, in the order of their ports, at most `width` columns wide if there is a width to
/// keep to: names are cut first, then the other texts, and at last columns are left out.
pub fn devices_table(devices: &[&Device], width: Option<usize>) -> String {
    if devices.is_empty() {
        return NO_DEVICES.to_owned();
    }
    let mut devices = devices.to_vec();
    devices.sort_by_key(|device| device.port());
    let header = HEADER.map(|title| vec![Span::new(DIM, title)]);
    let rows: Vec<[Cell; 7]> = std::iter::once(header).chain(devices.into_iter().map(row)).collect();
    LAYOUT.lines(&rows, width)
}

fn row(device: &Device) -> [Cell; 7] {
    [
        Span::new(PLAIN, &device.port().to_string()),
        Span::new(PLAIN, &names::id(device)),
        Span::new(PLAIN, &names::speed(device)),
        Span::new(PLAIN, &names::class(device)),
        Span::new(BOLD, &names::name(device)),
        Span::new(PLAIN, names::serial(device)),
        Span::new(DIM, &names::drivers(device)),
    ]
    .map(|span| vec![span])
}
