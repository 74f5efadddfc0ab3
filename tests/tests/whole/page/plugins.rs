//! How plugins are, on a phone.

use nix::sys::signal::Signal;
use serde_json::Value;

use super::PAGE;
use crate::browser::{Browser, Screen};
use crate::harness::{Daemon, command, wait_until};
use crate::http::answer;
use crate::plugins::bed::{Bed, pairs};
use crate::program::Running;
use crate::redis_server::Server;

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

#[test]
fn the_page_of_a_daemon_that_only_runs_plugins_has_no_source() {
    let (bus, bed, server) = (super::desk(), Bed::new(), Server::start());
    bed.shell("desk", "ok");
    let env = [bed.env(), vec![("REDIS_URL".to_owned(), server.url())]].concat();
    let mut loader = command(&pairs(&env));
    let loader =
        Running::start(loader.args(["run", "--role", "plugins", "--state-dir"]).arg(bed.state.path()));
    wait_until("it answers", || loader.stderr().contains("HTTP on"));
    let Some(browser) = Browser::start(&bus, Screen::Desktop) else { return };
    browser.open(PAGE);
    browser.wait_for(&says("desk", "0 done"));
    assert_eq!((&*browser.text("#verdict"), &*browser.text("#source")), ("ok", "none"));
    assert_eq!(serde_json::from_str::<Value>(&answer("/health").1).unwrap()["source"], Value::Null);
    loader.end(Signal::SIGTERM).ok();
}
