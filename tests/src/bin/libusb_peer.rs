//! Counts the hot-plug callbacks of libusb, to be compared with in `cargo xtask bench`.
//!
//! Says `ready` on standard output when it listens. Once standard input has ended and no callback has come for a
//! second, it says how many there were, and ends. With `--print`, it says a line at each as well.

use std::error::Error;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use autoweave_usb_tests::make_sys_a_sysfs;
use rusb::{Context, Device, Hotplug, HotplugBuilder, UsbContext};

const QUIET: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);

static CALLBACKS: AtomicU64 = AtomicU64::new(0);

struct Count {
    print: bool,
}

impl Count {
    fn one(&self) {
        CALLBACKS.fetch_add(1, Ordering::Relaxed);
        if self.print {
            println!("callback");
        }
    }
}

impl Hotplug<Context> for Count {
    fn device_arrived(&mut self, _: Device<Context>) {
        self.one();
    }

    fn device_left(&mut self, _: Device<Context>) {
        self.one();
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    make_sys_a_sysfs()?;
    let count = Count { print: std::env::args().any(|argument| argument == "--print") };
    let context = Context::new()?;
    let _registration = HotplugBuilder::new().register(&context, Box::new(count))?;
    thread::spawn(move || while context.handle_events(None).is_ok() {});
    println!("ready");
    io::stdin().read_to_end(&mut Vec::new())?;
    println!("{}", when_quiet()?);
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
