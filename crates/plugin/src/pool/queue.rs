//! Events on their way to one plugin: in order for each device, side by side for different ones.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use autoweave_usb_device::Event;

use super::{HookRun, Outcome};

/// An event that a plugin has to hear.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) event: Arc<Event>,
    /// Of the next delivery, from 1.
    pub(super) delivery: u32,
    /// When it may be delivered again.
    pub(super) not_before: Option<Instant>,
    /// Who wants to know how it went.
    pub(super) reply: Option<Sender<Outcome>>,
    /// The last delivery.
    pub(super) hook: Option<HookRun>,
}

/// The jobs nobody works on yet, and the events that slots work on.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: VecDeque<Job>,
    /// By slot.
    running: Vec<Option<Arc<Event>>>,
}

impl Queue {
    pub(super) fn new(slots: usize) -> Self {
        Self { waiting: VecDeque::new(), running: vec![None; slots] }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether so many wait that somebody wants to know of. The others are what was there when the plugin started.
    pub(super) fn is_full(&self, most: usize) -> bool {
        self.waiting.iter().filter(|job| job.reply.is_some()).nth(most - 1).is_some()
    }

    pub(super) fn is_running(&self, slot: usize) -> bool {
        self.running[slot].is_some()
    }

    /// The devices that something waits for, by producer and `device_id`.
    pub(super) fn devices(&self) -> HashSet<(&str, &str)> {
        self.waiting.iter().map(|job| key(&job.event)).collect()
    }

    /// Behind all others.
    pub(super) fn push(&mut self, job: Job) {
        self.waiting.push_back(job);
    }

    /// Before all others, in the order given.
    pub(super) fn push_first(&mut self, jobs: Vec<Job>) {
        jobs.into_iter().rev().for_each(|job| self.waiting.push_front(job));
    }

    /// The first job that `may` be taken, whose device nobody is at and no earlier job is for. The slot is at it
    /// until [`Queue::finished`].
    pub(super) fn take(&mut self, slot: usize, now: Instant, may: impl Fn(&Event) -> bool) -> Option<Job> {
        let runnable = |index: &usize| {
            let job = &self.waiting[*index];
            let earlier = self.waiting.range(..*index).map(|job| &job.event);
            let mut before = self.running.iter().flatten().chain(earlier);
            job.not_before.is_none_or(|time| time <= now)
                && may(&job.event)
                && !before.any(|event| conflict(event, &job.event))
        };
        let first = (0..self.waiting.len()).find(runnable)?;
        let job = self.waiting.remove(first)?;
        self.running[slot] = Some(Arc::clone(&job.event));
        Some(job)
    }

    /// The slot is at its job no more.
    pub(super) fn finished(&mut self, slot: usize) {
        self.running[slot] = None;
    }

    /// When the next job that waits for a time may be taken.
    pub(super) fn next_time(&self) -> Option<Instant> {
        self.waiting.iter().filter_map(|job| job.not_before).min()
    }

    /// Takes out the jobs that `leaves` says.
    pub(super) fn remove(&mut self, leaves: impl Fn(&Job) -> bool) -> Vec<Job> {
        let (out, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|job| leaves(job));
        self.waiting = waiting;
        Vec::from_iter::<VecDeque<Job>>(out)
    }
}

/// What tells its device from others.
pub(super) fn key(event: &Event) -> (&str, &str) {
    (&event.producer, &event.device.device_id)
}

/// Whether one has to wait for the other: the same device, wherever it is, or the same port, whatever is in it.
fn conflict(a: &Event, b: &Event) -> bool {
    a.device.device_id == b.device.device_id
        || (&a.producer, a.device.port()) == (&b.producer, b.device.port())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use autoweave_usb_device::{Action, Device, Reading, Reason, SourceName};
    use proptest::prelude::*;

    use super::*;

    fn event(seq: u64, port: u8, device: u8) -> Arc<Event> {
        let reading = Reading::bare(format!("1-{port}").parse().unwrap(), 5, 1, 2, None);
        Arc::new(Event {
            seq,
            event_id: seq.to_string(),
            producer: "p".to_owned(),
            action: Action::Attach,
            reason: Reason::Hotplug,
            source: SourceName::Simulate,
            host: String::new(),
            timestamp: 0,
            edges: 1,
            seqnum: None,
            traceparent: None,
            device: Arc::new(Device::new(&reading, device.to_string())),
        })
    }

    fn job(event: Arc<Event>) -> Job {
        Job { event, delivery: 1, not_before: None, reply: None, hook: None }
    }

    #[test]
    fn a_device_waits_for_its_earlier_event_and_others_go_by() {
        let now = Instant::now();
        let mut queue = Queue::new(2);
        [event(1, 1, 1), event(2, 1, 2), event(3, 2, 1), event(4, 3, 3)]
            .into_iter()
            .for_each(|e| queue.push(job(e)));
        let first = queue.take(0, now, |_| true).unwrap();
        assert_eq!(first.event.seq, 1);
        assert_eq!(queue.take(1, now, |_| true).unwrap().event.seq, 4);
        queue.finished(1);
        assert!(queue.take(1, now, |_| true).is_none());
        // Tried again later: what comes after it waits with it.
        queue.finished(0);
        let later = now + Duration::from_secs(1);
        queue.push_first(vec![Job { not_before: Some(later), ..first }]);
        assert!(queue.take(0, now, |_| true).is_none());
        assert_eq!(queue.next_time(), Some(later));
        assert_eq!(queue.take(0, later, |_| true).unwrap().event.seq, 1);
        queue.finished(0);
        assert_eq!(queue.take(0, now, |event| event.seq == 3).unwrap().event.seq, 3);
    }

    proptest! {
        #[test]
        fn each_device_hears_in_order_and_all_is_heard(
            ports in proptest::collection::vec((1..4u8, 1..4u8), 0..40),
            choices in proptest::collection::vec((0..3usize, any::<bool>(), any::<bool>()), 0..400),
        ) {
            let now = Instant::now();
            let mut queue = Queue::new(3);
            for ((port, device), seq) in ports.iter().zip(1..) {
                queue.push(job(event(seq, *port, *device)));
            }
            let (mut at, mut heard): ([Option<Job>; 3], Vec<Arc<Event>>) = Default::default();
            let finish = (0..3).cycle().take(400).map(|slot| (slot, false, false));
            for (slot, again, picks) in choices.into_iter().chain(finish) {
                match at[slot].take() {
                    Some(job) if again => { queue.finished(slot); queue.push_first(vec![job]); }
                    Some(job) => { queue.finished(slot); heard.push(job.event); }
                    None => at[slot] = queue.take(slot, now, |event| !picks || event.seq % 2 == 0),
                }
            }
            prop_assert_eq!(heard.len(), ports.len());
            for (index, event) in heard.iter().enumerate() {
                prop_assert!(!heard[..index].iter().any(|e| e.seq > event.seq && conflict(e, event)));
            }
        }
    }
}
