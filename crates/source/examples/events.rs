//! Every attach and detach in this process: `cargo run -p autoweave-usb-source --example events`.
//!
//! What is connected already comes first, with the reason `coldplug`.

use std::error::Error;

use autoweave_usb_device::{Action, Policy};
use autoweave_usb_source::{Events, Options};

fn main() -> Result<(), Box<dyn Error>> {
    // Edges of one port within 50 ms of the first are joined into their net effect.
    let policy = Policy { debounce_ms: 50, ..Policy::default() };
    let events = Events::with_policy(Options::default(), policy)?;
    println!("watching {}", events.watch().sources().source().description());
    for edge in events {
        let edge = edge?;
        let device = &edge.device;
        let product = device.product.as_deref().unwrap_or("unnamed device");
        match edge.action {
            Action::Attach => {
                println!("{} {:?} came to {} ({})", device.device_id, product, device.port(), edge.reason);
            }
            Action::Detach => {
                println!("{} {:?} left {} ({})", device.device_id, product, device.port(), edge.reason);
            }
        }
    }
    Ok(())
}
