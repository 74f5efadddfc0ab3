//! What is wrong with a configuration, where, and how to mend it.

use std::fmt;
use std::path::{Path, PathBuf};

/// Problems shown in one error; the rest are only counted.
const PROBLEMS_MAX: usize = 20;

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of a configuration file, from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line of the key.
        line: usize,
    },
    /// The environment variable of this name.
    Environment(String),
    /// The command-line flag of this name.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One thing that is wrong: `PLACE: `KEY`: MESSAGE`. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    place: String,
    key: Option<String>,
    message: String,
}

impl Problem {
    /// A problem with the key `key` as set at `origin`.
    pub fn of_key(origin: &Origin, key: &str, message: impl Into<String>) -> Self {
        Self { place: origin.to_string(), key: Some(key.to_owned()), message: message.into() }
    }

    /// A problem with a whole environment variable.
    pub fn of_variable(name: &str, message: impl Into<String>) -> Self {
        Self { place: name.to_owned(), key: None, message: message.into() }
    }

    /// A problem with a whole file.
    pub fn of_file(path: &Path, message: impl Into<String>) -> Self {
        Self { place: path.display().to_string(), key: None, message: message.into() }
    }

    /// A problem at a line and column (from 1, in characters) of a file.
    pub fn at(path: &Path, line: usize, column: usize, message: impl Into<String>) -> Self {
        let place = format!("{}:{line}:{column}", path.display());
        Self { place, key: None, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{}: `{key}`: {}", self.place, self.message),
            None => write!(f, "{}: {}", self.place, self.message),
        }
    }
}

/// Everything that is wrong with a configuration, one line each. The daemon exits with 64.
#[derive(Debug, Default)]
pub struct ConfigError {
    problems: Vec<Problem>,
    omitted: usize,
}

impl ConfigError {
    /// Keeps the first 20 problems and counts the others without making them: a file may have 100,000.
    pub fn add(&mut self, problem: impl FnOnce() -> Problem) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem());
        } else {
            self.omitted += 1;
        }
    }

    /// Keeps the problem of `result`, if it has one.
    pub fn check(&mut self, result: Result<(), Problem>) {
        if let Err(problem) = result {
            self.add(|| problem);
        }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        match self.omitted {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for ConfigError {}
