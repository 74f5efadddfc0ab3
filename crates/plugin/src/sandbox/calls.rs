//! seccomp: system calls that are refused (seccomp(2)).
//!
//! A list of what is refused, not of what is allowed: interpreters use hundreds of calls, and new ones with every
//! release. What matters is refused elsewhere as well, by Landlock, the user and no new privileges. Calls of
//! another architecture end the process.

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use seccompiler::{
    BackendError, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::SandboxFault;
use super::files::landlock_abi;
use super::refused::{ABSENT, ALWAYS, ALWAYS_HERE, SIGNALS};

/// The call is refused if all conditions of any rule hold; without rules always.
type Refused = BTreeMap<i64, Vec<SeccompRule>>;

/// The first ABI of Landlock with scopes.
const ABI_SIGNALS: u32 = 6;

/// Installs the filters; `network` allows TCP and UDP.
pub(super) fn refuse(network: bool) -> Result<(), SandboxFault> {
    let failed = |error: String| SandboxFault::Step("filter system calls", io::Error::other(error));
    let mut refused = Refused::new();
    let signals = if landlock_abi() < ABI_SIGNALS { SIGNALS } else { &[] };
    for call in ALWAYS.iter().chain(ALWAYS_HERE).chain(signals) {
        refused.insert(*call, Vec::new());
    }
    refused.append(&mut conditional(network).map_err(|error| failed(error.to_string()))?);
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
    refused.insert(libc::SYS_socketpair, other_types(&[libc::SOCK_STREAM])?);
    if network {
        // Connects past the check for the port.
        for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
            refused.insert(call, vec![all(flags, libc::MSG_FASTOPEN)?]);
        }
    }
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
    let flags = u64::from(flags.unsigned_abs());
    has(argument, flags, flags)
}

fn has(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, BackendError> {
    rule(vec![(argument, SeccompCmpOp::MaskedEq(mask), value)])
}

fn is(argument: u8, value: i32) -> Result<SeccompRule, BackendError> {
    rule(vec![(argument, SeccompCmpOp::Eq, u64::from(value.unsigned_abs()))])
}

fn differs(argument: u8, values: &[i32]) -> Result<SeccompRule, BackendError> {
    rule(values.iter().map(|value| (argument, SeccompCmpOp::Ne, u64::from(value.unsigned_abs()))).collect())
}

/// The kernel takes these arguments as 32 bits.
fn rule(conditions: Vec<(u8, SeccompCmpOp, u64)>) -> Result<SeccompRule, BackendError> {
    let conditions = conditions.into_iter().map(|(argument, operator, value)| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
    });
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

/// On x86-64 a kernel may take the same calls by other numbers (`arch/x86/entry/syscalls/syscall_64.tbl`).
fn with_x32(mut calls: Refused) -> Refused {
    const X32: i64 = 0x4000_0000;
    // ptrace, kexec_load, process_vm_readv, process_vm_writev, sendmsg, sendmmsg.
    const RENUMBERED: [(c_long, i64); 6] = [
        (libc::SYS_ptrace, 521),
        (libc::SYS_kexec_load, 528),
        (libc::SYS_process_vm_readv, 539),
        (libc::SYS_process_vm_writev, 540),
        (libc::SYS_sendmsg, 518),
        (libc::SYS_sendmmsg, 538),
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
