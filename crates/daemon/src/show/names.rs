//! What people call a device, its class and its speed.

use autoweave_usb_device::{Device, PortPath, Speed};

use super::known;

/// `bDeviceClass` of a device whose interfaces say what it does (usb.org, "Defined Class Codes").
const CLASS_IN_INTERFACES: u8 = 0x00;
const CLASS_HUB: u8 = 0x09;
/// Likewise: nearly always a device with interface associations.
const CLASS_MISCELLANEOUS: u8 = 0xef;

/// What companies put behind their name in the list of ids.
const LEGAL_FORMS: [&str; 10] =
    ["AG", "Co", "Corp", "Corporation", "GmbH", "Inc", "Limited", "LLC", "Ltd", "Pte"];
const SEPARATORS: [char; 3] = [' ', ',', '.'];

/// Maker and product, as the device says or else as the list of USB ids knows them.
pub fn name(device: &Device) -> String {
    let product = own(&device.product);
    // The maker of a root hub is the kernel, with its version (drivers/usb/core/hcd.c, `rh_string`).
    if let Some(product) = product.filter(|_| is_root_hub(device)) {
        return product.to_owned();
    }
    let vendor = own(&device.manufacturer).map_or_else(|| known_vendor(device.vendor_id), str::to_owned);
    let product = product.map_or_else(|| known_product(device), str::to_owned);
    if begins_with_word(&product, without_legal_form(&vendor)) {
        product
    } else {
        format!("{vendor} {product}")
    }
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
    let vendor = known::vendor(id);
    vendor.map_or_else(|| format!("Vendor {id:04x}"), |vendor| without_legal_form(vendor).to_owned())
}

fn known_product(device: &Device) -> String {
    let known = known::product(device.vendor_id, device.product_id);
    known.map_or_else(|| format!("Device {:04x}", device.product_id), str::to_owned)
}

/// `Logitech` of `Logitech, Inc.`
fn without_legal_form(vendor: &str) -> &str {
    let mut short = vendor;
    while let Some((rest, last)) = short.trim_end_matches(SEPARATORS).rsplit_once(SEPARATORS) {
        let rest = rest.trim_end_matches(SEPARATORS);
        if rest.is_empty() || !LEGAL_FORMS.iter().any(|form| form.eq_ignore_ascii_case(last)) {
            break;
        }
        short = rest;
    }
    short
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
            let known = known::class(class).filter(|_| class != CLASS_IN_INTERFACES);
            return known.map_or_else(|| format!("class {class:02x}"), str::to_owned);
        }
    };
    short.to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::tests::device;
    use super::*;

    #[test]
    fn a_device_is_named_by_itself_then_by_the_list_of_ids_and_never_twice() {
        for (ids, manufacturer, product, expected) in [
            ((0x046d, 0xc52b), "Logitech", "USB Receiver", "Logitech USB Receiver"),
            ((0x046d, 0xc52b), "", "", "Logitech Unifying Receiver"),
            ((0x046d, 0xfffe), "", "", "Logitech Device fffe"),
            ((0xfff1, 0x0001), "", "", "Vendor fff1 Device 0001"),
            ((0xfff1, 0x0001), "Acme", "", "Acme Device 0001"),
            ((0x046d, 0xfffe), "", "G Pro", "Logitech G Pro"),
            ((0x046d, 0xc52b), "Logitech", "Logitech Receiver", "Logitech Receiver"),
            ((0x046d, 0xc52b), "LOGITECH, INC.", "Logitech Receiver", "Logitech Receiver"),
            ((0x046d, 0xc52b), "", "Logitech Receiver", "Logitech Receiver"),
            ((0x046d, 0xc52b), "Logitech", "Logitech", "Logitech"),
            ((0x03f0, 0x0001), "HP", "HPC Probe", "HP HPC Probe"),
            ((0x046d, 0xc52b), " Logitech  ", "Receiver   ", "Logitech Receiver"),
            ((0x046d, 0xc52b), "   ", "  ", "Logitech Unifying Receiver"),
            ((0x2717, 0x5001), "小米", "小米无线接收器", "小米 小米无线接收器"),
            ((0x2717, 0x5001), "小米", "小米 Receiver", "小米 Receiver"),
        ] {
            let device = device("1-1", ids, (0, "12"), [manufacturer, product, ""], &[]);
            assert_eq!(name(&device), expected);
        }
    }

    #[test]
    fn a_root_hub_goes_without_the_kernels_version() {
        let root =
            |product| device("usb1", (0x1d6b, 2), (9, "480"), ["Linux 6.8.0 xhci-hcd", product, ""], &[]);
        assert_eq!(name(&root("xHCI Host Controller")), "xHCI Host Controller");
        let silent = device("usb1", (0x1d6b, 2), (9, "480"), ["", "", ""], &[]);
        assert_eq!(name(&silent), "Linux Foundation 2.0 root hub");
    }

    #[test]
    fn companies_lose_their_legal_form() {
        for (vendor, short) in [
            ("Logitech, Inc.", "Logitech"),
            ("Chicony Electronics Co., Ltd", "Chicony Electronics"),
            ("Intel Corp.", "Intel"),
            ("Silicon Labs", "Silicon Labs"),
            ("Inc.", "Inc."),
            ("Co. Ltd.", "Co"),
            (".,", ".,"),
        ] {
            assert_eq!(without_legal_form(vendor), short);
        }
    }

    #[test]
    fn speeds_have_the_unit_that_keeps_them_short() {
        for (mbps, expected) in [
            ("1.5", "1.5 Mb/s"),
            ("12", "12 Mb/s"),
            ("480", "480 Mb/s"),
            ("5000", "5 Gb/s"),
            ("20000", "20 Gb/s"),
            ("2500", "2.5 Gb/s"),
            ("unknown", ""),
        ] {
            assert_eq!(speed(&device("1-1", (1, 1), (0, mbps), ["", "", ""], &[])), expected);
        }
    }

    #[test]
    fn the_class_is_the_devices_or_that_of_its_interfaces() {
        let cases: [(u8, &[u8], &str); 9] = [
            (0x09, &[9], "hub"),
            (0xff, &[3, 8], "vendor"),
            (0x00, &[3, 1, 3], "HID ×2, audio"),
            (0xef, &[14, 14, 1], "video ×2, audio"),
            (0xef, &[], "miscellaneous"),
            (0x00, &[], ""),
            (0x00, &[0x3c], "I3C"),
            (0x00, &[0x77], "class 77"),
            (0x00, &[0x00, 0x0a], "class 00, CDC data"),
        ];
        for (class_code, interfaces, expected) in cases {
            let interfaces: Vec<(u8, &str)> = interfaces.iter().map(|class| (*class, "")).collect();
            assert_eq!(
                class(&device("1-1", (1, 1), (class_code, "12"), ["", "", ""], &interfaces)),
                expected
            );
        }
    }

    #[test]
    fn a_driver_is_named_once() {
        let interfaces = [(3, "usbhid"), (3, ""), (1, "snd-usb-audio"), (3, "usbhid")];
        let device = device("1-1", (1, 1), (0, "12"), ["", "", ""], &interfaces);
        assert_eq!(drivers(&device), "usbhid, snd-usb-audio");
    }
}
