//! Which sources there are, and how they are used.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use autoweave_usb_device::SourceName;

use crate::{Counters, Notices, Simulation};

/// Which source to open.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Kernel uevents and sysfs (Linux).
    Uevent,
    /// libusb's hot-plug callbacks, where the cargo feature `libusb` is on.
    Libusb,
    /// The operating system's notifications, through the library nusb.
    Nusb,
    /// Enumeration at [`Options::interval`].
    Poll,
    /// The notices of the udev helper, [`Options::notices`], and sysfs (Linux).
    Udev,
    /// A recording, as fast as it is taken, on the clock it was recorded by.
    Replay(PathBuf),
    /// Synthetic devices.
    Simulate(Simulation),
}

/// Which sources to use, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The sources to choose from, the best first.
    pub chain: Vec<Kind>,
    /// The time between two scans of the whole bus.
    pub interval: Duration,
    /// The receive buffer to ask the kernel for, in bytes. It may grant less.
    pub receive_buffer_bytes: usize,
    /// Where the udev helper's notices arrive, if they do.
    pub notices: Option<Arc<Notices>>,
    /// What all of them count together.
    pub counters: Arc<Counters>,
}

impl Default for Options {
    /// What the daemon's configuration defaults to.
    fn default() -> Self {
        Self {
            chain: Kind::system(),
            interval: Duration::from_secs(5),
            receive_buffer_bytes: 128 << 20,
            notices: None,
            counters: Arc::default(),
        }
    }
}

impl Kind {
    /// The sources of this operating system, the best first.
    pub fn system() -> Vec<Self> {
        if cfg!(target_os = "linux") {
            vec![Self::Uevent, Self::Libusb, Self::Udev, Self::Poll]
        } else if cfg!(windows) {
            vec![Self::Nusb, Self::Poll]
        } else {
            vec![Self::Nusb, Self::Libusb, Self::Poll]
        }
    }

    /// What its observations say where they are from.
    pub fn name(&self) -> SourceName {
        match self {
            Self::Uevent => SourceName::Uevent,
            Self::Libusb => SourceName::Libusb,
            Self::Nusb => SourceName::Nusb,
            Self::Poll => SourceName::Poll,
            Self::Udev => SourceName::Udev,
            Self::Replay(_) => SourceName::Replay,
            Self::Simulate(_) => SourceName::Simulate,
        }
    }

    /// Whether it tells of devices that are there, for as long as it is asked.
    pub(crate) fn is_of_the_bus(&self) -> bool {
        !matches!(self, Self::Replay(_) | Self::Simulate(_))
    }

    /// Whether it finds what has happened by looking, and hears of nothing.
    pub(crate) fn looks(&self) -> bool {
        *self == Self::Poll
    }

    /// Whether it may hear nothing although it can be opened: the kernel tells this namespace nothing, or no helper has
    /// been heard yet.
    #[cfg(target_os = "linux")]
    pub fn may_be_deaf(&self, options: &Options) -> bool {
        match self {
            Self::Uevent | Self::Libusb => !crate::linux::hears_uevents(),
            Self::Udev => options.notices.as_ref().is_some_and(|notices| !notices.has_heard()),
            _ => false,
        }
    }

    /// Whether it may hear nothing although it can be opened.
    #[cfg(not(target_os = "linux"))]
    pub fn may_be_deaf(&self, _: &Options) -> bool {
        false
    }
}
