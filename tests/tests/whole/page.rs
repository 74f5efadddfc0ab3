//! The dashboard page of the running daemon, in a real browser.

use std::time::{Duration, Instant};

use autoweave_usb_testbus::{Bus, Device};
use fantoccini::key::Key;
use serde_json::json;

use crate::browser::{Browser, Screen};
use crate::harness::{Daemon, QUICK, StateDir, last_seq};

const PAGE: &str = "http://127.0.0.1:8080/";

const HOSTILE: &str = "<script>window.owned = 1</script><img src=x onerror='window.owned = 1'>";

/// An expression: whether there is a row for what is in `port`.
fn row(port: &str) -> String {
    format!("document.querySelector(\"#tree li[data-port='{port}']\") !== null")
}

fn desk() -> Bus {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    bus.plug("1-1", &Device::hub()).unwrap();
    bus.plug("1-1.2", &Device::receiver()).unwrap();
    bus.plug("1-2", &Device::storage("4C530001230101117392")).unwrap();
    bus
}

/// The numbers of the events that the page lists, newest first.
fn listed(browser: &Browser) -> Vec<u64> {
    let seqs =
        browser.run("return [...document.querySelectorAll('#log li')].map((row) => Number(row.dataset.seq))");
    seqs.as_array().unwrap().iter().map(|seq| seq.as_u64().unwrap()).collect()
}

#[test]
fn a_plug_is_a_row_within_a_second_and_goes_with_the_unplug() {
    let mut bus = desk();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    let Some(browser) = Browser::start(&bus, Screen::Desktop) else { return };
    browser.open(PAGE);
    browser.wait_for(&row("1-2"));
    assert_eq!(browser.text("#tree li[data-port='1-2'] .name"), "SanDisk Ultra");
    let mut took = Vec::new();
    for number in 0..5 {
        bus.plug("1-1.4", &Device::numbered(number)).unwrap();
        took.push(browser.wait_for(&row("1-1.4")));
        bus.unplug("1-1.4").unwrap();
        took.push(browser.wait_for(&format!("!({})", row("1-1.4"))));
    }
    // The middle one: now and then this machine does something else.
    took.sort();
    assert!(took[took.len() / 2] < Duration::from_secs(1), "{took:?}");
    println!("a change was on the page after {took:?}");
    browser.wait_for("document.getElementById('verdict').textContent === 'ok'");
    browser.wait_for("document.getElementById('source').textContent === 'uevent'");
    browser.wait_for("document.getElementById('latency-now').textContent.endsWith('s')");
    assert_eq!(browser.barriers(), Vec::<String>::new());
    browser.picture("desktop");
    daemon.stop();
}

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
fn after_a_restart_nothing_is_missing() {
    let mut bus = desk();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    let Some(browser) = Browser::start(&bus, Screen::Desktop) else { return };
    browser.open(PAGE);
    browser.wait_for(&row("1-1.2"));
    bus.cycle(&["1-2"], 3).unwrap();
    browser.wait_for("document.getElementById('events-shown').textContent === 'live'");
    daemon.stop();
    browser.wait_for("document.getElementById('verdict').textContent === 'no answer'");
    bus.unplug("1-1.2").unwrap();
    bus.plug("1-3", &Device::numbered(3)).unwrap();
    let daemon = Daemon::start(&bus, &state, QUICK);
    bus.plug("1-4", &Device::numbered(4)).unwrap();
    browser.wait_for(&format!("{} && {} && !({})", row("1-3"), row("1-4"), row("1-1.2")));
    let expected: Vec<u64> = (1..=last_seq(&state)).rev().collect();
    assert_eq!(listed(&browser), expected);
    browser.wait_for("document.getElementById('verdict').textContent === 'ok'");
    daemon.stop();
}

#[test]
fn a_page_that_followed_another_journal_begins_anew() {
    let mut bus = desk();
    let (one, other) = (StateDir::new(), StateDir::new());
    let daemon = Daemon::start(&bus, &one, QUICK);
    let Some(browser) = Browser::start(&bus, Screen::Desktop) else { return };
    browser.open(PAGE);
    bus.cycle(&["1-2"], 10).unwrap();
    browser.wait_for("Number(document.querySelector('#log li')?.dataset.seq) >= 20");
    daemon.stop();
    bus.unplug("1-2").unwrap();
    let daemon = Daemon::start(&bus, &other, QUICK);
    browser.wait_for(&format!("!({})", row("1-2")));
    assert_eq!(listed(&browser), (1..=last_seq(&other)).rev().collect::<Vec<_>>());
    daemon.stop();
}

#[test]
fn a_token_is_asked_for_and_kept_in_the_tab() {
    let bus = desk();
    let state = StateDir::new();
    let env = [QUICK, &[("AUTOWEAVE_USB__MONITORING__TOKEN", "s3cret")]].concat();
    let daemon = Daemon::start(&bus, &state, &env);
    let Some(browser) = Browser::start(&bus, Screen::Desktop) else { return };
    browser.open(PAGE);
    browser.wait_for("document.getElementById('ask').open");
    assert_eq!(browser.barriers(), Vec::<String>::new());
    browser.press("wrong");
    browser.press_key(Key::Enter);
    browser.wait_for("document.getElementById('ask').open && document.getElementById('ask-why').textContent.includes('refused')");
    assert_eq!(browser.run("return document.querySelectorAll('#tree li').length"), 0);
    browser.press("s3cret");
    browser.press_key(Key::Enter);
    browser.wait_for(&row("1-2"));
    browser.open(PAGE);
    browser.wait_for(&row("1-2"));
    assert_eq!(browser.run("return document.getElementById('ask').open"), false);
    assert!(!daemon.stop().contains("s3cret"));
}

#[test]
fn everything_can_be_done_by_keyboard() {
    let bus = desk();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    let Some(browser) = Browser::start(&bus, Screen::Desktop) else { return };
    browser.open(PAGE);
    browser.wait_for(&row("1-2"));
    let focused = || browser.run("return document.activeElement.dataset.port ?? document.activeElement.id");
    browser.press("/");
    assert_eq!(focused(), "query");
    browser.press("sandisk");
    browser.wait_for("document.querySelectorAll('#tree li').length === 2");
    assert_eq!(browser.text("#shown"), "1 of 4");
    browser.run("const query = document.getElementById('query'); query.value = ''; query.dispatchEvent(new Event('input'))");
    browser.wait_for("document.querySelectorAll('#tree li').length === 4");
    browser.run("document.querySelector('#tree li').focus()");
    browser.press_key(Key::Down);
    assert_eq!(focused(), "1-1");
    browser.press_key(Key::Left);
    browser.wait_for("document.querySelectorAll('#tree li').length === 3");
    browser.press_key(Key::Right);
    browser.wait_for("document.querySelectorAll('#tree li').length === 4");
    browser.press_key(Key::End);
    assert_eq!(focused(), "1-2");
    browser.press_key(Key::Enter);
    browser.wait_for("document.getElementById('details').open");
    assert_eq!(focused(), "details-title");
    browser.press_key(Key::Escape);
    browser.wait_for("!document.getElementById('details').open");
    assert_eq!(focused(), "1-2");
    daemon.stop();
}

const BUSES: u8 = 5;
const PER_BUS: u32 = 100;
const ROUNDS: u32 = 30;

#[test]
fn five_hundred_devices_and_a_hundred_events_a_second_are_no_burden() {
    let mut bus = desk();
    for number in 2..2 + BUSES {
        bus.add_root_hub(number).unwrap();
        for place in 1..=PER_BUS {
            let device = Device::numbered(u32::from(number) * 1000 + place);
            bus.plug_silent(&format!("{number}-{place}"), &device).unwrap();
        }
    }
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    let Some(browser) = Browser::start(&bus, Screen::Desktop) else { return };
    browser.open(PAGE);
    browser
        .wait_for(&format!("document.querySelectorAll('#tree li').length >= {}", u32::from(BUSES) * PER_BUS));
    let (begin, before) = (Instant::now(), browser.processor_time());
    for _ in 0..ROUNDS {
        for port in ["1-1.2", "1-2", "2-1", "4-30", "6-100"] {
            bus.cycle(&[port], 1).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let newest = last_seq(&state);
    browser.wait_for(&format!("Number(document.querySelector('#log li').dataset.seq) >= {newest}"));
    let (took, used) = (begin.elapsed(), browser.processor_time() - before);
    println!("{newest} events within {took:?}: the page took {used:?} of the processors");
    // One that is drawn anew with each event would take all of one.
    assert!(used.as_secs_f64() < 0.75 * took.as_secs_f64(), "{used:?} of {took:?}");
    let rows = browser.run("return document.querySelectorAll('li').length");
    assert!(rows.as_u64().is_some_and(|rows| rows < 1000), "{rows}");
    browser.picture("desktop-500");
    assert_eq!(json!(listed(&browser).len()), 200);
    daemon.stop();
}
