//! What traces cost: the same flood with a collector on this machine and without one, run by turns. The collector reads
//! and answers, no more; what it takes of the machine's cores is in the figures.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use autoweave_usb_testbus::Bus;

use crate::daemon::Daemon;
use crate::redis::{Server, environment};
use crate::{Outcome, on_new_thread, plug, row};

/// More than elsewhere: what is looked for is a difference.
const RUNS: usize = 5;

const DEVICES: u32 = 100;

/// Unplugs and plugs of each device.
const ROUNDS: u32 = 1000;

struct Flood {
    rate: f64,
    cpu_seconds: f64,
    pss_idle: f64,
    pss_after: f64,
    bytes: u64,
}

pub fn rows() -> Outcome<()> {
    for to_redis in [false, true] {
        let into = if to_redis { "Redis" } else { "the journal" };
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            without.push(on_new_thread(move || flood(to_redis, false))?);
            with.push(on_new_thread(move || flood(to_redis, true))?);
        }
        for (runs, telemetry) in [(&without, "off"), (&with, "on")] {
            let column = |pick: fn(&Flood) -> f64| runs.iter().map(pick).collect::<Vec<_>>();
            row(
                &format!("200,000 edges at once, into {into}, telemetry {telemetry}"),
                "edges/s",
                0,
                &column(|f| f.rate),
            );
            row(&format!("CPU for 100,000 of them, {telemetry}"), "s", 2, &column(|f| f.cpu_seconds));
            row(&format!("PSS, idle, 100 devices, {telemetry}"), "MB", 2, &column(|f| f.pss_idle));
            row(&format!("PSS after it, {telemetry}"), "MB", 2, &column(|f| f.pss_after));
        }
        let pairs = without.iter().zip(&with);
        row(
            "on in % of off, by turns",
            "%",
            0,
            &pairs.map(|(off, on)| on.rate / off.rate * 100.0).collect::<Vec<_>>(),
        );
        row("exported", "MB", 1, &with.iter().map(|run| run.bytes as f64 / 1e6).collect::<Vec<_>>());
    }
    Ok(())
}

fn flood(to_redis: bool, telemetry: bool) -> Outcome<Flood> {
    let mut bus = Bus::enter()?;
    let ports = plug(&mut bus, DEVICES)?;
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let server = if to_redis { Some(Server::start()?) } else { None };
    let url = server.as_ref().map(Server::url);
    let (endpoint, bytes) = sink()?;
    let mut env = url.as_deref().map_or(Vec::new(), |url| environment(url).to_vec());
    if telemetry {
        env.push(("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint));
    }
    let daemon = Daemon::start_with("power", &env)?;
    let first = bus.devices().len() as u64;
    let wait_for = |count| match &server {
        Some(server) => server.wait_for(count),
        None => daemon.wait_for(count).map(drop),
    };
    wait_for(first)?;
    let pss_idle = daemon.pss_mb()?;
    let (begin, cpu) = (Instant::now(), daemon.cpu_seconds()?);
    let edges = bus.cycle(&ports, ROUNDS)?;
    wait_for(first + edges)?;
    let (seconds, edges) = (begin.elapsed().as_secs_f64(), edges as f64);
    let cpu_seconds = (daemon.cpu_seconds()? - cpu) / edges * 100_000.0;
    let pss_after = daemon.pss_mb()?;
    daemon.stop()?;
    Ok(Flood {
        rate: edges / seconds,
        cpu_seconds,
        pss_idle,
        pss_after,
        bytes: bytes.load(Ordering::Relaxed),
    })
}

/// A collector that forgets, and how much it got.
fn sink() -> Outcome<(String, Arc<AtomicU64>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let bytes = Arc::<AtomicU64>::default();
    let counted = bytes.clone();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let counted = counted.clone();
            thread::spawn(move || answer(connection, &counted));
        }
    });
    Ok((url, bytes))
}

fn answer(connection: TcpStream, counted: &AtomicU64) -> Option<()> {
    let mut reader = BufReader::new(connection);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line == "\r\n" {
                break;
            }
            if let Some(text) = line.to_lowercase().strip_prefix("content-length:") {
                length = text.trim().parse().ok()?;
            }
        }
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink()).ok()?;
        counted.fetch_add(length, Ordering::Relaxed);
        reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
    }
}
