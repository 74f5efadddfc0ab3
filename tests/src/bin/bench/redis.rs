//! The way on into Redis: a real redis-server on a Unix socket, in memory, on the same machine.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use autoweave_usb_testbus::Bus;
use redis::Connection;

use crate::daemon::{Daemon, binary};
use crate::{Outcome, PATIENCE, RUNS, milliseconds, on_new_thread, pace, plug, row, rows_of_latencies};

const STREAM: &str = "aw:hotplug";

/// Simulated plugs and unplugs, and the entries redis-benchmark adds.
const EVENTS: u32 = 200_000;

const CAUGHT_UP: u64 = 1_000_000;

/// A redis-server that keeps nothing on disk.
pub struct Server {
    child: Child,
    directory: tempfile::TempDir,
}

impl Server {
    pub fn start() -> Outcome<Self> {
        let directory = tempfile::tempdir()?;
        let mut command = Command::new("redis-server");
        command.current_dir(directory.path()).stdout(Stdio::null());
        command.args(["--port", "0", "--unixsocket", "redis.sock", "--save", "", "--appendonly", "no"]);
        let server = Self { child: command.spawn()?, directory };
        let deadline = Instant::now() + PATIENCE;
        while server.connect().is_err() {
            if Instant::now() > deadline {
                return Err("redis-server does not answer".into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(server)
    }

    fn socket(&self) -> String {
        self.directory.path().join("redis.sock").display().to_string()
    }

    pub fn url(&self) -> String {
        format!("unix://{}", self.socket())
    }

    fn connect(&self) -> Outcome<Connection> {
        let mut connection = redis::Client::open(self.url())?.get_connection()?;
        redis::cmd("PING").exec(&mut connection)?;
        Ok(connection)
    }

    /// Waits until the stream has `count` entries.
    pub fn wait_for(&self, count: u64) -> Outcome<()> {
        let mut connection = self.connect()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let length: u64 = redis::cmd("XLEN").arg(STREAM).query(&mut connection)?;
            if length >= count {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("the stream has {length} entries, not {count}").into());
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Entries a second that redis-benchmark adds with ten of them in flight on each of its connections: the entry is
    /// a copy of the stream's newest.
    fn benchmark(&self, connections: &str) -> Outcome<f64> {
        let newest: Vec<(String, Vec<String>)> = redis::cmd("XREVRANGE")
            .arg(STREAM)
            .arg("+")
            .arg("-")
            .arg("COUNT")
            .arg(1)
            .query(&mut self.connect()?)?;
        let (_, fields) = newest.into_iter().next().ok_or("the stream is empty")?;
        let mut command = Command::new("redis-benchmark");
        command.args([
            "-s",
            &self.socket(),
            "-n",
            &EVENTS.to_string(),
            "-P",
            "10",
            "-c",
            connections,
            "--csv",
        ]);
        let output = command.args(["XADD", "bench", "*"]).args(fields).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().last().ok_or("redis-benchmark says nothing")?;
        let rate = line.rsplit("\",\"").nth(6).ok_or("redis-benchmark says something else")?;
        Ok(rate.parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every event as fast as it can go, and a stream that keeps them all.
pub fn environment(url: &str) -> [(&str, &str); 3] {
    [
        ("REDIS_URL", url),
        ("AUTOWEAVE_USB__PERFORMANCE__MAX_EVENTS_PER_SECOND", "0"),
        ("AUTOWEAVE_USB__REDIS__MAX_LEN", "10000000"),
    ]
}

pub fn latency_rows() -> Outcome<()> {
    for durability in ["power", "process"] {
        for rate in [100, 1000] {
            let what = format!("uevent to readable in Redis, {rate}/s, {durability}");
            rows_of_latencies(&what, move || latencies(durability, rate))?;
        }
    }
    Ok(())
}

fn latencies(durability: &'static str, rate: u32) -> Outcome<Vec<f64>> {
    let mut bus = Bus::enter()?;
    let ports = plug(&mut bus, 50)?;
    let server = Server::start()?;
    let daemon = Daemon::start_with(durability, &environment(&server.url()))?;
    server.wait_for(bus.devices().len() as u64)?;
    let count = (rate * 5).max(1000);
    let mut connection = server.connect()?;
    let watcher =
        thread::spawn(move || watch(&mut connection, count as usize).map_err(|error| error.to_string()));
    let sent = pace(&mut bus, &ports, rate, count)?;
    let arrived = watcher.join().map_err(|_| "the watcher panicked")??;
    daemon.stop()?;
    Ok(milliseconds(&sent, &arrived))
}

/// When each of the next `count` entries could be read by a client that waits for them.
fn watch(connection: &mut Connection, count: usize) -> Outcome<Vec<Instant>> {
    type Entries = Vec<(String, Vec<(String, Vec<String>)>)>;
    let newest: Vec<(String, Vec<String>)> =
        redis::cmd("XREVRANGE").arg(STREAM).arg("+").arg("-").arg("COUNT").arg(1).query(connection)?;
    let mut last = newest.into_iter().next().ok_or("the stream is empty")?.0;
    let mut arrived = Vec::new();
    while arrived.len() < count {
        let mut read = redis::cmd("XREAD");
        read.arg("BLOCK").arg(10_000).arg("STREAMS").arg(STREAM).arg(&last);
        let answer: Option<Entries> = read.query(connection)?;
        let now = Instant::now();
        let Some((_, entries)) = answer.and_then(|mut streams| streams.pop()) else {
            return Err(format!("only {} of {count} entries came", arrived.len()).into());
        };
        arrived.extend(entries.iter().map(|_| now));
        last = entries.into_iter().last().map_or(last, |(id, _)| id);
    }
    Ok(arrived)
}

pub fn flood_rows() -> Outcome<()> {
    let runs = (0..RUNS).map(|_| on_new_thread(throughput)).collect::<Outcome<Vec<_>>>()?;
    let column = |pick: fn(&Throughput) -> f64| runs.iter().map(pick).collect::<Vec<_>>();
    row("200,000 simulated events: table, journal, Redis", "events/s", 0, &column(|run| run.simulated));
    for (index, connections) in ["1 connection", "50 connections"].into_iter().enumerate() {
        let rates: Vec<f64> = runs.iter().map(|run| run.benchmarks[index]).collect();
        row(
            &format!("redis-benchmark, XADD of the same entry, -P 10, {connections}"),
            "entries/s",
            0,
            &rates,
        );
        let ratios: Vec<f64> = runs.iter().map(|run| run.simulated / run.benchmarks[index] * 100.0).collect();
        row(&format!("the simulated events in % of {connections}"), "%", 0, &ratios);
    }
    row("200,000 edges at once from the bus, into Redis", "edges/s", 0, &column(|run| run.flood));
    row("CPU for 100,000 of them, without Redis\'s", "s", 2, &column(|run| run.cpu_seconds));
    row("PSS, idle, 50 devices, with Redis", "MB", 2, &column(|run| run.pss_idle));
    row("PSS after 100,000 cycles, with Redis", "MB", 2, &column(|run| run.pss_after));
    Ok(())
}

struct Throughput {
    simulated: f64,
    /// With one connection, as we have, and with fifty.
    benchmarks: [f64; 2],
    flood: f64,
    cpu_seconds: f64,
    pss_idle: f64,
    pss_after: f64,
}

/// One after the other on one server, so that the figures can be compared.
fn throughput() -> Outcome<Throughput> {
    let server = Server::start()?;
    let begin = Instant::now();
    simulate(&server.url(), None, u64::from(EVENTS) / 200, "power")?;
    server.wait_for(EVENTS.into())?;
    let simulated = f64::from(EVENTS) / begin.elapsed().as_secs_f64();
    let benchmarks = [server.benchmark("1")?, server.benchmark("50")?];

    let mut bus = Bus::enter()?;
    let ports = plug(&mut bus, 50)?;
    let daemon = Daemon::start_with("power", &environment(&server.url()))?;
    let first = u64::from(EVENTS) + bus.devices().len() as u64;
    server.wait_for(first)?;
    let pss_idle = daemon.pss_mb()?;
    let (begin, cpu) = (Instant::now(), daemon.cpu_seconds()?);
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let edges = bus.cycle(&ports, 2000)?;
    server.wait_for(first + edges)?;
    let (seconds, edges) = (begin.elapsed().as_secs_f64(), edges as f64);
    let cpu_seconds = (daemon.cpu_seconds()? - cpu) / edges * 100_000.0;
    let pss_after = daemon.pss_mb()?;
    daemon.stop()?;
    Ok(Throughput { simulated, benchmarks, flood: edges / seconds, cpu_seconds, pss_idle, pss_after })
}

/// Feeds `cycles` of each of 100 devices through the pipeline; `url` may be of no server at all.
fn simulate(url: &str, state_dir: Option<&Path>, cycles: u64, durability: &str) -> Outcome<()> {
    let mut command = Command::new(binary()?);
    command.args(["simulate", "--devices", "100", "--rate", "0", "--cycles", &cycles.to_string()]);
    if let Some(directory) = state_dir {
        command.arg("--state-dir").arg(directory);
    }
    if !url.is_empty() {
        command.arg("--redis").envs(environment(url));
    }
    let command = command.env("AUTOWEAVE_USB__JOURNAL__DURABILITY", durability);
    let status = command.env("AUTOWEAVE_USB__LOG__LEVEL", "warn").stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("simulate ended with {status}").into()) }
}

pub fn catch_up_rows() -> Outcome<()> {
    let runs = (0..RUNS).map(|_| on_new_thread(catch_up)).collect::<Outcome<Vec<_>>>()?;
    row("a start with 1,000,000 journaled events, to all of them in Redis", "s", 1, &runs);
    Ok(())
}

fn catch_up() -> Outcome<f64> {
    let bus = Bus::enter()?;
    let server = Server::start()?;
    let directory = tempfile::tempdir()?;
    simulate("", Some(directory.path()), CAUGHT_UP / 200, "process")?;
    let begin = Instant::now();
    let daemon = Daemon::start_in(directory, "power", &environment(&server.url()))?;
    server.wait_for(CAUGHT_UP)?;
    let seconds = begin.elapsed().as_secs_f64();
    daemon.stop()?;
    drop(bus);
    Ok(seconds)
}
