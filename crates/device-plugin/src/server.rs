//! Keeps the kubelet informed, on a thread of its own.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use autoweave_usb_device::Port;
use futures_util::future::{Either, select};
use tokio::runtime;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout;
use tracing::info;

use crate::Error;
use crate::directory::Directory;
use crate::inventory::Listing;
use crate::plugin::Plugin;
use crate::service::Service;
use crate::watchers::Watchers;

/// Between two tries to reach a kubelet that is there but does not listen yet, or that does not watch any longer, the first
/// and the longest.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A wait begins anew after this long; it only has to be finite.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Threads that read sysfs for the kubelet.
const READERS_MAX: usize = 4;

/// A resource's name, and its devices now and from now on.
pub type Resource = (String, watch::Receiver<Listing>);

/// The thread that serves the kubelet.
#[derive(Debug)]
pub struct Server {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<(), Error>>,
}

impl Server {
    /// Serves `resources` to the kubelet that listens in `directory`, now or later. `nodes` names the device nodes of the
    /// device in a port; `on_end` is called when [`Self::has_ended`].
    ///
    /// # Errors
    /// The system has no thread or no file descriptor left.
    pub fn start(
        directory: PathBuf,
        resources: Vec<Resource>,
        nodes: fn(Port) -> Vec<String>,
        on_end: impl FnOnce() + Send + 'static,
    ) -> Result<Self, Error> {
        let runtime =
            runtime::Builder::new_current_thread().enable_all().max_blocking_threads(READERS_MAX).build()?;
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            let served = runtime.block_on(async {
                let (serve, stopped) = (pin!(serve(&directory, resources, nodes)), pin!(stopped));
                match select(serve, stopped).await {
                    Either::Left((ended, _)) => ended,
                    Either::Right(_) => Ok(()),
                }
            });
            // A read of sysfs may wait for ever.
            runtime.shutdown_background();
            on_end();
            served
        };
        let thread = thread::Builder::new().name("kubelet".to_owned()).spawn(serve)?;
        Ok(Self { stop, thread })
    }

    /// Whether it serves no longer: [`Self::stop`] says why.
    pub fn has_ended(&self) -> bool {
        self.stop.is_closed()
    }

    /// Takes the sockets away, and ends the thread.
    ///
    /// # Errors
    /// Why it had ended by itself.
    pub fn stop(self) -> Result<(), Error> {
        // It has ended if it does not listen.
        let _ = self.stop.send(());
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("its thread panicked").into()))
    }
}

/// The plugins of all resources; their sockets go with it.
struct Plugins(Vec<Plugin>);

impl Drop for Plugins {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(Plugin::remove);
    }
}

async fn serve(path: &Path, resources: Vec<Resource>, nodes: fn(Port) -> Vec<String>) -> Result<(), Error> {
    // Watched first: no start of the kubelet goes unseen.
    let directory = Directory::watch(path)?;
    let lost = Arc::new(Notify::new());
    let plugin = |(resource, listing)| {
        let watchers = Arc::new(Watchers::new(lost.clone()));
        Plugin::new(Service { resource, listing, nodes, watchers }, &directory)
    };
    let mut plugins = Plugins(resources.into_iter().map(plugin).collect());
    let mut retry = RETRY_MIN;
    if !directory.kubelet().exists() {
        info!("waiting for the kubelet to make {}", directory.kubelet().display());
    }
    loop {
        if directory.take_new_kubelet()? {
            info!("the kubelet has started");
            plugins.0.iter_mut().for_each(|plugin| plugin.is_registered = false);
            retry = RETRY_MIN;
        }
        for plugin in &mut plugins.0 {
            plugin.ensure_bound()?;
        }
        let kubelet_is_there = directory.kubelet().exists();
        for plugin in plugins.0.iter_mut().filter(|plugin| kubelet_is_there && !plugin.is_registered) {
            plugin.register(&directory).await?;
        }
        let is_done = plugins.0.iter().all(|plugin| plugin.is_registered);
        let patience = if is_done || !kubelet_is_there { PATIENCE } else { retry };
        let happened = pin!(timeout(patience, directory.readable()));
        let watchers_lost = pin!(lost.notified());
        match select(happened, watchers_lost).await {
            Either::Left((Ok(happened), _)) => happened?,
            Either::Left((Err(_), _)) => retry = (retry * 2).min(RETRY_MAX),
            Either::Right(_) => {
                // A kubelet that ends does not listen any more, and one that starts anew goes first.
                if let Ok(happened) = timeout(retry, directory.readable()).await {
                    happened?;
                }
                if plugins.0.iter_mut().fold(false, |any, plugin| plugin.take_lost() | any) {
                    retry = (retry * 2).min(RETRY_MAX);
                }
            }
        }
    }
}
