//! `autoweave.plugin.json`: what a package says of itself.
//!
//! The format is published as a JSON Schema (draft-07) for editors and tools. The loader reads by its own code,
//! because a schema's validator can say neither the line nor the mend; a test holds the two together.

mod json;
mod permissions;
mod read;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use semver::Version;

pub use permissions::{FileGrant, Permissions, UsbPermission};

/// The file's name, in the top directory of a package.
pub const FILE_NAME: &str = "autoweave.plugin.json";

/// The largest manifest that is read, in bytes.
pub const SIZE_MAX: usize = 64 * 1024;

/// The JSON Schema of the manifest.
pub const SCHEMA: &str = include_str!("../../schema/autoweave.plugin.schema.json");

/// A manifest in which everything is as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Kebab-case, 3 to 50 characters.
    pub name: String,
    /// Its own version.
    pub version: Version,
    /// What is run, relative to the package; without `..`.
    pub entry: PathBuf,
    /// For people.
    pub description: Option<String>,
    /// For people.
    pub author: Option<String>,
    /// Names and versions, for people and tools.
    pub dependencies: Vec<(String, String)>,
    /// What it says its package's digest is.
    pub signature: Option<Signature>,
    /// What it may do.
    pub permissions: Permissions,
    /// What it wants to hear.
    pub hooks: Hooks,
}

/// The digest a manifest carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// 64 hexadecimal digits, in lower case.
    pub value: String,
    /// Where the digits stand in the manifest, in bytes.
    pub place: Range<usize>,
}

/// For each hook the name of the function behind it, if the plugin has one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Called once in each worker, before it is ready.
    pub on_load: Option<String>,
    /// Called once in each worker, before it ends.
    pub on_unload: Option<String>,
    /// A device that matches was plugged in.
    pub on_usb_attach: Option<String>,
    /// A device that matches was unplugged.
    pub on_usb_detach: Option<String>,
}

/// What an entry is run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// `.js` and `.mjs`, through a shim that calls the functions named in `hooks`.
    Node,
    /// `.py`, likewise.
    Python,
    /// Anything else: executed, and speaks the protocol itself.
    Executable,
}

/// One thing that is wrong in a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// From 1.
    pub line: usize,
    /// Such as `permissions.memory.max_heap_mb`; empty for the manifest as a whole.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to write.
    pub mend: String,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// Everything that is wrong in it, in the order of the text; at most one finding where it is no JSON.
    pub fn parse(text: &str) -> Result<Self, Vec<Finding>> {
        read::manifest(text)
    }

    /// What the entry is run with.
    pub fn runtime(&self) -> Runtime {
        Runtime::of(&self.entry.to_string_lossy())
    }
}

impl Runtime {
    fn of(entry: &str) -> Self {
        match entry.rsplit_once('.') {
            Some((_, "js" | "mjs")) => Self::Node,
            Some((_, "py")) => Self::Python,
            _ => Self::Executable,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, key, problem, mend } = self;
        match key.as_str() {
            "" => write!(f, "{line}: {problem}: {mend}"),
            key => write!(f, "{line}: {key}: {problem}: {mend}"),
        }
    }
}
