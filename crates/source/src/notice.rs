//! Notices: what the udev helper tells the daemon, one device a message.
//!
//! A notice is a JSON object and a line feed, at most [`Notice::BYTES_MAX`] bytes. It is a datagram to `notify.sock`
//! in the runtime directory or, when nobody listens there or the socket is full, a file in `spool/` in the state
//! directory. Files outlive programs, so the format is persisted:
//!
//! ```json
//! {"version":1,"action":"add","port":"1-1.2","devpath":"/devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1.2",
//!  "address":5,"vendor_id":"046d","product_id":"c52b","class":0,"seqnum":4711,
//!  "boot_id":"01234567-89ab-cdef-0123-456789abcdef","timestamp":1767225600123}
//! ```
//!
//! `version`, `action`, `port` and `timestamp` are always there. A reader ignores keys it does not know, so that a key
//! can be added without a new version.
//!
//! The name of a spooled file is `ORDER-NANOSECONDS-PROCESS.json`. `ORDER`, 20 digits, is `SEQNUM`, or the time in
//! nanoseconds, which is larger, where a notice has none: names that are sorted are in order, within a boot. `SEQNUM`
//! begins anew with each boot; `boot_id` tells them apart. A name that begins with `.` is a file still being written,
//! or left by a helper that was killed. `overflow` has a byte for each notice that was refused because the spool was
//! full, and never more than [`SPOOL_OVERFLOW_MAX`]. A socket that was full once may have taken later notices, so that
//! a daemon that is running has to look into its spool, too.

use autoweave_usb_device::{Action, Port};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The socket's name in the runtime directory.
pub const NOTICE_SOCKET: &str = "notify.sock";

/// The spool's name in the state directory.
pub const SPOOL_DIRECTORY: &str = "spool";

/// Files in the spool, about: helpers that run at the same moment may all take the last place.
pub const SPOOL_FILES_MAX: usize = 10_000;

/// Refused notices are counted up to here.
pub const SPOOL_OVERFLOW_MAX: u64 = 1_000_000;

/// The file of the spool that counts refused notices.
pub const SPOOL_OVERFLOW: &str = "overflow";

/// Persisted.
const VERSION: u32 = 1;

/// sysfs's own paths have about 100 bytes. Every byte may take two in JSON, which leaves room for the rest.
const DEVPATH_BYTES_MAX: usize = 1024;

/// A UUID has 36.
const BOOT_ID_BYTES_MAX: usize = 64;

/// How much of a wrong argument is shown.
const SHOWN_CHARS_MAX: usize = 40;

/// What udev said about a device. All but action and port are there as far as udev told them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// What happened.
    pub action: NoticeAction,
    /// Where; the kernel's name of the device.
    pub port: Port,
    /// The device's directory below `/sys`; it does not lead out of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devpath: Option<String>,
    /// The address on the bus, 1 to 255 (`DEVNUM`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<u8>,
    /// `idVendor`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_id")]
    pub vendor_id: Option<u16>,
    /// `idProduct`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_id")]
    pub product_id: Option<u16>,
    /// `bDeviceClass` (`TYPE`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<u8>,
    /// The kernel's number of the uevent (`SEQNUM`, `lib/kobject_uevent.c`), unique in this boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seqnum: Option<u64>,
    /// The machine's boot, `/proc/sys/kernel/random/boot_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// When the helper ran, in milliseconds since the Unix epoch.
    pub timestamp: u64,
}

/// What udev is told of; others of its actions say nothing about who is plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoticeAction {
    /// A device came.
    Add,
    /// A device went.
    Remove,
}

/// What the helper is called with. Bytes, because nothing vouches for them.
#[derive(Debug, Clone, Copy)]
pub struct NoticeArguments<'a> {
    /// `add` or `remove`.
    pub action: &'a [u8],
    /// The kernel's name of the device: `1-1.2`, `usb1`.
    pub device: &'a [u8],
    /// `idVendor` in hexadecimal; empty where udev could not read it, as at every `remove`.
    pub vendor: &'a [u8],
    /// `idProduct`, likewise.
    pub product: &'a [u8],
}

/// An argument that makes no notice.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{shown} is {problem}")]
pub struct NoticeArgumentError {
    shown: String,
    problem: &'static str,
}

/// Bytes that are no notice.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoticeError {
    /// More than [`Notice::BYTES_MAX`] bytes.
    #[error("longer than {} bytes", Notice::BYTES_MAX)]
    TooLong,
    /// A later helper wrote it.
    #[error("version {0} is not known here (this program reads {VERSION})")]
    Version(u32),
    /// It is not what a helper writes.
    #[error("{0}")]
    Malformed(String),
}

#[derive(Serialize)]
struct Versioned<'a> {
    version: u32,
    #[serde(flatten)]
    notice: &'a Notice,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl Notice {
    /// The longest notice, in bytes.
    pub const BYTES_MAX: usize = 4096;

    /// Understands what udev passes to a program (udev(7), `RUN`). `variable` looks into the environment, where the
    /// uevent is; what is there and cannot be understood is left out, as it may be anybody's.
    ///
    /// # Errors
    /// An argument is not what udev would pass.
    pub fn from_udev(
        arguments: NoticeArguments<'_>,
        variable: impl Fn(&str) -> Option<String>,
        timestamp: u64,
    ) -> Result<Self, NoticeArgumentError> {
        let action = match arguments.action {
            b"add" => NoticeAction::Add,
            b"remove" => NoticeAction::Remove,
            other => return Err(NoticeArgumentError::new(other, "no action: add or remove")),
        };
        let port = std::str::from_utf8(arguments.device).ok().and_then(|device| device.parse::<Port>().ok());
        let port = port.ok_or_else(|| {
            NoticeArgumentError::new(arguments.device, "no USB device: such as 1-1.2, or usb1 for a root hub")
        })?;
        let given = argument_id(arguments.vendor)?.zip(argument_id(arguments.product)?);
        let ids = given.or_else(|| product(&variable("PRODUCT")?));
        Ok(Self {
            action,
            port,
            devpath: variable("DEVPATH").filter(|devpath| is_devpath_of(devpath, port)),
            address: variable("DEVNUM").and_then(|text| text.parse().ok()).filter(|address| *address > 0),
            vendor_id: ids.map(|(vendor, _)| vendor),
            product_id: ids.map(|(_, product)| product),
            class: variable("TYPE").and_then(|class| class.split('/').next()?.parse().ok()),
            seqnum: variable("SEQNUM").and_then(|text| text.parse().ok()),
            boot_id: None,
            timestamp,
        })
    }

    /// The same with the boot it is of; none where `boot_id` is no UUID.
    #[must_use]
    pub fn in_boot(self, boot_id: &str) -> Self {
        Self { boot_id: Some(boot_id.trim().to_owned()).filter(|id| is_boot_id(id)), ..self }
    }

    /// The message, at most [`Self::BYTES_MAX`] bytes.
    pub fn format(&self) -> Vec<u8> {
        let message = Versioned { version: VERSION, notice: self };
        let mut bytes = serde_json::to_vec(&message).expect("strings and numbers are always JSON");
        bytes.push(b'\n');
        bytes
    }

    /// Reads a message, which anybody may have written.
    ///
    /// # Errors
    /// It is no notice, or one of a later version.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoticeError> {
        if bytes.len() > Self::BYTES_MAX {
            return Err(NoticeError::TooLong);
        }
        let malformed = |error: serde_json::Error| NoticeError::Malformed(error.to_string());
        let Version { version } = serde_json::from_slice(bytes).map_err(malformed)?;
        if version != VERSION {
            return Err(NoticeError::Version(version));
        }
        let notice: Self = serde_json::from_slice(bytes).map_err(malformed)?;
        notice.check().map_or(Ok(notice), |key| Err(NoticeError::Malformed(format!("a wrong `{key}`"))))
    }

    /// The name of its file in the spool, written `nanoseconds` after the Unix epoch by `process`.
    pub fn file_name(&self, nanoseconds: u128, process: u32) -> String {
        let order = self.seqnum.map_or(nanoseconds, u128::from);
        format!("{order:020}-{nanoseconds:020}-{process}.json")
    }

    /// The key whose value no helper would write.
    fn check(&self) -> Option<&'static str> {
        if self.devpath.as_ref().is_some_and(|devpath| !is_devpath_of(devpath, self.port)) {
            return Some("devpath");
        }
        if self.address == Some(0) {
            return Some("address");
        }
        self.boot_id.as_ref().is_some_and(|id| !is_boot_id(id)).then_some("boot_id")
    }
}

impl From<NoticeAction> for Action {
    fn from(action: NoticeAction) -> Self {
        match action {
            NoticeAction::Add => Self::Attach,
            NoticeAction::Remove => Self::Detach,
        }
    }
}

impl NoticeArgumentError {
    fn new(argument: &[u8], problem: &'static str) -> Self {
        // A character takes at most four bytes, so this is enough of it.
        let start = &argument[..argument.len().min(SHOWN_CHARS_MAX * 4)];
        let text = String::from_utf8_lossy(start);
        let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
        if shown.len() < text.len() || start.len() < argument.len() {
            shown.push('…');
        }
        Self { shown: format!("{shown:?}"), problem }
    }
}

/// None where it is empty.
fn argument_id(argument: &[u8]) -> Result<Option<u16>, NoticeArgumentError> {
    if argument.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(argument).ok();
    let id = text.and_then(|text| hexadecimal(text.strip_prefix("0x").unwrap_or(text)));
    id.map(Some).ok_or_else(|| NoticeArgumentError::new(argument, "no id: one to four hexadecimal digits"))
}

/// The ids in `46d/c52b/1201` (`usb_uevent`, drivers/usb/core/driver.c).
fn product(text: &str) -> Option<(u16, u16)> {
    let mut ids = text.split('/');
    Some((hexadecimal(ids.next()?)?, hexadecimal(ids.next()?)?))
}

fn hexadecimal(text: &str) -> Option<u16> {
    let is_id = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id && text.len() <= 4 { u16::from_str_radix(text, 16).ok() } else { None }
}

/// Whether this is the directory of the device in `port`. It is going to be opened, so it must not lead out of `/sys`.
fn is_devpath_of(devpath: &str, port: Port) -> bool {
    devpath.len() <= DEVPATH_BYTES_MAX
        && devpath.starts_with("/devices/")
        && !devpath.contains(char::is_control)
        && devpath.split('/').all(|part| part != "..")
        && devpath.rsplit('/').next().and_then(|name| name.parse().ok()) == Some(port)
}

fn is_boot_id(text: &str) -> bool {
    let is_uuid = text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_uuid && (1..=BOOT_ID_BYTES_MAX).contains(&text.len())
}

/// An id as four hexadecimal digits, or none.
mod optional_id {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(id: &Option<u16>, serializer: S) -> Result<S::Ok, S::Error> {
        match id {
            Some(id) => serializer.collect_str(&format_args!("{id:04x}")),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let id = super::hexadecimal(&text).filter(|_| text.len() == 4);
        id.map(Some).ok_or_else(|| D::Error::custom("not four hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests;
