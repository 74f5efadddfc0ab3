//! Protocol 1: JSON Lines, to a plugin on its standard input, from it on its standard output.
//!
//! ```text
//! → {"type":"hello","protocol":1,"plugin":"name"}
//! ← {"type":"ready","protocol":1}
//! → {"type":"event","id":"01J…","hook":"onUSBAttach","delivery":1,"event":{…}}
//! ← {"type":"done","id":"01J…","ok":true}
//! ← {"type":"done","id":"01J…","ok":false,"error":"…","retry":true}
//! ← {"type":"log","level":"info","message":"…"}
//! → {"type":"shutdown"}
//! ```
//!
//! One event at a time: the next is sent after `done`. Unknown members of a known message are ignored, so that
//! the protocol can grow; anything else that is not one of these lines ends the worker. `retry` is true unless
//! it says otherwise.

use std::borrow::Cow;

use autoweave_usb_device::{Action, Event};
use serde::{Deserialize, Serialize};

/// The longest line a plugin may write, in bytes without its end.
pub const LINE_MAX: usize = 64 * 1024;

/// What is kept of an error's or a log line's text, in characters.
pub const TEXT_MAX: usize = 4096;

const VERSION: u32 = 1;

/// What a plugin says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It can take events.
    Ready,
    /// It has dealt with an event.
    Done {
        /// The event's.
        id: String,
        /// How that went.
        verdict: Verdict,
    },
    /// A line for the log.
    Log {
        /// How much it matters.
        level: Level,
        /// At most [`TEXT_MAX`] characters.
        message: String,
    },
}

/// How an event went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Well.
    Done,
    /// Not, and it may be worth another try.
    Failed {
        /// Why, at most [`TEXT_MAX`] characters.
        error: String,
        /// Whether to deliver it again.
        retry: bool,
    },
}

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the words of every log")]
pub enum Level {
    Error,
    #[serde(alias = "warning")]
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum ToPlugin<'a> {
    Hello { protocol: u32, plugin: &'a str },
    Event { id: &'a str, hook: &'a str, delivery: u32, event: &'a Event },
    Shutdown,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum FromPlugin<'a> {
    Ready {
        protocol: u32,
    },
    Done {
        id: String,
        ok: bool,
        #[serde(borrow)]
        error: Option<Cow<'a, str>>,
        retry: Option<bool>,
    },
    Log {
        #[serde(default)]
        level: Level,
        #[serde(borrow)]
        message: Cow<'a, str>,
    },
}

/// The first line.
pub fn hello(plugin: &str) -> Vec<u8> {
    line(&ToPlugin::Hello { protocol: VERSION, plugin })
}

/// An event; `delivery` counts from 1.
pub fn event(event: &Event, delivery: u32) -> Vec<u8> {
    line(&ToPlugin::Event { id: &event.event_id, hook: hook(event.action), delivery, event })
}

/// The last line.
pub fn shutdown() -> Vec<u8> {
    line(&ToPlugin::Shutdown)
}

/// The hook that hears of `action`.
pub fn hook(action: Action) -> &'static str {
    match action {
        Action::Attach => "onUSBAttach",
        Action::Detach => "onUSBDetach",
    }
}

/// Reads one line.
///
/// # Errors
/// What is wrong with it.
pub fn parse(line: &[u8]) -> Result<Said, String> {
    let said = serde_json::from_slice(line).map_err(|error| format!("{error} in {}", shown(line)))?;
    Ok(match said {
        FromPlugin::Ready { protocol: VERSION } => Said::Ready,
        FromPlugin::Ready { protocol } => {
            return Err(format!("it speaks protocol {protocol}, this loader {VERSION}"));
        }
        FromPlugin::Done { id, ok: true, .. } => Said::Done { id, verdict: Verdict::Done },
        FromPlugin::Done { id, error, retry, .. } => {
            let error = error.map_or_else(|| "it failed and did not say why".to_owned(), |text| cut(&text));
            Said::Done { id, verdict: Verdict::Failed { error, retry: retry.unwrap_or(true) } }
        }
        FromPlugin::Log { level, message } => Said::Log { level, message: cut(&message) },
    })
}

/// Cuts a stream of bytes into lines, and holds no more than one line of it.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    /// Up to where there is no line's end.
    searched: usize,
}

/// A line without an end in sight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

impl Lines {
    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole line, without its end; empty ones are passed over. Is to be called until it gives none
    /// before more is pushed.
    ///
    /// # Errors
    /// The line is longer than [`LINE_MAX`]; what was read of it is dropped.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        loop {
            let end = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n');
            let Some(end) = end.map(|end| self.searched + end) else {
                self.searched = self.bytes.len();
                if self.searched > LINE_MAX {
                    *self = Self::default();
                    return Err(TooLong);
                }
                return Ok(None);
            };
            let rest = self.bytes.split_off(end + 1);
            let mut line = std::mem::replace(&mut self.bytes, rest);
            self.searched = 0;
            line.truncate(line.trim_ascii_end().len());
            match line.len() {
                0 => {}
                length if length > LINE_MAX => return Err(TooLong),
                _ => return Ok(Some(line)),
            }
        }
    }

    /// What was read of a line whose end is missing.
    pub fn rest(&mut self) -> Vec<u8> {
        std::mem::take(self).bytes
    }
}

/// The first [`TEXT_MAX`] characters.
pub(crate) fn cut(text: &str) -> String {
    text.chars().take(TEXT_MAX).collect()
}

fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(&line[..line.len().min(200)]);
    format!("{text:?}{}", if line.len() > 200 { "…" } else { "" })
}

fn line(message: &ToPlugin<'_>) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("strings, numbers and lists are always JSON");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_lines_are_the_documented_ones() {
        assert_eq!(hello("abc"), b"{\"type\":\"hello\",\"protocol\":1,\"plugin\":\"abc\"}\n");
        assert_eq!(shutdown(), b"{\"type\":\"shutdown\"}\n");
        let done = |id: &str, verdict| Ok(Said::Done { id: id.to_owned(), verdict });
        let failed = |error: &str, retry| Verdict::Failed { error: error.to_owned(), retry };
        let log = |level, message: &str| Ok(Said::Log { level, message: message.to_owned() });
        let cases = [
            (r#"{"type":"ready","protocol":1}"#, Ok(Said::Ready)),
            (r#"{"type":"done","id":"a","ok":true,"new":[1]}"#, done("a", Verdict::Done)),
            (
                r#"{"type":"done","id":"a","ok":false,"error":"b","retry":false}"#,
                done("a", failed("b", false)),
            ),
            (r#"{"type":"done","id":"a","ok":false,"error":"\u00e9"}"#, done("a", failed("é", true))),
            (r#"{"type":"log","level":"warning","message":"m"}"#, log(Level::Warn, "m")),
            (r#"{"type":"log","message":"m"}"#, log(Level::Info, "m")),
        ];
        for (line, said) in cases {
            assert_eq!(parse(line.as_bytes()), said, "{line}");
        }
    }

    #[test]
    fn what_is_no_message_is_told() {
        let bad = [
            "",
            "hello",
            "{}",
            "[]",
            "null",
            r#"{"type":"ready","protocol":2}"#,
            r#"{"type":"ready"}"#,
            r#"{"type":"done","ok":true}"#,
            r#"{"type":"done","id":1,"ok":true}"#,
            r#"{"type":"shutdown"}"#,
            r#"{"type":"log","level":"loud","message":""}"#,
            "{\"type\":\"log\",\"message\":\"\u{1}\"}",
        ];
        for line in bad {
            assert!(parse(line.as_bytes()).is_err(), "{line}");
        }
        let deep = "[".repeat(LINE_MAX);
        assert!(parse(deep.as_bytes()).unwrap_err().len() < 500);
        assert!(parse(b"\xff\xfe").is_err());
    }

    #[test]
    fn a_line_is_cut_off_at_its_bound_and_the_next_is_read() {
        let mut lines = Lines::default();
        lines.push(&vec![b'a'; LINE_MAX]);
        assert_eq!(lines.next_line(), Ok(None));
        lines.push(b"\r\n\n  \nb\nc");
        assert_eq!(lines.next_line().unwrap().unwrap().len(), LINE_MAX);
        assert_eq!(lines.next_line(), Ok(Some(b"b".to_vec())));
        assert_eq!(lines.next_line(), Ok(None));
        assert_eq!(lines.rest(), b"c");
        lines.push(&vec![b'a'; LINE_MAX + 1]);
        assert_eq!(lines.next_line(), Err(TooLong));
        assert_eq!(lines.next_line(), Ok(None));
    }

    proptest! {
        #[test]
        fn lines_come_out_as_they_went_in_however_they_are_cut(
            text in proptest::collection::vec(proptest::collection::vec(b'a'..=b'c', 1..50), 0..20),
            cuts in proptest::collection::vec(1..60usize, 1..50),
        ) {
            let bytes: Vec<u8> = text.iter().flat_map(|line| [line.as_slice(), b"\n"].concat()).collect();
            let (mut lines, mut out, mut rest) = (Lines::default(), Vec::new(), bytes.as_slice());
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                lines.push(now);
                while let Some(line) = lines.next_line().unwrap() {
                    out.push(line);
                }
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(out, text);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}
