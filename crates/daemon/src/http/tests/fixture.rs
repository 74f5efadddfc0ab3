//! A daemon's core without the daemon: it commits events and tells the monitor.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use autoweave_usb_device::{Action, Device, Event, Port, PortPath, Reading, Reason, SourceName};
use autoweave_usb_journal::{Commit, Durability, Journal, NewEvent, Options};
use autoweave_usb_stream::Secret;
use tempfile::TempDir;

use super::super::server::Limits;
use super::super::{Listener, Monitor, Server, Status, StreamKind};
use super::client::Client;

/// What the machine is called, and what its service is.
pub const HOSTS: [&str; 2] = ["edge-7", "usb.example.org"];

pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Fixture {
    pub dir: TempDir,
    pub monitor: Arc<Monitor>,
    pub journal: Journal,
    pub server: Server,
}

pub fn device(number: u8) -> Arc<Device> {
    let port = Port { bus: 1, path: PortPath::new(&[number]).unwrap() };
    let reading = Reading::bare(port, number, 0x046d, 0xc52b, Some(0));
    Arc::new(Device::new(&reading, format!("046d:c52b@{port}")))
}

pub fn event(seq: u64) -> Event {
    let action = if seq.is_multiple_of(2) { Action::Detach } else { Action::Attach };
    Event {
        seqnum: None,
        traceparent: None,
        seq,
        event_id: format!("01J{seq:023}"),
        producer: "0".repeat(32),
        action,
        reason: Reason::Hotplug,
        source: SourceName::Uevent,
        host: "edge-7".repeat(60),
        timestamp: 1_767_225_600_123,
        edges: 1,
        device: device(1),
    }
}

pub fn journal(dir: &Path, max_events: u64) -> Journal {
    Journal::open(dir, Options { durability: Durability::Process, max_events }).unwrap()
}

/// Appends `count` events; returns the last sequence number.
pub fn append(journal: &mut Journal, count: u64) -> u64 {
    let first_seq = journal.last_seq() + 1;
    let events = (first_seq..first_seq + count)
        .map(|seq| {
            let event = event(seq);
            NewEvent { event: serde_json::to_string(&event).unwrap(), event_id: event.event_id }
        })
        .collect();
    journal.commit(&Commit { first_seq, events, ..Commit::default() }).unwrap();
    journal.last_seq()
}

pub fn serve(limits: Limits, monitor: &Arc<Monitor>, dir: &Path) -> Server {
    serve_for(None, limits, monitor, dir)
}

/// [`serve`], for those who know `token`.
pub fn serve_for(token: Option<&str>, limits: Limits, monitor: &Arc<Monitor>, dir: &Path) -> Server {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let hosts = HOSTS.map(str::to_owned).to_vec();
    let token = token.map(|token| Secret::new(token.to_owned()));
    Server::start_within(limits, hosts, token, listener, monitor.clone(), dir.to_owned()).unwrap()
}

impl Fixture {
    pub fn new() -> Self {
        Self::with(Limits::DEFAULT, 1_000_000)
    }

    pub fn with(limits: Limits, max_events: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let journal = journal(dir.path(), max_events);
        let monitor = Arc::new(Monitor::new(Status::new(StreamKind::Embedded)));
        let server = serve(limits, &monitor, dir.path());
        Self { dir, monitor, journal, server }
    }

    /// Commits and tells of `count` events.
    pub fn plug(&mut self, count: u64) {
        let last_seq = append(&mut self.journal, count);
        self.monitor.committed(last_seq, [device(1), device(2)].iter());
    }

    pub fn client(&self) -> Client {
        Client::connect(self.server.address())
    }

    /// One request on a connection of its own.
    pub fn get(&self, path: &str) -> super::client::Answer {
        self.client().get(path, "")
    }
}

/// Asks until it is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
