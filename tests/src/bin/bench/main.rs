//! Measures the release binary from outside, on the virtual bus: `cargo xtask bench`.
//!
//! A watcher reads the journal in a tight loop, as any other process could, so a latency is from just before
//! the kernel is asked to broadcast a uevent until another process can read the event. The bus, the watcher
//! and the daemon share the machine's cores: what is printed is what a small, busy machine does.

mod daemon;
mod overrun;
mod plugins;
mod redis;
mod telemetry;

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use autoweave_usb_journal::Reader;
use autoweave_usb_testbus::{Bus, Device};

use daemon::Daemon;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// How often each measurement is made; the table shows the median, the least and the most.
const RUNS: usize = 3;

/// Longer than any measurement: the slow scan is not what is measured here.
const INTERVAL_MS: &str = "3600000";

const PATIENCE: Duration = Duration::from_secs(120);

/// Of the table that most measurements are rows of.
const COLUMNS: &str = "| what | median | least | most |\n|---|---|---|---|";

type Measurement = (&'static str, &'static str, fn() -> Outcome<()>);

/// Each measurement by the name it is asked for, with the head of its table; without names, all are made.
const MEASUREMENTS: [Measurement; 10] = [
    ("latency", COLUMNS, latency_rows),
    ("flood", COLUMNS, flood_rows),
    ("idle", COLUMNS, idle_rows),
    ("start", COLUMNS, start_rows),
    ("redis-latency", COLUMNS, redis::latency_rows),
    ("redis-flood", COLUMNS, redis::flood_rows),
    ("redis-catch-up", COLUMNS, redis::catch_up_rows),
    ("plugins", COLUMNS, plugins::rows),
    ("telemetry", COLUMNS, telemetry::rows),
    ("overrun", overrun::COLUMNS, overrun::rows),
];

fn main() -> Outcome<()> {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = asked.iter().find(|name| !MEASUREMENTS.iter().any(|(known, ..)| known == name)) {
        let known = MEASUREMENTS.map(|(known, ..)| known).join(", ");
        return Err(format!("no measurement is called {unknown:?}; there are: {known}").into());
    }
    let is_asked = |name: &str| asked.is_empty() || asked.iter().any(|asked| asked == name);
    let mut table = "";
    for (_, columns, measure) in MEASUREMENTS.iter().filter(|(name, ..)| is_asked(name)) {
        if table != *columns {
            table = columns;
            println!("\n{table}");
        }
        measure()?;
    }
    Ok(())
}

fn latency_rows() -> Outcome<()> {
    for durability in ["power", "process"] {
        for rate in [100, 1000] {
            let what = format!("uevent to readable in the journal, {rate}/s, {durability}");
            rows_of_latencies(&what, move || latencies(durability, rate))?;
        }
    }
    Ok(())
}

fn flood_rows() -> Outcome<()> {
    for durability in ["power", "process"] {
        let runs =
            (0..RUNS).map(|_| on_new_thread(move || flood(durability))).collect::<Outcome<Vec<_>>>()?;
        let column = |pick: fn(&Flood) -> f64| runs.iter().map(pick).collect::<Vec<_>>();
        row(
            &format!("200,000 edges at once, into the journal, {durability}"),
            "edges/s",
            0,
            &column(|f| f.rate),
        );
        row(&format!("CPU for 100,000 edges, {durability}"), "s", 2, &column(|f| f.cpu_seconds));
        row(&format!("PSS after 100,000 cycles, {durability}"), "MB", 2, &column(|f| f.pss_mb));
    }
    Ok(())
}

fn idle_rows() -> Outcome<()> {
    let runs = (0..RUNS).map(|_| on_new_thread(idle)).collect::<Outcome<Vec<_>>>()?;
    row("PSS, idle, 50 devices", "MB", 2, &runs);
    Ok(())
}

fn start_rows() -> Outcome<()> {
    let runs = (0..RUNS).map(|_| on_new_thread(cold_start)).collect::<Outcome<Vec<_>>>()?;
    row("start with 500 devices, to all of them journaled", "ms", 0, &runs);
    Ok(())
}

/// Namespaces belong to threads, so each measurement has a bus of its own.
fn on_new_thread<T: Send + 'static>(measure: impl FnOnce() -> Outcome<T> + Send + 'static) -> Outcome<T> {
    let run = thread::spawn(move || measure().map_err(|error| error.to_string()));
    run.join().map_err(|_| "a measurement panicked")?.map_err(Into::into)
}

/// Measures `RUNS` times; a row for the median and one for the 99th percentile.
fn rows_of_latencies(
    what: &str,
    measure: impl Fn() -> Outcome<Vec<f64>> + Clone + Send + 'static,
) -> Outcome<()> {
    let runs = (0..RUNS).map(|_| on_new_thread(measure.clone())).collect::<Outcome<Vec<_>>>()?;
    for (name, at) in [("p50", 0.50), ("p99", 0.99)] {
        let values: Vec<f64> = runs.iter().map(|latencies| quantile(latencies, at)).collect();
        row(&format!("{what}, {name}"), "ms", 3, &values);
    }
    Ok(())
}

/// Milliseconds from uevent to journal, for ten seconds' events at least 1,000.
fn latencies(durability: &'static str, rate: u32) -> Outcome<Vec<f64>> {
    let mut bus = Bus::enter()?;
    let ports = plug(&mut bus, 50)?;
    let daemon = Daemon::start(durability)?;
    let first = daemon.wait_for(bus.devices().len() as u64)?;
    let count = (rate * 5).max(1000);
    let (seen, watched) = (Arc::new(AtomicU64::new(0)), daemon.directory.path().to_owned());
    let watcher = {
        let seen = seen.clone();
        thread::spawn(move || {
            watch(&watched, first, u64::from(count), &seen).map_err(|error| error.to_string())
        })
    };
    while seen.load(Ordering::Acquire) == 0 {
        thread::yield_now();
    }
    let sent = pace(&mut bus, &ports, rate, count)?;
    let arrived = watcher.join().map_err(|_| "the watcher panicked")??;
    daemon.stop()?;
    Ok(milliseconds(&sent, &arrived))
}

/// Unplugs and plugs `count` times in all, `rate` a second; when each was about to be broadcast.
fn pace(bus: &mut Bus, ports: &[String], rate: u32, count: u32) -> Outcome<Vec<Instant>> {
    let (begin, pace) = (Instant::now(), Duration::from_secs(1) / rate);
    let mut sent = Vec::new();
    for index in 0..count {
        thread::sleep((begin + pace * index).saturating_duration_since(Instant::now()));
        let port = &ports[usize::try_from(index / 2)? % ports.len()];
        let action = if index % 2 == 0 { "remove" } else { "add" };
        sent.push(Instant::now());
        bus.uevent(action, port)?;
    }
    Ok(sent)
}

fn milliseconds(sent: &[Instant], arrived: &[Instant]) -> Vec<f64> {
    sent.iter().zip(arrived).map(|(sent, arrived)| (*arrived - *sent).as_secs_f64() * 1000.0).collect()
}

/// When each of the `count` events after `first` became readable. Sets `ready` once it looks.
fn watch(directory: &Path, first: u64, count: u64, ready: &AtomicU64) -> Outcome<Vec<Instant>> {
    let mut reader = Reader::open(directory)?;
    let mut arrived = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    ready.store(1, Ordering::Release);
    while (arrived.len() as u64) < count {
        let last = reader.last_seq()?;
        let now = Instant::now();
        while first + (arrived.len() as u64) < last {
            arrived.push(now);
        }
        if now > deadline {
            return Err(format!("only {} of {count} events came", arrived.len()).into());
        }
    }
    Ok(arrived)
}

struct Flood {
    rate: f64,
    cpu_seconds: f64,
    pss_mb: f64,
}

fn flood(durability: &'static str) -> Outcome<Flood> {
    let mut bus = Bus::enter()?;
    let ports = plug(&mut bus, 100)?;
    let daemon = Daemon::start(durability)?;
    let first = daemon.wait_for(bus.devices().len() as u64)?;
    let (begin, cpu) = (Instant::now(), daemon.cpu_seconds()?);
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let edges = bus.cycle(&ports, 1000)?;
    daemon.wait_for(first + edges)?;
    let (seconds, edges) = (begin.elapsed().as_secs_f64(), edges as f64);
    let cpu_seconds = (daemon.cpu_seconds()? - cpu) / edges * 100_000.0;
    let pss_mb = daemon.pss_mb()?;
    daemon.stop()?;
    Ok(Flood { rate: edges / seconds, cpu_seconds, pss_mb })
}

fn idle() -> Outcome<f64> {
    let mut bus = Bus::enter()?;
    plug(&mut bus, 50)?;
    let daemon = Daemon::start("power")?;
    daemon.wait_for(bus.devices().len() as u64)?;
    let pss = daemon.pss_mb()?;
    daemon.stop()?;
    Ok(pss)
}

fn cold_start() -> Outcome<f64> {
    let mut bus = Bus::enter()?;
    plug(&mut bus, 500)?;
    let begin = Instant::now();
    let daemon = Daemon::start("power")?;
    daemon.wait_for(bus.devices().len() as u64)?;
    let milliseconds = begin.elapsed().as_secs_f64() * 1000.0;
    daemon.stop()?;
    Ok(milliseconds)
}

/// Plugs `count` devices, at most 100 on a bus, without a word.
fn plug(bus: &mut Bus, count: u32) -> Outcome<Vec<String>> {
    let mut ports = Vec::new();
    for index in 0..count {
        let port = format!("{}-{}", index / 100 + 1, index % 100 + 1);
        bus.plug_silent(&port, &Device::numbered(index))?;
        ports.push(port);
    }
    Ok(ports)
}

fn quantile(values: &[f64], at: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index into the values")]
    let index = ((sorted.len() - 1) as f64 * at).round() as usize;
    sorted[index]
}

fn row(what: &str, unit: &str, decimals: usize, values: &[f64]) {
    let [median, least, most] = [0.5, 0.0, 1.0].map(|at| quantile(values, at));
    println!("| {what} | {median:.decimals$} {unit} | {least:.decimals$} | {most:.decimals$} |");
}
