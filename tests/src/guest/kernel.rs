//! What the kernel itself says of USB devices: the truth that everyone else's story is compared with.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd as _;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};
use nix::unistd::gettid;

/// As much as the floods of a test take, which the kernel does not swap.
const BUFFER_BYTES: usize = 64 << 20;

/// The kernel's multicast group; 2 is udev's.
const KERNEL_GROUP: u32 = 1;

/// A uevent of a `usb_device`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// `add`, `bind`, `unbind`, `remove` or `change`.
    pub action: String,
    /// Below `/sys`.
    pub devpath: String,
    /// The device's port as sysfs names it, `1-4.2`; `usb1` is a root hub.
    pub port: String,
    /// Of the bus.
    pub bus: u64,
    /// On the bus.
    pub address: u64,
    /// Vendor and product, `1209:0001`.
    pub ids: String,
    /// When it was received, in microseconds of the Unix time.
    pub time_us: u64,
}

/// A socket that has been listening since it was opened.
pub struct Kernel {
    messages: Receiver<(Vec<u8>, u64)>,
    heard: Vec<Edge>,
}

impl Kernel {
    /// Begins to listen.
    pub fn listen() -> Self {
        let protocol = SockProtocol::NetlinkKObjectUEvent;
        let socket =
            socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES).unwrap();
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP)).unwrap();
        let (sender, messages) = channel();
        thread::spawn(move || {
            // Or its times would be those of a listener that waits until the others have done their work. So it does as
            // little as it can.
            super::run(&["chrt", "--fifo", "--pid", "50", &gettid().to_string()]);
            let mut message = vec![0; 16 << 10];
            loop {
                let length = recv(socket.as_raw_fd(), &mut message, MsgFlags::empty());
                let length = length.expect("the buffer is larger than what a test sends");
                let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is not 1970");
                let time_us = u64::try_from(now.as_micros()).expect("a time of this age fits");
                if sender.send((message[..length].to_vec(), time_us)).is_err() {
                    return;
                }
            }
        });
        Self { messages, heard: Vec::new() }
    }

    /// The next uevent of a `usb_device`; `None` when none came in time.
    pub fn next(&mut self, timeout: Duration) -> Option<Edge> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.messages.recv_timeout(left) {
                Ok((message, time_us)) => {
                    let Some(edge) = parse(&message, time_us) else { continue };
                    self.heard.push(edge.clone());
                    return Some(edge);
                }
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => panic!("the listener ended"),
            }
        }
    }

    /// Waits until `count` further uevents of this kind have come, and returns them.
    pub fn wait_for(&mut self, action: &str, count: usize) -> Vec<Edge> {
        let deadline = Instant::now() + super::PATIENCE;
        let mut found = Vec::new();
        while found.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            let edge = self.next(left);
            let edge = edge.unwrap_or_else(|| panic!("{} of {count} uevents `{action}` came", found.len()));
            if edge.action == action {
                found.push(edge);
            }
        }
        found
    }

    /// Every arrival and departure heard so far.
    pub fn edges(&mut self) -> Vec<Edge> {
        while self.next(Duration::ZERO).is_some() {}
        let is_edge = |edge: &&Edge| edge.action == "add" || edge.action == "remove";
        self.heard.iter().filter(is_edge).cloned().collect()
    }
}

/// `None` for what is not about a `usb_device`.
fn parse(message: &[u8], time_us: u64) -> Option<Edge> {
    let text = std::str::from_utf8(message).ok()?;
    let fields: BTreeMap<&str, &str> = text.split('\0').filter_map(|field| field.split_once('=')).collect();
    if fields.get("DEVTYPE") != Some(&"usb_device") {
        return None;
    }
    let devpath = fields["DEVPATH"];
    let id = |text: &str| u16::from_str_radix(text, 16).expect("PRODUCT is VENDOR/PRODUCT/VERSION in hex");
    let mut product = fields["PRODUCT"].split('/').map(id);
    let mut next = || product.next().expect("PRODUCT has three parts");
    Some(Edge {
        action: fields["ACTION"].to_owned(),
        devpath: devpath.to_owned(),
        port: devpath.rsplit('/').next().unwrap_or_default().to_owned(),
        bus: fields["BUSNUM"].parse().expect("a number"),
        address: fields["DEVNUM"].parse().expect("a number"),
        ids: format!("{:04x}:{:04x}", next(), next()),
        time_us,
    })
}
