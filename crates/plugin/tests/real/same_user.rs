//! What a plugin tries that runs as the daemon's own user, as all do where the daemon is not root. The kernel would let
//! it change every file and process of that user.

use std::fs;
use std::os::unix::fs::MetadataExt;

use autoweave_usb_plugin::sandbox::landlock_abi;

use crate::escape::{EPERM, check, hostile_as, identities, place, tried};

const ATTRIBUTES: &str = r#"
    "mode": lambda: os.chmod(at("journal.db"), 0), "mode at": lambda: os.chmod("journal.db", 0, dir_fd=os.open(PLACE, os.O_PATH)),
    "mode of a directory": lambda: os.chmod(PLACE, 0), "mode by number": lambda: call(452, -100, JOURNAL, 0, 0),
    "owner": lambda: os.chown(at("journal.db"), -1, -1), "owner of a link": lambda: os.lchown(at("journal.db"), -1, -1),
    "times": lambda: os.utime(at("journal.db"), (1, 1)), "attribute": lambda: os.setxattr(at("journal.db"), "user.x", b"x"),
    "no attribute": lambda: os.removexattr(at("journal.db"), "user.x"), "attribute at": lambda: call(463, -100, JOURNAL, 0, 0, 0, 0),
    "flags": lambda: call(469, -100, JOURNAL, 0, 0, 0),
    "neither read nor written": lambda: os.fchmod(os.open(at("journal.db"), 3), 0),
    "through what may be read": lambda: os.fchmod(os.open(__file__, os.O_RDONLY), 0),
    "times of what may be read": lambda: os.utime(os.open(__file__, os.O_RDONLY), (1, 1)),
"#;

/// So that system calls can be made with the path's address.
fn with_journal(tries: &str) -> String {
    format!(
        "**(globals().update(PATH=os.fsencode(at('journal.db'))) or globals().update(JOURNAL=ctypes.cast(ctypes.c_char_p(PATH), ctypes.c_void_p).value) or {{}}), {tries}"
    )
}

#[test]
fn modes_owners_times_and_attributes_of_files_stay_as_they_are() {
    for identity in identities() {
        let (_place, path) = place();
        let plugin = hostile_as(identity, &path, "{}", &with_journal(ATTRIBUTES));
        let before = fs::metadata(path.join("journal.db")).unwrap();
        let names = [
            "mode",
            "mode at",
            "mode of a directory",
            "mode by number",
            "owner",
            "owner of a link",
            "times",
            "attribute",
            "no attribute",
            "attribute at",
            "flags",
            "neither read nor written",
            "through what may be read",
            "times of what may be read",
        ];
        check(&tried(&plugin, &plugin.launch), &names.map(|name| (name, Err(EPERM))));
        let after = fs::metadata(path.join("journal.db")).unwrap();
        let of =
            |file: &fs::Metadata| (file.mode(), file.uid(), file.gid(), file.mtime_nsec(), file.ctime_nsec());
        assert_eq!(of(&before), of(&after));
    }
}

#[test]
fn what_may_be_written_may_have_its_mode_and_times_changed() {
    for identity in identities() {
        let (_place, path) = place();
        let permissions =
            format!(r#"{{"filesystem": [{{"path": "{}/granted", "mode": "readwrite"}}]}}"#, path.display());
        let tries = r#"
            "mode": lambda: os.fchmod(os.open(at("granted/new"), os.O_CREAT | os.O_WRONLY), 0o600),
            "times": lambda: os.utime(os.open(at("granted/new"), os.O_RDONLY), (1, 1)), "by name": lambda: os.chmod(at("granted/new"), 0o644),
            "neither read nor written": lambda: os.fchmod(os.open(at("journal.db"), 3), 0),
            "large": lambda: os.truncate(os.open(at("granted/new"), os.O_WRONLY), 1 << 30),
            "too large": lambda: os.truncate(os.open(at("granted/new"), os.O_WRONLY), (1 << 30) + 1),
        "#;
        let plugin = hostile_as(identity, &path, &permissions, tries);
        check(
            &tried(&plugin, &plugin.launch),
            &[
                ("mode", Ok(())),
                ("times", Ok(())),
                ("by name", Err(EPERM)),
                ("neither read nor written", Err(EPERM)),
                ("large", Ok(())),
                ("too large", Err(libc::EFBIG)),
            ],
        );
    }
}

/// The numbers are x86-64's.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_daemons_processor_and_input_and_output_stay_its_own() {
    assert!(landlock_abi() >= 6, "this test takes a kernel that keeps signals inside");
    let tries = r#"
        "niceness": lambda: os.setpriority(os.PRIO_PROCESS, parent, 19), "of a group": lambda: os.setpriority(os.PRIO_PGRP, os.getpgid(parent), 19),
        "of the user": lambda: os.setpriority(os.PRIO_USER, 0, 19), "own": lambda: os.setpriority(os.PRIO_PROCESS, 0, 19),
        "processors": lambda: os.sched_setaffinity(parent, {0}), "own processors": lambda: os.sched_setaffinity(0, {0}),
        "class": lambda: os.sched_setscheduler(parent, os.SCHED_IDLE, os.sched_param(0)),
        "parameters": lambda: os.sched_setparam(parent, os.sched_param(0)), "attributes": lambda: call(314, parent, 0, 0),
        "i/o": lambda: call(251, 1, parent, 0x6000), "i/o of the user": lambda: call(251, 3, 0, 0x6000), "own i/o": lambda: call(251, 1, 0, 0x6000),
        "pages": lambda: call(279, parent, 0, 0, 0, 0, 0), "all pages": lambda: call(256, parent, 0, 0, 0),
        "thread": lambda: tgkill(parent), "queue": lambda: queue(parent),
        "attach memory": lambda: call(30, 0, 0, 0), "remove memory": lambda: call(31, 0, 0, 0), "semaphore": lambda: call(66, 0, 0, 0),
        "message": lambda: call(70, 0, 0, 0, 0, 0),
    "#;
    for identity in identities() {
        let (_place, path) = place();
        let plugin = hostile_as(identity, &path, "{}", tries);
        let results = tried(&plugin, &plugin.launch);
        let own = ["own", "own processors", "own i/o"];
        let (fine, refused): (Vec<_>, Vec<_>) =
            results.into_iter().partition(|(name, _)| own.contains(&name.as_str()));
        assert_eq!(fine.len(), own.len());
        assert!(fine.iter().all(|(_, result)| result.is_ok()), "{fine:?}");
        assert_eq!(refused.len(), 17);
        assert!(refused.iter().all(|(_, result)| *result == Err(EPERM)), "{refused:?}");
    }
}
