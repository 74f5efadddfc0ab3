//! The server: one thread, one listener, a bounded number of connections.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, io};

use autoweave_usb_stream::Secret;
use axum::Router;
use futures_util::future::{Either, select};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::runtime::{self, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::{sleep, timeout_at};
use tracing::{debug, warn};

use super::log::Log;
use super::monitor::{Committed, Monitor};
use super::patient::Patient;
use super::routes::{self, App};
use super::stream::Live;
use crate::system::allow_open_files;

/// What clients may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at a time; more wait to be accepted.
    pub(super) connections: usize,
    /// Clients at a time that follow the log; fewer than connections, so that `/health` can be asked meanwhile.
    pub(super) streams: usize,
    /// Until the head of a request is there, also the next one on the same connection.
    pub(super) header_timeout: Duration,
    /// Without any progress in sending.
    pub(super) write_timeout: Duration,
    /// Between two signs of life in an event stream.
    pub(super) keep_alive: Duration,
}

impl Limits {
    pub(super) const DEFAULT: Self = Self {
        connections: 1024,
        streams: 1000,
        header_timeout: Duration::from_secs(10),
        write_timeout: Duration::from_secs(30),
        keep_alive: Duration::from_secs(15),
    };
}

/// A request's line and headers, and what is kept for a client that does not read, each.
const BUFFER_BYTES: usize = 16 * 1024;

const HEADERS_MAX: usize = 64;

/// What the kernel keeps for a client that does not read; it doubles this (socket(7)) and would let it grow to
/// megabytes otherwise.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Without an acknowledgement of what was sent: a client whose machine is gone is noticed after
/// the next sign of life it is sent, and not only when the kernel gives up after a quarter of an hour.
#[cfg(target_os = "linux")]
const VANISHED: Duration = Duration::from_secs(60);

/// Open files the rest of the daemon needs.
const OTHER_FILES: u64 = 256;

/// How long to wait when no connection can be accepted, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why HTTP cannot be served.
#[derive(Debug, Error)]
#[error(
    "HTTP cannot listen on {address}: {source}; choose another monitoring.healthcheck_port (or monitoring.bind), or set monitoring.enabled = false"
)]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

/// An address that is taken; clients wait until [`Server::start`].
#[derive(Debug)]
pub struct Listener(TcpListener);

impl Listener {
    /// Takes `address`; with port 0 the system chooses one.
    ///
    /// # Errors
    /// It is in use, not this machine's, or not allowed.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let failed = |source| BindError { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        // Accepted sockets inherit these.
        let socket = SockRef::from(&listener);
        socket.set_send_buffer_size(SEND_BUFFER_BYTES).map_err(failed)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(VANISHED)).map_err(failed)?;
        Ok(Self(listener))
    }
}

/// HTTP, served by a thread of its own.
pub struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<Instant>,
    thread: JoinHandle<()>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.address)
    }
}

impl Server {
    /// Serves what `monitor` says, and the journal in `state_dir`, to those who ask for an address or for one of `hosts`;
    /// devices and events only to those who know `token`, if there is one.
    ///
    /// # Errors
    /// The system has no thread or no file descriptor left.
    pub fn start(
        hosts: Vec<String>,
        token: Option<Secret>,
        listener: Listener,
        monitor: Arc<Monitor>,
        state_dir: PathBuf,
    ) -> io::Result<Self> {
        Self::start_within(Limits::DEFAULT, hosts, token, listener, monitor, state_dir)
    }

    /// [`Self::start`], and clients may take what `limits` say.
    pub(super) fn start_within(
        limits: Limits,
        hosts: Vec<String>,
        token: Option<Secret>,
        Listener(listener): Listener,
        monitor: Arc<Monitor>,
        state_dir: PathBuf,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let limits = limits.with_open_files();
        let runtime = runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            // One reads the journal, and one sysfs: neither waits for what keeps the other.
            .max_blocking_threads(2)
            .thread_name("http-read")
            .build()?;
        let listener = {
            let _context = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let (stop, stopped) = oneshot::channel();
        let live_sender = watch::Sender::new(Live::default());
        let streams = Arc::new(Semaphore::new(limits.streams));
        let (log, live) = (Log::new(state_dir), live_sender.subscribe());
        let sysfs = Arc::new(Semaphore::new(1));
        let app = App { hosts, token, monitor, log, sysfs, live, streams, keep_alive: limits.keep_alive };
        let serve = move || run(runtime, listener, app, live_sender, limits, stopped);
        let thread = thread::Builder::new().name("http".to_owned()).spawn(serve)?;
        Ok(Self { address, stop, thread })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts no more, ends event streams, finishes other answers, and cuts off what is not done within
    /// `patience`. Afterwards the journal is no longer open here.
    pub fn stop(self, patience: Duration) {
        // If the thread has ended there is nothing to stop.
        let _ = self.stop.send(Instant::now() + patience);
        if self.thread.join().is_err() {
            warn!("the HTTP thread had panicked");
        }
    }
}

fn run(
    runtime: Runtime,
    listener: tokio::net::TcpListener,
    app: App,
    live: watch::Sender<Live>,
    limits: Limits,
    stopped: oneshot::Receiver<Instant>,
) {
    let deadline = runtime.block_on(serve(listener, app, live, limits, stopped));
    runtime.shutdown_timeout(deadline.saturating_duration_since(Instant::now()));
}

/// Serves until it is asked to stop; returns by when it has to be over.
async fn serve(
    listener: tokio::net::TcpListener,
    app: App,
    live: watch::Sender<Live>,
    limits: Limits,
    stopped: oneshot::Receiver<Instant>,
) -> Instant {
    let live = Arc::new(live);
    let relaying = tokio::spawn(relay(app.monitor.subscribe(), live.clone()));
    let connections = GracefulShutdown::new();
    let deadline = {
        let accepting = pin!(accept(listener, routes::router(app), limits, &connections));
        match select(stopped, accepting).await {
            Either::Left((Ok(deadline), _)) => deadline,
            // A server that was dropped stops at once.
            Either::Left((Err(_), _)) => Instant::now(),
            Either::Right((never, _)) => match never {},
        }
    };
    relaying.abort();
    live.send_modify(|live| live.is_closing = true);
    if timeout_at(deadline.into(), connections.shutdown()).await.is_err() {
        debug!("some HTTP clients were cut off");
    }
    deadline
}

/// Tells the clients that follow the log of its end. Through one more channel, because whoever sends wakes all
/// that listen, and the thread that commits events must not wake a thousand.
async fn relay(mut committed: watch::Receiver<Committed>, live: Arc<watch::Sender<Live>>) {
    loop {
        let last_seq = committed.borrow_and_update().last_seq;
        live.send_if_modified(|live| {
            let is_new = live.last_seq != last_seq;
            live.last_seq = last_seq;
            is_new
        });
        if committed.changed().await.is_err() {
            return;
        }
    }
}

async fn accept(
    listener: tokio::net::TcpListener,
    router: Router,
    limits: Limits,
    connections: &GracefulShutdown,
) -> Infallible {
    let permits = Arc::new(Semaphore::new(limits.connections));
    loop {
        let permit = permits.clone().acquire_owned().await.expect("nothing closes the semaphore");
        match listener.accept().await {
            Ok((stream, _)) => {
                let watcher = connections.watcher();
                tokio::spawn(converse(stream, router.clone(), limits, watcher, permit));
            }
            Err(error) => {
                debug!("an HTTP connection cannot be accepted: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(
    stream: TcpStream,
    router: Router,
    limits: Limits,
    watcher: Watcher,
    _permit: OwnedSemaphorePermit,
) {
    // It only costs latency if it cannot be set.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(BUFFER_BYTES)
        .max_headers(HEADERS_MAX)
        .serve_connection(
            TokioIo::new(Patient::new(stream, limits.write_timeout)),
            TowerToHyperService::new(router),
        );
    if let Err(error) = watcher.watch(connection).await {
        debug!("an HTTP connection ended: {error}");
    }
}

impl Limits {
    /// Lets the process open as many files as this takes; allows fewer connections if it may not.
    fn with_open_files(mut self) -> Self {
        let wanted = self.connections as u64 + OTHER_FILES;
        let Some(files) = allow_open_files(wanted) else { return self };
        if files < wanted {
            let connections =
                usize::try_from(files.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX).max(32);
            warn!(connections, files, "fewer HTTP connections than usual: the limit of open files is low");
            self.connections = connections.min(self.connections);
            self.streams = self.streams.min(self.connections / 2);
        }
        self
    }
}
