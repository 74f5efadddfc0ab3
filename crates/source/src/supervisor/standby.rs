//! A source of the chain, whether or not it is in use: what became of it, and when it is tried out again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use autoweave_usb_device::{Observation, Observed};

use super::interrupter::{Interrupter, OnTrial};
use crate::Position;
use crate::source::{Kind, OpenError, Options, Source, SourceError, Wire};

/// How long a source has to last beside the active one before it comes back.
pub const TRIAL: Duration = Duration::from_secs(5);

/// When a source is tried out again after it failed, at first; then after twice as long, and so on …
const RETRY: Duration = Duration::from_secs(5);

/// … up to this.
const RETRY_MAX: Duration = Duration::from_secs(300);

/// One that fails again sooner than this after it became active is tried out less often.
const STEADY: Duration = Duration::from_secs(60);

/// A source does not take over again sooner than this after it failed.
const COOL_DOWN: Duration = Duration::from_secs(10);

/// What is kept of what a source hears on trial, at most. One that hears something is active at once.
const HEARD_MAX: usize = 4096;

/// See the module's description.
#[derive(Debug)]
pub struct Standby {
    kind: Kind,
    /// Why it is not in use.
    problem: Option<String>,
    failed_at: Option<Instant>,
    active_since: Option<Instant>,
    /// Scans found what it did not tell: it has to hear something before it is used again.
    was_deaf: bool,
    pause: Duration,
    retry_at: Option<Instant>,
    trial: Option<Trial>,
}

#[derive(Debug)]
struct Trial {
    source: Source,
    _on_trial: OnTrial,
    /// It has to hear something.
    is_doubtful: bool,
    ends_at: Instant,
    is_over: bool,
    has_scanned: bool,
    has_heard: bool,
    /// What was heard, from the first edge on, while the active source hears nothing.
    heard: VecDeque<Wire>,
    /// A scan of the active source found something, and this one has told nothing.
    has_missed: bool,
}

/// How far a trial is.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is none, or it goes on.
    Waits,
    /// The source can be used.
    Works,
}

impl Standby {
    /// Those of a chain.
    pub fn all(chain: &[Kind]) -> Vec<Self> {
        let standby = |kind: &Kind| Self {
            kind: kind.clone(),
            problem: None,
            failed_at: None,
            active_since: None,
            was_deaf: false,
            pause: RETRY,
            retry_at: None,
            trial: None,
        };
        chain.iter().map(standby).collect()
    }

    /// Whether it may hear nothing.
    pub fn is_doubtful(&self, options: &Options) -> bool {
        self.was_deaf || self.kind.may_be_deaf(options)
    }

    /// Why it is not in use, if that is known.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Whether it has not failed just now.
    pub fn may_take_over(&self, now: Instant) -> bool {
        self.failed_at.is_none_or(|at| now.duration_since(at) >= COOL_DOWN)
    }

    /// It is in use from now on.
    pub fn became_active(&mut self, now: Instant) {
        self.active_since = Some(now);
        (self.problem, self.retry_at, self.trial, self.was_deaf) = (None, None, None, false);
    }

    /// It could not be opened, or not go on.
    pub fn failed(&mut self, problem: String, now: Instant) {
        let was_steady = self.active_since.take().is_some_and(|since| now.duration_since(since) >= STEADY);
        if was_steady {
            self.pause = RETRY;
        }
        (self.problem, self.failed_at, self.trial) = (Some(problem), Some(now), None);
        self.retry_at = now.checked_add(self.pause);
        self.pause = self.pause.saturating_mul(2).min(RETRY_MAX);
    }

    /// It failed because it did not hear what happened.
    pub fn was_deaf(&mut self) {
        self.was_deaf = true;
    }

    /// Ends the trial, if there is one.
    pub fn end_trial(&mut self) {
        self.trial = None;
    }

    /// The source on trial and what it has heard.
    pub fn take_trial(&mut self) -> Option<(Source, VecDeque<Wire>)> {
        self.trial.take().map(|trial| (trial.source, trial.heard))
    }

    /// A scan of the active source found something.
    pub fn something_happened(&mut self) {
        if let Some(trial) = &mut self.trial {
            trial.has_missed = true;
        }
    }

    /// When there is something to look at if nobody says so before.
    pub fn look_at(&self) -> Option<Instant> {
        match &self.trial {
            Some(trial) => (!trial.is_over && !trial.is_doubtful).then_some(trial.ends_at),
            None => self.retry_at,
        }
    }

    /// Begins a trial if it is time for one, or goes on with it. `looks`: the active source hears nothing itself.
    pub fn try_out(
        &mut self,
        options: &Options,
        interrupter: &Interrupter,
        looks: bool,
        now: Instant,
    ) -> Progress {
        if self.trial.is_none() && self.retry_at.is_none_or(|at| now >= at) {
            match self.begin_trial(options, interrupter, now) {
                Ok(trial) => self.trial = Some(trial),
                Err(error) => self.failed(error.to_string(), now),
            }
        }
        let Some(trial) = &mut self.trial else { return Progress::Waits };
        match trial.go_on(looks, now) {
            Ok(progress) => progress,
            Err(error) => {
                self.failed(error.to_string(), now);
                Progress::Waits
            }
        }
    }

    fn begin_trial(
        &self,
        options: &Options,
        interrupter: &Interrupter,
        now: Instant,
    ) -> Result<Trial, OpenError> {
        let (nudge, on_trial) = interrupter.nudge();
        let source = Source::open_beside(&self.kind, options, Some(nudge))?;
        source.start(Position::default());
        Ok(Trial {
            source,
            _on_trial: on_trial,
            is_doubtful: self.is_doubtful(options),
            ends_at: now + TRIAL,
            is_over: false,
            has_scanned: false,
            has_heard: false,
            heard: VecDeque::new(),
            has_missed: false,
        })
    }
}

impl Trial {
    fn go_on(&mut self, looks: bool, now: Instant) -> Result<Progress, SourceError> {
        while let Some(wire) = self.source.next(Duration::ZERO) {
            match wire {
                Wire::Failed(error) => return Err(error),
                Wire::Ended => return Err(SourceError::Ended),
                Wire::Observed(observed) => self.observed(observed, looks),
                Wire::ScanFailed(_) | Wire::Interrupted | Wire::Switched(_) => {}
            }
        }
        self.is_over = now >= self.ends_at;
        if self.is_over && self.has_missed && !self.has_heard {
            self.is_doubtful = true;
        }
        // What it hears must not be missed, if nobody else hears it.
        let hears = self.has_heard && (looks || self.is_over);
        let lasts = self.is_over && !self.is_doubtful;
        Ok(if self.has_scanned && (hears || lasts) { Progress::Works } else { Progress::Waits })
    }

    fn observed(&mut self, observed: Observed, looks: bool) {
        let is_scan = matches!(observed.observation, Observation::Scan { .. });
        self.has_scanned |= is_scan;
        self.has_heard |= !is_scan;
        if looks && self.has_heard && self.heard.len() < HEARD_MAX {
            self.heard.push_back(Wire::Observed(observed));
        } else {
            self.source.journaled(observed.number, observed.number);
        }
    }
}
