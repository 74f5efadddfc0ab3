//! The sysfs tree of the bus, laid out as drivers/usb/core/sysfs.c and drivers/base/core.c do.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::descriptors;
use crate::device::{CLASS_HUB, Interface};
use crate::namespace::Directory;
use crate::uevent::Attached;

/// Where the tree is written.
pub(crate) struct Tree {
    sys: Directory,
    dev_bus: Directory,
}

impl Tree {
    pub(crate) fn new(sys: Directory, dev_bus: Directory) -> Self {
        Self { sys, dev_bus }
    }

    /// Makes what loading usbcore makes; harmless when it is there.
    pub(crate) fn create_subsystem(&self) -> io::Result<()> {
        fs::create_dir_all(self.sys.path().join("bus/usb/devices"))?;
        fs::create_dir_all(self.sys.path().join("bus/usb/drivers/usb"))?;
        fs::create_dir_all(self.dev_bus.path().join("usb"))
    }

    /// Writes the device as it is when its `add` is sent: strings and descriptors, but not yet configured.
    pub(crate) fn write_device(&self, attached: &Attached) -> io::Result<()> {
        self.create_subsystem()?;
        let directory = self.directory(&attached.port.devpath());
        fs::create_dir_all(&directory)?;
        write_attributes(&directory, device_attributes(attached))?;
        let device = &attached.device;
        let strings = [
            ("manufacturer", &device.manufacturer),
            ("product", &device.product_name),
            ("serial", &device.serial),
        ];
        for (name, string) in strings {
            if let Some(bytes) = string {
                fs::write(directory.join(name), [bytes, b"\n".as_slice()].concat())?;
            }
        }
        let descriptors = descriptors::build(device);
        fs::write(directory.join("descriptors"), &descriptors)?;
        self.link_into_bus(&directory, &attached.port.devpath(), &attached.port.to_string())?;
        let node = self.dev_bus.path().join(attached.node());
        if let Some(bus) = node.parent() {
            fs::create_dir_all(bus)?;
        }
        fs::write(node, descriptors)
    }

    /// Writes what the usb driver adds by choosing a configuration, interfaces excepted.
    pub(crate) fn write_configuration(&self, attached: &Attached) -> io::Result<()> {
        let directory = self.directory(&attached.port.devpath());
        let speed = attached.device.speed;
        self.link_driver(&directory, &attached.port.devpath(), "usb")?;
        let attributes = [
            ("bConfigurationValue", "1\n".into()),
            ("bNumInterfaces", format!("{:2}\n", descriptors::interface_count(&attached.device))),
            ("bmAttributes", format!("{:02x}\n", descriptors::CONFIGURATION_ATTRIBUTES)),
            ("bMaxPower", format!("{}mA\n", descriptors::max_power_ma(speed))),
            ("uevent", attached.fields(true)),
        ];
        attributes.iter().try_for_each(|(name, value)| replace(&directory.join(name), value.as_bytes()))
    }

    /// Writes one interface directory with its driver bound.
    pub(crate) fn write_interface(&self, attached: &Attached, interface: &Interface) -> io::Result<()> {
        let name = attached.port.interface_name(interface.number);
        let devpath = attached.interface_devpath(interface);
        let directory = self.directory(&devpath);
        fs::create_dir(&directory)?;
        write_attributes(
            &directory,
            [
                ("bInterfaceNumber", format!("{:02x}\n", interface.number)),
                ("bAlternateSetting", " 0\n".into()),
                ("bNumEndpoints", "01\n".into()),
                ("bInterfaceClass", format!("{:02x}\n", interface.class)),
                ("bInterfaceSubClass", format!("{:02x}\n", interface.subclass)),
                ("bInterfaceProtocol", format!("{:02x}\n", interface.protocol)),
                ("modalias", format!("{}\n", attached.modalias(interface))),
                ("authorized", "1\n".into()),
                ("uevent", attached.interface_fields(interface, true)),
            ],
        )?;
        if let Some(driver) = &interface.driver {
            fs::create_dir_all(self.sys.path().join("bus/usb/drivers").join(driver))?;
            self.link_driver(&directory, &devpath, driver)?;
        }
        self.link_into_bus(&directory, &devpath, &name)
    }

    /// Removes the device and everything below it.
    pub(crate) fn remove(&self, attached: &Attached) -> io::Result<()> {
        let devices = self.sys.path().join("bus/usb/devices");
        for interface in &attached.device.interfaces {
            fs::remove_file(devices.join(attached.port.interface_name(interface.number)))?;
        }
        fs::remove_file(devices.join(attached.port.to_string()))?;
        fs::remove_dir_all(self.directory(&attached.port.devpath()))?;
        fs::remove_file(self.dev_bus.path().join(attached.node()))
    }

    /// The directory of a DEVPATH.
    pub(crate) fn directory(&self, devpath: &str) -> PathBuf {
        self.sys.path().join(devpath.trim_start_matches('/'))
    }

    fn link_into_bus(&self, directory: &Path, devpath: &str, name: &str) -> io::Result<()> {
        symlink(format!("{}/bus/usb", upwards(devpath)), directory.join("subsystem"))?;
        symlink(format!("../../..{devpath}"), self.sys.path().join("bus/usb/devices").join(name))
    }

    fn link_driver(&self, directory: &Path, devpath: &str, driver: &str) -> io::Result<()> {
        symlink(format!("{}/bus/usb/drivers/{driver}", upwards(devpath)), directory.join("driver"))
    }
}

/// An attribute whose readers wait, as they do on a real bus while the hub's lock is held.
/// When this is dropped the waiting readers see an empty value, and later ones block in `open`.
#[must_use = "readers wait only as long as this is held"]
pub struct BlockedAttribute {
    path: PathBuf,
    writer: File,
}

impl BlockedAttribute {
    /// Replaces the attribute with a FIFO. Held open for writing, so that `open` succeeds and only `read` waits.
    pub(crate) fn new(path: PathBuf) -> io::Result<Self> {
        let fifo = hidden(&path);
        mkfifo(&fifo, Mode::from_bits_truncate(0o444))?;
        let writer = File::options().read(true).write(true).open(&fifo)?;
        fs::rename(fifo, &path)?;
        Ok(Self { path, writer })
    }

    /// Gives `value` (at most 4096 bytes, a page, like any attribute) to the reader that waits,
    /// and to all later ones from an ordinary file.
    ///
    /// # Errors
    /// `NotFound` when the device has been unplugged meanwhile; the reader that waits then sees an empty value.
    pub fn release(mut self, value: &[u8]) -> io::Result<()> {
        replace(&self.path, value)?;
        self.writer.write_all(value)
    }
}

/// Gives a file this content in one step, so that no reader sees it half written; a FIFO in its place goes.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = hidden(path);
    fs::write(&new, content)?;
    fs::rename(new, path)
}

/// A name beside `path` that no reader of sysfs asks for.
fn hidden(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

fn device_attributes(attached: &Attached) -> [(&'static str, String); 22] {
    let device = &attached.device;
    let [major, minor] = device.speed.bcd_usb().to_be_bytes();
    let ports = match (device.class, attached.port.is_root()) {
        (CLASS_HUB, true) => 16,
        (CLASS_HUB, false) => 4,
        _ => 0,
    };
    [
        ("busnum", format!("{}\n", attached.port.bus)),
        ("devnum", format!("{}\n", attached.devnum)),
        ("devpath", format!("{}\n", attached.port.chain_text())),
        ("idVendor", format!("{:04x}\n", device.vendor)),
        ("idProduct", format!("{:04x}\n", device.product)),
        ("bcdDevice", format!("{:04x}\n", device.bcd_device)),
        ("bDeviceClass", format!("{:02x}\n", device.class)),
        ("bDeviceSubClass", format!("{:02x}\n", device.subclass)),
        ("bDeviceProtocol", format!("{:02x}\n", device.protocol)),
        ("bNumConfigurations", "1\n".into()),
        ("bMaxPacketSize0", format!("{}\n", device.speed.max_packet_size0())),
        ("bConfigurationValue", String::new()),
        ("bNumInterfaces", String::new()),
        ("bmAttributes", String::new()),
        ("bMaxPower", String::new()),
        ("configuration", String::new()),
        ("speed", format!("{}\n", device.speed.mbps())),
        ("version", format!("{major:2x}.{minor:02x}\n")),
        ("maxchild", format!("{ports}\n")),
        ("authorized", "1\n".into()),
        ("removable", if attached.port.is_root() { "unknown\n" } else { "removable\n" }.into()),
        ("uevent", attached.fields(false)),
    ]
}

fn write_attributes<const N: usize>(directory: &Path, attributes: [(&str, String); N]) -> io::Result<()> {
    attributes.iter().try_for_each(|(name, value)| fs::write(directory.join(name), value))
}

/// From the directory of `devpath` back to `/sys`.
fn upwards(devpath: &str) -> String {
    vec![".."; devpath.matches('/').count()].join("/")
}
