//! Messages of the kernel's uevent group, which anyone with CAP_SYS_ADMIN in a user namespace can send.

#![no_main]

use autoweave_usb_source::uevent::{self, Uevent};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    uevent::is_usb(message);
    if let Ok(Uevent::Added { devpath, .. } | Uevent::Changed { devpath, .. }) = uevent::parse(message) {
        assert!(devpath.starts_with("/devices/"), "opened below /sys");
        assert!(devpath.split('/').all(|part| part != ".."), "and nowhere else");
    }
});
