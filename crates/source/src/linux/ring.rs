//! The received messages, from the socket until the journal has them.
//!
//! The receiver puts messages in and numbers them; the observer takes each once; the journal's owner says up
//! to which number everything is written down, and then they are forgotten. Full, it forgets the oldest that
//! were taken, whose port the next start's scan would look at; full of messages that nobody took, it makes the
//! receiver wait, and the kernel's receive buffer collects what comes meanwhile.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use autoweave_usb_device::Moment;

/// How much is kept in memory, in bytes of messages: about 3,000 of them. The kernel's buffer holds the rest.
const BYTES_MAX: usize = 1 << 20;

/// A message with its place in the flow.
#[derive(Debug, Clone)]
pub struct RawMessage {
    /// From 1, without a gap.
    pub number: u64,
    /// When it was received.
    pub at: Moment,
    /// What it is.
    pub content: Content,
}

/// What the receiver got.
#[derive(Debug, Clone)]
pub enum Content {
    /// A uevent about USB.
    Uevent(Arc<[u8]>),
    /// Messages were lost here.
    Overrun,
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct Ring {
    state: Mutex<State>,
    room: Condvar,
    /// Tickets drawn by [`Self::ask_drain`].
    drains_asked: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Everything not yet forgotten; `bool` when it need not be kept any longer.
    messages: VecDeque<(RawMessage, bool)>,
    bytes: usize,
    /// The number of the last message that was put in.
    last: u64,
    /// The number of the last message that was taken.
    taken: u64,
    drains_answered: u64,
    /// The last message that was in when the latest drain was answered.
    drained_at: u64,
    closed: bool,
    failure: Option<io::Error>,
}

impl Ring {
    /// Puts a message in, waiting for room. False when the ring was closed.
    pub fn push(&self, at: Moment, content: Content) -> bool {
        let bytes = content.bytes();
        let is_full = |state: &mut State| !state.closed && !state.make_room(bytes);
        let guard = self.room.wait_while(self.lock(), is_full);
        let mut state = guard.unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return false;
        }
        state.last += 1;
        state.bytes += bytes;
        let number = state.last;
        state.messages.push_back((RawMessage { number, at, content }, false));
        true
    }

    /// Takes the next message, if there is one.
    pub fn take(&self) -> Option<RawMessage> {
        let mut state = self.lock();
        let first = state.messages.front()?.0.number;
        let next = usize::try_from((state.taken + 1).max(first) - first).ok()?;
        let message = state.messages.get(next)?.0.clone();
        state.taken = message.number;
        drop(state);
        self.room.notify_one();
        Some(message)
    }

    /// The message led to nothing that has to be written down.
    pub fn discard(&self, number: u64) {
        let mut state = self.lock();
        if let Some(first) = state.messages.front().map(|(message, _)| message.number)
            && let Some(index) = number.checked_sub(first).and_then(|index| usize::try_from(index).ok())
            && let Some((_, done)) = state.messages.get_mut(index)
        {
            *done = true;
        }
        self.forget(state);
    }

    /// Everything that came of messages up to `number` is written down.
    pub fn journaled(&self, number: u64) {
        let mut state = self.lock();
        for (message, done) in &mut state.messages {
            if message.number > number {
                break;
            }
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
            state.drained_at = state.last;
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

    /// Whether the receiver is to end.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
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
    /// Forgets what was taken until `bytes` more fit. False if they do not.
    fn make_room(&mut self, bytes: usize) -> bool {
        while self.bytes + bytes > BYTES_MAX && self.forget_first() {}
        self.bytes == 0 || self.bytes + bytes <= BYTES_MAX
    }

    /// Forgets the oldest message, if it was taken.
    fn forget_first(&mut self) -> bool {
        if self.messages.front().is_none_or(|(message, _)| message.number > self.taken) {
            return false;
        }
        self.bytes -= self.messages.pop_front().map_or(0, |(message, _)| message.content.bytes());
        true
    }
}

impl Content {
    fn bytes(&self) -> usize {
        let payload = match self {
            Self::Uevent(message) => message.len(),
            Self::Overrun => 0,
        };
        payload + size_of::<RawMessage>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn uevent(bytes: usize) -> Content {
        Content::Uevent(vec![0; bytes].into())
    }

    #[test]
    fn each_message_is_taken_once_and_kept_until_it_is_journaled() {
        let ring = Ring::default();
        for _ in 0..3 {
            assert!(ring.push(Moment::default(), uevent(1)));
        }
        assert_eq!(std::iter::from_fn(|| ring.take()).map(|m| m.number).collect::<Vec<_>>(), [1, 2, 3]);
        let kept = || ring.lock().messages.iter().map(|(message, _)| message.number).collect::<Vec<_>>();
        ring.discard(2);
        assert_eq!(kept(), [1, 2, 3]);
        ring.journaled(1);
        assert_eq!(kept(), [3]);
        ring.discard(1);
        ring.journaled(99);
        assert_eq!((kept(), ring.lock().bytes), (vec![], 0));
    }

    #[test]
    fn what_nobody_took_is_not_forgotten() {
        let ring = Ring::default();
        ring.push(Moment::default(), uevent(1));
        ring.journaled(u64::MAX);
        assert_eq!(ring.take().map(|message| message.number), Some(1));
    }

    #[test]
    fn drained_means_a_look_after_the_question_and_all_before_it_taken() {
        let ring = Ring::default();
        let before = ring.last_drain_asked();
        ring.push(Moment::default(), uevent(1));
        let ticket = ring.ask_drain();
        ring.answer_drain(before);
        assert!(!ring.drained(ticket), "that look began before the question");
        ring.answer_drain(ring.last_drain_asked());
        assert!(!ring.drained(ticket), "a message is still in");
        ring.take();
        assert!(ring.drained(ticket));
    }

    #[test]
    fn full_it_forgets_what_was_taken_before_it_makes_anyone_wait() {
        let ring = Ring::default();
        for number in 1..=1000 {
            assert!(ring.push(Moment::default(), uevent(64 << 10)));
            assert_eq!(
                ring.take().map(|message| message.number),
                Some(number),
                "without a word from the journal"
            );
            assert!(ring.lock().bytes <= BYTES_MAX);
        }
    }

    #[test]
    fn full_it_makes_the_receiver_wait_and_loses_nothing() {
        let ring = Arc::new(Ring::default());
        let pushed = Arc::new(AtomicU64::new(0));
        let receiver = std::thread::spawn({
            let (ring, pushed) = (ring.clone(), pushed.clone());
            move || {
                while ring.push(Moment::default(), uevent(64 << 10)) {
                    pushed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        for number in 1..=1000 {
            let message = loop {
                match ring.take() {
                    Some(message) => break message,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!(message.number, number);
            assert!(ring.lock().bytes <= BYTES_MAX);
        }
        ring.close();
        receiver.join().unwrap();
        assert!(pushed.load(Ordering::Relaxed) <= 1000 + 64);
    }
}
