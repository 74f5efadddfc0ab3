//! Counts the hot-plug callbacks of libusb, to be compared with in `cargo xtask bench overrun`.
//!
//! Says `ready` on standard output when it listens. Once standard input has ended and no callback has come for a
//! second, it says how many there were, and ends.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rusb::{Context, Device, Hotplug, HotplugBuilder, UsbContext};

const QUIET: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);

static CALLBACKS: AtomicU64 = AtomicU64::new(0);

struct Count;

impl Hotplug<Context> for Count {
    fn device_arrived(&mut self, _: Device<Context>) {
        CALLBACKS.fetch_add(1, Ordering::Relaxed);
    }

    fn device_left(&mut self, _: Device<Context>) {
        CALLBACKS.fetch_add(1, Ordering::Relaxed);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    make_sys_a_sysfs()?;
    let context = Context::new()?;
    let _registration = HotplugBuilder::new().register(&context, Box::new(Count))?;
    thread::spawn(move || while context.handle_events(None).is_ok() {});
    println!("ready");
    io::stdin().read_to_end(&mut Vec::new())?;
    println!("{}", when_quiet()?);
    Ok(())
}

/// libusb reads devices from a `/sys` that is a sysfs, and from the device nodes otherwise (`op_init` in
/// os/linux_usbfs.c). So the bus's `/sys/bus` and `/sys/devices` are laid over those of a real one.
fn make_sys_a_sysfs() -> Result<(), Box<dyn Error>> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let covers = [("/sys/bus", File::open("/sys/bus")?), ("/sys/devices", File::open("/sys/devices")?)];
    mount(NONE, "/sys", Some("sysfs"), MsFlags::MS_RDONLY, NONE)?;
    for (path, directory) in covers {
        let source = format!("/proc/self/fd/{}", directory.as_raw_fd());
        mount(Some(source.as_str()), path, NONE, MsFlags::MS_BIND, NONE)?;
    }
    Ok(())
}

fn when_quiet() -> Result<u64, Box<dyn Error>> {
    let begin = Instant::now();
    let mut counted = CALLBACKS.load(Ordering::Relaxed);
    loop {
        thread::sleep(QUIET);
        let now = CALLBACKS.load(Ordering::Relaxed);
        if now == counted {
            return Ok(counted);
        }
        if begin.elapsed() > PATIENCE {
            return Err(format!("libusb is not quiet after {PATIENCE:?}").into());
        }
        counted = now;
    }
}
