//! Configuration files in the usual places that whoever runs a command may not read.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::{assert_has, small_bus};
use crate::program::{NOBODY, Unprivileged, finish, has_user};

const MACHINES: &str = "/etc/autoweave/usbd.toml";

/// Writes a file that only its owner may read, and enter the directory of.
fn lock_away(file: &Path) {
    let directory = file.parent().unwrap();
    fs::create_dir_all(directory).unwrap();
    fs::write(file, "redis.port = 0\n").unwrap();
    fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(directory, Permissions::from_mode(0o700)).unwrap();
}

/// Covers `/etc` for the calling thread and what it starts.
fn cover_etc() {
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    fs::create_dir("/run/upper").unwrap();
    fs::create_dir("/run/work").unwrap();
    let layers = "lowerdir=/etc,upperdir=/run/upper,workdir=/run/work";
    mount(Some("overlay"), "/etc", Some("overlay"), MsFlags::empty(), Some(layers)).unwrap();
}

#[test]
fn what_nobody_asked_for_by_name_and_may_not_be_read_is_passed_over_but_not_by_a_daemon_of_the_machine() {
    if !has_user(NOBODY) {
        eprintln!("SKIPPED: there is no other user here");
        return;
    }
    let _bus = small_bus();
    cover_etc();
    let user = Unprivileged::new();
    let own = user.home.path().join("autoweave/usbd.toml");
    let run = |words: &[&str]| finish(user.command().args(words));
    let warnings = |stderr: &str| stderr.matches("cannot be read: Permission denied").count();

    lock_away(&own);
    for words in [&["devices", "--json"][..], &["check"]] {
        let ended = run(words);
        assert_ne!(ended.code(), 64, "{}", ended.stderr);
        assert_eq!(warnings(&ended.stderr) + warnings(&ended.stdout), 1, "{}", ended.stderr);
        assert_has(&[&*ended.stderr, &ended.stdout].concat(), &[own.to_str().unwrap(), "passed over"]);
    }
    // The daemon, too: what stops it here is the port, and it comes long after the configuration.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut daemon = user.command();
    daemon.env("AUTOWEAVE_USB__MONITORING__HEALTHCHECK_PORT", port).args(["run", "--source", "poll"]);
    finish(&mut daemon).fails(69, &[own.to_str().unwrap(), "passed over", "healthcheck_port"]);

    lock_away(Path::new(MACHINES));
    fs::remove_dir_all(own.parent().unwrap()).unwrap();
    for words in [&["devices", "--json"][..], &["check"], &["install", "--dry-run"]] {
        let ended = run(words);
        assert_ne!(ended.code(), 64, "{}", ended.stderr);
        assert_has(&[&*ended.stderr, &ended.stdout].concat(), &[MACHINES, "passed over"]);
    }
    for words in [&["run"][..], &["run", "--role", "plugins"], &["device-plugin"]] {
        run(words).fails(64, &[MACHINES, "cannot be read: Permission denied", "--config"]);
    }
    run(&["devices", "--config", MACHINES]).fails(64, &[MACHINES, "cannot be read: Permission denied"]);
    let mut named = user.command();
    finish(named.env("AUTOWEAVE_USB_CONFIG", MACHINES).arg("devices")).fails(64, &[MACHINES]);
}
