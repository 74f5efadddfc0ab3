//! The bus: what is plugged where, and the steps the kernel takes when that changes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::device::{CLASS_HUB, Device, Interface};
use crate::namespace;
use crate::netlink::Injector;
use crate::port::Port;
use crate::sysfs::{self, BlockedAttribute, Tree};
use crate::uevent::Attached;

/// Device numbers run from 1, the root hub, to 127 on each bus.
const DEVNUM_MAX: u8 = 127;

/// Virtual USB buses of one pair of namespaces. They end with the last thread or process in them;
/// dropping this cleans nothing up.
///
/// Ports are named as in `/sys/bus/usb/devices`: `1-1.2` is port 2 of the hub in port 1 of bus 1, `usb1` the root
/// hub. A name that cannot be one gives `InvalidInput`, an empty port `NotFound`, a taken one `AlreadyExists`.
pub struct Bus {
    tree: Tree,
    injector: Injector,
    boot_id: File,
    attached: BTreeMap<Port, Attached>,
    /// The device number each bus tries next (`devnum_next` in struct usb_bus).
    devnum_next: BTreeMap<u8, u8>,
}

/// One device that is on the bus now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Present {
    /// Name in `/sys/bus/usb/devices`.
    pub port: String,
    /// Bus number.
    pub bus: u8,
    /// Device number (address) on that bus.
    pub devnum: u8,
    /// `idVendor`.
    pub vendor: u16,
    /// `idProduct`.
    pub product: u16,
}

impl Bus {
    /// Moves the calling thread, and so every process it starts from now on, into new mount and network namespaces
    /// with an empty USB subsystem. There is no way back: leave by ending the thread.
    ///
    /// Device nodes that the machine gets later may not show up in the namespace's `/dev`.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_SYS_ADMIN; the message says what to do.
    pub fn enter() -> io::Result<Self> {
        let bus = Self::without_usb()?;
        bus.tree.create_subsystem()?;
        Ok(bus)
    }

    /// Like [`Bus::enter`], on a machine without `/sys/bus/usb` and `/dev/bus/usb`. The first device to be plugged
    /// brings both, as loading usbcore late does.
    ///
    /// # Errors
    /// As [`Bus::enter`].
    pub fn without_usb() -> io::Result<Self> {
        let namespace = namespace::enter()?;
        Ok(Self {
            tree: Tree::new(namespace.sys, namespace.dev_bus),
            injector: Injector::open()?,
            boot_id: namespace.boot_id,
            attached: BTreeMap::new(),
            devnum_next: BTreeMap::new(),
        })
    }

    /// Adds the root hub `usbBUS` with its uevents. Plugging into a bus without one adds it silently.
    ///
    /// # Errors
    /// `AlreadyExists`, `InvalidInput` for bus 0, and I/O errors.
    pub fn add_root_hub(&mut self, bus: u8) -> io::Result<()> {
        let port = Port::parse(&format!("usb{bus}"))?;
        let root = self.attach_root_hub(port)?;
        self.appear(&root)
    }

    /// Plugs `device` in, announces each step as the kernel does, and returns its device number: the device appears
    /// and `add` is sent; then each interface appears, with `add` and, if it has a driver, `bind`; then `bind`.
    /// A reader woken by the first `add` may find no interfaces yet. For a tree that is complete before the first
    /// message, use [`Bus::plug_silent`] and [`Bus::announce`].
    ///
    /// # Errors
    /// Besides those of the port's name: `NotConnected` when 127 devices are on the bus, and I/O errors.
    pub fn plug(&mut self, port: &str, device: &Device) -> io::Result<u8> {
        let attached = self.attach(port, device)?;
        self.appear(&attached)?;
        Ok(attached.devnum)
    }

    /// Plugs `device` in without a word: an edge that everybody missed.
    ///
    /// # Errors
    /// As [`Bus::plug`].
    pub fn plug_silent(&mut self, port: &str, device: &Device) -> io::Result<u8> {
        let attached = self.attach(port, device)?;
        self.write(&attached)?;
        Ok(attached.devnum)
    }

    /// Plugs `device` in and sends only its `add`, for floods in which sysfs is to be right.
    ///
    /// # Errors
    /// As [`Bus::plug`].
    pub fn plug_light(&mut self, port: &str, device: &Device) -> io::Result<u8> {
        let devnum = self.plug_silent(port, device)?;
        self.uevent("add", port)?;
        Ok(devnum)
    }

    /// Sends all messages of a plug for a device that is on the bus.
    ///
    /// # Errors
    /// `NotFound` when the port is empty, and I/O errors.
    pub fn announce(&mut self, port: &str) -> io::Result<()> {
        let attached = self.find(port)?.clone();
        self.injector.broadcast(&attached.message("add"))?;
        for interface in &attached.device.interfaces {
            self.injector.broadcast(&attached.interface_message("add", interface))?;
            if interface.driver.is_some() {
                self.injector.broadcast(&attached.interface_message("bind", interface))?;
            }
        }
        self.injector.broadcast(&attached.message("bind"))
    }

    /// Pulls out the device and everything below it, the leaves first. Each disappears from sysfs, then come
    /// `unbind` (where there was a driver) and `remove` of its interfaces, its own `unbind` and `remove`.
    ///
    /// # Errors
    /// `NotFound` when the port is empty, and I/O errors.
    pub fn unplug(&mut self, port: &str) -> io::Result<()> {
        for attached in self.leaving(port)? {
            self.detach(&attached)?;
            for interface in &attached.device.interfaces {
                if interface.driver.is_some() {
                    self.injector.broadcast(&attached.interface_message("unbind", interface))?;
                }
                self.injector.broadcast(&attached.interface_message("remove", interface))?;
            }
            self.injector.broadcast(&attached.message("unbind"))?;
            self.injector.broadcast(&attached.message("remove"))?;
        }
        Ok(())
    }

    /// Pulls out the device and everything below it without a word.
    ///
    /// # Errors
    /// As [`Bus::unplug`].
    pub fn unplug_silent(&mut self, port: &str) -> io::Result<()> {
        self.leaving(port)?.iter().try_for_each(|attached| self.detach(attached))
    }

    /// Pulls out the device and everything below it and sends only `remove` for each device.
    ///
    /// # Errors
    /// As [`Bus::unplug`].
    pub fn unplug_light(&mut self, port: &str) -> io::Result<()> {
        for attached in self.leaving(port)? {
            self.detach(&attached)?;
            self.injector.broadcast(&attached.message("remove"))?;
        }
        Ok(())
    }

    /// Floods: sends `remove` for each of `ports`, then `add` for each, `rounds` times over, as fast as the kernel
    /// takes it, and returns the number of uevents. Sysfs and device numbers stay, so what is on the bus at the end is
    /// what was there at the start.
    ///
    /// # Errors
    /// `NotFound` when a port is empty, and I/O errors.
    pub fn cycle(&mut self, ports: &[&str], rounds: u32) -> io::Result<u64> {
        let mut messages = Vec::new();
        for action in ["remove", "add"] {
            for port in ports {
                messages.push(self.find(port)?.message(action));
            }
        }
        for _ in 0..rounds {
            messages.iter().try_for_each(|message| self.injector.broadcast(message))?;
        }
        Ok(u64::from(rounds) * messages.len() as u64)
    }

    /// Floods: sends `add` and `remove` of `device` in the empty `port`, `cycles` times over, each time with the next
    /// device number, and returns the number of uevents. Sysfs never shows the device: it is always gone already.
    ///
    /// # Errors
    /// As [`Bus::plug`].
    pub fn flood(&mut self, port: &str, device: &Device, cycles: u32) -> io::Result<u64> {
        let mut attached = self.place(port, device)?;
        for _ in 0..cycles {
            attached.devnum = self.choose_devnum(attached.port.bus)?;
            self.injector.broadcast(&attached.message("add"))?;
            self.injector.broadcast(&attached.message("remove"))?;
        }
        Ok(u64::from(cycles) * 2)
    }

    /// The message the kernel sends for `action` on a device (`1-1`) or an interface (`1-1:1.0`) that is on the bus,
    /// without SEQNUM. To keep, alter or [`inject`](Bus::inject), also after the device has gone.
    ///
    /// # Errors
    /// `NotFound` when there is no such device or interface.
    pub fn message(&self, action: &str, name: &str) -> io::Result<Vec<u8>> {
        Ok(match self.locate(name)? {
            (attached, None) => attached.message(action),
            (attached, Some(interface)) => attached.interface_message(action, interface),
        })
    }

    /// Sends just one message: [`Bus::message`], injected.
    ///
    /// # Errors
    /// As [`Bus::message`] and [`Bus::inject`].
    pub fn uevent(&mut self, action: &str, name: &str) -> io::Result<()> {
        let message = self.message(action, name)?;
        self.inject(&message)
    }

    /// Has the kernel append SEQNUM to `payload` and broadcast it, whatever it is. It has been queued to every
    /// listener, or dropped for want of room in the listener's queue, when this returns.
    ///
    /// # Errors
    /// `InvalidInput` when the payload is too long: [`UEVENT_BYTES_MAX`](crate::UEVENT_BYTES_MAX) always fit.
    pub fn inject(&mut self, payload: &[u8]) -> io::Result<()> {
        self.injector.broadcast(payload)
    }

    /// Sends `payload` to the kernel's multicast group from user space: nl_pid is not 0 and there is no SEQNUM.
    /// A listener must not believe it.
    ///
    /// # Errors
    /// I/O errors of the socket.
    pub fn send_from_user_space(&self, payload: &[u8]) -> io::Result<()> {
        self.injector.multicast(payload)
    }

    /// Passes a [`Bus::message`] on as udevd does when its rules are through (`struct monitor_netlink_header`,
    /// systemd's device-monitor.c); udevd's filter hashes are left out.
    ///
    /// # Errors
    /// I/O errors of the socket.
    pub fn send_as_udev(&self, message: &[u8]) -> io::Result<()> {
        const HEADER_BYTES: u32 = 40;

        let summary = message.iter().position(|byte| *byte == 0).map_or(0, |end| end + 1);
        let properties = &message[summary..];
        let length = u32::try_from(properties.len()).map_err(io::Error::other)?;
        let mut packet = b"libudev\0\xfe\xed\xca\xfe".to_vec();
        for number in [HEADER_BYTES, HEADER_BYTES, length, 0, 0, 0, 0] {
            packet.extend(number.to_ne_bytes());
        }
        packet.extend(properties);
        self.injector.multicast_udev(&packet)
    }

    /// Gives an attribute of a device (`1-1`) or an interface (`1-1:1.0`) exactly these bytes; adds no newline.
    ///
    /// # Errors
    /// `NotFound` when there is no such device, and I/O errors.
    pub fn set_attribute(&self, name: &str, attribute: &str, bytes: &[u8]) -> io::Result<()> {
        sysfs::replace(&self.attribute(name, attribute)?, bytes)
    }

    /// Removes an attribute of a device or an interface.
    ///
    /// # Errors
    /// `NotFound` when there is no such attribute.
    pub fn remove_attribute(&self, name: &str, attribute: &str) -> io::Result<()> {
        fs::remove_file(self.attribute(name, attribute)?)
    }

    /// Makes reads of an attribute wait until the returned value releases them.
    ///
    /// # Errors
    /// `NotFound` when there is no such device, and I/O errors.
    pub fn make_blocking_attribute(&self, name: &str, attribute: &str) -> io::Result<BlockedAttribute> {
        BlockedAttribute::new(self.attribute(name, attribute)?)
    }

    /// Everything on the buses now, root hubs included, ordered by bus and port: the truth to compare with.
    pub fn devices(&self) -> Vec<Present> {
        let present = |attached: &Attached| Present {
            port: attached.port.to_string(),
            bus: attached.port.bus,
            devnum: attached.devnum,
            vendor: attached.device.vendor,
            product: attached.device.product,
        };
        self.attached.values().map(present).collect()
    }

    /// Changes `/proc/sys/kernel/random/boot_id` as the namespace sees it, for tests of a reboot. 36 characters.
    ///
    /// # Errors
    /// `InvalidInput` when `uuid` has another length.
    pub fn set_boot_id(&self, uuid: &str) -> io::Result<()> {
        if uuid.len() != 36 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{uuid:?} is no UUID of 36 characters"),
            ));
        }
        self.boot_id.write_all_at(uuid.as_bytes(), 0)
    }

    /// Checks that `device` can be put into `port`; its device number is yet to be chosen.
    fn place(&mut self, port: &str, device: &Device) -> io::Result<Attached> {
        let port = Port::parse(port)?;
        let Some(parent) = port.parent() else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{port} is a root hub: use add_root_hub"),
            ));
        };
        if parent.is_root() && !self.attached.contains_key(&parent) {
            let root = self.attach_root_hub(parent.clone())?;
            self.write(&root)?;
        }
        let hub = self.attached.get(&parent).ok_or_else(|| not_found(&parent.to_string()))?;
        if hub.device.class != CLASS_HUB {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the device in {parent} is no hub"),
            ));
        }
        if self.attached.contains_key(&port) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{port} has a device already")));
        }
        Ok(Attached { port, devnum: 0, device: device.clone() })
    }

    fn attach(&mut self, port: &str, device: &Device) -> io::Result<Attached> {
        let mut attached = self.place(port, device)?;
        attached.devnum = self.choose_devnum(attached.port.bus)?;
        self.attached.insert(attached.port.clone(), attached.clone());
        Ok(attached)
    }

    fn attach_root_hub(&mut self, port: Port) -> io::Result<Attached> {
        if self.attached.contains_key(&port) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{port} is there already")));
        }
        let root = Attached { device: Device::root_hub(&port.controller()), devnum: 1, port: port.clone() };
        self.devnum_next.insert(port.bus, 2);
        self.attached.insert(port, root.clone());
        Ok(root)
    }

    /// Shows and announces a device step by step.
    fn appear(&mut self, attached: &Attached) -> io::Result<()> {
        self.tree.write_device(attached)?;
        self.injector.broadcast(&attached.message("add"))?;
        self.tree.write_configuration(attached)?;
        for interface in &attached.device.interfaces {
            self.tree.write_interface(attached, interface)?;
            self.injector.broadcast(&attached.interface_message("add", interface))?;
            if interface.driver.is_some() {
                self.injector.broadcast(&attached.interface_message("bind", interface))?;
            }
        }
        self.injector.broadcast(&attached.message("bind"))
    }

    fn write(&self, attached: &Attached) -> io::Result<()> {
        self.tree.write_device(attached)?;
        self.tree.write_configuration(attached)?;
        attached
            .device
            .interfaces
            .iter()
            .try_for_each(|interface| self.tree.write_interface(attached, interface))
    }

    /// A device and everything below it, in the order in which the kernel lets them go.
    fn leaving(&self, port: &str) -> io::Result<Vec<Attached>> {
        let mut leaving = Vec::new();
        self.collect_leaves_first(&self.find(port)?.port, &mut leaving);
        Ok(leaving)
    }

    fn detach(&mut self, attached: &Attached) -> io::Result<()> {
        self.attached.remove(&attached.port);
        self.tree.remove(attached)
    }

    /// Ports in ascending order below each hub (`hub_disconnect_children`); recursion ends at six ports.
    fn collect_leaves_first(&self, port: &Port, leaving: &mut Vec<Attached>) {
        for child in self.attached.keys().filter(|child| child.parent().as_ref() == Some(port)) {
            self.collect_leaves_first(child, leaving);
        }
        leaving.extend(self.attached.get(port).cloned());
    }

    /// The next free number after the last one given, or the lowest free one (`choose_devnum`,
    /// drivers/usb/core/hub.c).
    fn choose_devnum(&mut self, bus: u8) -> io::Result<u8> {
        let mut free = [true; DEVNUM_MAX as usize + 1];
        for attached in self.attached.values().filter(|attached| attached.port.bus == bus) {
            free[usize::from(attached.devnum)] = false;
        }
        let next = self.devnum_next.get(&bus).copied().unwrap_or(1);
        let chosen = (next..=DEVNUM_MAX).chain(1..next).find(|devnum| free[usize::from(*devnum)]);
        let devnum = chosen.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotConnected, format!("bus {bus} has {DEVNUM_MAX} devices already"))
        })?;
        self.devnum_next.insert(bus, if devnum == DEVNUM_MAX { 1 } else { devnum + 1 });
        Ok(devnum)
    }

    /// The device `1-1`, or the interface `1-1:1.0` and its device.
    fn locate(&self, name: &str) -> io::Result<(&Attached, Option<&Interface>)> {
        if !name.contains(':') {
            return Ok((self.find(name)?, None));
        }
        for attached in self.attached.values() {
            let named = |interface: &&Interface| attached.port.interface_name(interface.number) == name;
            if let Some(interface) = attached.device.interfaces.iter().find(named) {
                return Ok((attached, Some(interface)));
            }
        }
        Err(not_found(name))
    }

    fn attribute(&self, name: &str, attribute: &str) -> io::Result<PathBuf> {
        let (attached, interface) = self.locate(name)?;
        let devpath = match interface {
            None => attached.port.devpath(),
            Some(interface) => attached.interface_devpath(interface),
        };
        Ok(self.tree.directory(&devpath).join(attribute))
    }

    fn find(&self, port: &str) -> io::Result<&Attached> {
        self.attached.get(&Port::parse(port)?).ok_or_else(|| not_found(port))
    }
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no device {name} on the bus"))
}
