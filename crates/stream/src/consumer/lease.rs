//! One of many is active: who holds a key in Redis that expires when it is not renewed.
//!
//! Scripts look at the key in the same instant in which they take entries ([`super::redis`]), so who lost it without
//! knowing, because it was stopped for a while, takes nothing. What it had taken before it may still handle until it
//! looks at its [`Fence`]: an event may be handled twice, but never out of order. A fence is of one time that the lease is
//! held, under a token of its own: once it fell, it stays down, though the lease may be had again, with another fence.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::ConsumerListener;
use super::Trouble;
use crate::backoff::Backoff;
use crate::failure::Failure;
use crate::link::Link;
use crate::script;
use crate::settings::Settings;

/// How long a lease lasts that is not renewed: so soon another one takes over.
const LEASE: Duration = Duration::from_secs(3);

/// Between renewals, and between tries to get it.
const RENEWAL: Duration = Duration::from_millis(500);

/// An active holder believes itself such for this much less than the server does.
const MARGIN: Duration = Duration::from_millis(500);

/// Of a [`Fence`]'s `until`: it was never held, or is not held any more.
const NOT_YET: u64 = 0;
const OVER: u64 = u64::MAX;

/// A lease on a group, or the wait for it. Dropped, it is given back.
pub struct Lease {
    fence: Arc<Mutex<Fence>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Says whether the lease is still held without a break since it was got.
#[derive(Clone, Debug)]
pub struct Fence {
    token: Arc<str>,
    /// Milliseconds since [`BEGAN`] until which it is held, [`NOT_YET`] or [`OVER`].
    until: Arc<AtomicU64>,
}

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Lease {
    /// Tries to get the lease on `group`, and to keep it, on a thread of its own.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn seek(settings: Settings, group: &str, listener: ConsumerListener) -> std::io::Result<Self> {
        let fence = Arc::new(Mutex::new(Fence::new()));
        LazyLock::force(&BEGAN);
        let (stop, stopped) = channel::<()>();
        let (key, mine) = (settings.lease_key(group), Arc::clone(&fence));
        let trouble = Trouble { listener, told: None, has_worked: true, backoff: Backoff::default() };
        let keep = move || {
            let mut keeper = Keeper { settings, key, fence: mine, link: None, trouble };
            while {
                keeper.renew();
                stopped.recv_timeout(RENEWAL) == Err(RecvTimeoutError::Timeout)
            } {}
            keeper.give_back();
        };
        let thread = thread::Builder::new().name("plugins-lease".to_owned()).spawn(keep)?;
        Ok(Self { fence, stop: Some(stop), thread: Some(thread) })
    }

    /// What tells whether it is held, this time; from the next one on that is another fence.
    pub fn fence(&self) -> Fence {
        current(&self.fence)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop = None;
        // It ends within what Redis may take to answer.
        self.thread.take().into_iter().for_each(|thread| drop(thread.join()));
    }
}

impl Fence {
    fn new() -> Self {
        let random = RandomState::new();
        let token = format!("{:016x}{:016x}", random.hash_one(0), random.hash_one(1));
        Self { token: token.into(), until: Arc::new(AtomicU64::new(NOT_YET)) }
    }

    /// Whether the lease is held now. Where it was and is no more, it never is again.
    pub fn holds(&self) -> bool {
        self.step(|until| until);
        !matches!(self.until.load(Ordering::SeqCst), NOT_YET | OVER)
    }

    fn is_over(&self) -> bool {
        self.until.load(Ordering::SeqCst) == OVER
    }

    /// What it is held until becomes what `next` says of that, unless it is over, or is now.
    fn step(&self, next: impl Fn(u64) -> u64) {
        let next = |until| match until {
            OVER => None,
            NOT_YET => Some(next(until)),
            _ if until <= now() => Some(OVER),
            _ => Some(next(until)),
        };
        // An error says that it is over.
        let _ = self.until.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }
}

/// Whether the server says that the lease is held.
enum Held {
    Not,
    /// Without a break since it was got.
    Since,
    Anew,
}

struct Keeper {
    settings: Settings,
    key: String,
    fence: Arc<Mutex<Fence>>,
    link: Option<Link>,
    trouble: Trouble,
}

impl Keeper {
    fn renew(&mut self) {
        // From before the question: the server counts from when it hears it.
        let until = now() + millis(LEASE.saturating_sub(MARGIN));
        let mut fence = current(&self.fence);
        if fence.is_over() {
            fence = Fence::new();
            *self.fence.lock().unwrap_or_else(PoisonError::into_inner) = fence.clone();
        }
        match self.ask(&fence, &LEASE.as_millis().to_string()) {
            Ok(Held::Since) => fence.step(|_| until),
            // Somebody else may have had it in between.
            Ok(Held::Anew) => fence.step(|before| if before == NOT_YET { until } else { OVER }),
            Ok(Held::Not) => fence.step(|before| if before == NOT_YET { NOT_YET } else { OVER }),
            // It lasts as long as it was last renewed for.
            Err(failure) => {
                self.trouble.fails(failure);
                return;
            }
        }
        self.trouble.works();
        if fence.is_over() {
            // What the server has for it would keep everybody waiting, this loader's next fence included.
            let _ = self.ask(&fence, "0");
        }
    }

    fn give_back(&mut self) {
        let fence = current(&self.fence);
        fence.step(|_| OVER);
        // Else it expires.
        let _ = self.ask(&fence, "0");
    }

    fn ask(&mut self, fence: &Fence, ms: &str) -> Result<Held, Failure> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => Link::connect(&self.settings)?,
        };
        let limit = LEASE.saturating_sub(MARGIN) / 2;
        link.limit_waits(limit)?;
        let held: u64 = link.call(&script::LEASE, &[self.key.as_str()], &[fence.token(), ms])?;
        self.link = Some(link);
        Ok(match held {
            0 => Held::Not,
            1 => Held::Since,
            _ => Held::Anew,
        })
    }
}

fn current(fence: &Mutex<Fence>) -> Fence {
    fence.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn now() -> u64 {
    millis(BEGAN.elapsed())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
