//! Events that were given up.

use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::path::Path;
use std::time::Duration;

use autoweave_usb_stream::{StreamReader, dead_letters_file};
use serde_json::{Value, json};

use crate::cli::Common;
use crate::commands::{print_json, print_line, redis};
use crate::exit::Failure;
use crate::{show, state_dir};

const PAGE: usize = 500;

pub fn run(common: &Common, from_redis: bool, json: bool, asked: Option<&Path>) -> Result<(), Failure> {
    if from_redis {
        return in_redis(common, json);
    }
    let file = dead_letters_file(&state_dir::find(asked)?);
    for file in [file.with_extension("jsonl.1"), file] {
        match File::open(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::io(format!("{}: {error}", file.display()))),
            Ok(opened) => {
                for line in BufReader::new(opened).lines() {
                    let line = line.map_err(|error| Failure::io(format!("{}: {error}", file.display())))?;
                    // One whose writing was interrupted is there once more.
                    if let Ok(letter) = serde_json::from_str(&line) {
                        print(&letter, json)?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn in_redis(common: &Common, json: bool) -> Result<(), Failure> {
    let settings = redis(&super::super::load(common, None)?.config)?;
    let failed = |failure: autoweave_usb_stream::Failure| {
        Failure::unavailable(show::escape_json(&format!("{}: {failure}", settings.endpoint)))
    };
    let mut reader = StreamReader::dead_letters(&settings).map_err(failed)?;
    let mut after = "0".to_owned();
    loop {
        let page = reader.after(&after, PAGE, Duration::ZERO).map_err(failed)?;
        let Some(last) = page.last() else { return Ok(()) };
        after.clone_from(&last.id);
        for entry in page {
            let get = |name: &str| entry.get(name).unwrap_or_default().to_owned();
            let number = |name: &str| get(name).parse::<u64>().ok();
            let event = autoweave_usb_stream::event(&entry.fields).ok();
            let letter = json!({
                "seq": number("seq"), "event": event, "error": get("error"), "deliveries": number("deliveries"),
                "plugin": get("plugin"),
            });
            print(&letter, json)?;
        }
    }
}

fn print(letter: &Value, json: bool) -> Result<(), Failure> {
    if json {
        return print_json(letter);
    }
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let event = &letter["event"];
    print_line(&show::escape_json(&format!(
        "{} {} {}: {} gave it up after {} deliveries: {}",
        letter["seq"],
        text(&event["action"]),
        text(&event["device"]["device_id"]),
        text(&letter["plugin"]),
        letter["deliveries"],
        text(&letter["error"]),
    )))
}
