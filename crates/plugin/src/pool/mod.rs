//! The workers of one plugin: up to `max_workers` threads, each with a process of its own that it starts when it
//! first gets an event. The kernel ends a process with the thread that started it, so they stay together.
//!
//! A new version is tried by one thread beside its old worker. Once it is ready, it is the pool's, and every
//! thread changes over when it is done with its event; if it does not become ready, nothing has changed.

mod queue;
mod slot;

use std::io::{self, PipeReader, PipeWriter, Write};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use autoweave_usb_device::{Action, Event};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::breaker::Breaker;
use crate::launch::Launch;
use crate::package::Package;
use crate::report::{Report, Sink};
use crate::worker::{Deadlines, Killer};
use queue::{Job, Queue};

/// Events that wait for a plugin; who brings more waits.
const WAITING_MAX: usize = 256;

/// Workers of a plugin: what a manifest may ask for.
const SLOTS_MAX: usize = 8;

/// How a pool treats its plugin.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// How long a plugin may take.
    pub deadlines: Deadlines,
    /// How often an event is delivered before it is given up; 1 or more.
    pub deliveries_max: u32,
    /// How long an event waits while its plugin's circuit is open, before it is given up.
    pub patience: Duration,
}

/// Says whether an event may be delivered at this moment.
pub type Gate = Arc<dyn Fn() -> bool + Send + Sync>;

/// What a pool has to do with who runs it.
pub(crate) struct Outside {
    pub(crate) report: Sink,
    pub(crate) gate: Gate,
}

/// A version of a plugin, and how it is run.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub(crate) package: Package,
    pub(crate) launch: Launch,
}

/// How an event went with one plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The plugin's name.
    pub plugin: String,
    /// The last delivery's number, as the plugin was told; the first one's where there was none.
    pub deliveries: u32,
    /// How it ended.
    pub ending: Ending,
    /// The last delivery, if the plugin was given it.
    pub hook: Option<HookRun>,
}

/// A plugin's handling of one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HookRun {
    /// When it was given the event.
    pub began: SystemTime,
    /// Until it answered, crashed or was given up on.
    pub took: Duration,
}

/// How an event ended with one plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The plugin is done with it.
    Done,
    /// It failed for good: this is for the dead letters.
    GaveUp {
        /// Why.
        error: String,
    },
    /// The plugin was removed before it was done.
    Removed,
    /// The loader ends: not to be acknowledged, it has to be delivered again.
    Left,
}

/// Numbers for metrics and `/health`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tallies {
    /// Events it is done with.
    pub done: u64,
    /// Events that were given up.
    pub given_up: u64,
    /// Deliveries that failed, whether tried again or not.
    pub failed: u64,
    /// Workers that crashed, hung or broke the protocol.
    pub crashes: u64,
    /// Processes that run now.
    pub workers: usize,
    /// Events that wait now.
    pub waiting: usize,
    /// Whether the circuit is open.
    pub circuit_open: bool,
    /// How long the plugin took for an event, each delivery that it answered.
    pub durations: Durations,
}

/// How long something took, counted by [`Durations::BOUNDS_MS`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Durations {
    /// One more than there are bounds: the last is for what took longer than all of them.
    pub counts: [u64; Durations::BOUNDS_MS.len() + 1],
    /// All of them together, in microseconds.
    pub sum_us: u64,
}

impl Durations {
    /// Upper bounds, in milliseconds.
    pub const BOUNDS_MS: [u64; 13] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 5_000, 10_000, 30_000];

    fn add(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.counts[Self::BOUNDS_MS.partition_point(|bound| bound * 1_000 < micros)] += 1;
        self.sum_us = self.sum_us.saturating_add(micros);
    }
}

pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    name: String,
    policy: Policy,
    outside: Outside,
    state: Mutex<State>,
    room: Condvar,
}

struct State {
    queue: Queue,
    version: Arc<Version>,
    candidate: Option<Candidate>,
    breaker: Breaker,
    /// Of the last crash.
    last_error: String,
    closing: Option<Ending>,
    /// By slot: how to end its process.
    workers: Vec<Option<Killer>>,
    /// By slot: the connection whose node its process may open.
    devices: Vec<Option<Connection>>,
    /// By slot, for those that have a thread: a byte ends its wait.
    wakers: Vec<PipeWriter>,
    /// Slots whose threads have not ended.
    slots_left: usize,
    tallies: Tallies,
}

/// What tells one connection of a device from the next: its node has the address in its name.
type Connection = (String, u8);

/// A version to be tried, and who wants to know whether it became ready.
struct Candidate {
    version: Arc<Version>,
    reply: Sender<Result<(), String>>,
}

impl Pool {
    /// Starts the threads, and one worker.
    ///
    /// # Errors
    /// Why it did not become ready.
    pub(crate) fn open(version: Version, policy: Policy, outside: Outside) -> Result<Self, String> {
        let (name, version) = (version.package.manifest.name.clone(), Arc::new(version));
        let state = State {
            queue: Queue::new(SLOTS_MAX),
            version: Arc::clone(&version),
            candidate: None,
            breaker: Breaker::default(),
            last_error: String::new(),
            closing: None,
            workers: (0..SLOTS_MAX).map(|_| None).collect(),
            devices: vec![None; SLOTS_MAX],
            wakers: Vec::new(),
            slots_left: 0,
            tallies: Tallies::default(),
        };
        let shared =
            Arc::new(Shared { name, policy, outside, state: Mutex::new(state), room: Condvar::new() });
        let pool = Self { shared, threads: Mutex::default() };
        match pool.try_version(version) {
            Ok(()) => Ok(pool),
            Err(error) => {
                pool.begin_to_close(Ending::Removed);
                pool.close(Instant::now());
                Err(error)
            }
        }
    }

    /// Goes over to another version once one of its workers is ready; waits for that.
    ///
    /// # Errors
    /// Why none is: nothing has changed.
    pub(crate) fn swap(&self, version: Version) -> Result<(), String> {
        self.try_version(Arc::new(version))
    }

    fn try_version(&self, version: Arc<Version>) -> Result<(), String> {
        self.grow(version.slots()).map_err(|error| format!("cannot start a thread: {error}"))?;
        let (reply, answer) = channel();
        let mut state = self.shared.lock();
        // Nobody would take it any more, nor answer.
        state.candidate = state.closing.is_none().then_some(Candidate { version, reply });
        drop(state);
        self.shared.wake_all();
        answer.recv().unwrap_or_else(|_| Err("the plugin is being ended".to_owned()))
    }

    /// Starts the threads that are missing.
    fn grow(&self, slots: usize) -> io::Result<()> {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for slot in threads.len()..slots {
            let (reader, writer) = waker()?;
            let shared = Arc::clone(&self.shared);
            let builder = thread::Builder::new().name(format!("plugin-{slot}"));
            // Held until the thread is counted: it takes itself off at its end.
            let mut state = self.shared.lock();
            if state.closing.is_some() {
                break;
            }
            threads.push(builder.spawn(move || slot::run(&shared, slot, &reader))?);
            state.wakers.push(writer);
            state.slots_left += 1;
        }
        Ok(())
    }

    /// Queues an event if the plugin hears such, and waits for room if there is none. `delivery` is the number
    /// of its first delivery.
    pub(crate) fn submit(&self, event: &Arc<Event>, delivery: u32, reply: Sender<Outcome>) -> bool {
        let mut state = self.shared.lock();
        if !state.version.hears(event) {
            return false;
        }
        while state.queue.len() >= WAITING_MAX && state.closing.is_none() {
            state = self.shared.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let job = self.shared.job(event, delivery, Some(reply));
        match state.closing.clone() {
            Some(ending) => self.shared.answer(&job, ending),
            None => state.queue.push(job),
        }
        drop(state);
        self.shared.wake_one();
        true
    }

    /// Queues attaches before all others, whether there is room or not: what is there when a version starts.
    pub(crate) fn submit_first(&self, events: impl Iterator<Item = Arc<Event>>) {
        let mut state = self.shared.lock();
        let heard = events.filter(|event| state.version.hears(event));
        let jobs = heard.map(|event| self.shared.job(&event, 1, None)).collect();
        state.queue.push_first(jobs);
        drop(state);
        self.shared.wake_all();
    }

    pub(crate) fn version(&self) -> Arc<Version> {
        Arc::clone(&self.shared.lock().version)
    }

    pub(crate) fn tallies(&self) -> Tallies {
        let state = self.shared.lock();
        Tallies {
            workers: state.workers.iter().flatten().count(),
            waiting: state.queue.len(),
            circuit_open: state.breaker.is_open(),
            ..state.tallies
        }
    }

    /// Of the last crash; empty before the first.
    pub(crate) fn last_error(&self) -> String {
        self.shared.lock().last_error.clone()
    }

    /// No more is delivered; what waited ends as `ending`.
    pub(crate) fn begin_to_close(&self, ending: Ending) {
        let mut state = self.shared.lock();
        for job in state.queue.remove(|_| true) {
            self.shared.answer(&job, ending.clone());
        }
        state.closing = Some(ending);
        state.candidate = None;
        drop(state);
        self.shared.room.notify_all();
        self.shared.wake_all();
    }

    /// After [`Pool::begin_to_close`]: lets the workers finish what they are at and end until `end`, then ends them.
    pub(crate) fn close(&self, end: Instant) {
        let mut state = self.shared.lock();
        while state.slots_left > 0 {
            let Some(left) = end.checked_duration_since(Instant::now()) else { break };
            let waited = self.shared.room.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.workers.iter().flatten().for_each(Killer::kill);
        drop(state);
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        // A thread that panicked has nothing to wait for either.
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }
}

impl State {
    fn forget_worker(&mut self, slot: usize) {
        (self.workers[slot], self.devices[slot]) = (None, None);
    }

    /// The next job for a slot. Where devices are opened, that is one for the device its worker is for, else for one
    /// that no worker is for, if it has no device itself or all have.
    fn take(&mut self, slot: usize, now: Instant) -> Option<Job> {
        let devices = &self.devices[..self.version.slots()];
        let opens = self.version.opens();
        let may = |event: &Event| {
            let connection = slot::connection(&event.device);
            match devices.iter().position(|device| device.as_ref() == Some(&connection)) {
                Some(holder) => holder == slot,
                None => devices[slot].is_none() || devices.iter().all(Option::is_some),
            }
        };
        self.queue.take(slot, now, |event| !opens || may(event))
    }
}

impl Version {
    /// Whether this version is to be told of `event`.
    pub(crate) fn hears(&self, event: &Event) -> bool {
        let manifest = &self.package.manifest;
        let hook = match event.action {
            Action::Attach => &manifest.hooks.on_usb_attach,
            Action::Detach => &manifest.hooks.on_usb_detach,
        };
        hook.is_some() && manifest.permissions.usb.matches(&event.device)
    }

    /// Whether its workers open devices, and so are for one device each.
    fn opens(&self) -> bool {
        self.package.manifest.permissions.usb.open
    }

    fn slots(&self) -> usize {
        usize::from(self.package.manifest.permissions.max_workers)
    }
}

impl Shared {
    /// A thread that panicked left nothing half-done: each change of the state is one assignment or push.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn job(&self, event: &Arc<Event>, delivery: u32, reply: Option<Sender<Outcome>>) -> Job {
        let patience = Instant::now() + self.policy.patience;
        Job {
            event: Arc::clone(event),
            delivery: delivery.max(1),
            not_before: None,
            patience,
            reply,
            hook: None,
        }
    }

    fn answer(&self, job: &Job, ending: Ending) {
        let outcome = Outcome { plugin: self.name.clone(), deliveries: job.delivery, ending, hook: job.hook };
        // Who asked may not want to know any more.
        job.reply.iter().for_each(|reply| drop(reply.send(outcome.clone())));
    }

    fn wake_all(&self) {
        self.lock().wakers.iter().for_each(wake);
    }

    /// A slot that is free, with a worker if there is one; all where only one of them may be the right one.
    fn wake_one(&self) {
        let state = self.lock();
        if state.version.opens() {
            return state.wakers.iter().for_each(wake);
        }
        let free = (0..state.version.slots()).filter(|slot| !state.queue.is_running(*slot));
        let best = free.max_by_key(|slot| (state.workers[*slot].is_some(), std::cmp::Reverse(*slot)));
        best.and_then(|slot| state.wakers.get(slot)).into_iter().for_each(wake);
    }

    fn tell(&self, report: Report) {
        (self.outside.report)(report);
    }
}

/// A pipe that is full wakes as well.
fn wake(mut waker: &PipeWriter) {
    let _ = waker.write(&[0]);
}

fn waker() -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((reader, writer))
}
