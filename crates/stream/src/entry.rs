//! An event as an entry of the stream. All values are text; unknown ones are empty.

use std::fmt::Display;

use autoweave_usb_device::Event;

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
        String::new(),
        SCHEMA_VERSION.to_owned(),
    ]
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

fn or_empty(value: Option<impl Display>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("numbers and text under fixed names are always JSON")
}

#[cfg(test)]
mod tests {
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
}
