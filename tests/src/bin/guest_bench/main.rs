//! Measures the daemon beside others that hear of USB devices, in the guest of `cargo xtask guest`:
//! `cargo xtask bench --guest`.
//!
//! Gadgets on `dummy_hcd` are plugged and unplugged; a listener of the kernel's uevents notes the time of each. An entry
//! of a stream belongs to the uevent of its action, bus and address, and was there at the time in its id, in whole ms. udevd
//! runs in all of it, as it does on most machines, and as libusb in npm's `usb` needs it.

mod listeners;

use std::collections::BTreeMap;
use std::time::Duration;

use autoweave_usb_tests::guest::{Edge, Entry, Gadget, Kernel, Pace, Udevd, cycle};

use listeners::{Listener, Start};

struct Scenario {
    name: &'static str,
    gadgets: usize,
    times: usize,
    pace: Pace,
}

const fn pace(hold_ms: u64, gap_ms: u64) -> Pace {
    Pace { hold: Duration::from_millis(hold_ms), gap: Duration::from_millis(gap_ms) }
}

const SCENARIOS: [Scenario; 4] = [
    Scenario { name: "1 device, 1 s in, 1 s out", gadgets: 1, times: 20, pace: pace(1000, 1000) },
    Scenario { name: "8 devices, 1 s in, 1 s out", gadgets: 8, times: 10, pace: pace(1000, 1000) },
    Scenario { name: "1 device, out as soon as enumerated", gadgets: 1, times: 50, pace: pace(0, 0) },
    Scenario { name: "32 devices, out as soon as enumerated", gadgets: 32, times: 32, pace: pace(0, 0) },
];

/// Neither counted: the first events load files over 9p.
const WARM_UP: Pace = pace(1500, 1000);

fn main() {
    let gadgets = Gadget::several(autoweave_usb_tests::guest::GADGETS_MAX);
    let _udevd = Udevd::start();
    println!(
        "| what | listening | uevents | told | lost | twice | latency p50 | p99 | most | RSS | PSS | CPU |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|"
    );
    for scenario in &SCENARIOS {
        let gadgets = &gadgets[..scenario.gadgets];
        for start in listeners::PUBLISHERS {
            measure(scenario, gadgets, &[start], "alone");
        }
        measure(scenario, gadgets, &listeners::ALL, "at once");
    }
}

/// One run with these listeners, a row for each.
fn measure(scenario: &Scenario, gadgets: &[Gadget], starts: &[Start], how: &str) {
    let listeners: Vec<Listener> = starts.iter().map(|start| start()).collect();
    let mut kernel = Kernel::listen();
    cycle(&mut kernel, gadgets, 2, WARM_UP);
    for listener in &listeners {
        listener.wait_until_quiet(kernel.edges().len());
    }
    let before: Vec<usize> = listeners.iter().map(Listener::count).collect();
    let cpu: Vec<f64> = listeners.iter().map(Listener::cpu_seconds).collect();
    let first = kernel.edges().len();
    cycle(&mut kernel, gadgets, scenario.times, scenario.pace);
    let edges = kernel.edges().split_off(first);
    for ((listener, before), cpu) in listeners.iter().zip(before).zip(cpu) {
        listener.wait_until_quiet(before + edges.len());
        let tally = match listener.entries() {
            Some(entries) => Tally::of(&edges, &entries[before..]),
            None => Tally::counted(edges.len(), listener.count() - before),
        };
        println!(
            "| {} | {}, {how} | {} | {} | {} | {} | {} | {:.1} MB | {:.1} MB | {:.2} s |",
            scenario.name,
            listener.name,
            edges.len(),
            tally.told,
            tally.lost,
            tally.twice.map_or_else(|| "–".to_owned(), |twice| twice.to_string()),
            tally.latency(),
            listener.rss_mb(),
            listener.pss_mb(),
            listener.cpu_seconds() - cpu,
        );
    }
}

struct Tally {
    told: usize,
    lost: usize,
    /// `None` where it only counts.
    twice: Option<usize>,
    /// In ms, in order.
    latencies: Vec<f64>,
}

/// Action, bus and address: what an entry and a uevent have in common. A bus comes to an address again after 126
/// others, which no scenario does.
type Key<'a> = (&'a str, u64, u64);

impl Tally {
    fn counted(uevents: usize, told: usize) -> Self {
        Self { told, lost: uevents.saturating_sub(told), twice: None, latencies: Vec::new() }
    }

    fn of(edges: &[Edge], entries: &[Entry]) -> Self {
        let mut by_key: BTreeMap<Key<'_>, usize> = BTreeMap::new();
        for (index, edge) in edges.iter().enumerate() {
            let action = if edge.action == "add" { "attach" } else { "detach" };
            let other = by_key.insert((action, edge.bus, edge.address), index);
            assert!(other.is_none(), "an address came again: {edge:?}");
        }
        let (mut told, mut latencies) = (vec![0_usize; edges.len()], Vec::new());
        for entry in entries {
            let number = |name: &str| entry.get(name).parse().unwrap_or(0);
            let key = (entry.get("action"), number("bus_number"), number("device_address"));
            if let Some(&index) = by_key.get(&key) {
                told[index] += 1;
                let late_us = (entry.time_ms * 1000).saturating_sub(edges[index].time_us);
                latencies.push(late_us as f64 / 1000.0);
            }
        }
        latencies.sort_by(f64::total_cmp);
        let twice = Some(told.iter().map(|told| told.saturating_sub(1)).sum());
        let lost = told.iter().filter(|told| **told == 0).count();
        // An entry of none of them is late, of the warm-up.
        Self { told: edges.len() - lost, lost, twice, latencies }
    }

    fn latency(&self) -> String {
        let quantile = |hundredths: usize| {
            let last = self.latencies.len().checked_sub(1)?;
            self.latencies.get(last * hundredths / 100)
        };
        let columns = [50, 99, 100].map(|hundredths| {
            quantile(hundredths).map_or_else(|| "–".to_owned(), |latency| format!("{latency:.0} ms"))
        });
        columns.join(" | ")
    }
}
