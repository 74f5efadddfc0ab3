//! The token that the page asks for.

use fantoccini::key::Key;

use super::{PAGE, desk, row};
use crate::browser::{Browser, Screen};
use crate::harness::{Daemon, QUICK, StateDir};

const TOKEN: (&str, &str) = ("AUTOWEAVE_USB__MONITORING__TOKEN", "s3cret");

#[test]
fn a_token_is_asked_for_and_kept_in_the_tab() {
    let bus = desk();
    let state = StateDir::new();
    let env = [QUICK, &[TOKEN]].concat();
    let daemon = Daemon::start(&bus, &state, &env);
    let Some(browser) = Browser::start(&bus, Screen::Desktop) else { return };
    browser.open(PAGE);
    browser.wait_for("document.getElementById('ask').open");
    assert_eq!(browser.barriers(), Vec::<String>::new());
    browser.press("wrong");
    browser.press_key(Key::Enter);
    browser.wait_for("document.getElementById('ask').open && document.getElementById('ask-error').textContent.includes('refused')");
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
fn what_cannot_be_a_token_is_not_kept_and_escape_does_not_end_the_asking() {
    let bus = desk();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, &[QUICK, &[TOKEN]].concat());
    let Some(browser) = Browser::start(&bus, Screen::Desktop) else { return };
    browser.open(PAGE);
    browser.wait_for("document.getElementById('ask').open");
    // A phone's keyboard makes this of a quotation mark; no header can hold it.
    browser.press("s3cret\u{201d}");
    browser.press_key(Key::Enter);
    browser.wait_for("document.getElementById('ask-error').textContent.includes('ASCII')");
    assert_eq!(browser.run("return document.getElementById('ask').open"), true);
    assert_eq!(browser.run("return sessionStorage.length"), 0);
    assert_eq!(browser.barriers(), Vec::<String>::new());
    for _ in 0..3 {
        browser.press_key(Key::Escape);
    }
    browser.wait_for("document.getElementById('ask').open");
    // Pasted with what was around it.
    browser.run(
        "document.getElementById('token').value = '  s3cret '; document.getElementById('token').focus()",
    );
    browser.press_key(Key::Enter);
    browser.wait_for(&row("1-2"));
    assert_eq!(browser.run("return document.getElementById('ask').open"), false);
    daemon.stop();
}
