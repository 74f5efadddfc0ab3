//! The dashboard page of the running daemon, in a real browser.

mod access;
mod charts;
mod descriptors;
mod journals;
mod plugins;
mod strings;

use std::time::{Duration, Instant};

use autoweave_usb_testbus::{Bus, Device};
use fantoccini::key::Key;
use serde_json::json;

use crate::browser::{Browser, Screen};
use crate::harness::{Daemon, QUICK, StateDir, last_seq};

const PAGE: &str = "http://127.0.0.1:8080/";

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
    assert_eq!(browser.barriers(), Vec::<String>::new());
    // What is found stays to be seen: there is nothing to fold.
    browser.run("document.querySelector('#tree li').focus()");
    browser.press_key(Key::Left);
    assert_eq!(browser.run("return document.querySelectorAll('#tree li').length"), 2);
    assert_eq!(browser.run("return document.querySelectorAll('#tree [aria-expanded]').length"), 0);
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
    browser.run("document.querySelector('#log li button').focus()");
    browser.press_key(Key::Down);
    browser.press_key(Key::Enter);
    browser.wait_for("document.getElementById('details').open");
    browser.press_key(Key::Escape);
    browser.wait_for("!document.getElementById('details').open");
    let place = "return [...document.querySelectorAll('#log button')].indexOf(document.activeElement)";
    assert_eq!(browser.run(place), 1);
    daemon.stop();
}

#[test]
fn what_is_wrong_is_said_at_the_top() {
    let bus = desk();
    let state = StateDir::new();
    // Nobody listens on a port that low.
    let daemon = Daemon::start(&bus, &state, &[QUICK, &[("REDIS_URL", "redis://127.0.0.1:1")]].concat());
    let Some(browser) = Browser::start(&bus, Screen::Narrow) else { return };
    browser.open(PAGE);
    browser.wait_for("document.getElementById('verdict').textContent === 'degraded'");
    browser.wait_for("document.getElementById('stream').textContent === 'Redis down'");
    browser.wait_for("document.getElementById('lag').textContent === '4 events'");
    assert!(browser.text("#notice").contains("Redis"));
    assert_eq!(browser.overhang("html"), 0);
    assert_eq!(browser.barriers(), Vec::<String>::new());
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
