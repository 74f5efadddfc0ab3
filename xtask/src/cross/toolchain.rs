//! A compiler with the sources of its standard library, and mingw, unpacked from Debian's packages.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::step::{command, run, succeeds, target_directory};
use crate::tools::{packages, text};

/// Debian's `rustc-web`, which follows Rust's releases, as security updates of browsers need it. In this version: its
/// libraries have it in their names.
const RUST: [&str; 5] =
    ["rustc-web", "libstd-rust-web-dev", "libstd-rust-web-1.96", "libllvm22", "rust-web-src"];

const MINGW: [&str; 6] = [
    "gcc-mingw-w64-x86-64-win32",
    "gcc-mingw-w64-x86-64-win32-runtime",
    "gcc-mingw-w64-base",
    "mingw-w64-common",
    "mingw-w64-x86-64-dev",
    "binutils-mingw-w64-x86-64",
];

/// What an unpacked compiler of another system does instead of compiling.
const NO_C: &str = "true";

pub struct Toolchain {
    /// Of the packages.
    root: PathBuf,
    /// Of cargo: what two compilers build is kept apart.
    target: PathBuf,
}

impl Toolchain {
    /// Unpacks what is missing.
    ///
    /// # Errors
    /// A package cannot be had here.
    pub fn install() -> Result<Self, String> {
        let target = target_directory()?;
        let toolchain = Self { root: target.join("test-tools/cross"), target: target.join("cross") };
        let [rustc, gcc] = [toolchain.rustc(), toolchain.gcc()];
        if rustc.exists() && gcc.exists() && succeeds(&[text(&gcc)?, "--version"]) {
            return Ok(toolchain);
        }
        let debs = toolchain.root.join("packages");
        fs::create_dir_all(&debs).map_err(|error| format!("{}: {error}", debs.display()))?;
        let mut download = command(&[&["apt-get", "download"], &RUST[..], &MINGW[..]].concat());
        download.current_dir(&debs);
        run(download)?;
        for package in packages(&debs)? {
            run(command(&["dpkg-deb", "--extract", text(&package)?, text(&toolchain.root)?]))?;
        }
        fs::remove_dir_all(&debs).map_err(|error| format!("{}: {error}", debs.display()))?;
        Ok(toolchain)
    }

    /// `cargo VERB` of the daemon for `target`, with a standard library that is built on the way.
    pub fn cargo(&self, verb: &str, target: &str) -> Command {
        let mut cargo = command(&[
            "cargo",
            verb,
            "-Zbuild-std=std,panic_abort,panic_unwind",
            "--package",
            "autoweave-usbd",
            "--target",
            target,
        ]);
        cargo.env("RUSTC", self.rustc()).env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", &self.target);
        cargo.env("LD_LIBRARY_PATH", self.root.join("usr/lib/x86_64-linux-gnu"));
        // rustc calls mingw's dlltool by its name.
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::split_paths(&path).chain([self.root.join("usr/bin")]);
        cargo.env("PATH", env::join_paths(path).expect("it was split so before, and `target` has no colon"));
        let name = target.replace('-', "_");
        if target.contains("windows") {
            cargo.env(format!("CC_{name}"), self.gcc());
            cargo.env(format!("CARGO_TARGET_{}_LINKER", name.to_uppercase()), self.gcc());
        } else {
            cargo.env(format!("CC_{name}"), NO_C).env(format!("AR_{name}"), NO_C);
        }
        cargo
    }

    /// Where `cargo build` leaves `file`.
    pub fn binary(&self, target: &str, file: &str) -> PathBuf {
        self.target.join(target).join("debug").join(file)
    }

    /// The C compiler for Windows.
    pub fn gcc(&self) -> PathBuf {
        self.root.join("usr/bin/x86_64-w64-mingw32-gcc-win32")
    }

    /// A directory for what else is needed.
    pub fn directory(&self, name: &str) -> Result<PathBuf, String> {
        let directory = self.target.join(name);
        fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        Ok(directory)
    }

    fn rustc(&self) -> PathBuf {
        let usr: &Path = &self.root.join("usr");
        usr.join("bin/rustc")
    }
}
