//! What the descriptors say, in the details of a device.

use autoweave_usb_testbus::{Bus, Device, Speed};

use super::{PAGE, desk, row};
use crate::browser::{Browser, Screen};
use crate::harness::{Daemon, QUICK, StateDir};

const DEVICE: [u8; 18] = [18, 1, 0, 2, 0xef, 2, 1, 64, 0x6d, 4, 0x25, 8, 0x12, 0, 0, 2, 1, 1];

/// A camera with a microphone: endpoints that are looked at a thousand times a second and more, packets of three
/// transactions, alternate settings, class-specific descriptors in between.
fn camera() -> Device {
    let parts: [&[u8]; 13] = [
        &DEVICE,
        &[9, 2, 0, 0, 4, 1, 0, 0x80, 250],
        &[8, 0x0b, 0, 2, 0x0e, 3, 0, 0],
        &[9, 4, 0, 0, 1, 0x0e, 1, 0, 0],
        &[5, 0x24, 1, 2, 3],
        &[7, 5, 0x87, 3, 16, 0, 8],
        &[9, 4, 1, 0, 0, 0x0e, 2, 0, 0],
        &[9, 4, 1, 1, 1, 0x0e, 2, 0, 0],
        &[7, 5, 0x81, 5, 0x00, 0x14, 1],
        &[9, 4, 2, 0, 2, 0xff, 0, 0, 0],
        &[7, 5, 0x02, 2, 0x00, 0x02, 0],
        &[7, 5, 0x83, 1, 0xff, 0xff, 255],
        &[9, 2, 0, 0, 0, 2, 0, 0xe0, 255],
    ];
    Device {
        product_name: Some(b"HD Webcam C270".to_vec()),
        serial: Some(b"2A7B4C10".to_vec()),
        descriptors: Some(parts.concat()),
        ..Device::new(0x046d, 0x0825)
    }
}

/// As many interfaces and endpoints as fit, of what no specification has, and then nonsense.
fn liar() -> Device {
    let body =
        [[9, 4, 255, 255, 255, 255, 255, 255, 255].as_slice(), &[7, 5, 255, 255, 255, 255, 255]].concat();
    let descriptors =
        [&DEVICE[..], &[9, 2, 255, 255, 255, 255, 255, 255, 255], &body.repeat(40), &[1, 5]].concat();
    Device {
        product_name: Some(b"Liar".to_vec()),
        descriptors: Some(descriptors),
        ..Device::new(0x046d, 0x0825)
    }
}

fn bus() -> Bus {
    let mut bus = desk();
    bus.plug("1-3", &camera()).unwrap();
    bus.plug("1-4", &liar()).unwrap();
    bus.plug("1-5", &Device { speed: Speed::Super, ..Device::storage("S") }).unwrap();
    bus
}

fn open(browser: &Browser, port: &str) {
    browser.wait_for(&row(port));
    browser.run("document.getElementById('details').close()");
    browser.run(&format!("document.querySelector(\"#tree li[data-port='{port}']\").click()"));
    browser.wait_for("document.querySelector('#details .endpoints') !== null");
}

/// The text of each row of the first configuration.
fn rows(browser: &Browser) -> Vec<String> {
    let script = "return [...document.querySelector('#details .endpoints').rows].map((row) => \
                  [...row.cells].map((cell) => cell.textContent.replaceAll('\\u00a0', ' ')).join('|'))";
    let rows = browser.run(script);
    rows.as_array().unwrap().iter().map(|row| row.as_str().unwrap().to_owned()).collect()
}

#[test]
fn descriptors_are_decoded_in_the_details() {
    let mut bus = bus();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    let Some(browser) = Browser::start(&bus, Screen::Desktop) else { return };
    browser.open(PAGE);
    open(&browser, "1-3");
    let expected = [
        "Endpoint|Transfer|Bytes|Interval",
        "Interface 0 video 0e 01 00",
        "0x87 in|interrupt|16|16 ms",
        "Interface 1 video 0e 02 00",
        "Interface 1, alternate 1 video 0e 02 00",
        "0x81 in|isochronous|3 × 1024|125 µs",
        "Interface 2 vendor specific ff 00 00",
        "0x02 out|bulk|512|",
        "0x83 in|isochronous|4 × 2047|bInterval 255",
    ];
    assert_eq!(rows(&browser), expected);
    let said = browser.text("#details-body");
    assert!(said.contains("video, vendor specific"), "{said}");
    assert!(said.contains("at most 500 mA · powered by the bus\n"), "{said}");
    assert!(said.contains("at most 510 mA · self-powered · remote wakeup"), "{said}");
    assert!(!said.contains("More cannot be read"), "{said}");
    assert_eq!(browser.barriers(), Vec::<String>::new());
    browser.run("document.querySelector('#details .endpoints').scrollIntoView({ block: 'center' })");
    browser.picture("desktop-descriptors");

    open(&browser, "1-5");
    assert!(browser.text("#details-body").contains("at most 400 mA"));
    assert_eq!(rows(&browser)[2], "0x81 in|bulk|1024|");
    open(&browser, "1-1.2");
    assert_eq!(rows(&browser)[2], "0x81 in|interrupt|8|10 ms");
    // What was read of a device stays while one looks at it.
    bus.unplug("1-1.2").unwrap();
    browser.wait_for("document.getElementById('details-place').textContent === 'not connected'");
    assert_eq!(rows(&browser)[2], "0x81 in|interrupt|8|10 ms");
    // Nothing can be had of it any more.
    browser.run("document.getElementById('details').close()");
    browser.run("[...document.querySelectorAll('#log button')].find((one) => one.textContent.includes('Receiver')).click()");
    browser.wait_for("document.getElementById('details').open");
    assert_eq!(browser.run("return document.querySelectorAll('#details .endpoints').length"), 0);
    assert!(browser.text("#details-body").contains("Device descriptor"));
    daemon.stop();
}

#[test]
fn whatever_descriptors_say_nothing_hangs_over_the_edge() {
    let bus = bus();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    for (screen, name) in [(Screen::Narrow, "narrow"), (Screen::Phone, "phone-dark")] {
        let Some(browser) = Browser::start(&bus, screen) else { return };
        browser.open(PAGE);
        for (port, what) in [("1-3", "descriptors"), ("1-4", "hostile")] {
            open(&browser, port);
            assert_eq!(browser.overhang("#details"), 0, "{name} {port}");
            assert_eq!(browser.barriers(), Vec::<String>::new());
            browser.run("document.querySelector('#details .endpoints').scrollIntoView({ block: 'start' })");
            browser.run("document.getElementById('details').scrollBy(0, -170)");
            browser.picture(&format!("{name}-{what}"));
        }
        let said = browser.text("#details-body");
        assert!(said.contains("Interface 255, alternate 255"), "{said}");
        assert!(
            said.contains("More cannot be read: the descriptor at byte 667 is too short for its type."),
            "{said}"
        );
    }
    daemon.stop();
}
