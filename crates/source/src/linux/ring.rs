//! The received messages, from the socket until the journal has them.
//!
//! The receiver puts messages in; the observer takes each once; the journal's owner says up to which number
//! everything is written down, and then they are forgotten. They lie in a [`Log`], so that the next daemon finds
//! what this one did not get to. Full, it makes the receiver wait, and the kernel's receive buffer collects what
//! comes meanwhile; only what waits for the end of a debounce window gives way, because the next start's scan
//! would find what it came to.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use autoweave_usb_device::Moment;

use super::landing::BATCH_BYTES_MAX;
use super::log::{Content, Log, RawMessage};

/// How long [`Ring::forget_all`] looks for an end of what comes.
const FORGET_WITHIN: Duration = Duration::from_secs(5);

/// How often it makes room meanwhile.
const FORGET_AGAIN: Duration = Duration::from_millis(10);

/// See the module's description.
#[derive(Debug)]
pub struct Ring {
    state: Mutex<State>,
    room: Condvar,
    drained: Condvar,
    /// Tickets drawn by [`Self::ask_drain`].
    drains_asked: AtomicU64,
}

#[derive(Debug)]
struct State {
    log: Log,
    /// Nobody has used the log before.
    is_new: bool,
    /// The number of every message in the log; `bool` when it need not be kept any longer.
    messages: VecDeque<(u64, bool)>,
    /// How many of them were taken.
    next: usize,
    /// The number of the last message that was taken.
    taken: u64,
    /// What comes of messages up to this one is written down or waits for the end of a window.
    processed: u64,
    drains_answered: u64,
    /// The last message that was in when the latest drain was answered.
    drained_at: u64,
    closed: bool,
    failure: Option<io::Error>,
}

impl Ring {
    /// A ring with what is in `log`.
    pub fn new(mut log: Log) -> Self {
        let mut messages = VecDeque::new();
        let mut place = log.head();
        while let Some(message) = log.read(place) {
            place = message.number;
            messages.push_back((place, false));
        }
        // Nothing that this program writes ends here; what cannot be read is left to the scan.
        log.cut(place);
        let is_new = log.is_new();
        let taken = log.head();
        let state = State {
            log,
            is_new,
            messages,
            next: 0,
            taken,
            processed: 0,
            drains_answered: 0,
            drained_at: 0,
            closed: false,
            failure: None,
        };
        Self {
            state: Mutex::new(state),
            room: Condvar::new(),
            drained: Condvar::new(),
            drains_asked: AtomicU64::new(0),
        }
    }

    /// A name that no other ring has.
    pub fn id(&self) -> String {
        self.lock().log.id().to_owned()
    }

    /// Forgets what came while somebody else told, which is up to the drain with `ticket`: the number of the last of it.
    /// Nothing, if nobody has received into this ring before. Before anything is taken.
    pub fn forget_all(&self, ticket: u64) -> u64 {
        let deadline = Instant::now() + FORGET_WITHIN;
        let mut state = self.lock();
        while !state.is_new {
            state.forget_all();
            self.room.notify_one();
            let is_over = state.drains_answered >= ticket || state.failure.is_some() || state.closed;
            if is_over || Instant::now() >= deadline {
                break;
            }
            let waited = self.drained.wait_timeout(state, FORGET_AGAIN);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.taken
    }

    /// How many messages were lost since the last time, now that the kernel has dropped `drops`.
    pub fn lost(&self, drops: u64) -> u64 {
        let mut state = self.lock();
        let before = state.log.drops();
        state.log.told_drops(drops);
        drops.saturating_sub(before)
    }

    /// Waits until a batch fits, and returns where the log ends. `None` when the ring was closed.
    pub fn reserve(&self) -> Option<u64> {
        let is_full = |state: &mut State| !state.closed && !state.make_room();
        let guard = self.room.wait_while(self.lock(), is_full);
        let state = guard.unwrap_or_else(PoisonError::into_inner);
        (!state.closed).then(|| state.log.tail())
    }

    /// Puts in a message of a batch that has room.
    pub fn push(&self, at: Moment, content: &Content) {
        let mut state = self.lock();
        let number = state.log.append(at, content);
        state.messages.push_back((number, false));
    }

    /// Takes the next message, if there is one.
    pub fn take(&self) -> Option<RawMessage> {
        let mut state = self.lock();
        let before = state.next.checked_sub(1).and_then(|index| state.messages.get(index));
        let place = before.map_or(state.log.head(), |(number, _)| *number);
        let message = state.log.read(place)?;
        state.next += 1;
        state.taken = message.number;
        Some(message)
    }

    /// The message led to nothing that has to be written down.
    pub fn discard(&self, number: u64) {
        let mut state = self.lock();
        if let Ok(index) = state.messages.binary_search_by_key(&number, |(number, _)| *number) {
            state.messages[index].1 = true;
        }
        self.forget(state);
    }

    /// Everything that came of messages up to `written` is written down; what came of those up to `processed` is,
    /// or waits for the end of a debounce window.
    pub fn journaled(&self, written: u64, processed: u64) {
        let mut state = self.lock();
        state.processed = processed;
        for (_, done) in state.messages.iter_mut().take_while(|(number, _)| *number <= written) {
            *done = true;
        }
        self.forget(state);
    }

    /// Asks the receiver to look at the socket and say when it found it empty. The answer is
    /// [`Self::drained`]'s, by the ticket returned here.
    pub fn ask_drain(&self) -> u64 {
        self.drains_asked.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The last ticket that was drawn: for the receiver, before it looks at the socket.
    pub fn last_drain_asked(&self) -> u64 {
        self.drains_asked.load(Ordering::SeqCst)
    }

    /// The receiver found the socket empty, in a look that began after `ticket` was drawn.
    pub fn answer_drain(&self, ticket: u64) {
        let mut state = self.lock();
        if ticket > state.drains_answered {
            state.drains_answered = ticket;
            state.drained_at = state.log.tail();
            self.drained.notify_all();
        }
    }

    /// Whether the receiver has found the socket empty since the ticket was drawn, and everything it had got
    /// until then was taken.
    pub fn drained(&self, ticket: u64) -> bool {
        let state = self.lock();
        state.drains_answered >= ticket && state.taken >= state.drained_at
    }

    /// The number of the last message that was taken.
    pub fn taken(&self) -> u64 {
        self.lock().taken
    }

    /// Nobody takes any more: the receiver is to end.
    pub fn close(&self) {
        self.lock().closed = true;
        self.room.notify_all();
    }

    /// The receiver cannot go on.
    pub fn fail(&self, error: io::Error) {
        self.lock().failure = Some(error);
    }

    /// Why the receiver could not go on, once.
    pub fn failure(&self) -> Option<io::Error> {
        self.lock().failure.take()
    }

    fn forget(&self, mut state: MutexGuard<'_, State>) {
        while state.messages.front().is_some_and(|(_, done)| *done) && state.forget_first() {}
        drop(state);
        self.room.notify_one();
    }

    /// A panic under the lock leaves counters that are at worst one message off, never broken.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Forgets what may give way until a batch fits. False if it does not.
    fn make_room(&mut self) -> bool {
        let may_give_way = |state: &Self| {
            state.messages.front().is_some_and(|(number, done)| *done || *number <= state.processed)
        };
        while self.log.room() < BATCH_BYTES_MAX && may_give_way(self) && self.forget_first() {}
        self.log.room() >= BATCH_BYTES_MAX
    }

    fn forget_all(&mut self) {
        self.messages.clear();
        self.next = 0;
        self.taken = self.log.tail();
        self.log.forget(self.taken);
    }

    /// Forgets the oldest message, if it was taken.
    fn forget_first(&mut self) -> bool {
        if self.next == 0 {
            return false;
        }
        let Some((number, _)) = self.messages.pop_front() else { return false };
        self.next -= 1;
        self.log.forget(number);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::linux::log::LOG_BYTES;
    use crate::linux::mapping;

    const BYTES: usize = size_of::<crate::linux::log::Layout>();

    fn ring() -> Ring {
        Ring::new(Log::open(mapping::create(BYTES).unwrap(), 0).unwrap())
    }

    fn uevent(bytes: usize) -> Content {
        Content::Uevent(vec![7; bytes].into())
    }

    fn push(ring: &Ring, bytes: usize) -> u64 {
        assert!(ring.reserve().is_some());
        ring.push(Moment::default(), &uevent(bytes));
        ring.lock().log.tail()
    }

    fn kept(ring: &Ring) -> Vec<u64> {
        ring.lock().messages.iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn each_message_is_taken_once_and_kept_until_it_is_journaled() {
        let ring = ring();
        let numbers = [1, 2, 3].map(|bytes| push(&ring, bytes));
        assert_eq!(std::iter::from_fn(|| ring.take()).map(|m| m.number).collect::<Vec<_>>(), numbers);
        ring.discard(numbers[1]);
        assert_eq!(kept(&ring), numbers);
        ring.journaled(numbers[0], numbers[0]);
        assert_eq!(kept(&ring), [numbers[2]]);
        ring.discard(numbers[0]);
        ring.journaled(u64::MAX, u64::MAX);
        assert_eq!((kept(&ring), ring.lock().log.room()), (vec![], LOG_BYTES));
    }

    #[test]
    fn what_nobody_took_is_not_forgotten() {
        let ring = ring();
        let number = push(&ring, 1);
        ring.journaled(u64::MAX, u64::MAX);
        assert_eq!(ring.take().map(|message| message.number), Some(number));
    }

    #[test]
    fn the_next_daemon_finds_what_is_not_journaled() {
        let memory = mapping::create(BYTES).unwrap();
        let open = || Ring::new(Log::open(&memory, 0).unwrap());
        let first = open();
        // Several times around the memory.
        for round in 0..20_000usize {
            let number = push(&first, round % 977);
            assert_eq!(first.take().map(|message| message.number), Some(number));
            first.journaled(number, number);
        }
        let numbers = [5, 0, 900].map(|bytes| push(&first, bytes));
        first.push(Moment { wall_us: 1, mono_ms: 2 }, &Content::Overrun);
        first.take();
        let id = first.id();
        drop(first);

        let second = open();
        assert_eq!(second.id(), id);
        let found: Vec<RawMessage> = std::iter::from_fn(|| second.take()).collect();
        assert_eq!(found.iter().map(|message| message.number).take(3).collect::<Vec<_>>(), numbers);
        let texts = found[..3].iter().map(|message| match &message.content {
            Content::Uevent(text) if text.iter().all(|byte| *byte == 7) => text.len(),
            other => panic!("{other:?}"),
        });
        assert_eq!(texts.collect::<Vec<_>>(), [5, 0, 900]);
        assert!(matches!(
            found[3],
            RawMessage { at: Moment { wall_us: 1, mono_ms: 2 }, content: Content::Overrun, .. }
        ));
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn what_was_lost_is_counted_over_daemons() {
        let memory = mapping::create(BYTES).unwrap();
        let open = || Ring::new(Log::open(&memory, 0).unwrap());
        assert_eq!(open().lost(3), 3);
        assert_eq!((open().lost(3), open().lost(5)), (0, 2));
    }

    #[test]
    fn drained_means_a_look_after_the_question_and_all_before_it_taken() {
        let ring = ring();
        let before = ring.last_drain_asked();
        push(&ring, 1);
        let ticket = ring.ask_drain();
        ring.answer_drain(before);
        assert!(!ring.drained(ticket), "that look began before the question");
        ring.answer_drain(ring.last_drain_asked());
        assert!(!ring.drained(ticket), "a message is still in");
        ring.take();
        assert!(ring.drained(ticket));
    }

    #[test]
    fn full_only_what_waits_for_a_window_gives_way() {
        let ring = ring();
        for _ in 0..1000 {
            let number = push(&ring, 8000);
            assert_eq!(ring.take().map(|message| message.number), Some(number));
            ring.journaled(0, number);
        }
        assert!(kept(&ring).len() > 100, "as much as fits is kept");
    }

    #[test]
    fn what_leads_to_nothing_makes_room_behind_what_was_let_go() {
        let ring = ring();
        let first = push(&ring, 1);
        ring.take();
        ring.journaled(0, first);
        for _ in 0..1000 {
            let number = push(&ring, 8000);
            ring.take();
            ring.discard(number);
        }
    }

    #[test]
    fn full_it_makes_the_receiver_wait_and_loses_nothing() {
        let ring = Arc::new(ring());
        let receiver = std::thread::spawn({
            let ring = ring.clone();
            move || {
                let mut pushed = Vec::new();
                while ring.reserve().is_some() {
                    ring.push(Moment::default(), &uevent(8000));
                    pushed.push(ring.lock().log.tail());
                }
                pushed
            }
        });
        let mut taken = Vec::new();
        while taken.len() < 1000 {
            let Some(message) = ring.take() else {
                std::thread::yield_now();
                continue;
            };
            ring.journaled(message.number, message.number);
            taken.push(message.number);
        }
        let last = *taken.last().unwrap();
        // Nothing is written down any more: it fills up, and waits.
        while ring.lock().log.room() >= BATCH_BYTES_MAX {
            std::thread::yield_now();
        }
        ring.close();
        let pushed = receiver.join().unwrap();
        assert_eq!(pushed[..1000], taken[..]);
        assert!(last < pushed[pushed.len() - 1]);
    }
}
