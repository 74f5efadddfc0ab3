//! A configuration file to edit: every key with its meaning and default, commented out.

use std::fmt::Write as _;
use std::path::Path;

use super::keys::{KEYS, Key};
use super::kind::Kind;

/// How wide the comments are, in characters.
const COLUMNS: usize = 100;

const HEAD: &str = "\
AutoWeave USB. Every key with its meaning and its default: take away the `#` of a line to change it. Each line stands \
for itself. All keys, their ranges and the variables that set them: docs/configuration.md. `autoweave-usbd check` says \
whether a file is right; `systemctl reload autoweave-usb` loads it again. The daemon's user has to be able to read it; \
keep secrets in files of their own (`redis.password_file`, `monitoring.token_file`). Without any key of `redis` there is no Redis, and the \
embedded log is the stream.";

/// The file, for a udev helper at `helper`.
pub fn commented_toml(helper: &Path) -> String {
    let mut file = comment(HEAD);
    for key in KEYS {
        write!(file, "\n{}", comment(key.doc)).expect("a string takes all");
        let default = default_toml(key);
        let helper = format!("{helper:?}");
        let line = if key.path == "fallback.udev_script_path" && helper != default {
            format!("{} = {helper}\n", key.path)
        } else {
            format!("#{} = {default}\n", key.path)
        };
        file.push_str(&line);
    }
    file
}

/// The default of `key` as TOML.
pub fn default_toml(key: &Key) -> String {
    match key.kind {
        Kind::Bool | Kind::Whole { .. } => key.default.to_owned(),
        Kind::Ids { .. } | Kind::Names | Kind::HostNames | Kind::Sentinels => format!("[{}]", key.default),
        Kind::Resources => format!("{{{}}}", key.default),
        _ => format!("\"{}\"", key.default),
    }
}

/// `text` in comment lines of at most [`COLUMNS`] characters, as far as its words allow.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines += &std::mem::replace(&mut line, String::from("#"));
            lines.push('\n');
        }
        line.push(' ');
        line += word;
    }
    lines + &line + "\n"
}
