//! Landlock: files, TCP ports, signals (`Documentation/userspace-api/landlock.rst` in the kernel).
//!
//! Rules hold open directories, not paths, and can only be narrowed afterwards.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

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
            if let Ok(fd) = nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()) {
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
            match open_without_links(path) {
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

/// Opens what an absolute path leads to, unless that is by a symbolic link: name by name, since openat2 is not there
/// under systemd's `RestrictSUIDSGID=` and in its containers.
fn open_without_links(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut at = nix::fcntl::open("/", flags, Mode::empty())?;
    let mut names = path.components().map(Component::as_os_str).peekable();
    while let Some(name) = names.next() {
        // To ask for a directory also mounts what is mounted on demand.
        let kind = if names.peek().is_some() { OFlag::O_DIRECTORY } else { OFlag::empty() };
        at = openat(&at, name, flags | kind, Mode::empty()).map_err(|errno| {
            let found = fstatat(&at, name, AtFlags::AT_SYMLINK_NOFOLLOW);
            if found.is_ok_and(|found| is_link(&found)) { Errno::ELOOP } else { errno }
        })?;
    }
    if is_link(&fstat(&at)?) { Err(Errno::ELOOP) } else { Ok(at) }
}

fn is_link(found: &FileStat) -> bool {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFLNK
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn a_granted_path_is_opened_unless_a_link_is_anywhere_in_it() {
        let place = tempfile::tempdir().unwrap();
        let real = place.path().canonicalize().unwrap();
        fs::create_dir_all(real.join("a/b")).unwrap();
        fs::write(real.join("a/file"), "").unwrap();
        symlink("a", real.join("link")).unwrap();
        symlink("file", real.join("a/last")).unwrap();
        symlink("/nowhere", real.join("dangling")).unwrap();
        let opened = |path: &str| open_without_links(&real.join(path));
        for path in ["a", "a/", "a/file", "a/b/../file", "./a//file"] {
            let found = File::from(opened(path).unwrap()).metadata().unwrap();
            assert_eq!(found.ino(), fs::metadata(real.join(path)).unwrap().ino(), "{path}");
        }
        assert!(open_without_links(Path::new("/")).is_ok());
        for (path, errno) in [
            ("link", Errno::ELOOP),
            ("link/", Errno::ELOOP),
            ("link/file", Errno::ELOOP),
            ("link/b/../file", Errno::ELOOP),
            ("a/last", Errno::ELOOP),
            ("a/last/more", Errno::ELOOP),
            ("dangling", Errno::ELOOP),
            ("a/file/more", Errno::ENOTDIR),
            ("a/none", Errno::ENOENT),
            ("none/a", Errno::ENOENT),
        ] {
            assert_eq!(opened(path).unwrap_err(), errno, "{path}");
        }
        assert_eq!(open_without_links(Path::new("/proc/self/cwd/a")).unwrap_err(), Errno::ELOOP);
    }
}
