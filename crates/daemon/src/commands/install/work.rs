//! What is done to the machine, one step after the other.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use super::layout::{Content, Item};
use crate::exit::Failure;
use crate::system;

/// What systemd makes where it is the system's (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";

/// What udevd makes while it runs.
const UDEV: &str = "/run/udev/control";

/// What changes the machine, or only says what it would do.
pub struct Work {
    is_dry: bool,
}

impl Work {
    pub fn begin(is_dry: bool) -> Result<Self, Failure> {
        if is_dry || system::is_privileged() {
            return Ok(Self { is_dry });
        }
        Err(Failure::unavailable(
            "this changes the system: run it as root, or with --dry-run to see what it would do",
        ))
    }

    pub fn has_systemd(&self) -> bool {
        self.is_dry || Path::new(SYSTEMD).is_dir()
    }

    pub fn say(&self, line: &str) -> Result<(), Failure> {
        super::super::print_line(line)
    }

    pub fn put(&self, item: &Item, executable: &Path) -> Result<(), Failure> {
        let path = item.path.display();
        match &item.content {
            _ if is_masked(&item.path) => return self.say(&format!("keep {path} -> /dev/null")),
            Content::Configuration(_) if item.path.exists() => return self.say(&format!("keep {path}")),
            Content::Link(to) => self.say(&format!("link {path} -> {to}"))?,
            Content::Program | Content::Bytes(_) | Content::Configuration(_) => {
                self.say(&format!("write {path}"))?;
            }
        }
        if self.is_dry { Ok(()) } else { put(item, Path::new("/"), executable) }
    }

    /// Removes a file that `install` made.
    pub fn remove(&self, file: &Path) -> Result<(), Failure> {
        if is_masked(file) {
            return self.say(&format!("keep {} -> /dev/null", file.display()));
        }
        self.remove_by(file, |file| fs::remove_file(file))?;
        let is_ours = |directory: &Path| {
            let ours = ["autoweave", "autoweave-usb", "autoweave-usb.service.d"];
            directory.file_name().is_some_and(|name| ours.iter().any(|ours| name == *ours))
        };
        if let Some(directory) = file.parent().filter(|directory| !self.is_dry && is_ours(directory)) {
            // One that is not empty has somebody else's files, and stays.
            let _ = fs::remove_dir(directory);
        }
        Ok(())
    }

    /// Removes a link to `program`, and nothing else that may be there.
    pub fn remove_link(&self, link: &Path, program: &Path) -> Result<(), Failure> {
        match fs::read_link(link) {
            Ok(to) if link.with_file_name(&to) == program => self.remove(link),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            _ => self.say(&format!("keep {}: it is no link to {}", link.display(), program.display())),
        }
    }

    /// Removes a directory with all that is in it.
    pub fn remove_tree(&self, directory: &Path) -> Result<(), Failure> {
        self.remove_by(directory, |directory| fs::remove_dir_all(directory))
    }

    fn remove_by(&self, path: &Path, remove: impl Fn(&Path) -> io::Result<()>) -> Result<(), Failure> {
        if fs::symlink_metadata(path).is_err() {
            return Ok(());
        }
        self.say(&format!("remove {}", path.display()))?;
        if self.is_dry { Ok(()) } else { remove(path).map_err(|error| about(path, &error)) }
    }

    pub fn run(&self, words: &[&str]) -> Result<(), Failure> {
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
    pub fn reload_rules(&self) -> Result<(), Failure> {
        if !self.is_dry && !Path::new(UDEV).exists() {
            return Ok(());
        }
        self.run(&["udevadm", "control", "--reload"])?;
        self.run(&["udevadm", "trigger", "--subsystem-match=usb", "--action=change"])
    }
}

/// Puts a file below `root`, whole or not at all. The umask is to let others read directories.
pub fn put(item: &Item, root: &Path, executable: &Path) -> Result<(), Failure> {
    let path = root.join(item.path.strip_prefix("/").unwrap_or(&item.path));
    let directory = path.parent().unwrap_or(root);
    fs::create_dir_all(directory).map_err(|error| about(directory, &error))?;
    write(&path, &item.content, executable).map_err(|error| about(&path, &error))
}

fn write(path: &Path, content: &Content, executable: &Path) -> io::Result<()> {
    let (bytes, mode) = match content {
        Content::Link(to) => return link(to, path),
        Content::Program if fs::canonicalize(executable)? == path => return Ok(()),
        Content::Program => (fs::read(executable)?, 0o755),
        Content::Bytes(bytes) => (bytes.clone(), 0o644),
        Content::Configuration(bytes) => (bytes.clone(), 0o640),
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

/// Whether an administrator has put a link to nothing there, which says that there is to be no such unit or rule.
fn is_masked(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|to| to == Path::new("/dev/null"))
}

fn about(path: &Path, error: &io::Error) -> Failure {
    Failure::io(format!("{}: {error}", path.display()))
}
