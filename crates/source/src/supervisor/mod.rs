//! One source of a chain at a time: when it fails, another takes over; when a better one works again, it comes back.
//!
//! A source that takes over scans first, and the table finds what happened in between. The better ones are tried out
//! beside the one in use, which costs their threads and scans: they come back once they have lasted for
//! [`standby::TRIAL`]. A source that may be deaf, because it was or because its namespace hears nothing, has to hear
//! something first. Poll hears nothing at all, so whatever is heard beside it is told from there on, and no edge is
//! lost on the way back.

mod standby;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use autoweave_usb_device::Observation;

use standby::{Progress, Standby};

use crate::interrupter::Interrupter;
use crate::{Counters, OpenErrors, Options, Position, Source, SourceError, Switch, Wire};

/// A source scans at every interval. One of which nothing is heard for twice as long and this has ended.
const SILENT_AFTER: Duration = Duration::from_secs(5);

/// A source that was woken late, with all of this process, gets this long to show that it lives.
const GRACE: Duration = Duration::from_secs(1);

/// A source that is late may tell what a scan has found so long before. One that tells nothing, and then another scan
/// finds something, is deaf.
const LATE: Duration = Duration::from_secs(5);

/// What is told of the active source, at most, before the others are looked after.
const IN_A_ROW_MAX: u32 = 256;

/// How long a source that works may take to hand on what it has, when a better one comes back.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// The sources of a chain; see the module's description.
#[derive(Debug)]
pub struct Supervisor {
    options: Options,
    standbys: Vec<Standby>,
    active: usize,
    source: Source,
    interrupter: Interrupter,
    failovers: u64,
    is_finishing: bool,
    /// The better source that comes next, and how long the one in use has until then.
    leaving: Option<(usize, Instant)>,
    in_a_row: u32,
    /// What a source heard on trial, which it has become active with.
    heard_on_trial: VecDeque<Wire>,
    health: Health,
}

/// What is known of how the active source does.
#[derive(Debug, Default)]
struct Health {
    /// Something came from it since this was last looked at.
    is_alive: bool,
    /// When it is taken for dead if nothing comes.
    deadline: Option<Instant>,
    is_late: bool,
    /// It has told an edge since the last scan.
    has_heard: bool,
    /// When a scan found something of which the source had told nothing, nor anything since.
    silent_since: Option<Instant>,
    verdict: Option<SourceError>,
}

impl Supervisor {
    /// Opens the first source of the chain that can be opened and is known to hear, else the first that can be opened.
    /// From now on nothing is missed; nothing is told before [`Self::start`].
    ///
    /// # Errors
    /// None can be opened: why, of each.
    pub fn open(options: Options) -> Result<Self, OpenErrors> {
        let mut standbys = Standby::all(&options.chain);
        let mut errors = Vec::new();
        let order = sure_first(&standbys, &options, 0..standbys.len());
        let now = Instant::now();
        for index in order {
            match Source::open(&options.chain[index], &options) {
                Ok(source) => return Ok(Self::with(source, index, standbys, options)),
                Err(error) => {
                    standbys[index].failed(error.to_string(), now);
                    errors.push(error);
                }
            }
        }
        Err(OpenErrors(errors))
    }

    /// Takes up where the holder of a reception had it, or else opens the first that can be opened. `options.chain`
    /// begins with [`crate::Kind::Uevent`].
    ///
    /// # Errors
    /// None can be opened: why, of each.
    #[cfg(target_os = "linux")]
    pub fn with_reception(reception: crate::Reception, options: Options) -> Result<Self, OpenErrors> {
        match Source::with_reception(reception, &options) {
            Ok(source) => {
                let standbys = Standby::all(&options.chain);
                Ok(Self::with(source, 0, standbys, options))
            }
            Err(_) => Self::open(options),
        }
    }

    fn with(source: Source, active: usize, mut standbys: Vec<Standby>, options: Options) -> Self {
        standbys[active].became_active(Instant::now());
        let interrupter = Interrupter::of(source.sender());
        Self {
            options,
            standbys,
            active,
            source,
            interrupter,
            failovers: 0,
            is_finishing: false,
            leaving: None,
            in_a_row: 0,
            heard_on_trial: VecDeque::new(),
            health: Health::default(),
        }
    }

    /// The source in use.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// How often another source took over, or came back.
    pub fn failovers(&self) -> u64 {
        self.failovers
    }

    /// What all sources have counted.
    pub fn counters(&self) -> &Counters {
        &self.options.counters
    }

    /// Why not the first source of the chain is in use, if so.
    pub fn problem(&self) -> Option<String> {
        let first = self.standbys.first().filter(|_| self.active > 0)?;
        let why = first.problem().unwrap_or("it has not been heard to hear anything yet");
        Some(format!("{} instead of {}: {why}", self.source.name(), self.options.chain[0].name()))
    }

    /// What wakes the taker, from any thread.
    pub fn interrupter(&self) -> Interrupter {
        self.interrupter.clone()
    }

    /// Whether [`Interrupter::interrupt`] was called; asked once.
    pub fn take_interrupt(&self) -> bool {
        self.interrupter.take()
    }

    /// Begins to tell what is not told up to `position`, which is the receiver's of [`Self::source`]. Once.
    pub fn start(&self, position: Position) {
        self.source.start(position);
    }

    /// Has the source hand on what it has received by now, and then say [`Wire::Ended`].
    pub fn finish(&mut self) {
        self.is_finishing = true;
        for standby in &mut self.standbys {
            standby.end_trial();
        }
        self.source.finish();
    }

    /// What came of observations up to `written` and `processed` is written down; see [`Source::journaled`].
    pub fn journaled(&self, written: u64, processed: u64) {
        self.source.journaled(written, processed);
    }

    /// The next thing out of the source, or nothing within `timeout`. After [`Wire::Switched`], numbers and positions
    /// are another source's.
    pub fn next(&mut self, timeout: Duration) -> Option<Wire> {
        if let Some(wire) = self.heard_on_trial.pop_front() {
            return Some(wire);
        }
        if let Some(verdict) = self.health.verdict.take().filter(|_| self.is_supervised()) {
            return Some(self.fail(verdict));
        }
        self.in_a_row += 1;
        if self.in_a_row < IN_A_ROW_MAX
            && let Some(wire) = self.source.next(Duration::ZERO).and_then(|wire| self.pass(wire))
        {
            return Some(wire);
        }
        self.in_a_row = 0;
        let until = Instant::now().checked_add(timeout);
        loop {
            let now = Instant::now();
            if let Some(wire) = self.look_around(now) {
                return Some(wire);
            }
            let look_at = self.look_at(now).into_iter().chain(until).min();
            let wait = look_at.map_or(timeout, |at| at.saturating_duration_since(now));
            if let Some(wire) = self.source.next(wait).and_then(|wire| self.pass(wire)) {
                return Some(wire);
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return None;
            }
        }
    }

    /// A scan of the active source was taken in, and found `edges` that it had not told of.
    pub fn scanned(&mut self, edges: u64) {
        let has_heard = std::mem::take(&mut self.health.has_heard);
        if edges > 0 {
            for standby in &mut self.standbys {
                standby.something_happened();
            }
        }
        if !self.is_supervised() || self.looks() {
            return;
        }
        let now = Instant::now();
        match (has_heard, edges) {
            (true, _) => self.health.silent_since = None,
            (false, 0) => {}
            (false, _) => {
                let since = *self.health.silent_since.get_or_insert(now);
                let has_successor = self.standbys.iter().any(|standby| standby.may_take_over(now));
                // One that only scans is better than none.
                if now.duration_since(since) >= LATE && has_successor {
                    self.health.verdict = Some(SourceError::Deaf);
                }
            }
        }
    }

    fn is_supervised(&self) -> bool {
        self.options.chain[self.active].is_of_the_bus() && !self.is_finishing
    }

    /// What happens because of the time.
    fn look_around(&mut self, now: Instant) -> Option<Wire> {
        if !self.is_supervised() {
            return None;
        }
        if let Some(error) = self.silence(now) {
            return Some(self.fail(error));
        }
        match self.leaving {
            Some((index, until)) if now >= until => return Some(self.come_back(index)),
            Some(_) => return None,
            None => {}
        }
        let looks = self.looks();
        for index in 0..self.active {
            let progress = self.standbys[index].try_out(&self.options, &self.interrupter, looks, now);
            let may_hear = self.standbys[..index].iter().any(Standby::is_on_trial);
            match progress {
                Progress::Waits => {}
                // A better one is about to tell the same.
                Progress::Works if looks && may_hear && !self.standbys[index].has_waited(now) => {}
                Progress::Works if looks => {
                    return self.standbys[index].take_trial().map(|trial| self.adopt_trial(index, trial));
                }
                Progress::Works => {
                    self.source.finish();
                    self.leaving = Some((index, now + LEAVE_WITHIN));
                    break;
                }
            }
        }
        None
    }

    /// When there is something to look at, at the latest.
    fn look_at(&self, now: Instant) -> Option<Instant> {
        if !self.is_supervised() {
            return None;
        }
        let trials = self.standbys[..self.active].iter().filter_map(|standby| standby.look_at(now));
        let leaving = self.leaving.map(|(_, until)| until);
        trials.chain(self.health.deadline).chain(leaving).min()
    }

    /// Whether nothing has come for too long.
    fn silence(&mut self, now: Instant) -> Option<SourceError> {
        let patience = self.options.interval.saturating_mul(2).saturating_add(SILENT_AFTER);
        let health = &mut self.health;
        let deadline = match health.deadline {
            Some(deadline) if !std::mem::take(&mut health.is_alive) => deadline,
            _ => {
                health.is_late = false;
                *health.deadline.insert(now.checked_add(patience)?)
            }
        };
        if now < deadline {
            return None;
        }
        if std::mem::replace(&mut health.is_late, true) {
            return Some(SourceError::Silent(patience));
        }
        health.deadline = Some(now + GRACE);
        None
    }

    fn looks(&self) -> bool {
        self.options.chain[self.active].looks()
    }

    /// What the taker gets of what came from the active source, if anything.
    fn pass(&mut self, wire: Wire) -> Option<Wire> {
        match wire {
            Wire::Observed(observed) => {
                self.health.is_alive = true;
                self.health.has_heard |= !matches!(observed.observation, Observation::Scan { .. });
                if !self.looks() || !self.is_supervised() {
                    return Some(Wire::Observed(observed));
                }
                // A scan may show what came of edges that were heard on trial, and are to be told.
                let switch = self.look_around(Instant::now());
                let is_heard = self.standbys[..self.active].iter().any(Standby::has_heard);
                if switch.is_some() || is_heard { switch } else { Some(Wire::Observed(observed)) }
            }
            Wire::ScanFailed(error) => {
                self.health.is_alive = true;
                Some(Wire::ScanFailed(error))
            }
            Wire::Failed(error) if self.is_supervised() => Some(self.fail(error)),
            Wire::Ended if self.is_supervised() => Some(match self.leaving {
                Some((index, _)) => self.come_back(index),
                None => self.fail(SourceError::Ended),
            }),
            other => Some(other),
        }
    }

    /// Another source takes over, if one can.
    fn fail(&mut self, why: SourceError) -> Wire {
        let now = Instant::now();
        let order = (self.active + 1..self.standbys.len()).chain(0..=self.active);
        let order: Vec<usize> = order.filter(|index| self.standbys[*index].may_take_over(now)).collect();
        self.standbys[self.active].failed(why.to_string(), now);
        if matches!(why, SourceError::Deaf) {
            self.standbys[self.active].was_deaf();
        }
        self.open_one_of(order, why)
    }

    /// The better source takes over, now that the one in use has handed on everything.
    fn come_back(&mut self, index: usize) -> Wire {
        self.standbys[index].end_trial();
        match Source::open(&self.options.chain[index], &self.options) {
            Ok(source) => self.adopt(index, source, None),
            Err(error) => {
                self.standbys[index].failed(error.to_string(), Instant::now());
                // The one in use was told to end.
                let order = (self.active..self.standbys.len()).chain(0..self.active);
                self.open_one_of(order.collect(), SourceError::Ended)
            }
        }
    }

    fn open_one_of(&mut self, order: Vec<usize>, why: SourceError) -> Wire {
        for index in sure_first(&self.standbys, &self.options, order) {
            match Source::open(&self.options.chain[index], &self.options) {
                Ok(source) => return self.adopt(index, source, Some(why)),
                Err(error) => self.standbys[index].failed(error.to_string(), Instant::now()),
            }
        }
        Wire::Failed(why)
    }

    fn adopt_trial(&mut self, index: usize, (source, heard): (Source, VecDeque<Wire>)) -> Wire {
        let switch = self.change_to(index, source, None);
        self.heard_on_trial = heard;
        switch
    }

    fn adopt(&mut self, index: usize, source: Source, why: Option<SourceError>) -> Wire {
        source.start(Position::default());
        self.change_to(index, source, why)
    }

    fn change_to(&mut self, index: usize, source: Source, why: Option<SourceError>) -> Wire {
        let from = self.source.name();
        self.interrupter.aim_at(source.sender());
        self.source = source;
        self.active = index;
        self.failovers += 1;
        (self.leaving, self.health) = (None, Health::default());
        self.heard_on_trial.clear();
        for standby in &mut self.standbys {
            standby.end_trial();
        }
        self.standbys[index].became_active(Instant::now());
        Wire::Switched(Switch { from, to: self.source.name(), why })
    }
}

/// Of `some` sources, those that are known to hear before those that may be deaf.
fn sure_first(standbys: &[Standby], options: &Options, some: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let (doubtful, mut order): (Vec<usize>, Vec<usize>) =
        some.into_iter().partition(|index| standbys[*index].is_doubtful(options));
    order.extend(doubtful);
    order
}
