mod redis;
mod resources;

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroU32;
use std::time::Duration;

use super::commented::{commented_toml, default_toml};
use super::environment::NAMED;
use super::keys::{KEYS, is_section};
use super::reference::{EXAMPLE, reference_markdown};
use super::*;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");

type Flags<'a> = &'a [(&'static str, &'a str, &'static str)];

/// Loads `text` as the file of `--config`; errors call that file `FILE`.
fn load_all(text: &str, env: &[(&str, &str)], flags: Flags<'_>) -> Result<Loaded, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("usbd.toml");
    fs::write(&path, text).unwrap();
    let sources = Sources {
        file: Some(path.clone()),
        env: variables(env),
        flags: flags.iter().map(|(key, value, flag)| (*key, (*value).to_owned(), *flag)).collect(),
        search_paths: Vec::new(),
    };
    load(&sources).map_err(|error| error.to_string().replace(path.to_str().unwrap(), "FILE"))
}

fn variables(env: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    env.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn config(text: &str, env: &[(&str, &str)]) -> Config {
    load_all(text, env, &[]).unwrap_or_else(|error| panic!("{text:?} {env:?}:\n{error}")).config
}

/// The file gives exactly these error lines.
#[track_caller]
fn refused(text: &str, expected: &[&str]) {
    refused_with(text, &[], expected);
}

#[track_caller]
fn refused_with(text: &str, env: &[(&str, &str)], expected: &[&str]) {
    let error = load_all(text, env, &[]).expect_err("refused");
    assert_eq!(error.lines().collect::<Vec<_>>(), expected, "{text:?} {env:?}");
}

fn tcp(host: &str, port: u16, tls: bool) -> Endpoint {
    Endpoint::Tcp { host: host.to_owned(), port, tls }
}

fn defaults() -> Config {
    Config {
        host: None,
        log: Log { level: LogLevel::Info, format: LogFormat::Text },
        redis: None,
        monitoring: Monitoring {
            http: Some("127.0.0.1:8080".parse().unwrap()),
            hosts: vec![],
            token: None,
            interval: Duration::from_millis(5000),
        },
        filters: Filters { vendor_whitelist: vec![], vendor_blacklist: vec![], device_class_filter: vec![] },
        source: Source { chain: Chain::Auto, receive_buffer_bytes: 134_217_728 },
        performance: Performance {
            max_events_per_second: NonZeroU32::new(100),
            debounce: Duration::from_millis(50),
            batch_size: 10,
            shutdown_timeout: Duration::from_millis(5000),
        },
        fallback: Fallback {
            enable_udev: true,
            udev_script_path: "/usr/local/bin/autoweave-udev-notify".into(),
        },
        journal: Journal { durability: Durability::Power, max_events: 1_000_000 },
        plugins: None,
        device_plugin: DevicePlugin {
            resources: BTreeMap::new(),
            directory: "/var/lib/kubelet/device-plugins".into(),
        },
        telemetry_endpoint: None,
    }
}

const EVERYTHING: &str = r#"
host = "edge-7"
[log]
level = "debug"
format = "json"
[redis]
host = "cache"
port = 6380
db = 3
username = "usb"
password_file = "/run/secrets/redis"
tls = true
sentinel = []
sentinel_master = "usb"
cluster = true
stream = "hot"
max_len = 7
[monitoring]
enabled = false
interval = 250
healthcheck_port = 0
bind = "::1"
hosts = ["usb.example.org", "usbd"]
token_file = "/run/secrets/token"
[filters]
vendor_whitelist = [1133, "0x046d", "046d", 7531]
vendor_blacklist = ["0X05AC"]
device_class_filter = [8, "0x03", 8]
[source]
chain = ["poll", "uevent"]
receive_buffer_bytes = 0x1000
[performance]
max_events_per_second = 0
debounce_ms = 0
batch_size = 20
shutdown_timeout_ms = 1_000
[fallback]
enable_udev = false
udev_script_path = "/opt/notify"
[journal]
durability = "process"
max_events = 1
[plugins]
dir = "/opt/plugins"
require_signature = true
without_landlock = ["old"]
group = "g"
consumer = "c"
max_deliveries = 2
[device_plugin]
resources."a.b/c".class = 14
directory = "/k"
[telemetry]
endpoint = "https://collector/otlp"
"#;

#[test]
fn nothing_gives_the_defaults() {
    assert_eq!(config("", &[]), defaults());
    assert_eq!(load(&Sources::default()).unwrap().config, defaults());
}

#[test]
fn every_key_reaches_the_config() {
    let expected = Config {
        host: Some("edge-7".to_owned()),
        log: Log { level: LogLevel::Debug, format: LogFormat::Json },
        redis: Some(Redis {
            endpoint: Endpoint::Cluster { host: "cache".to_owned(), port: 6380, tls: true },
            username: Some("usb".to_owned()),
            password: Some(Password::File("/run/secrets/redis".into())),
            db: 3,
            stream: "hot".to_owned(),
            max_len: 7,
        }),
        monitoring: Monitoring {
            http: None,
            hosts: vec!["usb.example.org".to_owned(), "usbd".to_owned()],
            token: Some(Password::File("/run/secrets/token".into())),
            interval: Duration::from_millis(250),
        },
        filters: Filters {
            vendor_whitelist: vec![0x046d, 7531],
            vendor_blacklist: vec![0x05ac],
            device_class_filter: vec![3, 8],
        },
        source: Source {
            chain: Chain::Only(vec![SourceName::Poll, SourceName::Uevent]),
            receive_buffer_bytes: 4096,
        },
        performance: Performance {
            max_events_per_second: None,
            debounce: Duration::ZERO,
            batch_size: 20,
            shutdown_timeout: Duration::from_secs(1),
        },
        fallback: Fallback { enable_udev: false, udev_script_path: "/opt/notify".into() },
        journal: Journal { durability: Durability::Process, max_events: 1 },
        plugins: Some(Plugins {
            dir: "/opt/plugins".into(),
            group: "g".to_owned(),
            consumer: "c".to_owned(),
            max_deliveries: 2,
            require_signature: true,
            without_landlock: vec!["old".to_owned()],
        }),
        device_plugin: DevicePlugin {
            resources: [("a.b/c".to_owned(), Selector { class: Some(14), ..Selector::default() })].into(),
            directory: "/k".into(),
        },
        telemetry_endpoint: Some("https://collector/otlp".to_owned()),
    };
    let loaded = load_all(EVERYTHING, &[], &[]).unwrap();
    assert_eq!(loaded.config, expected);
    for key in KEYS.iter().filter(|key| !["redis.url", "redis.password"].contains(&key.path)) {
        assert!(loaded.is_set(key.path), "EVERYTHING lacks {}", key.path);
    }
    let enabled = EVERYTHING.replace("enabled = false", "enabled = true");
    assert_eq!(config(&enabled, &[]).monitoring.http, Some("[::1]:0".parse().unwrap()));
}

#[test]
fn every_default_and_every_choice_can_be_written_down() {
    for key in KEYS {
        let key_in = |value: &str| match key.section() {
            Some(section) => format!("[{section}]\n{} = {value}\n", key.name()),
            None => format!("{} = {value}\n", key.name()),
        };
        let loaded = load_all(&key_in(&default_toml(key)), &[], &[]).unwrap();
        assert!(loaded.is_set(key.path));
        assert_eq!(Config { redis: None, ..loaded.config }, defaults(), "{}", key.path);
        let environment = config("", &[(&key.variable(), key.default)]);
        assert_eq!(Config { redis: None, ..environment }, defaults(), "{}", key.path);
        if let kind::Kind::Choice(words) = key.kind {
            for word in words {
                config(&key_in(&format!("\"{word}\"")), &[]);
            }
        }
    }
}

#[test]
fn the_table_of_keys_is_sound() {
    for (index, key) in KEYS.iter().enumerate() {
        assert!(KEYS[..index].iter().all(|other| other.path != key.path), "{} is there twice", key.path);
        assert!(!key.doc.contains(['\n', '|']), "{} must fit a table cell", key.path);
        assert!(!is_section(key.path), "{} is also a section", key.path);
        assert!(key.path.split('.').count() <= 2, "{}", key.path);
    }
    assert!(NAMED.iter().all(|(_, path)| keys::find(path).is_some()));
}

#[test]
fn layers_win_in_order_and_keep_their_origin() {
    let file = "[performance]\ndebounce_ms = 1\nbatch_size = 2\n[log]\nlevel = 'error'";
    let env = [("AUTOWEAVE_USB__PERFORMANCE__DEBOUNCE_MS", "3"), ("LOG_LEVEL", "WARN"), ("UNRELATED", "x")];
    let flags: Flags<'_> = &[("log.level", "trace", "--log-level")];
    let loaded = load_all(file, &env, flags).unwrap();
    assert_eq!(loaded.config.performance.debounce, Duration::from_millis(3));
    assert_eq!(loaded.config.performance.batch_size, 2);
    assert_eq!(loaded.config.log.level, LogLevel::Trace);
    let origin = |path| loaded.origin(path).map(ToString::to_string);
    assert!(origin("performance.batch_size").unwrap().ends_with("usbd.toml:3"));
    assert_eq!(origin("performance.debounce_ms").as_deref(), Some("AUTOWEAVE_USB__PERFORMANCE__DEBOUNCE_MS"));
    assert_eq!(origin("log.level").as_deref(), Some("--log-level"));
    assert!(!loaded.is_set("log.format"));
    assert_eq!(loaded.without_effect().count(), 0);
    let unused = load_all("plugins.group = 'g'", &[], &[]).unwrap();
    assert_eq!(unused.without_effect().map(|(path, _)| path).collect::<Vec<_>>(), ["plugins.group"]);
    let same_as_default = load_all("performance.debounce_ms = 50", &[], &[]).unwrap();
    assert!(same_as_default.is_set("performance.debounce_ms"));
}

#[test]
fn unknown_keys_name_the_nearest() {
    refused(
        "hots = 'a'\ndebounce_ms = 5\n[performance]\ndebounce = 5\ninterval = 1\n[performnce]\ndebounce_ms = 5\n[[log.x]]",
        &[
            "FILE:1: `hots`: unknown key; the nearest is `host`",
            "FILE:2: `debounce_ms`: unknown key; the nearest is `performance.debounce_ms`",
            "FILE:4: `performance.debounce`: unknown key; the nearest is `performance.debounce_ms`",
            "FILE:5: `performance.interval`: unknown key; the nearest is `monitoring.interval`",
            "FILE:6: `performnce`: unknown section; the nearest is `[performance]`",
            "FILE:8: `log.x`: unknown key; the nearest is `log.level`",
        ],
    );
    refused("\"\\u001bhost\" = 1", &["FILE:1: `\\u{1b}host`: unknown key; the nearest is `host`"]);
    refused_with(
        "",
        &[
            ("AUTOWEAVE_USB__REDIS__HOTS", "secret"),
            ("AUTOWEAVE_USB__HOST__", ""),
            ("AUTOWEAVE_USB_PORT", "tcp://"),
        ],
        &[
            "AUTOWEAVE_USB__HOST__: unknown key; the nearest is `AUTOWEAVE_USB__HOST`",
            "AUTOWEAVE_USB__REDIS__HOTS: unknown key; the nearest is `AUTOWEAVE_USB__REDIS__HOST`",
        ],
    );
    let flag = load_all("", &[], &[("log.levl", "info", "--log-level")]).unwrap_err();
    assert_eq!(flag, "--log-level: `log.levl`: unknown key; the nearest is `log.level`");
}

#[test]
fn wrong_types_say_what_is_expected() {
    let cases = [
        ("performance.debounce_ms", "'50'", "expected an integer from 0 to 60000 (ms), found a string"),
        ("performance.debounce_ms", "5.0", "expected an integer from 0 to 60000 (ms), found a float"),
        ("performance.debounce_ms.x", "5", "expected an integer from 0 to 60000 (ms), found a section"),
        (
            "performance.debounce_ms",
            "2026-01-01",
            "expected an integer from 0 to 60000 (ms), found a date or time",
        ),
        ("monitoring.enabled", "1", "expected `true` or `false`, found an integer"),
        ("host", "true", "expected a string of at most 255 bytes, found a boolean"),
        ("host", "'''a\nb'''", "a control character (such as a line break) is not allowed"),
        ("monitoring.token", "'two words'", "expected at most 255 ASCII characters without spaces"),
        (
            "monitoring.hosts",
            "['usbd:8080']",
            "`usbd:8080` is not a host name, expected a list of host names without ports",
        ),
        ("telemetry.endpoint", "'collector:4317'", "expected a URL `http://…` or `https://…`"),
        ("monitoring.bind", "'localhost'", "expected an IP address such as `127.0.0.1`, `0.0.0.0` or `::1`"),
        ("journal.durability", "'powr'", "`powr` is not allowed, expected one of `power`, `process`"),
        (
            "filters.vendor_whitelist",
            "1133",
            "expected a list of integers from 0 to 65535 or hex strings, found an integer",
        ),
        (
            "filters.vendor_whitelist",
            "[[1]]",
            "expected a list of integers from 0 to 65535 or hex strings, found a list in it",
        ),
        ("redis.stream", "''", "expected a name of 1 to 255 bytes without spaces and braces"),
        ("redis.stream", "'{a}'", "expected a name of 1 to 255 bytes without spaces and braces"),
    ];
    for (key, value, message) in cases {
        let name = if key.ends_with(".x") { "performance.debounce_ms" } else { key };
        refused(&format!("\n{key} = {value}"), &[&format!("FILE:2: `{name}`: {message}")]);
    }
    refused(
        "redis = 'localhost'\n[[log]]\nlevel = 'info'",
        &[
            "FILE:1: `redis`: is a section, not a key; write `[redis]` and its keys below it",
            "FILE:2: `log`: is a section, not a key; write `[log]` and its keys below it",
        ],
    );
    refused_with(
        "",
        &[("REDIS_DB", "abc"), ("LOG_LEVEL", "loud"), ("AUTOWEAVE_USB__MONITORING__ENABLED", "")],
        &[
            "LOG_LEVEL: `log.level`: `loud` is not allowed, expected one of `error`, `warn`, `info`, `debug`, `trace`",
            "REDIS_DB: `redis.db`: expected an integer from 0 to 2147483647, found a string",
            "AUTOWEAVE_USB__MONITORING__ENABLED: `monitoring.enabled`: expected `true` or `false`, found nothing",
        ],
    );
}

#[test]
fn every_range_ends_where_it_says() {
    for key in KEYS {
        let kind::Kind::Whole { min, max, .. } = key.kind else { continue };
        let (min, max) = (i64::from(min), i64::from(max));
        for (value, allowed) in [(min - 1, false), (min, true), (max, true), (max + 1, false)] {
            let loaded = load_all(&format!("{} = {value}", key.path), &[], &[]);
            let message = format!("FILE:1: `{}`: {value} is out of range, expected ", key.path);
            match loaded {
                Ok(_) => assert!(allowed, "{} = {value}", key.path),
                Err(error) => assert!(!allowed && error.starts_with(&message), "{error}"),
            }
        }
    }
    refused(
        "filters.vendor_whitelist = [65536]\nfilters.device_class_filter = ['0x100', -1]\nredis.db = 99999999999999999999",
        &[
            "FILE:1: `filters.vendor_whitelist`: 65536 is out of range, expected a list of integers from 0 to 65535 or hex strings",
            "FILE:2: `filters.device_class_filter`: 256 is out of range, expected a list of integers from 0 to 255 or hex strings",
            "FILE:3: `redis.db`: 99999999999999999999 is out of range, expected an integer from 0 to 2147483647",
        ],
    );
}

#[test]
fn ids_are_integers_or_hex_strings() {
    let name = "AUTOWEAVE_USB__FILTERS__VENDOR_WHITELIST";
    let from_env = |list| config("", &[(name, list)]).filters.vendor_whitelist;
    assert_eq!(from_env("1133, 0x046D,046d"), [0x046d]);
    assert_eq!(from_env("0x1038,0461,5ac,0"), [0, 0x0461, 0x05ac, 0x1038]);
    assert_eq!(config("filters.vendor_whitelist = [1]", &[(name, "")]).filters.vendor_whitelist, [0u16; 0]);
    assert_eq!(config("filters.vendor_whitelist = ['1133']", &[]).filters.vendor_whitelist, [0x1133]);
    for bad in ["xyz", "0x", "12345f", "+1f", "-1f", "0x+1"] {
        let message = format!(
            "{name}: `filters.vendor_whitelist`: `{bad}` is not an id, expected a list of integers from 0 to 65535 or hex strings"
        );
        refused_with("", &[(name, bad)], &[&message]);
    }
}

#[test]
fn the_chain_is_auto_or_a_list() {
    let name = "AUTOWEAVE_USB__SOURCE__CHAIN";
    let chain = |text: &str, env: &[(&str, &str)]| config(text, env).source.chain;
    let both = Chain::Only(vec![SourceName::Nusb, SourceName::Udev]);
    assert_eq!(chain("source.chain = ['nusb', 'udev']", &[]), both);
    assert_eq!(chain("source.chain = 'nusb, udev'", &[]), both);
    assert_eq!(chain("", &[(name, "nusb,udev")]), both);
    assert_eq!(chain("source.chain = ['nusb']", &[(name, "auto")]), Chain::Auto);
    let names = "expected `auto` or a list of some of `uevent`, `libusb`, `udev`, `poll`, `nusb`, each once";
    let cases = [
        ("['usb']", "`usb` is not a source, "),
        ("['auto']", "`auto` is not a source, "),
        ("'poll,poll'", "`poll` is there twice, "),
        ("[]", "the list is empty, "),
    ];
    for (value, message) in cases {
        let line = format!("FILE:1: `source.chain`: {message}{names}");
        refused(&format!("source.chain = {value}"), &[&line]);
    }
}

#[test]
fn what_is_not_toml_is_placed_by_line_and_column() {
    let cases = [
        ("\n[log", "FILE:2:5: not valid TOML: "),
        ("host = ", "FILE:1:8: not valid TOML: "),
        ("# é\nhost = é", "FILE:2:8: not valid TOML: "),
        ("host = 'a'\nhost = 'b'", "FILE:2:1: not valid TOML: duplicate key `host`"),
        ("[log]\nlevel = 'info'\n[log]\n", "FILE:3:2: not valid TOML: duplicate key `log`"),
        ("host = 'a'\r\nport 5\r\n", "FILE:2:"),
    ];
    for (text, start) in cases {
        let error = load_all(text, &[], &[]).expect_err(text);
        assert!(error.starts_with(start), "{text:?} gives {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let nested = format!("host = {}", "[".repeat(100_000));
    assert!(load_all(&nested, &[], &[]).unwrap_err().starts_with("FILE:1:"));
    assert_eq!(config("\u{feff}host = 'a'\r\n", &[]).host.as_deref(), Some("a"));
}

#[test]
fn all_problems_come_at_once_up_to_a_bound() {
    refused_with(
        "[redis]\nport = 0\nhots = 'x'\n[log]\nlevel = 5",
        &[("REDIS_DB", "x")],
        &[
            "FILE:2: `redis.port`: 0 is out of range, expected an integer from 1 to 65535",
            "FILE:3: `redis.hots`: unknown key; the nearest is `redis.host`",
            "FILE:5: `log.level`: expected one of `error`, `warn`, `info`, `debug`, `trace`, found an integer",
            "REDIS_DB: `redis.db`: expected an integer from 0 to 2147483647, found a string",
        ],
    );
    let many: String = (0..30).map(|n| format!("log.x{n:02} = 1\n")).collect();
    let error = load_all(&many, &[], &[]).unwrap_err();
    assert_eq!(error.lines().count(), 21);
    assert_eq!(error.lines().last(), Some("and 10 more"));
    assert!(error.starts_with("FILE:1: `log.x00`"));
}

#[test]
fn the_worst_file_is_refused_soon() {
    let keys: String = (0..file::FILE_BYTES_MAX / 10).map(|n| format!("k{n:05}=1\n")).collect();
    assert!(load_all(&keys, &[], &[]).unwrap_err().starts_with("FILE:1: `k00000`"));
    let lines = "x\n".repeat(file::FILE_BYTES_MAX / 2);
    assert!(load_all(&lines, &[], &[]).unwrap_err().starts_with("FILE:1:"));
    let deep = "a.".repeat(file::FILE_BYTES_MAX / 2 - 10);
    for text in
        [format!("{deep}a = 1"), format!("[{deep}a]"), "host = {a = ".repeat(file::FILE_BYTES_MAX / 12)]
    {
        assert!(load_all(&text, &[], &[]).unwrap_err().starts_with("FILE:1:"));
    }
    let long = "k".repeat(file::FILE_BYTES_MAX - 10);
    assert!(load_all(&format!("{long} = 1"), &[], &[]).unwrap_err().len() < 200);
}

#[test]
fn a_named_file_must_be_there_and_a_searched_one_need_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a.toml"), "host = 'a'").unwrap();
    fs::write(path("b.toml"), "host = 'b'").unwrap();
    let place = |name| SearchPath { path: path(name), must_be_readable: true };
    let named = |file: Option<&str>, variable: &str| {
        let sources = Sources {
            file: file.map(path),
            env: vec![(
                FILE_VARIABLE.into(),
                if variable.is_empty() { "".into() } else { path(variable).into() },
            )],
            search_paths: ["none.toml", "a.toml/none.toml", "b.toml", "a.toml"].map(place).into(),
            ..Sources::default()
        };
        let loaded = load(&sources).map_err(|error| error.to_string());
        loaded.map(|loaded| (loaded.config.host.unwrap(), loaded.file.unwrap()))
    };
    assert_eq!(named(None, ""), Ok(("b".to_owned(), path("b.toml"))));
    assert_eq!(named(None, "a.toml"), Ok(("a".to_owned(), path("a.toml"))));
    assert_eq!(named(Some("b.toml"), "a.toml"), Ok(("b".to_owned(), path("b.toml"))));
    let missing = |by: &str| Err(format!("{}: no such file; {by} names it", path("none.toml").display()));
    assert_eq!(named(Some("none.toml"), "a.toml"), missing("--config"));
    assert_eq!(named(None, "none.toml"), missing("$AUTOWEAVE_USB_CONFIG"));
    let unread = named(Some("."), "").unwrap_err();
    assert!(unread.contains("cannot be read: Is a directory"), "{unread}");
}

#[test]
fn files_that_are_too_large_or_not_utf8_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("usbd.toml");
    let outcome = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        let place = SearchPath { path: path.clone(), must_be_readable: false };
        let sources = Sources { search_paths: vec![place], ..Sources::default() };
        load(&sources).map(|_| ()).map_err(|error| error.to_string())
    };
    let full = vec![b'\n'; 1 << 20];
    assert_eq!(outcome(&full), Ok(()));
    let place = format!("{}: cannot be read: ", path.display());
    assert_eq!(
        outcome(&[&full[..], b"\n"].concat()),
        Err(format!("{place}the file is larger than 1048576 bytes"))
    );
    let not_utf8 = Err(format!("{place}line 2 is not UTF-8; save the file as UTF-8"));
    assert_eq!(outcome(b"\nhost = '\xff'"), not_utf8);
}

#[cfg(unix)]
#[test]
fn variables_that_are_not_utf8_are_refused_only_if_they_are_ours() {
    use std::os::unix::ffi::OsStringExt;
    let bad = || OsString::from_vec(vec![0xff]);
    let with = |name: OsString| load(&Sources { env: vec![(name, bad())], ..Sources::default() });
    assert!(with("OTHER".into()).is_ok() && with(bad()).is_ok());
    let error = with("REDIS_PASSWORD".into()).unwrap_err().to_string();
    assert_eq!(error, "REDIS_PASSWORD: `redis.password`: the value is not UTF-8");
}

#[test]
fn the_search_knows_the_usual_places() {
    let paths = |env: &[(&str, &str)]| {
        let paths = search_paths(&variables(env), true);
        paths.iter().map(|place| place.path.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let etc = "/etc/autoweave/usbd.toml";
    assert_eq!(paths(&[]), [etc]);
    assert_eq!(paths(&[("HOME", "/h")]), [etc, "/h/.config/autoweave/usbd.toml"]);
    assert_eq!(paths(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")]), [etc, "/x/autoweave/usbd.toml"]);
    assert_eq!(paths(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "x")]), [etc, "/h/.config/autoweave/usbd.toml"]);
    let has_to = |is_daemon| {
        search_paths(&variables(&[("HOME", "/h")]), is_daemon).into_iter().map(|place| place.must_be_readable)
    };
    assert!(has_to(true).eq([true, false]) && has_to(false).eq([false, false]));
}

#[test]
fn the_example_of_the_page_loads() {
    let config = config(EXAMPLE, &[]);
    assert_eq!(config.filters.vendor_whitelist, [0x046d, 0x05ac, 0x1d6b]);
    assert_eq!(config.redis, None);
}

#[test]
fn every_line_of_the_commented_file_can_be_taken() {
    let usual = Path::new("/usr/local/bin/autoweave-udev-notify");
    let file = commented_toml(usual);
    assert_eq!(config(&file, &[]), defaults());
    let keys: Vec<&str> = file.lines().filter_map(|line| line.strip_prefix('#')).collect();
    let keys: Vec<&str> = keys.into_iter().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(keys.len(), KEYS.len());
    for key in keys {
        // Those that are unset by default cannot be empty.
        let is_unset = key.ends_with("= \"\"");
        assert!(is_unset || load_all(key, &[], &[]).is_ok(), "{key}");
    }
    assert!(file.lines().all(|line| line.chars().count() <= 130), "{file}");
    let elsewhere = commented_toml(Path::new("/usr/bin/autoweave-udev-notify"));
    assert_eq!(
        config(&elsewhere, &[]).fallback.udev_script_path,
        Path::new("/usr/bin/autoweave-udev-notify")
    );
}

#[test]
fn the_page_is_up_to_date() {
    let expected = reference_markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(PAGE, &expected).unwrap();
    }
    let page = fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        page == expected,
        "docs/configuration.md is stale; run UPDATE_DOCS=1 cargo test -p autoweave-usbd"
    );
}
