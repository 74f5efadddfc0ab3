//! The plugins of the daemon, as its health report has them.

use serde_json::Value;

use crate::cli::Common;
use crate::commands::{health, print_json, print_line};
use crate::exit::Failure;
use crate::show;

const HEADER: [&str; 8] = ["NAME", "VERSION", "STATE", "WORKERS", "WAITING", "DONE", "GIVEN UP", "CRASHES"];
const KEYS: [&str; 8] = ["name", "version", "state", "workers", "waiting", "done", "given_up", "crashes"];

pub fn run(common: &Common, json: bool) -> Result<(), Failure> {
    let (_, body) = health::ask(common, unavailable)?;
    let health: Value = serde_json::from_str(&body)
        .map_err(|error| unavailable(format!("the daemon's health report cannot be read: {error}")))?;
    let list = |key: &str| health[key].as_array().cloned().unwrap_or_default();
    let (plugins, refused) = (list("plugins"), list("plugins_refused"));
    if json {
        return plugins.iter().chain(&refused).try_for_each(print_json);
    }
    if plugins.is_empty() {
        print_line("no plugins are running; see plugins.dir in the configuration, and the daemon's log")?;
    } else {
        print_table(&plugins)?;
    }
    for plugin in &plugins {
        if let (Some(name), Some(error)) = (plugin["name"].as_str(), plugin["last_error"].as_str()) {
            print_line(&show::escape_json(&format!("{name} last crashed: {error}")))?;
        }
    }
    // The reason names the package.
    let reasons = refused.iter().filter_map(|package| package["error"].as_str());
    reasons
        .flat_map(str::lines)
        .try_for_each(|line| print_line(&format!("not run: {}", show::escape_json(line))))
}

/// Without a daemon there is no list: that is not about how it is.
fn unavailable(why: String) -> Failure {
    Failure::unavailable(format!("the plugins of the daemon cannot be listed: {why}"))
}

fn print_table(plugins: &[Value]) -> Result<(), Failure> {
    let rows: Vec<[String; 8]> =
        std::iter::once(HEADER.map(str::to_owned)).chain(plugins.iter().map(row)).collect();
    let widths: Vec<usize> =
        (0..HEADER.len()).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        print_line(cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

fn row(plugin: &Value) -> [String; 8] {
    KEYS.map(|key| match &plugin[key] {
        Value::String(text) => show::escape_json(text).into_owned(),
        other => other.to_string(),
    })
}
