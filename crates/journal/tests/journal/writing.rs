//! Commits, restarts, numbering, retention and the lock.

use std::error::Error;
use std::fs;
use std::path::Path;

use autoweave_usb_journal::{Commit, CommitError, Journal, NewEvent, OpenError, Options, Reader};

use crate::support::{self, PROCESS, append, assert_history, commit, event_id, given_dir, open};

#[test]
fn round_trip_and_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    let producer = journal.producer().to_owned();
    assert_eq!(producer.len(), 32);
    assert!(producer.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{producer}");
    assert_eq!((journal.last_seq(), journal.set_aside()), (0, None));
    assert_eq!(journal.restore().unwrap(), []);
    assert_eq!(journal.meta("boot_id").unwrap(), None);
    append(&mut journal, 5);
    append(&mut journal, 1);
    assert!(journal.bytes() > 8192);
    journal.close().unwrap();
    assert!(!dir.path().join("journal.db-wal").exists(), "a clean end leaves one file");

    let journal = open(dir.path());
    assert_eq!((journal.last_seq(), journal.producer(), journal.set_aside()), (6, &*producer, None));
    assert_eq!(journal.restore().unwrap(), support::devices(6));
    assert_eq!(journal.meta("boot_id").unwrap().as_deref(), Some("boot 6"));
    assert_history(dir.path(), 1, 6);
}

#[test]
fn two_journals_have_two_producers() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert_ne!(open(one.path()).producer(), open(two.path()).producer());
}

#[test]
fn a_commit_without_events_writes_devices_and_meta() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    let commit = Commit {
        devices: vec![("1-1".into(), Some("{}".into())), ("1-2".into(), None)],
        meta: vec![("next_scan_reason", "reconcile".into())],
        ..Commit::default()
    };
    journal.commit(&commit).unwrap();
    journal.commit(&commit).unwrap();
    assert_eq!(journal.restore().unwrap(), [("1-1".to_owned(), "{}".to_owned())]);
    assert_eq!(journal.meta("next_scan_reason").unwrap().as_deref(), Some("reconcile"));
    assert_eq!(journal.last_seq(), 0);
}

#[test]
fn a_gap_and_an_overlap_are_refused_and_leave_the_journal_open() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    append(&mut journal, 3);
    for (first, count) in [(0, 1), (1, 1), (5, 1), (2, 3), (u64::MAX, 1), (u64::MAX, 2)] {
        let mut refused = commit(4, count);
        refused.first_seq = first;
        let error = journal.commit(&refused).unwrap_err();
        assert!(
            matches!(error, CommitError::Gap { expected: 4, given } if given == first),
            "{first}+{count}: {error}"
        );
    }
    append(&mut journal, 1);
    assert_history(dir.path(), 1, 4);
}

#[test]
fn a_commit_that_landed_is_not_written_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    append(&mut journal, 3);
    let landed = commit(4, 4);
    journal.commit(&landed).unwrap();
    journal.reopen().unwrap();
    journal.commit(&landed).unwrap();
    drop(journal);
    let mut journal = open(dir.path());
    journal.commit(&landed).unwrap();
    assert_history(dir.path(), 1, 7);

    let other = Commit {
        first_seq: 7,
        events: vec![NewEvent { event_id: "other".into(), event: "{}".into() }],
        ..Commit::default()
    };
    match journal.commit(&other).unwrap_err() {
        CommitError::Conflict { seq: 7, stored: Some(stored), given } => {
            assert_eq!((stored, &*given), (event_id(7), "other"));
        }
        error => panic!("{error}"),
    }
    append(&mut journal, 1);
    assert_history(dir.path(), 1, 8);
}

#[test]
fn retention_is_exact_and_numbers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path(), Options { max_events: 10, ..PROCESS }).unwrap();
    for last in 1..=40 {
        append(&mut journal, 1);
        assert_history(dir.path(), if last > 10 { last - 9 } else { 1 }, last);
    }
    append(&mut journal, 25);
    assert_history(dir.path(), 56, 65);
}

#[test]
fn what_somebody_needs_is_kept_beyond_the_bound() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path(), Options { max_events: 10, ..PROCESS }).unwrap();
    journal.need_after(5);
    append(&mut journal, 30);
    assert_history(dir.path(), 6, 30);
    journal.need_after(20);
    append(&mut journal, 1);
    assert_history(dir.path(), 21, 31);
    journal.need_after(31);
    append(&mut journal, 1);
    assert_history(dir.path(), 23, 32);
}

#[test]
fn a_lowered_bound_takes_effect_over_several_commits() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    append(&mut journal, 1000);
    drop(journal);
    let mut journal = Journal::open(dir.path(), Options { max_events: 50, ..PROCESS }).unwrap();
    append(&mut journal, 1);
    assert_history(dir.path(), 103, 1001);
    for _ in 0..20 {
        append(&mut journal, 1);
    }
    assert_history(dir.path(), 972, 1021);
}

#[test]
fn numbers_survive_an_emptied_events_table() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    append(&mut journal, 9);
    journal.close().unwrap();
    rusqlite::Connection::open(support::database(dir.path()))
        .unwrap()
        .execute("DELETE FROM events", [])
        .unwrap();
    let mut journal = open(dir.path());
    assert_eq!((journal.last_seq(), journal.set_aside()), (9, None));
    assert!(matches!(journal.commit(&commit(9, 1)), Err(CommitError::Conflict { seq: 9, stored: None, .. })));
    append(&mut journal, 1);
    assert_history(dir.path(), 10, 10);
}

#[test]
#[should_panic(expected = "belongs to the journal")]
fn the_journals_own_keys_are_not_the_callers() {
    let dir = tempfile::tempdir().unwrap();
    let meta = vec![("last_seq", "7".to_owned())];
    let _ = open(dir.path()).commit(&Commit { meta, ..Commit::default() });
}

#[test]
fn the_lock_keeps_out_a_second_handle_and_a_second_process() {
    if let Some(dir) = given_dir() {
        assert_in_use(&dir, std::os::unix::process::parent_id());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    assert_in_use(dir.path(), std::process::id());
    let name = "writing::the_lock_keeps_out_a_second_handle_and_a_second_process";
    assert!(support::this_test(name, dir.path()).status().unwrap().success());
    journal.reopen().unwrap();
    assert_in_use(dir.path(), std::process::id());
    drop(journal);
    open(dir.path());
}

fn assert_in_use(dir: &Path, holder: u32) {
    match Journal::open(dir, PROCESS).unwrap_err() {
        OpenError::InUse { dir: named, pid } => assert_eq!((&*named, pid), (dir, Some(holder))),
        error => panic!("{error}"),
    }
}

#[test]
fn a_path_under_a_file_is_unusable_and_the_message_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = Journal::open(&path, PROCESS).unwrap_err();
        assert!(matches!(error, OpenError::Unusable { .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert!(error.to_string().contains("no directory"), "{error} {:?}", error.source());
    }
}

#[test]
fn files_are_private_even_if_they_were_not() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("made/for/it");
    let mut journal = open(&dir);
    append(&mut journal, 1);
    assert_eq!(mode(&dir) & !0o750, 0);
    let names = ["journal.db", "journal.db-wal", "journal.db-shm", "journal.lock"];
    for name in names {
        assert_eq!(mode(&dir.join(name)) & !0o640, 0, "{name}");
    }
    drop(journal);
    fs::set_permissions(support::database(&dir), fs::Permissions::from_mode(0o666)).unwrap();
    let _journal = open(&dir);
    for name in names {
        assert_eq!(mode(&dir.join(name)) & !0o640, 0, "{name}");
    }
}

#[test]
fn the_log_stays_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path(), Options { max_events: 1000, ..PROCESS }).unwrap();
    for _ in 0..300 {
        append(&mut journal, 50);
    }
    assert!(journal.bytes() < 12 << 20, "{}", journal.bytes());
    assert_eq!(Reader::open(dir.path()).unwrap().first_seq().unwrap(), Some(14_001));
}

#[test]
fn a_journal_removed_under_its_writer_is_no_journal_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    append(&mut journal, 3);
    let producer = journal.producer().to_owned();
    for file in ["journal.db", "journal.db-wal", "journal.db-shm"] {
        fs::remove_file(dir.path().join(file)).unwrap();
    }
    let new = NewEvent { event_id: event_id(4), event: "{}".to_owned() };
    let commit = Commit { first_seq: 4, events: vec![new], ..Commit::default() };
    let error = journal.commit(&commit).unwrap_err();
    assert!(matches!(&error, CommitError::Failed(error) if error.to_string().contains("removed")), "{error}");
    journal.reopen().unwrap();
    assert_ne!(journal.producer(), producer);
    assert_eq!(journal.last_seq(), 0);
}
