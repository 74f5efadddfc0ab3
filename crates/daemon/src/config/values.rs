//! The layers laid over each other, and the [`Config`] that comes out.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use super::error::{Origin, Problem};
use super::keys::{KEYS, Key};
use super::kind::Value;
use super::model::{
    Chain, Config, DevicePlugin, Durability, Endpoint, Fallback, Filters, Journal, Log, LogFormat, LogLevel,
    Monitoring, Password, Performance, Plugins, Redis, Selector, Source,
};
use super::raw::Raw;
use super::redis_url::RedisUrl;

/// The value of every key, and where those that were set come from. Later sets win.
#[derive(Clone, Debug)]
pub struct Values {
    values: BTreeMap<&'static str, Value>,
    origins: BTreeMap<&'static str, Origin>,
}

impl Values {
    /// All defaults, nothing set.
    pub fn defaults() -> Self {
        let mut values = BTreeMap::new();
        for key in KEYS {
            let value = key.kind.parse(Raw::Text(key.default));
            let value = value.unwrap_or_else(|error| panic!("default of {}: {error}", key.path));
            values.extend(slots(key, value));
        }
        Self { values, origins: BTreeMap::new() }
    }

    /// Sets `key` to `raw`.
    ///
    /// # Errors
    /// A bad value, or one that the same file sets elsewhere by another key.
    pub fn set(&mut self, key: &'static Key, raw: Raw<'_>, origin: &Origin) -> Result<(), Problem> {
        let problem = |message: String| Problem::of_key(origin, key.path, message);
        let value = key.kind.parse(raw).map_err(problem)?;
        for (slot, value) in slots(key, value) {
            if let (Origin::File { .. }, Some(Origin::File { line, .. })) = (origin, self.origins.get(slot)) {
                let message = format!("line {line} sets `{slot}` too; keep one of the two");
                return Err(problem(message));
            }
            self.values.insert(slot, value);
            self.origins.insert(slot, origin.clone());
        }
        self.origins.insert(key.path, origin.clone());
        Ok(())
    }

    /// Where each key that was set was set.
    pub fn origins(&self) -> &BTreeMap<&'static str, Origin> {
        &self.origins
    }

    /// The keys whose values differ, by path.
    pub fn differing(&self, other: &Self) -> impl Iterator<Item = &'static str> {
        self.values
            .iter()
            .filter(|(path, value)| other.values.get(*path) != Some(value))
            .map(|(path, _)| *path)
    }

    /// The configuration these values make. `redis_section`: a file has an (even empty) `[redis]`.
    ///
    /// # Errors
    /// Values that contradict each other.
    pub fn build(&self, redis_section: bool) -> Result<Config, Problem> {
        let redis_set = redis_section || self.origins.keys().any(|path| path.starts_with("redis."));
        Ok(Config {
            host: self.non_empty("host"),
            log: Log { level: self.log_level(), format: self.log_format() },
            redis: if redis_set { Some(self.redis()?) } else { None },
            monitoring: Monitoring {
                http: self.bool("monitoring.enabled").then(|| {
                    SocketAddr::new(
                        self.address("monitoring.bind"),
                        self.narrow("monitoring.healthcheck_port"),
                    )
                }),
                hosts: self.names("monitoring.hosts"),
                token: self.password("monitoring.token"),
                interval: self.milliseconds("monitoring.interval"),
            },
            filters: Filters {
                vendor_whitelist: self.ids("filters.vendor_whitelist"),
                vendor_blacklist: self.ids("filters.vendor_blacklist"),
                device_class_filter: self.ids("filters.device_class_filter"),
            },
            source: Source {
                chain: self.chain("source.chain"),
                receive_buffer_bytes: self.narrow("source.receive_buffer_bytes"),
            },
            performance: Performance {
                max_events_per_second: NonZeroU32::new(self.narrow("performance.max_events_per_second")),
                debounce: self.milliseconds("performance.debounce_ms"),
                batch_size: self.narrow("performance.batch_size"),
                shutdown_timeout: self.milliseconds("performance.shutdown_timeout_ms"),
            },
            fallback: Fallback {
                enable_udev: self.bool("fallback.enable_udev"),
                udev_script_path: PathBuf::from(self.text("fallback.udev_script_path")),
            },
            journal: Journal { durability: self.durability(), max_events: self.narrow("journal.max_events") },
            plugins: self.non_empty("plugins.dir").map(|dir| Plugins {
                dir: PathBuf::from(dir),
                group: self.text("plugins.group").to_owned(),
                consumer: self.text("plugins.consumer").to_owned(),
                max_deliveries: self.narrow("plugins.max_deliveries"),
                require_signature: self.bool("plugins.require_signature"),
                without_landlock: self.names("plugins.without_landlock"),
            }),
            device_plugin: DevicePlugin {
                resources: self.resources("device_plugin.resources"),
                directory: PathBuf::from(self.text("device_plugin.directory")),
            },
            telemetry_endpoint: self.non_empty("telemetry.endpoint"),
        })
    }

    fn redis(&self) -> Result<Redis, Problem> {
        Ok(Redis {
            endpoint: self.endpoint()?,
            username: self.non_empty("redis.username"),
            password: self.password("redis.password"),
            db: self.narrow("redis.db"),
            stream: self.text("redis.stream").to_owned(),
            max_len: self.narrow("redis.max_len"),
        })
    }

    fn endpoint(&self) -> Result<Endpoint, Problem> {
        let (host, port) = (self.text("redis.host").to_owned(), self.narrow("redis.port"));
        let (tls, cluster) = (self.bool("redis.tls"), self.bool("redis.cluster"));
        let sentinels = self.sentinels("redis.sentinel");
        let is_socket = host.starts_with('/');
        let sentinels_alone = "the sentinels of `redis.sentinel` say where Redis is; keep one of the two";
        let contradictions = [
            (!sentinels.is_empty(), "redis.host", sentinels_alone),
            (!sentinels.is_empty(), "redis.port", sentinels_alone),
            (
                !sentinels.is_empty() && cluster,
                "redis.cluster",
                "a cluster has no sentinels; keep one of the two",
            ),
            (is_socket && cluster, "redis.cluster", "a Unix socket leads to no other node; name a host"),
            (is_socket && tls, "redis.tls", "a Unix socket has no TLS; set it to false or name a host"),
        ];
        for (_, path, message) in contradictions.into_iter().filter(|(is_there, ..)| *is_there) {
            // A default contradicts nothing.
            if let Some(origin) = self.origins.get(path) {
                return Err(Problem::of_key(origin, path, message));
            }
        }
        let master = self.text("redis.sentinel_master").to_owned();
        Ok(match (is_socket, sentinels.is_empty(), cluster) {
            (_, false, _) => Endpoint::Sentinel { sentinels, master, tls },
            (true, ..) => Endpoint::Unix(PathBuf::from(host)),
            (false, _, true) => Endpoint::Cluster { host, port, tls },
            (false, _, false) => Endpoint::Tcp { host, port, tls },
        })
    }

    fn log_level(&self) -> LogLevel {
        match self.text("log.level") {
            "error" => LogLevel::Error,
            "warn" => LogLevel::Warn,
            "info" => LogLevel::Info,
            "debug" => LogLevel::Debug,
            "trace" => LogLevel::Trace,
            other => unreachable!("{other} is none of the key's choices"),
        }
    }

    fn log_format(&self) -> LogFormat {
        match self.text("log.format") {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            other => unreachable!("{other} is none of the key's choices"),
        }
    }

    fn durability(&self) -> Durability {
        match self.text("journal.durability") {
            "power" => Durability::Power,
            "process" => Durability::Process,
            other => unreachable!("{other} is none of the key's choices"),
        }
    }

    // `build` reads every key with the accessor of its kind at every load, so a mismatch between it and the
    // table of keys cannot hide from the first test.

    fn bool(&self, path: &str) -> bool {
        match self.values[path] {
            Value::Bool(value) => value,
            _ => unreachable!("{path} is a boolean"),
        }
    }

    fn whole(&self, path: &str) -> u32 {
        match self.values[path] {
            Value::Whole(value) => value,
            _ => unreachable!("{path} is an integer"),
        }
    }

    fn narrow<T: TryFrom<u32>>(&self, path: &str) -> T {
        let value = T::try_from(self.whole(path)).ok();
        value.unwrap_or_else(|| unreachable!("the range of {path} fits its type"))
    }

    fn milliseconds(&self, path: &str) -> Duration {
        Duration::from_millis(u64::from(self.whole(path)))
    }

    fn text(&self, path: &str) -> &str {
        match &self.values[path] {
            Value::Text(value) => value,
            _ => unreachable!("{path} is text"),
        }
    }

    fn non_empty(&self, path: &str) -> Option<String> {
        Some(self.text(path)).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    fn address(&self, path: &str) -> IpAddr {
        match self.values[path] {
            Value::Address(value) => value,
            _ => unreachable!("{path} is an address"),
        }
    }

    fn ids<T: TryFrom<u32>>(&self, path: &str) -> Vec<T> {
        let Value::Ids(ids) = &self.values[path] else { unreachable!("{path} is a list of ids") };
        let narrow = |id: &u32| T::try_from(*id).ok();
        let narrow = ids.iter().map(narrow).collect::<Option<Vec<T>>>();
        narrow.unwrap_or_else(|| unreachable!("the range of {path} fits its type"))
    }

    fn names(&self, path: &str) -> Vec<String> {
        match &self.values[path] {
            Value::Names(value) => value.clone(),
            _ => unreachable!("{path} is a list of names"),
        }
    }

    fn sentinels(&self, path: &str) -> Vec<(String, u16)> {
        match &self.values[path] {
            Value::Sentinels(value) => value.clone(),
            _ => unreachable!("{path} is a list of sentinels"),
        }
    }

    fn chain(&self, path: &str) -> Chain {
        match &self.values[path] {
            Value::Chain(value) => value.clone(),
            _ => unreachable!("{path} is a chain"),
        }
    }

    fn resources(&self, path: &str) -> BTreeMap<String, Selector> {
        match &self.values[path] {
            Value::Resources(value) => value.clone(),
            _ => unreachable!("{path} is a table of resources"),
        }
    }

    fn password(&self, path: &str) -> Option<Password> {
        match &self.values[path] {
            Value::Password(value) => value.clone(),
            _ => unreachable!("{path} is a password"),
        }
    }
}

/// The slots that `value` fills: a secret and its file share one, and a URL fills those of the keys it
/// stands for.
fn slots(key: &'static Key, value: Value) -> Vec<(&'static str, Value)> {
    match (key.path, value) {
        (_, Value::Url(None)) => Vec::new(),
        (_, Value::Url(Some(url))) => url_slots(url),
        ("monitoring.token_file", value) => vec![("monitoring.token", value)],
        ("redis.password_file", value) => vec![("redis.password", value)],
        (path, value) => vec![(path, value)],
    }
}

fn url_slots(url: RedisUrl) -> Vec<(&'static str, Value)> {
    let mut slots = vec![
        ("redis.host", Value::Text(url.host)),
        ("redis.port", Value::Whole(u32::from(url.port))),
        ("redis.tls", Value::Bool(url.tls)),
    ];
    slots.extend(url.username.map(|username| ("redis.username", Value::Text(username))));
    let password = url.password.map(Password::Inline);
    slots.extend(password.map(|password| ("redis.password", Value::Password(Some(password)))));
    slots.extend(url.db.map(|db| ("redis.db", Value::Whole(db))));
    slots
}
