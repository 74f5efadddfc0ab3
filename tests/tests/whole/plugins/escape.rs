//! A plugin of a running daemon that tries to get at the daemon and the machine.

use std::fs;

use autoweave_usb_testbus::{Bus, Device};

use super::bed::{Bed, pairs};
use crate::harness::Daemon;

/// Each try, and how it ended, in a line of its own.
const HOSTILE: &str = r#"
import ctypes, os, signal, socket

def connect(family, address):
    socket.socket(family, socket.SOCK_STREAM).connect(address)

def ptrace(process):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, process, None, None) != 0:  # PTRACE_ATTACH
        raise OSError(ctypes.get_errno(), "ptrace")

def attach(event, context):
    daemon = DAEMON
    tries = {
        "shadow": lambda: open("/etc/shadow").read(),
        "journal": lambda: open("STATE/journal.db").read(1),
        "list": lambda: os.listdir("STATE"),
        "write": lambda: open("STATE/mine", "w"),
        "other": lambda: open("OUT/../mine", "w"),
        "http": lambda: connect(socket.AF_INET, ("127.0.0.1", 8080)),
        "unix": lambda: connect(socket.AF_UNIX, "RUNTIME/notify.sock"),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15),
        "signal": lambda: os.kill(daemon, signal.SIGTERM),
        "ptrace": lambda: ptrace(daemon),
        "memory": lambda: open(f"/proc/{daemon}/mem", "rb"),
        "environment": lambda: open(f"/proc/{daemon}/environ", "rb").read(),
        "device": lambda: os.open("/dev/bus/usb/001/001", os.O_RDWR),
        "disk": lambda: os.open("/dev/kmsg", os.O_RDONLY),
    }
    with open("OUT/tries", "a") as out:
        for name, attempt in tries.items():
            try:
                attempt()
                out.write(f"{name} succeeded\n")
            except Exception as error:
                out.write(f"{name} refused: {error}\n")
        out.write("end\n")

def detach(event, context): pass
"#;

const TRIES: usize = 14;

#[test]
fn every_try_is_refused_and_the_daemon_goes_on() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let (bed, runtime) = (Bed::new(), tempfile::tempdir().unwrap());
    let out = bed.out();
    let code = HOSTILE
        .replace("STATE", bed.state.path().to_str().unwrap())
        .replace("RUNTIME", runtime.path().to_str().unwrap())
        .replace("OUT", out.to_str().unwrap());
    bed.shell("well", "note; ok");
    // That others may not look into it would not be the sandbox's merit.
    fs::set_permissions(bed.state.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let env = bed.env();
    let more = [("RUNTIME_DIRECTORY", runtime.path().to_str().unwrap())];
    let daemon = Daemon::start(&bus, &bed.state, &[&pairs(&env), &more[..]].concat());
    bed.python("hostile", &code.replace("DAEMON", &daemon.daemon_pid().to_string()));
    bus.plug("1-1", &Device::storage("A")).unwrap();
    let tried = || fs::read_to_string(out.join("tries")).unwrap_or_default();
    daemon.wait_until("both events are tried", || tried().matches("end\n").count() == 2);
    let tried = tried();
    assert!(!tried.contains("succeeded"), "{tried}");
    let refused = ["refused: [Errno 1] ", "refused: [Errno 13] "];
    let count: usize = refused.iter().map(|words| tried.matches(words).count()).sum();
    assert_eq!(count, 2 * TRIES, "EPERM or EACCES for each: {tried}");
    daemon.wait_until("others hear", || bed.heard("well").iter().any(|heard| heard.seq == 2));
    daemon.stop();
}
