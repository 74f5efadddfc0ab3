//! The stream stays at about `max_len`, and groups get what they need until the hard cap.

use autoweave_usb_stream::{Failure, GroupReader, Notice, Settings, create_group, probe};

use crate::bed::{Bed, stream};
use crate::server::{Server, until};

fn settings(server: &Server, max_len: u32) -> Settings {
    Settings { max_len: max_len.try_into().unwrap(), ..server.settings() }
}

#[test]
fn without_groups_the_newest_stay() {
    let server = Server::start(&[]);
    let mut bed = Bed::new("a");
    bed.add(25_000);
    let publisher = bed.publish(settings(&server, 200));
    bed.until_level(&publisher);
    let mut connection = server.connection();
    until("the stream is short", || stream(&mut connection, "aw:hotplug").len() == 200);
    assert_eq!(stream(&mut connection, "aw:hotplug")[0].0, 24_801);
}

#[test]
fn what_a_group_did_not_acknowledge_stays() {
    let server = Server::start(&[]);
    let settings = settings(&server, 200);
    create_group(&settings, "slow").unwrap();
    create_group(&settings, "quick").unwrap();
    let mut bed = Bed::new("a");
    bed.add(1500);
    let publisher = bed.publish(settings.clone());
    bed.until_level(&publisher);
    let mut connection = server.connection();
    let mut quick = GroupReader::connect(&settings, "quick", "c").unwrap();
    let mut slow = GroupReader::connect(&settings, "slow", "c").unwrap();
    for _ in 0..2 {
        let ids: Vec<_> = quick.read(1000, std::time::Duration::ZERO).unwrap();
        quick.ack(ids.iter().map(|entry| entry.id.as_str())).unwrap();
    }
    // Delivered and acknowledged but for number 301.
    let ids: Vec<_> = slow.read(600, std::time::Duration::ZERO).unwrap();
    assert_eq!(ids.len(), 600);
    slow.ack(ids.iter().filter(|entry| entry.get("seq") != Some("301")).map(|e| e.id.as_str())).unwrap();
    until("what all have is gone", || stream(&mut connection, "aw:hotplug")[0].0 == 301);
    bed.add(300);
    bed.until_level(&publisher);
    assert_eq!(stream(&mut connection, "aw:hotplug").len(), 1500, "held back by one pending entry");
    slow.ack([ids[300].id.as_str()]).unwrap();
    until("what all have is gone", || stream(&mut connection, "aw:hotplug")[0].0 == 601);
    assert!(!bed.told(|notice| matches!(notice, Notice::GroupCutOff { .. })));
}

#[test]
fn a_group_that_never_reads_is_cut_off_at_the_cap() {
    let server = Server::start(&[]);
    let settings = settings(&server, 200);
    create_group(&settings, "dead").unwrap();
    let mut bed = Bed::new("a");
    bed.add(5000);
    let publisher = bed.publish(settings);
    bed.until_level(&publisher);
    let mut connection = server.connection();
    until("it is cut", || stream(&mut connection, "aw:hotplug").len() == 2000);
    assert_eq!(stream(&mut connection, "aw:hotplug")[0].0, 3001);
    until("the group is named", || {
        bed.told(|notice| matches!(notice, Notice::GroupCutOff { group, .. } if group == "dead"))
    });
    bed.add(5000);
    bed.until_level(&publisher);
    let told = bed.notices.lock().unwrap().iter().filter(|n| matches!(n, Notice::GroupCutOff { .. })).count();
    assert_eq!(told, 1, "told once, not at every cut");
}

fn length(connection: &mut redis::Connection) -> u64 {
    redis::cmd("XLEN").arg("aw:hotplug").query(connection).unwrap()
}

fn create(connection: &mut redis::Connection, group: &[u8], id: &str) {
    let mut command = redis::cmd("XGROUP");
    command.arg("CREATE").arg("aw:hotplug").arg(group).arg(id).arg("MKSTREAM");
    command.exec(connection).unwrap();
}

#[test]
fn the_name_of_a_group_need_not_be_text() {
    let server = Server::start(&[]);
    let settings = settings(&server, 200);
    let mut connection = server.connection();
    create(&mut connection, b"dead\xff", "0");
    let mut bed = Bed::new("a");
    bed.add(5000);
    let publisher = bed.publish(settings.clone());
    bed.until_level(&publisher);
    until("it is cut", || length(&mut connection) == 2000);
    until("the group is named", || {
        bed.told(|notice| matches!(notice, Notice::GroupCutOff { group, .. } if group == "dead\u{fffd}"))
    });
    assert!(!bed.told(|notice| matches!(notice, Notice::Down(_))), "{:?}", bed.notices);
    assert_eq!(probe(&settings).unwrap().groups[0].name, "dead\u{fffd}");
}

#[test]
fn a_group_at_the_highest_id_needs_nothing() {
    let server = Server::start(&[]);
    let mut connection = server.connection();
    create(&mut connection, b"g", &format!("{0}-{0}", u64::MAX));
    create(&mut connection, b"h", &format!("1-{}", u64::MAX));
    let mut bed = Bed::new("a");
    bed.add(1000);
    let publisher = bed.publish(settings(&server, 200));
    bed.until_level(&publisher);
    assert_eq!(length(&mut connection), 1000, "h holds it back");
    redis::cmd("XGROUP").arg("DESTROY").arg("aw:hotplug").arg("h").exec(&mut connection).unwrap();
    until("the stream is short", || length(&mut connection) == 200);
    assert!(!bed.told(|notice| !matches!(notice, Notice::Up { .. })), "{:?}", bed.notices);
    assert_eq!(publisher.status().errors_total, 0);
}

#[test]
fn a_user_who_may_not_trim_still_publishes() {
    let server = Server::start(&[]);
    let mut connection = server.connection();
    create(&mut connection, b"g", &format!("{0}-{0}", u64::MAX));
    let mut user = |rule: &str| {
        let mut command = redis::cmd("ACL");
        let rules = ["on", "nopass", "~*", "+@all", rule];
        command.arg("SETUSER").arg("usb").arg(&rules).exec(&mut connection).unwrap();
    };
    let mut bed = Bed::new("a");
    bed.add(1000);
    let mut settings = settings(&server, 200);
    settings.username = Some("usb".to_owned());
    user("-xtrim");
    let publisher = bed.publish(settings);
    bed.until_level(&publisher);
    for missing in ["-xinfo|groups", "-xpending", "-xtrim"] {
        user(missing);
        bed.add(1000);
        bed.until_level(&publisher);
    }
    until("it is counted", || publisher.status().errors_total > 3);
    let notices = bed.notices.lock().unwrap().clone();
    let told = |is: fn(&Notice) -> bool| notices.iter().filter(|notice| is(notice)).count();
    assert_eq!(
        told(|notice| matches!(notice, Notice::NotTrimmed(Failure::NotPermitted(_)))),
        1,
        "{notices:?}"
    );
    assert_eq!(told(|notice| matches!(notice, Notice::Down(_))), 0, "{notices:?}");
    user("+xtrim");
    until("the stream is short", || length(&mut server.connection()) == 200);
    assert_eq!(stream(&mut server.connection(), "aw:hotplug")[0].0, 3801);
}
