//! A real browser on the bus's loopback, driven as WebDriver has it (<https://www.w3.org/TR/webdriver2/>).

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use autoweave_usb_testbus::Bus;
use fantoccini::key::Key;
use fantoccini::wd::Capabilities;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::{self, Runtime};

use crate::harness::{PATIENCE, wait_until};
use crate::installed::{axe, chromedriver, pictures};
use crate::program::Running;

/// Every bus has a loopback of its own, so any port is free.
const DRIVER_PORT: u16 = 9515;

const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// As root, without a display, and without asking anybody anything.
const FLAGS: [&str; 8] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// What the page is looked at on.
#[derive(Clone, Copy)]
pub enum Screen {
    /// Wide and light.
    Desktop,
    /// A phone's, and dark.
    Phone,
    /// The narrowest there is: what WCAG 2.2 asks for in 1.4.10, Reflow.
    Narrow,
}

/// Dropping it ends driver and browser.
pub struct Browser {
    runtime: Runtime,
    client: Client,
    axe: String,
    driver: Running,
    _profile: TempDir,
}

impl Browser {
    /// Starts one. The bus shows that the calling thread is in its namespaces.
    pub fn start(_bus: &Bus, screen: Screen) -> Option<Self> {
        let (chromedriver, axe) = (chromedriver()?, axe()?);
        let profile = tempfile::tempdir().unwrap();
        let driver = Running::start(
            // Chromium writes into its home, whatever its profile is.
            Command::new(chromedriver).arg(format!("--port={DRIVER_PORT}")).env("HOME", profile.path()),
        );
        wait_until("chromedriver listens", || driver.stdout().contains("started successfully"));
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities(screen, &profile));
        let address = format!("http://127.0.0.1:{DRIVER_PORT}");
        let client = runtime.block_on(builder.connect(&address)).unwrap();
        Some(Self { runtime, client, axe, driver, _profile: profile })
    }

    pub fn open(&self, url: &str) {
        self.runtime.block_on(self.client.goto(url)).unwrap();
    }

    /// What the body of a function returns.
    pub fn run(&self, script: &str) -> Value {
        self.runtime.block_on(self.client.execute(script, vec![])).unwrap()
    }

    /// Waits until the expression is true; says how long that took.
    pub fn wait_for(&self, expression: &str) -> Duration {
        let begin = Instant::now();
        while self.run(&format!("return Boolean({expression})")) != true {
            assert!(begin.elapsed() < PATIENCE, "never: {expression}; the page: {}", self.text("body"));
            thread::sleep(LOOK_AGAIN);
        }
        begin.elapsed()
    }

    /// The text of the first element that the selector finds.
    pub fn text(&self, selector: &str) -> String {
        let text = self.run(&format!("return document.querySelector({}).innerText", json!(selector)));
        text.as_str().unwrap().to_owned()
    }

    pub fn click(&self, selector: &str) {
        let found = self.runtime.block_on(self.client.find(Locator::Css(selector))).unwrap();
        self.runtime.block_on(found.click()).unwrap();
    }

    /// Types into whatever has the focus.
    pub fn press(&self, keys: &str) {
        let focused = self.runtime.block_on(self.client.active_element()).unwrap();
        self.runtime.block_on(focused.send_keys(keys)).unwrap();
    }

    pub fn press_key(&self, key: Key) {
        self.press(&char::from(key).to_string());
    }

    /// By how many pixels the first element that the selector finds is narrower than what is in it.
    pub fn overhang(&self, selector: &str) -> i64 {
        let script = "const one = document.querySelector(%); return one.scrollWidth - one.clientWidth";
        self.run(&script.replace('%', &json!(selector).to_string())).as_i64().unwrap()
    }

    /// What axe-core finds that keeps somebody from using the page: serious or critical.
    pub fn barriers(&self) -> Vec<String> {
        self.run(&format!("{}; window.axe = axe;", self.axe));
        let look = "const done = arguments[arguments.length - 1]; axe.run().then((found) => done(found.violations));";
        let found = self.runtime.block_on(self.client.execute_async(look, vec![])).unwrap();
        let violations = found.as_array().unwrap().iter();
        let told = |violation: &Value| {
            format!("{} {}: {}", violation["impact"], violation["id"], violation["nodes"][0]["html"])
        };
        violations
            .filter(|violation| violation["impact"] == "serious" || violation["impact"] == "critical")
            .map(told)
            .collect()
    }

    /// What the page has taken of the processors so far, on all its threads: unlike time, the same on a busy machine.
    pub fn processor_time(&self) -> Duration {
        let ticks: u64 =
            descendants(self.driver.pid()).into_iter().filter(|pid| is_renderer(*pid)).map(ticks).sum();
        // sysconf(_SC_CLK_TCK) is 100 wherever Linux runs.
        Duration::from_millis(ticks * 10)
    }

    /// Leaves a picture in `target/page`.
    pub fn picture(&self, name: &str) {
        let png = self.runtime.block_on(self.client.screenshot()).unwrap();
        fs::create_dir_all(pictures()).unwrap();
        fs::write(pictures().join(name).with_extension("png"), png).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver's end would leave the browser running.
        let _ = self.runtime.block_on(self.client.clone().close());
    }
}

fn descendants(ancestor: u32) -> Vec<u32> {
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let parents: BTreeMap<u32, u64> = pids.filter_map(|pid| Some((pid, *stat(pid)?.get(1)?))).collect();
    let is_below = |mut pid: u32| loop {
        match parents.get(&pid).and_then(|parent| u32::try_from(*parent).ok()) {
            Some(parent) if parent == ancestor => return true,
            Some(parent) => pid = parent,
            None => return false,
        }
    };
    parents.keys().copied().filter(|pid| is_below(*pid)).collect()
}

fn is_renderer(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("--type=renderer"))
}

/// utime and stime.
fn ticks(pid: u32) -> u64 {
    stat(pid).map_or(0, |fields| fields[11] + fields[12])
}

/// The fields after the name, 0 for those that are no numbers (proc(5), "/proc/pid/stat").
fn stat(pid: u32) -> Option<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split(' ').map(|field| field.parse().unwrap_or(0)).collect())
}

fn capabilities(screen: Screen, profile: &TempDir) -> Capabilities {
    let mut flags: Vec<String> = FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
    flags.push(format!("--user-data-dir={}", profile.path().join("profile").display()));
    // Blink's PreferredColorScheme: 0 is dark.
    let phone = |width: u32, height: u32| json!({"deviceMetrics": {"width": width, "height": height, "pixelRatio": 2, "touch": true}});
    let (scheme, emulation) = match screen {
        Screen::Desktop => (1, None),
        Screen::Phone => (0, Some(phone(390, 844))),
        Screen::Narrow => (1, Some(phone(320, 640))),
    };
    flags.push(format!("--blink-settings=preferredColorScheme={scheme}"));
    flags.push("--window-size=1440,900".to_owned());
    let mut options = json!({"args": flags});
    if let Some(emulation) = emulation {
        options["mobileEmulation"] = emulation;
    }
    let mut capabilities = Capabilities::new();
    capabilities.insert("goog:chromeOptions".to_owned(), options);
    capabilities
}
