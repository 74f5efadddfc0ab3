//! What is found in the journal's place and is no healthy journal: set aside, or refused untouched.

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use autoweave_usb_journal::{CommitError, Journal, OpenError, ReadError, Reader};
use rusqlite::Connection;

use crate::support::{PROCESS, append, assert_history, commit, database, open, set_aside};

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(bytes).unwrap();
}

/// A closed journal of 200 events; returns its producer.
fn filled(dir: &Path) -> String {
    let mut journal = open(dir);
    append(&mut journal, 200);
    let producer = journal.producer().to_owned();
    journal.close().unwrap();
    producer
}

/// Opens what `spoil` made of a filled journal, and checks that it was set aside as it was and a new one works.
fn assert_set_aside(why: &str, spoil: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let producer = filled(dir.path());
    spoil(&database(dir.path()));
    let before = fs::read(database(dir.path())).unwrap();
    let mut journal = open(dir.path());
    let aside = journal.set_aside().expect("it was set aside").clone();
    assert!(aside.why.contains(why), "{}", aside.why);
    assert_eq!(fs::read(&aside.path).unwrap(), before);
    assert_ne!(journal.producer(), producer);
    append(&mut journal, 3);
    journal.close().unwrap();
    assert_eq!(open(dir.path()).set_aside(), None);
    assert_history(dir.path(), 1, 3);
}

#[test]
fn no_sqlite_file() {
    assert_set_aside("not a database", |path| {
        fs::write(path, "a letter to the editor\n".repeat(500)).unwrap();
    });
}

#[test]
fn corrupt_header() {
    assert_set_aside("not a database", |path| overwrite(path, 0, &[0xA5; 100]));
}

#[test]
fn corrupt_middle_page() {
    assert_set_aside("damaged", |path| {
        let middle = fs::metadata(path).unwrap().len() / 4096 / 2 * 4096;
        overwrite(path, middle, &[0xA5; 4096]);
    });
}

#[test]
fn truncated_file() {
    assert_set_aside("damaged", |path| {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    });
}

#[test]
fn database_of_another_program() {
    assert_set_aside("another program", |path| {
        fs::remove_file(path).unwrap();
        Connection::open(path).unwrap().execute_batch("CREATE TABLE notes(text)").unwrap();
    });
}

#[test]
fn database_with_another_application_id() {
    assert_set_aside("application_id 0x7", |path| {
        Connection::open(path).unwrap().pragma_update(None, "application_id", 7).unwrap();
    });
}

#[test]
fn missing_table() {
    assert_set_aside("tables", |path| {
        Connection::open(path).unwrap().execute_batch("DROP TABLE devices").unwrap();
    });
}

#[test]
fn missing_version() {
    assert_set_aside("version", |path| {
        Connection::open(path).unwrap().pragma_update(None, "user_version", 0).unwrap();
    });
}

#[test]
fn missing_or_wrong_own_rows() {
    for spoil in [
        "DELETE FROM meta WHERE key = 'producer'",
        "DELETE FROM meta WHERE key = 'last_seq'",
        "UPDATE meta SET value = 'many' WHERE key = 'last_seq'",
        "UPDATE meta SET value = '199' WHERE key = 'last_seq'",
        "UPDATE meta SET value = '9223372036854775807' WHERE key = 'last_seq'",
    ] {
        assert_set_aside("last_seq", |path| {
            assert_eq!(Connection::open(path).unwrap().execute(spoil, []).unwrap(), 1);
        });
    }
}

#[test]
fn an_emptied_database_beside_its_log_is_set_aside_with_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    append(&mut journal, 20);
    let log = fs::read(dir.path().join("journal.db-wal")).unwrap();
    assert!(!log.is_empty());
    drop(journal);
    for missing in [false, true] {
        if missing {
            fs::remove_file(database(dir.path())).unwrap();
        } else {
            fs::write(database(dir.path()), "").unwrap();
        }
        fs::write(dir.path().join("journal.db-wal"), &log).unwrap();
        let journal = open(dir.path());
        let aside = journal.set_aside().expect("it was set aside");
        assert_eq!(aside.path.exists(), !missing);
        assert_eq!(fs::read(format!("{}-wal", aside.path.display())).unwrap(), log);
        journal.close().unwrap();
    }
}

#[test]
fn an_empty_file_becomes_a_journal() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(database(dir.path()), "").unwrap();
    let mut journal = open(dir.path());
    assert_eq!(journal.set_aside(), None);
    append(&mut journal, 1);
    assert_history(dir.path(), 1, 1);
}

#[test]
fn an_earlier_one_set_aside_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5 {
        fs::write(database(dir.path()), format!("no database, number {round}, {}", "x".repeat(200))).unwrap();
        let journal = open(dir.path());
        assert!(journal.set_aside().is_some());
        journal.close().unwrap();
    }
    let mut numbers: Vec<u8> = set_aside(dir.path())
        .iter()
        .map(|name| fs::read(dir.path().join(name)).unwrap()["no database, number ".len()])
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, b"01234");
}

#[test]
fn a_newer_version_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    Connection::open(database(dir.path())).unwrap().pragma_update(None, "user_version", 2).unwrap();
    let before = fs::read(database(dir.path())).unwrap();
    let error = Journal::open(dir.path(), PROCESS).unwrap_err();
    assert!(matches!(error, OpenError::TooNew { version: 2, .. }), "{error}");
    assert!(matches!(Reader::open(dir.path()), Err(ReadError::TooNew { version: 2, .. })));
    assert_eq!(fs::read(database(dir.path())).unwrap(), before);
    assert_eq!(set_aside(dir.path()), [""; 0]);
}

#[test]
fn damage_met_while_running_is_set_aside_by_reopen() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let mut journal = open(dir.path());
    let producer = journal.producer().to_owned();
    // Another process's commit makes the journal forget the pages it has in memory.
    let other = Connection::open(database(dir.path())).unwrap();
    other.execute("INSERT INTO meta VALUES ('note', '')", []).unwrap();
    // Every page but the first: whichever the commit reads next is damaged.
    let pages = fs::metadata(database(dir.path())).unwrap().len() / 4096;
    overwrite(&database(dir.path()), 4096, &vec![0xA5; usize::try_from(pages - 1).unwrap() * 4096]);
    let error = journal.commit(&commit(201, 50)).unwrap_err();
    assert!(
        matches!(&error, CommitError::Failed(source) if source.kind() == std::io::ErrorKind::InvalidData),
        "{error:?}"
    );
    assert!(matches!(journal.commit(&commit(201, 50)), Err(CommitError::Closed)));
    assert!(matches!(journal.restore(), Err(ReadError::Closed)));
    journal.reopen().unwrap();
    assert!(journal.set_aside().is_some());
    assert_ne!(journal.producer(), producer);
    assert!(matches!(journal.commit(&commit(201, 50)), Err(CommitError::Gap { expected: 1, given: 201 })));
    append(&mut journal, 2);
    assert_history(dir.path(), 1, 2);
}
