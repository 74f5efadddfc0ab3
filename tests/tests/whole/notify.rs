//! What the udev helper leaves for the daemon: a datagram, or a file in the spool; and never an error for udev.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{PATIENCE, command, executable, is_in_user_namespace, wait_until};
use crate::program::{Finished, Running, Unprivileged, files, finish};

const DEVPATH: &str = "/devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1.2";
const UEVENT: &[(&str, &str)] = &[
    ("ACTION", "add"),
    ("BUSNUM", "001"),
    ("DEVNUM", "005"),
    ("DEVPATH", DEVPATH),
    ("DEVTYPE", "usb_device"),
    ("PRODUCT", "46d/c52b/1201"),
    ("SUBSYSTEM", "usb"),
    ("TYPE", "0/0/0"),
];

/// Directories of a daemon, and the program under the helper's name.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("run")).unwrap();
        symlink(executable(), directory.path().join("autoweave-udev-notify")).unwrap();
        Self { directory }
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn spool(&self) -> PathBuf {
        self.state().join("spool")
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("run/notify.sock")
    }

    fn listen(&self) -> UnixDatagram {
        let socket = UnixDatagram::bind(self.socket()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    fn environment(&self, command: &mut Command) {
        command.env_clear().stdin(Stdio::null());
        command.env("STATE_DIRECTORY", self.state());
        command.env("RUNTIME_DIRECTORY", self.directory.path().join("run"));
    }

    fn helper(&self) -> Command {
        let mut command = Command::new(self.directory.path().join("autoweave-udev-notify"));
        self.environment(&mut command);
        command
    }

    /// `autoweave-usbd notify`, by hand.
    fn by_hand(&self, arguments: &[&str]) -> Finished {
        let mut command = command(&[]);
        self.environment(&mut command);
        finish(command.arg("notify").args(arguments))
    }

    fn spooled(&self) -> Vec<Value> {
        let names = files(&self.spool());
        names.iter().map(|name| read(&self.spool().join(name))).collect()
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

fn received(socket: &UnixDatagram) -> Value {
    let mut bytes = [0; 8192];
    let length = socket.recv(&mut bytes).unwrap();
    assert!(length <= 4096);
    serde_json::from_slice(&bytes[..length]).unwrap()
}

/// Nothing more is there to be received.
fn is_drained(socket: &UnixDatagram) -> bool {
    socket.set_nonblocking(true).unwrap();
    socket.recv(&mut [0; 1]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

#[test]
fn a_daemon_that_listens_gets_a_datagram_and_no_file_is_left() {
    let place = Place::new();
    let socket = place.listen();
    let uevent = [UEVENT, &[("SEQNUM", "4711")]].concat();
    finish(place.helper().args(["add", "1-1.2"]).envs(uevent)).ok();
    let told = received(&socket);
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let expected = json!({
        "version": 1, "action": "add", "port": "1-1.2", "devpath": DEVPATH, "address": 5, "vendor_id": "046d",
        "product_id": "c52b", "class": 0, "seqnum": 4711, "boot_id": boot_id.trim(), "timestamp": told["timestamp"],
    });
    assert_eq!(told, expected);

    // As the specification's rules call it, at a remove without attributes.
    finish(place.helper().args(["remove", "1-1.2", "", ""]).envs(UEVENT.iter().copied())).ok();
    assert_eq!(received(&socket)["product_id"], "c52b");
    assert_eq!(place.by_hand(&["remove", "usb1", "1d6b", "0002"]).ok().stderr, "");
    let told = received(&socket);
    assert_eq!([&told["action"], &told["port"], &told["vendor_id"]], ["remove", "usb1", "1d6b"]);
    assert!(is_drained(&socket) && !place.state().exists());
}

#[test]
fn without_a_daemon_files_wait_in_order() {
    let place = Place::new();
    for (seqnum, port) in [("100", "1-3"), ("9", "1-2"), ("8", "1-1")] {
        finish(place.helper().args(["add", port]).env("SEQNUM", seqnum)).ok();
    }
    // The socket of a daemon that has ended.
    drop(place.listen());
    let by_hand = place.by_hand(&["remove", "1-1"]).ok();
    assert!(by_hand.stderr.contains(place.spool().to_str().unwrap()), "{}", by_hand.stderr);
    let ports: Vec<_> = place.spooled().iter().map(|told| told["port"].clone()).collect();
    assert_eq!(ports, ["1-1", "1-2", "1-3", "1-1"]);

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&place.spool()), 0o750);
    for name in files(&place.spool()) {
        assert_eq!(mode(&place.spool().join(name)), 0o640);
    }
}

#[test]
fn a_full_socket_overflows_into_the_spool() {
    let place = Place::new();
    let socket = place.listen();
    let mut sent = 0;
    wait_until("the socket is full", || {
        sent += 1;
        finish(place.helper().args(["add", "1-1"])).ok();
        place.spool().exists()
    });
    let told = (1..sent).map(|_| received(&socket)).filter(|told| told["port"] == "1-1").count();
    assert!(is_drained(&socket));
    assert_eq!(told + place.spooled().len(), sent);
}

#[test]
fn parallel_helpers_leave_whole_files_each() {
    const HELPERS: usize = 50;
    let place = Place::new();
    let start = |number: usize| {
        let seqnum = (1000 - number).to_string();
        let port = format!("1-{}", number + 1);
        let mut helper = place.helper();
        Running::start(helper.args(["add", &port]).env("SEQNUM", seqnum))
    };
    let mut helpers: Vec<Running> = (0..HELPERS).map(start).collect();
    // A file with its final name is whole, whenever one looks.
    wait_until("all helpers have ended", || {
        if place.spool().exists() {
            let names = files(&place.spool()).into_iter().filter(|name| !name.starts_with('.'));
            names.for_each(|name| drop(read(&place.spool().join(name))));
        }
        helpers.iter_mut().all(|helper| !helper.is_running())
    });
    for helper in &mut helpers {
        assert_eq!(helper.wait().ok().stderr, "");
    }
    let told = place.spooled();
    let seqnums: Vec<u64> = told.iter().map(|told| told["seqnum"].as_u64().unwrap()).collect();
    assert!(seqnums.len() == HELPERS && seqnums.is_sorted(), "{seqnums:?}");
}

#[test]
fn hostile_callers_get_a_line_on_stderr_and_udev_gets_0() {
    let place = Place::new();
    let long = OsString::from("x".repeat(120_000));
    let bytes = OsString::from_vec(b"1-1\xff\x1b[2J".to_vec());
    let word = |text: &str| OsString::from(text);
    // The kernel lets a program have no single argument of 128 KiB (MAX_ARG_STRLEN), but many.
    let megabyte = vec![long.clone(); 9];
    for arguments in [
        vec![],
        vec![word("add")],
        vec![word("--help")],
        vec![word("change"), word("1-1")],
        vec![word("add"), word("1-1:1.0")],
        vec![word("add"), word("../../etc/passwd")],
        vec![word("add"), bytes.clone()],
        vec![bytes.clone(), word("1-1")],
        vec![word("add"), long.clone()],
        vec![word("add"), word("1-1"), long.clone(), long.clone()],
        vec![word("add"), word("1-1"), bytes.clone(), word("1")],
        megabyte,
    ] {
        let ended = finish(place.helper().args(&arguments)).ok();
        assert!(ended.stderr.starts_with("autoweave-udev-notify: "), "{}", ended.stderr);
        assert!(ended.stderr.len() < 300 && !ended.stderr.contains('\x1b'), "{}", ended.stderr);
    }
    assert!(!place.state().exists());

    let hostile = ["DEVPATH", "PRODUCT", "DEVNUM", "TYPE", "SEQNUM"]
        .into_iter()
        .flat_map(|name| [&long, &bytes].map(|value| (name, value.clone())));
    for (name, value) in hostile {
        finish(place.helper().args(["add", "1-1"]).env(name, value)).ok();
    }
    let told = place.spooled();
    assert_eq!(told.len(), 10);
    assert!(told.iter().all(|told| told.as_object().unwrap().len() == 5), "{told:?}");
}

#[test]
fn udev_gets_0_where_nothing_can_be_written() {
    // A read-only file system, which stops root, too.
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    let place = Place::new();
    fs::create_dir(place.state()).unwrap();
    let read_only = MsFlags::MS_RDONLY;
    mount(Some("tmpfs"), &place.state(), Some("tmpfs"), read_only, None::<&str>).unwrap();
    let says = |ended: Finished| {
        let spool = place.spool().display().to_string();
        assert!(ended.stderr.contains(&spool) && ended.stderr.contains("Read-only"), "{}", ended.stderr);
    };
    says(finish(place.helper().args(["add", "1-1"])).ok());
    let by_hand = place.by_hand(&["add", "1-1"]);
    assert_eq!(by_hand.code(), 73);
    says(by_hand);

    let full = File::options().write(true).open("/dev/full").unwrap();
    let status = place.helper().args(["add", "1-1"]).stderr(full).status().unwrap();
    assert!(status.success(), "{status}");
    let nowhere = Command::new(place.directory.path().join("autoweave-udev-notify"))
        .env_clear()
        .env("STATE_DIRECTORY", "/proc/nowhere")
        .stderr(Stdio::null())
        .status();
    assert!(nowhere.unwrap().success());
}

#[test]
fn a_user_without_privileges_has_a_spool_of_its_own() {
    if is_in_user_namespace() {
        println!("SKIPPED: there is no other user to be");
        return;
    }
    let user = Unprivileged::new();
    finish(user.command().args(["notify", "add", "1-1"])).ok();
    let spool = user.home.path().join("autoweave-usb/spool");
    assert_eq!(files(&spool).len(), 1);
    fs::set_permissions(&spool, Permissions::from_mode(0o000)).unwrap();
    finish(user.command().args(["notify", "add", "1-1"])).fails(73, &["spool", "Permission denied"]);
}

#[test]
fn wrong_usage_by_hand_ends_with_64() {
    let place = Place::new();
    for (arguments, words) in [
        (&[][..], &["ACTION", "DEVICE"][..]),
        (&["add"], &["DEVICE"]),
        (&["add", "1-1", "046d"], &["PRODUCT"]),
        (&["add", "1-1", "046d", "c52b", "more"], &["more"]),
        (&["bind", "1-1"], &["bind", "add or remove"]),
        (&["add", "sda"], &["sda", "1-1.2"]),
        (&["add", "1-1", "046d", "usb"], &["usb", "hexadecimal"]),
    ] {
        place.by_hand(arguments).fails(64, words);
    }
    assert!(!place.state().exists());
}

#[test]
fn the_helper_does_not_wait() {
    const LIMIT: Duration = Duration::from_secs(2);
    let place = Place::new();
    // Nobody reads from it, and a pipe stands where the spool counts.
    let _socket = place.listen();
    fs::create_dir_all(place.spool()).unwrap();
    let overflow = place.spool().join("overflow");
    assert!(Command::new("mkfifo").arg(&overflow).status().unwrap().success());
    for number in 0..10_000 {
        File::create(place.spool().join(number.to_string())).unwrap();
    }
    for _ in 0..20 {
        let started = std::time::Instant::now();
        let helper = place.helper().arg(OsStr::new("add")).arg("1-1").stderr(Stdio::null()).status().unwrap();
        assert!(helper.success() && started.elapsed() < LIMIT, "{:?}", started.elapsed());
    }
}
