//! Which devices somebody wants.

use crate::Device;

/// What a device has to be like. One that names nothing selects every device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// `idVendor`.
    pub vendor_id: Option<u16>,
    /// `idProduct`.
    pub product_id: Option<u16>,
    /// The class of the device or of one of its interfaces.
    pub class: Option<u8>,
    /// What the device calls its serial number.
    pub serial_number: Option<String>,
}

impl Selector {
    /// Whether `device` is all that this names.
    pub fn selects(&self, device: &Device) -> bool {
        self.vendor_id.is_none_or(|id| id == device.vendor_id)
            && self.product_id.is_none_or(|id| id == device.product_id)
            && self.class.is_none_or(|class| device.has_class(class))
            && self.serial_number.as_ref().is_none_or(|serial| device.serial_number.as_ref() == Some(serial))
    }

    /// How many properties it names, 0 to 4.
    pub fn specificity(&self) -> usize {
        let Self { vendor_id, product_id, class, serial_number } = self;
        [vendor_id.is_some(), product_id.is_some(), class.is_some(), serial_number.is_some()]
            .into_iter()
            .filter(|is_named| *is_named)
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HexBytes, InterfaceReading, Reading};

    #[test]
    fn a_device_has_to_be_all_that_is_named() {
        let mut reading = Reading::bare("1-1".parse().unwrap(), 5, 0x046d, 0x0825, Some(0xef));
        reading.serial_number = Some(HexBytes(b"ABC".to_vec()));
        reading.interfaces =
            vec![InterfaceReading { number: 0, class: 14, subclass: 1, protocol: 0, driver: None }];
        let device = Device::new(&reading, String::new());
        let all = Selector {
            vendor_id: Some(0x046d),
            product_id: Some(0x0825),
            class: Some(14),
            serial_number: Some("ABC".to_owned()),
        };
        assert!(all.selects(&device) && Selector::default().selects(&device));
        assert_eq!((all.specificity(), Selector::default().specificity()), (4, 0));
        for other in [
            Selector { vendor_id: Some(1), ..all.clone() },
            Selector { product_id: Some(1), ..all.clone() },
            Selector { class: Some(3), ..all.clone() },
            Selector { serial_number: Some("AB".to_owned()), ..all.clone() },
        ] {
            assert!(!other.selects(&device), "{other:?}");
        }
        assert!(Selector { class: Some(0xef), ..all }.selects(&device));
    }
}
