//! A writer that is killed at any moment loses nothing it acknowledged and leaves no half of a commit.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use autoweave_usb_journal::{Durability, Journal, Options};

use crate::support::{assert_history, commit, given_dir, this_test};

const ROUNDS: u64 = 30;
/// Small, so that retention runs in most commits.
const MAX_EVENTS: u64 = 400;

#[test]
fn kill_nine_at_random_moments() {
    if let Some(dir) = given_dir() {
        write_until_killed(&dir);
    }
    let dir = tempfile::tempdir().unwrap();
    let seed = RandomState::new().hash_one("seed");
    println!("seed {seed}");
    let mut random = seed | 1;
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        random = next_random(random);
        acknowledged = run_and_kill(dir.path(), random % 60, acknowledged);
        let durability = if round % 2 == 0 { Durability::Power } else { Durability::Process };
        let journal = Journal::open(dir.path(), Options { durability, max_events: MAX_EVENTS }).unwrap();
        assert_eq!(journal.set_aside(), None);
        let last = journal.last_seq();
        assert!(last >= acknowledged, "acknowledged {acknowledged}, found {last}");
        assert_history(dir.path(), last.saturating_sub(MAX_EVENTS) + 1, last);
        if last > 0 {
            assert_eq!(journal.meta("boot_id").unwrap(), Some(format!("boot {last}")));
        }
        // Every third time the next writer finds the log of the killed one.
        if round % 3 != 0 {
            journal.close().unwrap();
        }
    }
    assert!(acknowledged > 0);
}

/// Kills the writer once it has acknowledged `lines` commits; returns the last sequence number acknowledged.
fn run_and_kill(dir: &Path, lines: u64, before: u64) -> u64 {
    let mut child =
        this_test("crash::kill_nine_at_random_moments", dir).stdout(Stdio::piped()).spawn().unwrap();
    let mut acknowledged = before;
    let mut count = 0;
    let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
    if lines == 0 {
        child.kill().unwrap();
    }
    // The lines that are read after the kill were written before it.
    for line in output.lines() {
        let Some(seq) = line.unwrap().strip_prefix("committed ").map(|seq| seq.parse().unwrap()) else {
            continue;
        };
        acknowledged = seq;
        count += 1;
        if count == lines {
            child.kill().unwrap();
        }
    }
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
    acknowledged
}

fn write_until_killed(dir: &Path) -> ! {
    let durability =
        if std::process::id().is_multiple_of(2) { Durability::Power } else { Durability::Process };
    let mut journal = Journal::open(dir, Options { durability, max_events: MAX_EVENTS }).unwrap();
    let mut random = u64::from(std::process::id()) | 1;
    println!();
    loop {
        random = next_random(random);
        journal.commit(&commit(journal.last_seq() + 1, random % 20)).unwrap();
        if random % 20 > 0 {
            println!("committed {}", journal.last_seq());
        }
    }
}

/// Xorshift; good enough to scatter moments and sizes.
fn next_random(mut random: u64) -> u64 {
    random ^= random << 13;
    random ^= random >> 7;
    random ^ (random << 17)
}
