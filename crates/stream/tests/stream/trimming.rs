//! The stream stays at about `max_len`, and groups get what they need until the hard cap.

use autoweave_usb_stream::{GroupReader, Notice, Settings, create_group};

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
