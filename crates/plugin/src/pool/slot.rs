//! A thread of a pool: takes events from the queue, one at a time, and hands them to its worker.

use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use autoweave_usb_device::{Action, Device, Event};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::queue::Job;
use super::{Candidate, Connection, Ending, GATE_PAUSE, HookRun, Shared, State, Version};
use crate::breaker::{Breaker, doubled};
use crate::protocol::{Level, Verdict};
use crate::report::Report;
use crate::worker::{Idle, LogLine, Worker, WorkerFault};

/// Before an event is delivered a second time; doubled each time.
const AGAIN_FIRST: Duration = Duration::from_millis(100);

const AGAIN_MAX: Duration = Duration::from_secs(2);

/// A worker and what it was started for.
struct Running {
    worker: Worker,
    version: Arc<Version>,
    /// The device whose node it may open.
    device: Option<Connection>,
}

/// What a slot does next.
enum Step {
    Deliver(Job, Arc<Version>),
    Try(Candidate),
    /// The worker is of an old version, or its plugin has fewer slots now.
    Retire,
    Wait(Option<Instant>),
    Close,
}

pub(super) fn run(shared: &Shared, slot: usize, waker: &PipeReader) {
    let mut slot = Slot { shared, index: slot, waker, running: None, crashed: false };
    loop {
        match slot.next() {
            Step::Deliver(job, version) => slot.handle(job, version),
            Step::Try(candidate) => slot.try_version(candidate),
            Step::Retire => slot.retire(),
            Step::Wait(until) => slot.wait(until),
            Step::Close => {
                slot.retire();
                shared.lock().slots_left -= 1;
                return shared.room.notify_all();
            }
        }
    }
}

struct Slot<'a> {
    shared: &'a Shared,
    index: usize,
    waker: &'a PipeReader,
    running: Option<Running>,
    /// Whether the last worker crashed.
    crashed: bool,
}

impl Slot<'_> {
    fn next(&mut self) -> Step {
        let (now, mut state) = (Instant::now(), self.shared.lock());
        if state.closing.is_some() {
            return Step::Close;
        }
        if let Some(candidate) = state.candidate.take_if(|_| self.index == 0) {
            return Step::Try(candidate);
        }
        let is_old =
            self.running.as_ref().is_some_and(|running| !Arc::ptr_eq(&running.version, &state.version));
        if self.index >= state.version.slots() {
            return if self.running.is_some() { Step::Retire } else { Step::Wait(None) };
        }
        if is_old {
            return Step::Retire;
        }
        let may_start = state.breaker.not_before().is_none_or(|time| time <= now);
        if self.running.is_none() && !may_start {
            let patience_ends = self.wait_or_give_up(&mut state, now);
            return Step::Wait(state.breaker.not_before().into_iter().chain(patience_ends).min());
        }
        if !(self.shared.outside.gate)() {
            return Step::Wait(Some(now + GATE_PAUSE));
        }
        match state.take(self.index, now) {
            Some(job) => {
                let (version, more) = (Arc::clone(&state.version), state.queue.len() > 0);
                drop(state);
                if more {
                    self.shared.wake_one();
                }
                Step::Deliver(job, version)
            }
            None => Step::Wait(state.queue.next_time()),
        }
    }

    /// While the circuit is open, events wait for it only so long: until the time answered, if that is not past.
    fn wait_or_give_up(&self, state: &mut State, now: Instant) -> Option<Instant> {
        let patience_ends = state.breaker.opened()? + self.shared.policy.patience;
        if now < patience_ends {
            return Some(patience_ends);
        }
        let impatient = state.queue.remove(|_| true);
        state.tallies.given_up += impatient.len() as u64;
        for job in impatient {
            let error = format!("the plugin crashed too often, the last time: {}", state.last_error);
            self.shared.answer(&job, Ending::GaveUp { error });
        }
        self.shared.room.notify_all();
        None
    }

    fn handle(&mut self, mut job: Job, version: Arc<Version>) {
        self.shared.room.notify_all();
        if !version.hears(&job.event) {
            self.finish(&job, Ending::Done);
            return;
        }
        if let Err(fault) = self.have_worker(&job.event, version) {
            self.crash(&fault, None);
            return self.put_back(job);
        }
        let Some(running) = &mut self.running else { return self.put_back(job) };
        let (began, begun) = (SystemTime::now(), Instant::now());
        let answer = running.worker.deliver(&job.event, job.delivery);
        let took = begun.elapsed();
        job.hook = Some(HookRun { began, took });
        match answer {
            Ok(verdict) => {
                let mut state = self.shared.lock();
                state.tallies.durations.add(took);
                let was_open = state.breaker.worked();
                drop(state);
                self.shared.tell(Report::Answered { plugin: self.shared.name.clone(), took });
                if was_open {
                    self.shared.tell(Report::CircuitClosed { plugin: self.shared.name.clone() });
                }
                self.judge(job, verdict);
            }
            Err(fault) => {
                self.running = None;
                self.crash(&fault, Some(&job.event.event_id));
                self.judge(job, Verdict::Failed { error: fault.to_string(), retry: true });
            }
        }
    }

    fn judge(&mut self, job: Job, verdict: Verdict) {
        let Verdict::Failed { error, retry } = verdict else {
            let leaves = job.event.action == Action::Detach && self.opens();
            self.finish(&job, Ending::Done);
            if leaves {
                self.retire();
            }
            return;
        };
        self.shared.lock().tallies.failed += 1;
        let is_last = !retry || job.delivery >= self.shared.policy.deliveries_max;
        // A worker that was killed at the close says nothing of the event.
        if is_last && self.shared.lock().closing.is_none() {
            return self.finish(&job, Ending::GaveUp { error });
        }
        let wait = doubled(AGAIN_FIRST, job.delivery - 1, AGAIN_MAX);
        let not_before = Some(Instant::now() + wait);
        self.put_back(Job { delivery: job.delivery + 1, not_before, ..job });
    }

    fn finish(&self, job: &Job, ending: Ending) {
        let mut state = self.shared.lock();
        match ending {
            Ending::Done => state.tallies.done += 1,
            _ => state.tallies.given_up += 1,
        }
        state.queue.finished(self.index);
        drop(state);
        self.shared.answer_after(job.delivery, job, ending);
        // Its device's next event may be another slot's to take.
        self.shared.wake_one();
    }

    fn put_back(&self, job: Job) {
        let mut state = self.shared.lock();
        state.queue.finished(self.index);
        match state.closing.clone() {
            Some(ending) => self.shared.answer(&job, ending),
            None => state.queue.push_first(vec![job]),
        }
        drop(state);
        // One that is free may be the first to have time for it.
        self.shared.wake_all();
    }

    /// The version's worker, with the device's node if the plugin opens devices.
    fn have_worker(&mut self, event: &Event, version: Arc<Version>) -> Result<(), WorkerFault> {
        let opens = version.opens().then(|| connection(&event.device));
        let fits = |running: &Running| Arc::ptr_eq(&running.version, &version) && running.device == opens;
        if self.running.as_ref().is_some_and(fits) {
            return Ok(());
        }
        self.retire();
        let node = opens.as_ref().and_then(|_| version.launch.node(event));
        if opens.is_some() && node.is_none() && event.action == Action::Attach {
            self.say_no_node(event);
        }
        let running = self.start(version, opens, node)?;
        self.take_over(running);
        Ok(())
    }

    fn start(
        &mut self,
        version: Arc<Version>,
        device: Option<Connection>,
        node: Option<PathBuf>,
    ) -> Result<Running, WorkerFault> {
        let (report, plugin) = (Arc::clone(&self.shared.outside.report), self.shared.name.clone());
        let sink = Box::new(move |line| report(Report::Log { plugin: plugin.clone(), line }));
        let launch = match node {
            Some(node) => version.launch.with_device(node),
            None => version.launch.clone(),
        };
        let worker = Worker::start(&launch, self.shared.policy.deadlines, sink)?;
        Ok(Running { worker, version, device })
    }

    fn say_no_node(&self, event: &Event) {
        let message = format!(
            "{}: may not be opened: not connected to this machine, or no longer",
            event.device.device_id
        );
        let line = LogLine { level: Level::Warn, message, event_id: Some(event.event_id.clone()) };
        self.shared.tell(Report::Log { plugin: self.shared.name.clone(), line });
    }

    fn take_over(&mut self, running: Running) {
        let (plugin, process) = (self.shared.name.clone(), running.worker.id());
        self.shared.tell(Report::Started { plugin, process, restart: std::mem::take(&mut self.crashed) });
        let mut state = self.shared.lock();
        state.has_started = true;
        state.workers[self.index] = running.worker.killer().ok();
        state.devices[self.index].clone_from(&running.device);
        drop(state);
        self.running = Some(running);
    }

    fn try_version(&mut self, candidate: Candidate) {
        let Candidate { version, connected, reply } = candidate;
        let result = match self.start(Arc::clone(&version), None, None) {
            Ok(running) => {
                self.retire();
                self.take_over(running);
                let connected = connected.map(|connected| connected());
                let mut state = self.shared.lock();
                state.version = version;
                state.breaker = Breaker::default();
                state.put_first(connected.into_iter().flatten());
                Ok(())
            }
            Err(fault) => {
                let (error, mut state) = (fault.to_string(), self.shared.lock());
                // Where no version before it goes on, what the plugin should hear waits for the next start.
                if !state.has_started {
                    state.version = version;
                    state.tallies.crashes += 1;
                    state.last_error.clone_from(&error);
                    state.breaker.open(Instant::now());
                }
                Err(error)
            }
        };
        self.shared.wake_all();
        // Who asked may not want to know any more.
        let _ = reply.send(result);
    }

    /// Ends the worker as it should be ended.
    fn retire(&mut self) {
        let Some(running) = self.running.take() else { return };
        let ended = running.worker.shut_down();
        self.shared.lock().forget_worker(self.index);
        if let Err(fault) = ended {
            let (plugin, error) = (self.shared.name.clone(), fault.to_string());
            self.shared.tell(Report::ShutdownFailed { plugin, error });
        }
    }

    fn crash(&mut self, fault: &WorkerFault, at: Option<&str>) {
        let (plugin, error, now) = (self.shared.name.clone(), fault.to_string(), Instant::now());
        self.crashed = true;
        let mut state = self.shared.lock();
        state.forget_worker(self.index);
        state.tallies.crashes += 1;
        state.last_error.clone_from(&error);
        let wait = state.breaker.crashed(now, at) - now;
        let opened = state.breaker.is_open();
        drop(state);
        self.shared.tell(if opened {
            Report::CircuitOpened { plugin, error, wait }
        } else {
            Report::Crashed { plugin, error, wait }
        });
    }

    /// Waits for work, for `until`, or for the worker's end.
    fn wait(&mut self, until: Option<Instant>) {
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        if let Some(running) = &mut self.running {
            if let Idle::Ended(fault) = running.worker.idle(self.waker.as_fd(), timeout) {
                self.running = None;
                self.crash(&fault, None);
            }
        } else {
            let milliseconds = timeout.map(|timeout| timeout.as_micros().div_ceil(1000));
            let timeout = milliseconds
                .map_or(PollTimeout::NONE, |ms| PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX));
            // An interrupted wait is an early end of it, and allowed.
            let _ = poll(&mut [PollFd::new(self.waker.as_fd(), PollFlags::POLLIN)], timeout);
        }
        // Whatever is in it: one look at the queue is enough for all.
        let mut waker = self.waker;
        let _ = waker.read(&mut [0; 64]);
    }

    fn opens(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.device.is_some())
    }
}

pub(super) fn connection(device: &Device) -> Connection {
    (device.device_id.clone(), device.device_address)
}
