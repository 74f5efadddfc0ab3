//! Devices and events as people read them: tables, trees and lines, styled for a terminal.
//!
//! Values in, text out; the caller prints it through `anstream`, which drops the styles where they are not
//! wanted. What a device says of itself is hostile: every text goes through [`text::Span`], which lets
//! nothing pass that a terminal would obey or hide. No result ends in a newline.

mod columns;
mod event;
mod known;
mod names;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod tree;

use std::collections::BTreeSet;

use anstyle::{AnsiColor, Style};
use autoweave_usb_device::Device;

use serde::Serialize;
use text::Span;

pub use event::{edge_line, event_line};
pub use names::name;
pub use table::devices_table;
pub use text::escape_json;
pub use tree::devices_tree;

const PLAIN: Style = Style::new();
const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GREEN: Style = AnsiColor::Green.on_default();
const RED: Style = AnsiColor::Red.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default();

const NO_DEVICES: &str =
    "No USB devices here. If one is plugged in, `autoweave-usbd check` tells what is wrong.";

/// How well something that the daemon needs works.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should.
    Ok,
    /// Not as well as it could; the daemon does its job.
    Warn,
    /// The daemon cannot do its job.
    Fail,
}

/// How many devices there are: `3 devices on 2 buses (hubs not counted), 4 hubs`.
pub fn summary(devices: &[&Device]) -> String {
    if devices.is_empty() {
        return NO_DEVICES.to_owned();
    }
    let hubs = devices.iter().filter(|device| names::is_hub(device)).count();
    let buses: BTreeSet<u8> = devices.iter().map(|device| device.bus_number).collect();
    let others = counted(devices.len() - hubs, "device", "devices");
    let buses = counted(buses.len(), "bus", "buses");
    match hubs {
        0 => format!("{others} on {buses}"),
        _ => format!("{others} on {buses} (hubs not counted), {}", counted(hubs, "hub", "hubs")),
    }
}

/// What `check` looked at, how it is, and on a line of its own how to mend it.
pub fn finding(outcome: Outcome, what: &str, found: &str, mend: &str) -> String {
    let (style, word) = match outcome {
        Outcome::Ok => (GREEN, "ok"),
        Outcome::Warn => (YELLOW, "warn"),
        Outcome::Fail => (RED, "fail"),
    };
    let word = Span::new(style, &format!("{word:4}"));
    let line = format!("{word}  {}  {}", Span::new(BOLD, &format!("{what:7}")), Span::new(PLAIN, found));
    if mend.is_empty() { line } else { format!("{line}\n{:15}{}", "", Span::new(DIM, mend)) }
}

fn counted(count: usize, one: &str, many: &str) -> String {
    match count {
        0 => format!("no {many}"),
        1 => format!("1 {one}"),
        _ => format!("{count} {many}"),
    }
}
