//! `cargo xtask package-test`: the packages on a Debian of their own and as a container.

use std::fs;
use std::path::{Path, PathBuf};

use super::deb_path;
use crate::step::{command, is_root, need_bare, release_binary, run as run_command, step, target_directory};
use crate::tools::{packages, text};

const MIRROR: &str = "http://deb.debian.org/debian";
const RELEASE: &str = "bookworm";

/// What the Debian that is booted has beside the least there can be.
const INCLUDED: &str = "--include=libusb-1.0-0,man-db,nodejs,procps,systemd,systemd-sysv,udev";

/// Written last into what is made once.
const MARK: &str = "installed";

/// All that the program needs of a system: what a distroless image has.
const BASE: [&str; 2] = ["libc6", "libgcc-s1"];

/// Makes what the tests take, and runs them.
///
/// # Errors
/// Something cannot be installed or built, or a test fails.
pub fn run() -> Result<(), String> {
    step("what the tests of packages need", needs)?;
    super::run()?;
    run_command(command(&["cargo", "build", "--release"]))?;
    let (root, base) = (root()?, base()?);
    let features = ["--features", "packages"];
    let mut tests = command(&["cargo", "test", "--package", "autoweave-usb-tests", "--test", "packages"]);
    // One machine at a time, and what they measure is to be seen.
    tests.args(features).args(["--", "--test-threads=1", "--nocapture"]);
    tests.env("AUTOWEAVE_PACKAGE", deb_path(env!("CARGO_PKG_VERSION"))?);
    tests.env("AUTOWEAVE_USBD", release_binary("autoweave-usbd")?);
    tests.env("AUTOWEAVE_ROOT", root).env("AUTOWEAVE_BASE", base);
    run_command(tests)
}

/// Installs what the tests take.
///
/// # Errors
/// It cannot be had here.
pub fn needs() -> Result<(), String> {
    if !is_root() {
        return Err("they boot a machine: run them as root".to_owned());
    }
    need_bare("debootstrap", "debootstrap")?;
    need_bare("systemd-nspawn", "systemd-container")?;
    need_bare("podman", "podman")?;
    need_bare("runc", "runc")
}

/// A Debian with systemd.
fn root() -> Result<PathBuf, String> {
    let root = target_directory()?.join("test-tools/debian");
    if is_made(&root, INCLUDED) {
        return Ok(root);
    }
    remove(&root)?;
    run_command(command(&["debootstrap", "--variant=minbase", INCLUDED, RELEASE, text(&root)?, MIRROR]))?;
    mark(&root, INCLUDED)?;
    Ok(root)
}

/// The root of a container's base image.
fn base() -> Result<PathBuf, String> {
    let base = target_directory()?.join("test-tools/container-base");
    let wanted = BASE.join(",");
    if is_made(&base, &wanted) {
        return Ok(base);
    }
    remove(&base)?;
    let debs = base.with_extension("packages");
    fs::create_dir_all(&debs).map_err(|error| format!("{}: {error}", debs.display()))?;
    let mut download = command(&[&["apt-get", "download"], &BASE[..]].concat());
    download.current_dir(&debs);
    run_command(download)?;
    for package in packages(&debs)? {
        run_command(command(&["dpkg-deb", "--extract", text(&package)?, text(&base)?]))?;
    }
    remove(&debs)?;
    remove(&base.join("usr/share"))?;
    mark(&base, &wanted)?;
    Ok(base)
}

fn remove(directory: &Path) -> Result<(), String> {
    match directory.exists().then(|| fs::remove_dir_all(directory)) {
        Some(Err(error)) => Err(format!("{}: {error}", directory.display())),
        Some(Ok(())) | None => Ok(()),
    }
}

/// Whether `directory` is complete, and was made of these packages.
fn is_made(directory: &Path, of: &str) -> bool {
    fs::read_to_string(directory.join(MARK)).is_ok_and(|made_of| made_of == of)
}

/// Says that `directory` is complete, and which packages it was made of.
fn mark(directory: &Path, of: &str) -> Result<(), String> {
    fs::write(directory.join(MARK), of).map_err(|error| format!("{}: {error}", directory.display()))
}
