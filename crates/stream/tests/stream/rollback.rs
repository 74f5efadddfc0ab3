//! Server and journal that no longer agree: replayed, or told that a new producer is needed, never repeated.

use std::fs;

use autoweave_usb_stream::{Notice, Publisher, State};

use crate::bed::{Bed, assert_once, stop, stream};
use crate::server::{Server, until};

const MARKS: &str = "{aw:hotplug}:seq";

fn command(connection: &mut redis::Connection, words: &[&str]) {
    redis::cmd(words[0]).arg(&words[1..]).exec(connection).unwrap();
}

fn until_told(bed: &Bed, what: &str, is: impl Fn(&Notice) -> bool) {
    until(&format!("{what} is told"), || bed.told(&is));
}

/// Publishes 1,000 events, does `harm`, then 50 more, and expects all of them in the stream.
fn replayed_after(harm: &[&str]) {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    bed.add(1000);
    let publisher = bed.publish(server.settings());
    bed.until_level(&publisher);
    let mut connection = server.connection();
    command(&mut connection, harm);
    bed.add(50);
    publisher.wake();
    until("all are there", || stream(&mut connection, "aw:hotplug").len() == 1050);
    bed.until_level(&publisher);
    assert_once(&mut connection, "a", 1, 1050);
    assert!(bed.told(|notice| matches!(notice, Notice::Replaying { from: 1, .. })), "{:?}", bed.notices);
}

#[test]
fn everything_flushed_is_replayed() {
    replayed_after(&["FLUSHALL"]);
}

#[test]
fn a_deleted_stream_is_replayed() {
    replayed_after(&["DEL", "aw:hotplug"]);
}

#[test]
fn a_quiet_publisher_notices_at_the_interval() {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    bed.add(100);
    let publisher = bed.publish(server.settings());
    bed.until_level(&publisher);
    let mut connection = server.connection();
    for harm in [&["FLUSHALL"][..], &["DEL", "aw:hotplug"], &["DEL", "aw:hotplug", MARKS]] {
        command(&mut connection, harm);
        until("all are there again", || stream(&mut connection, "aw:hotplug").len() == 100);
        assert_once(&mut connection, "a", 1, 100);
    }
    drop(publisher);
}

#[test]
fn a_stream_deleted_and_begun_by_another_producer_is_replayed_by_all() {
    let server = Server::start(&[]);
    let (mut a, mut b) = (Bed::new("a"), Bed::new("b"));
    a.add(300);
    b.add(300);
    let (first, second) = (a.publish(server.settings()), b.publish(server.settings()));
    a.until_level(&first);
    b.until_level(&second);
    let mut connection = server.connection();
    command(&mut connection, &["DEL", "aw:hotplug"]);
    b.add(1);
    second.wake();
    until("all are there", || stream(&mut connection, "aw:hotplug").len() == 601);
    let found = stream(&mut connection, "aw:hotplug");
    let of =
        |name: &str| found.iter().filter(|(_, id)| id.starts_with(name)).map(|e| e.0).collect::<Vec<_>>();
    assert_eq!(of("a"), (1..=300).collect::<Vec<_>>());
    assert_eq!(of("b"), (1..=301).collect::<Vec<_>>());
}

#[test]
fn deleted_marks_are_found_again_in_the_stream() {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    bed.add(2000);
    let publisher = bed.publish(server.settings());
    bed.until_level(&publisher);
    let mut connection = server.connection();
    for _ in 0..5 {
        command(&mut connection, &["DEL", MARKS]);
        bed.add(100);
        bed.until_level(&publisher);
    }
    stop(publisher);
    command(&mut connection, &["DEL", MARKS]);
    let publisher = bed.publish(server.settings());
    bed.add(100);
    bed.until_level(&publisher);
    assert_once(&mut connection, "a", 1, 2600);
}

#[test]
fn a_server_that_comes_back_older_gets_what_it_lost() {
    let mut server = Server::start(&[]);
    let mut bed = Bed::new("a");
    bed.add(500);
    let publisher = bed.publish(server.settings());
    bed.until_level(&publisher);
    command(&mut server.connection(), &["SAVE"]);
    bed.add(700);
    bed.until_level(&publisher);
    server.kill();
    server.restart();
    bed.add(10);
    publisher.wake();
    until("all are there", || stream(&mut server.connection(), "aw:hotplug").len() == 1210);
    bed.until_level(&publisher);
    assert_once(&mut server.connection(), "a", 1, 1210);
    assert!(bed.told(|notice| matches!(notice, Notice::Replaying { from: 501, .. })), "{:?}", bed.notices);
}

#[test]
fn what_the_journal_no_longer_keeps_is_told() {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    bed.add(1000);
    let publisher = bed.publish(server.settings());
    bed.until_level(&publisher);
    drop(bed.journal.take());
    bed.open(100);
    // Retention removes a bounded number of rows with each commit.
    for _ in 0..20 {
        bed.add(1);
    }
    bed.until_level(&publisher);
    let mut connection = server.connection();
    command(&mut connection, &["FLUSHALL"]);
    until_told(&bed, "the loss", |notice| *notice == Notice::NoLongerKept { from: 1, to: 920, count: 920 });
    bed.until_level(&publisher);
    until("the rest is there", || stream(&mut connection, "aw:hotplug").len() == 100);
    assert_once(&mut connection, "a", 921, 1020);
}

#[test]
fn a_journal_deleted_and_begun_anew_publishes_under_its_own_id() {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    bed.add(100);
    let publisher = bed.publish(server.settings());
    bed.until_level(&publisher);
    replace_journal(&mut bed, None);
    bed.name = "b";
    bed.add(5);
    publisher.wake();
    until_told(&bed, "the need of a new producer", |n| matches!(n, Notice::NewProducerNeeded { .. }));
    assert_once(&mut server.connection(), "a", 1, 100);
    publisher.resume_as(bed.producer());
    bed.until_level(&publisher);
    let found = stream(&mut server.connection(), "aw:hotplug");
    let expected: Vec<_> = (1..=5).map(|seq| (seq, format!("b{seq:020}"))).collect();
    assert_eq!(found[100..], expected);
}

#[test]
fn a_journal_restored_from_an_old_copy_needs_a_new_producer() {
    for added_since in [0, 5, 200] {
        restored(added_since, false);
        restored(added_since, true);
    }
}

/// The journal goes back from 100 events to 60 and then gets others, in mid-flow or while the daemon is down.
fn restored(added_since: u64, while_down: bool) {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    bed.add(60);
    let copy = backup(&mut bed);
    bed.add(40);
    let mut publisher: Option<Publisher> = Some(bed.publish(server.settings()));
    bed.until_level(publisher.as_ref().unwrap());
    if while_down {
        stop(publisher.take().unwrap());
    }
    replace_journal(&mut bed, Some(copy));
    assert_eq!(bed.last_seq(), 60);
    bed.name = "b";
    bed.add(added_since);
    let publisher = publisher.unwrap_or_else(|| bed.publish(server.settings()));
    publisher.wake();
    until_told(&bed, "the need of a new producer", |n| matches!(n, Notice::NewProducerNeeded { .. }));
    until("publishing has stopped", || publisher.status().state == State::Down);
    let mut connection = server.connection();
    assert_once(&mut connection, "a", 1, 100);

    let new = "0123456789abcdef0123456789abcdef".to_owned();
    publisher.resume_as(new.clone());
    bed.until_level(&publisher);
    stop(publisher);
    bed.add(3);
    let publisher = bed.publish_as(server.settings(), new);
    bed.until_level(&publisher);
    let found = stream(&mut connection, "aw:hotplug");
    let expected: Vec<_> = (61..=63 + added_since).map(|seq| (seq, format!("b{seq:020}"))).collect();
    assert_eq!(found[100..], expected, "added {added_since}, while down: {while_down}");
}

#[test]
fn a_second_restore_repeats_nothing() {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    bed.add(60);
    let first_backup = backup(&mut bed);
    bed.add(40);
    let publisher = bed.publish(server.settings());
    bed.until_level(&publisher);
    stop(publisher);

    replace_journal(&mut bed, Some(first_backup));
    bed.name = "b";
    let first = "1".repeat(32);
    bed.add(20);
    let publisher = bed.publish_as(server.settings(), first.clone());
    bed.until_level(&publisher);
    let second_backup = backup(&mut bed);
    bed.add(10);
    bed.until_level(&publisher);
    stop(publisher);

    replace_journal(&mut bed, Some(second_backup));
    bed.name = "c";
    bed.add(5);
    let publisher = bed.publish_as(server.settings(), first);
    until_told(&bed, "the need of a new producer", |n| matches!(n, Notice::NewProducerNeeded { .. }));
    let status = publisher.status();
    assert_eq!((status.published_seq, status.unpublished), (None, None), "the stream's is another history");
    publisher.resume_as("2".repeat(32));
    bed.until_level(&publisher);

    let ids = |name, numbers: std::ops::RangeInclusive<u64>| {
        numbers.map(move |seq| (seq, format!("{name}{seq:020}")))
    };
    let expected: Vec<_> = ids("a", 1..=100).chain(ids("b", 61..=90)).chain(ids("c", 81..=85)).collect();
    assert_eq!(stream(&mut server.connection(), "aw:hotplug"), expected);
}

#[test]
fn what_others_write_into_the_stream_is_passed_over() {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    bed.add(20);
    let publisher = bed.publish(server.settings());
    bed.until_level(&publisher);
    stop(publisher);
    let mut connection = server.connection();
    for (seq, event_id) in [(&b"5"[..], &b"\xff\xfe"[..]), (b"\xff", b"x"), (b"18446744073709551615", b"-")] {
        let mut command = redis::cmd("XADD");
        command.arg("aw:hotplug").arg("*").arg("producer").arg("p").arg("seq").arg(seq);
        command.arg("event_id").arg(event_id).exec(&mut connection).unwrap();
    }
    command(&mut connection, &["DEL", MARKS]);
    bed.add(5);
    let publisher = bed.publish(server.settings());
    bed.until_level(&publisher);
    assert_eq!(redis::cmd("XLEN").arg("aw:hotplug").query(&mut connection), Ok(28));
}

#[test]
fn a_mark_that_is_none_is_told_with_its_mend() {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    bed.add(20);
    let publisher = bed.publish(server.settings());
    bed.until_level(&publisher);
    let mut connection = server.connection();
    for mark in [&b"twenty x 1-1"[..], b"20 \xff 1-1"] {
        let producer = bed.producer();
        redis::cmd("HSET").arg(MARKS).arg(&producer).arg(mark).exec(&mut connection).unwrap();
        bed.add(5);
        publisher.wake();
        let mend = format!("HDEL {MARKS} {producer}");
        until("the mend is told", || {
            publisher.status().last_error.is_some_and(|error| error.contains(&mend))
        });
        command(&mut connection, &mend.split(' ').collect::<Vec<_>>());
        bed.until_level(&publisher);
    }
    assert_once(&mut connection, "a", 1, 30);
}

#[test]
fn a_catch_up_that_retention_overtakes_goes_on() {
    const KEPT: u64 = 200;
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    drop(bed.journal.take());
    bed.open(KEPT);
    bed.add(KEPT);
    let mut settings = server.settings();
    settings.max_events_per_second = 10.try_into().ok();
    settings.interval = std::time::Duration::from_secs(3600);
    let publisher = bed.publish(settings.clone());
    until("it is placed", || publisher.published_seq() >= Some(10));
    for _ in 0..150 {
        bed.add(10);
        publisher.wake();
        let oldest = bed.last_seq() - KEPT;
        until("it goes on behind what was removed", || publisher.published_seq() >= Some(oldest));
    }
    settings.max_events_per_second = None;
    publisher.reload(settings);
    bed.until_level(&publisher);

    let notices = bed.notices.lock().unwrap().clone();
    let lost: Vec<_> = notices
        .iter()
        .filter_map(|notice| match notice {
            Notice::NoLongerKept { from, to, count } => Some((*from, *to, *count)),
            Notice::Up { .. } => None,
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(lost.len(), 2, "when it began and when it was over: {lost:?}");
    let published = stream(&mut server.connection(), "aw:hotplug");
    let count: u64 = lost.iter().map(|lost| lost.2).sum();
    assert_eq!(published.len() as u64 + count, bed.last_seq());
    assert!(lost[1].2 <= lost[1].1 - lost[1].0, "some of those in between were published: {lost:?}");
    let ordered = published.iter().map(|event| event.0).collect::<Vec<_>>();
    assert!(ordered.is_sorted_by(|one, next| one < next), "{ordered:?}");
}

/// The database and its log, if it has one.
type Backup = (Vec<u8>, Option<Vec<u8>>);

fn backup(bed: &mut Bed) -> Backup {
    drop(bed.journal.take());
    let database = fs::read(bed.dir.path().join("journal.db")).unwrap();
    let wal = fs::read(bed.dir.path().join("journal.db-wal")).ok();
    bed.open(1_000_000);
    (database, wal)
}

fn replace_journal(bed: &mut Bed, copy: Option<Backup>) {
    drop(bed.journal.take());
    let path = |suffix: &str| bed.dir.path().join(format!("journal.db{suffix}"));
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::rename(path(suffix), path(&format!("{suffix}.old")));
    }
    if let Some((database, wal)) = copy {
        if let Some(wal) = wal {
            fs::write(path("-wal"), wal).unwrap();
        }
        fs::write(path(""), database).unwrap();
    }
    bed.open(1_000_000);
}
