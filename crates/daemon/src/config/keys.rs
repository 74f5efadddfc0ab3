//! The table of keys: the one truth about names, ranges, defaults and meanings.
//!
//! The file, the environment, the flags, the suggestions and the reference page all come from it.

use super::kind::Kind;
use super::redis_url::REDIS_DB_MAX;

/// When a changed value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applies {
    /// When the configuration is loaded again (SIGHUP).
    AtReload,
    /// When the daemon starts.
    AtStart,
}

/// One key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// `section.key`, or just the key at the top level.
    pub path: &'static str,
    /// Type and range.
    pub kind: Kind,
    /// The default as one would write it in the environment; empty: unset, or an empty list.
    pub default: &'static str,
    /// When a change of it does something.
    pub applies: Applies,
    /// What the key means, one paragraph.
    #[cfg_attr(
        not(any(test, target_os = "linux")),
        expect(dead_code, reason = "for the reference page, which a test writes, and for `install`")
    )]
    pub doc: &'static str,
}

impl Key {
    /// The section the key is in; `None` at the top level.
    pub fn section(&self) -> Option<&'static str> {
        self.path.split_once('.').map(|(section, _)| section)
    }

    /// The key without its section.
    pub fn name(&self) -> &'static str {
        self.path.rsplit_once('.').map_or(self.path, |(_, name)| name)
    }

    /// The environment variable that sets the key.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.path.to_ascii_uppercase().replace('.', "__"))
    }
}

/// What the name of an environment variable begins with when it sets a key.
pub const VARIABLE_PREFIX: &str = "AUTOWEAVE_USB__";

/// The key at `path`.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether `name` is a section.
pub fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.section() == Some(name))
}

/// The key whose path is most like `path`; a right name in a wrong section counts for much.
pub fn nearest(path: &str) -> &'static Key {
    let wanted = path.rsplit_once('.').map_or(path, |(_, name)| name);
    let likeness = |key: &Key| {
        let whole = strsim::normalized_damerau_levenshtein(path, key.path);
        let name = strsim::normalized_damerau_levenshtein(wanted, key.name());
        whole.max(0.9 * name)
    };
    // Reversed, since `max_by` gives the last of equals.
    let best = KEYS.iter().rev().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    best.expect("the table has keys")
}

/// The section whose name is most like `name`.
pub fn nearest_section(name: &str) -> &'static str {
    let likeness = |section: &str| strsim::normalized_damerau_levenshtein(name, section);
    let best = KEYS.iter().rev().filter_map(Key::section).max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    best.expect("the table has sections")
}

const PORT_MAX: u32 = 65_535;

/// Every key, in the order of the reference page.
///
/// Within the environment a later key wins where two set the same thing: `redis.url` stays after the keys
/// it stands for.
pub const KEYS: &[Key] = &[
    Key {
        path: "host",
        kind: Kind::Text,
        default: "",
        applies: Applies::AtStart,
        doc: "Name of this machine in every event. Empty: the system's host name.",
    },
    Key {
        path: "log.level",
        kind: Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        default: "info",
        applies: Applies::AtReload,
        doc: "The least severe level that is logged.",
    },
    Key {
        path: "log.format",
        kind: Kind::Choice(&["text", "json"]),
        default: "text",
        applies: Applies::AtStart,
        doc: "`text` for people, `json` for one object a line. Logs go to standard error.",
    },
    Key {
        path: "redis.host",
        kind: Kind::Host,
        default: "localhost",
        applies: Applies::AtReload,
        doc: "Where Redis is. A value that begins with `/` is a Unix socket; `port` then has no \
              meaning.",
    },
    Key {
        path: "redis.port",
        kind: Kind::Whole { min: 1, max: PORT_MAX, unit: "" },
        default: "6379",
        applies: Applies::AtReload,
        doc: "TCP port of Redis.",
    },
    Key {
        path: "redis.db",
        kind: Kind::Whole { min: 0, max: REDIS_DB_MAX, unit: "" },
        default: "0",
        applies: Applies::AtReload,
        doc: "Number of the database.",
    },
    Key {
        path: "redis.username",
        kind: Kind::Text,
        default: "",
        applies: Applies::AtReload,
        doc: "ACL user. Empty: Redis' `default` user.",
    },
    Key {
        path: "redis.password",
        kind: Kind::Secret,
        default: "",
        applies: Applies::AtReload,
        doc: "Password. Better in `password_file`: a file or a variable is read by more people than \
              meant.",
    },
    Key {
        path: "redis.password_file",
        kind: Kind::SecretFile,
        default: "",
        applies: Applies::AtReload,
        doc: "File that holds the password, instead of `password`.",
    },
    Key {
        path: "redis.tls",
        kind: Kind::Bool,
        default: "false",
        applies: Applies::AtReload,
        doc: "Whether to speak TLS. Not for a Unix socket.",
    },
    Key {
        path: "redis.url",
        kind: Kind::Url,
        default: "",
        applies: Applies::AtReload,
        doc: "All of the above in one: `redis://USER:PASSWORD@HOST:PORT/DB`, `rediss://…` for TLS, or \
              `unix:///PATH?db=DB&user=USER&pass=PASSWORD`. It sets `host`, `port` (6379 if not given) \
              and `tls`, and `username`, `password` and `db` if it names them. Percent-encode special \
              characters.",
    },
    Key {
        path: "redis.sentinel",
        kind: Kind::Sentinels,
        default: "",
        applies: Applies::AtReload,
        doc: "Sentinels that know which server is the master, instead of `host`, `port` and `url`; the port is 26379 if \
              not given, and an IPv6 address has brackets. Asked in this order at every connect. Empty: none, \
              see [the guide](operations.md#sentinel-and-cluster).",
    },
    Key {
        path: "redis.sentinel_master",
        kind: Kind::Name,
        default: "mymaster",
        applies: Applies::AtReload,
        doc: "What the sentinels call the master.",
    },
    Key {
        path: "redis.cluster",
        kind: Kind::Bool,
        default: "false",
        applies: Applies::AtReload,
        doc: "Whether `host` and `port` are a node of a Redis cluster, any of them, to be asked which one serves the \
              stream.",
    },
    Key {
        path: "redis.stream",
        kind: Kind::Name,
        default: "aw:hotplug",
        applies: Applies::AtReload,
        doc: "Key of the stream.",
    },
    Key {
        path: "redis.max_len",
        kind: Kind::Whole { min: 1, max: 1_000_000_000, unit: "entries" },
        default: "100000",
        applies: Applies::AtReload,
        doc: "Length the stream is trimmed to. Trims nothing that a group has not acknowledged, up to \
              a hard cap of 10 × `max_len`, with an alarm.",
    },
    Key {
        path: "monitoring.enabled",
        kind: Kind::Bool,
        default: "true",
        applies: Applies::AtStart,
        doc: "Whether HTTP is served at all.",
    },
    Key {
        path: "monitoring.interval",
        kind: Kind::Whole { min: 100, max: 3_600_000, unit: "ms" },
        default: "5000",
        applies: Applies::AtStart,
        doc: "Period of the slow reconcile with the bus, of the stream check and of the poll source.",
    },
    Key {
        path: "monitoring.healthcheck_port",
        kind: Kind::Whole { min: 0, max: PORT_MAX, unit: "" },
        default: "8080",
        applies: Applies::AtStart,
        doc: "TCP port of HTTP. 0: the system picks a free one.",
    },
    Key {
        path: "monitoring.bind",
        kind: Kind::Address,
        default: "127.0.0.1",
        applies: Applies::AtStart,
        doc: "Address HTTP listens on. `0.0.0.0` or `::` for all.",
    },
    Key {
        path: "monitoring.hosts",
        kind: Kind::HostNames,
        default: "",
        applies: Applies::AtStart,
        doc: "Further names HTTP may be asked by, beside IP addresses, `localhost` and the machine's own: those that \
              a proxy or a Kubernetes service has. Any other is answered with 403, so that no page in a browser reads \
              along by DNS rebinding.",
    },
    Key {
        path: "monitoring.token",
        kind: Kind::Token,
        default: "",
        applies: Applies::AtStart,
        doc: "What those who ask for devices and events have to show as `Authorization: Bearer TOKEN`; the dashboard \
              page asks for it. `/health`, `/ready` and `/metrics` stay open to probes and Prometheus. Empty: nothing \
              has to be shown.",
    },
    Key {
        path: "monitoring.token_file",
        kind: Kind::SecretFile,
        default: "",
        applies: Applies::AtStart,
        doc: "File that holds the token, instead of `token`. It is read at the start.",
    },
    Key {
        path: "filters.vendor_whitelist",
        kind: Kind::Ids { max: 0xffff },
        default: "",
        applies: Applies::AtReload,
        doc: "Only devices of these vendors become events. Empty: all do.",
    },
    Key {
        path: "filters.vendor_blacklist",
        kind: Kind::Ids { max: 0xffff },
        default: "",
        applies: Applies::AtReload,
        doc: "Devices of these vendors never become events.",
    },
    Key {
        path: "filters.device_class_filter",
        kind: Kind::Ids { max: 0xff },
        default: "",
        applies: Applies::AtReload,
        doc: "Only devices of these USB classes become events; the class of the device or of any of \
              its interfaces counts. Empty: all do.",
    },
    Key {
        path: "source.chain",
        kind: Kind::Chain,
        default: "auto",
        applies: Applies::AtStart,
        doc: "Where observations come from: the first source that works; the next takes over when it fails, until it \
              works again. `auto` is `uevent`, `libusb`, `udev`, `poll` on Linux, `nusb`, `libusb`, `poll` on macOS, \
              `nusb`, `poll` on Windows. A single source is opened anew when it fails; if that does not help, the \
              daemon ends.",
    },
    Key {
        path: "source.receive_buffer_bytes",
        kind: Kind::Whole { min: 4096, max: 1_073_741_824, unit: "bytes" },
        default: "134217728",
        applies: Applies::AtStart,
        doc: "Receive buffer of the kernel's event socket. The kernel may grant less; the daemon says \
              so when it starts.",
    },
    Key {
        path: "performance.max_events_per_second",
        kind: Kind::Whole { min: 0, max: 1_000_000, unit: "events per second" },
        default: "100",
        applies: Applies::AtReload,
        doc: "Shapes, never drops: the excess waits in the journal. One second's worth may burst. 0: \
              no limit.",
    },
    Key {
        path: "performance.debounce_ms",
        kind: Kind::Whole { min: 0, max: 60_000, unit: "ms" },
        default: "50",
        applies: Applies::AtReload,
        doc: "A window per port, from its first edge, which goes out at once. Further edges in the \
              window are coalesced into the net state. 0: every edge goes out.",
    },
    Key {
        path: "performance.batch_size",
        kind: Kind::Whole { min: 1, max: 10_000, unit: "events" },
        default: "10",
        applies: Applies::AtReload,
        doc: "Events published in one go.",
    },
    Key {
        path: "performance.shutdown_timeout_ms",
        kind: Kind::Whole { min: 0, max: 600_000, unit: "ms" },
        default: "5000",
        applies: Applies::AtReload,
        doc: "How long a stopping daemon goes on publishing. What is left stays in the journal.",
    },
    Key {
        path: "fallback.enable_udev",
        kind: Kind::Bool,
        default: "true",
        applies: Applies::AtStart,
        doc: "Whether the socket and the spool of the udev helper are served; the source `udev` needs them.",
    },
    Key {
        path: "fallback.udev_script_path",
        kind: Kind::Path,
        default: "/usr/local/bin/autoweave-udev-notify",
        applies: Applies::AtStart,
        doc: "Where the udev helper is: where the rules point, and `check` looks.",
    },
    Key {
        path: "journal.durability",
        kind: Kind::Choice(&["power", "process"]),
        default: "power",
        applies: Applies::AtStart,
        doc: "`power`: an event is synced to disk before it is published, and survives a power cut. \
              `process`: it survives a crash of the daemon, not of the machine.",
    },
    Key {
        path: "journal.max_events",
        kind: Kind::Whole { min: 1, max: 1_000_000_000, unit: "events" },
        default: "1000000",
        applies: Applies::AtReload,
        doc: "Bound of the journal: how many events are kept. The oldest go when Redis, if there is one, has \
              them. When it lacks this many, a port's further edges are joined into their net effect until it \
              catches up.",
    },
    Key {
        path: "plugins.dir",
        kind: Kind::Path,
        default: "",
        applies: Applies::AtStart,
        doc: "Directory of plugin packages, see [the guide](plugins.md). Empty: no plugins. Linux only.",
    },
    Key {
        path: "plugins.group",
        kind: Kind::Name,
        default: "plugin-loader",
        applies: Applies::AtStart,
        doc: "Consumer group that the plugins read as.",
    },
    Key {
        path: "plugins.consumer",
        kind: Kind::Name,
        default: "main",
        applies: Applies::AtStart,
        doc: "Name within the group; `-PRODUCER` is appended. Only with `--role plugins`.",
    },
    Key {
        path: "plugins.max_deliveries",
        kind: Kind::Whole { min: 1, max: 1000, unit: "deliveries" },
        default: "5",
        applies: Applies::AtStart,
        doc: "Attempts at an event before it is parked among the dead letters.",
    },
    Key {
        path: "plugins.require_signature",
        kind: Kind::Bool,
        default: "false",
        applies: Applies::AtStart,
        doc: "Whether a package without a signature is refused.",
    },
    Key {
        path: "plugins.without_landlock",
        kind: Kind::Names,
        default: "",
        applies: Applies::AtStart,
        doc: "Plugins, by name, that may run on a kernel without Landlock: there they read and write what their user may.",
    },
    Key {
        path: "device_plugin.resources",
        kind: Kind::Resources,
        default: "",
        applies: Applies::AtStart,
        doc: "The resources that `autoweave-usbd device-plugin` offers, by name (`autoweave.dev/usb-camera`), and which \
              devices each is made of: those that are all that is named of `vendor`, `product`, `class` (of the \
              device or of any of its interfaces) and `serial`. In the environment: lines of TOML.",
    },
    Key {
        path: "device_plugin.directory",
        kind: Kind::Path,
        default: "/var/lib/kubelet/device-plugins",
        applies: Applies::AtStart,
        doc: "The directory that the kubelet shares with device plugins: where its `kubelet.sock` is.",
    },
    Key {
        path: "telemetry.endpoint",
        kind: Kind::Http,
        default: "",
        applies: Applies::AtStart,
        doc: "Where an OpenTelemetry collector takes OTLP over HTTP, such as `http://localhost:4318`: traces, metrics and \
              logs go to `/v1/traces`, `/v1/metrics` and `/v1/logs` below it, see [the \
              guide](operations.md#opentelemetry). Empty: nothing is exported.",
    },
];
