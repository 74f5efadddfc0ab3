//! What the publisher has to say, and to whom.

use std::fmt;
use std::time::SystemTime;

use autoweave_usb_device::Traceparent;

use crate::failure::Failure;

/// Who hears of what a publisher does. Both are called on the publisher's thread and must not block.
pub struct Listener {
    /// What an operator should know.
    pub on_notice: Box<dyn FnMut(Notice) + Send>,
    /// The stream acknowledged an event, for the first time to this publisher.
    pub on_acknowledged: Box<dyn FnMut(Acknowledged<'_>) + Send>,
}

/// An event that the stream has.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged<'a> {
    /// Its number.
    pub seq: u64,
    /// When it was observed, in milliseconds since the Unix epoch.
    pub timestamp: u64,
    /// The trace that began with that, if one did.
    pub traceparent: Option<Traceparent>,
    /// When it was sent, the last time.
    pub sent: SystemTime,
    /// The stream's key.
    pub stream: &'a str,
}

/// Something an operator should know, told once when it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Publishing goes on, the first time or after [`Notice::Down`].
    Up {
        /// The server's version.
        version: String,
        /// Up to which number the stream has the events.
        published_seq: u64,
    },
    /// Publishing has stopped and is tried again; events wait in the journal.
    Down(Failure),
    /// `maxmemory-policy` lets the server throw the stream away.
    EvictingPolicy(String),
    /// The stream lost events that it had acknowledged, or never had a mark: they are sent again.
    Replaying {
        /// The first to be sent.
        from: u64,
        /// The last the journal had when this was noticed.
        to: u64,
    },
    /// Events that the stream lacks are no longer in the journal either. While the publisher catches up and the
    /// journal goes on removing, told when that begins, at most once an interval, and when it has caught up.
    NoLongerKept {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
        /// How many; fewer than `from` to `to` where some of those in between were published.
        count: u64,
    },
    /// The stream has events of this producer that the journal never wrote: it was restored from an old copy.
    /// Publishing stops until [`crate::Publisher::resume_as`].
    NewProducerNeeded {
        /// The producer that cannot be used any more.
        producer: String,
        /// The number in the stream that does not fit.
        stream_seq: u64,
        /// The highest number of the journal.
        journal_seq: u64,
    },
    /// A group did not acknowledge for so long that entries it needs were removed.
    GroupCutOff {
        /// The group.
        group: String,
        /// The length the stream was cut to.
        length: u64,
    },
    /// The stream cannot be trimmed and grows beyond its bound; publishing goes on.
    NotTrimmed(Failure),
    /// An event in the journal cannot be read. An entry with its number and no device was published.
    Unreadable {
        /// Its number.
        seq: u64,
        /// What is wrong with it.
        error: String,
    },
}

/// Whether events get through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Not yet known.
    #[default]
    Connecting,
    /// They do.
    Up,
    /// They do not; [`Status::last_error`] says why.
    Down,
    /// The publisher has ended.
    Stopped,
}

/// How the publisher is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether events get through.
    pub state: State,
    /// Up to which number the stream has the events, or nobody has them any more. Goes back when the server lost
    /// some: what is behind it must be kept. `None`: the publisher has not compared journal and stream yet, since
    /// the start, another server or stream, or another producer; or they do not fit
    /// ([`Notice::NewProducerNeeded`]).
    pub published_seq: Option<u64>,
    /// How many events of the journal the stream lacks, as of the last look. `None` as in
    /// [`Status::published_seq`].
    pub unpublished: Option<u64>,
    /// Why the state is [`State::Down`].
    pub last_error: Option<String>,
    /// How often publishing, comparing or trimming failed.
    pub errors_total: u64,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up { version, published_seq } => {
                write!(f, "publishing to Redis {version}, which has the events up to {published_seq}")
            }
            Self::Down(failure) => write!(f, "{failure}; events wait in the journal"),
            Self::EvictingPolicy(policy) => write!(
                f,
                "Redis may evict the stream when its memory is full (maxmemory-policy {policy}); set noeviction"
            ),
            Self::Replaying { from, to } => {
                write!(f, "the stream lacks events it should have; sending {from} to {to} again")
            }
            Self::NoLongerKept { from, to, count } => {
                if *count <= to - from {
                    write!(f, "{count} of the ")?;
                }
                write!(
                    f,
                    "events {from} to {to} are neither in the stream nor in the journal any more \
                     (journal.max_events)"
                )
            }
            Self::NewProducerNeeded { producer, stream_seq, journal_seq } => write!(
                f,
                "the stream has event {stream_seq} of producer {producer}, which this journal (up to \
                 {journal_seq}) never wrote; it was restored or copied, and needs a new producer id"
            ),
            Self::GroupCutOff { group, length } => write!(
                f,
                "the stream was cut to {length} entries although group {group} has not acknowledged the oldest"
            ),
            Self::NotTrimmed(failure) => {
                write!(f, "the stream cannot be trimmed and grows beyond redis.max_len: {failure}")
            }
            Self::Unreadable { seq, error } => {
                write!(
                    f,
                    "event {seq} of the journal cannot be read and was published without its device: {error}"
                )
            }
        }
    }
}
