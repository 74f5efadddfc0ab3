//! Events for those who have to handle each of them: one contract, with two stores behind it.
//!
//! - Every event is delivered at least once, and again until it is settled: done, or given up with dead letters that say
//!   why. Who settles last has handled it; nothing else moves a group forward (invariant I6).
//! - First comes what this consumer got before and did not settle, then what is new; so also after each new connection.
//!   One consumer of a group gets events in order.
//! - What a consumer that is gone did not settle is another's after [`Sharing::MinIdle`], or at once for the holder of
//!   the group's [`Lease`], of whom there is one: then order holds over consumers as well.
//! - An event that was delivered more often than it may be, because whoever handled it ended, is delivered alone: so it
//!   is known what is to blame. It is given up after as many deliveries again.
//! - What the store lost before it was settled is counted and told, see [`ConsumerNotice::Lost`].
//!
//! | | [`Consumer::redis`] | [`Consumer::journal`] |
//! |---|---|---|
//! | events of | all producers of the stream | this host |
//! | a group is | a consumer group, made at `0` | a [`Cursor`], which the daemon keeps in the journal |
//! | dead letters | stream `{aw:hotplug}:dead`: the entry's fields, `error`, `deliveries`, `plugin` | `dead-letters.jsonl` beside the journal |
//! | deliveries are counted | over restarts, but for [`Deliveries::leave`] | since the start |

mod connected;
mod flight;
mod journal;
mod lease;
mod letters;
mod redis;
mod renewal;
mod settled;

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use autoweave_usb_device::Event;

use crate::backoff::Backoff;
use crate::failure::Failure;
use crate::settings::Settings;

pub use connected::connected_in_stream;
pub use flight::EntryId;
pub use journal::Cursor;
pub use lease::{Fence, Lease};
pub use letters::{Letter, dead_letters_file};

use flight::Flight;

/// The longest sleep or wait after which a stop is noticed.
const STOP_NOTICED: Duration = Duration::from_millis(50);

/// How long [`Consumer::run`] waits for an event before it looks whether it should stop.
const BLOCK: Duration = Duration::from_millis(500);

/// How long [`Consumer::run`] waits before it hands an event over again; doubled each time, up to 5 s.
const AGAIN: Duration = Duration::from_millis(100);

/// Who reads as a group of a Redis stream.
#[derive(Clone, Debug)]
pub struct Member {
    /// The group's name; made where it is missing.
    pub group: String,
    /// The consumer's. The same after a restart, or its events wait for [`Sharing::MinIdle`].
    pub consumer: String,
    /// From how many deliveries on an event is delivered alone; at least 1.
    pub max_deliveries: u32,
    /// Whether there are others in the group.
    pub sharing: Sharing,
}

/// How consumers of one group share it.
#[derive(Clone, Debug)]
pub enum Sharing {
    /// All of them read. What one of them has not settled for this long is another's; it is prolonged while the consumer
    /// lives, so only one that hangs or is gone loses anything.
    MinIdle(Duration),
    /// Who holds the lease reads, and takes over at once what others did not settle.
    Lease(Fence),
}

/// An event that is to be handled, then settled.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What it is settled by.
    pub id: EntryId,
    /// Or why it is none, or is not to be handled any more: it is to be given up with this text.
    pub event: Result<Arc<Event>, String>,
    /// How often it was delivered, this time included; from 1.
    pub deliveries: u32,
    /// Nothing else is to be handled at the same time.
    pub alone: bool,
}

/// How [`Consumer::run`]'s handler dealt with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done with.
    Done,
    /// Not, for this reason: hand it over again, up to `max_deliveries` times.
    Again(String),
    /// Not, and it never will be.
    GiveUp(String),
}

/// Something an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsumerNotice {
    /// The store can be read, the first time or after [`ConsumerNotice::Down`].
    Up,
    /// It cannot read or settle, and tries again.
    Down(Failure),
    /// The group was gone and was made again.
    GroupMade(String),
    /// The store removed events before they were settled.
    Lost {
        /// How many.
        count: u64,
        /// What is known of which.
        what: String,
    },
}

/// Takes what a consumer tells. Called on the threads that read and settle, which wait meanwhile.
pub type ConsumerListener = Arc<dyn Fn(ConsumerNotice) + Send + Sync>;

/// A consumer: both of its halves.
pub struct Consumer {
    /// What is to be handled.
    pub deliveries: Deliveries,
    /// What was.
    pub settlements: Settlements,
    max_deliveries: u32,
}

/// The half of a [`Consumer`] that reads.
pub struct Deliveries {
    inbox: Inbox,
    flight: Arc<Flight>,
    trouble: Trouble,
    max_deliveries: u32,
}

/// The half of a [`Consumer`] that settles.
pub struct Settlements {
    outbox: Outbox,
    flight: Arc<Flight>,
    trouble: Trouble,
}

enum Inbox {
    Redis(Box<redis::Inbox>),
    Journal(Box<journal::Inbox>),
}

enum Outbox {
    Redis(Box<redis::Outbox>),
    Journal(journal::Outbox),
}

/// What is wrong with the store, told once, and when to try again.
struct Trouble {
    listener: ConsumerListener,
    told: Option<Failure>,
    has_worked: bool,
    backoff: Backoff,
}

impl Consumer {
    /// Reads a Redis stream. Connects when it is first used.
    pub fn redis(settings: Settings, member: Member, listener: ConsumerListener) -> Self {
        let flight = Arc::<Flight>::default();
        let max_deliveries = member.max_deliveries;
        let inbox = redis::Inbox::new(settings.clone(), member.clone(), &flight, listener.clone());
        let outbox = redis::Outbox::new(settings, member.group);
        Self::of(
            Inbox::Redis(Box::new(inbox)),
            Outbox::Redis(Box::new(outbox)),
            flight,
            max_deliveries,
            &listener,
        )
    }

    /// Reads the journal in `state_dir` from `cursor` on.
    pub fn journal(
        state_dir: &Path,
        cursor: Arc<Cursor>,
        max_deliveries: u32,
        listener: ConsumerListener,
    ) -> Self {
        let flight = Arc::<Flight>::default();
        let inbox = journal::Inbox::new(state_dir, cursor.clone(), listener.clone());
        let outbox = journal::Outbox::new(state_dir, cursor);
        Self::of(Inbox::Journal(Box::new(inbox)), Outbox::Journal(outbox), flight, max_deliveries, &listener)
    }

    fn of(
        inbox: Inbox,
        outbox: Outbox,
        flight: Arc<Flight>,
        max_deliveries: u32,
        listener: &ConsumerListener,
    ) -> Self {
        let trouble = || Trouble {
            listener: listener.clone(),
            told: None,
            has_worked: false,
            backoff: Backoff::default(),
        };
        let max_deliveries = max_deliveries.max(1);
        Self {
            deliveries: Deliveries { inbox, flight: flight.clone(), trouble: trouble(), max_deliveries },
            // It has nothing to say when it first works: that is what the other half says.
            settlements: Settlements { outbox, flight, trouble: Trouble { has_worked: true, ..trouble() } },
            max_deliveries,
        }
    }

    /// Hands over one event after the other until `stop` is set, and settles each as `handler` says. `handler` gets
    /// the number of the delivery as well, from 1. Outages are waited out.
    pub fn run(&mut self, stop: &AtomicBool, mut handler: impl FnMut(&Event, u32) -> Verdict) {
        let stopped = || stop.load(Ordering::Relaxed);
        while !stopped() {
            for delivery in self.deliveries.next(1, BLOCK) {
                if self.handle(&delivery, &stopped, &mut handler).is_break() {
                    return;
                }
            }
        }
    }

    fn handle(
        &mut self,
        delivery: &Delivery,
        stopped: &impl Fn() -> bool,
        handler: &mut impl FnMut(&Event, u32) -> Verdict,
    ) -> ControlFlow<()> {
        let mut letter =
            Letter { error: String::new(), deliveries: delivery.deliveries, plugin: String::new() };
        let event = match &delivery.event {
            Ok(event) => event,
            Err(error) => {
                letter.error.clone_from(error);
                return self.settlements.settle(delivery, &[letter], stopped);
            }
        };
        let mut wait = AGAIN;
        loop {
            match handler(event, letter.deliveries) {
                Verdict::Done => return self.settlements.settle(delivery, &[], stopped),
                Verdict::Again(_) if letter.deliveries < self.max_deliveries => {}
                Verdict::Again(error) | Verdict::GiveUp(error) => {
                    letter.error = error;
                    return self.settlements.settle(delivery, &[letter], stopped);
                }
            }
            letter.deliveries += 1;
            sleep(wait, stopped)?;
            wait = (wait * 2).min(Duration::from_secs(5));
        }
    }
}

impl Deliveries {
    /// The next events, at most `count` and in order; waits up to `block` for one. None came, or the store is out of
    /// reach, if the answer is empty: then the call took up to `block` as well.
    pub fn next(&mut self, count: usize, block: Duration) -> Vec<Delivery> {
        if count == 0 {
            return Vec::new();
        }
        let end = Instant::now() + block;
        let taken = match &mut self.inbox {
            Inbox::Redis(inbox) => inbox.next(count, block),
            Inbox::Journal(inbox) => inbox.next(count, block),
        };
        match taken {
            Ok(mut taken) => {
                self.trouble.works();
                // What is being handled comes again on a new connection.
                taken.retain(|delivery| self.flight.begin(delivery.id));
                for delivery in &mut taken {
                    delivery.alone = delivery.deliveries > self.max_deliveries;
                    if delivery.deliveries > self.max_deliveries.saturating_mul(2) {
                        let times = delivery.deliveries - 1;
                        delivery.event =
                            Err(format!("whoever handled it ended before it was done, {times} times"));
                    }
                }
                taken
            }
            Err(failure) => {
                let wait = self.trouble.fails(failure).min(end.saturating_duration_since(Instant::now()));
                thread::sleep(wait);
                Vec::new()
            }
        }
    }

    /// Nothing more is handled, and not for fault of any event: what is not settled does not count as delivered this
    /// time, as far as the store can be told within a second.
    pub fn leave(&mut self) {
        match &mut self.inbox {
            Inbox::Redis(inbox) => inbox.leave(),
            // It counts from each start anew.
            Inbox::Journal(_) => {}
        }
    }

    /// How many deliveries are not settled.
    pub fn unsettled(&self) -> usize {
        self.flight.out().len()
    }

    /// Waits until at most `count` deliveries are not settled, at most for `patience`; says whether that is so.
    pub fn wait_for_room(&self, count: usize, patience: Duration) -> bool {
        self.flight.wait_until_at_most(count, patience)
    }
}

impl Settlements {
    /// Settles a delivery: it is done with, or given up where there are letters, one for each who gave it up. Tries
    /// until it succeeds; breaks off when `stopped` says so: the event is delivered again then, some time.
    pub fn settle(
        &mut self,
        delivery: &Delivery,
        letters: &[Letter],
        stopped: &impl Fn() -> bool,
    ) -> ControlFlow<()> {
        self.insist(stopped, |outbox| match outbox {
            Outbox::Redis(outbox) => outbox.settle(delivery.id, letters),
            Outbox::Journal(outbox) => outbox.write(delivery, letters),
        })?;
        self.ended(delivery);
        ControlFlow::Continue(())
    }

    /// Settles deliveries that are done with, in one go; otherwise like [`Settlements::settle`].
    pub fn settle_done(&mut self, deliveries: &[Delivery], stopped: &impl Fn() -> bool) -> ControlFlow<()> {
        let ids: Vec<EntryId> = deliveries.iter().map(|delivery| delivery.id).collect();
        if ids.is_empty() {
            return ControlFlow::Continue(());
        }
        self.insist(stopped, |outbox| match outbox {
            Outbox::Redis(outbox) => outbox.acknowledge(&ids),
            // The cursor is all there is.
            Outbox::Journal(_) => Ok(()),
        })?;
        deliveries.iter().for_each(|delivery| self.ended(delivery));
        ControlFlow::Continue(())
    }

    fn insist(
        &mut self,
        stopped: &impl Fn() -> bool,
        mut write: impl FnMut(&mut Outbox) -> Result<(), Failure>,
    ) -> ControlFlow<()> {
        while let Err(failure) = write(&mut self.outbox) {
            sleep(self.trouble.fails(failure), stopped)?;
        }
        self.trouble.works();
        ControlFlow::Continue(())
    }

    fn ended(&mut self, delivery: &Delivery) {
        match &self.outbox {
            Outbox::Journal(outbox) => outbox.done(self.flight.end(delivery.id)),
            Outbox::Redis(_) => {
                if let Ok(event) = &delivery.event {
                    self.flight.remember(event);
                }
                self.flight.end(delivery.id);
            }
        }
    }
}

impl Trouble {
    fn works(&mut self) {
        if self.told.take().is_some() || !std::mem::replace(&mut self.has_worked, true) {
            (self.listener)(ConsumerNotice::Up);
        }
        self.backoff.reset();
    }

    /// How long to wait now.
    fn fails(&mut self, failure: Failure) -> Duration {
        if self.told.as_ref().is_none_or(|told| !told.is_like(&failure)) {
            (self.listener)(ConsumerNotice::Down(failure.clone()));
        }
        self.told = Some(failure);
        self.backoff.next()
    }
}

fn sleep(wait: Duration, stopped: &impl Fn() -> bool) -> ControlFlow<()> {
    let end = Instant::now() + wait;
    while !stopped() {
        let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
            return ControlFlow::Continue(());
        };
        thread::sleep(left.min(STOP_NOTICED));
    }
    ControlFlow::Break(())
}

impl fmt::Display for ConsumerNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up => f.write_str("events can be read"),
            Self::Down(failure) => write!(f, "{failure}; events wait"),
            Self::GroupMade(group) => write!(f, "the group {group} was gone and is made again"),
            Self::Lost { count, what } => {
                write!(f, "{count} events are lost: they were removed before they were handled ({what})")
            }
        }
    }
}
