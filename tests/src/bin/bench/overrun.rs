//! Who loses uevents in a flood: the daemon, libusb and `udevadm monitor`, on the same one.
//!
//! The flood unplugs and plugs 50 devices that stay in sysfs, so that a listener can always read the device whose
//! `add` it got. Lost is what was sent and not journaled as hot-plug, not called back, not printed.
//!
//! Outside of the machine's own user namespace nobody gets a larger receive buffer than `net.core.rmem_max`, and
//! everybody loses more.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use autoweave_usb_journal::Reader;
use autoweave_usb_testbus::Bus;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::NamedTempFile;

use crate::daemon::Daemon;
use crate::{Outcome, PATIENCE, RUNS, on_new_thread, plug};

pub const COLUMNS: &str = "\
| uevents | listening | sent | rate reached | overruns | lost by autoweave-usbd | journaled after the last | \
lost by libusb | lost by udevadm |\n|---|---|---|---|---|---|---|---|---|";

/// Uevents a second, for [`SECONDS`]; 0 is as fast as the kernel takes [`UNPACED`].
const RATES: [u32; 5] = [30_000, 40_000, 50_000, 70_000, 0];
/// The rate that is measured more than once.
const AIM: u32 = 50_000;
const SECONDS: u64 = 10;
const UNPACED: u64 = 500_000;

const BURST: Duration = Duration::from_millis(1);
/// After this long without an event, no more are to come.
const QUIET: Duration = Duration::from_secs(1);

/// In the bus's network namespace every port is free.
const PORT: u16 = 8080;

pub fn rows() -> Outcome<()> {
    for beside in [false, true] {
        for rate in RATES {
            // A median would hide the one run that had an overrun.
            for _ in 0..if rate == AIM { RUNS } else { 1 } {
                let run = on_new_thread(move || flood(rate, beside))?;
                print(rate, beside, &run);
            }
        }
    }
    Ok(())
}

struct Flood {
    sent: u64,
    rate: f64,
    overruns: u64,
    lost: u64,
    behind: Duration,
    /// `None`: it did not listen.
    libusb_lost: Option<u64>,
    udevadm_lost: Option<u64>,
}

fn flood(rate: u32, beside: bool) -> Outcome<Flood> {
    let mut bus = Bus::enter()?;
    let ports = plug(&mut bus, 50)?;
    let port = PORT.to_string();
    let environment = [("AUTOWEAVE_USB__MONITORING__HEALTHCHECK_PORT", port.as_str())];
    let daemon = Daemon::start_with("power", &environment)?;
    let first = daemon.wait_for(bus.devices().len() as u64)?;
    let libusb = beside.then(Libusb::start).transpose()?;
    let udevadm = if beside { Udevadm::start()? } else { None };

    let messages = ["remove", "add"]
        .iter()
        .flat_map(|action| ports.iter().map(|port| bus.message(action, port)))
        .collect::<Result<Vec<_>, _>>()?;
    let sent = if rate == 0 { UNPACED } else { u64::from(rate) * SECONDS };
    let begin = Instant::now();
    send(&mut bus, &messages, rate, sent)?;
    let end = Instant::now();

    let last = settle(&daemon, first + sent)?;
    let libusb = libusb.map(Libusb::count).transpose()?;
    let udevadm = udevadm.map(Udevadm::count).transpose()?;
    let metrics = metrics()?;
    let flood = Flood {
        sent,
        rate: sent as f64 / (end - begin).as_secs_f64(),
        overruns: total(&metrics, "usb_source_overruns_total", ""),
        lost: sent.saturating_sub(total(&metrics, "usb_events_total", "reason=\"hotplug\"")),
        behind: last.saturating_duration_since(end),
        libusb_lost: libusb.map(|count| sent.saturating_sub(count)),
        udevadm_lost: udevadm.map(|count| sent.saturating_sub(count)),
    };
    daemon.stop()?;
    Ok(flood)
}

/// Sends `count` messages in bursts a millisecond apart, `rate` a second, or all at once where it is 0.
fn send(bus: &mut Bus, messages: &[Vec<u8>], rate: u32, count: u64) -> Outcome<()> {
    let begin = Instant::now();
    let mut messages = messages.iter().cycle();
    let mut sent = 0;
    while sent < count {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds times a rate")]
        let due = (begin.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        let due = if rate == 0 { count } else { due.min(count) };
        for _ in sent..due {
            bus.inject(messages.next().ok_or("nothing to send")?)?;
        }
        sent = due;
        thread::sleep(BURST);
    }
    Ok(())
}

/// Waits until the journal has an event `seq`, or gets no more; when it got the last one.
fn settle(daemon: &Daemon, seq: u64) -> Outcome<Instant> {
    let mut reader = Reader::open(daemon.directory.path())?;
    let begin = Instant::now();
    let (mut newest, mut since) = (0, begin);
    while since.elapsed() < QUIET {
        let now = reader.last_seq()?;
        if now > newest {
            (newest, since) = (now, Instant::now());
        }
        if newest >= seq {
            break;
        }
        if begin.elapsed() > PATIENCE {
            return Err(format!("the journal still grows, {newest} of {seq}").into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(since)
}

fn metrics() -> Outcome<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", PORT))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// The sum of a metric's samples with this label.
fn total(metrics: &str, name: &str, label: &str) -> u64 {
    let samples = metrics.lines().filter(|line| line.starts_with(name) && line.contains(label));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// See `libusb_peer.rs`.
struct Libusb {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Libusb {
    fn start() -> Outcome<Self> {
        let program = env::current_exe()?.with_file_name("libusb_peer");
        let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        if line == "ready\n" { Ok(Self { child, output }) } else { Err("libusb does not start".into()) }
    }

    /// Callbacks, once none has come for a second.
    fn count(mut self) -> Outcome<u64> {
        drop(self.child.stdin.take());
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        self.child.wait()?;
        Ok(line.trim().parse()?)
    }
}

/// `udevadm monitor`, which prints a line for each uevent.
struct Udevadm {
    child: Child,
    output: NamedTempFile,
}

impl Udevadm {
    /// `None` where it is not installed.
    fn start() -> Outcome<Option<Self>> {
        let output = NamedTempFile::new()?;
        let mut command = Command::new("udevadm");
        command.args(["monitor", "--kernel"]).stdout(output.reopen()?);
        let child = match command.spawn() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            child => child?,
        };
        let udevadm = Self { child, output };
        let deadline = Instant::now() + PATIENCE;
        while !fs::read_to_string(udevadm.output.path())?.contains("KERNEL - the kernel uevent") {
            if Instant::now() > deadline {
                return Err("udevadm monitor does not start".into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(Some(udevadm))
    }

    /// Lines about uevents, once none has been added for a second.
    fn count(mut self) -> Outcome<u64> {
        let deadline = Instant::now() + PATIENCE;
        let mut bytes = 0;
        while bytes != self.output.as_file().metadata()?.len() {
            bytes = self.output.as_file().metadata()?.len();
            if Instant::now() > deadline {
                return Err("udevadm monitor is not quiet".into());
            }
            thread::sleep(QUIET);
        }
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        self.child.wait()?;
        let lines = BufReader::new(self.output.reopen()?).lines();
        Ok(lines
            .map_while(Result::ok)
            .filter(|line| line.starts_with("KERNEL[") && line.ends_with("(usb)"))
            .count() as u64)
    }
}

impl Drop for Udevadm {
    fn drop(&mut self) {
        // It has ended already unless something went wrong.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn print(rate: u32, beside: bool, run: &Flood) {
    let percent = |lost: u64| format!("{lost} ({:.1} %)", lost as f64 / run.sent as f64 * 100.0);
    let peer = |lost: Option<u64>| match lost {
        Some(lost) => percent(lost),
        None if beside => "not installed".to_owned(),
        None => "–".to_owned(),
    };
    println!(
        "| {} | {} | {} | {:.0}/s | {} | {} | {:.1} s | {} | {} |",
        if rate == 0 { "at once".to_owned() } else { format!("{rate}/s for {SECONDS} s") },
        if beside { "all three" } else { "autoweave-usbd" },
        run.sent,
        run.rate,
        run.overruns,
        percent(run.lost),
        run.behind.as_secs_f64(),
        peer(run.libusb_lost),
        peer(run.udevadm_lost),
    );
}
