//! Writes the list of USB ids down as text.
//!
//! The tables of the crate `usb-ids` are full of pointers, which the loader writes anew in every process: a megabyte
//! that no two processes share. Text is shared, and only read where it is looked at.

use std::collections::BTreeMap;
use std::path::Path;
use std::{env, fs, io};

use usb_ids::{Classes, Vendors};

fn main() -> io::Result<()> {
    let mut names = BTreeMap::new();
    for vendor in Vendors::iter() {
        names.insert(format!("{:04x}", vendor.id()), vendor.name());
        for device in vendor.devices() {
            names.insert(format!("{:04x}:{:04x}", vendor.id(), device.id()), device.name());
        }
    }
    for class in Classes::iter() {
        names.insert(format!("class {:02x}", class.id()), class.name());
    }
    let text: String = names.iter().map(|(id, name)| format!("{id}\t{name}\n")).collect();
    let directory = env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?;
    println!("cargo::rerun-if-changed=build.rs");
    fs::write(Path::new(&directory).join("usb_names.txt"), text)
}
