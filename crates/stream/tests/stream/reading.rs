//! The reading side and the look at the server.

use std::time::{Duration, Instant};

use autoweave_usb_stream::{Endpoint, Entry, Failure, GroupReader, StreamReader, create_group, event, probe};
use nix::sys::signal::Signal;

use crate::bed::Bed;
use crate::server::Server;

fn seqs(entries: &[Entry]) -> Vec<&str> {
    entries.iter().filter_map(|entry| entry.get("seq")).collect()
}

#[test]
fn the_newest_come_first_and_in_pages() {
    let server = Server::start(&[]);
    let mut reader = StreamReader::connect(&server.settings()).unwrap();
    assert_eq!(reader.newest(None, 10), Ok(Vec::new()), "no stream is an empty one");
    assert_eq!(reader.last_id(), Ok(None));
    let mut bed = Bed::new("a");
    bed.add(20);
    let publisher = bed.publish(server.settings());
    bed.until_level(&publisher);
    let newest = reader.newest(None, 3).unwrap();
    assert_eq!(seqs(&newest), ["20", "19", "18"]);
    let names: Vec<_> = newest[0].fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, autoweave_usb_stream::FIELDS);
    assert_eq!(seqs(&reader.newest(Some(&newest[2].id), 2).unwrap()), ["17", "16"]);
    assert_eq!(reader.newest(None, 0), Ok(Vec::new()));
    assert_eq!(reader.last_id(), Ok(Some(newest[0].id.clone())));
}

#[test]
fn what_was_published_is_read_back() {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    bed.add(2);
    let publisher = bed.publish(server.settings());
    bed.until_level(&publisher);
    let read = StreamReader::connect(&server.settings()).unwrap().after("0", 10, Duration::ZERO).unwrap();
    let producer = bed.producer();
    for (seq, entry) in (1..).zip(&read) {
        let written = crate::event::event("a", &producer, seq).event;
        assert_eq!(event(&entry.fields), Ok(serde_json::from_str(&written).unwrap()));
    }
    assert_eq!(read.len(), 2);
}

#[test]
fn reading_on_waits_for_what_comes() {
    let server = Server::start(&[]);
    let settings = server.settings();
    let mut reader = StreamReader::connect(&settings).unwrap();
    let begin = Instant::now();
    assert_eq!(reader.after("0", 10, Duration::from_millis(300)), Ok(Vec::new()));
    assert!(begin.elapsed() >= Duration::from_millis(290));
    let waiting = std::thread::spawn(move || (reader.after("0", 10, Duration::from_secs(20)), reader));
    let mut bed = Bed::new("a");
    bed.add(1);
    let publisher = bed.publish(settings);
    bed.until_level(&publisher);
    let (read, mut reader) = waiting.join().unwrap();
    let first = &read.unwrap()[0];
    bed.add(3);
    bed.until_level(&publisher);
    assert_eq!(seqs(&reader.after(&first.id, 2, Duration::ZERO).unwrap()), ["2", "3"]);
    assert_eq!(reader.after(&first.id, 0, Duration::ZERO), Ok(Vec::new()), "none asked for, none given");
    assert_eq!((reader.has(&first.id), reader.has("1-1")), (Ok(true), Ok(false)));
    let mut connection = server.connection();
    redis::cmd("XDEL").arg("aw:hotplug").arg(&first.id).exec(&mut connection).unwrap();
    assert_eq!(reader.has(&first.id), Ok(false));
}

#[test]
fn a_group_gets_everything_and_first_what_it_did_not_acknowledge() {
    let server = Server::start(&[]);
    let settings = server.settings();
    let mut bed = Bed::new("a");
    bed.add(5);
    let publisher = bed.publish(settings.clone());
    bed.until_level(&publisher);
    assert!(matches!(
        GroupReader::connect(&settings, "g", "c").unwrap().read(1, Duration::ZERO),
        Err(Failure::Refused(text)) if text.starts_with("NOGROUP")
    ));
    assert_eq!(create_group(&settings, "g"), Ok(true));
    assert_eq!(create_group(&settings, "g"), Ok(false));

    let seqs = |reader: &mut GroupReader, count| {
        let entries = reader.read(count, Duration::ZERO).unwrap();
        entries.iter().map(|e| (e.get("seq").unwrap().to_owned(), e.id.clone())).collect::<Vec<_>>()
    };
    let numbers = |pairs: &[(String, String)]| pairs.iter().map(|p| p.0.clone()).collect::<Vec<_>>();
    let mut reader = GroupReader::connect(&settings, "g", "c").unwrap();
    let first = seqs(&mut reader, 3);
    assert_eq!(numbers(&first), ["1", "2", "3"]);
    reader.ack([first[1].1.as_str()]).unwrap();
    drop(reader);
    let mut reader = GroupReader::connect(&settings, "g", "c").unwrap();
    assert_eq!(numbers(&seqs(&mut reader, 1)), ["1"], "its own first");
    assert_eq!(numbers(&seqs(&mut reader, 10)), ["3"]);
    assert_eq!(numbers(&seqs(&mut reader, 10)), ["4", "5"]);
    assert_eq!(seqs(&mut reader, 10), []);
}

#[test]
fn a_blocked_read_ends_with_an_entry_or_with_its_time() {
    let server = Server::start(&[]);
    let settings = server.settings();
    create_group(&settings, "g").unwrap();
    let mut reader = GroupReader::connect(&settings, "g", "c").unwrap();
    let begin = Instant::now();
    assert_eq!(reader.read(10, Duration::from_millis(700)), Ok(Vec::new()));
    assert!(begin.elapsed() >= Duration::from_millis(690));
    let waiting = std::thread::spawn(move || reader.read(10, Duration::from_secs(20)).unwrap());
    let mut bed = Bed::new("a");
    bed.add(1);
    let publisher = bed.publish(settings);
    bed.until_level(&publisher);
    assert_eq!(waiting.join().unwrap()[0].get("seq"), Some("1"));
}

#[test]
fn an_entry_trimmed_before_it_was_acknowledged_has_no_fields() {
    let server = Server::start(&[]);
    let settings = server.settings();
    let mut bed = Bed::new("a");
    bed.add(1);
    let publisher = bed.publish(settings.clone());
    bed.until_level(&publisher);
    create_group(&settings, "g").unwrap();
    GroupReader::connect(&settings, "g", "c").unwrap().read(1, Duration::ZERO).unwrap();
    let mut connection = server.connection();
    redis::cmd("XTRIM").arg("aw:hotplug").arg("MAXLEN").arg(0).exec(&mut connection).unwrap();
    let gone = GroupReader::connect(&settings, "g", "c").unwrap().read(1, Duration::ZERO).unwrap();
    assert_eq!((gone.len(), gone[0].fields.len()), (1, 0));
}

#[test]
fn a_probe_says_what_is_there() {
    let server = Server::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let settings = server.settings();
    let findings = probe(&settings).unwrap();
    assert!(findings.version_suffices && findings.version.contains('.'), "{findings:?}");
    assert!(findings.may_evict && findings.refuses_writes.is_none());
    assert_eq!((findings.maxmemory_policy.as_str(), findings.stream_length), ("allkeys-lru", None));
    create_group(&settings, "g").unwrap();
    let mut bed = Bed::new("a");
    bed.add(5);
    let publisher = bed.publish(settings.clone());
    bed.until_level(&publisher);
    GroupReader::connect(&settings, "g", "c").unwrap().read(2, Duration::ZERO).unwrap();
    let findings = probe(&settings).unwrap();
    assert_eq!(findings.stream_length, Some(5));
    let group = &findings.groups[0];
    assert_eq!((group.name.as_str(), group.consumers, group.pending), ("g", 1, 2));
    assert!(group.lag.is_none_or(|lag| lag == 3));
}

#[test]
fn a_probe_says_what_is_wrong() {
    let server = Server::start(&["--requirepass", "right"]);
    assert!(matches!(probe(&server.settings()), Err(Failure::AuthRefused(_))));
    let replica = Server::start(&["--replicaof", "127.0.0.1", "1"]);
    let findings = probe(&replica.settings()).unwrap();
    assert!(matches!(findings.refuses_writes, Some(Failure::ReadOnly(_))));
    let mut nowhere = server.settings();
    nowhere.endpoint = Endpoint::Unix(server.dir().join("nothing"));
    assert!(matches!(probe(&nowhere), Err(Failure::Unreachable(_))));
    let asleep = Server::start(&[]);
    asleep.signal(Signal::SIGSTOP);
    let begin = Instant::now();
    assert!(matches!(probe(&asleep.settings()), Err(Failure::Unreachable(_))));
    assert!(begin.elapsed() < Duration::from_secs(10));
}
