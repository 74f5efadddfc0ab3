//! What the guest runs before the command: its two shell scripts, and the initramfs that has the first.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::packages::Unpacked;
use crate::step::command;
use crate::tools::text;

const INIT: &str = include_str!("init.sh");
const SESSION: &str = include_str!("session.sh");

/// What it takes to reach the host's files, and to write beside them.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];

/// The files of one run, in a directory of its own that both sides see.
pub struct Session {
    pub initramfs: PathBuf,
}

impl Session {
    /// Writes everything that the guest needs for running `words` into `directory`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(directory: &Path, unpacked: &Unpacked, words: &[String]) -> Result<Self, String> {
        let here = std::env::current_dir().map_err(|error| format!("the working directory: {error}"))?;
        let lines = [
            format!("busybox={}", quoted(text(&unpacked.busybox)?)),
            format!("modules={}", quoted(text(&unpacked.modules.join("lib/modules"))?)),
            format!("directory={}", quoted(text(&here)?)),
            format!("set -- {}", words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")),
            SESSION.to_owned(),
        ];
        write(&directory.join("session"), lines.join("\n").as_bytes())?;
        let initramfs = directory.join("initramfs");
        make_initramfs(&directory.join("root"), &initramfs, unpacked)?;
        Ok(Self { initramfs })
    }
}

fn make_initramfs(root: &Path, archive: &Path, unpacked: &Unpacked) -> Result<(), String> {
    for directory in ["modules", "dev", "proc", "sys", "host", "memory", "new"] {
        let directory = root.join(directory);
        fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    copy(&unpacked.busybox, &root.join("busybox"))?;
    let mut order = String::new();
    for module in unpacked.modules_for(&MODULES)? {
        let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
        copy(&module, &root.join("modules").join(&name))?;
        order = order + &name + "\n";
    }
    write(&root.join("modules/order"), order.as_bytes())?;
    write(&root.join("init"), INIT.as_bytes())?;
    make_executable(&root.join("init"))?;
    let names =
        command(&["find", "."]).current_dir(root).output().map_err(|error| format!("find: {error}"))?;
    let file = fs::File::create(archive).map_err(|error| format!("{}: {error}", archive.display()))?;
    let mut cpio = command(&["cpio", "--create", "--format=newc", "--quiet"]);
    let cpio = cpio.current_dir(root).stdin(Stdio::piped()).stdout(file).spawn();
    let mut cpio = cpio.map_err(|error| format!("cpio: {error}"))?;
    let fed = cpio.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(&names.stdout));
    let status = cpio.wait().map_err(|error| format!("cpio: {error}"))?;
    if status.success() && fed.is_ok() { Ok(()) } else { Err(format!("cpio: {status}")) }
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::copy(from, to).map(drop).map_err(|error| format!("{}: {error}", from.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}

fn make_executable(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(path, mode).map_err(|error| format!("{}: {error}", path.display()))
}

/// As one word of a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_word_reaches_the_shell_as_it_is() {
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quoted(""), "''");
    }
}
