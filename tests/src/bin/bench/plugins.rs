//! Plugins: how soon a hook is called, how many events go through one worker, what an idle one takes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use autoweave_usb_testbus::Bus;
use nix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

use crate::daemon::Daemon;
use crate::{Outcome, PATIENCE, RUNS, on_new_thread, pace, plug, row, rows_of_latencies, watch};

/// Name, entry and code of plugins that write down each event's number and when their hook was called.
const PLUGINS: [(&str, &str, &str); 3] = [
    (
        "Node",
        "index.mjs",
        "import fs from 'node:fs';\nconst out = fs.openSync('OUT', 'a');\n\
         export function hook({ seq }) { fs.writeSync(out, `${seq} ${process.hrtime.bigint()}\\n`); }\n",
    ),
    (
        "Python",
        "main.py",
        "import os, time\nout = os.open('OUT', os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n\
         def hook(event, context):\n  os.write(out, f\"{event['seq']} {time.monotonic_ns()}\\n\".encode())\n",
    ),
    (
        "shell",
        "run",
        "#!/bin/sh\nexec 3>>OUT\nwhile IFS= read -r line; do case $line in\n\
         *'\"hello\"'*) echo '{\"type\":\"ready\",\"protocol\":1}' ;;\n\
         *'\"event\"'*) id=${line#*'\"id\":\"'}; seq=${line#*'\"seq\":'}; echo \"${seq%%,*} 0\" >&3\n\
         echo '{\"type\":\"done\",\"id\":\"'\"${id%%'\"'*}\"'\",\"ok\":true}' ;;\n*) exit ;;\nesac; done\n",
    ),
];

/// Events at once, for the rate.
const AT_ONCE_ROUNDS: u32 = 100;

pub fn rows() -> Outcome<()> {
    for plugin @ (name, ..) in PLUGINS {
        if name != "shell" {
            for rate in [100, 1000] {
                let what = format!("readable in the journal to hook called, {name}, {rate}/s");
                rows_of_latencies(&what, move || latencies(plugin, rate))?;
            }
        }
        let runs = (0..RUNS).map(|_| on_new_thread(move || at_once(plugin))).collect::<Outcome<Vec<_>>>()?;
        row(&format!("through one worker, {name}"), "events/s", 0, &runs);
        let runs = (0..RUNS).map(|_| on_new_thread(move || memory(plugin))).collect::<Outcome<Vec<_>>>()?;
        let column = |pick: fn(&[f64; 2]) -> f64| runs.iter().map(pick).collect::<Vec<_>>();
        row(&format!("memory of an idle worker, {name}, RSS"), "MB", 1, &column(|[rss, _]| *rss));
        row(&format!("memory of an idle worker, {name}, PSS"), "MB", 1, &column(|[_, pss]| *pss));
    }
    Ok(())
}

/// A daemon with one plugin, and what the plugin writes.
struct Bed {
    daemon: Daemon,
    out: PathBuf,
    _place: TempDir,
}

impl Bed {
    fn start((_, entry, code): (&str, &str, &str)) -> Outcome<Self> {
        let place = tempfile::tempdir()?;
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755))?;
        let (desk, package) = (place.path().join("desk"), place.path().join("plugins/measured"));
        fs::create_dir(&desk)?;
        fs::set_permissions(&desk, fs::Permissions::from_mode(0o777))?;
        fs::create_dir_all(&package)?;
        let (desk, out) = (fs::canonicalize(&desk)?, fs::canonicalize(&desk)?.join("heard"));
        let manifest = format!(
            r#"{{"name": "measured", "version": "1.0.0", "entry": "{entry}",
                "permissions": {{"usb": {{"vendor_ids": ["*"]}}, "memory": {{"max_heap_mb": 32}},
                                 "filesystem": [{{"path": "{}", "mode": "readwrite"}}]}},
                "hooks": {{"onUSBAttach": "hook", "onUSBDetach": "hook"}}}}"#,
            desk.display()
        );
        fs::write(package.join("autoweave.plugin.json"), manifest)?;
        fs::write(package.join(entry), code.replace("OUT", text(&out)?))?;
        fs::set_permissions(package.join(entry), fs::Permissions::from_mode(0o755))?;
        let (plugins, cache) = (place.path().join("plugins"), place.path().join("cache"));
        let env = [("AUTOWEAVE_USB__PLUGINS__DIR", text(&plugins)?), ("CACHE_DIRECTORY", text(&cache)?)];
        Ok(Self { daemon: Daemon::start_with("power", &env)?, out, _place: place })
    }

    /// The events the plugin has heard since: number, and when in nanoseconds of the monotonic clock.
    fn heard(&self, after: u64) -> Outcome<Vec<(u64, u128)>> {
        let text = fs::read_to_string(&self.out).unwrap_or_default();
        let mut heard = Vec::new();
        for line in text.lines() {
            let Some((seq, at)) = line.split_once(' ') else { continue };
            heard.push((seq.parse()?, at.parse()?));
        }
        heard.retain(|(seq, _)| *seq > after);
        Ok(heard)
    }

    fn wait_until_heard(&self, last: u64) -> Outcome<()> {
        let (deadline, line) = (Instant::now() + PATIENCE, format!("\n{last} "));
        while !fs::read_to_string(&self.out).unwrap_or_default().contains(&line) {
            if Instant::now() > deadline {
                return Err(format!("the plugin did not hear of event {last}").into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// Milliseconds from the journal to the hook.
fn latencies(plugin: (&str, &str, &str), rate: u32) -> Outcome<Vec<f64>> {
    let mut bus = Bus::enter()?;
    let ports = plug(&mut bus, 50)?;
    let bed = Bed::start(plugin)?;
    let first = bed.daemon.wait_for(bus.devices().len() as u64)?;
    bed.wait_until_heard(first)?;
    let count = (rate * 5).max(1000);
    let (seen, watched) = (Arc::new(AtomicU64::new(0)), bed.daemon.directory.path().to_owned());
    let (base, base_ns) =
        (Instant::now(), Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?).as_nanos());
    let watcher = {
        let seen = seen.clone();
        thread::spawn(move || {
            watch(&watched, first, u64::from(count), &seen).map_err(|error| error.to_string())
        })
    };
    while seen.load(Ordering::Acquire) == 0 {
        thread::yield_now();
    }
    pace(&mut bus, &ports, rate, count)?;
    let arrived = watcher.join().map_err(|_| "the watcher panicked")??;
    bed.wait_until_heard(first + u64::from(count))?;
    let heard = bed.heard(first)?;
    bed.daemon.stop()?;
    let since = |(seq, at): &(u64, u128)| {
        let arrived = arrived[usize::try_from(seq - first - 1).unwrap_or(usize::MAX)];
        // The watcher may see it later than the plugin hears of it.
        at.saturating_sub(base_ns + (arrived - base).as_nanos()) as f64 / 1e6
    };
    Ok(heard.iter().map(since).collect())
}

/// Events a second, from the first uevent to the last hook.
fn at_once(plugin: (&str, &str, &str)) -> Outcome<f64> {
    let mut bus = Bus::enter()?;
    let ports = plug(&mut bus, 50)?;
    let bed = Bed::start(plugin)?;
    let first = bed.daemon.wait_for(bus.devices().len() as u64)?;
    bed.wait_until_heard(first)?;
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let begin = Instant::now();
    let edges = bus.cycle(&ports, AT_ONCE_ROUNDS)?;
    bed.wait_until_heard(first + edges)?;
    let rate = edges as f64 / begin.elapsed().as_secs_f64();
    bed.daemon.stop()?;
    Ok(rate)
}

/// Resident and proportional set size of the worker, in megabytes.
fn memory(plugin: (&str, &str, &str)) -> Outcome<[f64; 2]> {
    let mut bus = Bus::enter()?;
    plug(&mut bus, 1)?;
    let bed = Bed::start(plugin)?;
    let first = bed.daemon.wait_for(bus.devices().len() as u64)?;
    bed.wait_until_heard(first)?;
    let worker = bed.daemon.workers()?.pop().ok_or("no worker runs")?;
    let rollup = fs::read_to_string(format!("/proc/{worker}/smaps_rollup"))?;
    let megabytes = |key: &str| -> Outcome<f64> {
        let line = rollup.lines().find_map(|line| line.strip_prefix(key)).ok_or("no such line")?;
        Ok(line.trim_end_matches("kB").trim().parse::<f64>()? / 1024.0)
    };
    let memory = [megabytes("Rss:")?, megabytes("Pss:")?];
    bed.daemon.stop()?;
    Ok(memory)
}

fn text(path: &Path) -> Outcome<&str> {
    path.to_str().ok_or_else(|| format!("{}: not UTF-8", path.display()).into())
}
