//! The reference page, written from the table of keys.

use std::fmt::Write;

use super::commented::default_toml;
use super::environment::{FILE_VARIABLE, NAMED};
use super::file::FILE_BYTES_MAX;
use super::keys::{Applies, KEYS, Key, VARIABLE_PREFIX};

/// A file that sets a little of everything; a test loads it.
pub const EXAMPLE: &str = r#"host = "edge-7"

[log]
level = "info"

[filters]
vendor_whitelist = [1133, "0x1d6b", "05ac"]   # 1133 is decimal, the strings are hex
device_class_filter = [3, 8]                  # input devices and mass storage

[source]
chain = ["uevent", "poll"]

[performance]
debounce_ms = 20

[journal]
durability = "power"
max_events = 200000

[device_plugin.resources]
"autoweave.dev/usb-camera" = { class = 14 }
"autoweave.dev/usb-serial" = { vendor = "0403", product = "6001" }
"#;

/// The page `docs/configuration.md`.
pub fn reference_markdown() -> String {
    let mut page = introduction();
    let mut section = Some("nothing yet");
    for key in KEYS {
        if key.section() != section {
            section = key.section();
            page.push_str(&heading(section));
        }
        page.push_str(&row(key));
    }
    page.push_str(&environment());
    write!(page, "\n## Example\n\n```toml\n{EXAMPLE}```\n").expect("a string takes all");
    page
}

fn introduction() -> String {
    format!(
        "<!-- Written from the table of keys. Do not edit: UPDATE_DOCS=1 cargo test -p autoweave-usbd -->\n\n\
         # Configuration\n\n\
         Values come in layers; a later one wins, key by key:\n\n\
         1. the defaults below;\n\
         2. one file in TOML: the one `--config` names, else the one `${FILE_VARIABLE}` names, else the \
         first there is of `/etc/autoweave/usbd.toml` and `$XDG_CONFIG_HOME/autoweave/usbd.toml` \
         (`~/.config/autoweave/usbd.toml` if that variable is not set); [elsewhere](operations.md#windows-and-macos) \
         where Windows and macOS want it;\n\
         3. the environment;\n\
         4. flags on the command line.\n\n\
         A file that is named must exist; the others need not. It is UTF-8, {FILE_BYTES_MAX} bytes at \
         most. Of the others, one that this user may not read is passed over with a warning; only `run` and \
         `device-plugin` refuse to run without the machine's, `/etc/autoweave/usbd.toml`.\n\n\
         The configuration is checked as a whole before anything is opened. Whatever is wrong, an unknown \
         key included, is reported with its place, what is allowed and the mend, all at once (up to 20 \
         lines), and the daemon exits with 64. Passwords and URLs are never shown.\n\n\
         SIGHUP loads it again; a bad one is refused and the old one stands. Keys marked ↻ then apply, no \
         event is lost by it; the log names the others that changed and need a restart, as does whether \
         there is a Redis at all.\n"
    )
}

fn heading(section: Option<&str>) -> String {
    let (title, note) = match section {
        None => ("Top level".to_owned(), ""),
        Some("redis") => (
            "`[redis]`".to_owned(),
            "Without this section, and without a variable that sets one of its keys, there is no Redis: the \
             embedded log is the stream. In one file, `url` excludes the keys it stands for, and `password` \
             excludes `password_file`; between layers, and in the environment, the later wins.\n\n",
        ),
        Some("monitoring") => (
            "`[monitoring]`".to_owned(),
            "In one file, `token` excludes `token_file`; between layers, and in the environment, the later wins.\n\n",
        ),
        Some("filters") => (
            "`[filters]`".to_owned(),
            "An id is an integer (`1133`) or hex digits in a string (`\"0x046d\"`, `\"046d\"`).\n\n",
        ),
        Some("device_plugin") => (
            "`[device_plugin]`".to_owned(),
            "Only for `autoweave-usbd device-plugin`: [Kubernetes](kubernetes.md). Ids are written as in \
             `[filters]`; those do not apply here.\n\n",
        ),
        Some(section) => (format!("`[{section}]`"), ""),
    };
    format!("\n## {title}\n\n{note}| key | type and range | default | meaning |\n|---|---|---|---|\n")
}

fn row(key: &Key) -> String {
    let expected = key.kind.expected();
    let expected = expected.strip_prefix("an ").or(expected.strip_prefix("a ")).unwrap_or(&expected);
    let note = match key.applies {
        Applies::AtReload => " ↻",
        Applies::AtStart => "",
    };
    let default = match default_toml(key).as_str() {
        "\"\"" => "none".to_owned(),
        default => format!("`{default}`"),
    };
    format!("| `{}` | {expected} | {default} | {}{note} |\n", key.name(), key.doc)
}

fn environment() -> String {
    let example = KEYS.iter().find(|key| key.section().is_some()).expect("the table has sections");
    let mut text = format!(
        "\n## Environment\n\n\
         `{VARIABLE_PREFIX}SECTION__KEY=value` sets any key, for instance `{}={}`; `{VARIABLE_PREFIX}KEY` \
         one at the top level. A variable that begins so and names no key is an error. Lists are \
         comma-separated. There are no quotes in a variable: in a list of ids, decimal digits without a \
         leading zero are an integer, as in a file; write `0x1038` to be sure of hex.\n\n\
         These names work too; set but empty, they count as unset. Of two that set the same key the lower in \
         this table wins, and `{VARIABLE_PREFIX}…` wins over all of them.\n\n\
         | variable | sets |\n|---|---|\n",
        example.variable(),
        example.default,
    );
    for (variable, key) in NAMED {
        writeln!(text, "| `{variable}` | `{key}` |").expect("a string takes all");
    }
    text.push_str(
        "\nIn a Kubernetes pod a service called `redis` makes a variable `REDIS_PORT=tcp://…`, which is \
         not a port. It is refused: set `enableServiceLinks: false` in the pod's spec.\n\n\
         The standard `OTEL_*` variables are OpenTelemetry's; [the guide](operations.md#opentelemetry) says which are \
         heeded.\n",
    );
    text
}
