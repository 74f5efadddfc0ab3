//! Text that is safe on a terminal: what it would obey or hide is shown as `\u{1b}`.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

use anstyle::Style;
use unicode_width::UnicodeWidthChar;

/// More than a device can say in two strings: a string descriptor holds 126 UTF-16 units (USB 2.0 §9.6.7).
const CHARACTERS_MAX: usize = 256;

/// Enough for every living script; more on one letter paints over the lines around it.
const MARKS_MAX: usize = 2;

/// What shows nothing, or reorders what others show, besides control characters and white space: Unicode's
/// `Default_Ignorable_Code_Point` (`DerivedCoreProperties.txt`), the blank Braille pattern, interlinear
/// annotation, hieroglyph joiners, and private use, which shows whatever the font likes.
const HIDDEN: [RangeInclusive<char>; 22] = [
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{61c}'..='\u{61c}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{200b}'..='\u{200f}',
    '\u{202a}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{2800}'..='\u{2800}',
    '\u{3164}'..='\u{3164}',
    '\u{e000}'..='\u{f8ff}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff0}'..='\u{fffb}',
    '\u{fffe}'..='\u{ffff}',
    '\u{13430}'..='\u{1343f}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
    '\u{f0000}'..='\u{10ffff}',
];

/// A piece of text in one style. Written out, it holds no escape sequence but those of its style.
#[derive(Debug, Clone)]
pub struct Span {
    style: Style,
    text: String,
}

impl Span {
    /// `text`, whoever it comes from, with what is unsafe shown escaped.
    pub fn new(style: Style, text: &str) -> Self {
        Self { style, text: visible(text) }
    }

    /// The terminal columns it takes.
    pub fn width(&self) -> usize {
        self.text.chars().map(columns).sum()
    }

    /// Its beginning, with `…` at the end if it is wider than `width` columns.
    pub fn cut(&self, width: usize) -> Self {
        if self.width() <= width {
            return self.clone();
        }
        let mut text = String::new();
        let mut left = width.saturating_sub(1);
        for character in self.text.chars() {
            let Some(rest) = left.checked_sub(columns(character)) else { break };
            left = rest;
            text.push(character);
        }
        text.truncate(text.trim_end().len());
        if width > 0 {
            text.push('…');
        }
        Self { style: self.style, text }
    }

    /// Itself up to the last character that is to be seen.
    pub fn without_blanks_behind(mut self) -> Self {
        self.text.truncate(self.text.trim_end().len());
        self
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { style, text } = self;
        write!(f, "{style}{text}{style:#}")
    }
}

/// JSON with every character that a terminal would obey or hide as a `\\u` escape. Such a character can only
/// stand in a string, so the value stays the same.
pub fn escape_json(json: &str) -> Cow<'_, str> {
    if !json.chars().any(is_hidden) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 64);
    for character in json.chars() {
        if is_hidden(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                escaped += &format!("\\u{unit:04x}");
            }
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len().min(CHARACTERS_MAX));
    // At the start there is no letter to carry a mark: it would join whatever is printed before.
    let mut marks = MARKS_MAX;
    for (position, character) in text.chars().enumerate() {
        if position == CHARACTERS_MAX {
            shown.push('…');
            break;
        }
        let is_mark = columns(character) == 0;
        if is_hidden(character) || (is_mark && marks == MARKS_MAX) {
            shown.extend(character.escape_unicode());
            marks = 0;
        } else {
            shown.push(character);
            marks = if is_mark { marks + 1 } else { 0 };
        }
    }
    shown
}

fn is_hidden(character: char) -> bool {
    character.is_control()
        || (character.is_whitespace() && character != ' ')
        || HIDDEN.iter().any(|range| range.contains(&character))
}

/// Character by character, as terminals lay text out, rather than by ligature or emoji sequence.
fn columns(character: char) -> usize {
    character.width().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        Span::new(Style::new(), text).to_string()
    }

    #[test]
    fn what_a_terminal_obeys_or_hides_is_escaped() {
        for (text, expected) in [
            ("\x1b[31mred\x07", r"\u{1b}[31mred\u{7}"),
            ("a\nb\r\tc\0\x7f", r"a\u{a}b\u{d}\u{9}c\u{0}\u{7f}"),
            ("\u{9b}31m\u{9d}", r"\u{9b}31m\u{9d}"),
            ("gpj\u{202e}exe\u{2066}\u{2069}\u{200f}", r"gpj\u{202e}exe\u{2066}\u{2069}\u{200f}"),
            ("a\u{200b}\u{200d}\u{feff}\u{ad}b", r"a\u{200b}\u{200d}\u{feff}\u{ad}b"),
            ("a\u{a0}\u{3000}\u{2028}b", r"a\u{a0}\u{3000}\u{2028}b"),
            ("\u{3164}\u{e0041}\u{fe0f}\u{e000}", r"\u{3164}\u{e0041}\u{fe0f}\u{e000}"),
        ] {
            assert_eq!(shown(text), expected);
        }
    }

    #[test]
    fn letters_of_all_scripts_are_left_alone() {
        for text in [
            r#"A "quoted" \ name's"#,
            "无线接收器",
            "マウス",
            "Мышь",
            "עכבר",
            "ماوس",
            "เมาส์",
            "माउस",
            "🎧 µ²",
            "\u{fffd}",
        ] {
            assert_eq!(shown(text), text);
        }
    }

    #[test]
    fn marks_need_a_letter_and_do_not_pile_up() {
        assert_eq!(shown("\u{301}e"), r"\u{301}e");
        assert_eq!(shown("e\u{301}\u{302}\u{303}e\u{301}"), "e\u{301}\u{302}\\u{303}e\u{301}");
    }

    #[test]
    fn cutting_counts_columns() {
        let cut = |text: &str, width| Span::new(Style::new(), text).cut(width).to_string();
        assert_eq!(cut("receiver", 8), "receiver");
        assert_eq!(cut("receiver", 7), "receiv…");
        assert_eq!(cut("USB receiver", 5), "USB…");
        assert_eq!(cut("无线接收器", 10), "无线接收器");
        assert_eq!(cut("无线接收器", 9), "无线接收…");
        assert_eq!(cut("无线接收器", 8), "无线接…");
        assert_eq!((cut("abc", 1), cut("abc", 0)), ("…".to_owned(), String::new()));
    }

    #[test]
    fn endless_text_ends() {
        assert_eq!(shown(&"a".repeat(100_000)), format!("{}…", "a".repeat(CHARACTERS_MAX)));
    }
}
