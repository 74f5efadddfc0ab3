//! From a consumer to a loader and back: what is delivered goes to the plugins at once, and is settled in order when all
//! of them are done with it. Two threads, so that a plugin that takes its time holds up nobody else's event, until
//! [`WINDOW`] of them are not settled: then all wait for it, at most as long as its deadlines and patience last.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use autoweave_usb_device::{Event, Traceparent};
use autoweave_usb_plugin::loader::{Loader, Options, Pending};
use autoweave_usb_plugin::pool::Ending;
use autoweave_usb_stream::{Consumer, Deliveries, Delivery, Letter, Settlements};
use tracing::warn;

use super::{Control, OPEN_AGAIN, tell};
use crate::http::{Monitor, Severity};
use crate::telemetry::Consumption;

/// Who says in the health report that there is no loader.
const LOADER: &str = "plugins";

/// Deliveries that are not settled, at most: fewer than wait for one plugin, so that none of them waits to be handed
/// over.
const WINDOW: usize = 200;

/// Deliveries that are settled in one go, at most.
const TOGETHER: usize = 64;

/// How long to wait for something before looking whether to end.
const PATIENCE: Duration = Duration::from_millis(250);

/// A delivery, and the plugins that are at it; none where it is no event.
type Handed = (Delivery, Option<Pending>);

/// Runs the plugins that `options` say until `control` stops them, or their gate is shut: then they are ended at once,
/// and what is not settled is delivered again.
pub fn run(
    control: &Control,
    consumer: &mut Consumer,
    connected: &[Arc<Event>],
    options: &Options,
    monitor: &Arc<Monitor>,
    consumption: &Consumption,
) {
    let ends = || control.is_stopped() || !(options.gate)();
    let Some(loader) = open(&ends, connected, options, monitor) else { return };
    control.set_loader(Some(loader.clone()));
    while !ends() && !loader.wait_until_loaded(PATIENCE) {}
    let Consumer { deliveries, settlements, .. } = consumer;
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(WINDOW);
        scope.spawn(|| settle(receiver, settlements, consumption, &ends));
        feed(&loader, deliveries, &sender, consumption, &ends);
        loader.close(control.grace());
    });
    if control.is_stopped() {
        deliveries.leave();
    }
    control.set_loader(None);
}

fn open(
    ends: &impl Fn() -> bool,
    connected: &[Arc<Event>],
    options: &Options,
    monitor: &Arc<Monitor>,
) -> Option<Arc<Loader>> {
    while !ends() {
        match Loader::open(options.clone(), connected.to_vec(), tell::sink(monitor.recorder.clone())) {
            Ok(loader) => {
                monitor.update(|status| status.clear(LOADER));
                return Some(Arc::new(loader));
            }
            Err(fault) => {
                warn!("plugins cannot be run: {fault}");
                monitor.update(|status| status.raise(LOADER, Severity::Degraded, fault.to_string()));
                let end = Instant::now() + OPEN_AGAIN;
                while !ends() && Instant::now() < end {
                    thread::sleep(PATIENCE);
                }
            }
        }
    }
    None
}

fn feed(
    loader: &Loader,
    deliveries: &mut Deliveries,
    sender: &SyncSender<Handed>,
    consumption: &Consumption,
    ends: &impl Fn() -> bool,
) {
    while !ends() {
        if !deliveries.wait_for_room(WINDOW - 1, PATIENCE) {
            continue;
        }
        let asked = consumption.clock();
        let delivered = deliveries.next(WINDOW - deliveries.unsettled(), PATIENCE);
        let came = consumption.clock();
        for delivery in delivered {
            delivery.event.iter().for_each(|event| consumption.received(event, asked, came));
            let alone = delivery.alone;
            while alone && !ends() && !deliveries.wait_for_room(1, PATIENCE) {}
            let pending = delivery.event.as_ref().ok();
            let pending = pending.map(|event| loader.dispatch(event, delivery.deliveries));
            // It ends only after this.
            let _ = sender.send((delivery, pending));
            while alone && !ends() && !deliveries.wait_for_room(0, PATIENCE) {}
        }
    }
}

fn settle(
    receiver: Receiver<Handed>,
    settlements: &mut Settlements,
    consumption: &Consumption,
    ends: &impl Fn() -> bool,
) {
    let mut next = receiver.recv().ok();
    while let Some(first) = next.take() {
        // Together with the first, whatever else is done by then: a server that syncs each call to its disk is slow.
        let mut together = vec![first];
        while together.len() < TOGETHER && next.is_none() {
            let Ok((delivery, mut pending)) = receiver.try_recv() else { break };
            if pending.as_mut().is_none_or(Pending::is_done) {
                together.push((delivery, pending));
            } else {
                next = Some((delivery, pending));
            }
        }
        let (mut done, mut given_up) = (Vec::new(), Vec::new());
        for (delivery, pending) in together {
            match letters(&delivery, pending, consumption) {
                Some(letters) if letters.is_empty() => done.push(delivery),
                Some(letters) => given_up.push((delivery, letters)),
                None => {}
            }
        }
        let began = consumption.clock();
        if settlements.settle_done(&done, ends).is_break() {
            return;
        }
        done.iter().for_each(|delivery| consumption.settled(origin(delivery), began));
        for (delivery, letters) in given_up {
            letters.iter().for_each(|letter| tell::given_up(&delivery, letter));
            let began = consumption.clock();
            if settlements.settle(&delivery, &letters, ends).is_break() {
                return;
            }
            consumption.settled(origin(&delivery), began);
        }
        next = next.or_else(|| receiver.recv().ok());
    }
}

fn origin(delivery: &Delivery) -> Option<Traceparent> {
    delivery.event.as_ref().ok().and_then(|event| event.traceparent)
}

/// Waits for the plugins; none: one of them was ended before it was done.
fn letters(delivery: &Delivery, pending: Option<Pending>, consumption: &Consumption) -> Option<Vec<Letter>> {
    let mut letters = Vec::new();
    if let Err(error) = &delivery.event {
        letters.push(Letter { error: error.clone(), deliveries: delivery.deliveries, plugin: String::new() });
    }
    for outcome in pending.map(Pending::wait).unwrap_or_default() {
        delivery.event.iter().for_each(|event| consumption.processed(event, &outcome));
        match outcome.ending {
            Ending::Done | Ending::Removed => {}
            Ending::GaveUp { error } => {
                letters.push(Letter { error, deliveries: outcome.deliveries, plugin: outcome.plugin });
            }
            Ending::Left => return None,
        }
    }
    Some(letters)
}
