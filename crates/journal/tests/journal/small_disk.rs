//! Full and read-only disks: tmpfs in a mount namespace of its own, so nothing outside sees it.
//!
//! Needs util-linux `unshare` and root or unprivileged user namespaces; without them these tests fail.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Command;

use autoweave_usb_journal::{CommitError, Durability, Journal, OpenError, Options};

use crate::support::{PROCESS, append, assert_history, commit, given_dir, is_root, open};

const PAGE: u64 = 4096;

/// Runs the test `name` again with a tmpfs of `size` mounted where [`given_dir`] points.
fn on_small_disk(name: &str, size: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.arg(if is_root(dir.path()) { "-m" } else { "-rm" });
    command.args(["sh", "-c", r#"mount -t tmpfs -o size="$0" tmpfs "$JOURNAL_TEST_DIR" && exec "$@""#, size]);
    command.arg(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]);
    let output =
        command.env("JOURNAL_TEST_DIR", dir.path()).output().expect("util-linux unshare is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Takes all space of the disk but `pages` pages.
fn fill(dir: &Path, pages: u64) {
    let mut filler = OpenOptions::new().create(true).append(true).open(dir.join("filler")).unwrap();
    while filler.write_all(&[0; 4096]).is_ok() {}
    let length = filler.metadata().unwrap().len() / PAGE * PAGE;
    filler.set_len(length.saturating_sub(pages * PAGE)).unwrap();
}

fn free(dir: &Path) {
    fs::remove_file(dir.join("filler")).unwrap();
}

#[test]
fn full_at_open() {
    let Some(dir) = given_dir() else { return on_small_disk("small_disk::full_at_open", "2m") };
    let mut failures = 0;
    for pages in 0..60 {
        fill(&dir, pages);
        let result = Journal::open(&dir.join("state"), PROCESS).map(|_| ());
        free(&dir);
        if let Err(error) = result {
            let OpenError::Unusable { source, .. } = &error else { panic!("{pages}: {error}") };
            assert_eq!(source.kind(), ErrorKind::StorageFull, "{pages} pages: {error}: {source}");
            assert!(error.to_string().contains("free some space"), "{error}");
            failures += 1;
        }
        let mut journal = open(&dir.join("state"));
        assert_eq!(journal.set_aside(), None);
        append(&mut journal, 1);
        assert_history(&dir.join("state"), 1, 1);
        drop(journal);
        fs::remove_dir_all(dir.join("state")).unwrap();
    }
    assert!((10..60).contains(&failures), "{failures}");
}

/// Each page the disk has left is one more write that succeeds before one fails.
#[test]
fn full_at_every_nth_write() {
    let Some(dir) = given_dir() else { return on_small_disk("small_disk::full_at_every_nth_write", "16m") };
    let (mut failures, mut refused) = (0, 0);
    for durability in [Durability::Power, Durability::Process] {
        let state = dir.join(format!("{durability:?}"));
        for pages in 0..80 {
            let options = Options { durability, max_events: 500 };
            let mut journal = Journal::open(&state, options).unwrap();
            fill(&dir, pages);
            for _ in 0..30 {
                let next = commit(journal.last_seq() + 1, 12);
                let Err(error) = journal.commit(&next) else { continue };
                let CommitError::Failed(source) = &error else { panic!("{error}") };
                assert_eq!(source.kind(), ErrorKind::StorageFull, "{source}");
                assert!(matches!(journal.commit(&next), Err(CommitError::Closed)));
                failures += 1;
                refused += u32::from(journal.reopen().is_err());
                free(&dir);
                journal.reopen().unwrap();
                assert_eq!(journal.set_aside(), None);
                journal.commit(&next).unwrap();
                break;
            }
            fs::remove_file(dir.join("filler")).ok();
            let last = journal.last_seq();
            assert_history(&state, last.saturating_sub(500) + 1, last);
            // Alternately a clean end and an end that leaves a log to recover.
            if pages % 2 == 0 {
                journal.close().unwrap();
            }
        }
    }
    println!("{failures} commits failed, {refused} reopens while the disk was full");
    assert!(failures > 40, "{failures}");
}

#[test]
fn read_only() {
    let Some(dir) = given_dir() else { return on_small_disk("small_disk::read_only", "4m") };
    let state = dir.join("state");
    let mut journal = open(&state);
    append(&mut journal, 4);
    journal.close().unwrap();
    let remount = |mode: &str| {
        assert!(
            Command::new("mount")
                .args(["-o", &format!("remount,{mode}")])
                .arg(&dir)
                .status()
                .unwrap()
                .success()
        );
    };
    remount("ro");
    for path in [&state, &dir.join("other")] {
        let error = Journal::open(path, PROCESS).unwrap_err();
        let OpenError::Unusable { source, .. } = &error else { panic!("{error}") };
        assert_eq!(source.kind(), ErrorKind::ReadOnlyFilesystem);
        assert!(error.to_string().contains("read-only") && error.source().is_some(), "{error}");
    }
    assert_history(&state, 1, 4);
    remount("rw");
    append(&mut open(&state), 1);
    assert_history(&state, 1, 5);
}

#[test]
fn a_lock_file_fits_on_a_full_disk_that_has_one() {
    let Some(dir) = given_dir() else {
        return on_small_disk("small_disk::a_lock_file_fits_on_a_full_disk_that_has_one", "1m");
    };
    open(&dir).close().unwrap();
    fill(&dir, 0);
    let error = Journal::open(&dir, PROCESS).unwrap_err();
    assert!(
        matches!(&error, OpenError::Unusable { source, .. } if source.kind() == ErrorKind::StorageFull),
        "{error}"
    );
    assert!(fs::read_to_string(dir.join("journal.lock")).unwrap().trim().parse::<u32>().is_ok());
    File::open(dir.join("journal.db")).unwrap();
}
