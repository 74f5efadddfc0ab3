//! Measures workers on this machine: `cargo run --release -p autoweave-usb-plugin --example figures`, with
//! `--example plugin_exec` built before.

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use autoweave_usb_device::{Action, Device, Event, Reading, Reason, SourceName};
use autoweave_usb_plugin::launch::Host;
use autoweave_usb_plugin::loader::{Loader, Options};
use autoweave_usb_plugin::pool::Policy;
use autoweave_usb_plugin::report::{Report, Sink};
use autoweave_usb_plugin::sandbox::Identity;
use autoweave_usb_plugin::worker::Deadlines;
use nix::time::{ClockId, clock_gettime};

const EVENTS: u64 = 5000;

const NODE: &str =
    "export const hook = (e, { log }) => { if (e.seq % 2) log('info', process.hrtime.bigint()) }";
const PYTHON: &str =
    "import time\ndef hook(e, c):\n  if e['seq'] % 2: c['log']('info', time.monotonic_ns())\n";
const SHELL: &str = r#"#!/bin/sh
while IFS= read -r line; do case $line in
*hello*) echo '{"type":"ready","protocol":1}' ;;
*event*) id=${line#*'"id":"'}; echo '{"type":"done","id":"'"${id%%'"'*}"'","ok":true}' ;;
*) exit ;;
esac; done
"#;

fn main() -> Result<(), Box<dyn Error>> {
    for (entry, code) in [("index.mjs", NODE), ("main.py", PYTHON), ("run", SHELL)] {
        measure(entry, code)?;
    }
    Ok(())
}

/// Rss and Pss of a process group together, in KiB.
fn memory(group: u32) -> Result<(u64, u64), Box<dyn Error>> {
    let (mut rss, mut pss) = (0, 0);
    for process in fs::read_dir("/proc")?.flatten() {
        let read = |file: &str| fs::read_to_string(process.path().join(file)).unwrap_or_default();
        let stat = read("stat");
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(2);
        if fields.next() == Some(group.to_string().as_str()) {
            let status = read("smaps_rollup");
            let kib =
                |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next());
            rss += kib("Rss:").ok_or("no Rss")?.parse::<u64>()?;
            pss += kib("Pss:").ok_or("no Pss")?.parse::<u64>()?;
        }
    }
    Ok((rss, pss))
}

fn measure(entry: &str, code: &str) -> Result<(), Box<dyn Error>> {
    let place = tempfile::tempdir()?;
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755))?;
    write(&place.path().join("plugins/measured"), entry, code)?;
    let (sender, reports) = channel();
    let report: Sink = Arc::new(move |report| drop(sender.send(report)));
    let begun = Instant::now();
    let loader = Loader::open(options(place.path())?, Vec::new(), report)?;
    loader.wait_until_loaded(Duration::from_secs(60));
    let ready = begun.elapsed();
    let process = reports.try_iter().find_map(|report| match report {
        Report::Started { process, .. } => Some(process),
        _ => None,
    });
    let (rss, pss) = memory(process.ok_or("no worker")?)?;
    let (mut sent, mut round_trips) = (Vec::new(), Vec::new());
    for number in 1..=EVENTS {
        let event = event(number * 2 - 1)?;
        let (begun, at) = (Instant::now(), Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?));
        loader.dispatch(&event, 1).wait();
        round_trips.push(begun.elapsed());
        sent.push(at);
    }
    let called = reports.try_iter().filter_map(|report| match report {
        Report::Log { line, .. } => line.message.parse().ok().map(Duration::from_nanos),
        _ => None,
    });
    // The log lets a hundred lines a second through: some events only, in order.
    let mut to_hook: Vec<Duration> = called
        .filter_map(|called| sent.iter().rev().find(|sent| **sent <= called).map(|sent| called - *sent))
        .collect();
    let begun = Instant::now();
    let pending: Vec<_> = (1..=EVENTS)
        .map(|n| Ok(loader.dispatch(&event(n * 2)?, 1)))
        .collect::<Result<_, Box<dyn Error>>>()?;
    pending.into_iter().for_each(|pending| drop(pending.wait()));
    let rate = EVENTS as f64 / begun.elapsed().as_secs_f64();
    println!(
        "{entry}: ready {ready:.1?}; idle Rss {rss} kB, Pss {pss} kB; hook called {}; round trip {}; {rate:.0} events/s",
        percentiles(&mut to_hook),
        percentiles(&mut round_trips)
    );
    loader.close(Duration::from_secs(5));
    Ok(())
}

fn percentiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    format!("p50 {:.0?} p99 {:.0?} ({})", at(50), at(99), times.len())
}

fn write(package: &Path, entry: &str, code: &str) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(package)?;
    fs::write(
        package.join("autoweave.plugin.json"),
        format!(
            r#"{{"name": "measured", "version": "1.0.0", "entry": "{entry}",
                "permissions": {{"usb": {{"vendor_ids": ["*"]}}, "memory": {{"max_heap_mb": 32}}}},
                "hooks": {{"onUSBAttach": "hook"}}}}"#
        ),
    )?;
    fs::write(package.join(entry), code)?;
    Ok(fs::set_permissions(package.join(entry), fs::Permissions::from_mode(0o755))?)
}

fn options(place: &Path) -> Result<Options, Box<dyn Error>> {
    let launcher = std::env::current_exe()?.with_file_name("plugin_exec");
    let deadlines = Deadlines {
        ready: Duration::from_secs(10),
        event: Duration::from_secs(30),
        shutdown: Duration::from_secs(5),
    };
    Ok(Options {
        directory: place.join("plugins"),
        store: place.join("store"),
        require_signature: false,
        policy: Policy { deadlines, deliveries_max: 5, patience: Duration::from_secs(30) },
        host: Host {
            launcher,
            launcher_arguments: Vec::new(),
            identity: Identity::default_for_loader(),
            without_landlock: Vec::new(),
            name: String::new(),
            sysfs: "/sys".into(),
            protected: Vec::new(),
        },
        gate: Arc::new(|| true),
    })
}

fn event(number: u64) -> Result<Arc<Event>, Box<dyn Error>> {
    let reading = Reading::bare("1-1".parse()?, 5, 0x046d, 0xc52b, Some(0));
    Ok(Arc::new(Event {
        seq: number,
        event_id: format!("E{number}"),
        producer: "p".to_owned(),
        action: Action::Attach,
        reason: Reason::Hotplug,
        source: SourceName::Simulate,
        host: "h".to_owned(),
        timestamp: 1,
        edges: 1,
        seqnum: None,
        traceparent: None,
        device: Arc::new(Device::new(&reading, "046d:c52b@1-1".to_owned())),
    }))
}
