//! An event as an entry of the stream. All values are text; unknown ones are empty.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use autoweave_usb_device::{Device, DeviceDescriptor, Event, Speed};
use serde::de::DeserializeOwned;
use thiserror::Error;

/// The fields of an entry, in order: the specification's thirteen, then ours. Persisted.
pub const FIELDS: [&str; 24] = [
    "source",
    "action",
    "vendor_id",
    "product_id",
    "device_signature",
    "manufacturer",
    "product",
    "serial_number",
    "bus_number",
    "device_address",
    "port_path",
    "timestamp",
    "device_descriptor",
    "event_id",
    "seq",
    "producer",
    "host",
    "device_id",
    "reason",
    "edges",
    "speed_mbps",
    "interfaces",
    "traceparent",
    "schema",
];

/// Place of `event_id` in [`FIELDS`].
pub(crate) const EVENT_ID: usize = 13;
/// Place of `seq` in [`FIELDS`].
pub(crate) const SEQ: usize = 14;
const PRODUCER: usize = 15;
const SCHEMA: usize = 23;
const SCHEMA_VERSION: &str = "1";

/// Why an entry is no event: another program wrote it, or another version of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FieldError {
    /// A field is not there.
    #[error("there is no field `{0}`")]
    Missing(&'static str),
    /// A field has a value that it cannot have.
    #[error("the field `{name}` is not {expected}")]
    Invalid {
        /// The field.
        name: &'static str,
        /// What its value should be.
        expected: &'static str,
    },
}

/// The values of `event`, in the order of [`FIELDS`]. `producer` is who publishes it, usually the event's own.
pub fn entry(event: &Event, producer: &str) -> [String; FIELDS.len()] {
    let device = &*event.device;
    let descriptor = device.device_descriptor.map(|descriptor| json(&descriptor));
    [
        event.source.to_string(),
        event.action.to_string(),
        format!("{:04x}", device.vendor_id),
        format!("{:04x}", device.product_id),
        device.signature.clone(),
        device.manufacturer.clone().unwrap_or_default(),
        device.product.clone().unwrap_or_default(),
        device.serial_number.clone().unwrap_or_default(),
        device.bus_number.to_string(),
        device.device_address.to_string(),
        device.port_path.to_string(),
        event.timestamp.to_string(),
        descriptor.unwrap_or_default(),
        event.event_id.clone(),
        event.seq.to_string(),
        producer.to_owned(),
        event.host.clone(),
        device.device_id.clone(),
        event.reason.to_string(),
        event.edges.to_string(),
        or_empty(device.speed_mbps),
        json(&device.interfaces),
        or_empty(event.traceparent),
        SCHEMA_VERSION.to_owned(),
    ]
}

/// The event that the fields of an entry hold: the inverse of [`entry()`], whatever the order of the fields and
/// whatever else is there. An entry does not have everything: `device_class` is the descriptor's, and
/// `raw_strings` is always `None`.
///
/// # Errors
/// The first field that is missing, or has a value that [`entry()`] does not write.
pub fn event(fields: &[(String, String)]) -> Result<Event, FieldError> {
    let fields = Fields(fields);
    fields.read("schema", "the one of this version, 1", |schema| (schema == SCHEMA_VERSION).then_some(()))?;
    let device_descriptor: Option<DeviceDescriptor> =
        fields.known("device_descriptor", "a device descriptor as JSON", from_json)?;
    let device = Device {
        device_id: fields.get("device_id")?.to_owned(),
        signature: fields.get("device_signature")?.to_owned(),
        vendor_id: fields.read("vendor_id", FOUR_DIGITS, usb_id)?,
        product_id: fields.read("product_id", FOUR_DIGITS, usb_id)?,
        manufacturer: fields.text("manufacturer")?,
        product: fields.text("product")?,
        serial_number: fields.text("serial_number")?,
        bus_number: fields.parse("bus_number", "a whole number up to 255")?,
        device_address: fields.parse("device_address", "a whole number up to 255")?,
        port_path: fields.parse("port_path", "a chain of ports such as 1.2")?,
        speed_mbps: fields.known("speed_mbps", "a USB speed in Mb/s", Speed::parse)?,
        device_class: device_descriptor.map(|descriptor| descriptor.class),
        interfaces: fields.read("interfaces", "an array of interfaces as JSON", from_json)?,
        device_descriptor,
        raw_strings: None,
    };
    Ok(Event {
        seq: fields.parse("seq", "a whole number")?,
        event_id: fields.get("event_id")?.to_owned(),
        producer: fields.get("producer")?.to_owned(),
        action: fields.parse("action", "attach or detach")?,
        reason: fields.parse("reason", "one of the documented words")?,
        source: fields.parse("source", "one of the documented words")?,
        host: fields.get("host")?.to_owned(),
        timestamp: fields.parse("timestamp", "a whole number of milliseconds")?,
        edges: fields.parse("edges", "a whole number")?,
        seqnum: None,
        // Anyone may have written it, and what is none is not worth losing an event for.
        traceparent: fields.get("traceparent").ok().and_then(|text| text.parse().ok()),
        device: Arc::new(device),
    })
}

/// Stands for an event that cannot be read: its number must not be missing, all else is unknown.
pub(crate) fn placeholder(seq: u64, event_id: &str, producer: &str) -> [String; FIELDS.len()] {
    let mut values = [const { String::new() }; FIELDS.len()];
    values[EVENT_ID] = event_id.to_owned();
    values[SEQ] = seq.to_string();
    values[PRODUCER] = producer.to_owned();
    values[SCHEMA] = SCHEMA_VERSION.to_owned();
    values
}

const FOUR_DIGITS: &str = "four hexadecimal digits";

/// The fields of an entry, each found by its name; of two with the same name, the first.
struct Fields<'a>(&'a [(String, String)]);

impl Fields<'_> {
    fn get(&self, name: &'static str) -> Result<&str, FieldError> {
        let found = self.0.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str()).ok_or(FieldError::Missing(name))
    }

    fn read<T>(
        &self,
        name: &'static str,
        expected: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<T, FieldError> {
        read(self.get(name)?).ok_or(FieldError::Invalid { name, expected })
    }

    fn parse<T: FromStr>(&self, name: &'static str, expected: &'static str) -> Result<T, FieldError> {
        self.read(name, expected, |value| value.parse().ok())
    }

    /// `None` where the value is empty, which says that it is not known.
    fn known<T>(
        &self,
        name: &'static str,
        expected: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, FieldError> {
        self.read(name, expected, |value| if value.is_empty() { Some(None) } else { read(value).map(Some) })
    }

    fn text(&self, name: &'static str) -> Result<Option<String>, FieldError> {
        self.known(name, "text", |value| Some(value.to_owned()))
    }
}

fn usb_id(text: &str) -> Option<u16> {
    let is_id = text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u16::from_str_radix(text, 16).ok().filter(|_| is_id)
}

fn from_json<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

fn or_empty(value: Option<impl Display>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("numbers and text under fixed names are always JSON")
}

#[cfg(test)]
mod tests {
    use autoweave_usb_device::{Action, Interface, PortPath, Reason, SourceName, Traceparent};
    use proptest::prelude::*;

    use super::*;

    const EVENT: &str = concat!(
        r#"{"seq":42,"event_id":"01J","producer":"aa","action":"attach","reason":"hotplug","source":"uevent","#,
        r#""host":"edge-7","timestamp":1767225600123,"edges":3,"device":{"device_id":"046d:c52b:ABC123","#,
        r#""signature":"a97118a5ce9e2a06","vendor_id":"046d","product_id":"c52b","manufacturer":"Logitech","#,
        r#""product":"USB Receiver","serial_number":"ABC123","bus_number":1,"device_address":5,"#,
        r#""port_path":"1.2","speed_mbps":1.5,"device_class":0,"interfaces":[{"number":0,"class":3,"#,
        r#""subclass":1,"protocol":1,"driver":null}],"device_descriptor":{"bLength":18,"bDescriptorType":1,"#,
        r#""bcdUSB":512,"bDeviceClass":0,"bDeviceSubClass":0,"bDeviceProtocol":0,"bMaxPacketSize0":8,"#,
        r#""idVendor":1133,"idProduct":50475,"bcdDevice":4609,"iManufacturer":1,"iProduct":2,"#,
        r#""iSerialNumber":0,"bNumConfigurations":1}}}"#,
    );

    fn pairs(event: &str) -> String {
        let event: Event = serde_json::from_str(event).unwrap();
        let values = entry(&event, &event.producer);
        FIELDS.iter().zip(values).map(|(name, value)| format!("{name}={value}\n")).collect()
    }

    #[test]
    fn every_field_is_the_documented_one() {
        let expected = concat!(
            "source=uevent\naction=attach\nvendor_id=046d\nproduct_id=c52b\ndevice_signature=a97118a5ce9e2a06\n",
            "manufacturer=Logitech\nproduct=USB Receiver\nserial_number=ABC123\nbus_number=1\ndevice_address=5\n",
            "port_path=1.2\ntimestamp=1767225600123\ndevice_descriptor={\"bLength\":18,\"bDescriptorType\":1,",
            "\"bcdUSB\":512,\"bDeviceClass\":0,\"bDeviceSubClass\":0,\"bDeviceProtocol\":0,\"bMaxPacketSize0\":8,",
            "\"idVendor\":1133,\"idProduct\":50475,\"bcdDevice\":4609,\"iManufacturer\":1,\"iProduct\":2,",
            "\"iSerialNumber\":0,\"bNumConfigurations\":1}\nevent_id=01J\nseq=42\nproducer=aa\nhost=edge-7\n",
            "device_id=046d:c52b:ABC123\nreason=hotplug\nedges=3\nspeed_mbps=1.5\ninterfaces=[{\"number\":0,",
            "\"class\":3,\"subclass\":1,\"protocol\":1,\"driver\":null}]\ntraceparent=\nschema=1\n",
        );
        assert_eq!(pairs(EVENT), expected);
    }

    #[test]
    fn what_is_unknown_is_empty() {
        let unknown = EVENT
            .replace(r#""Logitech""#, "null")
            .replace(r#""USB Receiver""#, "null")
            .replace(r#""serial_number":"ABC123""#, r#""serial_number":null"#)
            .replace(r#""speed_mbps":1.5"#, r#""speed_mbps":null"#);
        let (before, descriptor) = unknown.split_once(r#"{"bLength""#).unwrap();
        let unknown = format!("{before}null{}", descriptor.split_once('}').unwrap().1);
        let pairs = pairs(&unknown);
        for name in
            ["manufacturer", "product", "serial_number", "speed_mbps", "device_descriptor", "traceparent"]
        {
            assert!(pairs.contains(&format!("\n{name}=\n")), "{name} in {pairs}");
        }
    }

    #[test]
    fn a_placeholder_has_its_number_and_nothing_invented() {
        let values = placeholder(7, "01J", "aa");
        let set: Vec<_> = FIELDS.iter().zip(&values).filter(|(_, value)| !value.is_empty()).collect();
        let text: Vec<_> = set.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(text, ["event_id=01J", "seq=7", "producer=aa", "schema=1"]);
    }

    fn fields(event: &Event) -> Vec<(String, String)> {
        let values = entry(event, &event.producer);
        FIELDS.iter().map(|name| (*name).to_owned()).zip(values).collect()
    }

    #[test]
    fn a_field_that_is_missing_or_wrong_is_named() {
        let whole = fields(&serde_json::from_str(EVENT).unwrap());
        let is_text = |name: &str| {
            ["device_signature", "manufacturer", "product", "serial_number", "event_id", "producer", "host"]
                .contains(&name)
                || name == "device_id"
        };
        for (place, name) in FIELDS.into_iter().enumerate().filter(|(_, name)| *name != "traceparent") {
            let mut without = whole.clone();
            without.remove(place);
            assert_eq!(event(&without), Err(FieldError::Missing(name)));
            let mut wrong = whole.clone();
            wrong[place].1 = "\x1b[2J{".to_owned();
            match event(&wrong) {
                Ok(_) => assert!(is_text(name), "{name}"),
                Err(error) => assert!(error.to_string().contains(&format!("`{name}`")), "{name}: {error}"),
            }
        }
    }

    #[test]
    fn a_traceparent_that_is_none_costs_no_event() {
        let mut fields = fields(&serde_json::from_str(EVENT).unwrap());
        let at = FIELDS.iter().position(|name| *name == "traceparent").unwrap();
        let mut read = |value: &str| {
            value.clone_into(&mut fields[at].1);
            event(&fields).unwrap().traceparent.map(|traceparent| traceparent.to_string())
        };
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(read(good).as_deref(), Some(good));
        let long = format!("{good}-{}", "0".repeat(1 << 20));
        for hostile in ["", "00-", "\x1b[2J\n", "00-0-0-0", &long, &good.replace('4', "é")] {
            assert_eq!(read(hostile), None);
        }
    }

    #[test]
    fn what_others_write_is_no_event() {
        let event_1 = fields(&serde_json::from_str(EVENT).unwrap());
        assert_eq!(
            event(&event_1[..13]),
            Err(FieldError::Missing("schema")),
            "the specification's fields alone"
        );
        assert_eq!(event(&[]), Err(FieldError::Missing("schema")));
        let mut later = event_1.clone();
        later[SCHEMA].1 = "2".to_owned();
        assert!(matches!(event(&later), Err(FieldError::Invalid { name: "schema", .. })));
        let placeholder = FIELDS.iter().map(|name| (*name).to_owned()).zip(placeholder(7, "01J", "aa"));
        assert!(event(&placeholder.collect::<Vec<_>>()).is_err());
        for id in ["46d", "+46d", "046dd", "046g", ""] {
            let mut wrong = event_1.clone();
            wrong[2].1 = id.to_owned();
            assert!(matches!(event(&wrong), Err(FieldError::Invalid { name: "vendor_id", .. })), "{id:?}");
        }
        let mut more = event_1.clone();
        more.reverse();
        more.push(("new".to_owned(), "field".to_owned()));
        assert_eq!(event(&more), event(&event_1), "neither the order nor what is added matters");
    }

    fn any_text() -> impl Strategy<Value = Option<String>> {
        // Empty text cannot be told from none; the table makes it none.
        proptest::option::of(any::<String>().prop_filter("empty", |text| !text.is_empty()))
    }

    fn any_descriptor() -> impl Strategy<Value = Option<DeviceDescriptor>> {
        let descriptor = any::<[u16; 14]>().prop_map(|n| {
            let byte = |place: usize| n[place].to_be_bytes()[0];
            DeviceDescriptor {
                length: byte(0),
                descriptor_type: byte(1),
                bcd_usb: n[2],
                class: byte(3),
                subclass: byte(4),
                protocol: byte(5),
                max_packet_size_0: byte(6),
                vendor_id: n[7],
                product_id: n[8],
                bcd_device: n[9],
                manufacturer_index: byte(10),
                product_index: byte(11),
                serial_number_index: byte(12),
                configuration_count: byte(13),
            }
        });
        proptest::option::of(descriptor)
    }

    fn any_device() -> impl Strategy<Value = Device> {
        let interface =
            (any::<[u8; 4]>(), any_text()).prop_map(|([number, class, subclass, protocol], driver)| {
                Interface { number, class, subclass, protocol, driver }
            });
        let path = proptest::collection::vec(1..=255u8, 0..=7);
        let speed = (1..=u32::MAX).prop_map(|tenths| format!("{}.{}", tenths / 10, tenths % 10));
        let texts = (any::<String>(), any::<String>(), any_text(), any_text(), any_text());
        let numbers = (any::<[u16; 2]>(), any::<[u8; 2]>(), path, proptest::option::of(speed));
        (texts, numbers, any_descriptor(), proptest::collection::vec(interface, 0..4)).prop_map(
            |(texts, ([vendor_id, product_id], [bus, address], path, speed), descriptor, interfaces)| {
                let (device_id, signature, manufacturer, product, serial_number) = texts;
                Device {
                    device_id,
                    signature,
                    vendor_id,
                    product_id,
                    manufacturer,
                    product,
                    serial_number,
                    bus_number: bus,
                    device_address: address,
                    port_path: PortPath::new(&path).unwrap(),
                    speed_mbps: speed.and_then(|speed| Speed::parse(&speed)),
                    device_class: descriptor.map(|descriptor| descriptor.class),
                    interfaces,
                    device_descriptor: descriptor,
                    raw_strings: None,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn an_event_survives_the_stream(
            device in any_device(), texts in any::<[String; 3]>(), numbers in any::<(u64, u64, u32)>(),
            action in prop_oneof![Just(Action::Attach), Just(Action::Detach)],
            reason in prop_oneof![Just(Reason::Hotplug), Just(Reason::Coldplug), Just(Reason::Reboot)],
            source in prop_oneof![Just(SourceName::Uevent), Just(SourceName::Poll), Just(SourceName::Replay)],
            span_id in proptest::option::of(1..=u64::MAX), is_sampled: bool,
        ) {
            let traceparent = span_id.map(|span_id| Traceparent { trace_id: 1 << 90, span_id, is_sampled });
            let ([event_id, producer, host], (seq, timestamp, edges)) = (texts, numbers);
            let device = Arc::new(device);
            let before =
                Event { seq, event_id, producer, action, reason, source, host, timestamp, edges, seqnum: None, traceparent, device };
            prop_assert_eq!(event(&fields(&before)), Ok(before));
        }

        #[test]
        fn no_fields_make_it_panic(values in proptest::collection::vec(any::<String>(), 24)) {
            let fields: Vec<_> = FIELDS.iter().map(|name| (*name).to_owned()).zip(values).collect();
            let _ = event(&fields);
            let mut ours = fields;
            ours[SCHEMA].1 = SCHEMA_VERSION.to_owned();
            prop_assert!(event(&ours).is_err());
        }
    }
}
