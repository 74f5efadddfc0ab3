//! The device nodes of a USB device: its own in usbfs, and those of what drivers made of it, such as `/dev/sdb1`.

use std::fs;
use std::path::Path;

use autoweave_usb_device::Port;

use super::sysfs::{Sysfs, read_attribute};

/// Directories that are looked into, at most: a disk with many partitions has fewer.
const DIRECTORIES_MAX: usize = 4096;

/// An `uevent` attribute is at most a page.
const UEVENT_BYTES_MAX: usize = 4096;

impl Sysfs {
    /// The nodes of the device in `port` that are there now, sorted; not those of devices below a hub. Drivers make
    /// theirs some time after the device came.
    pub fn nodes(&self, port: Port) -> Vec<String> {
        let Ok(top) = fs::canonicalize(self.device(port)) else { return Vec::new() };
        let (mut nodes, mut waiting, mut seen) = (Vec::new(), vec![top], 0);
        while let Some(directory) = waiting.pop().filter(|_| seen < DIRECTORIES_MAX) {
            seen += 1;
            nodes.extend(node(&directory));
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            let is_part = |entry: &fs::DirEntry| {
                // Links lead elsewhere, and a port's name is another device's.
                entry.file_type().is_ok_and(|kind| kind.is_dir())
                    && entry.file_name().to_str().is_some_and(|name| name.parse::<Port>().is_err())
            };
            waiting.extend(entries.flatten().filter(is_part).map(|entry| entry.path()));
        }
        nodes.sort_unstable();
        nodes
    }
}

/// The name that the kernel gave the node, where there is one (`dev_uevent`, drivers/base/core.c).
fn node(directory: &Path) -> Option<String> {
    let uevent = read_attribute(&directory.join("uevent"), UEVENT_BYTES_MAX)?;
    let uevent = String::from_utf8(uevent).ok()?;
    let name = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
    let is_inside = !name.is_empty() && !name.split('/').any(|part| part == "..");
    is_inside.then(|| format!("/dev/{}", name.trim_start_matches('/')))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nodes_are_the_devices_own_and_its_drivers() {
        let root = tempfile::tempdir().unwrap();
        let hub = root.path().join("devices/usb1/1-1");
        let disk = hub.join("1-1.2/1-1.2:1.0/host0/target0:0:0/0:0:0:0/block/sdb");
        for (directory, name) in [
            (&hub, "bus/usb/001/002"),
            (&hub.join("1-1.2"), "bus/usb/001/003"),
            (&disk, "sdb"),
            (&disk.join("sdb1"), "sdb1"),
            (&hub.join("1-1:1.0"), "../etc/passwd"),
        ] {
            fs::create_dir_all(directory).unwrap();
            fs::write(directory.join("uevent"), format!("MAJOR=8\nDEVNAME={name}\n")).unwrap();
        }
        symlink("../../..", disk.join("device")).unwrap();
        let bus = root.path().join("bus/usb/devices");
        fs::create_dir_all(&bus).unwrap();
        symlink("../../../devices/usb1/1-1", bus.join("1-1")).unwrap();
        symlink("../../../devices/usb1/1-1/1-1.2", bus.join("1-1.2")).unwrap();
        let nodes = |port: &str| Sysfs::new(root.path()).nodes(port.parse().unwrap());
        assert_eq!(nodes("1-1"), ["/dev/bus/usb/001/002"]);
        assert_eq!(nodes("1-1.2"), ["/dev/bus/usb/001/003", "/dev/sdb", "/dev/sdb1"]);
        assert_eq!(nodes("1-9"), [""; 0]);
    }
}
