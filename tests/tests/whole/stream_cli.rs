//! `events` on the stream in a real Redis: with and without a consumer group, over outages and kills.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use autoweave_usb_testbus::{Bus, Device};
use nix::sys::signal::Signal;
use redis::Value as Answer;
use serde_json::Value;

use crate::harness::{StateDir, command, wait_until};
use crate::program::{Finished, Running, finish, usbd};
use crate::redis_server::{STREAM, Server, start, wait_until_published};

/// Who reads as the consumer `events-edge` of a group.
const HOST: &str = "edge";

fn events(server: &Server, arguments: &[&str]) -> Command {
    let url = server.url();
    let mut command = command(&[("REDIS_URL", &url), ("AUTOWEAVE_USB__HOST", HOST)]);
    command.arg("events").args(arguments);
    command
}

fn read(server: &Server, arguments: &[&str]) -> Finished {
    finish(&mut events(server, arguments))
}

fn seqs(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["seq"].as_u64().unwrap_or(0)).collect()
}

/// The fields of an entry as the daemon writes it.
fn fields(seq: u64, product: &str) -> Vec<(&'static str, String)> {
    let (id, seq) = (format!("01J{seq:020}"), seq.to_string());
    let pairs = [
        ("source", "uevent"),
        ("action", "attach"),
        ("vendor_id", "046d"),
        ("product_id", "c52b"),
        ("device_signature", "a97118a5ce9e2a06"),
        ("manufacturer", "Logitech"),
        ("product", product),
        ("serial_number", ""),
        ("bus_number", "1"),
        ("device_address", "5"),
        ("port_path", "1.2"),
        ("timestamp", "1767225600123"),
        ("device_descriptor", ""),
        ("event_id", &id),
        ("seq", &seq),
        ("producer", "aa"),
        ("host", "edge-7"),
        ("device_id", "046d:c52b@1-1.2"),
        ("reason", "hotplug"),
        ("edges", "1"),
        ("speed_mbps", "12"),
        ("interfaces", "[]"),
        ("traceparent", ""),
        ("schema", "1"),
    ];
    pairs.map(|(name, value)| (name, value.to_owned())).to_vec()
}

fn xadd(id: &str, fields: &[(&str, String)]) -> redis::Cmd {
    let mut command = redis::cmd("XADD");
    command.arg(STREAM).arg(id).arg(fields);
    command
}

fn add(server: &Server, numbers: impl Iterator<Item = u64>) {
    let mut pipeline = redis::pipe();
    for seq in numbers {
        pipeline.add_command(xadd("*", &fields(seq, "USB Receiver")));
    }
    pipeline.exec(&mut server.connect().unwrap()).unwrap();
}

/// How many entries a group got and did not acknowledge.
fn pending(server: &Server, group: &str) -> u64 {
    let mut xpending = redis::cmd("XPENDING");
    let answer: (u64, Answer, Answer, Answer) =
        xpending.arg(STREAM).arg(group).query(&mut server.connect().unwrap()).unwrap();
    answer.0
}

#[test]
fn the_stream_is_shown_as_the_journal_is() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let server = Server::start();
    let state = StateDir::new();
    let daemon = start(&bus, &state, &server);
    bus.plug("1-1", &Device::receiver()).unwrap();
    bus.plug("1-2", &Device::storage("S1")).unwrap();
    bus.unplug("1-1").unwrap();
    daemon.wait_until("four events are in the stream", || server.length() == 4);
    wait_until_published(&daemon, &state, &server);
    daemon.stop();
    let place = state.path().to_str().unwrap();
    let mut journal = usbd(&["events", "--json", "--state-dir", place]).ok().json();
    // An entry has no field for the class alone. Where the device was gone before it was read, nothing else has it.
    // Nor one for the kernel's number.
    for event in &mut journal {
        event.as_object_mut().unwrap().remove("seqnum");
        if event["device"]["device_descriptor"].is_null() {
            event["device"]["device_class"] = Value::Null;
        }
    }
    assert_eq!(read(&server, &["--redis", "--json"]).ok().json(), journal);
    assert_eq!(seqs(&read(&server, &["--redis", "--json", "-n", "2"]).ok().json()), [4, 3]);
    assert_eq!(seqs(&read(&server, &["--redis", "--json", "--since", "2"]).ok().json()), [3, 4]);
    assert_eq!(seqs(&read(&server, &["--redis", "--json", "--since", "0", "-n", "2"]).ok().json()), [1, 2]);
    let text = read(&server, &["--redis", "-n", "1"]).ok().stdout;
    let host = journal[0]["host"].as_str().unwrap().to_owned();
    assert!(text.contains("- detach  1-1") && text.ends_with(&format!("(seq 4)  {host}\n")), "{text}");
}

#[test]
fn any_number_of_entries_is_read() {
    let server = Server::start();
    assert_eq!(read(&server, &["--redis"]).ok().stdout, "", "no stream is an empty one");
    add(&server, 1..=2500);
    assert_eq!(read(&server, &["--redis"]).ok().stdout.lines().count(), 10);
    assert_eq!(read(&server, &["--redis", "-n", "0"]).ok().stdout, "");
    let newest = seqs(&read(&server, &["--redis", "--json", "-n", "2200"]).ok().json());
    assert_eq!(newest, (301..=2500).rev().collect::<Vec<_>>());
    assert_eq!(read(&server, &["--redis", "-n", "9999"]).ok().stdout.lines().count(), 2500);
    let after = seqs(&read(&server, &["--redis", "--json", "--since", "1400"]).ok().json());
    assert_eq!(after, (1401..=2500).collect::<Vec<_>>());
    for (arguments, first) in
        [(&["-n", "1500"][..], 1001), (&["-n", "9999"], 1), (&["--since", "2499"], 2500)]
    {
        let program =
            Running::start(&mut events(&server, &[&["--follow", "--redis", "--json"], arguments].concat()));
        let expected: Vec<u64> = (first..=2500).collect();
        program.wait_for_lines(expected.len());
        assert_eq!(seqs(&program.json()), expected);
        assert_eq!(program.end(Signal::SIGINT).code(), 130);
    }
}

#[test]
fn following_goes_on_after_an_outage_and_says_so_once() {
    let mut server = Server::start();
    add(&server, 1..=3);
    let program = Running::start(&mut events(&server, &["--redis", "--follow", "--json", "-n", "2"]));
    program.wait_for_lines(2);
    add(&server, 4..=4);
    program.wait_for_lines(3);
    for round in 0..3 {
        server.kill();
        program.wait_for_stderr("trying again");
        server.restart();
        add(&server, 5 + round..=5 + round);
        program.wait_for_lines(4 + usize::try_from(round).unwrap());
        let said = |words| program.stderr().matches(words).count() as u64;
        wait_until("it says that Redis is back", || said("answers again") == round + 1);
        assert_eq!(said("trying again"), round + 1);
    }
    assert_eq!(seqs(&program.json()), [2, 3, 4, 5, 6, 7]);
    assert_eq!(program.end(Signal::SIGINT).code(), 130);
}

#[test]
fn following_survives_a_stream_that_lost_entries_or_was_made_anew() {
    let server = Server::start();
    let remake = |entries: &[(&str, u64)]| {
        let mut pipeline = redis::pipe();
        pipeline.atomic().del(STREAM);
        for (id, seq) in entries {
            pipeline.add_command(xadd(id, &fields(*seq, "")));
        }
        pipeline.exec(&mut server.connect().unwrap()).unwrap();
    };
    remake(&[("100-0", 1), ("200-0", 2), ("300-0", 3)]);
    let program = Running::start(&mut events(&server, &["--redis", "--follow", "--json"]));
    program.wait_for_lines(3);
    remake(&[("100-0", 1), ("200-0", 2), ("250-0", 4)]);
    program.wait_for_lines(4);
    remake(&[("5-0", 5), ("6-0", 6)]);
    program.wait_for_lines(6);
    remake(&[]);
    program.wait_for_stderr(
        "was deleted; it is printed from its new beginning\nautoweave-usbd: aw:hotplug was deleted",
    );
    remake(&[("1-0", 7)]);
    program.wait_for_lines(7);
    assert_eq!(seqs(&program.json()), [1, 2, 3, 4, 5, 6, 7]);
    assert!(program.stderr().contains("going on after 200-0"), "{}", program.stderr());
}

#[test]
fn a_group_gets_each_entry_once_whatever_another_group_got() {
    let server = Server::start();
    add(&server, 1..=5);
    let made = read(&server, &["--create-group", "a"]).ok().stdout;
    assert!(made.contains("group a is made"), "{made}");
    read(&server, &["--create-group", "b"]).ok();
    let again = read(&server, &["--create-group", "a"]).ok().stdout;
    assert!(again.contains("was there already"), "{again}");

    let group = |name: &str, arguments: &[&str]| {
        seqs(&read(&server, &[&["--json", "--group", name], arguments].concat()).ok().json())
    };
    assert_eq!(group("a", &["-n", "2"]), [1, 2], "a new group begins with what was there before it");
    assert_eq!((group("a", &["-n", "0"]), pending(&server, "a")), (vec![], 0));
    assert_eq!(group("a", &[]), [3, 4, 5]);
    assert_eq!(group("a", &[]), [0; 0]);
    add(&server, 6..=350);
    assert_eq!(group("b", &[]), (1..=350).collect::<Vec<_>>());
    assert_eq!(
        group("a", &["--follow", "-n", "340"]),
        (6..=345).collect::<Vec<_>>(),
        "it ends after so many"
    );
    assert_eq!(group("a", &[]), (346..=350).collect::<Vec<_>>());
    assert_eq!((pending(&server, "a"), pending(&server, "b")), (0, 0));
}

#[test]
fn a_group_can_be_made_before_the_stream() {
    let server = Server::start();
    read(&server, &["--create-group", "a"]).ok();
    assert_eq!(read(&server, &["--group", "a"]).ok().stdout, "");
    add(&server, 1..=1);
    assert_eq!(seqs(&read(&server, &["--group", "a", "--json"]).ok().json()), [1]);
}

#[test]
fn what_a_kill_left_printed_and_not_acknowledged_is_printed_again() {
    let server = Server::start();
    let mut pipeline = redis::pipe();
    // More than any pipe holds.
    let product = "x".repeat(20_000);
    for seq in 1..=100 {
        pipeline.add_command(xadd("*", &fields(seq, &product)));
    }
    pipeline.exec(&mut server.connect().unwrap()).unwrap();
    read(&server, &["--create-group", "g"]).ok();
    let arguments = ["--group", "g", "--json"];
    let mut program = events(&server, &arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(first["seq"], 1);
    program.kill().unwrap();
    program.wait().unwrap();
    assert_eq!(pending(&server, "g"), 100, "it was in the midst of printing them");
    assert_eq!(seqs(&read(&server, &arguments).ok().json()), (1..=100).collect::<Vec<_>>());
    assert_eq!(pending(&server, "g"), 0);
}

#[test]
fn what_nobody_could_read_is_not_acknowledged() {
    let server = Server::start();
    add(&server, 1..=3);
    read(&server, &["--create-group", "g"]).ok();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = events(&server, &["--group", "g"]).stdout(writer).status().unwrap();
    assert!(status.success(), "a reader that goes away is no error");
    assert_eq!(pending(&server, "g"), 3);
    assert_eq!(seqs(&read(&server, &["--group", "g", "--json"]).ok().json()), [1, 2, 3]);
}

#[test]
fn a_group_that_is_followed_gets_each_entry_once_over_outages() {
    let mut server = Server::start();
    read(&server, &["--create-group", "g"]).ok();
    let program = Running::start(&mut events(&server, &["--group", "g", "--follow", "--json"]));
    add(&server, 1..=2);
    program.wait_for_lines(2);
    server.kill();
    program.wait_for_stderr("trying again");
    server.restart();
    add(&server, 3..=3);
    program.wait_for_lines(3);
    program.wait_for_stderr("answers again");
    add(&server, 4..=4);
    program.wait_for_lines(4);
    wait_until("all is acknowledged", || pending(&server, "g") == 0);
    assert_eq!(seqs(&program.json()), [1, 2, 3, 4]);
    server.order("DEL aw:hotplug");
    let mut program = program;
    program.wait().fails(69, &["--create-group g"]);
}

#[test]
fn an_interrupted_group_ends_with_130() {
    let server = Server::start();
    add(&server, 1..=1);
    read(&server, &["--create-group", "g"]).ok();
    let program = Running::start(&mut events(&server, &["--group", "g", "--follow"]));
    program.wait_for_lines(1);
    wait_until("it is acknowledged", || pending(&server, "g") == 0);
    assert_eq!(program.end(Signal::SIGINT).code(), 130);
}

#[test]
fn what_was_trimmed_before_it_was_acknowledged_is_told_as_lost() {
    let server = Server::start();
    add(&server, 1..=3);
    read(&server, &["--create-group", "g"]).ok();
    server.order("XREADGROUP GROUP g events-edge COUNT 2 STREAMS aw:hotplug >");
    server.order("XTRIM aw:hotplug MAXLEN 1");
    let ended = read(&server, &["--group", "g", "--json"]).ok();
    assert_eq!(seqs(&ended.json()), [3]);
    assert!(ended.stderr.contains("2 entries from") && ended.stderr.contains("lost"), "{}", ended.stderr);
    assert_eq!(pending(&server, "g"), 0);
    assert_eq!(read(&server, &["--group", "g", "--json"]).ok().stderr, "");
}

#[test]
fn entries_of_other_programs_are_shown_and_harmless() {
    let server = Server::start();
    read(&server, &["--create-group", "g"]).ok();
    let hostile = "\u{1b}]0;owned\u{7}\u{202e}\n";
    let mut foreign = fields(1, hostile);
    foreign.truncate(13);
    xadd("7-0", &foreign).exec(&mut server.connect().unwrap()).unwrap();
    xadd("8-0", &fields(2, hostile)).exec(&mut server.connect().unwrap()).unwrap();
    redis::cmd("XADD")
        .arg(STREAM)
        .arg("9-0")
        .arg(b"\xff\x1b")
        .arg(b"\x80")
        .exec(&mut server.connect().unwrap())
        .unwrap();

    let json = read(&server, &["--redis", "--json"]).ok();
    assert!(!json.stdout.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{}", json.stdout);
    let json = json.json();
    assert_eq!(json[0], serde_json::json!({"entry_id": "9-0", "fields": {"\u{fffd}\u{1b}": "\u{fffd}"}}));
    assert_eq!((&json[1]["seq"], &json[1]["device"]["product"]), (&2.into(), &hostile.into()));
    let expected: serde_json::Map<String, Value> =
        foreign.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    assert_eq!(json[2], serde_json::json!({"entry_id": "7-0", "fields": expected}));
    assert_eq!(seqs(&read(&server, &["--redis", "--json", "--since", "0"]).ok().json()), [2]);

    let text = read(&server, &["--group", "g"]).ok().stdout;
    assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    for word in ["7-0", "no field `schema`", "046d"] {
        assert!(lines[0].contains(word), "{word} in {}", lines[0]);
    }
    assert!(lines[1].contains("+ attach") && lines[2].contains("9-0"), "{text}");
    assert_eq!(pending(&server, "g"), 0);
}

#[test]
fn what_is_missing_is_said_with_the_mend() {
    let mut server = Server::start();
    add(&server, 1..=1);
    read(&server, &["--group", "none"]).fails(69, &["aw:hotplug has no group none", "--create-group none"]);
    server.order("DEL aw:hotplug");
    server.order("SET aw:hotplug text");
    for arguments in [&["--redis"][..], &["--redis", "--follow"], &["--group", "g"], &["--create-group", "g"]]
    {
        read(&server, arguments).fails(69, &["WRONGTYPE", "aw:hotplug is no stream"]);
    }
    server.kill();
    for arguments in
        [&["--redis"][..], &["--redis", "--follow"], &["--group", "g", "--follow"], &["--create-group", "g"]]
    {
        read(&server, arguments).fails(69, &["redis.sock", "cannot be reached"]);
        usbd(&[&["events"], arguments].concat())
            .fails(69, &["no Redis is configured", "redis.host", "$REDIS_URL"]);
    }
}

#[test]
fn what_makes_no_sense_is_wrong_usage() {
    for arguments in [
        &["--redis", "--state-dir", "x"][..],
        &["--group", "g", "--state-dir", "x"],
        &["--group", "g", "--since", "1"],
        &["--group", ""],
        &["--create-group", "g", "--group", "g"],
        &["--create-group", "g", "--follow"],
        &["--create-group", "g", "-n", "1"],
        &["--create-group", "g", "--since", "1"],
        &["--create-group", "g", "--json"],
        &["--create-group", ""],
    ] {
        assert_eq!(usbd(&[&["events"], arguments].concat()).code(), 64, "{arguments:?}");
    }
}
