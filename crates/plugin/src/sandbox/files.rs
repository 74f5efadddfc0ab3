//! Landlock: files, TCP ports, signals (`Documentation/userspace-api/landlock.rst` in the kernel).
//!
//! Rules hold open directories, not paths, and can only be narrowed afterwards.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use super::{SandboxFault, Spec};

/// The newest ABI that was looked through for this sandbox; an older kernel gives what it has.
const ABI_KNOWN: ABI = ABI::V9;

/// Programs and libraries.
const SYSTEM: [&str; 8] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store"];

/// What the C library and interpreters read at start. Node.js ends at once if OpenSSL's configuration is there and
/// cannot be read.
const SYSTEM_FILES: [&str; 9] = [
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/openssl.cnf",
    "/etc/crypto-policies",
    "/dev/null",
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
];

/// What name resolution and TLS read.
const NETWORK_FILES: [&str; 9] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/ssl",
    "/etc/ca-certificates",
    "/etc/pki",
];

/// What will be allowed, opened but not yet enforced.
pub(super) struct Rules {
    beneath: Vec<(OwnedFd, BitFlags<AccessFs>)>,
    tcp_ports: Vec<u16>,
    without_landlock: bool,
}

/// The ABI version the running kernel offers; 0 where it has no Landlock or it is switched off.
#[expect(unsafe_code, reason = "a system call that no library has")]
pub fn landlock_abi() -> u32 {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with the flag VERSION and no attribute the kernel returns a number and touches no memory.
    let abi = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0usize, VERSION)
    };
    u32::try_from(abi).unwrap_or(0)
}

/// Whether a program at `path` lies where every plugin may read.
pub(crate) fn is_system(path: &Path) -> bool {
    SYSTEM.iter().any(|directory| path.starts_with(directory))
}

impl Rules {
    /// Opens what `spec` allows. What is not there is not allowed; a granted path that is not there, or leads
    /// through a symbolic link, is said on standard error.
    pub(super) fn open(spec: &Spec) -> Result<Self, SandboxFault> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let run = read | AccessFs::Execute;
        let mut beneath = Vec::new();
        let mut allow = |path: &Path, access| {
            if let Ok(fd) = open(path, ResolveFlag::empty()) {
                beneath.push((fd, access));
            }
        };
        SYSTEM.iter().for_each(|path| allow(Path::new(path), run));
        SYSTEM_FILES.iter().for_each(|path| allow(Path::new(path), read));
        allow(Path::new("/dev/null"), read | AccessFs::WriteFile);
        if !spec.tcp_ports.is_empty() {
            NETWORK_FILES.iter().for_each(|path| allow(Path::new(path), read));
        }
        allow(&spec.package, run);
        spec.interpreter.iter().for_each(|path| allow(path, run));
        let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
        let devices = spec.devices.iter().map(|path| (path, device));
        let granted = spec.grants.iter().map(|grant| (&grant.path, granted(grant.read, grant.write)));
        for (path, access) in devices.chain(granted) {
            // A plugin may write in one grant and put a link where the next one begins.
            match open(path, ResolveFlag::RESOLVE_NO_SYMLINKS) {
                Ok(fd) => beneath.push((fd, access)),
                Err(Errno::ELOOP) => {
                    eprintln!("{}: not granted: leads through a symbolic link", path.display());
                }
                Err(errno) => eprintln!("{}: not granted: {}", path.display(), errno.desc()),
            }
        }
        Ok(Self { beneath, tcp_ports: spec.tcp_ports.clone(), without_landlock: spec.without_landlock })
    }

    /// Shuts the calling thread in.
    pub(super) fn enforce(self) -> Result<(), SandboxFault> {
        let without_landlock = self.without_landlock;
        let status = self
            .restrict()
            .map_err(|error| SandboxFault::Step("enforce Landlock", io::Error::other(error)))?;
        match status {
            RulesetStatus::NotEnforced if !without_landlock => Err(SandboxFault::NoLandlock),
            _ => Ok(()),
        }
    }

    fn restrict(self) -> Result<RulesetStatus, RulesetError> {
        let mut ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(ABI_KNOWN))?
            .handle_access(AccessNet::from_all(ABI_KNOWN))?
            .scope(Scope::from_all(ABI_KNOWN))?
            .create()?;
        for (fd, access) in self.beneath {
            let directory = File::from(fd);
            let is_directory = directory.metadata().is_ok_and(|metadata| metadata.is_dir());
            let access = if is_directory { access } else { access & AccessFs::from_file(ABI_KNOWN) };
            ruleset = ruleset.add_rule(PathBeneath::new(directory, access))?;
        }
        for port in self.tcp_ports {
            ruleset = ruleset.add_rule(NetPort::new(port, AccessNet::ConnectTcp))?;
        }
        Ok(ruleset.restrict_self()?.ruleset)
    }
}

/// Not to execute what it can write, and no device nodes or sockets to be made.
fn granted(read: bool, write: bool) -> BitFlags<AccessFs> {
    let never = AccessFs::MakeChar
        | AccessFs::MakeBlock
        | AccessFs::MakeSock
        | AccessFs::IoctlDev
        | AccessFs::ResolveUnix;
    let reading = if read { AccessFs::ReadFile | AccessFs::ReadDir } else { BitFlags::EMPTY };
    let writing = if write { AccessFs::from_write(ABI_KNOWN) & !never } else { BitFlags::EMPTY };
    reading | writing
}

fn open(path: &Path, resolve: ResolveFlag) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    if resolve.is_empty() {
        // Containers of systemd's and old ones of Docker's have no openat2.
        return nix::fcntl::open(path, flags, Mode::empty());
    }
    openat2(AT_FDCWD, path, OpenHow::new().flags(flags).resolve(resolve))
}
