//! The workers of one plugin: up to `max_workers` threads, each with a process of its own that it starts when it
//! first gets an event.
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

/// Events that wait for a plugin, without those of what was there when it started; who brings more waits.
const WAITING_MAX: usize = 256;

/// Between two looks at a gate that may shut, or is shut.
const GATE_PAUSE: Duration = Duration::from_millis(100);

/// Workers of a plugin: what a manifest may ask for.
const SLOTS_MAX: usize = 8;

/// How a pool treats its plugin.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// How long a plugin may take.
    pub deadlines: Deadlines,
    /// How often an event is delivered before it is given up; 1 or more.
    pub deliveries_max: u32,
    /// How long events wait for a plugin whose circuit opened. From then on, until it works again, they are given up at
    /// once, but for one at each start that is tried: what waits holds up what other plugins are done with.
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
    /// The last delivery's number, as the plugin was told; what came before the loader counts as well. 0: there was none.
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

/// How long something took, counted by [`Durations::BOUNDS_US`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Durations {
    /// One more than there are bounds: the last is for what took longer than all of them.
    pub counts: [u64; Durations::BOUNDS_US.len() + 1],
    /// All of them together, in microseconds.
    pub sum_us: u64,
}

impl Durations {
    /// Upper bounds, in microseconds: close to one another from 0.1 ms to 10 s, and two for long deadlines.
    pub const BOUNDS_US: [u32; 18] = [
        100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
        2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
    ];

    fn add(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.counts[Self::BOUNDS_US.partition_point(|bound| u64::from(*bound) < micros)] += 1;
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
    /// Whether a worker was ever ready.
    has_started: bool,
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

/// Says what is connected.
pub(crate) type Connected = Box<dyn FnOnce() -> Vec<Arc<Event>> + Send>;

/// What tells one connection of a device from the next: its node has the address in its name.
type Connection = (String, u8);

/// A version to be tried, and who wants to know whether it became ready.
struct Candidate {
    version: Arc<Version>,
    /// What is connected once it is ready, as attaches in their order; none where that was queued before.
    connected: Option<Connected>,
    reply: Sender<Result<(), String>>,
}

impl Pool {
    /// Starts the threads; no worker before [`Pool::start`], or the first event.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn open(version: Version, policy: Policy, outside: Outside) -> io::Result<Self> {
        let (name, version) = (version.package.manifest.name.clone(), Arc::new(version));
        let state = State {
            queue: Queue::new(SLOTS_MAX),
            version: Arc::clone(&version),
            candidate: None,
            breaker: Breaker::default(),
            last_error: String::new(),
            has_started: false,
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
        match pool.grow(version.slots()) {
            Ok(()) => Ok(pool),
            Err(error) => {
                pool.begin_to_close(Ending::Left);
                pool.close(Instant::now());
                Err(error)
            }
        }
    }

    /// Starts a worker.
    ///
    /// # Errors
    /// Why it did not become ready: the circuit is open, and events wait for it.
    pub(crate) fn start(&self) -> Result<(), String> {
        self.try_version(self.version(), None)
    }

    /// Whether a worker was ever ready.
    pub(crate) fn has_started(&self) -> bool {
        self.shared.lock().has_started
    }

    /// Goes over to another version once one of its workers is ready; waits for that. It hears of what is `connected`
    /// first, but of a device that something waits for only that: this comes earlier.
    ///
    /// # Errors
    /// Why none is: nothing has changed.
    pub(crate) fn swap(&self, version: Version, connected: Connected) -> Result<(), String> {
        self.try_version(Arc::new(version), Some(connected))
    }

    fn try_version(&self, version: Arc<Version>, connected: Option<Connected>) -> Result<(), String> {
        self.grow(version.slots()).map_err(|error| format!("cannot start a thread: {error}"))?;
        let (reply, answer) = channel();
        let mut state = self.shared.lock();
        // Nobody would take it any more, nor answer.
        state.candidate = state.closing.is_none().then_some(Candidate { version, connected, reply });
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

    /// Queues an event if the plugin hears such, and waits for room if there is none, as long as the gate is open.
    /// `delivery` is the number of its first delivery.
    pub(crate) fn submit(&self, event: &Arc<Event>, delivery: u32, reply: Sender<Outcome>) -> bool {
        let mut state = self.shared.lock();
        if !state.version.hears(event) {
            return false;
        }
        let mut left = None;
        while state.queue.is_full(WAITING_MAX) && state.closing.is_none() {
            if !(self.shared.outside.gate)() {
                left = Some(Ending::Left);
                break;
            }
            let waited = self.shared.room.wait_timeout(state, GATE_PAUSE);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let job = self.shared.job(event, delivery, Some(reply));
        match state.closing.clone().or(left) {
            Some(ending) => self.shared.answer(&job, ending),
            None => state.queue.push(job),
        }
        drop(state);
        self.shared.wake_one();
        true
    }

    /// Queues attaches before all others, whether there is room or not: what is there when a version starts.
    pub(crate) fn submit_first(&self, events: impl Iterator<Item = Arc<Event>>) {
        self.shared.lock().put_first(events);
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
    ///
    /// Answers how many waited that somebody wants to know of.
    pub(crate) fn begin_to_close(&self, ending: Ending) -> usize {
        let mut state = self.shared.lock();
        let waited = state.queue.remove(|_| true);
        waited.iter().for_each(|job| self.shared.answer(job, ending.clone()));
        state.closing = Some(ending);
        state.candidate = None;
        drop(state);
        self.shared.room.notify_all();
        self.shared.wake_all();
        waited.iter().filter(|job| job.reply.is_some()).count()
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
    fn put_first(&mut self, events: impl Iterator<Item = Arc<Event>>) {
        let waiting = self.queue.devices();
        let heard = events.filter(|event| self.version.hears(event) && !waiting.contains(&queue::key(event)));
        let jobs = heard
            .map(|event| Job { event, delivery: 1, not_before: None, reply: None, hook: None })
            .collect();
        self.queue.push_first(jobs);
    }

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
        Job { event: Arc::clone(event), delivery: delivery.max(1), not_before: None, reply, hook: None }
    }

    /// Says how it went with a job that waits.
    fn answer(&self, job: &Job, ending: Ending) {
        self.answer_after(job.delivery - 1, job, ending);
    }

    fn answer_after(&self, deliveries: u32, job: &Job, ending: Ending) {
        let outcome =
            Outcome { plugin: self.name.clone(), deliveries, ending: ending.clone(), hook: job.hook };
        match (&job.reply, ending) {
            // Who asked may not want to know any more.
            (Some(reply), _) => drop(reply.send(outcome)),
            (None, Ending::GaveUp { error }) => {
                let (plugin, event) = (self.name.clone(), Arc::clone(&job.event));
                self.tell(Report::ColdplugGivenUp { plugin, event, deliveries, error });
            }
            (None, _) => {}
        }
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
