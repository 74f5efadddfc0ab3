use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use autoweave_usb_device::{Action, Event};
use autoweave_usb_plugin::pool::Ending;

use crate::bed::{ALL, Bed, NOTE, done, endings, send};
use crate::support::{self, SHELL, attach, event, group, until};

#[test]
fn plugins_hear_what_they_asked_for() {
    let bed = Bed::new();
    bed.shell("all", NOTE, "");
    support::write(
        &bed.package("other"),
        "other-vendor",
        "run",
        "",
        r#"{"usb": {"vendor_ids": ["0x1234"]}}"#,
    );
    fs::write(bed.package("other").join("run"), format!("{SHELL}ready; hear; exit 0")).unwrap();
    support::write(
        &bed.package("none"),
        "no-devices",
        "main.py",
        "def attach(e, c): pass\ndef detach(e, c): pass",
        "{}",
    );
    support::write(&bed.package("broken"), "Broken", "run", "", "{}");
    let loader = bed.open(vec![]);
    let names: Vec<_> = loader.plugins().into_iter().map(|status| status.plugin).collect();
    assert_eq!(names, ["all", "no-devices", "other-vendor"], "{:#?}", bed.told.lock().unwrap());
    assert!(bed.told("hears of no device: permissions.usb lists none"));
    assert!(bed.told("autoweave.plugin.json:1: name: \\\"Broken\\\" is no plugin's name"));
    assert_eq!(send(&loader, 1), [done("all")]);
    assert_eq!(
        endings(loader.dispatch(&Arc::new(event(2, "1-1", Action::Detach)), 4)),
        [("all".to_owned(), 4, Ending::Done)]
    );
    assert_eq!(bed.heard("all"), ["1 attach hotplug 1", "2 detach hotplug 4"]);
    let tallies = loader.plugins()[0].tallies;
    assert_eq!((tallies.done, tallies.crashes, tallies.workers), (2, 0, 1));
    loader.close(Duration::from_secs(5));
    for process in bed.processes.lock().unwrap().iter() {
        assert!(group(*process).is_empty());
    }
    assert!(!bed.told("ShutdownFailed"), "{:#?}", bed.told.lock().unwrap());
}

#[test]
fn a_plugin_that_starts_hears_what_is_connected() {
    let bed = Bed::new();
    bed.shell("first", NOTE, "");
    let loader =
        bed.open(vec![Arc::new(event(5, "1-5", Action::Attach)), Arc::new(event(4, "1-4", Action::Attach))]);
    until("coldplug", || bed.heard("first").len() == 2);
    send(&loader, 6);
    endings(loader.dispatch(&Arc::new(event(7, "1-5", Action::Detach)), 1));
    let heard = ["4 attach coldplug 1", "5 attach coldplug 1", "6 attach hotplug 1", "7 detach hotplug 1"];
    assert_eq!(bed.heard("first"), heard);
    bed.shell("second", NOTE, "");
    bed.wait_for("Loaded { plugin: \"second\"");
    until("coldplug", || bed.heard("second").len() == 2);
    assert_eq!(bed.heard("second"), ["4 attach coldplug 1", "6 attach coldplug 1"]);
}

#[test]
fn an_event_is_tried_again_and_then_given_up() {
    let bed = Bed::new();
    bed.shell("fails", "echo $seq $delivery >>$out; id; case $seq in 2) echo '{\"type\":\"done\",\"id\":\"'$id'\",\"ok\":false,\"error\":\"no\"}';; *) ok;; esac", "");
    bed.shell(
        "final",
        "id; echo '{\"type\":\"done\",\"id\":\"'$id'\",\"ok\":false,\"error\":\"never\",\"retry\":false}'",
        "",
    );
    bed.shell("poisoned", "case $seq in 2) kill -9 $$;; esac; echo $seq >>$out; ok", "");
    let loader = bed.open(vec![]);
    let pending: Vec<_> = (1..=3).map(|number| loader.dispatch(&Arc::new(attach(number)), 1)).collect();
    let all: Vec<_> = pending.into_iter().map(endings).collect();
    let gave_up = |name: &str, deliveries, error: &str| {
        (name.to_owned(), deliveries, Ending::GaveUp { error: error.to_owned() })
    };
    assert_eq!(all[0], [done("fails"), gave_up("final", 1, "never"), done("poisoned")]);
    let killed = "it ended: by signal 9";
    assert_eq!(
        all[1],
        [gave_up("fails", 3, "no"), gave_up("final", 1, "never"), gave_up("poisoned", 3, killed)]
    );
    assert_eq!(all[2], [done("fails"), gave_up("final", 1, "never"), done("poisoned")]);
    // In order for the device, over the retries.
    assert_eq!(bed.heard("fails"), ["1 1", "2 1", "2 2", "2 3", "3 1"]);
    assert_eq!(bed.heard("poisoned"), ["1", "3"]);
    assert!(bed.told("restart: true"));
}

#[test]
fn devices_go_side_by_side_each_in_order() {
    let bed = Bed::new();
    let nap = "id; case $seq in 1) while ! [ -e $out-go ]; do sleep 0.01; done;; esac; echo $seq >>$out; ok";
    bed.shell("napping", nap, r#", "memory": {"max_workers": 3}"#);
    let loader = bed.open(vec![]);
    let slow = loader.dispatch(&Arc::new(event(1, "1-1", Action::Attach)), 1);
    let after = loader.dispatch(&Arc::new(event(2, "1-1", Action::Detach)), 1);
    for number in 3..=20 {
        let port = format!("1-{}", 2 + number % 5);
        assert_eq!(
            endings(loader.dispatch(&Arc::new(event(number, &port, Action::Attach)), 1)),
            [done("napping")]
        );
    }
    fs::write(bed.output.path().join("napping-go"), "").unwrap();
    assert_eq!((endings(slow), endings(after)), (vec![done("napping")], vec![done("napping")]));
    let heard = bed.heard("napping");
    assert_eq!(heard[heard.len() - 2..], ["1", "2"]);
    assert!(loader.plugins()[0].tallies.workers <= 3);
}

#[test]
fn a_new_version_takes_over_between_two_events() {
    let bed = Bed::new();
    bed.shell(
        "swapped",
        "echo old $seq >>$out; case $seq in 1) while ! [ -e $out-go ]; do sleep 0.01; done;; esac; ok",
        "",
    );
    let loader = bed.open(vec![]);
    let slow = loader.dispatch(&Arc::new(attach(1)), 1);
    until("the old one is at it", || bed.heard("swapped") == ["old 1"]);
    bed.shell("swapped", "echo new $seq $reason >>$out; ok", "");
    // The old copy is unharmed meanwhile.
    fs::write(bed.output.path().join("swapped-go"), "").unwrap();
    assert_eq!(endings(slow), [done("swapped")]);
    bed.wait_for("Swapped");
    until("coldplug", || bed.heard("swapped").len() == 2);
    assert_eq!(send(&loader, 2), [done("swapped")]);
    assert_eq!(bed.heard("swapped"), ["old 1", "new 1 coldplug", "new 2 hotplug"]);
    let copies = fs::read_dir(bed.store.path().join("packages")).unwrap().count();
    assert!(copies <= 2, "{copies}");
}

#[test]
fn a_version_that_does_not_become_ready_changes_nothing() {
    let bed = Bed::new();
    bed.shell("rolled", "echo old $seq >>$out; case $seq in 2) exit 1;; esac; ok", "");
    let loader = bed.open(vec![]);
    fs::write(bed.package("rolled").join("run"), "#!/bin/sh\necho broken >&2; exit 3\n").unwrap();
    bed.wait_for("RolledBack");
    assert!(bed.told("it ended: with code 3, its last words: broken"));
    assert_eq!(send(&loader, 1), [done("rolled")]);
    // Its worker crashes: what is started again is still the old version.
    let (_, _, Ending::GaveUp { .. }) = send(&loader, 2).remove(0) else { panic!() };
    assert_eq!(send(&loader, 3), [done("rolled")]);
    fs::remove_file(bed.package("rolled").join("autoweave.plugin.json")).unwrap();
    bed.wait_for("there is none");
    assert_eq!(send(&loader, 4), [done("rolled")]);
    fs::remove_dir_all(bed.package("rolled")).unwrap();
    bed.wait_for("Removed { plugin: \"rolled\", unheard: 0 }");
    assert!(send(&loader, 5).is_empty() && loader.plugins().is_empty());
}

#[test]
fn a_package_that_is_copied_bit_by_bit_is_loaded_once() {
    let bed = Bed::new();
    let whole = Bed::new();
    whole.shell("slow", NOTE, "");
    let loader = bed.open(vec![]);
    let (from, to) = (whole.package("slow"), bed.package("slow"));
    fs::create_dir(&to).unwrap();
    let mut manifest = fs::read(from.join("autoweave.plugin.json")).unwrap();
    let rest = manifest.split_off(20);
    fs::write(to.join("autoweave.plugin.json"), &manifest).unwrap();
    bed.wait_for("Refused");
    manifest.extend(rest);
    fs::write(to.join("autoweave.plugin.json"), &manifest).unwrap();
    bed.wait_for("name a file of the package");
    fs::copy(from.join("run"), to.join("run")).unwrap();
    bed.wait_for("Loaded");
    assert_eq!(loader.plugins().len(), 1);
}

#[test]
fn two_packages_of_one_name_are_not_both_run() {
    let bed = Bed::new();
    support::write(
        &bed.package("a"),
        "same-name",
        "main.py",
        "def attach(e, c): pass\ndef detach(e, c): pass",
        ALL,
    );
    support::write(
        &bed.package("b"),
        "same-name",
        "main.py",
        "def attach(e, c): 1\ndef detach(e, c): pass",
        ALL,
    );
    let loader = bed.open(vec![]);
    assert_eq!(loader.plugins().len(), 1);
    assert!(bed.told("is a plugin named \\\"same-name\\\" already: rename one"));
    // Another name in the manifest is another plugin in the first one's place.
    support::write(
        &bed.package("a"),
        "new-name",
        "main.py",
        "def attach(e, c): pass\ndef detach(e, c): pass",
        ALL,
    );
    bed.wait_for("Loaded { plugin: \"new-name\"");
    bed.wait_for("Removed { plugin: \"same-name\"");
}

#[test]
fn a_circuit_opens_events_wait_for_it_only_so_long_and_others_go_on() {
    let mut bed = Bed::new();
    bed.policy.patience = Duration::from_millis(1500);
    bed.policy.deliveries_max = 1;
    bed.shell("crashes", "exit 1", "");
    bed.shell("steady", NOTE, "");
    let loader = bed.open(vec![]);
    let pending: Vec<_> = (1..=12).map(|number| loader.dispatch(&Arc::new(attach(number)), 1)).collect();
    for (pending, number) in pending.into_iter().zip(1..) {
        let ended = endings(pending);
        let (name, deliveries, Ending::GaveUp { error }) = &ended[0] else { panic!("{ended:?}") };
        assert!(name == "crashes" && error.contains("it ended: with code 1"), "{error}");
        assert_eq!(*deliveries, u32::from(number <= 10), "{number}");
        assert_eq!(ended[1], done("steady"));
    }
    assert!(bed.told("CircuitOpened { plugin: \"crashes\""), "{:#?}", bed.told.lock().unwrap());
    assert!(loader.plugins()[0].tallies.circuit_open);
    // The next version begins anew.
    bed.shell("crashes", NOTE, "");
    bed.wait_for("Swapped");
    assert_eq!(send(&loader, 13), [done("crashes"), done("steady")]);
    assert!(!loader.plugins()[0].tallies.circuit_open);
}

#[test]
fn the_end_waits_for_what_is_under_way_and_no_longer() {
    let bed = Bed::new();
    bed.shell("hangs", "echo $seq >>$out; case $seq in 1) sleep 1000;; esac; ok", "");
    bed.shell("quick", NOTE, "");
    let loader = bed.open(vec![]);
    let pending: Vec<_> = (1..=3).map(|number| loader.dispatch(&Arc::new(attach(number)), 1)).collect();
    until("it hangs", || bed.heard("hangs") == ["1"] && bed.heard("quick").len() == 3);
    let begun = Instant::now();
    loader.close(Duration::from_millis(500));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    for ended in pending.into_iter().map(endings) {
        assert_eq!(ended, [("hangs".to_owned(), ended[0].1, Ending::Left), done("quick")]);
    }
    for process in bed.processes.lock().unwrap().iter() {
        assert!(group(*process).is_empty());
    }
}

#[test]
fn a_plugin_that_opens_devices_has_a_worker_for_each() {
    let bed = Bed::new();
    let permissions = bed.permissions("").replace(r#"["*"]"#, r#"["*"], "open": true"#);
    bed.shell("opens", "echo $seq $$ >>$out; ok", r#", "memory": {"max_workers": 2}"#);
    let code = fs::read_to_string(bed.package("opens").join("run")).unwrap();
    let permissions = permissions.replacen('{', r#"{"memory": {"max_workers": 2}, "#, 1);
    support::write(&bed.package("opens"), "opens", "run", &code, &permissions);
    let loader = bed.open(vec![]);
    let send = |number, port: &str, action| {
        assert_eq!(endings(loader.dispatch(&Arc::new(event(number, port, action)), 1)), [done("opens")]);
    };
    send(1, "1-1", Action::Attach);
    send(2, "1-1", Action::Attach);
    send(3, "1-2", Action::Attach);
    send(4, "1-1", Action::Detach);
    send(5, "1-1", Action::Attach);
    let process = |line: &String| line.split(' ').next_back().unwrap().to_owned();
    let heard: Vec<String> = bed.heard("opens").iter().map(process).collect();
    assert_eq!(heard[0], heard[1]);
    assert_ne!(heard[1], heard[2]);
    assert!(!heard[..4].contains(&heard[4]), "{heard:?}");
}

#[test]
fn the_node_granted_is_that_of_the_device_here_and_now() {
    let bed = Bed::new();
    let permissions = bed.permissions("").replace(r#"["*"]"#, r#"["*"], "open": true"#);
    bed.shell("opens", "ok", "");
    let code = fs::read_to_string(bed.package("opens").join("run")).unwrap();
    support::write(&bed.package("opens"), "opens", "run", &code, &permissions);
    let device = bed.output.path().join("bus/usb/devices/1-1");
    fs::create_dir_all(&device).unwrap();
    let set = |name: &str, value: &str| fs::write(device.join(name), format!("{value}\n")).unwrap();
    for (name, value) in [("devnum", "5"), ("idVendor", "046d"), ("idProduct", "c52b"), ("serial", "A")] {
        set(name, value);
    }
    let loader = bed.open(vec![]);
    // Here the node itself is not there, which is told if it would have been granted.
    let is_granted = |change: &dyn Fn(&mut Event)| {
        let mut event = event(1, "1-1", Action::Attach);
        Arc::make_mut(&mut event.device).serial_number = Some("A".to_owned());
        change(&mut event);
        bed.told.lock().unwrap().clear();
        assert_eq!(endings(loader.dispatch(&Arc::new(event), 1)), [done("opens")]);
        let (granted, refused) =
            (bed.told("001/005: not granted: No such file"), bed.told("may not be opened"));
        assert_ne!(granted, refused, "{:#?}", bed.told.lock().unwrap());
        // Its worker goes, so that the next one is started anew.
        let mut event = support::event(2, "1-1", Action::Detach);
        change(&mut event);
        assert_eq!(endings(loader.dispatch(&Arc::new(event), 1)), [done("opens")]);
        granted
    };
    assert!(is_granted(&|_| ()));
    assert!(!is_granted(&|event| event.host = "another".to_owned()));
    set("serial", "B");
    assert!(!is_granted(&|_| ()));
    set("serial", "A");
    set("idProduct", "c52c");
    assert!(!is_granted(&|_| ()));
    set("idProduct", "c52b");
    set("devnum", "6");
    assert!(!is_granted(&|_| ()));
    fs::remove_dir_all(&device).unwrap();
    assert!(!is_granted(&|_| ()));
}

#[test]
fn floods_of_events_meet_a_bound_and_all_are_heard() {
    let bed = Bed::new();
    bed.shell("busy", "ok", r#", "memory": {"max_workers": 4}"#);
    let loader = bed.open(vec![]);
    let pending: Vec<_> = (1..=3000)
        .map(|number| {
            loader.dispatch(&Arc::new(event(number, &format!("1-{}", 1 + number % 9), Action::Attach)), 1)
        })
        .collect();
    assert!(pending.into_iter().all(|pending| endings(pending) == [done("busy")]));
    assert_eq!(loader.plugins()[0].tallies.done, 3000);
}

#[test]
fn the_end_does_not_wait_for_a_plugin_to_get_ready() {
    let bed = Bed::new();
    let loader = bed.open(vec![]);
    let started = bed.output.path().join("started");
    let code = format!("#!/bin/sh\necho >{}; sleep 1000", started.display());
    support::write(&bed.package("never"), "never-ready", "run", &code, &bed.permissions(""));
    until("it is being started", || started.exists());
    let begun = Instant::now();
    loader.close(Duration::from_millis(300));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}
