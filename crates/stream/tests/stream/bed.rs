//! A journal with events, a publisher, and what a plain client then finds in the stream.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use autoweave_usb_journal::{Commit, Durability, Journal, Options};
use autoweave_usb_stream::{Failure, Listener, Notice, Publisher, Settings, State, Status};
use tempfile::TempDir;

use crate::event::event;
use crate::server::until;

pub struct Bed {
    pub dir: TempDir,
    pub journal: Option<Journal>,
    pub notices: Arc<Mutex<Vec<Notice>>>,
    /// Told apart from the events of another bed with the same numbers.
    pub name: &'static str,
}

impl Bed {
    pub fn new(name: &'static str) -> Self {
        let dir = TempDir::new().unwrap();
        let mut bed = Self { dir, journal: None, notices: Arc::default(), name };
        bed.open(1_000_000);
        bed
    }

    pub fn open(&mut self, max_events: u64) {
        let options = Options { durability: Durability::Process, max_events };
        self.journal = Some(Journal::open(self.dir.path(), options).unwrap());
    }

    pub fn journal(&mut self) -> &mut Journal {
        self.journal.as_mut().unwrap()
    }

    pub fn producer(&self) -> String {
        self.journal.as_ref().unwrap().producer().to_owned()
    }

    pub fn last_seq(&self) -> u64 {
        self.journal.as_ref().unwrap().last_seq()
    }

    pub fn add(&mut self, count: u64) {
        let (name, producer) = (self.name, self.producer());
        let mut left = count;
        while left > 0 {
            let journal = self.journal();
            let first_seq = journal.last_seq() + 1;
            let part = left.min(1000);
            let events = (first_seq..first_seq + part).map(|seq| event(name, &producer, seq)).collect();
            journal.commit(&Commit { first_seq, events, ..Commit::default() }).unwrap();
            left -= part;
        }
    }

    pub fn publish(&self, settings: Settings) -> Publisher {
        self.publish_as(settings, self.producer())
    }

    pub fn publish_as(&self, settings: Settings, producer: String) -> Publisher {
        let notices = self.notices.clone();
        let tell = move |notice| notices.lock().unwrap().push(notice);
        let listener = Listener { on_notice: Box::new(tell), on_acknowledged: Box::new(|_| {}) };
        Publisher::spawn(settings, self.dir.path(), producer, listener).unwrap()
    }

    pub fn told(&self, is: impl Fn(&Notice) -> bool) -> bool {
        self.notices.lock().unwrap().iter().any(is)
    }

    /// The failures told, in order.
    pub fn failures(&self) -> Vec<Failure> {
        let notices = self.notices.lock().unwrap();
        let failure = |notice: &Notice| match notice {
            Notice::Down(failure) => Some(failure.clone()),
            _ => None,
        };
        notices.iter().filter_map(failure).collect()
    }

    /// Waits until the publisher has acknowledged all of the journal.
    pub fn until_level(&self, publisher: &Publisher) {
        let last_seq = self.last_seq();
        publisher.wake();
        until(&format!("{last_seq} events are published: {:?}", self.notices.lock().unwrap()), || {
            publisher.published_seq() == Some(last_seq) && publisher.status().state == State::Up
        });
    }
}

/// Sequence numbers and event ids in the stream, oldest first, as a plain client reads them.
pub fn stream(connection: &mut redis::Connection, key: &str) -> Vec<(u64, String)> {
    let entries: Vec<(String, Vec<String>)> =
        redis::cmd("XRANGE").arg(key).arg("-").arg("+").query(connection).unwrap();
    let value = |fields: &[String], name: &str| {
        fields.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone()).unwrap()
    };
    entries.iter().map(|(_, f)| (value(f, "seq").parse().unwrap(), value(f, "event_id"))).collect()
}

/// The stream holds events `from` to `to` of `name`, once each and in order.
pub fn assert_once(connection: &mut redis::Connection, name: &str, from: u64, to: u64) {
    let expected: Vec<_> = (from..=to).map(|seq| (seq, format!("{name}{seq:020}"))).collect();
    let found = stream(connection, "aw:hotplug");
    let differs = expected.iter().zip(&found).find(|(expected, found)| expected != found);
    assert!(found == expected, "{} entries of {}, first difference {differs:?}", found.len(), expected.len());
}

pub fn stop(publisher: Publisher) -> Status {
    publisher.stop(Instant::now() + Duration::from_secs(10))
}
