//! The wire form of an event: what `--json`, HTTP, the journal and plugins carry.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Device, Traceparent, traceparent};

/// One plug or unplug, told exactly once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Position in the producer's log: starts at 1 and rises by one, without a gap, over restarts.
    pub seq: u64,
    /// A ULID, unique over all producers.
    pub event_id: String,
    /// The journal this event was first written to: 32 hexadecimal digits, made at random with the journal.
    pub producer: String,
    /// What happened.
    pub action: Action,
    /// How it was noticed.
    pub reason: Reason,
    /// Who noticed.
    pub source: SourceName,
    /// The machine's host name, or the configured one.
    pub host: String,
    /// When the edge was seen, in milliseconds since the Unix epoch.
    pub timestamp: u64,
    /// How many observed edges this event stands for: more than 1 where debouncing joined some.
    pub edges: u32,
    /// The kernel's number of the last uevent it came from (`SEQNUM`), if it came from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seqnum: Option<u64>,
    /// The trace that began with its observation, where traces are recorded.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "traceparent::lenient")]
    pub traceparent: Option<Traceparent>,
    /// The device; at a detach, all that was last known of it.
    pub device: Arc<Device>,
}

/// Names a closed set of lower-case words, each the same in JSON, in text and in the log.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// The word itself.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("{text:?} is none of: {}", [$($word),+].join(", "))),
                }
            }
        }
    };
}

words! {
    /// What happened to the device.
    Action {
        /// It was plugged in.
        Attach = "attach",
        /// It was unplugged.
        Detach = "detach",
    }
}

words! {
    /// How the change was noticed.
    Reason {
        /// The operating system reported it as it happened.
        Hotplug = "hotplug",
        /// The device was there when the journal was made.
        Coldplug = "coldplug",
        /// A scan found it: the daemon was not running, an edge was lost, or the filters changed.
        Reconcile = "reconcile",
        /// The machine booted in between.
        Reboot = "reboot",
    }
}

words! {
    /// Who saw the device.
    SourceName {
        /// Kernel uevents over netlink, and sysfs.
        Uevent = "uevent",
        /// libusb's hot-plug callbacks.
        Libusb = "libusb",
        /// The nusb crate, on Windows and macOS.
        Nusb = "nusb",
        /// The helper that udev rules run.
        Udev = "udev",
        /// Enumeration at an interval.
        Poll = "poll",
        /// Synthetic devices.
        Simulate = "simulate",
        /// A recording.
        Replay = "replay",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HexBytes, InterfaceReading, Port, PortPath, Reading, Speed};
    use proptest::prelude::*;

    fn any_reading() -> impl Strategy<Value = Reading> {
        let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40).prop_map(HexBytes));
        let path =
            proptest::collection::vec(1..=255u8, 0..=7).prop_map(|ports| PortPath::new(&ports).unwrap());
        let place = (1..=255u8, path).prop_map(|(bus, path)| Port { bus, path });
        let ids = (any::<u8>(), any::<u16>(), any::<u16>(), proptest::option::of(any::<u8>()));
        let speed = prop_oneof![Just(None), Just(Speed::parse("1.5")), Just(Speed::parse("20000"))];
        let descriptors = proptest::collection::vec(any::<u8>(), 0..200).prop_map(|mut bytes| {
            // Mostly plausible, or no device descriptor would ever be in the test.
            if let [length, kind, ..] = &mut bytes[..] {
                (*length, *kind) = (18, 1);
            }
            HexBytes(bytes)
        });
        let interface = (any::<[u8; 4]>(), proptest::option::of(".*")).prop_map(
            |([number, class, subclass, protocol], driver)| InterfaceReading {
                number,
                class,
                subclass,
                protocol,
                driver,
            },
        );
        (
            place,
            ids,
            speed,
            [bytes(), bytes(), bytes()],
            descriptors,
            proptest::collection::vec(interface, 0..4),
        )
            .prop_map(
                |(
                    port,
                    (address, vendor_id, product_id, class),
                    speed,
                    [manufacturer, product, serial_number],
                    descriptors,
                    interfaces,
                )| {
                    Reading {
                        speed,
                        manufacturer,
                        product,
                        serial_number,
                        descriptors,
                        interfaces,
                        ..Reading::bare(port, address, vendor_id, product_id, class)
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn the_wire_form_survives_the_round_trip(
            reading in any_reading(), id in ".*", seq in any::<u64>(), timestamp in any::<u64>(), edges in any::<u32>(),
            span_id in proptest::option::of(1..=u64::MAX),
        ) {
            let traceparent = span_id.map(|span_id| Traceparent { trace_id: 1, span_id, is_sampled: true });
            let recorded = serde_json::to_string(&reading).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Reading>(&recorded).unwrap(), &reading);
            let event = Event {
            seqnum: None,
            traceparent,
                seq, event_id: "01J".to_owned(), producer: "p".to_owned(), action: Action::Attach,
                reason: Reason::Hotplug, source: SourceName::Uevent, host: id.clone(), timestamp, edges,
                device: Arc::new(Device::new(&reading, id)),
            };
            let json = serde_json::to_string(&event).unwrap();
            prop_assert!(!json.contains('\n'), "an event is one line");
            prop_assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
        }
    }

    #[test]
    fn the_wire_form_is_the_documented_one() {
        let mut reading = Reading::bare("1-1.2".parse().unwrap(), 5, 0x046d, 0xc52b, Some(0));
        reading.speed = Speed::parse("12");
        reading.manufacturer = Some(HexBytes(b"Logitech".to_vec()));
        reading.product = Some(HexBytes(b"USB Receiver".to_vec()));
        reading.serial_number = Some(HexBytes(b"ABC123".to_vec()));
        let driver = Some("usbhid".to_owned());
        reading.interfaces = vec![InterfaceReading { number: 0, class: 3, subclass: 1, protocol: 1, driver }];
        let event = Event {
            seqnum: None,
            traceparent: None,
            seq: 42,
            event_id: "01J".to_owned(),
            producer: "aa".to_owned(),
            action: Action::Attach,
            reason: Reason::Hotplug,
            source: SourceName::Uevent,
            host: "edge-7".to_owned(),
            timestamp: 1_767_225_600_123,
            edges: 1,
            device: Arc::new(Device::new(&reading, "046d:c52b:ABC123".to_owned())),
        };
        let expected = concat!(
            r#"{"seq":42,"event_id":"01J","producer":"aa","action":"attach","reason":"hotplug","source":"uevent","#,
            r#""host":"edge-7","timestamp":1767225600123,"edges":1,"device":{"device_id":"046d:c52b:ABC123","#,
            r#""signature":"a97118a5ce9e2a06","vendor_id":"046d","product_id":"c52b","manufacturer":"Logitech","#,
            r#""product":"USB Receiver","serial_number":"ABC123","bus_number":1,"device_address":5,"#,
            r#""port_path":"1.2","speed_mbps":12,"device_class":0,"interfaces":[{"number":0,"class":3,"#,
            r#""subclass":1,"protocol":1,"driver":"usbhid"}],"device_descriptor":null}}"#,
        );
        assert_eq!(serde_json::to_string(&event).unwrap(), expected);
        // Whatever else is in its place costs no event.
        for none in ["null", r#""00-x""#] {
            let json = expected.replacen('{', &format!(r#"{{"traceparent":{none},"#), 1);
            assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
        }
    }
}
