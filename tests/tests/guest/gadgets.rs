//! Gadgets that come and go: the specification's 1,000 cycles, and 32 devices at once.

use autoweave_usb_tests::guest::{GADGETS_MAX, Gadget, Pace, cycle, memory_kib};

use crate::rig::Rig;

const CYCLES: usize = 1000;

/// What the specification allows in as many cycles.
const GROWTH_MAX_KIB: u64 = 1024;

#[test]
fn a_thousand_cycles_are_all_in_the_stream_and_memory_does_not_grow() {
    let gadgets = Gadget::several(GADGETS_MAX);
    let mut rig = Rig::start(&[]);
    // As many as they are to be, so that caches are full and files mapped.
    cycle(&mut rig.kernel, &gadgets, CYCLES.div_ceil(GADGETS_MAX), Pace::default());
    rig.wait();
    let before = memory_kib(&rig.daemon.processes(), "VmRSS");
    cycle(&mut rig.kernel, &gadgets, CYCLES.div_ceil(GADGETS_MAX), Pace::default());
    rig.wait();
    let after = memory_kib(&rig.daemon.processes(), "VmRSS");
    println!("resident: {before} KiB, after {CYCLES} cycles {after} KiB");
    rig.finish();
    assert!(after < before + GROWTH_MAX_KIB, "{before} KiB, after {CYCLES} cycles {after} KiB");
}

#[test]
fn what_stays_for_a_while_is_told_with_its_strings() {
    let gadgets = Gadget::several(8);
    let mut rig = Rig::start(&[]);
    rig.plug_and_unplug(&gadgets, 5);
    for entry in rig.finish() {
        let serial = entry.get("product_id").parse::<usize>().map(|id| format!("SN{:06}", id - 1));
        let found =
            (entry.get("manufacturer"), entry.get("product"), Ok(entry.get("serial_number").to_owned()));
        assert_eq!(found, ("Gadget Maker", "Gadget", serial), "{entry:?}");
        assert_eq!(entry.get("speed_mbps"), "480");
    }
}
