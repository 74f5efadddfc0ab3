//! The daemon's configuration: defaults < file < environment < flags, checked as a whole.
//!
//! One table, [`keys::KEYS`], says which keys there are; everything else here reads it. Nothing is taken from
//! the process: the environment and the places to look come in through [`Sources`].

#[cfg(any(test, target_os = "linux"))]
mod commented;
mod environment;
mod error;
mod file;
mod keys;
mod kind;
mod model;
mod raw;
mod redis_url;
mod resources;
mod values;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

#[cfg(target_os = "linux")]
pub use commented::commented_toml;
pub use error::{ConfigError, Origin};
pub use file::read as read_file;
#[cfg(feature = "otel")]
pub use kind::is_http_url;
pub use kind::is_token;
pub use model::*;

use environment::{Environment, FILE_VARIABLE};
use error::Problem;
use keys::Applies;
use raw::Raw;
use values::Values;

use crate::places::System;

/// What to load a configuration from.
#[derive(Default)]
pub struct Sources {
    /// The file of `--config`; it must exist.
    pub file: Option<PathBuf>,
    /// The environment, as `std::env::vars_os` gives it. `AUTOWEAVE_USB_CONFIG` in it names a file that must
    /// exist, unless `file` is set.
    pub env: Vec<(OsString, OsString)>,
    /// Flags that set keys: the key's path, the value, the flag as the user wrote it (`--log-level`). A later
    /// one wins.
    pub flags: Vec<(&'static str, String, &'static str)>,
    /// Where to look for a file when none is named; the first that may be read is. See [`search_paths`].
    pub search_paths: Vec<SearchPath>,
}

/// Where a configuration file may be although nobody names one.
pub struct SearchPath {
    /// The file.
    pub path: PathBuf,
    /// Whether a file that may not be read (`EACCES`, `EPERM`) is an error; else it is passed over.
    pub must_be_readable: bool,
}

/// A checked configuration and where it comes from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// Files in the usual places that may not be read and were passed over, a sentence each: a warning.
    pub passed_over: Vec<String>,
    values: Values,
}

impl Loaded {
    /// Where the key at `path` (`performance.debounce_ms`) was set; `None`: it has its default.
    pub fn origin(&self, path: &str) -> Option<&Origin> {
        self.values.origins().get(path)
    }

    /// Whether the key at `path` was set anywhere, even to its default.
    pub fn is_set(&self, path: &str) -> bool {
        self.origin(path).is_some()
    }

    /// The keys that hold a secret which stands in the file itself.
    #[cfg(unix)]
    pub fn secrets_in_file(&self) -> Vec<&'static str> {
        let Config { redis, monitoring, .. } = &self.config;
        let password = redis.as_ref().and_then(|redis| redis.password.as_ref());
        let secrets = [("redis.password", password), ("monitoring.token", monitoring.token.as_ref())];
        let is_in_file = |path| matches!(self.origin(path), Some(Origin::File { .. }));
        secrets
            .into_iter()
            .filter(|(path, secret)| matches!(secret, Some(Password::Inline(_))) && is_in_file(path))
            .map(|(path, _)| path)
            .collect()
    }

    /// The keys of plugins that are set although there are none to be run, with where they are set: a warning each, or
    /// the user waits for an effect that does not come.
    pub fn without_effect(&self) -> impl Iterator<Item = (&'static str, &Origin)> {
        let unused = |path: &str| path.starts_with("plugins.") && self.config.plugins.is_none();
        self.values
            .origins()
            .iter()
            .filter(move |(path, _)| unused(path))
            .map(|(path, origin)| (*path, origin))
    }

    /// The keys that a daemon started with `self` does not apply when it loads `other`. Whether there is a Redis at
    /// all is decided at the start, too.
    pub fn needs_restart(&self, other: &Self) -> Vec<&'static str> {
        let is_redis_new = self.config.redis.is_some() != other.config.redis.is_some();
        let waits = |path: &&str| {
            let at_start = keys::find(path).is_some_and(|key| key.applies == Applies::AtStart);
            at_start || (is_redis_new && path.starts_with("redis."))
        };
        let differing = self.values.differing(&other.values).filter(waits);
        is_redis_new.then_some("redis").into_iter().chain(differing).collect()
    }
}

/// The usual places of the configuration file on this system, the machine's before the user's. A daemon has to be able
/// to read the machine's: by the defaults it would do something else than the administrator wants.
pub fn search_paths(env: &[(OsString, OsString)], is_daemon: bool) -> Vec<SearchPath> {
    let environment = Environment::new(env);
    let (machine, user) = System::HERE.configuration_files(|name| environment.absolute_path(name));
    let place = |path: Option<PathBuf>, must_be_readable| Some(SearchPath { path: path?, must_be_readable });
    [place(machine, is_daemon), place(user, false)].into_iter().flatten().collect()
}

/// Loads and checks a configuration.
///
/// # Errors
/// All that is wrong, up to 20 lines. Nothing in them is secret.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let environment = Environment::new(&sources.env);
    let mut values = Values::defaults();
    let mut errors = ConfigError::default();
    let (mut file, mut redis_section, mut passed_over) = (None, false, Vec::new());
    match find_file(sources, &environment, &mut passed_over) {
        Ok(Some((path, text))) => {
            redis_section = file::apply(&text, &path, &mut values, &mut errors);
            file = Some(path);
        }
        Ok(None) => {}
        Err(problem) => errors.add(|| problem),
    }
    environment.apply(&mut values, &mut errors);
    for (path, value, flag) in &sources.flags {
        errors.check(apply_flag(&mut values, path, value, flag));
    }
    match values.build(redis_section) {
        Ok(config) if errors.is_empty() => Ok(Loaded { config, file, passed_over, values }),
        built => {
            errors.check(built.map(|_| ()));
            Err(errors)
        }
    }
}

fn apply_flag(values: &mut Values, path: &str, value: &str, flag: &'static str) -> Result<(), Problem> {
    let origin = Origin::Flag(flag);
    let key = keys::find(path).ok_or_else(|| {
        let message = format!("unknown key; the nearest is `{}`", keys::nearest(path).path);
        Problem::of_key(&origin, path, message)
    })?;
    values.set(key, Raw::Text(value), &origin)
}

/// The configuration file and its text.
fn find_file(
    sources: &Sources,
    environment: &Environment<'_>,
    passed_over: &mut Vec<String>,
) -> Result<Option<(PathBuf, String)>, Problem> {
    let named = match (&sources.file, environment.file()) {
        (Some(path), _) => Some((path.as_path(), "--config".to_owned())),
        (None, Some(path)) => Some((path, format!("${FILE_VARIABLE}"))),
        (None, None) => None,
    };
    if let Some((path, by)) = named {
        let text = file::read(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Problem::of_file(path, format!("no such file; {by} names it")),
            _ => unreadable(path, &error),
        })?;
        return Ok(Some((path.to_owned(), text)));
    }
    for SearchPath { path, must_be_readable } in &sources.search_paths {
        match file::read(path) {
            Ok(text) => return Ok(Some((path.clone(), text))),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) if error.kind() == ErrorKind::PermissionDenied && !must_be_readable => {
                passed_over.push(format!("{}; passed over", unreadable(path, &error)));
            }
            Err(error) => return Err(unreadable(path, &error)),
        }
    }
    Ok(None)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    let mend = match error.kind() {
        ErrorKind::PermissionDenied => {
            "; have this user join its group, or name another with --config (/dev/null: the defaults)"
        }
        _ => "",
    };
    Problem::of_file(path, format!("cannot be read: {error}{mend}"))
}
