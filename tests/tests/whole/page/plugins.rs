//! How plugins are, on a phone.

use super::PAGE;
use crate::browser::{Browser, Screen};
use crate::harness::Daemon;
use crate::plugins::bed::{Bed, pairs};

const LONG: &str = "refuser-with-a-really-long-name-for-a-plugin";

/// An expression: whether the plugin's row has the text.
fn says(plugin: &str, text: &str) -> String {
    format!(
        "[...document.querySelectorAll('#plugin-list li')]\
         .some((row) => row.innerText.startsWith('{plugin}') && row.innerText.includes('{text}'))"
    )
}

#[test]
fn the_page_says_how_plugins_are_also_on_a_phone() {
    let (bus, bed) = (super::desk(), Bed::new());
    bed.shell("desk", "ok");
    bed.shell(LONG, "fail 'no, <b>never</b>'");
    bed.shell("crasher", "exit 3");
    let daemon = Daemon::start(&bus, &bed.state, &pairs(&bed.env()));
    let Some(browser) = Browser::start(&bus, Screen::Phone) else { return };
    browser.open(PAGE);
    browser.wait_for(&says("desk", "4 done"));
    browser.wait_for(&says("desk", "95 % within"));
    browser.wait_for(&says(LONG, "given up"));
    browser.wait_for(&says("crasher", "waiting"));
    browser.wait_for(&says("crasher", "crashes"));
    browser.wait_for(&says("crasher", "it ended: with code 3"));
    assert_eq!(browser.overhang("html"), 0);
    let cut = "return [...document.querySelectorAll('#plugins p, #plugins span')]\
               .filter((one) => one.className !== 'unseen' && one.scrollWidth > one.clientWidth + 1 && \
                                getComputedStyle(one).display !== 'inline').map((one) => one.innerText).join()";
    assert_eq!(browser.run(cut), "");
    assert_eq!(browser.barriers(), Vec::<String>::new());
    browser.run("document.getElementById('plugins').scrollIntoView()");
    browser.picture("phone-plugins");
    daemon.stop();
}
