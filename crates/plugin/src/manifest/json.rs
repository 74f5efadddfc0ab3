//! JSON that knows which line it stands on: messages about a manifest name the line.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Number;
use serde_json::value::RawValue;

/// A value within a text. Parsed only as deep as it is asked for.
#[derive(Clone, Copy)]
pub(super) struct Value<'a> {
    text: &'a str,
    raw: &'a str,
}

struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Value<'a> {
    /// Fails with the line and what is wrong there.
    pub(super) fn parse(text: &'a str) -> Result<Self, (usize, String)> {
        let raw: &RawValue = serde_json::from_str(text).map_err(|error| (error.line(), error.to_string()))?;
        Ok(Self { text, raw: raw.get() })
    }

    /// From 1.
    pub(super) fn line(self) -> usize {
        self.text[..self.offset()].matches('\n').count() + 1
    }

    /// Where it begins, in bytes from the start of the text.
    pub(super) fn offset(self) -> usize {
        self.raw.as_ptr().addr() - self.text.as_ptr().addr()
    }

    pub(super) fn raw(self) -> &'a str {
        self.raw
    }

    /// In the order of the text; a key may stand there twice.
    pub(super) fn members(self) -> Option<Vec<(String, Self)>> {
        let members: Members<'a> = serde_json::from_str(self.raw).ok()?;
        Some(members.0.into_iter().map(|(key, raw)| (key, self.within(raw))).collect())
    }

    pub(super) fn items(self) -> Option<Vec<Self>> {
        let items: Vec<&'a RawValue> = serde_json::from_str(self.raw).ok()?;
        Some(items.into_iter().map(|raw| self.within(raw)).collect())
    }

    pub(super) fn string(self) -> Option<String> {
        serde_json::from_str(self.raw).ok()
    }

    pub(super) fn boolean(self) -> Option<bool> {
        serde_json::from_str(self.raw).ok()
    }

    /// As JSON Schema counts integers: `8.0` is one.
    pub(super) fn integer(self) -> Option<i64> {
        let number: Number = serde_json::from_str(self.raw).ok()?;
        let whole = |float: f64| float.fract() == 0.0 && float.abs() < 1e15;
        #[allow(clippy::cast_possible_truncation, reason = "whole and below 10^15")]
        number.as_i64().or_else(|| number.as_f64().filter(|float| whole(*float)).map(|float| float as i64))
    }

    fn within(self, raw: &'a RawValue) -> Self {
        Self { text: self.text, raw: raw.get() }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Members<'de>, M::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}
