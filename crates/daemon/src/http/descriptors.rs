//! What the descriptors of a connected device say now: read from sysfs when somebody asks, and never before.

use std::sync::Arc;
use std::time::Duration;

use autoweave_usb_device::{Configuration, Descriptors, Device, DeviceDescriptor};
use axum::http::StatusCode;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::problem::Problem;

/// Of a device's descriptors that are told, so that no device makes a client cost much: webcams, which have the most to
/// say, have a few KiB.
const BYTES_MAX: usize = 16 * 1024;

/// How long a request waits for sysfs, and for others that read.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct Told<'a> {
    device_id: &'a str,
    signature: &'a str,
    device_descriptor: Option<DeviceDescriptor>,
    configurations: Vec<Configuration>,
    /// Why what follows is not told.
    fault: Option<String>,
}

/// Reads what the descriptors of `device` say, as JSON, off the thread that serves HTTP and when there is a permit in
/// `turns`.
///
/// # Errors
/// 404: another device is there, or none, or its descriptors cannot be read. 503: sysfs does not answer in time.
pub(super) async fn read(turns: &Arc<Semaphore>, device: Arc<Device>) -> Result<String, Problem> {
    let read = async {
        let turn = turns.clone().acquire_owned().await.expect("nothing closes the semaphore");
        let work = move || {
            let _turn = turn;
            autoweave_usb_source::descriptors(device.port(), device.device_address)
                .and_then(|bytes| tell(&device, &bytes))
                .ok_or_else(|| unread(&device))
        };
        tokio::task::spawn_blocking(work).await
    };
    // The work fails only if it panicked or the server stops meanwhile.
    let busy = || Problem::unavailable("sysfs does not answer");
    timeout(READ_TIMEOUT, read).await.map_err(|_| busy())?.map_err(|_| busy())?
}

/// What `bytes` say of `device`; none if they are of another one.
fn tell(device: &Device, bytes: &[u8]) -> Option<String> {
    let told = bytes.get(..BYTES_MAX).unwrap_or(bytes);
    let Descriptors { device: device_descriptor, configurations, fault } = Descriptors::parse(told);
    // A device of a recording or a simulation has its port and address from elsewhere.
    let is_it = |found: DeviceDescriptor| {
        (found.vendor_id, found.product_id) == (device.vendor_id, device.product_id)
    };
    if !device_descriptor.is_none_or(is_it) {
        return None;
    }
    let fault = if told.len() < bytes.len() {
        Some(format!("only the first {BYTES_MAX} of {} bytes are told", bytes.len()))
    } else {
        fault.map(|fault| fault.to_string())
    };
    let Device { device_id, signature, .. } = device;
    serde_json::to_string(&Told { device_id, signature, device_descriptor, configurations, fault }).ok()
}

fn unread(device: &Device) -> Problem {
    let detail = if cfg!(target_os = "linux") {
        format!(
            "the device at {} has gone, another one is in its place, or sysfs does not show its descriptors",
            device.port()
        )
    } else {
        "descriptors are read from sysfs, which only Linux has".to_owned()
    };
    Problem::new(StatusCode::NOT_FOUND, detail)
}

#[cfg(test)]
mod tests {
    use autoweave_usb_device::Reading;
    use serde_json::{Value, json};

    use super::*;

    const DEVICE: [u8; 18] = [18, 1, 0, 2, 0, 0, 0, 64, 0x6d, 4, 0x2b, 0xc5, 1, 18, 1, 2, 3, 1];
    const CONFIGURATION: [u8; 9] = [9, 2, 0, 0, 2, 1, 0, 0xa0, 49];
    const ENDPOINT: [u8; 7] = [7, 5, 0x81, 3, 8, 0, 4];

    fn told(vendor_id: u16, bytes: &[u8]) -> Option<Value> {
        let reading = Reading::bare("1-1.4".parse().unwrap(), 5, vendor_id, 0xc52b, None);
        let told = tell(&Device::new(&reading, "046d:c52b:A".to_owned()), bytes)?;
        Some(serde_json::from_str(&told).unwrap())
    }

    #[test]
    fn it_is_said_whose_they_are_and_what_is_wrong_with_them() {
        let body = told(0x046d, &[&DEVICE[..], &CONFIGURATION].concat()).unwrap();
        assert_eq!((&body["device_id"], &body["fault"]), (&json!("046d:c52b:A"), &Value::Null));
        assert_eq!(body["signature"].as_str().unwrap().len(), 16);
        assert_eq!(body["device_descriptor"]["idVendor"], 0x046d);
        assert_eq!(body["configurations"][0]["bMaxPower"], 49);
        let body = told(0x046d, &[&DEVICE[..], &CONFIGURATION, &ENDPOINT].concat()).unwrap();
        assert_eq!(body["fault"], "the descriptor at byte 27 belongs to nothing before it");
        assert_eq!(body["configurations"].as_array().unwrap().len(), 1);
        let body = told(0x046d, &[0xff; 9]).unwrap();
        assert_eq!((&body["device_descriptor"], &body["configurations"]), (&Value::Null, &json!([])));
        assert_eq!(body["fault"], "the descriptor at byte 0 runs past the end");
    }

    #[test]
    fn those_of_another_device_are_not_told() {
        assert_eq!(told(0x046e, &DEVICE), None);
    }

    #[test]
    fn however_much_a_device_says_the_answer_is_bounded() {
        let interface = [9, 4, 255, 255, 1, 255, 255, 255, 0];
        let many = [&DEVICE[..], &CONFIGURATION, &interface.repeat(58_000)].concat();
        let body = told(0x046d, &many).unwrap();
        assert_eq!(body["fault"], "only the first 16384 of 522027 bytes are told");
        let settings = body["configurations"][0]["interfaces"].as_array().unwrap().len();
        assert_eq!(settings, (BYTES_MAX - 27) / 9);
        assert!(body.to_string().len() < 300_000);
    }
}
