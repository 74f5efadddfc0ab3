//! Wrong configuration, and state directories that cannot be used.

use std::fs;
use std::path::{Path, PathBuf};

use autoweave_usb_testbus::Bus;
use nix::mount::{MsFlags, mount};
use rusqlite::Connection;

use crate::harness::{Daemon, StateDir, command, events};
use crate::program::{CALM, Finished, files, finish, usbd};

fn run_in(state: &Path) -> Finished {
    finish(command(CALM).args(["run", "--state-dir"]).arg(state))
}

#[test]
fn a_wrong_configuration_is_refused_by_file_line_and_key() {
    let directory = StateDir::new();
    let (file, state) = (directory.path().join("usbd.toml"), directory.path().join("state"));
    for (text, words) in [
        (
            "# one\n[performance]\ndebonce_ms = 5\n",
            &[":3", "performance.debonce_ms", "performance.debounce_ms"][..],
        ),
        ("[monitorin]\nenabled = true\n", &[":1", "monitorin", "[monitoring]"]),
        ("[redis]\nhost = \"localhost\"\nport = 70000\n", &[":3", "redis.port", "70000", "65535"]),
        ("[redis]\nport = 0\n", &[":2", "redis.port", "out of range"]),
        ("[monitoring]\ninterval = \"soon\"\n", &[":2", "monitoring.interval", "an integer", "a string"]),
        ("[filters]\nvendor_whitelist = [\"xyz\"]\n", &[":2", "filters.vendor_whitelist", "xyz"]),
        ("[log]\nlevel = 3\n", &[":2", "log.level"]),
        ("journal = 3\n", &[":1", "journal", "section"]),
        ("[log]\nlevel = \"info\"\nlevel = \"warn\"\n", &[":3:1", "duplicate key", "level"]),
        ("[redis\nport = 1\n", &[":1:", "not valid TOML"]),
        ("[log]\nlevel = \n", &[":2:", "not valid TOML"]),
    ] {
        fs::write(&file, text).unwrap();
        let place = file.to_str().unwrap();
        let by_flag = finish(command(CALM).args(["run", "--config", place, "--state-dir"]).arg(&state));
        by_flag.fails(64, &[&[place], words].concat());
        let by_variable =
            finish(command(CALM).env("AUTOWEAVE_USB_CONFIG", place).args(["run", "--state-dir"]).arg(&state));
        assert_eq!((by_variable.code(), &by_variable.stderr), (64, &by_flag.stderr));
    }
    assert!(!state.exists(), "nothing is opened before the configuration is known to be right");
}

#[test]
fn a_file_that_is_no_text_or_not_there_is_refused() {
    let directory = StateDir::new();
    let file = directory.path().join("usbd.toml");
    let place = file.to_str().unwrap();
    let refused = |words: &[&str]| {
        for arguments in [["watch"], ["devices"], ["check"]] {
            finish(command(CALM).args(arguments).args(["--config", place])).fails(64, words);
        }
    };
    refused(&[place, "no such file", "--config"]);
    fs::write(&file, b"[log]\nlevel = \"\xff\"\n").unwrap();
    refused(&[place, "line 2", "UTF-8"]);
    fs::write(&file, vec![b'#'; 2 << 20]).unwrap();
    refused(&[place, "larger than"]);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    refused(&[place, "directory"]);
}

#[test]
fn everything_that_is_wrong_is_told_at_once_and_nothing_of_it_is_obeyed_by_a_terminal() {
    let directory = StateDir::new();
    let file = directory.path().join("usbd.toml");
    fs::write(&file, "host = 1\n[log]\nlevel = \"\\u001b[2Jloud\"\n\"bad\\u001b[31mkey\" = 1\n").unwrap();
    let refused = finish(command(CALM).args(["devices", "--config", file.to_str().unwrap()]));
    refused.fails(64, &[":1", "host", ":3", "log.level", "loud", ":4", "key"]);
    assert_eq!(refused.stderr.lines().count(), 3, "{}", refused.stderr);
    assert!(!refused.stderr.contains('\x1b'), "{:?}", refused.stderr);
}

#[test]
fn a_wrong_variable_is_refused_by_its_name() {
    for (name, value, words) in [
        ("AUTOWEAVE_USB__PERFORMANCE__DEBONCE_MS", "5", &["AUTOWEAVE_USB__PERFORMANCE__DEBOUNCE_MS"][..]),
        ("AUTOWEAVE_USB__DEBOUNCE_MS", "5", &["AUTOWEAVE_USB__PERFORMANCE__DEBOUNCE_MS"]),
        ("AUTOWEAVE_USB__REDIS__PORT", "70000", &["redis.port", "65535"]),
        ("AUTOWEAVE_USB__PERFORMANCE__DEBOUNCE_MS", "", &["performance.debounce_ms"]),
        ("AUTOWEAVE_USB__MONITORING__ENABLED", "maybe", &["monitoring.enabled", "true"]),
        ("REDIS_PORT", "tcp://10.0.0.1:6379", &["redis.port", "enableServiceLinks"]),
        ("LOG_LEVEL", "loud", &["log.level", "warn"]),
        ("AUTOWEAVE_USB_CONFIG", "/no/such/file", &["/no/such/file"]),
    ] {
        let refused = finish(command(&[]).env(name, value).arg("devices"));
        refused.fails(64, &[&[name], words].concat());
    }
}

#[test]
fn a_state_directory_that_cannot_be_used_ends_with_73() {
    let _bus = Bus::enter().unwrap();
    let directory = StateDir::new();
    let read_only = directory.path().join("read-only");
    fs::create_dir(&read_only).unwrap();
    mount(None::<&str>, &read_only, Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>).unwrap();
    run_in(&read_only).fails(73, &[read_only.to_str().unwrap(), "read-only"]);
    let below = read_only.join("below");
    run_in(&below).fails(73, &[below.to_str().unwrap()]);

    let file = directory.path().join("file");
    fs::write(&file, "precious").unwrap();
    run_in(&file).fails(73, &[file.to_str().unwrap(), "no directory"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    run_in(&file.join("below")).fails(73, &[file.to_str().unwrap()]);
}

#[test]
fn a_journal_on_a_file_system_that_became_read_only_is_still_read() {
    let bus = Bus::enter().unwrap();
    let state = StateDir::new();
    let place = state.path().to_str().unwrap();
    mount(None::<&str>, state.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    usbd(&["simulate", "--devices", "2", "--cycles", "1", "--rate", "0", "--state-dir", place]).ok();
    mount(None::<&str>, state.path(), None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None::<&str>)
        .unwrap();
    run_in(state.path()).fails(73, &[place]);
    assert_eq!(usbd(&["events", "--json", "--state-dir", place]).ok().json().len(), 4);
    drop(bus);
}

#[test]
fn a_second_daemon_is_turned_away() {
    let bus = Bus::enter().unwrap();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, CALM);
    run_in(state.path()).fails(73, &["in use", &format!("process {}", daemon.daemon_pid())]);
    daemon.stop();
}

/// The file of a database that belongs to someone else.
fn database(application_id: i64) -> Vec<u8> {
    let directory = StateDir::new();
    let path = directory.path().join("bookmarks.db");
    let database = Connection::open(&path).unwrap();
    database
        .execute_batch("CREATE TABLE bookmarks(url TEXT); INSERT INTO bookmarks VALUES ('kept');")
        .unwrap();
    database.pragma_update(None, "application_id", application_id).unwrap();
    drop(database);
    fs::read(path).unwrap()
}

/// Files of the state directory whose names begin with `journal.db.set-aside`.
fn set_aside(state: &StateDir) -> Vec<PathBuf> {
    let names = files(state.path()).into_iter();
    names
        .filter(|name| name.starts_with("journal.db.set-aside-"))
        .map(|name| state.path().join(name))
        .collect()
}

#[test]
fn what_is_no_journal_is_set_aside_and_never_overwritten() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let foreign = [
        ("another program", database(0x0bad_cafe)),
        ("another program", database(0)),
        ("damaged", b"Dear diary, ".repeat(1000)),
        ("damaged", [&b"SQLite format 3\0"[..], &[0xff; 5000]].concat()),
    ];
    for (why, content) in foreign {
        let state = StateDir::new();
        let path = state.path().join("journal.db");
        fs::write(&path, &content).unwrap();
        let place = state.path().to_str().unwrap();
        let events_read = usbd(&["events", "--state-dir", place]);
        events_read.fails(74, &[path.to_str().unwrap()]);
        assert_eq!(fs::read(&path).unwrap(), content, "reading changes nothing");

        let daemon = Daemon::start(&bus, &state, CALM);
        let [kept] = &set_aside(&state)[..] else {
            panic!("not one file is set aside: {:?}", files(state.path()))
        };
        assert_eq!(fs::read(kept).unwrap(), content);
        daemon.wait_for_log(kept.to_str().unwrap());
        daemon.wait_for_log(why);
        daemon.stop();
        assert_eq!(events(&state).len(), 1, "a new journal is begun");

        Daemon::start(&bus, &state, CALM).stop();
        assert_eq!(set_aside(&state).len(), 1, "a journal is not set aside");
    }
}

#[test]
fn a_journal_of_a_later_version_is_left_alone() {
    let _bus = Bus::enter().unwrap();
    let state = StateDir::new();
    let place = state.path().to_str().unwrap();
    usbd(&["simulate", "--devices", "1", "--cycles", "1", "--rate", "0", "--state-dir", place]).ok();
    let path = state.path().join("journal.db");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let content = fs::read(&path).unwrap();
    run_in(state.path()).fails(73, &[path.to_str().unwrap(), "version 99", "newer"]);
    usbd(&["events", "--state-dir", place]).fails(74, &[path.to_str().unwrap(), "99"]);
    assert_eq!(fs::read(&path).unwrap(), content);
}
