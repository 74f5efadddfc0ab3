//! Events of the usual size, for tests and for measuring.

use autoweave_usb_journal::NewEvent;

/// Event `seq` of `producer`; `name` tells journals apart.
pub fn event(name: &str, producer: &str, seq: u64) -> NewEvent {
    let event_id = format!("{name}{seq:020}");
    let action = if seq % 2 == 1 { "attach" } else { "detach" };
    let event = format!(
        concat!(
            r#"{{"seq":{seq},"event_id":"{event_id}","producer":"{producer}","action":"{action}","#,
            r#""reason":"hotplug","source":"uevent","host":"edge-7","timestamp":1767225600123,"edges":1,"#,
            r#""device":{{"device_id":"046d:c52b:ABC123","signature":"a97118a5ce9e2a06","vendor_id":"046d","#,
            r#""product_id":"c52b","manufacturer":"Logitech","product":"USB Receiver","#,
            r#""serial_number":"ABC123","bus_number":1,"device_address":5,"port_path":"1.2","#,
            r#""speed_mbps":12,"device_class":0,"interfaces":[{{"number":0,"class":3,"subclass":1,"#,
            r#""protocol":1,"driver":"usbhid"}}],"device_descriptor":{{"bLength":18,"bDescriptorType":1,"#,
            r#""bcdUSB":512,"bDeviceClass":0,"bDeviceSubClass":0,"bDeviceProtocol":0,"bMaxPacketSize0":8,"#,
            r#""idVendor":1133,"idProduct":50475,"bcdDevice":4609,"iManufacturer":1,"iProduct":2,"#,
            r#""iSerialNumber":0,"bNumConfigurations":1}}}}}}"#,
        ),
        seq = seq,
        event_id = event_id,
        producer = producer,
        action = action,
    );
    NewEvent { event_id, event }
}
