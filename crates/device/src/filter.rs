//! Which devices the outside hears of.

use std::fmt;

use crate::Device;

/// The filters of the configuration. The default lets everything through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    /// Only these `idVendor`s; empty for all.
    pub vendor_whitelist: Vec<u16>,
    /// None of these `idVendor`s.
    pub vendor_blacklist: Vec<u16>,
    /// Only devices with one of these classes, as their own or as an interface's; empty for all.
    pub device_class_filter: Vec<u8>,
}

/// The filter that hides a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A whitelist is set and the vendor is not on it.
    VendorWhitelist,
    /// The vendor is on the blacklist.
    VendorBlacklist,
    /// A class filter is set and neither the device nor any interface has such a class.
    DeviceClassFilter,
}

impl Rule {
    /// All rules, in the order in which they are asked.
    pub const ALL: [Self; 3] = [Self::VendorWhitelist, Self::VendorBlacklist, Self::DeviceClassFilter];

    /// The name of the configuration key behind the rule.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VendorWhitelist => "vendor_whitelist",
            Self::VendorBlacklist => "vendor_blacklist",
            Self::DeviceClassFilter => "device_class_filter",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Filters {
    /// The first rule that hides `device`, if one does.
    pub fn hides(&self, device: &Device) -> Option<Rule> {
        let has_class = |class: &u8| device.has_class(*class);
        if !self.vendor_whitelist.is_empty() && !self.vendor_whitelist.contains(&device.vendor_id) {
            Some(Rule::VendorWhitelist)
        } else if self.vendor_blacklist.contains(&device.vendor_id) {
            Some(Rule::VendorBlacklist)
        } else if !self.device_class_filter.is_empty() && !self.device_class_filter.iter().any(has_class) {
            Some(Rule::DeviceClassFilter)
        } else {
            None
        }
    }
}
