//! A package: a directory with a manifest and what its entry needs.
//!
//! A package is copied before it is run, and everything is checked on what was copied: the files may change
//! underneath at any time, and after a bad update the version before must still be there.
//!
//! # Digest
//!
//! `signature.value` is the SHA-256 of these bytes, each record following the one before without a separator:
//!
//! ```text
//! autoweave-plugin-1\n
//! for each file and symbolic link of the package, sorted by the bytes of its path:
//!   TYPE SP PATH_LENGTH SP CONTENT_LENGTH \n PATH CONTENT
//! ```
//!
//! TYPE is `f` for a file, `x` for a file that is executable by anyone, `l` for a link; PATH is relative to the
//! package, with `/`; lengths are in bytes, decimal; CONTENT is the file's bytes or the link's target. Directories
//! count by what is in them. In the manifest of the top directory the 64 digits of `signature.value` are taken as
//! 64 times `0`, which is how the digest can stand in what it is of. It tells a damaged or half-copied package
//! from a whole one. It is no proof of who made it: whoever changes a package can compute it anew.

mod walk;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::manifest::{self, Finding, Manifest, Runtime};

pub use walk::{BYTES_MAX, FILES_MAX, fingerprint};

/// A package that may be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// What it says of itself.
    pub manifest: Manifest,
    /// Where it is: absolute, without links.
    pub root: PathBuf,
    /// SHA-256 over it, 64 hexadecimal digits.
    pub digest: String,
}

/// Why a directory is no package that may be run. The text names the file and the mend.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the fields are named by the messages")]
pub enum PackageFault {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: there is none: write one, see docs/plugins.md", .0.display())]
    NoManifest(PathBuf),
    #[error("{}", list(file, findings))]
    Manifest { file: PathBuf, findings: Vec<Finding> },
    #[error("{}: the entry {problem}: {mend}", path.display())]
    Entry { path: PathBuf, problem: String, mend: &'static str },
    #[error("{}: {found} are more than a package may have ({FILES_MAX} files, {BYTES_MAX} bytes)", package.display())]
    TooLarge { package: PathBuf, found: String },
    #[error("{}: links out of the package, to {}: put a copy there", path.display(), target.display())]
    LinkOut { path: PathBuf, target: PathBuf },
    #[error("{}: neither file, directory nor link: take it out", .0.display())]
    OddFile(PathBuf),
    #[error("{}: others may write it, and so decide what runs: chmod o-w", .0.display())]
    WritableByOthers(PathBuf),
    #[error("{}: changed while it was read", .0.display())]
    Changed(PathBuf),
    #[error("{}: signature.value is {stated}, the package's digest is {actual}: the package is damaged or was changed after it was signed", file.display())]
    Signature { file: PathBuf, stated: String, actual: String },
    #[error("{}: no signature, and the configuration requires one: sign the package", .0.display())]
    Unsigned(PathBuf),
}

impl Package {
    /// Reads and checks the package in `directory`, where it is.
    ///
    /// # Errors
    /// What makes it unfit to run.
    pub fn check(directory: &Path, require_signature: bool) -> Result<Self, PackageFault> {
        let root = real(directory)?;
        let digest = digest(&root, None)?;
        Self::verified(root, digest, require_signature, &directory.join(manifest::FILE_NAME))
    }

    /// Copies the package in `directory` into a new directory below `store`, readable by all, and checks the
    /// copy. A package that is there already is not copied again.
    ///
    /// # Errors
    /// What makes it unfit to run; then nothing of it stays.
    pub fn stage(directory: &Path, store: &Path, require_signature: bool) -> Result<Self, PackageFault> {
        let failed = |source| PackageFault::Io { path: store.to_owned(), source };
        let (source, store) = (real(directory)?, real(store)?);
        let copy = store.join(format!(".copy-{}", std::process::id()));
        remove(&copy).map_err(failed)?;
        make_directory(&copy).map_err(failed)?;
        let staged = digest(&source, Some(&copy)).and_then(|digest| {
            let file = directory.join(manifest::FILE_NAME);
            let mut package = Self::verified(copy.clone(), digest, require_signature, &file)?;
            package.root = store.join(format!("{}-{}", package.manifest.name, &package.digest[..16]));
            Ok(package)
        });
        match &staged {
            Ok(package) if !package.root.exists() => fs::rename(&copy, &package.root).map_err(failed)?,
            _ => remove(&copy).map_err(failed)?,
        }
        staged
    }

    /// `file` is what messages call the manifest.
    fn verified(
        root: PathBuf,
        digest: String,
        require_signature: bool,
        file: &Path,
    ) -> Result<Self, PackageFault> {
        let text = read_manifest(&root, file)?;
        let manifest = Manifest::parse(&text)
            .map_err(|findings| PackageFault::Manifest { file: file.to_owned(), findings })?;
        check_entry(&root, &manifest, file)?;
        match &manifest.signature {
            Some(signature) if signature.value != digest => Err(PackageFault::Signature {
                file: file.to_owned(),
                stated: signature.value.clone(),
                actual: digest,
            }),
            None if require_signature => Err(PackageFault::Unsigned(file.to_owned())),
            _ => Ok(Self { manifest, root, digest }),
        }
    }
}

fn list(file: &Path, findings: &[Finding]) -> String {
    let lines: Vec<_> = findings.iter().map(|finding| format!("{}:{finding}", file.display())).collect();
    lines.join("\n")
}

fn real(directory: &Path) -> Result<PathBuf, PackageFault> {
    let failed = |source| PackageFault::Io { path: directory.to_owned(), source };
    let real = fs::canonicalize(directory).map_err(failed)?;
    if fs::metadata(&real).map_err(failed)?.mode() & 0o002 != 0 {
        return Err(PackageFault::WritableByOthers(real));
    }
    Ok(real)
}

fn read_manifest(root: &Path, file: &Path) -> Result<String, PackageFault> {
    let opened = match open(&root.join(manifest::FILE_NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(PackageFault::NoManifest(file.to_owned()));
        }
        opened => opened,
    };
    let failed = |source| PackageFault::Io { path: file.to_owned(), source };
    let mut text = String::new();
    let limit = manifest::SIZE_MAX as u64 + 1;
    opened.and_then(|opened| opened.take(limit).read_to_string(&mut text)).map_err(failed)?;
    Ok(text)
}

fn check_entry(root: &Path, manifest: &Manifest, file: &Path) -> Result<(), PackageFault> {
    let entry = root.join(&manifest.entry);
    let fault = |problem: &str, mend| PackageFault::Entry {
        path: file.with_file_name(&manifest.entry),
        problem: problem.to_owned(),
        mend,
    };
    let real =
        fs::canonicalize(&entry).map_err(|error| fault(&error.to_string(), "name a file of the package"))?;
    let metadata = fs::metadata(&real).map_err(|source| PackageFault::Io { path: entry, source })?;
    if !real.starts_with(root) {
        return Err(fault("is a link out of the package", "put the file itself there"));
    }
    if !metadata.is_file() {
        return Err(fault("is no file", "name a file of the package"));
    }
    if manifest.runtime() == Runtime::Executable && metadata.mode() & 0o111 == 0 {
        return Err(fault("is not executable", "chmod +x it, or let it end in .js, .mjs or .py"));
    }
    Ok(())
}

/// The digest of the package; with `copy`, what it was computed of is written there.
fn digest(package: &Path, copy: Option<&Path>) -> Result<String, PackageFault> {
    let mut hasher = Sha256::new();
    hasher.update(b"autoweave-plugin-1\n");
    for entry in walk::entries(package)? {
        let at = package.join(&entry.path);
        let failed = |source| PackageFault::Io { path: at.clone(), source };
        let (kind, content) = match &entry.kind {
            walk::Kind::File { executable } => {
                (if *executable { 'x' } else { 'f' }, read_file(&at).map_err(failed)?)
            }
            walk::Kind::Link { target } => ('l', target.as_os_str().as_bytes().to_vec()),
        };
        if content.len() as u64 > BYTES_MAX {
            return Err(PackageFault::Changed(at));
        }
        if let Some(copy) = copy {
            write_copy(&copy.join(&entry.path), &entry.kind, &content).map_err(failed)?;
        }
        let path = entry.path.as_os_str().as_bytes();
        hasher.update(format!("{kind} {} {}\n", path.len(), content.len()));
        hasher.update(path);
        hasher.update(if path == manifest::FILE_NAME.as_bytes() { blanked(content) } else { content });
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A manifest with zeros for the digits of its signature.
fn blanked(mut manifest: Vec<u8>) -> Vec<u8> {
    let parsed = std::str::from_utf8(&manifest).ok().and_then(|text| Manifest::parse(text).ok());
    if let Some(signature) = parsed.and_then(|parsed| parsed.signature) {
        manifest[signature.place].fill(b'0');
    }
    manifest
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open(path)?.take(BYTES_MAX + 1).read_to_end(&mut content)?;
    Ok(content)
}

/// Neither follows a link nor waits for a pipe's other end, should one have taken the file's place.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

fn write_copy(path: &Path, kind: &walk::Kind, content: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    match kind {
        walk::Kind::Link { target } => symlink(target, path),
        walk::Kind::File { executable } => {
            let mut file = File::create_new(path)?;
            file.write_all(content)?;
            let mode = if *executable { 0o755 } else { 0o644 };
            file.set_permissions(fs::Permissions::from_mode(mode))
        }
    }
}

/// With all above it; open to all whatever the umask, because plugins run as another user.
fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
