//! The Debian package: what `autoweave-usbd install --package` lays out, and what `packaging/debian` says of it.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::deb_path;
use crate::step::{command, run};
use crate::tools::text;

/// Scripts that dpkg runs.
const SCRIPTS: [&str; 4] = ["preinst", "postinst", "prerm", "postrm"];

/// Files that are their administrator's.
const CONFIGURATION: &str = "/etc/autoweave/usbd.toml";

/// Builds the package of `version`, which needs this `glibc`, and says where it is.
///
/// # Errors
/// A file cannot be read or written, or a program fails.
pub fn build(program: &Path, version: &str, glibc: (u32, u32)) -> Result<PathBuf, String> {
    let package = deb_path(version)?;
    let stage = package.with_extension("stage");
    if stage.exists() {
        fs::remove_dir_all(&stage).map_err(|error| format!("{}: {error}", stage.display()))?;
    }
    fs::create_dir_all(&stage).map_err(|error| format!("{}: {error}", stage.display()))?;
    run(command(&[text(program)?, "install", "--package", text(&stage)?]))?;
    document(&stage).map_err(|error| format!("{}: {error}", stage.display()))?;
    run(command(&["gzip", "--best", "--no-name", "--recursive", text(&stage.join("usr/share/man/man1"))?]))?;
    control(&stage, version, glibc).map_err(|error| format!("{}: {error}", stage.display()))?;
    open_to_all(&stage).map_err(|error| format!("{}: {error}", stage.display()))?;
    // xz: dpkg of Debian 11 and Ubuntu 20.04 reads nothing newer.
    run(command(&["dpkg-deb", "--root-owner-group", "-Zxz", "--build", text(&stage)?, text(&package)?]))?;
    fs::remove_dir_all(&stage).map_err(|error| format!("{}: {error}", stage.display()))?;
    Ok(package)
}

/// What dpkg calls this machine's architecture.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn document(stage: &Path) -> io::Result<()> {
    let directory = stage.join("usr/share/doc/autoweave-usb");
    for file in ["README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE-MIT", "packaging/debian/copyright"] {
        let from = Path::new(file);
        fs::copy(from, directory.join(from.file_name().unwrap_or_default()))?;
    }
    for entry in fs::read_dir("docs")? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), directory.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn control(stage: &Path, version: &str, (major, minor): (u32, u32)) -> io::Result<()> {
    let directory = stage.join("DEBIAN");
    let kibibytes = bytes(stage)?.div_ceil(1024);
    fs::create_dir(&directory)?;
    let control = fs::read_to_string("packaging/debian/control")?
        .replace("@VERSION@", version)
        .replace("@ARCHITECTURE@", architecture())
        .replace("@KIBIBYTES@", &kibibytes.to_string())
        .replace("@GLIBC@", &format!("{major}.{minor}"));
    fs::write(directory.join("control"), control)?;
    fs::write(directory.join("conffiles"), format!("{CONFIGURATION}\n"))?;
    for script in SCRIPTS {
        let to = directory.join(script);
        fs::copy(Path::new("packaging/debian").join(script), &to)?;
        fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Lets others than root read what is copied here with the modes of a checkout, or of a strict umask.
fn open_to_all(path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    // What may hold secrets is for the daemon's group, see `postinst`.
    if metadata.is_symlink() || path.ends_with(CONFIGURATION.trim_start_matches('/')) {
        return Ok(());
    }
    let is_executable = metadata.is_dir() || metadata.permissions().mode() & 0o100 != 0;
    fs::set_permissions(path, fs::Permissions::from_mode(if is_executable { 0o755 } else { 0o644 }))?;
    if !metadata.is_dir() {
        return Ok(());
    }
    fs::read_dir(path)?.try_for_each(|entry| open_to_all(&entry?.path()))
}

/// What all files below `directory` have.
fn bytes(directory: &Path) -> io::Result<u64> {
    fs::read_dir(directory)?.try_fold(0, |sum, entry| {
        let entry = entry?;
        let metadata = entry.metadata()?;
        Ok(sum + if metadata.is_dir() { bytes(&entry.path())? } else { metadata.len() })
    })
}
