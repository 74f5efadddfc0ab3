//! The publisher's thread: compares, sends, waits, and tries again.

mod publish;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Instant;

use crate::backoff::Backoff;
use crate::control::{Orders, Shared};
use crate::failure::Failure;
use crate::link::{Link, RESPONSE_TIMEOUT};
use crate::mark::Place;
use crate::notice::{Listener, Notice};
use crate::report::Report;
use crate::rows::Rows;
use crate::script;
use crate::server::Server;
use crate::settings::Settings;
use crate::shape::Shape;
use crate::sync::{self, Compared, Keys};
use crate::worker::publish::Round;

/// How often the mark may turn out to be elsewhere, without progress, before it counts as a failure.
const UNSETTLED_MAX: u32 = 3;

pub(crate) struct Worker {
    settings: Settings,
    keys: Keys,
    producer: String,
    shared: Arc<Shared>,
    report: Report,
    rows: Rows,
    link: Option<Link>,
    server: Server,
    /// Up to where the stream has the events, as of the last answer; `None` until it is known, and where the
    /// stream has foreign events.
    place: Option<Place>,
    /// The journal's highest number, as of the last look.
    last_seq: u64,
    /// Up to where this stream acknowledged events of this producer to this process.
    acknowledged: u64,
    /// When to compare next; `None`: before anything else.
    compare_at: Option<Instant>,
    unsettled: u32,
    /// The stream has foreign events: nothing goes on before another producer is given.
    halted: bool,
    retry_at: Option<Instant>,
    backoff: Backoff,
    shape: Shape,
    added_since_trim: u64,
    stop: Option<Instant>,
}

/// What the thread does next.
enum Next {
    Step,
    Wait(Option<Instant>),
    End,
}

impl Worker {
    pub(crate) fn new(
        settings: Settings,
        rows: Rows,
        producer: String,
        shared: Arc<Shared>,
        listener: Listener,
    ) -> Self {
        let shape = Shape::new(settings.max_events_per_second, Instant::now());
        Self {
            keys: keys(&settings),
            settings,
            producer,
            report: Report::new(shared.clone(), listener),
            shared,
            rows,
            link: None,
            server: Server::default(),
            place: None,
            last_seq: 0,
            acknowledged: 0,
            compare_at: None,
            unsettled: 0,
            halted: false,
            retry_at: None,
            backoff: Backoff::default(),
            shape,
            added_since_trim: 0,
            stop: None,
        }
    }

    pub(crate) fn run(mut self) {
        loop {
            match self.step() {
                Next::Step => {}
                Next::Wait(until) => self.shared.wait(until, self.stop.is_some()),
                Next::End => break,
            }
        }
        self.report.tell_lost();
    }

    fn step(&mut self) -> Next {
        let orders = self.shared.take_orders();
        self.obey(orders);
        let now = Instant::now();
        let stopping = self.stop.is_some();
        if self.stop.is_some_and(|deadline| deadline <= now) || (stopping && self.halted) {
            return Next::End;
        }
        self.look();
        if self.halted {
            return Next::Wait(None);
        }
        // A stop tries once more at once: the server may be back.
        if let Some(retry_at) = self.retry_at.filter(|retry_at| *retry_at > now && !stopping) {
            return Next::Wait(Some(retry_at));
        }
        match self.advance() {
            Ok(next) => next,
            // A stop has given up waiting.
            Err(_) if self.rows.are_released() => Next::End,
            Err(failure) => {
                self.failed(failure);
                if stopping { Next::End } else { Next::Wait(self.retry_at) }
            }
        }
    }

    fn obey(&mut self, orders: Orders) {
        if let Some(settings) = orders.settings {
            self.change(settings);
        }
        if let Some(producer) = orders.producer {
            self.producer = producer;
            self.forget_place();
            self.begin_anew();
        }
        self.stop = orders.stop;
    }

    fn change(&mut self, settings: Settings) {
        let old = std::mem::replace(&mut self.settings, settings);
        let new = &self.settings;
        let is_same_stream = new.is_same_stream(&old);
        let is_same_user = new.is_same_user(&old);
        if *new != old {
            self.compare_at = None;
        }
        if new.max_events_per_second != old.max_events_per_second {
            self.shape = Shape::new(new.max_events_per_second, Instant::now());
        }
        if !is_same_stream {
            self.keys = keys(new);
            self.forget_place();
        }
        if !is_same_stream || !is_same_user || self.link.is_none() {
            self.begin_anew();
        }
    }

    /// What is known of one stream, or of one producer's events in it, says nothing of another.
    fn forget_place(&mut self) {
        self.acknowledged = 0;
        self.set_place(None);
    }

    fn set_place(&mut self, place: Option<Place>) {
        self.place = place;
        self.tell_place();
    }

    fn tell_place(&self) {
        let published_seq = self.place.as_ref().map(|place| place.seq);
        self.shared.update(|status| {
            status.published_seq = published_seq;
            status.unpublished = published_seq.map(|seq| self.last_seq.saturating_sub(seq));
        });
    }

    fn begin_anew(&mut self) {
        self.link = None;
        self.compare_at = None;
        self.halted = false;
        self.retry_at = None;
        self.backoff.reset();
    }

    /// Keeps the count of what waits true while nothing gets through.
    fn look(&mut self) {
        if self.place.is_some()
            && let Ok(last_seq) = self.rows.last_seq()
        {
            self.last_seq = last_seq;
            self.tell_place();
        }
    }

    fn advance(&mut self) -> Result<Next, Failure> {
        self.connect()?;
        let now = Instant::now();
        if self.compare_at.is_none_or(|due| due <= now) {
            self.compare()?;
            if self.halted {
                return Ok(Next::Step);
            }
        }
        // Before and after: trimming may be what makes room.
        self.trim_when_due()?;
        let round = self.publish()?;
        self.trim_when_due()?;
        self.look();
        match round {
            Round::Unsettled => {
                self.compare_at = None;
                self.unsettled += 1;
                if self.unsettled > UNSETTLED_MAX { Err(sync::another_publisher()) } else { Ok(Next::Step) }
            }
            Round::Overtaken => {
                self.compare_at = None;
                Ok(Next::Step)
            }
            Round::Level => {
                self.gets_through();
                self.report.caught_up();
                Ok(if self.stop.is_some() { Next::End } else { Next::Wait(self.compare_at) })
            }
            Round::More => {
                let wait = self.shape.wait();
                if wait.is_zero() {
                    return Ok(Next::Step);
                }
                let until = [Some(Instant::now() + wait), self.compare_at, self.stop];
                Ok(Next::Wait(until.into_iter().flatten().min()))
            }
        }
    }

    fn connect(&mut self) -> Result<(), Failure> {
        if let (Some(link), Some(deadline)) = (&mut self.link, self.stop) {
            link.limit_waits(RESPONSE_TIMEOUT.min(deadline.saturating_duration_since(Instant::now())))?;
        }
        if self.link.is_some() {
            return Ok(());
        }
        let mut link = Link::connect(&self.settings)?;
        self.server = Server::ask(&mut link)?;
        if self.server.is_too_old() {
            return Err(Failure::TooOld(self.server.version.clone()));
        }
        // Were it missing when many calls are on their way, all of them would be in vain.
        link.load(&script::APPEND)?;
        self.report.connected(&self.server);
        self.link = Some(link);
        self.compare_at = None;
        Ok(())
    }

    fn compare(&mut self) -> Result<(), Failure> {
        let link = self.link.as_mut().ok_or_else(not_connected)?;
        match sync::compare(link, &self.keys, &self.rows, &self.producer, self.acknowledged)? {
            Compared::At { place, lost, replayed } => {
                self.report.lost(lost, self.settings.interval);
                self.last_seq = self.rows.last_seq()?;
                self.acknowledged = place.seq;
                self.set_place(Some(place));
                let replaying = replayed.map(RangeInclusive::into_inner);
                let replaying = replaying.map(|(from, to)| Notice::Replaying { from, to });
                self.report.notices(replaying.into_iter().collect());
                self.compare_at = Some(Instant::now() + self.settings.interval);
                self.added_since_trim = u64::MAX;
            }
            Compared::Foreign { stream_seq, journal_seq } => {
                self.halted = true;
                self.forget_place();
                let producer = self.producer.clone();
                self.report.halted(Notice::NewProducerNeeded { producer, stream_seq, journal_seq });
            }
        }
        Ok(())
    }

    fn gets_through(&mut self) {
        self.unsettled = 0;
        self.retry_at = None;
        self.backoff.reset();
        if let Some(place) = &self.place {
            self.report.up(&self.server, place.seq);
        }
    }

    fn failed(&mut self, failure: Failure) {
        self.link = None;
        self.unsettled = 0;
        self.retry_at = Some(Instant::now() + self.backoff.next());
        self.report.failed(failure);
    }
}

fn keys(settings: &Settings) -> Keys {
    Keys { stream: settings.stream.clone(), marks: settings.marks_key() }
}

/// Every use follows [`Worker::connect`]; if one does not, connecting is what helps.
fn not_connected() -> Failure {
    Failure::Unreachable("not connected".to_owned())
}
