//! `cargo xtask package`: the release binary for old systems, and a Debian package of it.

mod deb;
mod glibc;
pub mod test;

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use crate::step::{command, need_bare, run as run_command, succeeds, target_directory};
use crate::tools::Python;

/// What Ubuntu 20.04 has, the oldest system we support.
const GLIBC: (u32, u32) = (2, 31);

/// The compiler and linker of another system's C library, and what has cargo use it.
const ZIG: &[&str] = &["ziglang==0.17.1", "cargo-zigbuild==0.24.0"];

/// Builds both and checks what they need.
///
/// # Errors
/// Something cannot be installed or built, or needs a newer system.
pub fn run() -> Result<(), String> {
    let program = build()?;
    glibc::check(&program, GLIBC)?;
    let package = deb::build(&program, env!("CARGO_PKG_VERSION"), GLIBC)?;
    println!("{}", package.display());
    Ok(())
}

/// The release binary, on the system's libusb.
fn build() -> Result<PathBuf, String> {
    need_bare("readelf", "binutils")?;
    need_bare("dpkg-deb", "dpkg")?;
    need_bare("pkg-config", "pkg-config")?;
    if !succeeds(&["pkg-config", "--exists", "libusb-1.0"]) {
        run_command(command(&[
            "apt-get",
            "install",
            "--yes",
            "--no-install-recommends",
            "libusb-1.0-0-dev",
        ]))?;
    }
    let zig = Python::install("zig", ZIG)?;
    let target = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let (major, minor) = GLIBC;
    let features = ["--no-default-features", "--features", "libusb,device-plugin,otel"];
    let mut cargo = Command::new(zig.program("cargo-zigbuild"));
    cargo.args(["zigbuild", "--release", "--locked", "--package", "autoweave-usbd"]).args(features);
    cargo.args(["--target", &format!("{target}.{major}.{minor}")]);
    // It looks for zig as a module of the first Python there is.
    cargo.env("PATH", before(zig.programs(), env::var_os("PATH")));
    run_command(cargo)?;
    Ok(target_directory()?.join(target).join("release/autoweave-usbd"))
}

/// Where the Debian package of a version is.
///
/// # Errors
/// Those of [`target_directory`].
pub fn deb_path(version: &str) -> Result<PathBuf, String> {
    Ok(target_directory()?
        .join("package")
        .join(format!("autoweave-usb_{version}_{}.deb", deb::architecture())))
}

fn before(first: PathBuf, path: Option<OsString>) -> OsString {
    let mut paths = first.into_os_string();
    if let Some(path) = path {
        paths.push(":");
        paths.push(path);
    }
    paths
}
