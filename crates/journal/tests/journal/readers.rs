//! Readers: beside a writer, after one, before one, and without any right to write.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use autoweave_usb_journal::{ROWS_MAX, ReadError, Reader};

use crate::support::{self, append, assert_history, database, event_id, given_dir, open};

#[test]
fn nothing_and_no_journal() {
    let dir = tempfile::tempdir().unwrap();
    assert!(
        matches!(Reader::open(dir.path()), Err(ReadError::Missing { path }) if path == database(dir.path()))
    );
    assert!(matches!(Reader::open(&dir.path().join("none")), Err(ReadError::Missing { .. })));
    fs::write(database(dir.path()), "no journal, but long enough to have a header ".repeat(20)).unwrap();
    assert!(matches!(Reader::open(dir.path()), Err(ReadError::NotAJournal { .. })));
    fs::write(database(dir.path()), "").unwrap();
    assert!(matches!(Reader::open(dir.path()), Err(ReadError::Missing { .. })));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a reader makes no files");
}

#[test]
fn last_and_since_are_bounded_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    append(&mut journal, 1500);
    let mut reader = Reader::open(dir.path()).unwrap();
    assert_eq!(reader.producer().unwrap(), journal.producer());
    let seqs = |rows: Vec<autoweave_usb_journal::Stored>| rows.iter().map(|row| row.seq).collect::<Vec<_>>();
    assert_eq!(seqs(reader.last(3).unwrap()), [1500, 1499, 1498]);
    assert_eq!(seqs(reader.since(1497, 2).unwrap()), [1498, 1499]);
    assert_eq!(seqs(reader.since(1500, 10).unwrap()), [0; 0]);
    assert_eq!(seqs(reader.since(u64::MAX, 10).unwrap()), [0; 0]);
    assert_eq!(reader.since(0, usize::MAX).unwrap().len(), ROWS_MAX);
    assert_eq!(reader.last(usize::MAX).unwrap().len(), ROWS_MAX);
    assert_eq!(reader.last(1).unwrap()[0].event_id, event_id(1500));
}

#[test]
fn a_follower_learns_of_commits_of_a_restart_and_of_a_new_journal() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    let mut follower = Reader::open(dir.path()).unwrap();
    assert!(!follower.changed().unwrap());
    append(&mut journal, 1);
    assert!(follower.changed().unwrap());
    assert!(!follower.changed().unwrap());
    journal.close().unwrap();

    let mut journal = open(dir.path());
    append(&mut journal, 1);
    assert!(follower.changed().unwrap());
    assert_eq!(follower.last_seq().unwrap(), 2);
    journal.close().unwrap();
    drop(follower);

    // A follower that came while no daemon ran, and read from the bare file. The one before, last to close but
    // not allowed to clean up, left an empty log.
    fs::remove_file(dir.path().join("journal.db-wal")).ok();
    let mut follower = Reader::open(dir.path()).unwrap();
    assert!(!follower.changed().unwrap());
    assert_eq!(follower.last_seq().unwrap(), 2);
    let mut journal = open(dir.path());
    append(&mut journal, 1);
    assert!(follower.changed().unwrap());
    assert_eq!(follower.last(1).unwrap()[0].seq, 3);
    let producer = follower.producer().unwrap();
    drop(journal);

    fs::rename(database(dir.path()), dir.path().join("elsewhere")).unwrap();
    fs::write(database(dir.path()), "damage".repeat(100)).unwrap();
    let journal = open(dir.path());
    assert!(journal.set_aside().is_some());
    assert!(follower.changed().unwrap());
    assert_ne!(follower.producer().unwrap(), producer);
    assert_eq!(follower.last_seq().unwrap(), 0);
}

#[test]
fn reads_from_the_bare_file_see_a_daemon_that_came_and_went() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close().unwrap();
    let mut reader = Reader::open(dir.path()).unwrap();
    for last in 1..4 {
        let mut journal = open(dir.path());
        append(&mut journal, 1);
        journal.close().unwrap();
        assert!(!dir.path().join("journal.db-wal").exists());
        assert_eq!(reader.last_seq().unwrap(), last);
        assert!(reader.changed().unwrap());
    }
}

#[test]
fn every_read_beside_a_busy_writer_is_of_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    append(&mut journal, 1);
    let path = dir.path().to_owned();
    let reading = thread::spawn(move || {
        let mut reader = Reader::open(&path).unwrap();
        let mut seen = 0;
        while seen < 2000 {
            let rows = reader.since(seen, 100).unwrap();
            for row in rows {
                assert_eq!((row.seq, row.event_id), (seen + 1, event_id(seen + 1)));
                seen += 1;
            }
            let last = reader.last(5).unwrap();
            assert!(last.windows(2).all(|pair| pair[0].seq == pair[1].seq + 1));
            assert!(!reader.devices().unwrap().is_empty());
        }
    });
    while journal.last_seq() < 2000 {
        append(&mut journal, 3);
    }
    reading.join().unwrap();
    assert!(journal.bytes() < 16 << 20);
}

#[test]
fn a_user_who_may_not_write_reads_before_during_and_after() {
    const NAME: &str = "readers::a_user_who_may_not_write_reads_before_during_and_after";
    if let Some(dir) = given_dir() {
        assert!(fs::File::create(dir.join("probe")).is_err(), "this process may write after all");
        assert_history(&dir, 1, Reader::open(&dir).unwrap().last_seq().unwrap());
        println!("read it");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    append(&mut journal, 10);
    read_as_other_user(NAME, dir.path());
    // A copy of the files as they are now is what a killed writer leaves.
    let killed = tempfile::tempdir().unwrap();
    for name in ["journal.db", "journal.db-wal", "journal.db-shm"] {
        fs::copy(dir.path().join(name), killed.path().join(name)).unwrap();
    }
    read_as_other_user(NAME, killed.path());
    journal.close().unwrap();
    read_as_other_user(NAME, dir.path());
}

/// In a user namespace that maps nobody, root is an ordinary user, and one who may not write in `dir`.
fn read_as_other_user(name: &str, dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        mode(&entry.unwrap().path(), 0o444);
    }
    mode(dir, 0o555);
    let test = support::this_test(name, dir);
    let mut command = Command::new("unshare");
    command.args(["--user", "--"]).arg(test.get_program()).args(test.get_args());
    let output = command.env("JOURNAL_TEST_DIR", dir).output().unwrap();
    mode(dir, 0o755);
    for entry in fs::read_dir(dir).unwrap() {
        mode(&entry.unwrap().path(), 0o644);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("read it"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
