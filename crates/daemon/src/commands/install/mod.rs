//! Makes this program a service of the machine, and undoes it.
//!
//! A package has the same files: it is built from what `install --package` lays out.

mod layout;

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use crate::cli::{Common, Install, Uninstall};
use crate::exit::Failure;
use crate::{held, system};
use layout::{CONFIGURATION, Content, Item, LOCAL, PACKAGED};

const HELPER: &str = "autoweave-udev-notify";
const STATE_DIRECTORY: &str = "/var/lib/autoweave-usb";

/// What a Debian package of the same would have brought; see its `postinst`.
const PACKAGED_UNIT: &str = "/usr/lib/systemd/system/autoweave-usb.service";

/// What systemd makes where it is the system's (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";

/// What udevd makes while it runs.
const UDEV: &str = "/run/udev/control";

/// Installs, or says what it would do.
pub fn install(common: &Common, arguments: &Install) -> Result<(), Failure> {
    let executable = held::executable()?;
    if let Some(package) = &arguments.package {
        let items = layout::items(Path::new(PACKAGED), &Path::new(PACKAGED).join("bin").join(HELPER))?;
        return items.iter().try_for_each(|item| put(item, package, &executable));
    }
    let helper = super::load(common, None)?.config.fallback.udev_script_path;
    if helper.file_name().is_none_or(|name| name != HELPER) {
        let helper = helper.display();
        return Err(Failure::usage(format!(
            "fallback.udev_script_path: {helper} has to end in `{HELPER}`: by that name the program knows its task"
        )));
    }
    let work = Work::begin(arguments.dry_run)?;
    if Path::new(PACKAGED_UNIT).exists() {
        return Err(Failure::unavailable(
            "the Debian package autoweave-usb is installed; remove it first: apt-get remove autoweave-usb",
        ));
    }
    for item in layout::items(Path::new(LOCAL), &helper)? {
        work.put(&item, &executable)?;
    }
    if !has_entry("/etc/group") {
        work.run(&["groupadd", "--system", "autoweave"])?;
    }
    if !has_entry("/etc/passwd") {
        let options = ["--home-dir", STATE_DIRECTORY, "--no-create-home", "--shell", "/usr/sbin/nologin"];
        let user = ["useradd", "--system", "--gid", "autoweave"];
        work.run(&[&user[..], &options, &["autoweave"]].concat())?;
    }
    work.reload_rules()?;
    if !work.has_systemd() {
        work.say("no systemd runs here: start `autoweave-usbd run` as the user autoweave by other means")?;
        return Ok(());
    }
    work.run(&["systemctl", "daemon-reload"])?;
    work.run(&["systemctl", "enable", "autoweave-usb.socket", "autoweave-usb.service"])?;
    // Also one that runs already, which is an upgrade: what systemd stores for it outlives that.
    work.run(&["systemctl", "restart", "autoweave-usb.service"])
}

/// Uninstalls, or says what it would do.
pub fn uninstall(common: &Common, arguments: &Uninstall) -> Result<(), Failure> {
    let helper = super::load(common, None)?.config.fallback.udev_script_path;
    let work = Work::begin(arguments.dry_run)?;
    let items = layout::items(Path::new(LOCAL), &helper)?;
    let unit = items.iter().find(|item| item.path.ends_with("autoweave-usb.service"));
    let has_unit = unit.is_some_and(|unit| unit.path.exists());
    if has_unit && work.has_systemd() {
        work.run(&["systemctl", "disable", "--now", "autoweave-usb.service", "autoweave-usb.socket"])?;
    }
    for item in &items {
        if !matches!(item.content, Content::Configuration(_)) {
            work.remove(&item.path)?;
        }
    }
    work.reload_rules()?;
    if work.has_systemd() {
        work.run(&["systemctl", "daemon-reload"])?;
    }
    if arguments.purge {
        work.remove(Path::new(CONFIGURATION))?;
        work.remove(Path::new(STATE_DIRECTORY))?;
        if has_entry("/etc/passwd") {
            work.run(&["userdel", "autoweave"])?;
        }
        // userdel takes a user's own group along on most systems.
        if has_entry("/etc/group") {
            work.run(&["groupdel", "autoweave"])?;
        }
    }
    Ok(())
}

/// What changes the machine, or only says what it would do.
struct Work {
    is_dry: bool,
}

impl Work {
    fn begin(is_dry: bool) -> Result<Self, Failure> {
        if is_dry || system::is_privileged() {
            return Ok(Self { is_dry });
        }
        Err(Failure::unavailable(
            "this changes the system: run it as root, or with --dry-run to see what it would do",
        ))
    }

    fn has_systemd(&self) -> bool {
        self.is_dry || Path::new(SYSTEMD).is_dir()
    }

    fn say(&self, line: &str) -> Result<(), Failure> {
        super::print_line(line)
    }

    fn put(&self, item: &Item, executable: &Path) -> Result<(), Failure> {
        let path = item.path.display();
        match &item.content {
            Content::Configuration(_) if item.path.exists() => return self.say(&format!("keep {path}")),
            Content::Link(to) => self.say(&format!("link {path} -> {to}"))?,
            Content::Program | Content::Bytes(_) | Content::Configuration(_) => {
                self.say(&format!("write {path}"))?;
            }
        }
        if self.is_dry { Ok(()) } else { put(item, Path::new("/"), executable) }
    }

    fn remove(&self, path: &Path) -> Result<(), Failure> {
        if fs::symlink_metadata(path).is_err() {
            return Ok(());
        }
        self.say(&format!("remove {}", path.display()))?;
        if self.is_dry {
            return Ok(());
        }
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.map_err(|error| about(path, &error))?;
        let is_ours = |directory: &Path| {
            directory.file_name().is_some_and(|name| name == "autoweave" || name == "autoweave-usb")
        };
        if let Some(directory) = path.parent().filter(|directory| is_ours(directory)) {
            // One that is not empty has somebody else's files, and stays.
            let _ = fs::remove_dir(directory);
        }
        Ok(())
    }

    fn run(&self, words: &[&str]) -> Result<(), Failure> {
        let line = words.join(" ");
        self.say(&line)?;
        if self.is_dry {
            return Ok(());
        }
        match Command::new(words[0]).args(&words[1..]).status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failure::unavailable(format!("{line}: {status}"))),
            Err(error) => Err(Failure::unavailable(format!("{line}: {error}"))),
        }
    }

    /// Has udev read the rules again and apply them to what is connected.
    fn reload_rules(&self) -> Result<(), Failure> {
        if !self.is_dry && !Path::new(UDEV).exists() {
            return Ok(());
        }
        self.run(&["udevadm", "control", "--reload"])?;
        self.run(&["udevadm", "trigger", "--subsystem-match=usb", "--action=change"])
    }
}

/// Puts a file below `root`, whole or not at all.
fn put(item: &Item, root: &Path, executable: &Path) -> Result<(), Failure> {
    let path = root.join(item.path.strip_prefix("/").unwrap_or(&item.path));
    let directory = path.parent().unwrap_or(root);
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .map_err(|error| about(directory, &error))?;
    write(&path, &item.content, executable).map_err(|error| about(&path, &error))
}

fn write(path: &Path, content: &Content, executable: &Path) -> io::Result<()> {
    let (bytes, mode) = match content {
        Content::Link(to) => return link(to, path),
        Content::Program if fs::canonicalize(executable)? == path => return Ok(()),
        Content::Program => (fs::read(executable)?, 0o755),
        Content::Bytes(bytes) | Content::Configuration(bytes) => (bytes.clone(), 0o644),
    };
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new("/")))?;
    file.write_all(&bytes)?;
    fs::set_permissions(file.path(), Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn link(to: &str, path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => symlink(to, path),
    }
}

/// Whether `file` knows `autoweave`.
fn has_entry(file: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.lines().any(|line| line.starts_with("autoweave:")))
}

fn about(path: &Path, error: &io::Error) -> Failure {
    Failure::io(format!("{}: {error}", path.display()))
}
