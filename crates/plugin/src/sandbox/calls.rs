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

/// The call is refused if all conditions of any rule hold; without rules always.
type Refused = BTreeMap<i64, Vec<SeccompRule>>;

/// Mounts, namespaces, modules, other processes' memory, the clock, the machine.
const ALWAYS: &[c_long] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_vhangup,
    libc::SYS_userfaultfd,
    libc::SYS_fanotify_init,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    // Shared with every other process of the same user.
    libc::SYS_shmget,
    libc::SYS_semget,
    libc::SYS_msgget,
    libc::SYS_mq_open,
    // Out of its process group, it would outlive its worker.
    libc::SYS_setsid,
    libc::SYS_setpgid,
];

/// Calls whose arguments no filter can see; libraries do without them where they are not there.
const ABSENT: &[c_long] =
    &[libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

#[cfg(target_arch = "x86_64")]
const ALWAYS_HERE: &[c_long] = &[libc::SYS_kexec_file_load, libc::SYS_iopl, libc::SYS_ioperm];
#[cfg(not(target_arch = "x86_64"))]
const ALWAYS_HERE: &[c_long] = &[];

/// Signals to others; only where Landlock cannot keep them inside.
const SIGNALS: &[c_long] =
    &[libc::SYS_kill, libc::SYS_tkill, libc::SYS_rt_sigqueueinfo, libc::SYS_pidfd_send_signal];

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
    let namespaces = namespaces.map(|flag| u64::from(flag.unsigned_abs()));
    refused.insert(
        libc::SYS_clone,
        namespaces.into_iter().map(|flag| has(0, flag, flag)).collect::<Result<_, _>>()?,
    );
    refused.insert(libc::SYS_prctl, vec![is(0, libc::PR_SET_PDEATHSIG)?]);
    // Its own limits only: other plugins may run as the same user.
    refused.insert(libc::SYS_prlimit64, vec![differs(0, &[0])?]);
    refused.insert(libc::SYS_socket, if network { sockets()? } else { Vec::new() });
    // A pair of datagram sockets can be connected anew, to any address.
    refused.insert(libc::SYS_socketpair, other_types(&[libc::SOCK_STREAM])?);
    if network {
        // Connects past the check for the port.
        let fast_open = u64::from(libc::MSG_FASTOPEN.unsigned_abs());
        for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
            refused.insert(call, vec![has(flags, fast_open, fast_open)?]);
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
