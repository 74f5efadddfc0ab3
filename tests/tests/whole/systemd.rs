//! systemd holds the socket: the file descriptor store, and a socket unit with `ListenNetlink=kobject-uevent 1`.

use std::io::{BufRead as _, BufReader, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::{CommandExt, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use autoweave_usb_testbus::Bus;
use nix::cmsg_space;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind,
    recvmsg, socket,
};
use nix::unistd::Pid;

use crate::harness::{QUICK, StateDir, command, executable, last_seq, wait_until};
use crate::keeper::{bus, check_all};

const PORTS: [&str; 3] = ["1-1", "1-2", "1-3"];

/// As much of a service manager as a daemon sees: sd_notify(3), sd_listen_fds(3).
struct Manager {
    socket: UnixDatagram,
    place: StateDir,
    store: Vec<OwnedFd>,
    is_ready: bool,
    /// How often the service said that it lives.
    lives: u32,
}

impl Manager {
    fn new() -> Self {
        let place = StateDir::new();
        let socket = UnixDatagram::bind(place.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, place, store: Vec::new(), is_ready: false, lives: 0 }
    }

    /// Starts the service with what is stored.
    fn start(&mut self, _bus: &Bus, state: &Path) -> Child {
        self.is_ready = false;
        let notify = self.place.path().join("notify");
        let mut command = command(QUICK);
        command.args(["run", "--state-dir"]).arg(state).env("NOTIFY_SOCKET", notify).stdout(Stdio::null());
        let passed: Vec<OwnedFd> = self.store.iter().map(|fd| fd.try_clone().unwrap()).collect();
        if !passed.is_empty() {
            command.env("LISTEN_FDS", passed.len().to_string());
            pass(&mut command, passed);
        }
        command.spawn().unwrap()
    }

    /// Takes what the service has sent.
    fn receive(&mut self) {
        let mut buffer = [0; 4096];
        let mut control = cmsg_space!([i32; 8]);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let fd = self.socket.as_raw_fd();
        let Ok(message) = recvmsg::<()>(fd, &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)
        else {
            return;
        };
        let mut fds = Vec::new();
        for control in message.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(numbers) = control {
                fds.extend(numbers.into_iter().map(own));
            }
        }
        let bytes = message.bytes;
        let text = String::from_utf8_lossy(&buffer[..bytes]).into_owned();
        self.lives += u32::from(text.lines().any(|line| line == "WATCHDOG=1"));
        self.is_ready |= text.lines().any(|line| line == "READY=1");
        if text.lines().any(|line| line == "FDSTORE=1") {
            // With it the real one would drop the socket at the first overrun.
            assert!(text.lines().any(|line| line == "FDPOLL=0"), "{text}");
            // The real one drops what it has already; here only the first are kept.
            if self.store.is_empty() {
                self.store = fds;
            }
        }
    }

    fn wait_until_ready(&mut self) {
        wait_until("the service is ready", || {
            self.receive();
            self.is_ready
        });
    }
}

#[expect(unsafe_code, reason = "what systemd does in C")]
fn own(number: i32) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Has the child find `fds` from number 3 on, and `LISTEN_PID` to be its own.
#[expect(unsafe_code, reason = "what systemd does in C")]
fn pass(command: &mut std::process::Command, fds: Vec<OwnedFd>) {
    // Out of the way of the numbers they are to get.
    let high: Vec<OwnedFd> =
        fds.into_iter().map(|fd| own(fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(100)).unwrap())).collect();
    command.env("LISTEN_PID", "0000000000");
    let program = command.get_program().to_owned();
    let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
    let mut shell = std::process::Command::new("/bin/sh");
    // The shell's process id is the program's.
    shell.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""]).arg(program).args(arguments).env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    shell.stdin(Stdio::null()).stdout(Stdio::null());
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        shell.pre_exec(move || {
            for (number, fd) in (3..).zip(&high) {
                if libc_dup2(fd.as_raw_fd(), number) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    *command = shell;
}

#[expect(unsafe_code, reason = "a system call")]
fn libc_dup2(from: i32, to: i32) -> i32 {
    // SAFETY: both are numbers of descriptors of this child.
    unsafe { nix::libc::dup2(from, to) }
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

#[test]
fn what_is_in_the_store_outlives_kills_and_restarts() {
    let mut bus = bus();
    let state = StateDir::new();
    let mut systemd = Manager::new();
    let mut service = systemd.start(&bus, state.path());
    systemd.wait_until_ready();
    assert_eq!(systemd.store.len(), 2, "the socket and the memory");
    let mut edges = last_seq(&state);
    for round in 0..6 {
        edges += bus.cycle(&PORTS, 50).unwrap();
        signal(&service, if round % 2 == 0 { Signal::SIGKILL } else { Signal::SIGTERM });
        let status = service.wait().unwrap();
        assert!(round % 2 == 0 || status.success());
        edges += bus.cycle(&PORTS, 5).unwrap();
        service = systemd.start(&bus, state.path());
        systemd.wait_until_ready();
    }
    wait_until("all is told", || last_seq(&state) >= edges);
    signal(&service, Signal::SIGTERM);
    assert!(service.wait().unwrap().success());
    check_all(&bus, &state, edges);
}

#[test]
fn a_socket_unit_hears_what_happens_before_the_daemon_runs() {
    let mut bus = bus();
    let state = StateDir::new();
    let mut systemd = Manager::new();
    let flags = SockFlag::SOCK_CLOEXEC;
    let kind = SockProtocol::NetlinkKObjectUEvent;
    let listening = socket(AddressFamily::Netlink, SockType::Raw, flags, kind).unwrap();
    bind(listening.as_raw_fd(), &NetlinkAddr::new(0, 1)).unwrap();
    fcntl(&listening, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    systemd.store.push(listening);
    let edges = bus.cycle(&PORTS, 20).unwrap();
    let mut service = systemd.start(&bus, state.path());
    systemd.wait_until_ready();
    wait_until("all is told", || last_seq(&state) > edges);
    signal(&service, Signal::SIGTERM);
    assert!(service.wait().unwrap().success());
    let events = crate::harness::events(&state);
    crate::invariants::check(&events);
    let hotplugged = events.iter().filter(|event| event["reason"] == "hotplug").count() as u64;
    // The first `remove` of each port is of a device nobody had told of.
    assert_eq!(hotplugged, edges - PORTS.len() as u64);
}

#[test]
fn a_daemon_with_nothing_to_do_says_that_it_lives() {
    let _bus = bus();
    let state = StateDir::new();
    let mut systemd = Manager::new();
    let mut shell = std::process::Command::new("/bin/sh");
    // The shell's process id is the daemon's.
    shell.args(["-c", "WATCHDOG_PID=$$ exec \"$0\" \"$@\""]).arg(executable());
    shell.args(["run", "--state-dir"]).arg(state.path()).envs(QUICK.iter().copied());
    shell.env("AUTOWEAVE_USB_CONFIG", "/dev/null").env("AUTOWEAVE_USB__SOURCE__CHAIN", "uevent");
    shell.env("NOTIFY_SOCKET", systemd.place.path().join("notify")).env("WATCHDOG_USEC", "400000");
    let mut service = shell.stdout(Stdio::null()).spawn().unwrap();
    systemd.wait_until_ready();
    let before = systemd.lives;
    wait_until("it says so five times more", || {
        systemd.receive();
        systemd.lives >= before + 5
    });
    signal(&service, Signal::SIGTERM);
    assert!(service.wait().unwrap().success());
}

#[test]
fn a_daemon_that_cannot_start_says_why_at_once_and_ends_slowly() {
    let _bus = bus();
    let state = StateDir::new();
    let configuration = state.path().join("usbd.toml");
    std::fs::write(&configuration, "nonsense = 1\n").unwrap();
    let start = || {
        let systemd = Manager::new();
        let mut run = command(QUICK);
        run.args(["run", "--config"]).arg(&configuration).arg("--state-dir").arg(state.path());
        let run = run.env("NOTIFY_SOCKET", systemd.place.path().join("notify")).stdout(Stdio::null());
        let mut service = run.stderr(Stdio::piped()).spawn().unwrap();
        let mut why = String::new();
        BufReader::new(service.stderr.take().unwrap()).read_line(&mut why).unwrap();
        assert!(why.contains("nonsense"), "{why}");
        service
    };
    let begun = Instant::now();
    assert_eq!(start().wait().unwrap().code(), Some(64));
    assert!(begun.elapsed() >= Duration::from_secs(9), "{:?}", begun.elapsed());

    // A restart, or a stop, that somebody asks for does not have to wait.
    let mut service = start();
    signal(&service, Signal::SIGTERM);
    assert_eq!(service.wait().unwrap().signal(), Some(Signal::SIGTERM as i32));
}
