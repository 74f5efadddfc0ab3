//! The `descriptors` file of sysfs holds what the device sent: anything.

#![no_main]

use std::collections::BTreeSet;

use autoweave_usb_device::Descriptors;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for configuration in &Descriptors::parse(bytes).configurations {
        let settings = configuration.default_settings();
        let numbers: BTreeSet<u8> = settings.iter().map(|setting| setting.number).collect();
        let all: BTreeSet<u8> = configuration.settings.iter().map(|setting| setting.number).collect();
        assert_eq!(settings.len(), numbers.len(), "one setting per interface");
        assert_eq!(numbers, all, "and for every interface one");
    }
});
