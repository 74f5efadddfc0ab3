//! How fast a journal is published: `catch_up SOCKET [BATCH_SIZE [EVENTS]]`, with a Redis that listens on a Unix
//! socket. Prints events per second.

#[path = "../tests/stream/event.rs"]
mod event;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use autoweave_usb_journal::{Commit, Durability, Journal, Options};
use autoweave_usb_stream::{Endpoint, Listener, Publisher, Settings};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let socket = PathBuf::from(arguments.next().ok_or("which Unix socket?")?);
    let batch_size = arguments.next().map_or(Ok(10), |text| text.parse())?;
    let count: u64 = arguments.next().map_or(Ok(200_000), |text| text.parse())?;

    let dir = tempfile::tempdir()?;
    let options = Options { durability: Durability::Process, max_events: count };
    let mut journal = Journal::open(dir.path(), options)?;
    let producer = journal.producer().to_owned();
    while journal.last_seq() < count {
        let first_seq = journal.last_seq() + 1;
        let numbers = first_seq..=count.min(first_seq + 999);
        let events = numbers.map(|seq| event::event("a", &producer, seq)).collect();
        journal.commit(&Commit { first_seq, events, ..Commit::default() })?;
    }

    let settings = Settings {
        endpoint: Endpoint::Unix(socket),
        username: None,
        password: None,
        db: 0,
        stream: "aw:hotplug".to_owned(),
        max_len: 10_000_000.try_into()?,
        batch_size: usize::try_into(batch_size)?,
        max_events_per_second: None,
        interval: Duration::from_secs(5),
    };
    let begin = Instant::now();
    let listener =
        Listener { on_notice: Box::new(|notice| eprintln!("{notice}")), on_acknowledged: Box::new(|_| {}) };
    let publisher = Publisher::spawn(settings, dir.path(), producer, listener)?;
    let published = publisher.stop(begin + Duration::from_secs(600)).published_seq.unwrap_or(0);
    let seconds = begin.elapsed().as_secs_f64();
    println!("{published} events in {seconds:.2} s: {:.0} a second", published as f64 / seconds);
    Ok(())
}
