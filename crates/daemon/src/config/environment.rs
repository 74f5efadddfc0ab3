//! Reads environment variables into the layers.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Origin, Problem};
use super::keys::{self, KEYS, Key, VARIABLE_PREFIX};
use super::raw::{Raw, shown};
use super::values::Values;

/// Names the configuration file.
pub const FILE_VARIABLE: &str = "AUTOWEAVE_USB_CONFIG";

/// Variables with a name of their own and the keys they set; a later one wins. Set but empty is not set.
pub const NAMED: &[(&str, &str)] = &[
    ("LOG_LEVEL", "log.level"),
    ("REDIS_HOST", "redis.host"),
    ("REDIS_PORT", "redis.port"),
    ("REDIS_DB", "redis.db"),
    ("REDIS_PASSWORD", "redis.password"),
    ("AUTOWEAVE_REDIS_HOST", "redis.host"),
    ("AUTOWEAVE_REDIS_PORT", "redis.port"),
    ("REDIS_URL", "redis.url"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.endpoint"),
];

/// The variables that a process was given.
pub struct Environment<'a> {
    variables: BTreeMap<&'a OsStr, &'a OsStr>,
}

impl<'a> Environment<'a> {
    /// Wraps `variables`; of two with the same name the later counts.
    pub fn new(variables: &'a [(OsString, OsString)]) -> Self {
        let variables = variables.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str())).collect();
        Self { variables }
    }

    /// The configuration file that the environment names.
    pub fn file(&self) -> Option<&'a Path> {
        self.non_empty(FILE_VARIABLE).map(Path::new)
    }

    /// A path; one that is not absolute counts as unset (XDG Base Directory Specification 0.8).
    pub fn absolute_path(&self, name: &str) -> Option<PathBuf> {
        self.non_empty(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// Sets what the environment sets, weakest first.
    pub fn apply(&self, values: &mut Values, errors: &mut ConfigError) {
        for &(name, path) in NAMED {
            let key = keys::find(path).expect("NAMED names keys of the table");
            if let Some(value) = self.non_empty(name) {
                errors.check(set(values, key, name, value));
            }
        }
        for key in KEYS {
            let name = key.variable();
            if let Some(value) = self.variables.get(OsStr::new(&name)) {
                errors.check(set(values, key, &name, value));
            }
        }
        for name in self.variables.keys() {
            errors.check(known(name));
        }
    }

    fn non_empty(&self, name: &str) -> Option<&'a OsStr> {
        self.variables.get(OsStr::new(name)).copied().filter(|value| !value.is_empty())
    }
}

fn set(values: &mut Values, key: &'static Key, name: &str, value: &OsStr) -> Result<(), Problem> {
    let origin = Origin::Environment(name.to_owned());
    let problem = |message| Problem::of_key(&origin, key.path, message);
    let value = value.to_str().ok_or_else(|| problem("the value is not UTF-8"))?;
    if key.path == "redis.port" && value.starts_with("tcp://") {
        return Err(problem(
            "this is a Kubernetes service link, not a port; set `enableServiceLinks: false` in the pod's \
             spec, or the variable to the port alone, such as 6379",
        ));
    }
    values.set(key, Raw::Text(value), &origin)
}

/// Refuses a variable that is named as if it set a key, but names none.
fn known(name: &OsStr) -> Result<(), Problem> {
    let name = name.to_string_lossy();
    let Some(path) = name.strip_prefix(VARIABLE_PREFIX) else { return Ok(()) };
    if KEYS.iter().any(|key| key.variable() == name) {
        return Ok(());
    }
    let nearest = keys::nearest(&shown(&path.to_ascii_lowercase().replace("__", ".")));
    let message = format!("unknown key; the nearest is `{}`", nearest.variable());
    Err(Problem::of_variable(&shown(&name), message))
}
