//! Values as they are written, in a file or as plain text.

use toml::de::DeValue;

/// A value as written, before it is checked.
#[derive(Clone, Copy)]
pub enum Raw<'a> {
    /// From an environment variable or a flag.
    Text(&'a str),
    /// From a configuration file.
    Toml(&'a DeValue<'a>),
}

impl<'a> Raw<'a> {
    /// What kind of value this is, as in "found …".
    pub fn found(self) -> &'static str {
        match self {
            Self::Text("") => "nothing",
            Self::Text(_) | Self::Toml(DeValue::String(_)) => "a string",
            Self::Toml(DeValue::Integer(_)) => "an integer",
            Self::Toml(DeValue::Float(_)) => "a float",
            Self::Toml(DeValue::Boolean(_)) => "a boolean",
            Self::Toml(DeValue::Datetime(_)) => "a date or time",
            Self::Toml(DeValue::Array(_)) => "a list",
            Self::Toml(DeValue::Table(_)) => "a section",
        }
    }

    /// The text this is, if it is one.
    pub fn string(self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Toml(value) => value.as_str(),
        }
    }

    /// The integer this is; one beyond `i128` is as good as its extreme, since no key reaches that far.
    pub fn integer(self) -> Option<i128> {
        match self {
            Self::Text(text) => text.trim().parse().ok(),
            Self::Toml(DeValue::Integer(integer)) => {
                Some(i128::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i128::MAX))
            }
            Self::Toml(_) => None,
        }
    }

    /// The items this is a list of, or the text between its commas.
    pub fn items(self) -> Option<Vec<Raw<'a>>> {
        match self {
            Self::Text(list) => {
                let items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
                Some(items.map(Raw::Text).collect())
            }
            Self::Toml(DeValue::Array(items)) => {
                Some(items.iter().map(|item| Raw::Toml(item.get_ref())).collect())
            }
            Self::Toml(_) => None,
        }
    }

    /// A USB id: an integer, or hex digits in a string. Plain text has no quotes to tell the two apart, so
    /// there decimal digits without a leading zero are an integer, as they are in a file.
    pub fn id(self) -> Option<i128> {
        let text = match self {
            Self::Toml(DeValue::Integer(_)) => return self.integer(),
            Self::Text(text) if text == "0" || (!text.starts_with('0') && is_decimal(text)) => {
                return self.integer();
            }
            _ => self.string()?,
        };
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
        let hex = (1..=4).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        i128::from_str_radix(digits, 16).ok().filter(|_| hex)
    }
}

/// `text` made fit for an error message: short and without control characters.
pub fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut shown: String = text.chars().take(CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

fn is_decimal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit())
}
