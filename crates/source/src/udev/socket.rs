//! The socket that the udev helper writes to: datagrams, each with the kernel's word on who sent it (unix(7),
//! `SO_PASSCRED`).

use std::fs::{self, Permissions};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process;

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixAddr, UnixCredentials, recvmsg, setsockopt, sockopt,
};
use nix::unistd::geteuid;

use crate::Notice;

/// Its owner, and root, whom no mode stops. Others cannot even send; that they are told apart is the second lock.
const MODE: u32 = 0o600;

/// A bound socket. Dropping it takes its file away.
#[derive(Debug)]
pub struct Socket {
    socket: UnixDatagram,
    path: PathBuf,
    /// Device and inode of its file.
    file: (u64, u64),
}

/// What somebody sent.
#[derive(Debug)]
pub enum Datagram {
    /// A helper, or somebody who may be one.
    Notice(Box<Notice>),
    /// It is no notice.
    Malformed,
    /// Neither root nor this process's user sent it.
    Foreign,
}

impl Socket {
    /// Binds the socket at `path`, in place of one that nobody listens to any longer.
    ///
    /// # Errors
    /// `AddrInUse`: somebody listens there. Or it cannot be made.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if UnixDatagram::unbound()?.connect(path).is_ok() {
            let text = format!("another daemon listens on {}", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        let unnamed = path.with_file_name(format!(".notify.{}", process::id()));
        let _ = fs::remove_file(&unnamed);
        let socket = UnixDatagram::bind(&unnamed)?;
        let named = || {
            socket.set_nonblocking(true)?;
            setsockopt(&socket, sockopt::PassCred, &true)?;
            fs::set_permissions(&unnamed, Permissions::from_mode(MODE))?;
            let file = identity(&unnamed)?;
            // A helper finds the old one or the new one, and never none.
            fs::rename(&unnamed, path)?;
            Ok(file)
        };
        match named() {
            Ok(file) => Ok(Self { socket, path: path.to_owned(), file }),
            Err(error) => {
                let _ = fs::remove_file(&unnamed);
                Err(error)
            }
        }
    }

    /// Fails when helpers would find something else in its place.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> io::Result<()> {
        let path = self.path.display();
        match identity(&self.path) {
            Ok(file) if file == self.file => Ok(()),
            Ok(_) => Err(io::Error::other(format!("{path} is somebody else's now"))),
            Err(error) => Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
        }
    }

    /// Takes its file away, if it is still its own. What was sent can still be received.
    pub fn unlink(&self) {
        if self.check().is_ok() {
            let _ = fs::remove_file(&self.path);
        }
    }

    /// The next datagram, if there is one.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn receive(&self) -> io::Result<Option<Datagram>> {
        // One more than may be, so that what is too long is seen.
        let mut bytes = [0; Notice::BYTES_MAX + 1];
        // No room for file descriptors: the kernel closes those that somebody sends along.
        let mut control = nix::cmsg_space!(UnixCredentials);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let (length, sender) =
            match recvmsg::<UnixAddr>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
                Ok(message) => (message.bytes, message.cmsgs().ok().and_then(|mut all| all.find_map(sender))),
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
        Ok(Some(match sender {
            Some(uid) if uid == 0 || uid == geteuid().as_raw() => Notice::parse(&bytes[..length])
                .map_or(Datagram::Malformed, |notice| Datagram::Notice(Box::new(notice))),
            _ => Datagram::Foreign,
        }))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.unlink();
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

fn sender(message: ControlMessageOwned) -> Option<u32> {
    match message {
        ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.uid()),
        _ => None,
    }
}
