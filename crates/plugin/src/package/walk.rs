//! What lies in a package's directory. Nothing is opened here, and no link followed.

use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::PackageFault;

/// The most files and links in a package.
pub const FILES_MAX: usize = 10_000;

/// The most bytes in all files of a package together.
pub const BYTES_MAX: u64 = 64 * 1024 * 1024;

const DEPTH_MAX: usize = 32;

/// A file or link of a package.
pub(super) struct Entry {
    /// Relative to the package.
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    metadata: Metadata,
}

pub(super) enum Kind {
    File {
        executable: bool,
    },
    /// Points into the package.
    Link {
        target: PathBuf,
    },
}

/// Everything in the package, sorted by the bytes of its path.
pub(super) fn entries(package: &Path) -> Result<Vec<Entry>, PackageFault> {
    let mut entries = Vec::new();
    collect(package, Path::new(""), 0, &mut entries)?;
    entries.sort_by(|a, b| a.path.as_os_str().as_bytes().cmp(b.path.as_os_str().as_bytes()));
    let bytes: u64 = entries.iter().map(|entry| entry.metadata.len()).sum();
    if bytes > BYTES_MAX {
        return Err(PackageFault::TooLarge { package: package.to_owned(), found: format!("{bytes} bytes") });
    }
    Ok(entries)
}

/// A number that changes when anything in the package does, without reading the files.
///
/// # Errors
/// A directory that cannot be read, or a package beyond the limits.
pub fn fingerprint(package: &Path) -> Result<u64, PackageFault> {
    let mut hasher = DefaultHasher::new();
    for entry in entries(package)? {
        let of =
            |m: &Metadata| (m.dev(), m.ino(), m.mode(), m.len(), m.mtime(), m.mtime_nsec(), m.ctime_nsec());
        (entry.path, of(&entry.metadata)).hash(&mut hasher);
    }
    Ok(hasher.finish())
}

fn collect(
    package: &Path,
    directory: &Path,
    depth: usize,
    into: &mut Vec<Entry>,
) -> Result<(), PackageFault> {
    let at = package.join(directory);
    let failed = |source| PackageFault::Io { path: at.clone(), source };
    let too_large =
        |found: &str| PackageFault::TooLarge { package: package.to_owned(), found: found.to_owned() };
    if depth > DEPTH_MAX {
        return Err(too_large("directories within each other"));
    }
    for entry in fs::read_dir(&at).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = directory.join(entry.file_name());
        let metadata = entry.metadata().map_err(failed)?;
        let kind = metadata.file_type();
        if !kind.is_symlink() && metadata.mode() & 0o002 != 0 {
            return Err(PackageFault::WritableByOthers(entry.path()));
        }
        if kind.is_dir() {
            collect(package, &path, depth + 1, into)?;
            continue;
        }
        if into.len() >= FILES_MAX {
            return Err(too_large("files"));
        }
        let kind = if kind.is_file() {
            Kind::File { executable: metadata.mode() & 0o111 != 0 }
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path()).map_err(failed)?;
            if !stays_inside(directory, &target) {
                return Err(PackageFault::LinkOut { path: entry.path(), target });
            }
            Kind::Link { target }
        } else {
            return Err(PackageFault::OddFile(entry.path()));
        };
        into.push(Entry { path, kind, metadata });
    }
    Ok(())
}

/// Judged by the names alone. A chain of links can still lead out; the entry is checked with links followed, and
/// what a plugin opens itself is the sandbox's to refuse.
fn stays_inside(directory: &Path, target: &Path) -> bool {
    let mut depth = directory.components().count();
    for component in target.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}
