//! A raw netlink listener, and plain reads of `/sys`, check what the bus says.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not recognise as tests")]

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, IoSliceMut, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::{env, io, thread};

use autoweave_usb_testbus::{Bus, Device, Interface, Present, Speed, UEVENT_BYTES_MAX, padded};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType,
    UnixCredentials, bind, recvmsg, setsockopt, socket, sockopt,
};

const DEVICES: &str = "/sys/bus/usb/devices";
const PCI: &str = "/devices/pci0000:00/0000:00:14.0";

struct Heard {
    /// Address of the sender; 0 is the kernel.
    nl_pid: u32,
    credentials: UnixCredentials,
    text: String,
}

impl Heard {
    fn field(&self, name: &str) -> Option<&str> {
        self.text.split('\0').find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    }

    fn headline(&self) -> String {
        let driver = self.field("DRIVER").map(|driver| format!(" {driver}")).unwrap_or_default();
        let (action, path) = self.text.split('\0').next().unwrap().split_once('@').unwrap();
        format!("{action} {}{driver}", path.rsplit('/').next().unwrap())
    }

    fn seqnum(&self) -> u64 {
        self.field("SEQNUM").expect("every broadcast has one").parse().unwrap()
    }
}

struct Listener(OwnedFd);

impl Listener {
    fn open() -> Self {
        let protocol = SockProtocol::NetlinkKObjectUEvent;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
        setsockopt(&socket, sockopt::PassCred, &true).unwrap();
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 1)).unwrap();
        Self(socket)
    }

    fn receive(&self) -> nix::Result<Heard> {
        let mut bytes = [0; 4096];
        let mut control = cmsg_space!(UnixCredentials);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let message = recvmsg::<NetlinkAddr>(
            self.0.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let credentials = message.cmsgs()?.find_map(|item| match item {
            ControlMessageOwned::ScmCredentials(credentials) => Some(credentials),
            _ => None,
        });
        let (nl_pid, length) = (message.address.unwrap().pid(), message.bytes);
        let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
        Ok(Heard { nl_pid, credentials: credentials.unwrap(), text })
    }

    /// What is queued now. The kernel queues before the injection returns, so this never has to wait.
    /// Another process's uevents, such as the machine's own, are left out.
    fn drain(&self) -> Vec<Heard> {
        let mut heard = Vec::new();
        loop {
            match self.receive() {
                Ok(message) => heard.push(message),
                Err(Errno::EAGAIN) => break,
                Err(error) => panic!("{error}"),
            }
        }
        let own = i32::try_from(std::process::id()).unwrap();
        heard.retain(|message| message.credentials.pid() == own);
        heard
    }

    fn headlines(&self) -> Vec<String> {
        self.drain().iter().map(Heard::headline).collect()
    }
}

fn enter() -> Bus {
    Bus::enter().unwrap_or_else(|error| panic!("{error}"))
}

fn read(name: &str, attribute: &str) -> String {
    fs::read_to_string(Path::new(DEVICES).join(name).join(attribute)).unwrap()
}

fn names() -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(DEVICES)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn one_plug_and_unplug_is_heard_in_the_kernels_order_and_from_the_kernel() {
    let mut bus = enter();
    let listener = Listener::open();
    let devnum = bus.plug("1-1", &Device::receiver()).unwrap();
    assert_eq!(devnum, 2);
    bus.unplug("1-1").unwrap();

    let heard = listener.drain();
    let headlines: Vec<_> = heard.iter().map(Heard::headline).collect();
    assert_eq!(
        headlines,
        [
            "add 1-1",
            "add 1-1:1.0",
            "bind 1-1:1.0 usbhid",
            "bind 1-1 usb", //
            "unbind 1-1:1.0",
            "remove 1-1:1.0",
            "unbind 1-1",
            "remove 1-1",
        ]
    );
    for message in &heard {
        assert_eq!((message.nl_pid, message.credentials.uid()), (0, 0));
        assert_eq!(message.field("SUBSYSTEM"), Some("usb"));
    }
    assert!(heard.is_sorted_by_key(Heard::seqnum));
    let add = &heard[0];
    assert!(add.text.starts_with(&format!("add@{PCI}/usb1/1-1\0")));
    assert_eq!(add.field("DEVTYPE"), Some("usb_device"));
    assert_eq!(add.field("PRODUCT"), Some("46d/c52b/1201"));
    assert_eq!((add.field("BUSNUM"), add.field("DEVNUM")), (Some("001"), Some("002")));
    let latest: u64 = fs::read_to_string("/sys/kernel/uevent_seqnum").unwrap().trim().parse().unwrap();
    assert!(latest >= heard[7].seqnum(), "{latest} is the last number the kernel gave");
}

#[test]
fn sysfs_looks_as_the_kernel_lays_it_out() {
    let mut bus = enter();
    assert!(names().is_empty());
    bus.plug("1-1", &Device::hub()).unwrap();
    bus.plug("1-1.2", &Device::receiver()).unwrap();
    assert_eq!(names(), ["1-0:1.0", "1-1", "1-1.2", "1-1.2:1.0", "1-1:1.0", "usb1"]);

    let place = fs::canonicalize(Path::new(DEVICES).join("1-1.2")).unwrap();
    assert_eq!(place.to_str().unwrap(), format!("/sys{PCI}/usb1/1-1/1-1.2"));
    let expected = [
        ("busnum", "1\n"),
        ("devnum", "3\n"),
        ("devpath", "1.2\n"),
        ("idVendor", "046d\n"),
        ("idProduct", "c52b\n"),
        ("bcdDevice", "1201\n"),
        ("bDeviceClass", "00\n"),
        ("speed", "12\n"),
        ("version", " 2.00\n"),
        ("manufacturer", "Logitech\n"),
        ("product", "USB Receiver\n"),
        ("serial", "ABC123\n"),
        ("maxchild", "0\n"),
        ("bConfigurationValue", "1\n"),
        ("bNumInterfaces", " 1\n"),
        ("bMaxPacketSize0", "64\n"),
        ("removable", "removable\n"),
        ("authorized", "1\n"),
        (
            "uevent",
            "MAJOR=189\nMINOR=2\nDEVNAME=bus/usb/001/003\nDEVTYPE=usb_device\nDRIVER=usb\n\
             PRODUCT=46d/c52b/1201\nTYPE=0/0/0\nBUSNUM=001\nDEVNUM=003\n",
        ),
    ];
    for (attribute, value) in expected {
        assert_eq!(read("1-1.2", attribute), value, "{attribute}");
    }
    assert_eq!(fs::read(place.join("descriptors")).unwrap().len(), 43);
    assert_eq!(read("1-1.2:1.0", "bInterfaceClass"), "03\n");
    for (link, target) in [
        ("1-1.2/subsystem", "/sys/bus/usb"),
        ("1-1.2/driver", "/sys/bus/usb/drivers/usb"),
        ("1-1.2:1.0/subsystem", "/sys/bus/usb"),
        ("1-1.2:1.0/driver", "/sys/bus/usb/drivers/usbhid"),
    ] {
        assert_eq!(fs::canonicalize(Path::new(DEVICES).join(link)).unwrap(), Path::new(target), "{link}");
    }
    assert_eq!(read("usb1", "serial"), "0000:00:14.0\n");
    assert_eq!(read("usb1", "devpath"), "0\n");
    assert!(!Path::new(DEVICES).join("1-1/serial").exists(), "the hub has no serial number");
    assert!(Path::new("/dev/bus/usb/001/003").exists());

    bus.unplug("1-1").unwrap();
    assert_eq!(names(), ["1-0:1.0", "usb1"]);
    assert!(!place.exists());
    assert!(!Path::new("/dev/bus/usb/001/003").exists());
}

#[test]
fn a_hub_takes_its_descendants_with_it_leaves_first() {
    let mut bus = enter();
    bus.plug("1-1", &Device::hub()).unwrap();
    bus.plug("1-1.1", &Device::hub()).unwrap();
    bus.plug("1-1.1.4", &Device::numbered(1)).unwrap();
    bus.plug("1-1.2", &Device::numbered(2)).unwrap();
    bus.plug("1-10", &Device::numbered(3)).unwrap();
    let listener = Listener::open();
    bus.unplug("1-1").unwrap();
    let removed: Vec<_> = listener.headlines();
    let removed: Vec<_> = removed.iter().filter_map(|line| line.strip_prefix("remove ")).collect();
    assert_eq!(
        removed,
        ["1-1.1.4:1.0", "1-1.1.4", "1-1.1:1.0", "1-1.1", "1-1.2:1.0", "1-1.2", "1-1:1.0", "1-1"]
    );
    let left: Vec<_> = bus.devices().into_iter().map(|device| device.port).collect();
    assert_eq!(left, ["usb1", "1-10"]);
}

#[test]
fn device_numbers_grow_to_127_and_wrap_to_the_lowest_free_one() {
    let mut bus = enter();
    assert_eq!(bus.plug("1-1", &Device::hub()).unwrap(), 2);
    for expected in 3..=127 {
        assert_eq!(bus.plug_silent("1-2", &Device::receiver()).unwrap(), expected);
        bus.unplug_silent("1-2").unwrap();
    }
    assert_eq!(bus.plug_silent("1-2", &Device::receiver()).unwrap(), 3, "1 and 2 are taken");
    assert_eq!(bus.plug("2-1", &Device::receiver()).unwrap(), 2, "each bus counts for itself");
    for n in 4..=127 {
        assert_eq!(bus.plug_silent(&format!("1-1.{n}"), &Device::numbered(n.into())).unwrap(), n);
    }
    let full = bus.plug("1-3", &Device::receiver()).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::NotConnected);
    assert_eq!(bus.devices().len(), 127 + 2);
}

#[test]
fn impossible_plugs_are_refused() {
    let mut bus = enter();
    bus.plug("1-1", &Device::receiver()).unwrap();
    let mut kind = |port| bus.plug(port, &Device::receiver()).unwrap_err().kind();
    assert_eq!(kind("1-1"), ErrorKind::AlreadyExists);
    assert_eq!(kind("1-2.1"), ErrorKind::NotFound);
    assert_eq!(kind("1-1.1"), ErrorKind::InvalidInput, "a receiver has no ports");
    assert_eq!(kind("usb2"), ErrorKind::InvalidInput);
    assert_eq!(kind("../1"), ErrorKind::InvalidInput);
    assert_eq!(bus.unplug("1-2").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(bus.set_attribute("../..", "x", b"").unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(bus.message("add", "1-1:1.9").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn missed_edges_change_sysfs_and_the_truth_but_are_not_heard() {
    let mut bus = enter();
    let listener = Listener::open();
    bus.plug_silent("1-1", &Device::storage("S1")).unwrap();
    let stick = Present { port: "1-1".into(), bus: 1, devnum: 2, vendor: 0x0781, product: 0x5581 };
    assert_eq!(bus.devices()[1], stick);
    assert_eq!(read("1-1", "serial"), "S1\n");
    let late = bus.message("remove", "1-1").unwrap();
    bus.unplug_silent("1-1").unwrap();
    assert!(listener.drain().is_empty());

    bus.inject(&late).unwrap();
    assert_eq!(listener.headlines(), ["remove 1-1"]);
    bus.plug_silent("1-1", &Device::storage("S2")).unwrap();
    bus.announce("1-1").unwrap();
    bus.uevent("change", "1-1:1.0").unwrap();
    assert_eq!(
        listener.headlines(),
        ["add 1-1", "add 1-1:1.0", "bind 1-1:1.0 usb-storage", "bind 1-1 usb", "change 1-1:1.0 usb-storage"]
    );
    bus.unplug_light("1-1").unwrap();
    bus.plug_light("1-1", &Device::receiver()).unwrap();
    assert_eq!(listener.headlines(), ["remove 1-1", "add 1-1"]);
    assert_eq!(read("1-1", "devnum"), "4\n");
}

#[test]
fn root_hubs_announce_themselves_when_asked() {
    let mut bus = enter();
    let listener = Listener::open();
    bus.add_root_hub(1).unwrap();
    assert_eq!(listener.headlines(), ["add usb1", "add 1-0:1.0", "bind 1-0:1.0 hub", "bind usb1 usb"]);
    assert_eq!(bus.add_root_hub(1).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(bus.add_root_hub(0).unwrap_err().kind(), ErrorKind::InvalidInput);
    bus.plug_silent("1-1", &Device::receiver()).unwrap();
    bus.unplug("usb1").unwrap();
    assert!(bus.devices().is_empty() && names().is_empty());
}

#[test]
fn user_space_cannot_pass_for_the_kernel() {
    let mut bus = enter();
    let listener = Listener::open();
    bus.plug_silent("1-1", &Device::receiver()).unwrap();
    let forged = padded(&bus.message("add", "1-1").unwrap(), 3000);
    bus.send_from_user_space(&forged).unwrap();
    let heard = listener.drain();
    assert_eq!(heard.len(), 1);
    assert_ne!(heard[0].nl_pid, 0);
    assert_eq!(heard[0].text.len(), 3000);
    assert_eq!(heard[0].field("SEQNUM"), None);
}

#[test]
fn the_kernel_takes_messages_up_to_the_stated_limit() {
    let mut bus = enter();
    let listener = Listener::open();
    bus.plug_silent("1-1", &Device::receiver()).unwrap();
    let message = bus.message("add", "1-1").unwrap();
    bus.inject(&padded(&message, UEVENT_BYTES_MAX)).unwrap();
    let error = bus.inject(&padded(&message, 2048)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    bus.inject(b"").unwrap();
    bus.inject(b"\xff\0\0=\0").unwrap();
    let heard = listener.drain();
    assert_eq!(heard.len(), 3);
    assert!(heard[1].text.starts_with("SEQNUM="), "an empty payload has nothing else");
}

#[test]
fn a_flood_of_20_000_arrives_whole_at_a_listener_that_keeps_up() {
    let mut bus = enter();
    bus.plug_silent("1-1", &Device::receiver()).unwrap();
    let listener = Listener::open();
    let (mut sent, mut heard) = (0, Vec::new());
    // A default receive buffer holds about 160 of these.
    for _ in 0..200 {
        sent += bus.flood("1-2", &Device::numbered(7), 25).unwrap();
        sent += bus.cycle(&["1-1"], 25).unwrap();
        heard.extend(listener.drain());
    }
    assert_eq!((sent, heard.len()), (20_000, 20_000));
    assert!(heard.windows(2).all(|pair| pair[0].seqnum() < pair[1].seqnum()));
    let devnums: Vec<_> = heard[..6].iter().map(|message| message.field("DEVNUM").unwrap()).collect();
    assert_eq!(devnums, ["003", "003", "004", "004", "005", "005"]);
    assert!(!Path::new(DEVICES).join("1-2").exists());
}

#[test]
fn a_listener_that_does_not_keep_up_is_told_and_the_sender_is_not() {
    let mut bus = enter();
    bus.plug_silent("1-1", &Device::receiver()).unwrap();
    let listener = Listener::open();
    assert_eq!(bus.cycle(&["1-1"], 10_000).unwrap(), 20_000);
    assert_eq!(listener.receive().err(), Some(Errno::ENOBUFS));
    let queued = listener.drain().len();
    assert!(queued > 0 && queued < 20_000, "{queued}");
}

#[test]
fn attributes_can_be_changed_removed_and_blocked() {
    let mut bus = enter();
    bus.plug("1-1", &Device::receiver()).unwrap();
    bus.set_attribute("1-1", "product", b"\xff\0raw").unwrap();
    assert_eq!(fs::read(Path::new(DEVICES).join("1-1/product")).unwrap(), b"\xff\0raw");
    bus.set_attribute("1-1:1.0", "bInterfaceClass", b"zz").unwrap();
    assert_eq!(read("1-1:1.0", "bInterfaceClass"), "zz");
    bus.remove_attribute("1-1", "manufacturer").unwrap();
    assert!(!Path::new(DEVICES).join("1-1/manufacturer").exists());

    let path = Path::new(DEVICES).join("1-1/serial");
    let blocked = bus.make_blocking_attribute("1-1", "serial").unwrap();
    // Where a read without waiting says "would block", an ordinary one waits.
    let mut eager = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path).unwrap();
    assert_eq!(eager.read(&mut [0; 16]).unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(eager);
    let waiting = fs::File::open(&path).unwrap();
    let reader = thread::spawn(move || io::read_to_string(waiting).unwrap());
    blocked.release(b"LATE\n").unwrap();
    assert_eq!(reader.join().unwrap(), "LATE\n");
    assert_eq!(read("1-1", "serial"), "LATE\n");

    let blocked = bus.make_blocking_attribute("1-1", "serial").unwrap();
    bus.unplug("1-1").unwrap();
    assert_eq!(blocked.release(b"").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn strange_devices_are_shown_as_they_are() {
    let mut bus = enter();
    let interface = |number| Interface { number, class: 3, subclass: 0, protocol: 0, driver: None };
    let device = Device {
        serial: Some(b"\xfe\n\0".to_vec()),
        speed: Speed::Super,
        interfaces: vec![interface(0), interface(3)],
        descriptors: Some(b"junk".to_vec()),
        ..Device::new(0xffff, 0)
    };
    bus.plug("1-1", &device).unwrap();
    assert_eq!(fs::read(Path::new(DEVICES).join("1-1/serial")).unwrap(), b"\xfe\n\0\n");
    assert_eq!(read("1-1", "descriptors"), "junk");
    assert_eq!(read("1-1", "version"), " 3.00\n");
    assert_eq!(names(), ["1-0:1.0", "1-1", "1-1:1.0", "1-1:1.3", "usb1"]);
}

#[test]
fn two_buses_do_not_hear_one_another() {
    let both_plugged = Barrier::new(2);
    let on_own_bus = |port: &str| {
        let mut bus = enter();
        let listener = Listener::open();
        bus.plug(port, &Device::new(1, 2)).unwrap();
        both_plugged.wait();
        (listener.headlines(), names())
    };
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| on_own_bus("1-1"));
        let second = scope.spawn(|| on_own_bus("2-2"));
        (first.join().unwrap(), second.join().unwrap())
    });
    assert_eq!(first.0, ["add 1-1", "add 1-1:1.0", "bind 1-1 usb"]);
    assert_eq!(first.1, ["1-0:1.0", "1-1", "1-1:1.0", "usb1"]);
    assert_eq!(second.0, ["add 2-2", "add 2-2:1.0", "bind 2-2 usb"]);
    assert_eq!(second.1, ["2-0:1.0", "2-2", "2-2:1.0", "usb2"]);
}

#[test]
fn a_bus_works_from_a_thread_outside_of_its_namespaces() {
    let (send, receive) = std::sync::mpsc::channel();
    let (done, finished) = std::sync::mpsc::channel::<()>();
    let inside = thread::spawn(move || {
        send.send((enter(), Listener::open())).unwrap();
        finished.recv().unwrap();
        names()
    });
    let (mut bus, listener) = receive.recv().unwrap();
    bus.plug("1-1", &Device::new(1, 2)).unwrap();
    assert_eq!(listener.headlines(), ["add 1-1", "add 1-1:1.0", "bind 1-1 usb"]);
    done.send(()).unwrap();
    assert_eq!(inside.join().unwrap(), ["1-0:1.0", "1-1", "1-1:1.0", "usb1"]);
}

#[test]
fn a_child_process_lives_on_the_bus_and_the_host_does_not_see_it() {
    let host_boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let host_dev: Vec<_> = fs::read_dir("/dev").unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let script =
        "ls /sys/bus/usb/devices; cat /proc/sys/kernel/random/boot_id; : >/dev/null; cat /proc/net/dev";
    let said = thread::spawn(move || {
        let mut bus = enter();
        assert_eq!(fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap(), host_boot_id);
        bus.plug("1-1", &Device::receiver()).unwrap();
        bus.set_boot_id("00000000-1111-2222-3333-444444444444").unwrap();
        assert_eq!(bus.set_boot_id("short").unwrap_err().kind(), ErrorKind::InvalidInput);
        std::net::TcpListener::bind("127.0.0.1:0")
            .map(|server| server.local_addr().unwrap())
            .map_or_else(|error| panic!("{error}"), |address| drop(std::net::TcpStream::connect(address)));
        Command::new("sh").args(["-ec", script]).output().unwrap()
    });
    let output = said.join().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with("1-0:1.0\n1-1\n1-1:1.0\nusb1\n00000000-1111-2222-3333-444444444444\n"),
        "{text}"
    );
    let dev: Vec<_> = fs::read_dir("/dev").unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(dev, host_dev);
}

#[test]
fn a_machine_without_usb_gets_it_with_the_first_device() {
    let mut bus = Bus::without_usb().unwrap_or_else(|error| panic!("{error}"));
    assert!(!Path::new("/sys/bus/usb").exists() && !Path::new("/dev/bus/usb").exists());
    bus.plug("1-1", &Device::receiver()).unwrap();
    assert_eq!(read("1-1", "idVendor"), "046d\n");
}

#[test]
fn without_privileges_the_error_says_what_to_do() {
    const PROBE: &str = "TESTBUS_PROBE";
    if env::var_os(PROBE).is_some() {
        let error = Bus::enter().err().expect("this process has no capabilities");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        println!("{error}");
        return;
    }
    // A user namespace in which we are nobody: executing a program there drops every capability.
    let probe = Command::new("unshare")
        .args(["--user", "--"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "without_privileges_the_error_says_what_to_do"])
        .env(PROBE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&probe.stdout);
    assert!(probe.status.success(), "{text}{}", String::from_utf8_lossy(&probe.stderr));
    assert!(text.contains("run as root or under `unshare -Ur`"), "{text}");
}
