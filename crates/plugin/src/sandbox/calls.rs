//! seccomp: system calls that are refused (seccomp(2)).
//!
//! A list of what is refused, not of what is allowed: interpreters use hundreds of calls, and new ones with every
//! release. What matters is refused elsewhere as well, by Landlock, the user and no new privileges. Calls of
//! another architecture end the process.

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use nix::unistd::getpid;
use seccompiler::{
    BackendError, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::files::landlock_abi;
use super::refused::{ABSENT, ALWAYS, ALWAYS_HERE, OF_OPEN_FILES, SIGNALS};
use super::{SandboxFault, Spec};

/// The call is refused if all conditions of any rule hold; without rules always.
type Refused = BTreeMap<i64, Vec<SeccompRule>>;

/// The first ABI of Landlock with scopes.
const ABI_SIGNALS: u32 = 6;

/// The first ABI of Landlock that knows of truncation.
const ABI_TRUNCATE: u32 = 3;

/// Installs the filters for the calling process, which is to execute what `spec` says.
pub(super) fn refuse(spec: &Spec) -> Result<(), SandboxFault> {
    let failed = |error: String| SandboxFault::Step("filter system calls", io::Error::other(error));
    let network = !spec.tcp_ports.is_empty();
    let writes = spec.grants.iter().any(|grant| grant.write);
    let abi = landlock_abi();
    let signals = if abi < ABI_SIGNALS { SIGNALS } else { &[] };
    let of_open_files = if writes { &[] } else { OF_OPEN_FILES };
    let lists = [ALWAYS, ALWAYS_HERE, signals, of_open_files];
    let mut refused: Refused = lists.into_iter().flatten().map(|call| (*call, Vec::new())).collect();
    let owners = if abi < ABI_SIGNALS { owners() } else { Ok(Refused::new()) };
    for rules in [conditional(network), files(writes, abi), others(), owners] {
        refused.append(&mut rules.map_err(|error| failed(error.to_string()))?);
    }
    let absent = ABSENT.iter().map(|call| (*call, Vec::new())).collect();
    for (calls, errno) in [(refused, libc::EPERM), (absent, libc::ENOSYS)] {
        install(with_x32(calls), errno.unsigned_abs()).map_err(failed)?;
    }
    Ok(())
}

fn install(calls: Refused, errno: u32) -> Result<(), String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let filter = SeccompFilter::new(calls, SeccompAction::Allow, SeccompAction::Errno(errno), arch)
        .map_err(|error| error.to_string())?;
    let program: seccompiler::BpfProgram =
        filter.try_into().map_err(|error: BackendError| error.to_string())?;
    seccompiler::apply_filter(&program).map_err(|error| error.to_string())
}

fn conditional(network: bool) -> Result<Refused, BackendError> {
    let mut refused = Refused::new();
    let namespaces = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ];
    let namespaces = namespaces.into_iter().map(|flag| all(0, flag));
    refused.insert(libc::SYS_clone, namespaces.collect::<Result<_, _>>()?);
    // Memory that `RLIMIT_DATA` does not count: shared, and what grows as a stack does.
    let shared = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    refused.insert(libc::SYS_mmap, vec![all(3, shared)?, all(3, libc::MAP_GROWSDOWN)?]);
    refused.insert(libc::SYS_prctl, vec![is(0, libc::PR_SET_PDEATHSIG)?]);
    // Its own limits only: other plugins may run as the same user.
    refused.insert(libc::SYS_prlimit64, vec![differs(0, &[0])?]);
    refused.insert(libc::SYS_socket, if network { sockets()? } else { Vec::new() });
    // A pair of datagram sockets can be connected anew, to any address.
    let mut pairs = other_types(&[libc::SOCK_STREAM])?;
    pairs.push(differs(0, &[libc::AF_UNIX])?);
    refused.insert(libc::SYS_socketpair, pairs);
    if network {
        // Connects past the check for the port.
        for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
            refused.insert(call, vec![all(flags, libc::MSG_FASTOPEN)?]);
        }
    }
    Ok(refused)
}

/// Landlock sees neither who opens a file for neither reading nor writing, which is a way to its mode, nor times.
fn files(writes: bool, abi: u32) -> Result<Refused, BackendError> {
    let opening = |flags| {
        let mut rules = vec![all(flags, libc::O_ACCMODE)?];
        if abi < ABI_TRUNCATE {
            let mode_and_truncation = bits(libc::O_ACCMODE | libc::O_TRUNC);
            rules.push(has(flags, mode_and_truncation, bits(libc::O_RDONLY | libc::O_TRUNC))?);
        }
        Ok(rules)
    };
    let mut refused = Refused::from([(libc::SYS_openat, opening(2)?)]);
    #[cfg(target_arch = "x86_64")]
    refused.insert(libc::SYS_open, opening(1)?);
    if abi < ABI_TRUNCATE {
        refused.insert(libc::SYS_truncate, Vec::new());
    }
    // Without a path it is an open file's.
    let by_path = rule(SeccompCmpArgLen::Qword, vec![(1, SeccompCmpOp::Ne, 0)])?;
    refused.insert(libc::SYS_utimensat, if writes { vec![by_path] } else { Vec::new() });
    Ok(refused)
}

/// Who gets the signals of a file, and which, and to send its own thread one: `raise` and `abort` do.
fn owners() -> Result<Refused, BackendError> {
    // `include/uapi/asm-generic/fcntl.h` and `sockios.h`.
    const F_SETOWN: i32 = 8;
    const F_SETSIG: i32 = 10;
    const F_SETOWN_EX: i32 = 15;
    const FIOSETOWN: i32 = 0x8901;
    const SIOCSPGRP: i32 = 0x8902;
    Ok(Refused::from([
        (libc::SYS_fcntl, vec![is(1, F_SETOWN)?, is(1, F_SETSIG)?, is(1, F_SETOWN_EX)?]),
        (libc::SYS_ioctl, vec![is(1, FIOSETOWN)?, is(1, SIOCSPGRP)?]),
        (libc::SYS_tgkill, vec![differs(0, &[own_process()])?]),
    ]))
}

/// The number that the plugin will have as well.
fn own_process() -> i32 {
    getpid().as_raw()
}

/// What any process may do to those of the same user: when and where they run, and what their memory is.
fn others() -> Result<Refused, BackendError> {
    const IOPRIO_WHO_USER: i32 = 3;
    let own = own_process();
    let mut refused = Refused::new();
    for call in [
        libc::SYS_sched_setscheduler,
        libc::SYS_sched_setparam,
        libc::SYS_sched_setattr,
        libc::SYS_sched_setaffinity,
        libc::SYS_move_pages,
        libc::SYS_migrate_pages,
    ] {
        refused.insert(call, vec![differs(0, &[0, own])?]);
    }
    // 0 of all its user's is not only its own.
    let user = libc::PRIO_USER as i32;
    refused.insert(libc::SYS_setpriority, vec![is(0, user)?, differs(1, &[0, own])?]);
    refused.insert(libc::SYS_ioprio_set, vec![is(0, IOPRIO_WHO_USER)?, differs(1, &[0, own])?]);
    Ok(refused)
}

/// Everything but TCP and UDP: the rest is raw, local, or a way to TCP that Landlock does not see (MPTCP, SMC).
fn sockets() -> Result<Vec<SeccompRule>, BackendError> {
    let mut rules = other_types(&[libc::SOCK_STREAM, libc::SOCK_DGRAM])?;
    rules.push(differs(0, &[libc::AF_INET, libc::AF_INET6])?);
    rules.push(differs(2, &[0, libc::IPPROTO_TCP, libc::IPPROTO_UDP])?);
    Ok(rules)
}

/// A rule for each type of socket but these; the type's other bits are flags (socket(2)).
fn other_types(allowed: &[i32]) -> Result<Vec<SeccompRule>, BackendError> {
    const TYPE_MASK: u8 = 0xf;
    let others = (0..=TYPE_MASK).filter(|kind| !allowed.contains(&i32::from(*kind)));
    others.map(|kind| has(1, u64::from(TYPE_MASK), u64::from(kind))).collect()
}

/// All bits of `flags` are set.
fn all(argument: u8, flags: i32) -> Result<SeccompRule, BackendError> {
    has(argument, bits(flags), bits(flags))
}

fn bits(flags: i32) -> u64 {
    u64::from(flags.unsigned_abs())
}

fn has(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, BackendError> {
    rule(SeccompCmpArgLen::Dword, vec![(argument, SeccompCmpOp::MaskedEq(mask), value)])
}

fn is(argument: u8, value: i32) -> Result<SeccompRule, BackendError> {
    rule(SeccompCmpArgLen::Dword, vec![(argument, SeccompCmpOp::Eq, u64::from(value.unsigned_abs()))])
}

fn differs(argument: u8, values: &[i32]) -> Result<SeccompRule, BackendError> {
    let differs = |value: &i32| (argument, SeccompCmpOp::Ne, u64::from(value.unsigned_abs()));
    rule(SeccompCmpArgLen::Dword, values.iter().map(differs).collect())
}

/// The kernel takes numbers as 32 bits, addresses as 64.
fn rule(
    length: SeccompCmpArgLen,
    conditions: Vec<(u8, SeccompCmpOp, u64)>,
) -> Result<SeccompRule, BackendError> {
    let condition =
        |(argument, operator, value)| SeccompCondition::new(argument, length.clone(), operator, value);
    SeccompRule::new(conditions.into_iter().map(condition).collect::<Result<_, _>>()?)
}

/// On x86-64 a kernel may take the same calls by other numbers (`arch/x86/entry/syscalls/syscall_64.tbl`).
fn with_x32(mut calls: Refused) -> Refused {
    const X32: i64 = 0x4000_0000;
    const RENUMBERED: [(c_long, i64); 10] = [
        (libc::SYS_ptrace, 521),
        (libc::SYS_kexec_load, 528),
        (libc::SYS_process_vm_readv, 539),
        (libc::SYS_process_vm_writev, 540),
        (libc::SYS_sendmsg, 518),
        (libc::SYS_sendmmsg, 538),
        (libc::SYS_rt_sigqueueinfo, 524),
        (libc::SYS_rt_tgsigqueueinfo, 536),
        (libc::SYS_ioctl, 514),
        (libc::SYS_move_pages, 533),
    ];
    if cfg!(target_arch = "x86_64") {
        let twin = |(call, rules): (&i64, &Vec<SeccompRule>)| {
            let renumbered =
                RENUMBERED.iter().find(|(known, _)| known == call).map_or(*call, |(_, x32)| *x32);
            (X32 | renumbered, rules.clone())
        };
        let twins: Refused = calls.iter().map(twin).collect();
        calls.extend(twins);
    }
    calls
}
