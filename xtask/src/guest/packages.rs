//! Debian's kernel and a static busybox, unpacked into `target/guest` and not installed: nothing starts with them.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::step::{command, run, succeeds, target_directory};
use crate::tools::{packages, text};

/// Where the header of a bzImage has what is needed to find the kernel in it (Documentation/arch/x86/boot.rst).
const SETUP_SECTORS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;

/// By its path: not everyone's `PATH` has `sbin`.
pub const DEPMOD: &str = "/sbin/depmod";

/// The packages' files.
pub struct Unpacked {
    /// The kernel as an ELF file. QEMU starts it at once, where a guest would need seconds to decompress itself.
    pub kernel: PathBuf,
    /// Has `lib/modules`.
    pub modules: PathBuf,
    pub version: String,
    pub busybox: PathBuf,
}

impl Unpacked {
    /// Finds what an earlier run unpacked, or downloads it.
    ///
    /// # Errors
    /// It cannot be downloaded, or is not laid out as Debian's is.
    pub fn find() -> Result<Self, String> {
        let directory = target_directory()?.join("guest");
        let kernel = directory.join("vmlinux");
        if !kernel.exists() {
            download(&directory)?;
            let compressed = only_file(&directory.join("boot"), "vmlinuz-")?;
            decompress(&compressed, &kernel)?;
        }
        // Since Debian 13 everything is below usr/.
        let merged = directory.join("usr");
        let has = |path: &str| if directory.join(path).exists() { &directory } else { &merged };
        let (modules, busybox) = (has("lib/modules").clone(), has("bin/busybox").join("bin/busybox"));
        let version = only_file(&modules.join("lib/modules"), "")?;
        let version = version.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { kernel, modules, version, busybox })
    }

    /// The modules that `names` take, in the order to load them in.
    ///
    /// # Errors
    /// The kernel has no such module.
    pub fn modules_for(&self, names: &[&str]) -> Result<Vec<PathBuf>, String> {
        let mut files = Vec::new();
        for name in names {
            let base = text(&self.modules)?;
            let words = ["/sbin/modprobe", "-d", base, "-S", &self.version, "--show-depends", name];
            let output = command(&words).output().map_err(|error| format!("modprobe: {error}"))?;
            if !output.status.success() {
                return Err(format!("modprobe {name}: {}", String::from_utf8_lossy(&output.stderr)));
            }
            let lines = String::from_utf8_lossy(&output.stdout).into_owned();
            let needed = lines.lines().filter_map(|line| line.strip_prefix("insmod "));
            for file in needed.map(|file| PathBuf::from(file.trim())) {
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        Ok(files)
    }
}

fn download(directory: &Path) -> Result<(), String> {
    fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let fetch = || {
        let mut apt = command(&["apt-get", "download", &newest_kernel()?, "busybox-static"]);
        apt.current_dir(directory);
        run(apt)
    };
    // The lists are missing or older than the archive.
    fetch().or_else(|_| {
        run(command(&["apt-get", "update"]))?;
        fetch()
    })?;
    for package in packages(directory)? {
        run(command(&["dpkg", "-x", text(&package)?, text(directory)?]))?;
        fs::remove_file(&package).map_err(|error| format!("{}: {error}", package.display()))?;
    }
    let merged = directory.join("usr");
    let base = if directory.join("lib/modules").exists() { directory } else { &merged };
    let version = only_file(&base.join("lib/modules"), "")?;
    let version = version.file_name().unwrap_or_default().to_string_lossy().into_owned();
    run(command(&[DEPMOD, "-b", text(base)?, &version]))
}

/// The package that Debian's `linux-image-amd64` stands for.
fn newest_kernel() -> Result<String, String> {
    const MISSING: &str = "the guest takes the kernel of Debian's package linux-image-amd64, \
                           which `apt-cache` does not know here";
    if !succeeds(&["apt-cache", "--version"]) {
        return Err(MISSING.to_owned());
    }
    let output = command(&["apt-cache", "depends", "linux-image-amd64"]).output();
    let output = output.map_err(|error| format!("apt-cache: {error}"))?;
    let answer = String::from_utf8_lossy(&output.stdout);
    let mut depends = answer.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    depends
        .find(|package| package.starts_with("linux-image-"))
        .map(str::to_owned)
        .ok_or_else(|| MISSING.to_owned())
}

fn only_file(directory: &Path, prefix: &str) -> Result<PathBuf, String> {
    let failed = |error| format!("{}: {error}", directory.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found.push(entry.path());
        }
    }
    match found.as_slice() {
        [path] => Ok(path.clone()),
        _ => Err(format!("{}: {} files, not one; delete target/guest", directory.display(), found.len())),
    }
}

/// Writes the ELF file in a bzImage to `target`.
fn decompress(image: &Path, target: &Path) -> Result<(), String> {
    let bytes = fs::read(image).map_err(|error| format!("{}: {error}", image.display()))?;
    let payload = payload(&bytes).ok_or_else(|| format!("{}: not a bzImage", image.display()))?;
    let partial = target.with_extension("partial");
    let file = fs::File::create(&partial).map_err(|error| format!("{}: {error}", partial.display()))?;
    // The length of the kernel follows the stream, which xz would call garbage.
    let mut xz = Command::new("xz");
    xz.args(["--decompress", "--stdout", "--single-stream"]).stdin(Stdio::piped()).stdout(file);
    let mut xz = xz.spawn().map_err(|error| format!("xz: {error}"))?;
    // It may end before it has read what follows the stream; its status tells whether all is well.
    let _ = xz.stdin.take().map(|mut stdin| stdin.write_all(payload));
    let status = xz.wait().map_err(|error| format!("xz: {error}"))?;
    if !status.success() {
        return Err(format!("{}: the kernel is not compressed with xz", image.display()));
    }
    fs::rename(&partial, target).map_err(|error| format!("{}: {error}", target.display()))
}

/// The compressed kernel in a bzImage.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let number = |at: usize| {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let setup = (usize::from(*image.get(SETUP_SECTORS)?) + 1) * SECTOR;
    let begin = setup.checked_add(number(PAYLOAD_OFFSET)?)?;
    image.get(begin..begin.checked_add(number(PAYLOAD_LENGTH)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_found_in_its_image() {
        let mut image = vec![0; 0x600];
        image[SETUP_SECTORS] = 1;
        image[PAYLOAD_OFFSET] = 0x20;
        image[PAYLOAD_LENGTH] = 3;
        image[0x420..0x423].copy_from_slice(b"elf");
        assert_eq!(payload(&image), Some(&b"elf"[..]));
        image[PAYLOAD_LENGTH + 1] = 0xff;
        assert_eq!(payload(&image), None);
        assert_eq!(payload(b"short"), None);
    }
}
