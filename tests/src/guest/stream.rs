//! What is in the stream, and whether it is what the kernel said.

use std::collections::BTreeMap;

use super::kernel::Edge;

/// The daemon's.
pub const STREAM: &str = "aw:hotplug";

/// An entry of the stream.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When the server took it, in ms of the Unix time: the first half of its id.
    pub time_ms: u64,
    /// By name.
    pub fields: BTreeMap<String, String>,
}

impl Entry {
    /// A field's value; empty where there is none.
    pub fn get(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// The device's port as sysfs names it.
    pub fn port(&self) -> String {
        match self.get("port_path") {
            "0" => format!("usb{}", self.get("bus_number")),
            path => format!("{}-{path}", self.get("bus_number")),
        }
    }
}

pub(super) fn read(connection: &mut redis::Connection) -> Vec<Entry> {
    let entries: Vec<(String, Vec<String>)> =
        redis::cmd("XRANGE").arg(STREAM).arg("-").arg("+").query(connection).unwrap();
    let entry = |(id, fields): (String, Vec<String>)| {
        let time_ms = id.split('-').next().and_then(|time| time.parse().ok()).expect("an id is MS-NUMBER");
        let fields = fields.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        Entry { time_ms, fields }
    };
    entries.into_iter().map(entry).collect()
}

/// The entries about what came and went since the daemon started.
pub fn changes(entries: Vec<Entry>) -> Vec<Entry> {
    entries.into_iter().filter(|entry| entry.get("reason") != "coldplug").collect()
}

/// `attach 1-1.2`, for comparing short stories.
pub fn story(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| format!("{} {}", entry.get("action"), entry.port())).collect()
}

/// Checks that the entries tell for each port what the kernel told: the same devices, in the same order, each arrival and
/// each departure once.
pub fn compare(edges: &[Edge], entries: &[Entry]) {
    type Story = BTreeMap<String, Vec<(&'static str, u64, String)>>;
    let mut kernel = Story::new();
    for edge in edges {
        let action = if edge.action == "add" { "attach" } else { "detach" };
        kernel.entry(edge.port.clone()).or_default().push((action, edge.address, edge.ids.clone()));
    }
    let mut told = Story::new();
    for entry in entries {
        let action = if entry.get("action") == "attach" { "attach" } else { "detach" };
        let ids = format!("{}:{}", entry.get("vendor_id"), entry.get("product_id"));
        let address = entry.get("device_address").parse().expect("an address is a number");
        told.entry(entry.port()).or_default().push((action, address, ids));
    }
    for port in kernel.keys().chain(told.keys()) {
        assert_eq!(told.get(port), kernel.get(port), "port {port}: what was told, and what the kernel told");
    }
}
