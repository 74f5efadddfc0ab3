//! The one place that looks at the clocks.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use autoweave_usb_device::Moment;

/// Now, on both clocks. The monotonic one starts with the process.
pub fn now() -> Moment {
    static START: OnceLock<Instant> = OnceLock::new();
    let mono = START.get_or_init(Instant::now).elapsed().as_millis();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    // 64 bits of microseconds last for half a million years.
    let bounded = |time: u128| u64::try_from(time).unwrap_or(u64::MAX);
    Moment { wall_us: bounded(wall), mono_ms: bounded(mono) }
}
