//! What sysfs shows of USB devices: `Documentation/ABI/stable/sysfs-bus-usb`, `drivers/usb/core/sysfs.c`.
//!
//! Nothing is opened but files in sysfs: that needs no permission and wakes no suspended device. Some of
//! these reads wait for the device's lock, which the kernel holds while it configures the device or resets
//! it; they are never done on a thread that has anything else to do.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use autoweave_usb_device::{HexBytes, InterfaceReading, Port, Reading, Speed};

/// A text attribute is at most a page (`sysfs_emit`, `include/linux/sysfs.h`); what is longer is cut off.
const ATTRIBUTE_BYTES_MAX: usize = 4096;

/// The device descriptor and eight configurations (`USB_MAXCONFIG`) of the longest `wTotalLength`.
const DESCRIPTORS_BYTES_MAX: usize = 18 + 8 * 65_535;

/// `USB_MAXINTERFACES`, `include/linux/usb.h`.
const INTERFACES_MAX: usize = 32;

/// The sysfs mounted on `/sys`.
#[derive(Debug, Clone)]
pub struct Sysfs {
    root: PathBuf,
}

/// Why a device could not be read.
#[derive(Debug)]
pub enum Unread {
    /// It is not there, or no longer, or another one has taken its place.
    Gone,
    /// It is there, but what says which device it is is not to be read, at least not yet.
    NotReady,
}

impl Sysfs {
    /// The sysfs mounted on `root`, which is `/sys` everywhere but in tests.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Every device on every bus, root hubs included, hubs first; empty on a machine without USB.
    ///
    /// # Errors
    /// sysfs is there but cannot be listed. That says nothing about the bus.
    pub fn ports(&self) -> io::Result<Vec<Port>> {
        let entries = match fs::read_dir(self.bus()) {
            Err(error) if error.kind() == ErrorKind::NotFound => return self.without_usb(error),
            entries => entries?,
        };
        let mut ports = Vec::new();
        for entry in entries {
            // Interfaces are listed as well, as `1-4.2:1.0`.
            ports.extend(entry?.file_name().to_str().and_then(|name| name.parse::<Port>().ok()));
        }
        ports.sort_unstable();
        Ok(ports)
    }

    /// Whether the kernel has USB at all.
    pub fn has_bus(&self) -> bool {
        self.bus().is_dir()
    }

    /// Reads the device in `port`.
    ///
    /// # Errors
    /// See [`Unread`].
    pub fn read(&self, port: Port) -> Result<Reading, Unread> {
        read_device(&self.device(port), port)
    }

    /// Reads the device in `port`, whose directory is `devpath` below the root, if it still has `address`.
    ///
    /// # Errors
    /// See [`Unread`]: the successor of the device in the same port is not the device.
    pub fn read_devpath(&self, devpath: &str, port: Port, address: u8) -> Result<Reading, Unread> {
        let reading = read_device(&self.root.join(devpath.trim_start_matches('/')), port)?;
        if reading.address == address { Ok(reading) } else { Err(Unread::Gone) }
    }

    /// The descriptors of the device in `port`, if it has `address` before and after they are read. Before Linux 6.2
    /// this waits for the device's lock.
    pub fn descriptors(&self, port: Port, address: u8) -> Option<Vec<u8>> {
        let directory = self.device(port);
        let is_it = || address_of(&directory) == Some(address);
        let bytes = is_it().then(|| descriptors(&directory)).flatten()?;
        is_it().then_some(bytes)
    }

    /// The directory of the device in `port`.
    pub(super) fn device(&self, port: Port) -> PathBuf {
        self.bus().join(port.to_string())
    }

    fn bus(&self) -> PathBuf {
        self.root.join("bus/usb/devices")
    }

    /// No `bus/usb` means no USB only where there is a sysfs with buses to look at.
    fn without_usb(&self, error: io::Error) -> io::Result<Vec<Port>> {
        if self.root.join("bus").is_dir() || self.root.join("kernel").is_dir() {
            Ok(Vec::new())
        } else {
            Err(error)
        }
    }
}

fn read_device(directory: &Path, port: Port) -> Result<Reading, Unread> {
    let attribute = |name: &str| read_attribute(&directory.join(name), ATTRIBUTE_BYTES_MAX);
    let number = |name: &str, radix| attribute_number(attribute(name).as_deref(), radix);
    let byte = |name: &str, radix| number(name, radix).and_then(|value| u8::try_from(value).ok());
    let not_there = || if directory.exists() { Unread::NotReady } else { Unread::Gone };

    let address = address_of(directory).ok_or_else(not_there)?;
    let (vendor_id, product_id) =
        number("idVendor", 16).zip(number("idProduct", 16)).ok_or_else(not_there)?;
    let reading = Reading {
        class: byte("bDeviceClass", 16),
        speed: text(attribute("speed")).and_then(|speed| Speed::parse(&speed)),
        manufacturer: string(attribute("manufacturer")),
        product: string(attribute("product")),
        serial_number: string(attribute("serial")),
        descriptors: HexBytes(descriptors(directory).ok_or_else(not_there)?),
        configuration: byte("bConfigurationValue", 10),
        interfaces: read_interfaces(directory, port),
        ..Reading::bare(port, address, vendor_id, product_id, None)
    };
    // The next device in this port may have come while this one was being read.
    if address_of(directory) != Some(address) {
        return Err(not_there());
    }
    if reading.is_complete() { Ok(reading) } else { Err(not_there()) }
}

fn address_of(directory: &Path) -> Option<u8> {
    let devnum = read_attribute(&directory.join("devnum"), ATTRIBUTE_BYTES_MAX);
    attribute_number(devnum.as_deref(), 10).and_then(|value| u8::try_from(value).ok())
}

/// The descriptors of the device in `directory`, as the kernel keeps them.
pub fn descriptors(directory: &Path) -> Option<Vec<u8>> {
    read_attribute(&directory.join("descriptors"), DESCRIPTORS_BYTES_MAX)
}

fn read_interfaces(directory: &Path, port: Port) -> Vec<InterfaceReading> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let prefix = format!("{port}:");
    let root_hub_prefix = format!("{}-0:", port.bus);
    let is_interface = |name: &str| name.starts_with(&prefix) || name.starts_with(&root_hub_prefix);
    let directories = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_str().is_some_and(is_interface))
        .take(INTERFACES_MAX)
        .map(|entry| entry.path());
    let mut interfaces: Vec<_> = directories.filter_map(|directory| read_interface(&directory)).collect();
    interfaces.sort_by_key(|interface| interface.number);
    interfaces
}

fn read_interface(directory: &Path) -> Option<InterfaceReading> {
    let byte = |name: &str| {
        let attribute = read_attribute(&directory.join(name), ATTRIBUTE_BYTES_MAX);
        attribute_number(attribute.as_deref(), 16).and_then(|value| u8::try_from(value).ok())
    };
    let driver = fs::read_link(directory.join("driver")).ok();
    let driver = driver.and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned()));
    Some(InterfaceReading {
        number: byte("bInterfaceNumber")?,
        class: byte("bInterfaceClass")?,
        subclass: byte("bInterfaceSubClass")?,
        protocol: byte("bInterfaceProtocol")?,
        driver,
    })
}

/// What sysfs gives at once.
const PAGE_BYTES: usize = 4096;

/// At most `limit` bytes of an attribute; none when it is missing or cannot be read.
pub(super) fn read_attribute(path: &Path, limit: usize) -> Option<Vec<u8>> {
    let mut file = File::open(path).ok()?;
    let mut bytes = Vec::new();
    while bytes.len() < limit {
        // sysfs gives a page at a time (`kernfs_file_read_iter`), and less only at the end.
        let (begin, wanted) = (bytes.len(), PAGE_BYTES.min(limit - bytes.len()));
        bytes.resize(begin + wanted, 0);
        let read = file.read(&mut bytes[begin..]).ok()?;
        bytes.truncate(begin + read);
        if read < wanted {
            break;
        }
    }
    Some(bytes)
}

fn attribute_number(bytes: Option<&[u8]>, radix: u32) -> Option<u16> {
    u16::from_str_radix(std::str::from_utf8(bytes?).ok()?.trim(), radix).ok()
}

fn text(bytes: Option<Vec<u8>>) -> Option<String> {
    Some(String::from_utf8(bytes?).ok()?.trim().to_owned())
}

/// A string descriptor, without the newline that sysfs puts behind it.
fn string(bytes: Option<Vec<u8>>) -> Option<HexBytes> {
    let mut bytes = bytes?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    Some(HexBytes(bytes)).filter(|bytes| !bytes.0.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESCRIPTOR: [u8; 18] = [18, 1, 0, 2, 0, 0, 0, 64, 0x6d, 4, 0x2b, 0xc5, 1, 18, 1, 2, 3, 1];

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(tree.0.path().join("bus/usb/devices/1-1")).unwrap();
            for (name, value) in [("devnum", "5\n"), ("idVendor", "046d\n"), ("idProduct", "c52b\n")] {
                tree.set(name, value.as_bytes());
            }
            tree.set("descriptors", &DESCRIPTOR);
            tree
        }

        fn set(&self, name: &str, value: &[u8]) {
            let path = self.0.path().join("bus/usb/devices/1-1").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        }

        fn read(&self) -> Result<Reading, Unread> {
            Sysfs::new(self.0.path()).read("1-1".parse().unwrap())
        }
    }

    #[test]
    fn a_device_is_read_with_what_there_is() {
        let tree = Tree::new();
        assert_eq!(tree.read().unwrap().serial_number, None);
        tree.set("serial", b"A\xff\x1b\n\n");
        tree.set("speed", b"480\n");
        tree.set("bDeviceClass", b"ef\n");
        tree.set("bConfigurationValue", b"\n");
        for (name, value) in [("Number", "02"), ("Class", "03"), ("SubClass", "01"), ("Protocol", "02")] {
            tree.set(&format!("1-1:1.2/bInterface{name}"), value.as_bytes());
        }
        let reading = tree.read().unwrap();
        assert_eq!((reading.address, reading.vendor_id, reading.product_id), (5, 0x046d, 0xc52b));
        assert_eq!((reading.class, reading.configuration), (Some(0xef), None));
        assert_eq!(reading.serial_number.unwrap().0, b"A\xff\x1b\n", "only the last newline is sysfs's own");
        assert_eq!(reading.speed.unwrap().to_string(), "480");
        let interface = InterfaceReading { number: 2, class: 3, subclass: 1, protocol: 2, driver: None };
        assert_eq!(reading.interfaces, [interface]);
    }

    #[test]
    fn hostile_attributes_are_bounded_or_left_out() {
        let tree = Tree::new();
        tree.set("product", &vec![b'x'; 1 << 20]);
        tree.set("descriptors", &vec![2; 1 << 20]);
        tree.set("bDeviceClass", b"zz\n");
        tree.set("speed", &[0xff; 4096]);
        tree.set("manufacturer/not-a-file", b"");
        let reading = tree.read().unwrap();
        assert_eq!(reading.product.unwrap().0.len(), ATTRIBUTE_BYTES_MAX);
        assert_eq!(reading.descriptors.0.len(), DESCRIPTORS_BYTES_MAX);
        assert_eq!((reading.class, reading.speed, reading.manufacturer), (None, None, None));
    }

    #[test]
    fn what_does_not_say_which_device_it_is_is_not_ready_and_what_is_not_there_is_gone() {
        let tree = Tree::new();
        for (name, broken) in [("devnum", &b"x"[..]), ("idVendor", b""), ("descriptors", b"")] {
            let tree = Tree::new();
            tree.set(name, broken);
            assert!(matches!(tree.read(), Err(Unread::NotReady)), "{name}");
        }
        let sysfs = Sysfs::new(tree.0.path());
        assert!(matches!(sysfs.read("1-2".parse().unwrap()), Err(Unread::Gone)));
        let port = "1-1".parse().unwrap();
        assert!(matches!(sysfs.read_devpath("/bus/usb/devices/1-1", port, 6), Err(Unread::Gone)));
        assert!(sysfs.read_devpath("/bus/usb/devices/1-1", port, 5).is_ok());
    }

    #[test]
    fn descriptors_are_those_of_the_device_with_the_address() {
        let tree = Tree::new();
        let descriptors =
            |port: &str, address| Sysfs::new(tree.0.path()).descriptors(port.parse().unwrap(), address);
        assert_eq!(descriptors("1-1", 5).unwrap(), DESCRIPTOR);
        assert_eq!(descriptors("1-1", 6), None);
        assert_eq!(descriptors("1-2", 5), None);
        tree.set("devnum", b"x");
        assert_eq!(descriptors("1-1", 5), None);
        tree.set("devnum", b"5\n");
        fs::remove_file(tree.0.path().join("bus/usb/devices/1-1/descriptors")).unwrap();
        assert_eq!(descriptors("1-1", 5), None);
    }

    #[test]
    fn no_bus_is_an_empty_bus_but_no_sysfs_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        assert!(Sysfs::new(root.path()).ports().is_err());
        fs::create_dir(root.path().join("bus")).unwrap();
        assert_eq!(Sysfs::new(root.path()).ports().unwrap(), []);
        for name in ["1-1", "1-1:1.0", "usb1", "1-0:1.0", "junk"] {
            fs::create_dir_all(root.path().join("bus/usb/devices").join(name)).unwrap();
        }
        let names: Vec<_> = Sysfs::new(root.path()).ports().unwrap().iter().map(Port::to_string).collect();
        assert_eq!(names, ["usb1", "1-1"]);
    }
}
