//! What is counted since the daemon started. Whoever counts waits for nobody.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use autoweave_usb_device::{Action, Event, Reason, Rule, SourceName, Tallies};

/// Upper bounds of the histogram, in microseconds: close to one another from 0.1 ms to 10 s, and two for outages.
pub(super) const BUCKETS_US: [u32; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// What is counted since the daemon started. Everything else in `/metrics` follows from the status and the
/// device table.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Bounded by the number of different labels, which are words of closed sets.
    events: Mutex<BTreeMap<[&'static str; 3], u64>>,
    pub(super) coalesced: AtomicU64,
    pub(super) filtered: [AtomicU64; Rule::ALL.len()],
    pub(super) publish_errors: AtomicU64,
    pub(super) plugin_events_lost: AtomicU64,
    pub(super) processing: Histogram,
}

#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// One more than there are bounds: the last is for what is slower than all of them.
    pub(super) buckets: [AtomicU64; BUCKETS_US.len() + 1],
    pub(super) sum_us: AtomicU64,
}

impl Metrics {
    /// An event was written to the journal.
    pub fn event(&self, event: &Event) {
        let labels = [event.action.as_str(), event.source.as_str(), event.reason.as_str()];
        *self.events.lock().unwrap_or_else(PoisonError::into_inner).entry(labels).or_default() += 1;
    }

    /// Edges that became no event, as the device table counts them.
    pub fn tallies(&self, tallies: &Tallies) {
        self.coalesced.store(tallies.coalesced, Ordering::Relaxed);
        for (counter, count) in self.filtered.iter().zip(tallies.filtered) {
            counter.store(count, Ordering::Relaxed);
        }
    }

    /// The stream refused an event or did not answer.
    pub fn publish_error(&self) {
        self.publish_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Events were removed before plugins heard of them.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux has plugins"))]
    pub fn plugin_events_lost(&self, count: u64) {
        self.plugin_events_lost.fetch_add(count, Ordering::Relaxed);
    }

    /// The stream acknowledged an event that was observed at `observed_us`, in microseconds since the Unix epoch.
    pub fn acknowledged_now(&self, observed_us: u64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.acknowledged(now.saturating_sub(Duration::from_micros(observed_us)));
    }

    /// The stream acknowledged an event `elapsed` after it was observed.
    pub fn acknowledged(&self, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.partition_point(|bound| u64::from(*bound) < micros);
        self.processing.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.processing.sum_us.fetch_add(micros, Ordering::Relaxed);
    }

    /// `source` is in use: its series are there from now on, at zero. A series that begins at one hides that
    /// first event from every rate.
    pub(super) fn events_with(&self, source: Option<SourceName>) -> BTreeMap<[&'static str; 3], u64> {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = source {
            for action in [Action::Attach, Action::Detach] {
                for reason in [Reason::Hotplug, Reason::Coldplug, Reason::Reconcile, Reason::Reboot] {
                    events.entry([action.as_str(), source.as_str(), reason.as_str()]).or_default();
                }
            }
        }
        events.clone()
    }
}
