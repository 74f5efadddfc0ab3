//! A source of the chain, whether or not it is in use: what became of it, and when it is tried out again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use autoweave_usb_device::{Observation, Observed};

use crate::interrupter::{Interrupter, OnTrial};
use crate::{Kind, OpenError, Options, Position, Source, SourceError, Wire};

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

/// What is kept of what a source hears on trial, at most. The rest waits where it comes from; one that hears something is
/// active soon.
const HEARD_MAX: usize = 4096;

/// What one source on trial hears, a better one hears as well, or not at all, within this.
const HEARS_WITHIN: Duration = Duration::from_millis(300);

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
    /// When it first told something but a scan.
    heard_at: Option<Instant>,
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

    /// Whether a trial goes on.
    pub fn is_on_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// Whether something was heard on trial that the active source, which only looks, is not to tell.
    pub fn has_heard(&self) -> bool {
        self.trial.as_ref().is_some_and(|trial| trial.heard_at.is_some())
    }

    /// Whether a better source would have heard by now what this one has heard on trial.
    pub fn has_waited(&self, now: Instant) -> bool {
        let heard_at = self.trial.as_ref().and_then(|trial| trial.heard_at);
        heard_at.is_none_or(|at| now.duration_since(at) >= HEARS_WITHIN)
    }

    /// When there is something to look at if nobody says so before.
    pub fn look_at(&self, now: Instant) -> Option<Instant> {
        let Some(trial) = &self.trial else { return self.retry_at };
        let may_end = !trial.is_doubtful || trial.heard_at.is_some();
        let ends_at = Some(trial.ends_at).filter(|_| may_end);
        let waits_until = trial.heard_at.map(|at| at + HEARS_WITHIN);
        ends_at.into_iter().chain(waits_until).filter(|at| *at > now).min()
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
            heard_at: None,
            heard: VecDeque::new(),
            has_missed: false,
        })
    }
}

impl Trial {
    fn go_on(&mut self, looks: bool, now: Instant) -> Result<Progress, SourceError> {
        while self.heard.len() < HEARD_MAX
            && let Some(wire) = self.source.next(Duration::ZERO)
        {
            match wire {
                Wire::Failed(error) => return Err(error),
                Wire::Ended => return Err(SourceError::Ended),
                Wire::Observed(observed) => self.observed(observed, looks, now),
                Wire::ScanFailed(_) | Wire::Interrupted | Wire::Switched(_) => {}
            }
        }
        self.is_over = now >= self.ends_at;
        if self.is_over && self.has_missed && self.heard_at.is_none() {
            self.is_doubtful = true;
        }
        // What it hears must not be missed, if nobody else hears it.
        let hears = self.heard_at.is_some() && (looks || self.is_over);
        let lasts = self.is_over && !self.is_doubtful;
        let is_known = self.has_scanned || self.heard.len() >= HEARD_MAX;
        if self.is_over && !is_known {
            return Err(SourceError::Silent(TRIAL));
        }
        Ok(if is_known && (hears || lasts) { Progress::Works } else { Progress::Waits })
    }

    fn observed(&mut self, observed: Observed, looks: bool, now: Instant) {
        let is_scan = matches!(observed.observation, Observation::Scan { .. });
        self.has_scanned |= is_scan;
        if !is_scan {
            self.heard_at.get_or_insert(now);
        }
        if looks && self.heard_at.is_some() {
            self.heard.push_back(Wire::Observed(observed));
        } else {
            self.source.journaled(observed.number, observed.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standby() -> (Standby, Instant) {
        (Standby::all(&[Kind::Uevent]).remove(0), Instant::now())
    }

    fn fail(standby: &mut Standby, now: Instant) -> Duration {
        standby.failed("a reason".to_owned(), now);
        standby.look_at(now).unwrap() - now
    }

    #[test]
    fn what_fails_again_and_again_is_tried_less_and_less() {
        let (mut standby, mut now) = standby();
        for pause_s in [5, 10, 20, 40, 80, 160, 300, 300] {
            let pause = fail(&mut standby, now);
            assert_eq!(pause, Duration::from_secs(pause_s));
            now += pause + TRIAL;
            standby.became_active(now);
            assert_eq!((standby.problem(), standby.look_at(now)), (None, None));
            now += STEADY - Duration::from_millis(1);
        }
    }

    #[test]
    fn what_lasted_is_tried_soon() {
        let (mut standby, mut now) = standby();
        for _ in 0..5 {
            fail(&mut standby, now);
        }
        standby.became_active(now);
        now += STEADY;
        assert_eq!(fail(&mut standby, now), RETRY);
        assert_eq!(fail(&mut standby, now), 2 * RETRY, "it had not become active");
    }

    #[test]
    fn what_failed_just_now_does_not_take_over() {
        let (mut standby, now) = standby();
        assert!(standby.may_take_over(now));
        fail(&mut standby, now);
        assert!(!standby.may_take_over(now) && !standby.may_take_over(now + COOL_DOWN - RETRY));
        assert!(standby.may_take_over(now + COOL_DOWN));
    }

    #[test]
    fn what_was_deaf_is_doubted_until_it_is_used_again() {
        let (_, now) = standby();
        let mut poll = Standby::all(&[Kind::Poll]).remove(0);
        let options = Options::default();
        assert!(!poll.is_doubtful(&options));
        fail(&mut poll, now);
        poll.was_deaf();
        assert!(poll.is_doubtful(&options));
        poll.became_active(now);
        assert!(!poll.is_doubtful(&options));
    }
}
