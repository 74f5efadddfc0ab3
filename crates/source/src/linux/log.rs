//! Received messages in memory that outlives the process, oldest first.
//!
//! A message is in the log from a store to `tail` on, and no longer from a store to `head` on; each is one word.
//! A process that dies in between has done nothing.

use std::fs::File;
use std::io::{self, Read as _};
use std::mem::offset_of;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};

use autoweave_usb_device::Moment;

use super::mapping::{ALIGN, Plain, View};

/// Some 200,000 messages, which the kernel would need 180 MB for. It is only taken from the system where messages
/// are, and given back behind them.
pub const LOG_BYTES: usize = 64 << 20;

/// How much is given back at once, and so how much more than needed is held.
const RELEASE_BYTES: usize = 256 << 10;

/// Of the layout here and in [`super::landing`]. What another version wrote is not read.
const MAGIC: [u8; 16] = *b"autoweave-usb  3";

/// Payload bytes or [`OVERRUN`], `wall_us`, `mono_ms`: words of eight bytes.
const HEADER_BYTES: usize = 24;

/// In place of the payload's length: messages were lost here.
const OVERRUN: u64 = u64::MAX;

/// A message with its place in the flow.
#[derive(Debug, Clone)]
pub struct RawMessage {
    /// Rising, with gaps.
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

impl Content {
    /// What it takes in the log.
    pub fn record_bytes(&self) -> usize {
        match self {
            Self::Uevent(message) => record_bytes(message.len()),
            Self::Overrun => record_bytes(0),
        }
    }
}

/// What is in the memory. Places count from the beginning of time; modulo [`LOG_BYTES`] they are in `bytes`.
#[repr(C)]
pub struct Layout {
    magic: [u8; 16],
    /// At random.
    id: [u8; 16],
    /// Where the oldest record begins.
    head: AtomicU64,
    /// Where the next record will begin.
    tail: AtomicU64,
    /// How many messages the kernel had dropped on the socket when this was last told.
    drops: AtomicU64,
    /// Up to where the system lets memory be given back from.
    _header: [u8; ALIGN - 56],
    bytes: [u8; LOG_BYTES],
}

#[expect(unsafe_code, reason = "see the SAFETY line")]
// SAFETY: integers and arrays of bytes, without padding.
unsafe impl Plain for Layout {}

/// See the module's description. A message's number is where its record ends: rising, but not by one.
#[derive(Debug)]
pub struct Log {
    view: View<Layout>,
    id: String,
    is_new: bool,
    /// Up to where memory was given back.
    released: u64,
}

impl Log {
    /// The log in `memory` at `offset`; an empty one where there is none, or one of another version.
    ///
    /// # Errors
    /// See [`View::new`]; or the kernel gives no random number.
    pub fn open(memory: impl AsFd, offset: usize) -> io::Result<Self> {
        let mut view: View<Layout> = View::new(memory, offset)?;
        let (head, tail) = (view.head.load(Ordering::Acquire), view.tail.load(Ordering::Acquire));
        let is_new = view.magic != MAGIC || head > tail || tail - head > LOG_BYTES as u64;
        if is_new {
            view.magic = [0; 16];
            view.head.store(0, Ordering::SeqCst);
            view.tail.store(0, Ordering::SeqCst);
            view.drops.store(0, Ordering::SeqCst);
            let mut random = [0; 16];
            File::open("/dev/urandom")?.read_exact(&mut random)?;
            view.id = random;
            // Whoever finds the mark finds the rest.
            compiler_fence(Ordering::SeqCst);
            view.magic = MAGIC;
        }
        let id = format!("{:032x}", u128::from_be_bytes(view.id));
        let released = view.head.load(Ordering::Acquire);
        Ok(Self { view, id, is_new, released: released - released % RELEASE_BYTES as u64 })
    }

    /// Whether there was none that this version understands.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// A name that no other log has.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where the oldest record begins, and so the number of the message before it.
    pub fn head(&self) -> u64 {
        self.view.head.load(Ordering::Acquire)
    }

    /// Where the newest record ends, and so its number.
    pub fn tail(&self) -> u64 {
        self.view.tail.load(Ordering::Acquire)
    }

    /// How many bytes of records fit.
    pub fn room(&self) -> usize {
        usize::try_from(self.tail() - self.head()).map_or(0, |used| LOG_BYTES.saturating_sub(used))
    }

    /// Appends a record, for which there has to be room, and returns its number.
    pub fn append(&mut self, at: Moment, content: &Content) -> u64 {
        let (length, payload): (u64, &[u8]) = match content {
            Content::Uevent(message) => (message.len() as u64, message),
            Content::Overrun => (OVERRUN, &[]),
        };
        assert!(record_bytes(payload.len()) <= self.room(), "the receiver waits for room");
        let tail = self.tail();
        for (word, index) in [length, at.wall_us, at.mono_ms].into_iter().zip(0..) {
            self.write(tail + 8 * index, &word.to_ne_bytes());
        }
        self.write(tail + HEADER_BYTES as u64, payload);
        let end = tail + record_bytes(payload.len()) as u64;
        self.view.tail.store(end, Ordering::Release);
        end
    }

    /// The record that begins at `place`; `None` at the end of the log, or where the memory holds no record.
    pub fn read(&self, place: u64) -> Option<RawMessage> {
        if place < self.head() || place + HEADER_BYTES as u64 > self.tail() {
            return None;
        }
        let word = |index: u64| {
            let mut word = [0; 8];
            self.copy(place + 8 * index, &mut word);
            u64::from_ne_bytes(word)
        };
        let (length, at) = (word(0), Moment { wall_us: word(1), mono_ms: word(2) });
        let payload = if length == OVERRUN { 0 } else { usize::try_from(length).ok()? };
        let number = place.checked_add(record_bytes(payload.min(LOG_BYTES)) as u64)?;
        if number > self.tail() {
            return None;
        }
        let content = if length == OVERRUN {
            Content::Overrun
        } else {
            let mut message = vec![0; payload];
            self.copy(place + HEADER_BYTES as u64, &mut message);
            Content::Uevent(message.into())
        };
        Some(RawMessage { number, at, content })
    }

    /// Forgets every record up to the one numbered `number`.
    pub fn forget(&mut self, number: u64) {
        debug_assert!((self.head()..=self.tail()).contains(&number));
        self.view.head.store(number, Ordering::Release);
        while self.released + RELEASE_BYTES as u64 <= number {
            // In a log that is nearly full, the newest records are there again.
            if self.tail() <= self.released + LOG_BYTES as u64 {
                let begin = offset_of!(Layout, bytes) + place_of(self.released);
                self.view.release(begin..begin + RELEASE_BYTES);
            }
            self.released += RELEASE_BYTES as u64;
        }
    }

    /// How many messages the kernel had dropped when it was last [told](Self::told_drops).
    pub fn drops(&self) -> u64 {
        self.view.drops.load(Ordering::Acquire)
    }

    /// An observation says that the kernel had dropped this many messages.
    pub fn told_drops(&mut self, drops: u64) {
        self.view.drops.store(drops, Ordering::Release);
    }

    /// Forgets everything from `place` on.
    pub fn cut(&mut self, place: u64) {
        self.view.tail.store(place, Ordering::Release);
    }

    fn write(&mut self, place: u64, bytes: &[u8]) {
        let (first, second) = parts(place, bytes.len());
        self.view.bytes[first.clone()].copy_from_slice(&bytes[..first.len()]);
        self.view.bytes[..second].copy_from_slice(&bytes[first.len()..]);
    }

    fn copy(&self, place: u64, into: &mut [u8]) {
        let (first, second) = parts(place, into.len());
        into[..first.len()].copy_from_slice(&self.view.bytes[first.clone()]);
        into[first.len()..].copy_from_slice(&self.view.bytes[..second]);
    }
}

/// What a payload takes in the log.
pub const fn record_bytes(payload: usize) -> usize {
    (HEADER_BYTES + payload).next_multiple_of(8)
}

/// Where `length` bytes at `place` are: up to the end of the memory, and so many from its beginning.
fn parts(place: u64, length: usize) -> (std::ops::Range<usize>, usize) {
    let begin = place_of(place);
    let first = length.min(LOG_BYTES - begin);
    (begin..begin + first, length - first)
}

/// Where in the memory `place` is.
#[expect(clippy::cast_possible_truncation, reason = "the remainder is below LOG_BYTES")]
fn place_of(place: u64) -> usize {
    (place % LOG_BYTES as u64) as usize
}

const _: () = assert!(offset_of!(Layout, bytes) == ALIGN && LOG_BYTES.is_multiple_of(RELEASE_BYTES));

#[cfg(test)]
mod tests {
    use super::super::mapping;
    use super::*;

    /// A message that tells its number.
    fn message(count: u64) -> Content {
        let mut text = vec![0; 5000 + usize::try_from(count % 3000).unwrap()];
        text[..8].copy_from_slice(&count.to_ne_bytes());
        text.iter_mut().skip(8).for_each(|byte| *byte = count.to_ne_bytes()[0] | 1);
        Content::Uevent(text.into())
    }

    #[test]
    fn giving_memory_back_takes_nothing_that_is_needed_even_in_a_full_log() {
        let memory = mapping::create(size_of::<Layout>()).unwrap();
        let mut log = Log::open(&memory, 0).unwrap();
        let (mut written, mut read) = (0, 0);
        let laps = 3 * LOG_BYTES as u64;
        while log.head() < laps {
            while record_bytes(8000) <= log.room() {
                log.append(Moment::default(), &message(written));
                written += 1;
            }
            // Full, then emptied by a little, by half, or by all of it.
            let forget = [1, 3, written - read, (written - read) / 2][usize::try_from(written % 4).unwrap()];
            for _ in 0..forget.max(1) {
                let found = log.read(log.head()).unwrap();
                let (Content::Uevent(found_text), Content::Uevent(text)) = (found.content, message(read))
                else {
                    panic!("message {read} is none");
                };
                assert!(found_text == text, "message {read} is not what was written");
                log.forget(found.number);
                read += 1;
            }
        }
    }

    #[test]
    fn an_idle_log_holds_next_to_no_memory() {
        use std::os::unix::fs::MetadataExt as _;

        let memory = mapping::create(size_of::<Layout>()).unwrap();
        let mut log = Log::open(&memory, 0).unwrap();
        while log.head() < 2 * LOG_BYTES as u64 {
            let number = log.append(Moment::default(), &message(7));
            log.forget(number);
        }
        let held = File::from(memory).metadata().unwrap().blocks() * 512;
        assert!(held <= 3 * RELEASE_BYTES as u64, "{held} bytes are held");
    }
}
