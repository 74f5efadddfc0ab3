//! `cargo xtask package-test`: the packages on a Debian of their own and as a container.

use std::path::{Path, PathBuf};
use std::{env, fs};

use super::deb_path;
use crate::step::{
    command, is_root, need_bare, release_binary, run as run_command, said, step, target_directory,
};
use crate::tools::{packages, text};

const MIRROR: &str = "http://deb.debian.org/debian";
const RELEASE: &str = "bookworm";

/// What the Debian that is booted has beside the least there can be.
const INCLUDED: &str = "--include=libusb-1.0-0,man-db,nodejs,procps,systemd,systemd-sysv,udev";

/// What the Debian that compiles has: as much as `rust:slim`, which has Rust as well.
const COMPILER: &str = "--include=gcc,libc6-dev";

/// Written last into what is made once.
const MARK: &str = "installed";

/// All that the program needs of a system: what a distroless image has.
const BASE: [&str; 2] = ["libc6_", "libgcc-s1_"];

/// Makes what the tests take, and runs them.
///
/// # Errors
/// Something cannot be installed or built, or a test fails.
pub fn run() -> Result<(), String> {
    step("what the tests of packages need", needs)?;
    super::run()?;
    run_command(command(&["cargo", "build", "--release"]))?;
    let root = debian("debian", INCLUDED)?;
    let compiler = debian("debian-gcc", COMPILER)?;
    let base = base(&compiler)?;
    // What the image is built with is this machine's: no registry is asked.
    run_command(command(&["cargo", "fetch", "--locked"]))?;
    let built = target_directory()?.join("test-tools/container-target");
    fs::create_dir_all(&built).map_err(|error| format!("{}: {error}", built.display()))?;
    let features = ["--features", "packages"];
    let mut tests = command(&["cargo", "test", "--package", "autoweave-usb-tests", "--test", "packages"]);
    // One machine at a time, and what they measure is to be seen.
    tests.args(features).args(["--", "--test-threads=1", "--nocapture"]);
    tests.env("AUTOWEAVE_PACKAGE", deb_path(env!("CARGO_PKG_VERSION"))?);
    tests.env("AUTOWEAVE_USBD", release_binary("autoweave-usbd")?);
    tests.env("AUTOWEAVE_ROOT", root).env("AUTOWEAVE_BASE", base);
    tests
        .env("AUTOWEAVE_COMPILER", compiler)
        .env("AUTOWEAVE_TOOLCHAIN", said(&["rustc", "--print=sysroot"])?);
    tests.env("AUTOWEAVE_CRATES", crates()?).env("AUTOWEAVE_TARGET", built);
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

/// A Debian with what `included` says, called `name`.
fn debian(name: &str, included: &str) -> Result<PathBuf, String> {
    let root = target_directory()?.join("test-tools").join(name);
    if is_made(&root, included) {
        return Ok(root);
    }
    remove(&root)?;
    run_command(command(&["debootstrap", "--variant=minbase", included, RELEASE, text(&root)?, MIRROR]))?;
    mark(&root, included)?;
    Ok(root)
}

/// The root of a container's base image, of the packages that `debian` was made of: what is compiled there needs no
/// newer glibc.
fn base(debian: &Path) -> Result<PathBuf, String> {
    let base = target_directory()?.join("test-tools/container-base");
    let wanted = format!("{} of {}", BASE.join(","), debian.display());
    if is_made(&base, &wanted) {
        return Ok(base);
    }
    remove(&base)?;
    for package in packages(&debian.join("var/cache/apt/archives"))? {
        let name = package.file_name().unwrap_or_default().to_string_lossy();
        if BASE.iter().any(|wanted| name.starts_with(wanted)) {
            run_command(command(&["dpkg-deb", "--extract", text(&package)?, text(&base)?]))?;
        }
    }
    remove(&base.join("usr/share"))?;
    mark(&base, &wanted)?;
    Ok(base)
}

/// Where cargo has the crates that it fetched.
fn crates() -> Result<PathBuf, String> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(env::home_dir()?.join(".cargo"))).ok_or("$HOME is not set")?;
    Ok(home.join("registry"))
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
