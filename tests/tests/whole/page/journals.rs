//! The daemon ends and comes back, with its journal or with another, while a page is open.

use rusqlite::Connection;

use super::{PAGE, desk, listed, row};
use crate::browser::{Browser, Screen};
use crate::harness::{Daemon, QUICK, StateDir, last_seq};
use autoweave_usb_testbus::Device;

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
fn another_journal_is_noticed_although_it_goes_on_where_the_page_is() {
    let mut bus = desk();
    let (one, other) = (StateDir::new(), StateDir::new());
    let daemon = Daemon::start(&bus, &one, QUICK);
    let Some(browser) = Browser::start(&bus, Screen::Desktop) else { return };
    browser.open(PAGE);
    browser.wait_for(&row("1-1.2"));
    browser.wait_for("document.querySelectorAll('#log li').length === 4");
    daemon.stop();
    // The other one never heard of it, so that no event of its will take it away.
    bus.unplug_silent("1-1.2").unwrap();
    let daemon = Daemon::start_with(&bus, other.path(), &elsewhere(), &[]);
    bus.cycle(&["1-2"], 10).unwrap();
    daemon.wait_until("all is in the journal", || last_seq(&other) == 23);
    daemon.stop();
    let daemon = Daemon::start(&bus, &other, QUICK);
    browser.wait_for(&format!("!({})", row("1-1.2")));
    assert_eq!(last_seq(&other), 23);
    assert_eq!(listed(&browser), (1..=23).rev().collect::<Vec<_>>());
    daemon.stop();
}

/// Where the page does not look.
fn elsewhere() -> Vec<(&'static str, &'static str)> {
    [QUICK, &[("AUTOWEAVE_USB__MONITORING__HEALTHCHECK_PORT", "8079")]].concat()
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

#[test]
fn an_event_of_another_day_says_which() {
    let mut bus = desk();
    let state = StateDir::new();
    Daemon::start(&bus, &state, QUICK).stop();
    let journal = Connection::open(state.path().join("journal.db")).unwrap();
    let earlier =
        "UPDATE events SET event = json_set(event, '$.timestamp', json_extract(event, '$.timestamp') - ?)";
    assert_eq!(journal.execute(earlier, [3 * DAY_MS]).unwrap(), 4);
    drop(journal);
    let daemon = Daemon::start(&bus, &state, QUICK);
    bus.plug("1-3", &Device::numbered(3)).unwrap();
    let Some(browser) = Browser::start(&bus, Screen::Narrow) else { return };
    browser.open(PAGE);
    browser.wait_for("document.querySelectorAll('#log li').length === 5");
    assert_eq!(browser.run("return document.querySelectorAll('#log li .day').length"), 4);
    assert_eq!(browser.run("return document.querySelector('#log li .day').textContent.length"), 10);
    assert_eq!(
        browser.run("return document.querySelector('#log li').querySelector('.day')"),
        serde_json::Value::Null
    );
    assert_eq!(browser.overhang("html"), 0);
    daemon.stop();
}
