//! A consumer group of a Redis stream.
//!
//! A wait takes nothing (`XREAD`), and what takes something does not wait: so no entry is delivered to a connection
//! that nobody listens to any more, and the lease is looked at in the same instant in which entries are taken.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use autoweave_usb_device::Event;
use redis::Value;

use super::flight::{EntryId, Flight};
use super::letters::Letter;
use super::renewal::Renewal;
use super::{ConsumerListener, ConsumerNotice, Delivery, Member, Sharing};
use crate::entry::event;
use crate::failure::Failure;
use crate::link::{Link, RESPONSE_TIMEOUT, decode};
use crate::read::{Raw, RawFields, create, fields};
use crate::script::{CLAIM, LEAVE, OWN, SETTLE, TAKE};
use crate::settings::Settings;

/// The most entries one call takes.
const ENTRIES_MAX: usize = 256;

/// About how many dead letters are kept.
const DEAD_MAX: &str = "10000";

/// The shortest time between two looks for what other consumers left.
const CLAIM_PAUSE_MIN: Duration = Duration::from_secs(1);

/// Producers whose last number is known at a time.
const PRODUCERS_MAX: usize = 4096;

/// How long the server may take at the end, when it is asked not to count what was left.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two looks whether the lease is back.
const LOST_PAUSE: Duration = Duration::from_millis(200);

pub(super) struct Inbox {
    settings: Settings,
    member: Member,
    flight: Arc<Flight>,
    listener: ConsumerListener,
    link: Option<Link>,
    next: Next,
    /// When to look for what other consumers left.
    claim_at: Instant,
    /// Whether there is something to deliver again; so it may be on a new connection.
    has_left: bool,
    has_read: bool,
    renewal: Option<Renewal>,
    /// The last number of each producer that was taken, for who takes all there is.
    taken: HashMap<String, u64>,
}

/// What to read next.
enum Next {
    /// What others left, from this id on.
    Claim(String),
    /// What this consumer got before, from this id on.
    Own(String),
    New,
}

/// Id, fields, deliveries.
type OwnEntry = (String, RawFields, u32);

/// What a call to the server came to.
enum Step {
    GoOn,
    Give(Vec<Delivery>),
    /// Somebody else holds the lease.
    Lost,
}

pub(super) struct Outbox {
    settings: Settings,
    group: String,
    link: Option<Link>,
}

impl Inbox {
    pub(super) fn new(
        settings: Settings,
        member: Member,
        flight: &Arc<Flight>,
        listener: ConsumerListener,
    ) -> Self {
        let flight = Arc::clone(flight);
        let next = Next::Claim("0-0".to_owned());
        Self {
            settings,
            member,
            flight,
            listener,
            link: None,
            next,
            claim_at: Instant::now(),
            has_left: true,
            has_read: false,
            renewal: None,
            taken: HashMap::new(),
        }
    }

    pub(super) fn next(&mut self, count: usize, block: Duration) -> Result<Vec<Delivery>, Failure> {
        let count = count.min(ENTRIES_MAX);
        // Whatever goes wrong, the link is gone, and the next one begins with what was left.
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.connect()?,
        };
        let taken = match self.read(&mut link, count, block) {
            Err(Failure::Refused(text)) if text.contains("NOGROUP") => {
                self.make_group(&mut link)?;
                Ok(Vec::new())
            }
            taken => taken,
        }?;
        let taken = self.leave_out_settled(&mut link, taken)?;
        self.has_read = true;
        self.link = Some(link);
        Ok(taken)
    }

    /// Without a connection, or where it fails, what is left counts as delivered.
    pub(super) fn leave(&mut self) {
        let ids = self.flight.out();
        let Some(mut link) = self.link.take().filter(|_| !ids.is_empty()) else { return };
        let mut arguments =
            vec![self.token().to_owned(), self.member.group.clone(), self.member.consumer.clone()];
        arguments.extend(ids.iter().map(ToString::to_string));
        let left = link
            .limit_waits(LEAVE_TIMEOUT)
            .and_then(|()| link.call::<String>(&LEAVE, &self.keys(), &arguments));
        // Its next use sets its own limit; a broken one is gone.
        self.link = left.ok().and_then(|_| link.limit_waits(RESPONSE_TIMEOUT).ok()).map(|()| link);
    }

    fn connect(&mut self) -> Result<Link, Failure> {
        let mut link = Link::connect(&self.settings)?;
        (self.next, self.has_left) = (Next::Claim("0-0".to_owned()), true);
        create(&mut link, &self.settings.stream, &self.member.group, "0").map(drop).or_else(not_permitted)?;
        if let (Sharing::MinIdle(min_idle), None) = (&self.member.sharing, &self.renewal) {
            let (settings, member) = (self.settings.clone(), self.member.clone());
            self.renewal = Some(Renewal::start(settings, member, Arc::clone(&self.flight), *min_idle)?);
        }
        Ok(link)
    }

    /// Somebody removed it, or the server lost it. It goes on where this consumer was: from `0` all would come again.
    fn make_group(&mut self, link: &mut Link) -> Result<(), Failure> {
        let (stream, group) = (&self.settings.stream, &self.member.group);
        let last: Option<EntryId> = link
            .query::<Raw>(redis::cmd("XREVRANGE").arg(stream).arg("+").arg("-").arg("COUNT").arg(1))?
            .first()
            .and_then(|(id, _)| String::from_utf8_lossy(id).parse().ok());
        // A stream that ends before is another one.
        let from = self.flight.done().filter(|done| last.is_some_and(|last| *done <= last));
        create(link, stream, group, &from.map_or("0".to_owned(), |from| from.to_string()))?;
        if self.has_read {
            (self.listener)(ConsumerNotice::GroupMade(group.clone()));
        }
        Err(Failure::Refused(format!("NOGROUP: the group {group} is made again")))
    }

    fn read(&mut self, link: &mut Link, count: usize, block: Duration) -> Result<Vec<Delivery>, Failure> {
        link.limit_waits(RESPONSE_TIMEOUT)?;
        loop {
            let step = match std::mem::replace(&mut self.next, Next::New) {
                Next::Claim(from) => self.claim(link, &from)?,
                Next::Own(from) => self.own(link, &from, count)?,
                Next::New if Instant::now() >= self.claim_at => {
                    self.next = Next::Claim("0-0".to_owned());
                    Step::GoOn
                }
                Next::New => self.new_ones(link, count, block)?,
            };
            match step {
                Step::GoOn => {}
                Step::Give(deliveries) => return Ok(deliveries),
                Step::Lost => {
                    // Should it be ours again, what the other one left comes before anything new, and what it took is
                    // not missing.
                    self.taken.clear();
                    (self.next, self.has_left) = (Next::Claim("0-0".to_owned()), true);
                    thread::sleep(block.min(LOST_PAUSE));
                    return Ok(Vec::new());
                }
            }
        }
    }

    /// Acknowledges anew what is settled, as the server has forgotten.
    fn leave_out_settled(&self, link: &mut Link, taken: Vec<Delivery>) -> Result<Vec<Delivery>, Failure> {
        let is_settled =
            |delivery: &Delivery| delivery.event.as_ref().is_ok_and(|event| self.flight.has_settled(event));
        let (settled, rest): (Vec<_>, Vec<_>) = taken.into_iter().partition(is_settled);
        if !settled.is_empty() {
            let ids: Vec<String> = settled.iter().map(|delivery| delivery.id.to_string()).collect();
            let (stream, group) = (&self.settings.stream, &self.member.group);
            link.query::<u64>(redis::cmd("XACK").arg(stream).arg(group).arg(ids))?;
        }
        Ok(rest)
    }

    fn claim(&mut self, link: &mut Link, from: &str) -> Result<Step, Failure> {
        let min_idle = match &self.member.sharing {
            Sharing::MinIdle(min_idle) => *min_idle,
            Sharing::Lease(_) => Duration::ZERO,
        };
        let (ms, most) = (min_idle.as_millis().to_string(), ENTRIES_MAX.to_string());
        let arguments = [self.token(), &self.member.group, &self.member.consumer, &ms, from, &most];
        let mut answer = link.call::<Vec<Value>>(&CLAIM, &self.keys(), &arguments)?.into_iter();
        let go_on: String = answer.next().map_or(Ok("lost".to_owned()), decode)?;
        if go_on == "lost" {
            return Ok(Step::Lost);
        }
        let claimed: Vec<String> = answer.next().map(decode).transpose()?.unwrap_or_default();
        let trimmed: Vec<String> = answer.next().map(decode).transpose()?.unwrap_or_default();
        self.tell_lost(&trimmed);
        let at: HashSet<String> = self.flight.out().iter().map(ToString::to_string).collect();
        self.has_left |= claimed.iter().any(|id| !at.contains(id));
        if go_on != "0-0" {
            self.next = Next::Claim(go_on);
            return Ok(Step::GoOn);
        }
        self.claim_at = Instant::now() + (min_idle / 2).max(CLAIM_PAUSE_MIN);
        if std::mem::take(&mut self.has_left) {
            self.next = Next::Own("-".to_owned());
        }
        Ok(Step::GoOn)
    }

    fn own(&mut self, link: &mut Link, from: &str, count: usize) -> Result<Step, Failure> {
        let (count, most) = (count.to_string(), self.member.max_deliveries.to_string());
        let mut arguments: Vec<String> =
            [self.token(), &self.member.group, &self.member.consumer, from, &count, &most]
                .map(str::to_owned)
                .to_vec();
        arguments.extend(self.flight.out().iter().map(ToString::to_string));
        let answer: Vec<Value> = link.call(&OWN, &self.keys(), &arguments)?;
        if answer.len() == 1 {
            return Ok(Step::Lost);
        }
        let (_, go_on, trimmed, entries): (String, String, Vec<String>, Vec<OwnEntry>) =
            decode(Value::Array(answer))?;
        self.tell_lost(&trimmed);
        if !go_on.is_empty() {
            self.next = Next::Own(go_on);
        }
        if entries.is_empty() {
            return Ok(Step::GoOn);
        }
        let deliveries =
            entries.into_iter().map(|(id, raw, deliveries)| delivery(&id, Some(raw), deliveries));
        let deliveries = deliveries.collect::<Result<Vec<_>, _>>()?;
        // The numbers between them are acknowledged.
        self.count(&deliveries, |_, _| ());
        Ok(Step::Give(deliveries))
    }

    fn new_ones(&mut self, link: &mut Link, count: usize, block: Duration) -> Result<Step, Failure> {
        let Some((end, taken)) = self.take(link, count)? else { return Ok(Step::Lost) };
        let block_ms = u64::try_from(block.as_millis()).unwrap_or(u64::MAX);
        if !taken.is_empty() || block_ms == 0 {
            return Ok(Step::Give(taken));
        }
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(1).arg("BLOCK").arg(block_ms);
        command.arg("STREAMS").arg(&self.settings.stream).arg(end);
        link.limit_waits(block.saturating_add(RESPONSE_TIMEOUT))?;
        let woken: Value = link.query(&command)?;
        link.limit_waits(RESPONSE_TIMEOUT)?;
        if woken == Value::Nil {
            return Ok(Step::Give(taken));
        }
        Ok(self.take(link, count)?.map_or(Step::Lost, |(_, taken)| Step::Give(taken)))
    }

    /// The stream's last id, and new entries; none where somebody else holds the lease.
    fn take(&mut self, link: &mut Link, count: usize) -> Result<Option<(String, Vec<Delivery>)>, Failure> {
        let arguments = [self.token(), &self.member.group, &self.member.consumer, &count.to_string()];
        let answer: Vec<Value> = link.call(&TAKE, &self.keys(), &arguments)?;
        if answer.len() == 1 {
            return Ok(None);
        }
        let (_, end, entries): (String, String, Raw) = decode(Value::Array(answer))?;
        let entries = entries.into_iter().map(|(id, raw)| delivery(&String::from_utf8_lossy(&id), raw, 1));
        let deliveries = entries.collect::<Result<Vec<_>, _>>()?;
        if matches!(self.member.sharing, Sharing::Lease(_)) {
            self.look_for_gaps(&deliveries);
        }
        Ok(Some((end, deliveries)))
    }

    /// Entries that were removed before the group got them show by the numbers that are missing. Numbers that come again
    /// are a server's that lost some.
    fn look_for_gaps(&mut self, deliveries: &[Delivery]) {
        let listener = self.listener.clone();
        self.count(deliveries, |last, event| {
            let (from, to) = (last + 1, event.seq.saturating_sub(1));
            if from <= to {
                let what =
                    format!("{from} to {to} of producer {}: not in the stream any more", event.producer);
                listener(ConsumerNotice::Lost { count: to - from + 1, what });
            }
        });
    }

    /// Counts `deliveries` as taken, after a look at the last number of each event's producer before it.
    fn count(&mut self, deliveries: &[Delivery], look: impl Fn(u64, &Event)) {
        for event in deliveries.iter().filter_map(|delivery| delivery.event.as_ref().ok()) {
            if self.taken.len() >= PRODUCERS_MAX {
                self.taken.clear();
            }
            let last = self.taken.entry(event.producer.clone()).or_insert(event.seq.saturating_sub(1));
            look(*last, event);
            *last = event.seq.max(*last);
        }
    }

    fn token(&self) -> &str {
        match &self.member.sharing {
            Sharing::MinIdle(_) => "",
            Sharing::Lease(fence) => fence.token(),
        }
    }

    fn keys(&self) -> [String; 2] {
        [self.settings.stream.clone(), self.settings.lease_key(&self.member.group)]
    }

    fn tell_lost(&self, trimmed: &[String]) {
        if let (Some(first), Some(last)) = (trimmed.first(), trimmed.last()) {
            let what = format!("entries {first} to {last} were trimmed from the stream");
            (self.listener)(ConsumerNotice::Lost { count: trimmed.len() as u64, what });
        }
    }
}

impl Outbox {
    pub(super) fn new(settings: Settings, group: String) -> Self {
        Self { settings, group, link: None }
    }

    pub(super) fn acknowledge(&mut self, ids: &[EntryId]) -> Result<(), Failure> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => Link::connect(&self.settings)?,
        };
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        // Without a group it acknowledges nothing, which is no error.
        link.query::<u64>(redis::cmd("XACK").arg(&self.settings.stream).arg(&self.group).arg(ids))?;
        self.link = Some(link);
        Ok(())
    }

    pub(super) fn settle(&mut self, id: EntryId, letters: &[Letter]) -> Result<(), Failure> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => Link::connect(&self.settings)?,
        };
        let mut arguments = vec![self.group.clone(), id.to_string(), DEAD_MAX.to_owned()];
        for Letter { error, deliveries, plugin } in letters {
            arguments.extend([error.clone(), deliveries.to_string(), plugin.clone()]);
        }
        let keys = [self.settings.stream.clone(), self.settings.dead_key()];
        match link.call::<u64>(&SETTLE, &keys, &arguments) {
            // Without a group nothing waits; who reads makes it again and gets this one again.
            Err(Failure::Refused(text)) if text.contains("NOGROUP") => {}
            settled => drop(settled?),
        }
        self.link = Some(link);
        Ok(())
    }
}

/// A user who may not make groups may read as one that is there.
fn not_permitted(failure: Failure) -> Result<(), Failure> {
    match failure {
        Failure::NotPermitted(_) => Ok(()),
        other => Err(other),
    }
}

fn delivery(id: &str, raw: Option<RawFields>, deliveries: u32) -> Result<Delivery, Failure> {
    let id = id.parse().map_err(|()| Failure::Refused(format!("an unexpected id: {id}")))?;
    let event = event(&fields(raw.unwrap_or_default()));
    let event = event.map(Arc::new).map_err(|error| format!("the entry is no event: {error}"));
    Ok(Delivery { id, event, deliveries, alone: false })
}
