//! What the publisher says, each thing once.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::Shared;
use crate::failure::Failure;
use crate::notice::{Acknowledged, Listener, Notice, State};
use crate::send::Call;
use crate::server::Server;
use crate::trim::Trimmed;

/// Keeps the status and tells notices when something begins, not while it lasts.
pub(crate) struct Report {
    shared: Arc<Shared>,
    listener: Listener,
    up: bool,
    failure: Option<Failure>,
    policy: String,
    cut_off: String,
    not_trimmed: Option<Failure>,
    /// Events lost since the last notice of them: the first, the last, and how many.
    lost: Option<(u64, u64, u64)>,
    /// When the last such notice of this catch-up was told.
    lost_told: Option<Instant>,
}

impl Report {
    pub(crate) fn new(shared: Arc<Shared>, listener: Listener) -> Self {
        Self {
            shared,
            listener,
            up: false,
            failure: None,
            policy: String::new(),
            cut_off: String::new(),
            not_trimmed: None,
            lost: None,
            lost_told: None,
        }
    }

    pub(crate) fn notices(&mut self, notices: Vec<Notice>) {
        notices.into_iter().for_each(&mut self.listener.on_notice);
    }

    /// After a comparison: what it found lost, and what was found before and is due.
    pub(crate) fn lost(&mut self, found: Option<RangeInclusive<u64>>, interval: Duration) {
        if let Some((first, last)) = found.map(RangeInclusive::into_inner) {
            // What is lost again, to another server that lost everything, does not add up.
            if self.lost.is_some_and(|(_, to, _)| first <= to) {
                self.tell_lost();
            }
            let (from, _, count) = self.lost.unwrap_or((first, last, 0));
            self.lost = Some((from, last, count + (last - first + 1)));
        }
        if self.lost_told.is_none_or(|told| told.elapsed() >= interval) {
            self.tell_lost();
        }
    }

    /// The stream has all of the journal: a loss after this is told at once.
    pub(crate) fn caught_up(&mut self) {
        self.tell_lost();
        self.lost_told = None;
    }

    pub(crate) fn tell_lost(&mut self) {
        if let Some((from, to, count)) = self.lost.take() {
            self.lost_told = Some(Instant::now());
            (self.listener.on_notice)(Notice::NoLongerKept { from, to, count });
        }
    }

    pub(crate) fn acknowledged(&mut self, call: &Call, stream: &str) {
        for &(seq, timestamp, traceparent) in &call.origins {
            let acknowledged = Acknowledged { seq, timestamp, traceparent, sent: call.sent, stream };
            (self.listener.on_acknowledged)(acknowledged);
        }
    }

    pub(crate) fn up(&mut self, server: &Server, published_seq: u64) {
        self.failure = None;
        if self.up {
            return;
        }
        self.up = true;
        self.shared.update(|status| {
            status.state = State::Up;
            status.last_error = None;
        });
        (self.listener.on_notice)(Notice::Up { version: server.version.clone(), published_seq });
    }

    pub(crate) fn failed(&mut self, failure: Failure) {
        self.tell_lost();
        self.down(failure.to_string());
        if self.failure.as_ref().is_none_or(|told| !told.is_like(&failure)) {
            (self.listener.on_notice)(Notice::Down(failure.clone()));
        }
        self.failure = Some(failure);
    }

    /// Like a failure, but one that time does not mend.
    pub(crate) fn halted(&mut self, why: Notice) {
        self.down(why.to_string());
        (self.listener.on_notice)(why);
    }

    pub(crate) fn connected(&mut self, server: &Server) {
        let policy = if server.may_evict() { server.policy.as_str() } else { "" };
        if policy != self.policy {
            policy.clone_into(&mut self.policy);
            if !policy.is_empty() {
                (self.listener.on_notice)(Notice::EvictingPolicy(policy.to_owned()));
            }
        }
    }

    pub(crate) fn not_trimmed(&mut self, failure: Failure) {
        self.shared.update(|status| status.errors_total += 1);
        if self.not_trimmed.as_ref().is_none_or(|told| !told.is_like(&failure)) {
            (self.listener.on_notice)(Notice::NotTrimmed(failure.clone()));
        }
        self.not_trimmed = Some(failure);
    }

    pub(crate) fn trimmed(&mut self, trimmed: Trimmed) {
        self.not_trimmed = None;
        if trimmed.held_by.is_empty() {
            self.cut_off.clear();
        } else if trimmed.cut_off && trimmed.held_by != self.cut_off {
            self.cut_off.clone_from(&trimmed.held_by);
            (self.listener.on_notice)(Notice::GroupCutOff { group: trimmed.held_by, length: trimmed.length });
        }
    }

    fn down(&mut self, error: String) {
        self.up = false;
        self.shared.update(|status| {
            status.state = State::Down;
            status.last_error = Some(error);
            status.errors_total += 1;
        });
    }
}
