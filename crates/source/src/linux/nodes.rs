//! The device nodes that drivers have made for a device's interfaces. `uevent` of each object below an interface names
//! its node as `DEVNAME=` (`dev_uevent`, drivers/base/core.c).

use std::fs;
use std::path::{Path, PathBuf};

use autoweave_usb_device::Port;

use super::sysfs::read_attribute;

/// A disk's partition is seven below its interface, the deepest there is today.
const DEPTH_MAX: usize = 12;

/// Far more than any device has; a text attribute has no more than a page.
const DIRECTORIES_MAX: usize = 4096;
const ATTRIBUTE_BYTES_MAX: usize = 4096;

const DEVNAME: &str = "DEVNAME=";

/// The nodes below `/dev` that belong to the device in `port`, sorted: `/dev/sda`, `/dev/hidraw0`. Not those of devices
/// behind it where it is a hub. Disks come seconds after their device.
pub fn nodes(port: Port) -> Vec<String> {
    below(&Path::new("/sys/bus/usb/devices").join(port.to_string()), port)
}

fn below(device: &Path, port: Port) -> Vec<String> {
    let prefix = format!("{port}:");
    let is_interface = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix))
    };
    let mut left: Vec<(PathBuf, usize)> =
        directories(device).into_iter().filter(is_interface).map(|path| (path, 0)).collect();
    let (mut nodes, mut seen) = (Vec::new(), 0);
    while let Some((directory, depth)) = left.pop() {
        seen += 1;
        if seen > DIRECTORIES_MAX {
            break;
        }
        nodes.extend(node(&directory));
        if depth < DEPTH_MAX {
            left.extend(directories(&directory).into_iter().map(|path| (path, depth + 1)));
        }
    }
    nodes.sort_unstable();
    nodes
}

/// Links lead elsewhere, some of them up again.
fn directories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).collect()
}

fn node(directory: &Path) -> Option<String> {
    let uevent = read_attribute(&directory.join("uevent"), ATTRIBUTE_BYTES_MAX)?;
    let uevent = String::from_utf8(uevent).ok()?;
    let name = uevent.lines().find_map(|line| line.strip_prefix(DEVNAME))?;
    Some(format!("/dev/{name}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nodes_are_found_below_interfaces_and_nowhere_else() {
        let tree = tempfile::tempdir().unwrap();
        let device = tree.path().join("1-1");
        for (path, uevent) in [
            ("", "DEVNAME=bus/usb/001/005\n"),
            ("1-1:1.0/host0/target0:0:0/0:0:0:0/block/sda/sda1", "MAJOR=8\nDEVNAME=sda1\n"),
            ("1-1:1.0/host0/target0:0:0/0:0:0:0/block/sda", "MAJOR=8\nDEVNAME=sda\n"),
            ("1-1:1.1/0003:046D:C52B.0001/hidraw/hidraw0", "DEVNAME=hidraw0"),
            ("1-1:1.1/input/input3/event3", "DEVNAME=input/event3\n"),
            ("1-1.2/1-1.2:1.0/tty/ttyUSB0", "DEVNAME=ttyUSB0\n"),
            ("1-1:1.2", "DRIVER=none\n"),
        ] {
            fs::create_dir_all(device.join(path)).unwrap();
            fs::write(device.join(path).join("uevent"), uevent).unwrap();
        }
        symlink(&device, device.join("1-1:1.0/device")).unwrap();
        let port = "1-1".parse().unwrap();
        assert_eq!(below(&device, port), ["/dev/hidraw0", "/dev/input/event3", "/dev/sda", "/dev/sda1"]);
        assert_eq!(below(&tree.path().join("1-2"), port), [""; 0]);
    }

    #[test]
    fn a_tree_without_end_is_bounded() {
        let tree = tempfile::tempdir().unwrap();
        let deep = tree.path().join("1-1:1.0").join("x/".repeat(DEPTH_MAX + 1));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("uevent"), "DEVNAME=deep\n").unwrap();
        fs::write(deep.parent().unwrap().join("uevent"), "DEVNAME=less\n").unwrap();
        assert_eq!(below(tree.path(), "1-1".parse().unwrap()), ["/dev/less"]);
    }
}
