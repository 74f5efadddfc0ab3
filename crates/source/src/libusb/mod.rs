//! libusb's hot-plug callbacks. They say what came and went; on Linux sysfs says what it is, elsewhere libusb's
//! descriptors do. No device is opened.
//!
//! Two threads: one handles libusb's events, and does nothing else, since libusb queues without a bound what is not
//! handled; the other reads devices and hands on observations. What libusb loses it does not tell (the socket of its
//! Linux backend can overflow or break, and a device that is gone before libusb has read it is left out): the scan at
//! every interval finds what is left of it, and [`told`] counts it.
//!
//! libusb is under the LGPL-2.1. The cargo feature `libusb` links the system's shared library where pkg-config finds it,
//! as packages should; `libusb-vendored` builds its own and links it statically.

#[cfg(not(target_os = "linux"))]
mod elsewhere;
mod heard;
mod observer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use autoweave_usb_device::SourceName;
use rusb::{Context, Error, HotplugBuilder, Registration, UsbContext};

#[cfg(not(target_os = "linux"))]
use elsewhere::Bus;
use heard::{Callback, Heard};
use observer::Observer;

use crate::OpenError;
#[cfg(target_os = "linux")]
use crate::linux::Devices as Bus;
use crate::started::Started;

/// Callbacks that were not taken yet, at most; further ones are counted, and lead to a scan.
const HEARD_MAX: usize = 4096;

/// Whoever wants the event thread to look up interrupts it; this is only for it to be finite.
const PATIENCE: Duration = Duration::from_secs(10);

/// libusb reads every device before it begins, and a device may hold that up for good.
const OPEN_WITHIN: Duration = Duration::from_secs(2);

/// A thread that waits for such a device is not given company.
static IS_OPENING: AtomicBool = AtomicBool::new(false);

/// libusb's own thread has handed on what the kernel told when nothing comes for so long.
const QUIET: Duration = Duration::from_millis(10);

/// How long a source that finishes waits for [`QUIET`].
const QUIET_WITHIN: Duration = Duration::from_millis(200);

/// Starts to listen. What happens from now on is heard.
///
/// # Errors
/// See [`OpenError`]: libusb finds no USB here, or has no hot-plug callbacks on this system.
pub fn spawn(started: Started) -> Result<Thread, OpenError> {
    if IS_OPENING.swap(true, Ordering::SeqCst) {
        return Err(OpenError::Libusb(io::Error::other(
            "it still waits for a device since it was last started",
        )));
    }
    let (sender, opened) = mpsc::sync_channel(1);
    let observe = move || {
        let observer = open(started);
        IS_OPENING.store(false, Ordering::SeqCst);
        match observer {
            Ok(observer) => {
                if sender.send(Ok(())).is_ok() {
                    observer.run();
                }
            }
            Err(error) => drop(sender.send(Err(error))),
        }
    };
    let thread = thread::Builder::new().name("usb-observe".to_owned()).spawn(observe).map_err(|error| {
        IS_OPENING.store(false, Ordering::SeqCst);
        OpenError::Thread(error)
    })?;
    let late = |_| Err(OpenError::Libusb(io::ErrorKind::TimedOut.into()));
    opened.recv_timeout(OPEN_WITHIN).unwrap_or_else(late)?;
    Ok(thread.thread().clone())
}

/// What is listened to, in words.
pub fn description() -> String {
    let version = rusb::version();
    format!("the callbacks of libusb {}.{}.{}", version.major(), version.minor(), version.micro())
}

/// On the thread of the observer, which the callbacks wake.
fn open(started: Started) -> Result<Observer, OpenError> {
    let started = Arc::new(started);
    let context = Context::new().map_err(|error| OpenError::Libusb(io::Error::other(error)))?;
    let (sender, heard) = mpsc::sync_channel(HEARD_MAX);
    let callback = Callback::new(sender.clone(), thread::current());
    let missed = callback.missed();
    let mut builder = HotplugBuilder::new();
    builder.enumerate(true);
    let registration = builder.register(&context, Box::new(callback));
    let registration = registration.map_err(|error| match error {
        Error::NotSupported => OpenError::Unavailable(SourceName::Libusb),
        error => OpenError::Libusb(io::Error::other(error)),
    })?;
    #[cfg(target_os = "linux")]
    let bus = Bus::open(&started.counters);
    #[cfg(not(target_os = "linux"))]
    let bus = Bus::open(&context);
    let bus = bus.map_err(OpenError::Thread)?;
    // No callback but those of the enumeration runs before there is a thread to run it on. What they name the first
    // scan finds as well, and knows more of.
    heard.try_iter().for_each(drop);
    listen(started.clone(), context.clone(), registration, sender).map_err(OpenError::Thread)?;
    Ok(Observer::new(started, context, heard, missed, bus))
}

/// Starts the thread the callbacks run on. `heard` is disconnected when it has ended.
fn listen(
    started: Arc<Started>,
    context: Context,
    registration: Registration<Context>,
    heard: SyncSender<Heard>,
) -> io::Result<()> {
    let observer = thread::current();
    thread::Builder::new().name("usb-libusb".to_owned()).spawn(move || {
        if let Err(error) = handle_events(&context, &started) {
            let _ = heard.send(Heard::Failed(error));
        }
        drop((registration, heard));
        observer.unpark();
    })?;
    Ok(())
}

fn handle_events(context: &Context, started: &Started) -> Result<(), Error> {
    let handle = |patience| match context.handle_events(Some(patience)) {
        Err(Error::Interrupted) => Ok(()),
        outcome => outcome,
    };
    while !started.is_stopped() && !started.is_finishing() {
        handle(PATIENCE)?;
    }
    let deadline = Instant::now() + QUIET_WITHIN;
    while !started.is_stopped() && Instant::now() < deadline {
        let begin = Instant::now();
        handle(QUIET)?;
        if begin.elapsed() >= QUIET {
            break;
        }
    }
    Ok(())
}
