//! Reads a TOML file into the layers.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin, Problem};
use super::keys;
use super::raw::{Raw, shown};
use super::values::Values;

/// The largest configuration file that is read.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// The text of the file at `path`.
///
/// # Errors
/// Any I/O error; `InvalidData` with the reason when it is too large or not UTF-8.
pub fn read(path: &Path) -> io::Result<String> {
    let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
    let mut bytes = Vec::new();
    // One byte more than allowed, to tell a full file from one that is too large.
    File::open(path)?.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(invalid(format!("the file is larger than {FILE_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        invalid(format!("line {line} is not UTF-8; save the file as UTF-8"))
    })
}

/// Sets what `text`, the content of `path`, sets. True if it has a `[redis]` section, even an empty one.
///
/// What is wrong goes to `errors`, by line. A file that is not TOML sets nothing: half of it may be
/// misunderstood.
pub fn apply(text: &str, path: &Path, values: &mut Values, errors: &mut ConfigError) -> bool {
    let (root, syntax_errors) = DeTable::parse_recoverable(text);
    if !syntax_errors.is_empty() {
        report_syntax(text, path, &syntax_errors, errors);
        return false;
    }
    let mut entries = entries(root.get_ref());
    entries.sort_by_key(|entry| entry.offset);
    let (mut line, mut counted) = (1, 0);
    for entry in &entries {
        line += newlines(text.get(counted..entry.offset).unwrap_or_default());
        counted = entry.offset;
        let origin = Origin::File { path: path.to_owned(), line };
        match keys::find(&entry.path) {
            Some(key) => errors.check(values.set(key, Raw::Toml(entry.value), &origin)),
            None => errors.add(|| entry.not_a_key(&origin)),
        }
    }
    root.get_ref().contains_key("redis")
}

/// A key as written, with the offset of its name in the file.
struct Entry<'a> {
    offset: usize,
    path: String,
    value: &'a DeValue<'a>,
}

impl Entry<'_> {
    fn not_a_key(&self, origin: &Origin) -> Problem {
        let path = shown(&self.path);
        let message = match self.value {
            _ if keys::is_section(&path) => {
                format!("is a section, not a key; write `[{path}]` and its keys below it")
            }
            DeValue::Table(_) if !path.contains('.') => {
                format!("unknown section; the nearest is `[{}]`", keys::nearest_section(&path))
            }
            _ => format!("unknown key; the nearest is `{}`", keys::nearest(&path).path),
        };
        Problem::of_key(origin, &path, message)
    }
}

/// The keys of the file, those in a known section by their whole path.
fn entries<'a>(root: &'a DeTable<'a>) -> Vec<Entry<'a>> {
    let entry = |name: &'a Spanned<_>, path, value: &'a Spanned<_>| Entry {
        offset: name.span().start,
        path,
        value: value.get_ref(),
    };
    let mut entries = Vec::new();
    for (name, value) in root {
        match value.get_ref() {
            DeValue::Table(section) if keys::is_section(name.get_ref()) => {
                let path = |key: &Spanned<_>| format!("{}.{}", name.get_ref(), key.get_ref());
                entries.extend(section.iter().map(|(key, value)| entry(key, path(key), value)));
            }
            _ => entries.push(entry(name, name.get_ref().to_string(), value)),
        }
    }
    entries
}

fn report_syntax(text: &str, path: &Path, syntax_errors: &[toml::de::Error], errors: &mut ConfigError) {
    let mut placed: Vec<_> =
        syntax_errors.iter().map(|error| (error.span().unwrap_or_default(), error.message())).collect();
    placed.sort_by_key(|(span, _)| span.start);
    for (span, message) in placed {
        errors.add(|| {
            let before = text.get(..span.start).unwrap_or(text);
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let (line, column) = (1 + newlines(before), 1 + before[line_start..].chars().count());
            // Of all that the parser points at, only a key is surely no part of a secret.
            let key = text.get(span).filter(|_| message == "duplicate key");
            let key = key.map(|key| format!(" `{}`", shown(key))).unwrap_or_default();
            Problem::at(path, line, column, format!("not valid TOML: {message}{key}"))
        });
    }
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}
