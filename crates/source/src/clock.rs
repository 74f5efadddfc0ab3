//! The one place that looks at the clocks.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use autoweave_usb_device::Moment;

/// Now, on both clocks. The monotonic one starts with the process.
pub fn now() -> Moment {
    static START: OnceLock<Instant> = OnceLock::new();
    let mono = START.get_or_init(Instant::now).elapsed().as_millis();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    // 64 bits of milliseconds last for half a billion years.
    let ms = |ms: u128| u64::try_from(ms).unwrap_or(u64::MAX);
    Moment { wall_ms: ms(wall), mono_ms: ms(mono) }
}
