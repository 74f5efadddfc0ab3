//! Offers USB devices to a Kubernetes node's kubelet. Keeps no journal: what counts is what is there now, and it works
//! beside a daemon or without one.

use std::time::Duration;

use autoweave_usb_device::{DeviceTable, Reason};
use autoweave_usb_device_plugin::{Inventory, Memory, Server};
use autoweave_usb_source::{Batch, Position, Watch, has_usb, nodes};
use tracing::{error, info, warn};

use crate::cli::{Common, DevicePlugin};
use crate::exit::Failure;
use crate::{config, logging, signals};

/// A wait begins anew after this long; it only has to be finite.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Runs until SIGTERM or SIGINT.
pub fn run(common: &Common, arguments: &DevicePlugin) -> Result<(), Failure> {
    signals::block()?;
    let loaded = super::load_for_daemon(common, arguments.source.as_deref())?;
    let config = &loaded.config;
    let config::DevicePlugin { resources, directory } = config.device_plugin.clone();
    if resources.is_empty() {
        return Err(Failure::usage(
            "no resource is configured: set device_plugin.resources, such as \
             `\"autoweave.dev/usb-camera\" = { class = 14 }`",
        ));
    }
    let _logging = logging::start(&config.log, None);
    super::warn_passed_over(&loaded);
    let sources = super::open_sources(super::options(config))?;
    let interrupter = sources.interrupter();
    let wake = interrupter.clone();
    let requests = signals::handle(move || wake.interrupt())?;
    // Every edge as it comes: the kubelet is told the newest state, however many it missed.
    let mut watch = Watch::new(sources, DeviceTable::default(), Reason::Coldplug, Position::default());
    info!("watching {}", watch.sources().source().description());
    if !has_usb() {
        info!("this machine has no USB bus");
    }
    let memory = Memory::beside(&directory);
    let mut inventory = Inventory::new(resources, memory.read());
    let mut has_scanned = false;
    let mut server: Option<Server> = None;
    loop {
        let batch = watch.next_batch(PATIENCE).map_err(Failure::unavailable)?;
        // Nothing is kept for a later run, so there is nothing to read again.
        watch.journaled();
        tell(&batch);
        if requests.take_reload() || requests.is_upgrade() {
            requests.go_on();
            warn!("only a restart applies another configuration or program");
        }
        let has_ended = server.as_ref().is_some_and(Server::has_ended);
        if requests.is_stop() || has_ended {
            return server.map_or(Ok(()), Server::stop).map_err(Failure::unavailable);
        }
        // Not before the bus was scanned: a kubelet that is told of no device takes it from the pods that have it, and
        // which serial numbers are whose is seen when all are there.
        has_scanned |= batch.scanned;
        if !has_scanned {
            continue;
        }
        if inventory.update(watch.table().devices()) {
            memory.write(&inventory.remembered());
        }
        inventory.tell();
        if server.is_none() {
            let (resources, interrupter) = (inventory.subscribe().collect(), interrupter.clone());
            let started = Server::start(directory.clone(), resources, nodes, move || interrupter.interrupt());
            server = Some(started.map_err(Failure::unavailable)?);
        }
    }
}

fn tell(batch: &Batch) {
    for _ in &batch.overruns {
        warn!("the kernel dropped messages; the bus is scanned for what was lost");
    }
    for error in &batch.scan_failures {
        error!("the bus cannot be scanned: {error}; what is known of it stands");
    }
    for switch in &batch.switches {
        if switch.why.is_some() {
            error!("{switch}");
        } else {
            info!("{switch}");
        }
    }
}
