//! One resource's socket, and who is connected to it.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::Error;
use crate::directory::Directory;
use crate::identity::hash;
use crate::kubelet::{Unregistered, register};
use crate::service::Service;

/// Connections at a time; the kubelet has one, further ones wait.
const CONNECTIONS_MAX: usize = 16;

/// Requests at a time on a connection; the kubelet has a stream and what it asks for pods that start.
const REQUESTS_MAX: u32 = 64;

/// Bytes that wait for a client that does not read, beyond its window.
const SEND_BUFFER_BYTES: usize = 16 * 1024;

/// Tries to make a socket that is taken away before it is in its place.
const BIND_TRIES: u32 = 10;

/// The longest path of a socket: a byte less than `sun_path` has (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// How long to wait when no connection can be accepted, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A resource and its socket in the kubelet's directory.
#[derive(Debug)]
pub struct Plugin {
    service: Service,
    endpoint: String,
    path: PathBuf,
    bound: Option<Bound>,
    pub is_registered: bool,
    /// Why it is not, as it was last told.
    told: String,
}

/// A socket that is served; no longer once this is dropped.
#[derive(Debug)]
struct Bound {
    /// Device and inode of the socket's file. No other gets the number while the socket is open (`unix_bind_bsd` in
    /// net/unix/af_unix.c keeps the file).
    file: (u64, u64),
    /// The task that serves it.
    _serving: JoinSet<()>,
}

impl Plugin {
    /// Serves nothing yet.
    pub fn new(service: Service, directory: &Directory) -> Self {
        let endpoint = endpoint(directory, &service.resource);
        let path = directory.join(&endpoint);
        Self { service, endpoint, path, bound: None, is_registered: false, told: String::new() }
    }

    /// Makes the socket if it is not there, or not there any more.
    ///
    /// # Errors
    /// It cannot be made, or somebody else's is in its place.
    pub fn ensure_bound(&mut self) -> Result<(), Error> {
        let path = self.path.clone();
        let failed = |source| Error::Socket { path, source };
        if let Some(bound) = &self.bound {
            match fs::symlink_metadata(&self.path) {
                Ok(metadata) if identity(&metadata) == bound.file => return Ok(()),
                Ok(_) => return Err(Error::Taken(self.path.clone())),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
        self.is_registered = false;
        self.bound = Some(self.bind().map_err(failed)?);
        Ok(())
    }

    /// The socket comes into its place at once, over an earlier plugin's: one that still runs has to see it, and no gap
    /// that it would fill.
    fn bind(&mut self) -> io::Result<Bound> {
        let there = fs::symlink_metadata(&self.path);
        if there.is_ok_and(|metadata| !metadata.file_type().is_socket()) {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "something that is no socket is there"));
        }
        let aside = self.path.with_extension("new");
        let mut tries = 1;
        let (listener, file) = loop {
            match bind_aside(&aside, &self.path) {
                // A kubelet that starts empties the directory.
                Err(error) if error.kind() == ErrorKind::NotFound && tries < BIND_TRIES => tries += 1,
                bound => break bound?,
            }
        };
        // Who watches the socket before is lost with it.
        self.service.watchers = Arc::new(self.service.watchers.anew());
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::new(self.service.clone())));
        Ok(Bound { file, _serving: serving })
    }

    /// Tells the kubelet.
    ///
    /// # Errors
    /// The kubelet said no. Where it is only absent, [`Self::is_registered`] stays false.
    pub async fn register(&mut self, directory: &Directory) -> Result<(), Error> {
        let resource = &self.service.resource;
        // Who watches from now on is this kubelet.
        self.service.watchers.take_lost();
        match register(&directory.kubelet(), &self.endpoint, resource).await {
            Ok(()) => {
                info!("the kubelet knows {resource}");
                self.is_registered = true;
                self.told.clear();
                Ok(())
            }
            // A kubelet refuses whom it cannot ask back, as when the socket was taken away meanwhile: it is made anew.
            Err(Unregistered::Refused(reason)) if self.path.exists() => {
                Err(Error::Refused { resource: resource.clone(), reason })
            }
            Err(Unregistered::Absent(reason) | Unregistered::Refused(reason)) => {
                if self.told != reason {
                    warn!("the kubelet cannot be told of {resource} yet: {reason:?}");
                    self.told = reason;
                }
                Ok(())
            }
        }
    }

    /// Whether the kubelet has watched and does no longer; it then has to be told again.
    pub fn take_lost(&mut self) -> bool {
        let is_lost = self.service.watchers.take_lost();
        if is_lost {
            warn!("the kubelet does not watch {} any longer", self.service.resource);
            self.is_registered = false;
        }
        is_lost
    }

    /// Takes the socket away if it is still ours.
    pub fn remove(&mut self) {
        let Some(bound) = self.bound.take() else { return };
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| identity(&metadata) == bound.file) {
            // One that stays is replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The name of a resource's socket, or of one that fits where that is too long.
fn endpoint(directory: &Directory, resource: &str) -> String {
    // Only one character of a resource's name cannot be part of a file's, and `_` is in no domain.
    let name = format!("{}.sock", resource.replace('/', "_"));
    if directory.join(&name).as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        name
    } else {
        format!("{}.sock", hash(resource.as_bytes()))
    }
}

fn bind_aside(aside: &Path, path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    // Left by one that was killed in this moment.
    let _ = fs::remove_file(aside);
    let listener = UnixListener::bind(aside)?;
    let file = identity(&fs::symlink_metadata(aside)?);
    fs::rename(aside, path)?;
    Ok((listener, file))
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

async fn serve(listener: UnixListener, service: Arc<Service>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let slot = slots.clone().acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let service = service.clone();
                connections.spawn(async move {
                    answer(stream, &service).await;
                    drop(slot);
                });
            }
            Err(error) => {
                debug!("a connection cannot be accepted: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(stream: UnixStream, service: &Service) {
    let answer = service_fn(|request| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(service.answer(request).await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(REQUESTS_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), answer);
    if let Err(error) = connection.await {
        debug!("a connection of {} ended: {error}", service.resource);
    }
}
