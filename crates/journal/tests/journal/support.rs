//! A numbered history in which everything follows from the sequence number, so that any prefix can be checked.

use std::path::{Path, PathBuf};
use std::process::Command;

use autoweave_usb_journal::{Commit, Durability, Journal, NewEvent, Options, Reader, Stored};

pub const PORTS: u64 = 7;

pub const PROCESS: Options = Options { durability: Durability::Process, max_events: 1_000_000 };

pub fn open(dir: &Path) -> Journal {
    Journal::open(dir, PROCESS).unwrap()
}

pub fn event_id(seq: u64) -> String {
    format!("01J{seq:023}")
}

pub fn event(seq: u64) -> String {
    format!(r#"{{"seq":{seq},"port":"{}","filler":"{}"}}"#, seq % PORTS, "x".repeat(600))
}

fn device(seq: u64) -> Option<String> {
    (!seq.is_multiple_of(3)).then(|| format!(r#"{{"since":{seq}}}"#))
}

/// The commit of `count` events from `first_seq` on; each puts or removes the device of its port.
pub fn commit(first_seq: u64, count: u64) -> Commit {
    let seqs = first_seq..first_seq + count;
    Commit {
        first_seq,
        events: seqs.clone().map(|seq| NewEvent { event_id: event_id(seq), event: event(seq) }).collect(),
        devices: seqs.clone().map(|seq| ((seq % PORTS).to_string(), device(seq))).collect(),
        meta: vec![("boot_id", format!("boot {}", seqs.end - 1))],
    }
}

/// Appends `count` events.
pub fn append(journal: &mut Journal, count: u64) {
    journal.commit(&commit(journal.last_seq() + 1, count)).unwrap();
}

/// What the device table must be after `last_seq` events.
pub fn devices(last_seq: u64) -> Vec<(String, String)> {
    let newest = |port| (last_seq.saturating_sub(PORTS) + 1..=last_seq).rev().find(|seq| seq % PORTS == port);
    (0..PORTS).filter_map(|port| Some((port.to_string(), device(newest(port)?)?))).collect()
}

/// Checks events `first..=last_seq`, devices and meta of the journal in `dir` against the history.
pub fn assert_history(dir: &Path, first: u64, last_seq: u64) {
    let mut reader = Reader::open(dir).unwrap();
    assert_eq!(reader.last_seq().unwrap(), last_seq);
    assert_eq!(reader.first_seq().unwrap(), (first <= last_seq).then_some(first));
    let mut next = first;
    loop {
        let rows = reader.since(next - 1, 1000).unwrap();
        for row in &rows {
            assert_eq!(*row, Stored { seq: next, event_id: event_id(next), event: event(next) });
            next += 1;
        }
        if rows.is_empty() {
            break;
        }
    }
    assert_eq!(next, last_seq + 1, "no gap and no repeat up to the newest");
    assert_eq!(reader.devices().unwrap(), devices(last_seq));
}

/// Names of the files in `dir` that were set aside, in order.
pub fn set_aside(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("set-aside"))
        .collect();
    names.sort();
    names
}

pub fn database(dir: &Path) -> PathBuf {
    dir.join("journal.db")
}

/// This test binary, to run the one test `name` again as another process that finds `dir` in its environment.
pub fn this_test(name: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env("JOURNAL_TEST_DIR", dir);
    command
}

/// The directory given to this process by [`this_test`]; `None` in the test that starts it.
pub fn given_dir() -> Option<PathBuf> {
    std::env::var_os("JOURNAL_TEST_DIR").map(PathBuf::from)
}

/// Whether file modes mean nothing to this process.
pub fn is_root(dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(dir).unwrap().uid() == 0
}
