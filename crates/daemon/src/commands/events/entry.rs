//! Prints an entry of the stream, whoever wrote it.

use autoweave_usb_stream::{Entry, event};
use serde::{Serialize, Serializer};

use crate::commands::{print_json, print_line};
use crate::exit::Failure;
use crate::show;

/// The most characters a person is shown of an entry that is no event; `--json` has it all.
const CHARACTERS_MAX: usize = 2000;

/// An entry that is no event, for programs.
#[derive(Serialize)]
struct Foreign<'a> {
    entry_id: &'a str,
    #[serde(serialize_with = "as_object")]
    fields: &'a [(String, String)],
}

/// Prints an event as the journal's are printed, for a person with its host, and any other entry as what it is.
pub fn print(entry: &Entry, is_json: bool) -> Result<(), Failure> {
    let foreign = Foreign { entry_id: &entry.id, fields: &entry.fields };
    match (event(&entry.fields), is_json) {
        (Ok(event), true) => print_json(&event),
        (Ok(event), false) => {
            print_line(&format!("{}  {}", show::event_line(&event), beginning(&event.host)))
        }
        (Err(_), true) => print_json(&foreign),
        (Err(problem), false) => {
            let foreign = serde_json::to_string(&foreign).map_err(Failure::io)?;
            print_line(&format!("no event, {problem}: {}", beginning(&foreign)))
        }
    }
}

/// As much of `text` as a person reads, with nothing that a terminal would obey or hide.
fn beginning(text: &str) -> String {
    match text.char_indices().nth(CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", show::escape_json(&text[..end])),
        None => show::escape_json(text).into_owned(),
    }
}

/// In the entry's order, and with a name as often as the entry has it.
fn as_object<S: Serializer>(fields: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(fields.iter().map(|(name, value)| (name, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_entry_is_an_object_with_all_it_has() {
        let fields = [("b", "1"), ("a", "\x1b"), ("b", "2")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        let json = serde_json::to_string(&Foreign { entry_id: "1-0", fields: &fields }).unwrap();
        assert_eq!(json, r#"{"entry_id":"1-0","fields":{"b":"1","a":"\u001b","b":"2"}}"#);
    }

    #[test]
    fn a_person_sees_no_more_than_the_beginning_and_nothing_that_a_terminal_obeys() {
        assert_eq!(beginning("edge-7"), "edge-7");
        assert_eq!(beginning("\x1b[2J\u{202e}"), r"\u001b[2J\u202e");
        assert_eq!(beginning(&"é".repeat(CHARACTERS_MAX + 1)), format!("{}…", "é".repeat(CHARACTERS_MAX)));
    }
}
