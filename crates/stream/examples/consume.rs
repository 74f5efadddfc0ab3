//! Handles each event of the Redis stream as a consumer group: `cargo run -p autoweave-usb-stream --example consume`, with
//! a Redis on localhost.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use autoweave_usb_stream::{Consumer, Endpoint, Member, Settings, Sharing, Verdict};

fn main() {
    let settings = Settings {
        endpoint: Endpoint::Tcp { host: "localhost".to_owned(), port: 6379, tls: false },
        username: None,
        password: None,
        db: 0,
        stream: "aw:hotplug".to_owned(),
        max_len: 100_000.try_into().expect("not zero"),
        batch_size: 10.try_into().expect("not zero"),
        max_events_per_second: None,
        interval: Duration::from_secs(5),
    };
    let member = Member {
        group: "example".to_owned(),
        // The same after a restart, so that it begins with what it had and did not finish.
        consumer: "consume-1".to_owned(),
        max_deliveries: 5,
        sharing: Sharing::MinIdle(Duration::from_secs(60)),
    };
    let mut consumer = Consumer::redis(settings, member, Arc::new(|notice| eprintln!("{notice}")));
    // Whoever sets it, a handler of signals for one, ends the run.
    let stop = AtomicBool::new(false);
    consumer.run(&stop, |event, delivery| {
        println!("{} {} {} (delivery {delivery})", event.host, event.action, event.device.device_id);
        Verdict::Done
    });
}
