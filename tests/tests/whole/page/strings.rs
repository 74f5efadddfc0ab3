//! What devices say of themselves, which is anybody's.

use autoweave_usb_testbus::Device;

use super::{PAGE, desk, row};
use crate::browser::{Browser, Screen};
use crate::harness::{Daemon, QUICK, StateDir};

const HOSTILE: &str = "<script>window.owned = 1</script><img src=x onerror='window.owned = 1'>";

#[test]
fn what_devices_say_of_themselves_is_text() {
    let mut bus = desk();
    let hostile = |text: &str| Some(text.as_bytes().to_vec());
    let device = Device {
        manufacturer: hostile("\"><svg onload='window.owned = 1'>"),
        product_name: hostile(HOSTILE),
        serial: hostile("javascript:window.owned=1"),
        ..Device::numbered(1)
    };
    bus.plug("1-3", &device).unwrap();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    let Some(browser) = Browser::start(&bus, Screen::Phone) else { return };
    browser.open(PAGE);
    browser.wait_for(&row("1-3"));
    assert!(browser.text("#tree li[data-port='1-3'] .name").contains(HOSTILE));
    assert!(browser.run("return document.title").as_str().is_some_and(|title| title.starts_with("5 USB")));
    assert_eq!(browser.barriers(), Vec::<String>::new());
    browser.picture("phone-dark");
    // Away from the bar at the bottom, as a person would.
    browser.run("document.querySelector(\"#tree li[data-port='1-3']\").scrollIntoView({ block: 'center' })");
    browser.click("#tree li[data-port='1-3']");
    browser.wait_for("document.getElementById('details').open");
    assert!(browser.text("#details-title").contains(HOSTILE));
    assert!(browser.text("#details-body").contains("javascript:window.owned=1"));
    assert!(browser.text("#details-body").contains("bcdUSB"));
    assert_eq!(browser.barriers(), Vec::<String>::new());
    browser.picture("phone-dark-details");
    let made = "return document.querySelectorAll('#tree img, #log img, main script, dialog img, dialog script').length";
    assert_eq!(browser.run(made), 0);
    assert_eq!(browser.run("return typeof window.owned"), "undefined");
    daemon.stop();
}

#[test]
fn what_has_no_shape_is_shown_by_its_number_and_nothing_hangs_over_the_edge() {
    let mut bus = desk();
    let said = |text: &str| Some(text.as_bytes().to_vec());
    let device = Device {
        manufacturer: said("Evil\u{202e}gnp.exe"),
        product_name: said(&format!("Z{} {}", "\u{335}\u{321}\u{322}\u{489}".repeat(30), "W".repeat(40))),
        serial: said("\u{200b}\u{200b}"),
        ..Device::numbered(1)
    };
    bus.plug("1-3", &device).unwrap();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    let Some(browser) = Browser::start(&bus, Screen::Narrow) else { return };
    browser.open(PAGE);
    browser.wait_for(&row("1-3"));
    assert!(browser.text("#tree li[data-port='1-3'] .name").starts_with("Evil‹U+202E›gnp.exe Z"));
    assert!(browser.text("#log li .name").starts_with("Evil‹U+202E›gnp.exe Z"));
    browser.wait_for("document.getElementById('verdict').textContent === 'ok'");
    assert_eq!(browser.overhang("html"), 0);
    browser.run("document.querySelector(\"#tree li[data-port='1-3']\").click()");
    browser.wait_for("document.getElementById('details').open");
    assert!(browser.text("#details-title").starts_with("Evil‹U+202E›gnp.exe Z"));
    assert!(browser.text("#details-body").contains("‹U+200B›‹U+200B›"));
    assert_eq!(browser.overhang("#details"), 0);
    assert_eq!(browser.barriers(), Vec::<String>::new());
    browser.picture("narrow-details");
    daemon.stop();
}
