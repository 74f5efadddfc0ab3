//! One of many is active: who holds a key in Redis that expires when it is not renewed.
//!
//! Scripts look at the key in the same instant in which they take entries ([`super::redis`]), so who lost it without
//! knowing, because it was stopped for a while, takes nothing. What it had taken before it may still handle until it
//! looks at its [`Fence`]: an event may be handled twice, but never out of order.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, LazyLock};
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

/// A lease on a group, or the wait for it. Dropped, it is given back.
pub struct Lease {
    fence: Fence,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Says whether the lease is held at this moment.
#[derive(Clone, Debug)]
pub struct Fence {
    token: Arc<str>,
    /// Milliseconds since [`BEGAN`] until which it is held.
    until: Arc<AtomicU64>,
}

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Lease {
    /// Tries to get the lease on `group`, and to keep it, on a thread of its own.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn seek(settings: Settings, group: &str, listener: ConsumerListener) -> std::io::Result<Self> {
        let random = RandomState::new();
        let token = format!("{:016x}{:016x}", random.hash_one(0), random.hash_one(1));
        let fence = Fence { token: token.into(), until: Arc::default() };
        LazyLock::force(&BEGAN);
        let (stop, stopped) = channel::<()>();
        let (key, mine) = (settings.lease_key(group), fence.clone());
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

    /// What tells whether it is held.
    pub fn fence(&self) -> &Fence {
        &self.fence
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
    /// Whether the lease is held now.
    pub fn holds(&self) -> bool {
        now() < self.until.load(Ordering::SeqCst)
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }
}

struct Keeper {
    settings: Settings,
    key: String,
    fence: Fence,
    link: Option<Link>,
    trouble: Trouble,
}

impl Keeper {
    fn renew(&mut self) {
        // From before the question: the server counts from when it hears it.
        let until = now() + millis(LEASE.saturating_sub(MARGIN));
        match self.ask(&LEASE.as_millis().to_string()) {
            Ok(true) => {
                self.fence.until.store(until, Ordering::SeqCst);
                self.trouble.works();
            }
            Ok(false) => {
                self.fence.until.store(0, Ordering::SeqCst);
                self.trouble.works();
            }
            // It lasts as long as it was last renewed for.
            Err(failure) => drop(self.trouble.fails(failure)),
        }
    }

    fn give_back(&mut self) {
        self.fence.until.store(0, Ordering::SeqCst);
        // Else it expires.
        let _ = self.ask("0");
    }

    fn ask(&mut self, ms: &str) -> Result<bool, Failure> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => Link::connect(&self.settings)?,
        };
        let limit = LEASE.saturating_sub(MARGIN) / 2;
        link.limit_waits(limit)?;
        let held: u64 = link.call(&script::LEASE, &[self.key.as_str()], &[self.fence.token(), ms])?;
        self.link = Some(link);
        Ok(held == 1)
    }
}

fn now() -> u64 {
    millis(BEGAN.elapsed())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
