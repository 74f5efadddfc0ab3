//! What a hostile plugin tries, each by itself, and what comes of it.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

use autoweave_usb_plugin::launch::{Host, Launch, LaunchFault};
use autoweave_usb_plugin::package::Package;
use autoweave_usb_plugin::protocol::Verdict;
use autoweave_usb_plugin::sandbox::{Identity, landlock_abi};
use autoweave_usb_plugin::worker::Worker;

use crate::support::{self, Plugin, attach};

/// Tries one thing after the other and logs `NAME: ok` or `NAME: errno`.
const TRIES: &str = r#"
import ctypes, fcntl, os, resource, signal, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
def call(*numbers):
    if libc.syscall(*[ctypes.c_long(n) for n in numbers]) < 0:
        raise OSError(ctypes.get_errno(), "")
def at(name): return os.path.join(PLACE, name)
def connect(family, address, kind=socket.SOCK_STREAM, protocol=0):
    with socket.socket(family, kind, protocol) as s: s.settimeout(3); s.connect(address)
def paired(address):
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); a.sendto(b"x", address)
def listen():
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); s.listen()
def listen_unbound():
    with socket.socket() as s: s.listen()
def fast_open(port):
    with socket.socket() as s: s.sendto(b"x", 0x20000000, ("127.0.0.1", port))
def tgkill(pid): call({"x86_64": 234, "aarch64": 131}[os.uname().machine], pid, pid, 0)
def queue(pid):
    info = ctypes.create_string_buffer(struct.pack("iii", 0, 0, -1), 128)
    call({"x86_64": 297, "aarch64": 240}[os.uname().machine], pid, pid, 0, ctypes.addressof(info))
def limits(pid): resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, 1))
def write(path):
    with open(path, "w") as f: f.write("x")
def run(path):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o755))
    if os.posix_spawn(path, [path], {}): pass
def mapped(flags, size=300 << 20):
    libc.mmap.restype = ctypes.c_void_p
    if libc.mmap(None, ctypes.c_size_t(size), 3, flags, -1, ctypes.c_long(0)) == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "")
def attach(event, context):
    for name, attempt in TRIES(LOADER).items():
        try: attempt(); result = "ok"
        except OSError as error: result = error.errno
        context["log"]("info", f"{name}: {result}")
def detach(event, context): pass
"#;

pub(crate) const EPERM: i32 = libc::EPERM;
pub(crate) const EACCES: i32 = libc::EACCES;

/// Runs the tries, which are a Python dictionary, and returns what came of each.
pub(crate) fn tried(plugin: &Plugin, launch: &Launch) -> Vec<(String, Result<(), i32>)> {
    let log = std::sync::Arc::clone(&plugin.log);
    let sink = Box::new(move |line| log.lock().unwrap().push(line));
    let mut worker = Worker::start(launch, support::DEADLINES, sink).unwrap();
    assert_eq!(worker.deliver(&attach(1), 1).unwrap(), Verdict::Done, "{:?}", plugin.logged());
    worker.shut_down().unwrap();
    let read = |line: String| {
        let (name, result) = line.rsplit_once(": ")?;
        let result = if result == "ok" { Ok(()) } else { Err(result.parse().ok()?) };
        Some((name.to_owned(), result))
    };
    plugin.logged().into_iter().filter_map(read).collect()
}

/// A plugin that tries them on the loader, which is this process, and runs as `identity`.
pub(crate) fn hostile_as(identity: Option<Identity>, place: &Path, permissions: &str, tries: &str) -> Plugin {
    let (place, loader) = (place.to_str().unwrap(), std::process::id());
    let code = format!("PLACE = {place:?}\nLOADER = {loader}\n{TRIES}\nTRIES = lambda parent: {{{tries}}}\n");
    Plugin::for_host("main.py", &code, permissions, &Host { identity, ..support::host() })
}

fn hostile(place: &Path, permissions: &str, tries: &str) -> Plugin {
    hostile_as(Identity::default_for_loader(), place, permissions, tries)
}

/// Who plugins are run as: by a root's daemon, and by anybody else's, where it is not the user that keeps them from
/// the daemon's files and processes.
pub(crate) fn identities() -> [Option<Identity>; 2] {
    [None, Identity::default_for_loader()]
}

/// Files and directories that everybody may read and write: it is the sandbox that refuses.
pub(crate) fn place() -> (tempfile::TempDir, PathBuf) {
    let place = support::directory();
    let path = fs::canonicalize(place.path()).unwrap();
    for directory in ["granted", "looked", "other"] {
        fs::create_dir(path.join(directory)).unwrap();
        fs::set_permissions(path.join(directory), fs::Permissions::from_mode(0o777)).unwrap();
    }
    for file in ["journal.db", "device", "other-device", "looked/file", "other/file"] {
        fs::write(path.join(file), "content").unwrap();
        fs::set_permissions(path.join(file), fs::Permissions::from_mode(0o666)).unwrap();
    }
    symlink(path.join("other"), path.join("link")).unwrap();
    (place, path)
}

pub(crate) fn check(results: &[(String, Result<(), i32>)], expected: &[(&str, Result<(), i32>)]) {
    let wrong: Vec<_> = expected
        .iter()
        .filter(|(name, result)| !results.iter().any(|(tried, found)| tried == name && found == result))
        .collect();
    assert!(wrong.is_empty(), "expected {wrong:?} of {results:?}");
    assert_eq!(results.len(), expected.len());
}

const FILES: &str = r#"
        "shadow": lambda: open("/etc/shadow"), "passwd": lambda: open("/etc/passwd"),
        "journal": lambda: open(at("journal.db")), "truncate": lambda: os.truncate(at("journal.db"), 0),
        "remove": lambda: os.remove(at("other/file")), "list": lambda: os.listdir("/"),
        "write outside": lambda: write(at("other/new")), "write package": lambda: write(__file__ + "x"),
        "write tmp": lambda: write("/tmp/autoweave-escape"), "write shm": lambda: write("/dev/shm/autoweave-escape"),
        "memory of parent": lambda: open(f"/proc/{parent}/mem", "rb"), "environ": lambda: open(f"/proc/{parent}/environ"),
        "fds of parent": lambda: os.listdir(f"/proc/{parent}/fd"),
        "read granted": lambda: open(at("looked/file")), "write looked": lambda: write(at("looked/file")),
        "write granted": lambda: write(at("granted/file")), "read back": lambda: open(at("granted/file")),
        "link in": lambda: os.link(at("journal.db"), at("granted/journal")),
        "move in": lambda: os.rename(at("other/file"), at("granted/moved")),
        "symlink in": lambda: (os.symlink(at("other"), at("granted/out")), open(at("granted/out/file"))),
        "execute written": lambda: run(at("granted/program")),
        "device node": lambda: os.mknod(at("granted/node"), 0o60666, os.makedev(8, 0)),
        "through link": lambda: open(at("link/file")), "groups": lambda: os.setgroups([]),
        "own device": lambda: open(at("device"), "r+"), "other device": lambda: open(at("other-device")),
        "dev": lambda: os.listdir("/dev/bus"),
    "#;

#[test]
fn files_beyond_what_was_granted_are_refused() {
    identities().into_iter().for_each(files);
}

fn files(identity: Option<Identity>) {
    let (_place, path) = place();
    let permissions = format!(
        r#"{{"filesystem": [{{"path": "{0}/granted", "mode": "readwrite"}}, {{"path": "{0}/looked", "mode": "read"}},
            {{"path": "{0}/link", "mode": "readwrite"}}, {{"path": "{0}/missing", "mode": "read"}}]}}"#,
        path.display()
    );
    let plugin = hostile_as(identity, &path, &permissions, FILES);
    let results = tried(&plugin, &plugin.launch.with_device(path.join("device")));
    let (fine, refused) = (Ok(()), Err(EACCES));
    let expected = [
        ("shadow", refused),
        ("passwd", refused),
        ("journal", refused),
        ("truncate", refused),
        ("remove", refused),
        ("list", refused),
        ("write outside", refused),
        ("write package", refused),
        ("write tmp", refused),
        ("write shm", refused),
        ("memory of parent", refused),
        ("environ", refused),
        ("fds of parent", refused),
        ("read granted", fine),
        ("write looked", refused),
        ("write granted", fine),
        ("read back", fine),
        ("link in", refused),
        ("move in", refused),
        ("symlink in", refused),
        ("execute written", refused),
        ("device node", refused),
        ("through link", refused),
        ("groups", Err(EPERM)),
        ("own device", fine),
        ("other device", refused),
        ("dev", if Path::new("/dev/bus").exists() { refused } else { Err(libc::ENOENT) }),
    ];
    let results: Vec<_> =
        results
            .into_iter()
            .map(|(name, result)| {
                if name == "link in" && result == Err(libc::EXDEV) { (name, refused) } else { (name, result) }
            })
            .collect();
    let logged = plugin.logged();
    assert!(
        logged.iter().any(|line| line.ends_with("link: not granted: leads through a symbolic link")),
        "{logged:?}"
    );
    assert!(logged.iter().any(|line| line.contains("missing: not granted: No such file")), "{logged:?}");
    check(&results, &expected);
    assert_eq!(fs::read_to_string(path.join("journal.db")).unwrap(), "content");
}

#[test]
fn a_granted_device_that_is_its_groups_can_be_written() {
    let (_place, path) = place();
    // As the kernel makes nodes: root's and its group's; what is not granted stays closed.
    for file in ["device", "other-device"] {
        fs::set_permissions(path.join(file), fs::Permissions::from_mode(0o664)).unwrap();
    }
    let tries =
        r#""own": lambda: open(at("device"), "r+"), "other": lambda: open(at("other-device"), "r+"),"#;
    for identity in identities() {
        let plugin = hostile_as(identity, &path, "{}", tries);
        let results = tried(&plugin, &plugin.launch.with_device(path.join("device")));
        check(&results, &[("own", Ok(())), ("other", Err(EACCES))]);
    }
}

#[test]
fn without_a_network_grant_there_is_no_socket() {
    let (_place, path) = place();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let _unix = UnixListener::bind(path.join("stream")).unwrap();
    let datagrams = UnixDatagram::bind(path.join("datagrams")).unwrap();
    for socket in ["stream", "datagrams"] {
        fs::set_permissions(path.join(socket), fs::Permissions::from_mode(0o777)).unwrap();
    }
    let port = tcp.local_addr().unwrap().port();
    let tries = format!(
        r#"
        "tcp": lambda: connect(socket.AF_INET, ("127.0.0.1", {port})), "tcp6": lambda: connect(socket.AF_INET6, ("::1", {port})),
        "udp": lambda: connect(socket.AF_INET, ("127.0.0.1", 53), socket.SOCK_DGRAM),
        "unix": lambda: connect(socket.AF_UNIX, at("stream")), "abstract": lambda: connect(socket.AF_UNIX, "\0x"),
        "paired": lambda: paired(at("datagrams")), "pair": lambda: socket.socketpair(), "tipc pair": lambda: socket.socketpair(30, socket.SOCK_STREAM),
        "netlink": lambda: socket.socket(16, socket.SOCK_RAW, 15), "packet": lambda: socket.socket(17, socket.SOCK_RAW),
        "vsock": lambda: socket.socket(40, socket.SOCK_STREAM), "alg": lambda: socket.socket(38, 5),
        "#
    );
    let plugin = hostile(&path, "{}", &tries);
    let results = tried(&plugin, &plugin.launch);
    let refused = Err(EPERM);
    check(
        &results,
        &[
            ("tcp", refused),
            ("tcp6", refused),
            ("udp", refused),
            ("unix", refused),
            ("abstract", refused),
            ("paired", refused),
            ("pair", Ok(())),
            ("tipc pair", refused),
            ("netlink", refused),
            ("packet", refused),
            ("vsock", refused),
            ("alg", refused),
        ],
    );
    datagrams.set_nonblocking(true).unwrap();
    assert!(datagrams.recv(&mut [0]).is_err());
}

#[test]
fn a_network_grant_is_for_its_ports() {
    let (_place, path) = place();
    let (granted, other) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let _unix = UnixListener::bind(path.join("stream")).unwrap();
    let port = |socket: &TcpListener| socket.local_addr().unwrap().port();
    let tries = format!(
        r#"
        "granted": lambda: connect(socket.AF_INET, ("127.0.0.1", {granted})), "other": lambda: connect(socket.AF_INET, ("127.0.0.1", {other})),
        "udp": lambda: connect(socket.AF_INET, ("127.0.0.1", {udp}), socket.SOCK_DGRAM), "listen": listen, "listen unbound": listen_unbound,
        "fast open": lambda: fast_open({other}), "unix": lambda: connect(socket.AF_UNIX, at("stream")),
        "multipath": lambda: connect(socket.AF_INET, ("127.0.0.1", {other}), socket.SOCK_STREAM, 262),
        "sctp": lambda: socket.socket(socket.AF_INET, socket.SOCK_SEQPACKET), "raw": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 6),
        "netlink": lambda: socket.socket(16, socket.SOCK_RAW, 15), "hosts": lambda: open("/etc/hosts"),
        "#,
        granted = port(&granted),
        other = port(&other),
        udp = udp.local_addr().unwrap().port(),
    );
    let permissions = format!(r#"{{"network": {{"outbound": ["localhost:{}"]}}}}"#, port(&granted));
    let plugin = hostile(&path, &permissions, &tries);
    let results = tried(&plugin, &plugin.launch);
    let (fine, refused) = (Ok(()), Err(EPERM));
    assert!(landlock_abi() >= 4, "this test takes a kernel that limits TCP ports");
    check(
        &results,
        &[
            ("granted", fine),
            ("other", Err(EACCES)),
            ("udp", fine),
            ("listen", Err(EACCES)),
            ("listen unbound", refused),
            ("fast open", refused),
            ("unix", refused),
            ("multipath", refused),
            ("sctp", refused),
            ("raw", refused),
            ("netlink", refused),
            ("hosts", fine),
        ],
    );
}

/// The numbers are x86-64's.
#[cfg(target_arch = "x86_64")]
#[test]
fn other_processes_and_the_machine_are_out_of_reach() {
    identities().into_iter().for_each(processes);
}

#[cfg(target_arch = "x86_64")]
fn processes(identity: Option<Identity>) {
    let (_place, path) = place();
    let tries = r#"
        "signal": lambda: os.kill(parent, 0), "signal group": lambda: os.kill(-os.getpgid(parent), 0),
        "ptrace": lambda: call(101, 16, parent, 0, 0), "vm read": lambda: call(310, parent, 0, 0, 0, 0, 0),
        "pidfd": lambda: call(438, 3, 0, 0), "limits of parent": lambda: limits(parent), "own limits": lambda: limits(0),
        "session": os.setsid, "group": lambda: os.setpgid(0, 0), "outlive": lambda: call(157, 1, 0, 0, 0, 0),
        "user namespace": lambda: call(272, 0x10000000), "clone": lambda: call(56, 0x10000011, 0, 0, 0, 0),
        "clone3": lambda: call(435, 0, 0), "io_uring": lambda: call(425, 1, 0), "mount": lambda: call(165, 0, 0, 0, 0, 0),
        "chroot": lambda: os.chroot("/"), "module": lambda: call(313, 0, 0, 0), "bpf": lambda: call(321, 0, 0, 0),
        "keys": lambda: call(250, 0, 0, 0, 0, 0), "reboot": lambda: call(169, 0, 0, 0, 0),
        "shared memory": lambda: call(29, 1, 4096, 0o1666), "perf": lambda: call(298, 0, 0, 0, 0, 0),
        "fork": lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0),
    "#;
    let plugin = hostile_as(identity, &path, "{}", tries);
    let results = tried(&plugin, &plugin.launch);
    let (fine, refused, absent) = (Ok(()), Err(EPERM), Err(libc::ENOSYS));
    check(
        &results,
        &[
            ("signal", refused),
            ("signal group", refused),
            ("ptrace", refused),
            ("vm read", refused),
            ("pidfd", refused),
            ("limits of parent", refused),
            ("own limits", fine),
            ("session", refused),
            ("group", refused),
            ("outlive", refused),
            ("user namespace", refused),
            ("clone", refused),
            ("clone3", absent),
            ("io_uring", absent),
            ("mount", refused),
            ("chroot", refused),
            ("module", refused),
            ("bpf", refused),
            ("keys", refused),
            ("reboot", refused),
            ("shared memory", refused),
            ("perf", refused),
            ("fork", fine),
        ],
    );
}

#[test]
fn nothing_of_the_loader_is_inherited() {
    let (_place, path) = place();
    let held = fs::File::open(path.join("journal.db")).unwrap();
    nix::fcntl::fcntl(&held, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let code = "import ctypes, os\ndef capabilities():\n  header = (ctypes.c_uint32 * 2)(0x20080522, 0); data = (ctypes.c_uint32 * 6)()\n\
        \x20 ctypes.CDLL(None).capget(header, data)\n  return f'{data[0] | data[1] | data[3] | data[4]:x}'\ndef open_ones():\n  n = []\n  for fd in range(3, 256):\n    try: os.fstat(fd); n.append(fd)\n    except OSError: pass\n  return n\n\
        def attach(event, context):\n  context['log']('info', repr(sorted(os.environ)))\n  context['log']('info', repr(len(open_ones())))\n\
        \x20 context['log']('info', os.getcwd())\n  context['log']('info', repr(os.getgroups()))\n\
        \x20 context['log']('info', capabilities())\ndef detach(e, c): pass\n";
    let plugin = Plugin::new("main.py", code);
    let mut worker = plugin.start().unwrap();
    assert_eq!(worker.deliver(&attach(1), 1).unwrap(), Verdict::Done);
    let logged = plugin.logged();
    // Python itself adds LC_CTYPE; two descriptors are the shim's copies of its pipes.
    let names = "['AUTOWEAVE_PLUGIN', 'HOME', 'LANG', 'PATH']";
    assert_eq!(logged[0].replace(", 'LC_CTYPE'", ""), names);
    assert!(logged[1].parse::<u32>().unwrap() <= 4, "{logged:?}");
    assert_eq!(logged[2], fs::canonicalize(plugin.directory.path()).unwrap().to_str().unwrap());
    if support::host().identity.is_some() {
        assert_eq!(logged[3], "[]");
    }
    assert_eq!(logged[4], "0");
}

#[test]
fn the_daemons_own_files_are_never_granted() {
    let (_place, path) = place();
    let mut host = support::host();
    host.protected = vec![path.join("journal.db")];
    let plan = |granted: &str| {
        let package = support::directory();
        let permissions = format!(r#"{{"filesystem": [{{"path": "{granted}", "mode": "read"}}]}}"#);
        support::write(package.path(), "under-test", "run", "", &permissions);
        Launch::plan(&Package::check(package.path(), false).unwrap(), &host)
    };
    let text = path.to_str().unwrap();
    for granted in [text, "/", "/./", &format!("{text}/journal.db"), &format!("{text}//./")] {
        assert!(
            matches!(plan(granted), Err(LaunchFault::Protected { .. } | LaunchFault::Devices { .. })),
            "{granted}"
        );
    }
    assert!(plan(&format!("{text}/granted")).is_ok());
    assert!(matches!(plan("/dev/bus/usb/001"), Err(LaunchFault::Devices { .. })));
}

/// Becomes a process for which the kernel has no Landlock, then the program after it: seccomp answers 444, the
/// number of `landlock_create_ruleset` everywhere, with ENOSYS.
const NO_LANDLOCK: &str = r#"
import ctypes, os, struct, sys
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x00050000 | 38), (0x06, 0, 0, 0x7fff0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code), ctypes.addressof(program)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, filter) == 0
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[test]
fn without_landlock_only_who_is_named_runs_and_can_signal_nobody() {
    let (_place, path) = place();
    let tries = r#"
        "signal": lambda: os.kill(parent, 0), "thread": lambda: tgkill(parent), "own": lambda: tgkill(os.getpid()),
        "queue": lambda: queue(parent), "owner": lambda: fcntl.fcntl(0, fcntl.F_SETOWN, parent),
        "owner too": lambda: fcntl.fcntl(0, 15, struct.pack("ii", 1, parent)), "which": lambda: fcntl.fcntl(0, 10, 9),
        "owner by ioctl": lambda: fcntl.ioctl(0, 0x8901, struct.pack("i", parent)),
        "truncate": lambda: os.truncate(at("journal.db"), 0),
        "open to truncate": lambda: os.open(at("journal.db"), os.O_TRUNC), "socket": lambda: socket.socket(),
    "#;
    let plugin = hostile_as(None, &path, "{}", tries);
    let package = Package::check(plugin.directory.path(), false).unwrap();
    let mut host = Host { identity: None, ..support::host() };
    host.launcher_arguments = vec!["-c".into(), NO_LANDLOCK.into(), host.launcher.into()];
    host.launcher = "/usr/bin/python3".into();
    let fault = Worker::start(&Launch::plan(&package, &host).unwrap(), support::DEADLINES, Box::new(|_| ()))
        .err()
        .unwrap();
    assert!(
        fault.to_string().contains("with code 126, its last words: this kernel offers no Landlock"),
        "{fault}"
    );
    host.without_landlock = vec!["under-test".to_owned()];
    let launch = Launch::plan(&package, &host).unwrap();
    let refused = Err(EPERM);
    check(
        &tried(&plugin, &launch),
        &[
            ("signal", refused),
            ("thread", refused),
            ("own", Ok(())),
            ("queue", refused),
            ("owner", refused),
            ("owner too", refused),
            ("which", refused),
            ("owner by ioctl", refused),
            ("truncate", refused),
            ("open to truncate", refused),
            ("socket", refused),
        ],
    );
    assert_eq!(fs::read_to_string(path.join("journal.db")).unwrap(), "content");
}
