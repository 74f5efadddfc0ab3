//! Consumers: each event at least once and in order until it is settled, from both stores.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use autoweave_usb_stream::{
    Consumer, ConsumerListener, ConsumerNotice, Cursor, Delivery, Lease, Letter, Member, Settings, Sharing,
    Verdict, connected_in_stream, dead_letters_file,
};

use crate::bed::Bed;
use crate::server::{Server, until};

const WAIT: Duration = Duration::from_millis(300);

type Notices = Arc<Mutex<Vec<ConsumerNotice>>>;

fn listener() -> (ConsumerListener, Notices) {
    let notices = Notices::default();
    let told = notices.clone();
    (Arc::new(move |notice| told.lock().unwrap().push(notice)), notices)
}

fn member(consumer: &str, min_idle: Duration) -> Member {
    Member {
        group: "g".to_owned(),
        consumer: consumer.to_owned(),
        max_deliveries: 3,
        sharing: Sharing::MinIdle(min_idle),
    }
}

fn consumer(settings: &Settings, name: &str) -> (Consumer, Notices) {
    let (listener, notices) = listener();
    (Consumer::redis(settings.clone(), member(name, Duration::from_secs(60)), listener), notices)
}

fn published(server: &Server, count: u64) -> Bed {
    let mut bed = Bed::new("a");
    bed.add(count);
    let publisher = bed.publish(server.settings());
    bed.until_level(&publisher);
    crate::bed::stop(publisher);
    bed
}

fn publish(server: &Server, bed: &mut Bed, count: u64) {
    bed.add(count);
    let publisher = bed.publish(server.settings());
    bed.until_level(&publisher);
    crate::bed::stop(publisher);
}

fn seqs(deliveries: &[Delivery]) -> Vec<(u64, u32)> {
    deliveries.iter().map(|delivery| (delivery.event.as_ref().unwrap().seq, delivery.deliveries)).collect()
}

fn done(consumer: &mut Consumer, delivery: &Delivery) {
    assert_eq!(consumer.settlements.settle(delivery, &[], &|| false), ControlFlow::Continue(()));
}

/// The next ones, as many as come within a while.
fn next(consumer: &mut Consumer, count: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    let end = Instant::now() + Duration::from_secs(5);
    while all.len() < count && Instant::now() < end {
        all.extend(consumer.deliveries.next(count - all.len(), WAIT));
    }
    all
}

fn letter(error: &str, plugin: &str) -> Letter {
    Letter { error: error.to_owned(), deliveries: 3, plugin: plugin.to_owned() }
}

fn dead(server: &Server) -> Vec<(String, Vec<String>)> {
    let mut command = redis::cmd("XRANGE");
    command.arg("{aw:hotplug}:dead").arg("-").arg("+").query(&mut server.connection()).unwrap()
}

fn pending(server: &Server) -> u64 {
    let pending: (u64, redis::Value, redis::Value, redis::Value) =
        redis::cmd("XPENDING").arg("aw:hotplug").arg("g").query(&mut server.connection()).unwrap();
    pending.0
}

#[test]
fn what_was_not_settled_comes_again_and_first() {
    let server = Server::start(&[]);
    let _bed = published(&server, 10);
    let settings = server.settings();
    let (mut first, _) = consumer(&settings, "c");
    let taken = next(&mut first, 4);
    assert_eq!(seqs(&taken), [(1, 1), (2, 1), (3, 1), (4, 1)]);
    done(&mut first, &taken[1]);
    drop(first);
    let (mut again, notices) = consumer(&settings, "c");
    let taken = next(&mut again, 9);
    let expected = [(1, 2), (3, 2), (4, 2), (5, 1), (6, 1), (7, 1), (8, 1), (9, 1), (10, 1)];
    assert_eq!(seqs(&taken), expected);
    taken.iter().for_each(|delivery| done(&mut again, delivery));
    assert_eq!(pending(&server), 0);
    assert!(again.deliveries.next(1, Duration::from_millis(20)).is_empty());
    assert_eq!(*notices.lock().unwrap(), [ConsumerNotice::Up]);
}

#[test]
fn an_event_that_ends_its_consumers_is_delivered_alone_and_then_given_up() {
    let server = Server::start(&[]);
    let _bed = published(&server, 3);
    for round in 1..=6 {
        let (mut consumer, _) = consumer(&server.settings(), "c");
        let taken = next(&mut consumer, if round <= 3 { 3 } else { 1 });
        assert_eq!(seqs(&taken)[0], (1, round));
        assert_eq!(taken.len(), if round <= 3 { 3 } else { 1 }, "round {round}");
        assert_eq!(taken[0].alone, round > 3);
    }
    let (mut consumer, _) = consumer(&server.settings(), "c");
    let mut heard = Vec::new();
    let stop = AtomicBool::new(false);
    consumer.run(&stop, |event, _| {
        heard.push(event.seq);
        stop.store(heard.len() == 2, Ordering::Relaxed);
        Verdict::Done
    });
    assert_eq!(heard, [2, 3]);
    let letters = dead(&server);
    assert_eq!(letters.len(), 1);
    assert!(letters[0].1.iter().any(|text| text.contains("ended before it was done")), "{letters:?}");
}

#[test]
fn what_a_consumer_leaves_of_its_own_accord_does_not_count_as_delivered() {
    let server = Server::start(&[]);
    let _bed = published(&server, 3);
    for _ in 0..8 {
        let (mut consumer, _) = consumer(&server.settings(), "c");
        assert_eq!(seqs(&next(&mut consumer, 3)), [(1, 1), (2, 1), (3, 1)]);
        consumer.deliveries.leave();
    }
    // One that is killed does.
    drop(next(&mut consumer(&server.settings(), "c").0, 3));
    let (mut consumer, _) = consumer(&server.settings(), "c");
    assert_eq!(seqs(&next(&mut consumer, 3)), [(1, 2), (2, 2), (3, 2)]);
    assert_eq!(pending(&server), 3);
}

#[test]
fn dead_letters_are_written_with_the_acknowledgement_and_once() {
    let server = Server::start(&[]);
    let _bed = published(&server, 2);
    let (mut consumer, _) = consumer(&server.settings(), "c");
    let taken = next(&mut consumer, 2);
    for _ in 0..2 {
        let settled =
            consumer.settlements.settle(&taken[0], &[letter("no", "one"), letter("never", "two")], &|| false);
        assert!(settled.is_continue());
    }
    let letters = dead(&server);
    assert_eq!(letters.len(), 2);
    let fields = &letters[1].1;
    let value = |name: &str| fields.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].as_str());
    assert_eq!((value("seq"), value("error"), value("plugin")), (Some("1"), Some("never"), Some("two")));
    assert_eq!((value("deliveries"), value("vendor_id")), (Some("3"), Some("046d")));
    assert_eq!(pending(&server), 1);
    redis::cmd("XADD").arg("aw:hotplug").arg("*").arg("a").arg("b").exec(&mut server.connection()).unwrap();
    let other = next(&mut consumer, 1);
    assert!(other[0].event.as_ref().unwrap_err().contains("no field `schema`"));
}

#[test]
fn an_entry_of_any_size_can_be_given_up() {
    let server = Server::start(&[]);
    let _bed = published(&server, 1);
    let mut command = redis::cmd("XADD");
    command.arg("aw:hotplug").arg("*");
    for number in 0..5000 {
        command.arg(format!("name{number}")).arg("text");
    }
    command.exec(&mut server.connection()).unwrap();
    let (mut consumer, notices) = consumer(&server.settings(), "c");
    let taken = next(&mut consumer, 2);
    done(&mut consumer, &taken[0]);
    let end = Instant::now() + Duration::from_secs(5);
    let settled = consumer.settlements.settle(&taken[1], &[letter("no event", "")], &|| Instant::now() > end);
    assert!(settled.is_continue(), "{notices:?}");
    assert_eq!(pending(&server), 0);
    let fields = &dead(&server)[0].1;
    assert_eq!(fields.len(), 206);
    assert_eq!(fields[200..202], ["error", "no event (the first 100 of 5000 fields are kept)"]);
}

#[test]
fn what_was_trimmed_away_is_counted_as_lost() {
    let server = Server::start(&[]);
    let _bed = published(&server, 6);
    let (mut first, _) = consumer(&server.settings(), "c");
    assert_eq!(next(&mut first, 4).len(), 4);
    drop(first);
    redis::cmd("XTRIM").arg("aw:hotplug").arg("MAXLEN").arg(3).exec(&mut server.connection()).unwrap();
    let (mut again, notices) = consumer(&server.settings(), "c");
    assert_eq!(seqs(&next(&mut again, 3)), [(4, 2), (5, 1), (6, 1)]);
    let lost: u64 = notices
        .lock()
        .unwrap()
        .iter()
        .map(|notice| match notice {
            ConsumerNotice::Lost { count, .. } => *count,
            _ => 0,
        })
        .sum();
    assert_eq!(lost, 3, "{notices:?}");
    assert_eq!(pending(&server), 3);
}

#[test]
fn a_group_that_is_gone_is_made_again_where_it_was() {
    let server = Server::start(&[]);
    let mut bed = published(&server, 5);
    let (mut consumer, notices) = consumer(&server.settings(), "c");
    let taken = next(&mut consumer, 4);
    done(&mut consumer, &taken[0]);
    done(&mut consumer, &taken[1]);
    redis::cmd("XGROUP").arg("DESTROY").arg("aw:hotplug").arg("g").exec(&mut server.connection()).unwrap();
    done(&mut consumer, &taken[2]);
    publish(&server, &mut bed, 1);
    // The fourth is still being handled.
    assert_eq!(seqs(&next(&mut consumer, 2)), [(5, 1), (6, 1)]);
    done(&mut consumer, &taken[3]);
    let made = ConsumerNotice::GroupMade("g".to_owned());
    assert!(notices.lock().unwrap().contains(&made), "{notices:?}");
}

#[test]
fn a_consumers_entries_are_anothers_when_it_is_gone_and_not_before() {
    let server = Server::start(&[]);
    let mut bed = published(&server, 4);
    let settings = server.settings();
    let start = |name: &str| {
        let (listener, _) = listener();
        Consumer::redis(settings.clone(), member(name, Duration::from_millis(800)), listener)
    };
    let (mut gone, mut slow, mut other) = (start("gone"), start("slow"), start("other"));
    assert_eq!(next(&mut gone, 1).len(), 1);
    let slow_ones = next(&mut slow, 1);
    assert_eq!(seqs(&slow_ones), [(2, 1)]);
    drop(gone);
    assert_eq!(next(&mut other, 2).len(), 2);
    let mut reclaimed = Vec::new();
    until("the first is reclaimed", || {
        reclaimed.extend(other.deliveries.next(9, WAIT));
        !reclaimed.is_empty()
    });
    assert_eq!(seqs(&reclaimed), [(1, 2)]);
    // Longer than it may be idle, but it lives.
    publish(&server, &mut bed, 1);
    let end = Instant::now() + Duration::from_secs(3);
    let mut more = Vec::new();
    while Instant::now() < end {
        more.extend(other.deliveries.next(9, WAIT));
    }
    assert_eq!(seqs(&more), [(5, 1)]);
    done(&mut slow, &slow_ones[0]);
}

#[test]
fn the_holder_of_the_lease_takes_over_at_once_and_nobody_else_reads() {
    let server = Server::start(&[]);
    let mut bed = published(&server, 3);
    let settings = server.settings();
    let seek = || Lease::seek(settings.clone(), "g", listener().0).unwrap();
    let reads = |lease: &Lease, name: &str| {
        let sharing = Sharing::Lease(lease.fence());
        let member = Member { sharing, ..member(name, Duration::ZERO) };
        Consumer::redis(settings.clone(), member, listener().0)
    };
    let first = seek();
    until("it is held", || first.fence().holds());
    let second = seek();
    let (mut one, mut two) = (reads(&first, "one"), reads(&second, "two"));
    assert_eq!(seqs(&next(&mut one, 3)), [(1, 1), (2, 1), (3, 1)]);
    publish(&server, &mut bed, 1);
    assert!(two.deliveries.next(9, WAIT).is_empty() && !second.fence().holds());
    drop(first);
    until("the other has it", || second.fence().holds());
    assert!(one.deliveries.next(9, Duration::ZERO).is_empty(), "it lost the lease");
    let taken = next(&mut two, 4);
    assert_eq!(seqs(&taken), [(1, 2), (2, 2), (3, 2), (4, 1)]);
    // Looking for what others left counts no delivery of what is being handled.
    let end = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < end {
        assert!(two.deliveries.next(9, WAIT).is_empty());
    }
    drop(second);
    let third = seek();
    until("the third has it", || third.fence().holds());
    assert_eq!(seqs(&next(&mut reads(&third, "three"), 4)), [(1, 3), (2, 3), (3, 3), (4, 2)]);
}

#[test]
fn a_fence_that_fell_stays_down_when_the_lease_is_had_again() {
    const KEY: &str = "{aw:hotplug}:lease:g";
    let server = Server::start(&[]);
    let lease = Lease::seek(server.settings(), "g", listener().0).unwrap();
    until("it is held", || lease.fence().holds());
    let first = lease.fence();
    // Another loader has it for a moment: seen, or not.
    redis::cmd("SET").arg(KEY).arg("other").exec(&mut server.connection()).unwrap();
    until("it is lost", || !first.holds());
    redis::cmd("DEL").arg(KEY).exec(&mut server.connection()).unwrap();
    until("it is had again", || lease.fence().holds());
    assert!(!first.holds());
    let second = lease.fence();
    redis::cmd("DEL").arg(KEY).exec(&mut server.connection()).unwrap();
    until("it was lost unseen", || !second.holds());
    until("it is had again", || lease.fence().holds());
    assert!(!second.holds());
}

#[test]
fn what_was_removed_before_the_holder_of_the_lease_got_it_is_counted_as_lost() {
    let server = Server::start(&[]);
    let mut bed = published(&server, 3);
    let lease = Lease::seek(server.settings(), "g", listener().0).unwrap();
    until("it is held", || lease.fence().holds());
    let (listener, notices) = listener();
    let sharing = Sharing::Lease(lease.fence());
    let member = Member { sharing, ..member("c", Duration::ZERO) };
    let mut consumer = Consumer::redis(server.settings(), member, listener);
    assert_eq!(next(&mut consumer, 3).len(), 3);
    publish(&server, &mut bed, 20);
    redis::cmd("XTRIM").arg("aw:hotplug").arg("MAXLEN").arg(5).exec(&mut server.connection()).unwrap();
    assert_eq!(seqs(&next(&mut consumer, 5))[0].0, 19);
    let lost = |notice: &ConsumerNotice| matches!(notice, ConsumerNotice::Lost { count: 15, .. });
    assert!(notices.lock().unwrap().iter().any(lost), "{notices:?}");
}

#[test]
fn what_is_connected_is_known_from_what_is_acknowledged() {
    let server = Server::start(&[]);
    let _bed = published(&server, 4);
    let connected = || {
        let mut seqs: Vec<u64> =
            connected_in_stream(&server.settings(), "g").unwrap().iter().map(|event| event.seq).collect();
        seqs.sort_unstable();
        seqs
    };
    assert!(connected().is_empty());
    let (mut consumer, _) = consumer(&server.settings(), "c");
    let taken = next(&mut consumer, 3);
    assert!(connected().is_empty());
    done(&mut consumer, &taken[0]);
    assert_eq!(connected(), [1]);
    done(&mut consumer, &taken[1]);
    assert!(connected().is_empty());
    done(&mut consumer, &taken[2]);
    assert_eq!(connected(), [3]);
}

#[test]
fn what_is_acknowledged_behind_something_that_waits_counts_as_well() {
    let server = Server::start(&[]);
    let _bed = published(&server, 4);
    let (mut consumer, _) = consumer(&server.settings(), "c");
    let taken = next(&mut consumer, 4);
    let connected = || -> Vec<u64> {
        connected_in_stream(&server.settings(), "g").unwrap().iter().map(|event| event.seq).collect()
    };
    done(&mut consumer, &taken[2]);
    assert_eq!(connected(), [3]);
    done(&mut consumer, &taken[3]);
    assert!(connected().is_empty(), "{:?}", connected());
}

#[test]
fn what_a_server_forgot_was_settled_is_not_handled_again() {
    let server = Server::start(&[]);
    let mut bed = published(&server, 3);
    let (mut consumer, notices) = consumer(&server.settings(), "c");
    let taken = next(&mut consumer, 3);
    taken.iter().take(2).for_each(|delivery| done(&mut consumer, delivery));
    // As one that was killed before it had written what it did last.
    let mut command = redis::cmd("XGROUP");
    command.arg("SETID").arg("aw:hotplug").arg("g").arg("0").exec(&mut server.connection()).unwrap();
    publish(&server, &mut bed, 1);
    let again = next(&mut consumer, 1);
    assert_eq!(seqs(&again), [(4, 1)], "1 and 2 are settled, 3 is out");
    for delivery in [&taken[2], &again[0]] {
        done(&mut consumer, delivery);
    }
    assert_eq!(pending(&server), 0);
    assert_eq!(*notices.lock().unwrap(), [ConsumerNotice::Up]);
}

#[test]
fn the_journal_is_read_by_the_same_contract() {
    let mut bed = Bed::new("a");
    bed.add(6);
    let cursor = Arc::new(Cursor::new(1));
    let (listener, notices) = listener();
    let start = || Consumer::journal(bed.dir.path(), cursor.clone(), 3, listener.clone());
    let mut consumer = start();
    let taken = next(&mut consumer, 3);
    assert_eq!(seqs(&taken), [(2, 1), (3, 1), (4, 1)]);
    done(&mut consumer, &taken[1]);
    assert_eq!(cursor.done(), 1, "2 is not settled");
    done(&mut consumer, &taken[0]);
    assert_eq!(cursor.done(), 3);
    drop(consumer);
    let (stop, mut heard) = (AtomicBool::new(false), Vec::new());
    start().run(&stop, |event, delivery| {
        heard.push((event.seq, delivery));
        stop.store(event.seq == 6, Ordering::Relaxed);
        match event.seq {
            4 => Verdict::Again("no".to_owned()),
            5 => Verdict::GiveUp("never".to_owned()),
            _ => Verdict::Done,
        }
    });
    assert_eq!(heard, [(4, 1), (4, 2), (4, 3), (5, 1), (6, 1)]);
    assert_eq!(cursor.done(), 6);
    let letters = std::fs::read_to_string(dead_letters_file(bed.dir.path())).unwrap();
    assert_eq!(letters.lines().count(), 2, "{letters}");
    assert!(letters.contains("\"error\":\"never\"") && letters.contains("\"seq\":4"), "{letters}");
    assert_eq!(*notices.lock().unwrap(), [ConsumerNotice::Up, ConsumerNotice::Up]);
}

#[test]
fn a_journal_wakes_its_consumer_and_tells_what_it_no_longer_has() {
    let mut bed = Bed::new("a");
    bed.journal = None;
    bed.open(10);
    let cursor = Arc::new(Cursor::default());
    let (listener, notices) = listener();
    let mut consumer = Consumer::journal(bed.dir.path(), cursor.clone(), 3, listener);
    let waker = cursor.clone();
    let waiting = std::thread::spawn(move || {
        let begun = Instant::now();
        let taken = next(&mut consumer, 1);
        (consumer, taken, begun.elapsed())
    });
    bed.add(1);
    waker.wake();
    let (mut consumer, taken, _) = waiting.join().unwrap();
    assert_eq!(seqs(&taken), [(1, 1)]);
    bed.add(30);
    let taken = next(&mut consumer, 10);
    assert_eq!(seqs(&taken)[0].0, 22);
    let lost = notices.lock().unwrap().clone();
    assert!(
        matches!(lost.as_slice(), [ConsumerNotice::Up, ConsumerNotice::Lost { count: 20, .. }]),
        "{lost:?}"
    );
}
