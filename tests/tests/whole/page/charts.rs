//! The charts: what they show, and that they do not show as nothing what they do not know.

use serde_json::Value;

use super::{PAGE, desk};
use crate::browser::{Browser, Screen};
use crate::harness::{Daemon, QUICK, StateDir, events, last_seq};

/// More events than the page keeps.
const CYCLES: u32 = 3200;

/// An expression: whether the rate's chart tells of as many.
fn tells(attached: usize, detached: usize) -> String {
    // The page puts a blank between thousands.
    format!(
        "document.getElementById('rate').getAttribute('aria-label').replaceAll(/(\\d)\\s(?=\\d)/g, '$1')\
         .includes('minutes: {attached} attached, {detached} detached')"
    )
}

fn count(events: &[Value], action: &str) -> usize {
    events.iter().filter(|event| event["action"] == action).count()
}

#[test]
fn the_rate_chart_has_every_event_of_five_minutes_also_after_a_reload() {
    let mut bus = desk();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    let Some(browser) = Browser::start(&bus, Screen::Desktop) else { return };
    browser.open(PAGE);
    browser.wait_for(&tells(4, 0));
    bus.cycle(&["1-2"], CYCLES).unwrap();
    let all = 4 + 2 * u64::from(CYCLES);
    daemon.wait_until("all is in the journal", || last_seq(&state) == all);
    let there = events(&state);
    let counted = tells(count(&there, "attach"), count(&there, "detach"));
    browser.wait_for(&counted);
    assert_eq!(browser.run("return document.getElementById('rate-before').hidden"), true);
    browser.open(PAGE);
    browser.wait_for(&counted);
    assert_eq!(browser.run("return document.getElementById('rate-before').hidden"), true);
    daemon.stop();
    // From here on it hears nothing.
    browser.wait_for("!document.getElementById('rate-after').hidden");
    browser.picture("desktop-rate");
    let daemon = Daemon::start(&bus, &state, QUICK);
    browser.wait_for("document.getElementById('rate-after').hidden");
    browser.wait_for(&counted);
    daemon.stop();
}

#[test]
fn what_is_no_longer_kept_is_shaded() {
    let mut bus = desk();
    let state = StateDir::new();
    let env = [QUICK, &[("AUTOWEAVE_USB__JOURNAL__MAX_EVENTS", "20")]].concat();
    let daemon = Daemon::start(&bus, &state, &env);
    bus.cycle(&["1-2"], 100).unwrap();
    daemon.wait_until("the oldest are gone", || last_seq(&state) == 204 && events(&state).len() < 204);
    let Some(browser) = Browser::start(&bus, Screen::Desktop) else { return };
    browser.open(PAGE);
    browser.wait_for("!document.getElementById('rate-before').hidden");
    browser.wait_for(
        "document.getElementById('rate').getAttribute('aria-label').includes('not all of which are known')",
    );
    assert_eq!(browser.text("#rate-before"), "not known");
    assert_eq!(browser.barriers(), Vec::<String>::new());
    daemon.stop();
}

#[test]
fn the_latency_says_since_when_and_its_axis_has_room_for_it() {
    let mut bus = desk();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    let Some(browser) = Browser::start(&bus, Screen::Phone) else { return };
    browser.open(PAGE);
    browser.wait_for("document.getElementById('latency-what').textContent === '95 % since daemon start'");
    assert_eq!(browser.text("#latency-before"), "before this page");
    let level =
        "const box = document.querySelector('#latency .level').getBBox(); return box.y >= 0 && box.y <= 60";
    assert_eq!(browser.run(level), true);
    bus.cycle(&["1-2"], 5).unwrap();
    browser.wait_for("document.getElementById('latency-what').textContent === '95 % since page load'");
    assert_eq!(browser.run(level), true);
    assert_eq!(browser.barriers(), Vec::<String>::new());
    daemon.stop();
}
