//! USB devices that the kernel plays itself: configfs gadgets on `dummy_hcd`, each on a bus of its own
//! (Documentation/usb/gadget_configfs.rst).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::run;

/// What `dummy_hcd` takes for its parameter `num`.
pub const GADGETS_MAX: usize = 32;

const CONFIGFS: &str = "/sys/kernel/config/usb_gadget";

/// Of the project pid.codes, for tests.
const VENDOR: &str = "0x1209";

/// A device that can be plugged. Gone with its bus's contents when it is dropped.
pub struct Gadget {
    index: usize,
    path: PathBuf,
}

impl Gadget {
    /// The gadgets 0 to `count` - 1, unplugged; product ids from 1 on, serial numbers `SN000000` and so on.
    pub fn several(count: usize) -> Vec<Self> {
        assert!(count <= GADGETS_MAX, "dummy_hcd has {GADGETS_MAX} buses at most");
        if !Path::new("/sys/module/dummy_hcd").exists() {
            run(&["/sbin/modprobe", "dummy_hcd", &format!("num={GADGETS_MAX}")]);
            run(&["/sbin/modprobe", "libcomposite"]);
            run(&["/sbin/modprobe", "usb_f_ss_lb"]);
        }
        (0..count).map(Self::new).collect()
    }

    fn new(index: usize) -> Self {
        let path = Path::new(CONFIGFS).join(format!("g{index}"));
        let gadget = Self { index, path };
        for directory in ["strings/0x409", "configs/c.1", "functions/Loopback.0"] {
            fs::create_dir_all(gadget.path.join(directory)).unwrap();
        }
        gadget.write("idVendor", VENDOR);
        gadget.write("idProduct", &format!("{:#06x}", index + 1));
        gadget.write("strings/0x409/manufacturer", "Gadget Maker");
        gadget.write("strings/0x409/product", "Gadget");
        gadget.write("strings/0x409/serialnumber", &format!("SN{index:06}"));
        let function = gadget.path.join("functions/Loopback.0");
        symlink(function, gadget.path.join("configs/c.1/Loopback.0")).unwrap();
        gadget
    }

    /// Its number, from 0 on.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Connects it to its bus; the kernel begins to enumerate.
    pub fn plug(&self) {
        self.write("UDC", &format!("dummy_udc.{}", self.index));
    }

    /// Disconnects it.
    pub fn unplug(&self) {
        self.write("UDC", "\n");
    }

    /// Whether an uevent's device path is on the bus of this gadget.
    pub fn is_at(&self, devpath: &str) -> bool {
        devpath.contains(&format!("/dummy_hcd.{}/usb", self.index))
    }

    fn write(&self, attribute: &str, value: &str) {
        let path = self.path.join(attribute);
        fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

impl Drop for Gadget {
    fn drop(&mut self) {
        // It refuses when it is not plugged; configfs directories go one by one, what is in use first.
        let _ = fs::write(self.path.join("UDC"), "\n");
        let _ = fs::remove_file(self.path.join("configs/c.1/Loopback.0"));
        for directory in ["configs/c.1", "functions/Loopback.0", "strings/0x409", ""] {
            let _ = fs::remove_dir(self.path.join(directory));
        }
    }
}
