//! QEMU, asked from inside of its guest to plug and unplug devices (docs/interop/qmp-spec in QEMU). The other end of
//! the port is QEMU's own monitor.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};

use serde_json::{Value, json};

use super::wait_until;

const PORT: &str = "/dev/virtio-ports/qmp";

/// The xHCI controllers that the guest has, `xhci0` and so on.
pub const CONTROLLERS: usize = 4;

/// The connection. What is still plugged when it is dropped is unplugged.
pub struct Qmp {
    port: BufReader<File>,
    plugged: Vec<String>,
    named: usize,
}

impl Qmp {
    /// Connects; there is one connection at a time.
    pub fn open() -> Self {
        super::load(&["xhci_pci"]);
        let port = OpenOptions::new().read(true).write(true).open(PORT);
        let port = port.unwrap_or_else(|error| panic!("{PORT}: {error} (this is for `cargo xtask guest`)"));
        let mut qmp = Self { port: BufReader::new(port), plugged: Vec::new(), named: 0 };
        // The greeting is only for who connects first, and this is taken again by who comes later, as an error.
        qmp.send(&json!({"execute": "qmp_capabilities"}));
        let _ = qmp.answer();
        // Each has one for USB 2 and one for USB 3.
        wait_until("the controllers have their root hubs", || root_hubs() == 2 * CONTROLLERS);
        qmp
    }

    /// Plugs a device of QEMU: `usb-kbd`, with its properties. Returns its name.
    pub fn plug(&mut self, driver: &str, mut properties: Value) -> String {
        let id = self.name(driver);
        properties["driver"] = driver.into();
        properties["id"] = id.as_str().into();
        self.execute("device_add", &properties);
        self.plugged.push(id.clone());
        id
    }

    /// Unplugs it.
    pub fn unplug(&mut self, id: &str) {
        self.plugged.retain(|plugged| plugged != id);
        self.execute("device_del", &json!({"id": id}));
    }

    /// A name that nothing has had.
    pub fn name(&mut self, prefix: &str) -> String {
        self.named += 1;
        // A chardev is let go of some time after its device, so the time is in the name as well.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        format!("{prefix}-{}-{}", now.as_micros(), self.named)
    }

    /// Has QEMU do a command, which has to succeed.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Value {
        self.send(&json!({"execute": command, "arguments": arguments}));
        let answer = self.answer();
        assert!(answer.get("error").is_none(), "{command} {arguments}: {}", answer["error"]["desc"]);
        answer["return"].clone()
    }

    fn send(&mut self, command: &Value) {
        self.port.get_mut().write_all(format!("{command}\n").as_bytes()).unwrap();
    }

    fn answer(&mut self) -> Value {
        loop {
            let mut line = String::new();
            self.port.read_line(&mut line).unwrap();
            let message: Value =
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
            if message.get("return").is_some() || message.get("error").is_some() {
                return message;
            }
        }
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        for id in std::mem::take(&mut self.plugged) {
            self.send(&json!({"execute": "device_del", "arguments": {"id": id}}));
            let _ = self.answer();
        }
    }
}

fn root_hubs() -> usize {
    let entries = fs::read_dir("/sys/bus/usb/devices").unwrap().flatten();
    let hubs = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("usb"));
    hubs.filter_map(|hub| fs::canonicalize(hub.path()).ok())
        .filter(|path| path.starts_with("/sys/devices/pci0000:00"))
        .count()
}
