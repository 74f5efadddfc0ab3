//! What people call a device, its class and its speed.

use autoweave_usb_device::{Device, PortPath, Speed};
use usb_ids::FromId;

/// `bDeviceClass` of a device whose interfaces say what it does (usb.org, "Defined Class Codes").
const CLASS_IN_INTERFACES: u8 = 0x00;
const CLASS_HUB: u8 = 0x09;
/// Likewise: nearly always a device with interface associations.
const CLASS_MISCELLANEOUS: u8 = 0xef;

/// What companies put behind their name in the list of ids.
const LEGAL_FORMS: [&str; 12] =
    ["AG", "Co", "Company", "Corp", "Corporation", "GmbH", "Inc", "Incorporated", "LLC", "Limited", "Ltd", "Pte"];

/// Maker and product, as the device says or else as the list of USB ids knows them.
pub fn name(device: &Device) -> String {
    let product = own(&device.product);
    // The maker of a root hub is the kernel, with its version (drivers/usb/core/hcd.c, `rh_string`).
    if let Some(product) = product.filter(|_| is_root_hub(device)) {
        return product.to_owned();
    }
    let vendor = own(&device.manufacturer).map_or_else(|| known_vendor(device.vendor_id), str::to_owned);
    let product = product.map_or_else(|| known_product(device), str::to_owned);
    if begins_with_word(&product, without_legal_form(&vendor)) { product } else { format!("{vendor} {product}") }
}

/// The serial number, if there is something to see in it.
pub fn serial(device: &Device) -> &str {
    own(&device.serial_number).unwrap_or_default()
}

/// `046d:c52b`.
pub fn id(device: &Device) -> String {
    format!("{:04x}:{:04x}", device.vendor_id, device.product_id)
}

/// `1.5 Mb/s`, `480 Mb/s`, `5 Gb/s`; empty if not known.
pub fn speed(device: &Device) -> String {
    device.speed_mbps.map_or_else(String::new, with_unit)
}

/// What the device is for, such as `hub` or `HID ×2, audio`; empty if not known.
pub fn class(device: &Device) -> String {
    match device.device_class {
        Some(class) if ![CLASS_IN_INTERFACES, CLASS_MISCELLANEOUS].contains(&class) => class_name(class),
        Some(CLASS_MISCELLANEOUS) if device.interfaces.is_empty() => class_name(CLASS_MISCELLANEOUS),
        _ => interface_classes(device),
    }
}

/// The drivers bound to its interfaces, each once; empty if none is.
pub fn drivers(device: &Device) -> String {
    let mut drivers: Vec<&str> = Vec::new();
    for driver in device.interfaces.iter().filter_map(|interface| interface.driver.as_deref()) {
        if !drivers.contains(&driver) {
            drivers.push(driver);
        }
    }
    drivers.join(", ")
}

/// Whether other devices can hang below it.
pub fn is_hub(device: &Device) -> bool {
    is_root_hub(device)
        || device.device_class == Some(CLASS_HUB)
        || device.interfaces.iter().any(|interface| interface.class == CLASS_HUB)
}

fn is_root_hub(device: &Device) -> bool {
    device.port_path == PortPath::ROOT
}

fn own(text: &Option<String>) -> Option<&str> {
    text.as_deref().map(|text| text.trim_matches(' ')).filter(|text| !text.is_empty())
}

fn known_vendor(id: u16) -> String {
    let vendor = usb_ids::Vendor::from_id(id);
    vendor.map_or_else(|| format!("Vendor {id:04x}"), |vendor| without_legal_form(vendor.name()).to_owned())
}

fn known_product(device: &Device) -> String {
    let known = usb_ids::Device::from_vid_pid(device.vendor_id, device.product_id);
    known.map_or_else(|| format!("Device {:04x}", device.product_id), |known| known.name().to_owned())
}

/// `Logitech` of `Logitech, Inc.`
fn without_legal_form(vendor: &str) -> &str {
    let is_separator = |character: char| character == ' ' || character == ',' || character == '.';
    let mut short = vendor;
    loop {
        let trimmed = short.trim_end_matches(is_separator);
        let form = LEGAL_FORMS.iter().find_map(|form| {
            trimmed.strip_suffix(form).filter(|rest| rest.ends_with(is_separator) && !rest.trim().is_empty())
        });
        match form {
            Some(rest) => short = rest,
            None if short == vendor => return vendor,
            None => return trimmed,
        }
    }
}

fn begins_with_word(text: &str, word: &str) -> bool {
    let (Some(start), Some(rest)) = (text.get(..word.len()), text.get(word.len()..)) else { return false };
    start.eq_ignore_ascii_case(word) && !rest.starts_with(char::is_alphanumeric)
}

fn with_unit(speed: Speed) -> String {
    let mbps = speed.to_string();
    match mbps.parse::<f64>() {
        Ok(many) if many >= 1000.0 => format!("{} Gb/s", many / 1000.0),
        _ => format!("{mbps} Mb/s"),
    }
}

fn interface_classes(device: &Device) -> String {
    let mut counts: Vec<(u8, usize)> = Vec::new();
    for interface in &device.interfaces {
        match counts.iter_mut().find(|(class, _)| *class == interface.class) {
            Some((_, count)) => *count += 1,
            None => counts.push((interface.class, 1)),
        }
    }
    let classes = counts.into_iter().map(|(class, count)| match count {
        1 => class_name(class),
        _ => format!("{} ×{count}", class_name(class)),
    });
    classes.collect::<Vec<_>>().join(", ")
}

/// Short names for usb.org's "Defined Class Codes".
fn class_name(class: u8) -> String {
    let short = match class {
        0x01 => "audio",
        0x02 => "CDC",
        0x03 => "HID",
        0x05 => "physical",
        0x06 => "imaging",
        0x07 => "printer",
        0x08 => "storage",
        CLASS_HUB => "hub",
        0x0a => "CDC data",
        0x0b => "smart card",
        0x0d => "content security",
        0x0e => "video",
        0x0f => "healthcare",
        0x10 => "audio/video",
        0x11 => "billboard",
        0x12 => "Type-C bridge",
        0xdc => "diagnostic",
        0xe0 => "wireless",
        CLASS_MISCELLANEOUS => "miscellaneous",
        0xfe => "application",
        0xff => "vendor",
        _ => {
            let known = usb_ids::Class::from_id(class).filter(|_| class != CLASS_IN_INTERFACES);
            return known.map_or_else(|| format!("class {class:02x}"), |known| known.name().to_owned());
        }
    };
    short.to_owned()
}
