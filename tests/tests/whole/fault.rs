//! Faults put into a running process from outside: one of its threads is made to do a system call it has no reason
//! to do (ptrace(2)).

use std::fs;

use nix::libc;
use nix::unistd::Pid;

use crate::program::{NOBODY, has_user};

/// `NETLINK_KOBJECT_UEVENT` (include/uapi/linux/netlink.h).
const UEVENT_PROTOCOL: &str = "15";

/// What a descriptor is replaced with.
#[derive(Clone, Copy, Debug)]
pub enum Instead {
    /// A file: whoever receives from it is told that it is no socket.
    File,
    /// A socket to which nobody ever sends.
    Mute,
    /// Nothing.
    Closed,
}

/// Whether faults can be put into processes here, and sources that hear are what a daemon begins with. Says so where
/// not.
pub fn is_possible() -> bool {
    let is_inserted = cfg!(target_arch = "x86_64");
    if !is_inserted {
        eprintln!("SKIPPED: system calls are put into other processes on x86_64 only");
    }
    let hears = has_user(NOBODY);
    if !hears {
        eprintln!("SKIPPED: in a user namespace of its own a daemon begins with poll");
    }
    is_inserted && hears
}

/// The thread of `pid` that is called `name`.
pub fn thread(pid: u32, name: &str) -> Option<Pid> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    tasks.filter_map(Result::ok).find_map(|task| {
        let comm = fs::read_to_string(task.path().join("comm")).ok()?;
        let id = task.file_name().to_str()?.parse().ok()?;
        (comm.trim_end() == name).then(|| Pid::from_raw(id))
    })
}

/// Ends one thread of `pid`, and no other, as if it had never been there.
pub fn kill_thread(pid: u32, name: &str) {
    let thread = thread(pid, name).unwrap_or_else(|| panic!("there is no thread {name}"));
    inject::call(thread, libc::SYS_exit, [0; 3]);
}

/// Puts something else in the place of every descriptor of `pid` that is a uevent socket.
pub fn break_uevent_sockets(pid: u32, instead: Instead) {
    let table = fs::read_to_string(format!("/proc/{pid}/net/netlink")).unwrap();
    // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let inodes: Vec<String> = rows
        .filter(|row| row.get(1) == Some(&UEVENT_PROTOCOL) && row[3] != "00000000")
        .map(|row| row[9].to_owned())
        .collect();
    break_sockets(pid, &inodes, instead);
}

/// Puts something else in the place of every descriptor of `pid` that is a Unix socket bound to `path`.
pub fn break_unix_socket(pid: u32, path: &str, instead: Instead) {
    let table = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap();
    // Num RefCount Protocol Flags Type St Inode Path
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let inodes: Vec<String> =
        rows.filter(|row| row.get(7) == Some(&path)).map(|row| row[6].to_owned()).collect();
    break_sockets(pid, &inodes, instead);
}

fn break_sockets(pid: u32, inodes: &[String], instead: Instead) {
    let main = Pid::from_raw(pid.try_into().unwrap());
    let sockets: Vec<i64> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(Result::ok)
        .filter(|entry| {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            inodes.iter().any(|inode| target.as_os_str() == format!("socket:[{inode}]").as_str())
        })
        .map(|entry| entry.file_name().to_str().unwrap().parse().unwrap())
        .collect();
    assert!(!sockets.is_empty(), "the process has none of the sockets {inodes:?}");
    let other = match instead {
        // Standard input, which is /dev/null.
        Instead::File => Some(0),
        Instead::Mute => {
            let [family, kind] = [libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC].map(i64::from);
            Some(inject::call(main, libc::SYS_socket, [family, kind, 0]))
        }
        Instead::Closed => None,
    };
    for socket in sockets {
        match other {
            Some(other) => {
                let flags = i64::from(libc::O_CLOEXEC);
                assert_eq!(inject::call(main, libc::SYS_dup3, [other, socket, flags]), socket);
            }
            None => assert_eq!(inject::call(main, libc::SYS_close, [socket, 0, 0]), 0),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod inject {
    use nix::sys::ptrace;
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    use nix::unistd::Pid;

    use crate::harness::wait_until;

    /// `syscall`, as a little-endian word.
    const SYSCALL: i64 = 0x050f;

    /// Has `thread`, which waits in a system call, do another one first, and returns its result.
    pub fn call(thread: Pid, number: i64, arguments: [i64; 3]) -> i64 {
        let mut result = None;
        wait_until("the thread waits in a system call", || {
            ptrace::attach(thread).unwrap();
            waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
            result = call_stopped(thread, number, arguments);
            result.is_some()
        });
        result.unwrap()
    }

    /// None where the thread was not in a system call. It goes on in any case.
    fn call_stopped(thread: Pid, number: i64, arguments: [i64; 3]) -> Option<i64> {
        let before = ptrace::getregs(thread).unwrap();
        // The instruction that it is in: no byte of the program has to be changed, which others may be running.
        let instruction = before.rip - 2;
        let is_in_call = before.orig_rax.cast_signed() >= 0
            && ptrace::read(thread, instruction as *mut _).is_ok_and(|word| word & 0xffff == SYSCALL);
        if !is_in_call {
            ptrace::detach(thread, None).unwrap();
            return None;
        }
        let mut regs = before;
        regs.rip = instruction;
        regs.rax = number.cast_unsigned();
        // Nothing to restart, as far as the kernel is concerned, until the old registers are back.
        regs.orig_rax = u64::MAX;
        [regs.rdi, regs.rsi, regs.rdx] = arguments.map(i64::cast_unsigned);
        ptrace::setregs(thread, regs).unwrap();
        ptrace::step(thread, None).unwrap();
        if !matches!(waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap(), WaitStatus::Stopped(..)) {
            // It has ended.
            return Some(0);
        }
        let result = ptrace::getregs(thread).unwrap().rax.cast_signed();
        ptrace::setregs(thread, before).unwrap();
        ptrace::detach(thread, None).unwrap();
        Some(result)
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod inject {
    use nix::unistd::Pid;

    pub fn call(_: Pid, _: i64, _: [i64; 3]) -> i64 {
        unreachable!("asked by is_possible() first")
    }
}
