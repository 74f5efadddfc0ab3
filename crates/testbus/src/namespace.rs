//! Namespaces in which `/sys`, `/dev/bus` and the boot id are ours. The host's own are only ever covered.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;

use crate::netlink;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const SEQNUM: &str = "/sys/kernel/uevent_seqnum";

/// What [`enter`] made, held open so that it is reached from threads outside of the namespaces as well.
pub(crate) struct Namespace {
    /// `/sys`, empty but for `kernel/uevent_seqnum`, `bus`, `class` and `devices`.
    pub(crate) sys: Directory,
    /// `/dev/bus`, empty.
    pub(crate) dev_bus: Directory,
    /// What reads of the boot id see.
    pub(crate) boot_id: File,
}

/// A directory by its open descriptor: a path would lead elsewhere in another thread's mount namespace.
pub(crate) struct Directory(OwnedFd);

impl Directory {
    fn open(path: &str) -> io::Result<Self> {
        Ok(Self(open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?))
    }

    /// A path to it that holds in every thread of this process.
    pub(crate) fn path(&self) -> PathBuf {
        descriptor_path(&self.0)
    }
}

/// Moves the calling thread into new mount and network namespaces and prepares them.
pub(crate) fn enter() -> io::Result<Namespace> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).map_err(|error| {
        let text =
            format!("a virtual USB bus needs namespaces ({error}): run as root or under `unshare -Ur`");
        io::Error::new(io::Error::from(error).kind(), text)
    })?;
    mount_over("/", None, None, MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    cover_sys()?;
    cover_dev_bus()?;
    let boot_id = cover_boot_id()?;
    netlink::bring_up_loopback()?;
    Ok(Namespace { sys: Directory::open("/sys")?, dev_bus: Directory::open("/dev/bus")?, boot_id })
}

/// Keeps the real sequence number, since injected uevents count in it too.
fn cover_sys() -> io::Result<()> {
    let seqnum = open(SEQNUM, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    tmpfs("/sys")?;
    for directory in ["/sys/bus", "/sys/class", "/sys/devices", "/sys/kernel"] {
        fs::create_dir(directory)?;
    }
    fs::write(SEQNUM, "0\n")?;
    if let Ok(real) = seqnum {
        mount_over(SEQNUM, Some(&descriptor_path(&real)), None, MsFlags::MS_BIND)?;
    }
    Ok(())
}

fn cover_dev_bus() -> io::Result<()> {
    if Path::new("/dev/bus").is_dir() {
        return tmpfs("/dev/bus");
    }
    // A mount needs a directory to sit on, and making one would show in the host's devtmpfs.
    cover_dev()?;
    fs::create_dir("/dev/bus")
}

/// A `/dev` of our own with everything in it that the real one has now.
fn cover_dev() -> io::Result<()> {
    let real = Directory::open("/dev")?;
    tmpfs("/dev")?;
    for entry in fs::read_dir(real.path())? {
        let entry = entry?;
        let (kind, source, target) =
            (entry.file_type()?, entry.path(), Path::new("/dev").join(entry.file_name()));
        if kind.is_symlink() {
            symlink(fs::read_link(source)?, target)?;
            continue;
        }
        match kind.is_dir() {
            true => fs::create_dir(&target)?,
            false => drop(File::create(&target)?),
        }
        mount_over(target, Some(&source), None, MsFlags::MS_BIND | MsFlags::MS_REC)?;
    }
    Ok(())
}

/// Covers the boot id with a file that starts with the real one's content and has no name of its own.
fn cover_boot_id() -> io::Result<File> {
    let source = Path::new("/sys/boot_id");
    fs::write(source, fs::read(BOOT_ID)?)?;
    mount_over(BOOT_ID, Some(source), None, MsFlags::MS_BIND)?;
    let file = File::options().write(true).open(source)?;
    fs::remove_file(source)?;
    Ok(file)
}

fn tmpfs(target: &str) -> io::Result<()> {
    mount_over(target, None, Some("tmpfs"), MsFlags::MS_NOSUID)
}

fn mount_over(
    target: impl AsRef<Path>,
    source: Option<&Path>,
    kind: Option<&str>,
    flags: MsFlags,
) -> io::Result<()> {
    let target = target.as_ref();
    let options = kind.map(|_| "mode=755");
    mount(source, target, kind, flags, options).map_err(|error| {
        let text = format!("cannot mount over {} in the bus's namespace: {error}", target.display());
        io::Error::new(io::Error::from(error).kind(), text)
    })
}

fn descriptor_path(descriptor: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}
