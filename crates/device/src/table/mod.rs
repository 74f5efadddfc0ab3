//! The device table: observations in, changes out. Decides which events the world gets to see.
//!
//! For every port it knows two things: what is plugged in (`present`) and what the outside was told
//! (`published`). They differ while a debounce window is open, and where a filter hides the device. An edge
//! or a scan changes the first; settling a port brings the second in line with it, and each step of that is a
//! [`Change`]. So whatever the order of edges, however many were missed or seen twice:
//!
//! - per port and per `device_id`, attach and detach alternate;
//! - a hub's attach goes out before, and its detach after, those of the devices below it;
//! - once every port has been scanned and every window has closed, what was published is what is there.

mod drivers;
mod identity;
mod orphans;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use drivers::Released;

use crate::{
    Action, Device, Filters, Moment, Observation, Observed, Port, Reading, Reason, Rule, SourceName,
};

/// What decides about publishing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Which devices the outside hears of.
    pub filters: Filters,
    /// The length of a port's window, from its first edge, in which further edges are joined into their net
    /// effect; in milliseconds, 0 to publish every edge.
    pub debounce_ms: u64,
}

/// Something the journal has to write down.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// An event for the outside; the table of published devices changes with it.
    Edge(Edge),
    /// More became known of a published device: no event, but its detach will tell.
    Refreshed(Arc<Device>),
}

/// An attach or a detach to be published.
#[derive(Debug, Clone, PartialEq)]
pub struct Edge {
    /// What happened.
    pub action: Action,
    /// How it was noticed.
    pub reason: Reason,
    /// Who noticed.
    pub source: SourceName,
    /// When, in microseconds since the Unix epoch.
    pub observed_us: u64,
    /// How many observed edges it stands for, at least 1.
    pub edges: u32,
    /// The kernel's number of the last uevent it came from, if it came from one.
    pub seqnum: Option<u64>,
    /// The device.
    pub device: Arc<Device>,
}

impl Edge {
    /// When, in milliseconds since the Unix epoch: as its event has it.
    pub fn timestamp(&self) -> u64 {
        self.observed_us / 1_000
    }
}

/// Edges by what became of them, where that is no event of their own, or one nobody had told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tallies {
    /// Joined with others in a debounce window.
    pub coalesced: u64,
    /// Hidden by a filter, in the order of [`Rule::ALL`].
    pub filtered: [u64; Rule::ALL.len()],
    /// An arrival of what was already there.
    pub duplicate: u64,
    /// A departure of what was not there, or was already followed by another device.
    pub unmatched: u64,
    /// Told by a scan, and by nothing before it. They do become events.
    pub found: u64,
}

/// A window's net effect is a detach and an attach, at most: an edge beyond them becomes no event, whatever follows.
const EVENTS_OF_A_WINDOW: u32 = 2;

/// The state of every port. One owner; see the module's description.
#[derive(Debug, Default)]
pub struct DeviceTable {
    policy: Policy,
    ports: BTreeMap<Port, State>,
    /// The open windows by their end.
    windows: BTreeSet<(u64, Port)>,
    /// A scan will tell of what was there before, or of what was lost: see [`Self::expect_scan`].
    is_scan_due: bool,
    /// It is the one after a scan that could not tell of all hubs.
    is_rescan_due: bool,
    /// See [`Self::hold`].
    is_held: bool,
    tallies: Tallies,
}

#[derive(Debug, Default)]
struct State {
    present: Option<Arc<Device>>,
    published: Option<Arc<Device>>,
    /// The filter that hides the latest device here, as decided at its arrival: it hides the departure too.
    hidden: Option<Rule>,
    window: Option<Window>,
    /// The arrival of a device that waits for its hub to be known.
    orphan: Option<Cause>,
    /// Nothing told of what is here since a scan became due: another may be in its place by now.
    is_doubtful: bool,
    /// The drivers that let go of what is present, one of each interface at most.
    released: Vec<Released>,
}

#[derive(Debug)]
struct Window {
    ends_at: u64,
    /// The edges since the window was opened; none of them was published yet.
    pending: Option<Pending>,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    /// The number of the first pending observation: until it is settled, its source must keep it.
    first_number: u64,
    edges: u32,
    /// How many of them are in the tallies already.
    tallied: u32,
    /// When the published device left, in microseconds since the Unix epoch.
    left_us: Option<u64>,
    last: Cause,
}

/// What an edge came from.
#[derive(Debug, Clone, Copy)]
struct Cause {
    number: u64,
    seqnum: Option<u64>,
    at: Moment,
    reason: Reason,
    source: SourceName,
}

impl DeviceTable {
    /// An empty table.
    pub fn new(policy: Policy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// A table in which `published` devices are connected and known to the outside, and that would publish
    /// everything: [`Self::set_policy`] then tells what another policy hides of them.
    pub fn restore(published: impl IntoIterator<Item = Device>) -> Self {
        let ports = published.into_iter().map(|device| {
            let (port, device) = (device.port(), Arc::new(device));
            let present = Some(device.clone());
            (port, State { present, published: Some(device), ..State::default() })
        });
        Self { ports: ports.collect(), ..Self::default() }
    }

    /// Takes in what a source saw. `scan_reason` is what a difference found by a scan is called.
    ///
    /// Windows that ended before the observation are settled first.
    pub fn observe(&mut self, observed: &Observed, scan_reason: Reason) -> Vec<Change> {
        let mut out = self.advance(observed.at.mono_ms);
        let &Observed { number, seqnum, at, source, .. } = observed;
        let cause = |reason| Cause { number, seqnum, at, reason, source };
        match &observed.observation {
            Observation::Arrived { reading } => self.arrived(reading, cause(Reason::Hotplug), &mut out),
            Observation::Left { port, address } => {
                self.left(*port, *address, cause(Reason::Hotplug), &mut out);
            }
            Observation::Refreshed { reading } => self.refresh(reading, cause(Reason::Reconcile), &mut out),
            Observation::Bound { port, interface, driver } => {
                self.bound((*port, *interface), driver.as_deref(), at, &mut out);
            }
            Observation::Scan { readings, except } => {
                self.scan(readings, except, cause(scan_reason), &mut out);
            }
            Observation::Overrun { .. } => self.expect_scan(),
        }
        out
    }

    /// From now on, or no longer: every edge opens a window or joins one, and no window ends. However much
    /// happens meanwhile, each port comes to at most a detach and an attach when the next [`Self::advance`] after
    /// it settles them.
    pub fn hold(&mut self, is_held: bool) {
        self.is_held = is_held;
    }

    /// Settles the windows that end at or before `mono_ms`; none while they are held.
    pub fn advance(&mut self, mono_ms: u64) -> Vec<Change> {
        let mut out = Vec::new();
        if self.is_held {
            return out;
        }
        while let Some(&(_, port)) = self.windows.first().filter(|(ends_at, _)| *ends_at <= mono_ms) {
            self.close_window(port, &mut out);
        }
        out
    }

    /// Settles every open window now; none while they are held.
    pub fn flush(&mut self) -> Vec<Change> {
        self.advance(u64::MAX)
    }

    /// When [`Self::advance`] has something to do next, on the monotonic clock.
    pub fn next_deadline(&self) -> Option<u64> {
        self.windows.first().filter(|_| !self.is_held).map(|(ends_at, _)| *ends_at)
    }

    /// The ports with observations of which nothing was told yet, with the number of the first of them: they wait for
    /// the end of a debounce window, or for a scan. Not of those that are held, whose net effect the scan of a daemon
    /// that starts anew finds.
    pub fn pending(&self) -> BTreeMap<Port, u64> {
        if self.is_held {
            return BTreeMap::new();
        }
        let pending = |(port, state): (&Port, &State)| {
            let in_window = state.window.as_ref().and_then(|window| window.pending);
            let orphan = state.orphan.map(|cause| cause.number);
            let first = in_window.map(|pending| pending.first_number).into_iter().chain(orphan).min();
            // 0: it came from no observation.
            first.filter(|first| *first > 0).map(|first| (*port, first))
        };
        self.ports.iter().filter_map(pending).collect()
    }

    /// The machine was booted anew: whatever was connected then is gone, children before their hubs.
    pub fn reboot(&mut self, at: Moment, source: SourceName) -> Vec<Change> {
        let mut out = Vec::new();
        let cause = Cause { number: 0, seqnum: None, at, reason: Reason::Reboot, source };
        let ports: Vec<Port> = self.ports.keys().rev().copied().collect();
        for port in ports {
            self.state(port).present = None;
            self.settle(port, Pending::one(cause), &mut out);
        }
        out
    }

    /// Decides anew which devices the outside hears of, and tells it the difference.
    pub fn set_policy(&mut self, policy: Policy, at: Moment, source: SourceName) -> Vec<Change> {
        let mut out = self.flush();
        self.policy = policy;
        let cause = Cause { number: 0, seqnum: None, at, reason: Reason::Reconcile, source };
        let (mut newly_hidden, mut newly_shown) = (Vec::new(), Vec::new());
        for (port, state) in &mut self.ports {
            let Some(present) = &state.present else { continue };
            let was_hidden = state.hidden.is_some();
            state.hidden = self.policy.filters.hides(present);
            match (was_hidden, state.hidden.is_some()) {
                (false, true) => newly_hidden.push(*port),
                (true, false) => newly_shown.push(*port),
                _ => {}
            }
        }
        for port in newly_hidden.into_iter().rev().chain(newly_shown) {
            if self.is_held {
                self.edge(port, cause, &mut out);
            } else {
                self.settle(port, Pending::one(cause), &mut out);
            }
        }
        out
    }

    /// The devices the outside knows as connected, hubs before what hangs below them.
    pub fn devices(&self) -> impl Iterator<Item = &Arc<Device>> {
        self.ports.values().filter_map(|state| state.published.as_ref())
    }

    /// What became no event, since the table was made.
    pub fn tallies(&self) -> Tallies {
        self.tallies
    }

    fn arrived(&mut self, reading: &Reading, cause: Cause, out: &mut Vec<Change>) {
        let port = reading.port;
        if self.is_present(reading) {
            self.tallies.duplicate += 1;
            self.state(port).is_doubtful = false;
            self.refresh(reading, cause, out);
            return;
        }
        let must_wait = self.must_wait(port);
        let is_taken = self.state(port).present.is_some();
        if is_taken && must_wait {
            // Nothing of the one before stays published while its successor is not.
            self.depart(port, cause, out);
        } else if is_taken {
            self.release_orphan(port, out);
            self.children_left(port, cause, out);
            self.restore_drivers(port, cause.at);
        }
        let device_id = self.identify(reading, out);
        let device = Device::new(reading, device_id);
        let hidden = self.policy.filters.hides(&device);
        let state = self.state(port);
        (state.present, state.hidden, state.is_doubtful) = (Some(Arc::new(device)), hidden, false);
        if must_wait {
            state.orphan = Some(cause);
        } else {
            self.edge(port, cause, out);
        }
    }

    fn left(&mut self, port: Port, address: Option<u8>, cause: Cause, out: &mut Vec<Change>) {
        let present = self.ports.get(&port).and_then(|state| state.present.as_ref());
        match present {
            Some(device) if address.is_none_or(|address| address == device.device_address) => {
                self.depart(port, cause, out);
            }
            _ => self.tallies.unmatched += 1,
        }
    }

    fn depart(&mut self, port: Port, cause: Cause, out: &mut Vec<Change>) {
        self.children_left(port, cause, out);
        self.take_out(port, cause, out);
    }

    fn take_out(&mut self, port: Port, cause: Cause, out: &mut Vec<Change>) {
        self.release_orphan(port, out);
        self.restore_drivers(port, cause.at);
        self.state(port).present = None;
        self.edge(port, cause, out);
    }

    /// Nothing stays connected below a hub that went, whether or not anyone said so.
    fn children_left(&mut self, hub: Port, cause: Cause, out: &mut Vec<Change>) {
        for child in self.below(hub).into_iter().rev() {
            if self.state(child).present.is_some() {
                self.take_out(child, cause, out);
            }
        }
    }

    fn refresh(&mut self, reading: &Reading, cause: Cause, out: &mut Vec<Change>) {
        if !self.is_present(reading) {
            return;
        }
        let newer = Device::new(reading, String::new());
        self.update(reading.port, |device| device.updated_by(newer), out);
        // What is known now may pass a filter that what was known did not.
        let filters = &self.policy.filters;
        let Some(state) = self.ports.get_mut(&reading.port) else { return };
        let passes = state.present.as_ref().is_some_and(|device| filters.hides(device).is_none());
        if state.hidden.is_some() && passes {
            state.hidden = None;
            self.edge(reading.port, Cause { reason: Reason::Reconcile, ..cause }, out);
        }
    }

    /// Departures first, so that a device that moved finds its name free; children before hubs, then hubs
    /// before children.
    fn scan(&mut self, readings: &[Reading], except: &BTreeSet<Port>, cause: Cause, out: &mut Vec<Change>) {
        let found: BTreeMap<Port, &Reading> = readings
            .iter()
            .filter(|reading| !except.contains(&reading.port))
            .map(|reading| (reading.port, reading))
            .collect();
        let known: Vec<Port> =
            self.ports.keys().rev().filter(|port| !except.contains(port)).copied().collect();
        for port in known {
            let still_there = found.get(&port).is_some_and(|reading| self.is_present(reading));
            if !still_there && self.state(port).present.is_some() {
                self.tallies.found += 1;
                self.replaced(port, cause, out);
            }
        }
        for (port, reading) in &found {
            if self.is_present(reading) {
                self.state(*port).is_doubtful = false;
                self.refresh(reading, cause, out);
            } else {
                self.tallies.found += 1;
                self.arrived(reading, cause, out);
            }
        }
        self.release_orphans(except, out);
    }

    fn is_present(&self, reading: &Reading) -> bool {
        let present = self.ports.get(&reading.port).and_then(|state| state.present.as_ref());
        present.is_some_and(|device| device.is_connection_of(reading))
    }

    /// Changes what is known of the device in `port`, without changing which device it is.
    fn update(&mut self, port: Port, change: impl FnOnce(&Device) -> Device, out: &mut Vec<Change>) {
        let Some(state) = self.ports.get_mut(&port) else { return };
        let Some(present) = &state.present else { return };
        let newer = change(present);
        if newer == **present {
            return;
        }
        let newer = Arc::new(newer);
        if state.published.as_ref().is_some_and(|published| is_same(published, &newer)) {
            state.published = Some(newer.clone());
            out.push(Change::Refreshed(newer.clone()));
        }
        state.present = Some(newer);
    }

    /// What is plugged into `port` has changed: publish that, or let the open window collect it.
    fn edge(&mut self, port: Port, cause: Cause, out: &mut Vec<Change>) {
        let Self { is_held, policy: Policy { debounce_ms, .. }, .. } = *self;
        let is_free = self.state(port).window.is_none();
        if is_free && (debounce_ms > 0 || is_held) {
            let ends_at = cause.at.mono_ms.saturating_add(debounce_ms);
            self.state(port).window = Some(Window { ends_at, pending: None });
            self.windows.insert((ends_at, port));
        }
        if is_free && !is_held {
            self.settle(port, Pending::one(cause), out);
            return;
        }
        let state = self.state(port);
        let Some(window) = &mut state.window else { return };
        let pending = window.pending.get_or_insert_with(|| Pending::none(cause));
        pending.edges = pending.edges.saturating_add(1);
        pending.last = cause;
        if state.present.is_none() {
            pending.left_us.get_or_insert(cause.at.wall_us);
        }
        if pending.edges > EVENTS_OF_A_WINDOW {
            pending.tallied = pending.tallied.saturating_add(1);
            let events = u32::from(state.published.is_some());
            self.tally(port, 1, events);
        }
    }

    fn close_window(&mut self, port: Port, out: &mut Vec<Change>) {
        match self.end_window(port) {
            Some(pending) => self.settle(port, pending, out),
            None => self.forget_if_empty(port),
        }
    }

    /// Brings what is published in line with what is there.
    fn settle(&mut self, port: Port, pending: Pending, out: &mut Vec<Change>) {
        if self.wanted(port).is_some() {
            self.settle_hubs_above(port, out);
        }
        let wanted = self.wanted(port);
        let state = self.state(port);
        let published = state.published.clone();
        let has_left =
            published.as_ref().is_some_and(|p| !state.present.as_ref().is_some_and(|d| is_same(d, p)));
        let detach = published.filter(|_| has_left || wanted.is_none());
        let attach = wanted.filter(|_| detach.is_some() || state.published.is_none());
        let events = u32::from(detach.is_some()) + u32::from(attach.is_some());
        self.tally(port, pending.untallied().saturating_sub(events), events);
        if let Some(device) = detach {
            if has_left {
                self.flush_below(port, pending.last, out);
            } else {
                self.settle_hidden_below(port, out);
            }
            let (edges, observed_us) = match &attach {
                Some(_) => (1, pending.left_us.unwrap_or(pending.last.at.wall_us)),
                None => (pending.edges, pending.last.at.wall_us),
            };
            self.state(port).published = None;
            out.push(pending.last.change(Action::Detach, device, edges, observed_us));
        }
        if let Some(device) = attach {
            let edges = (pending.edges + 1).saturating_sub(events).max(1);
            self.state(port).published = Some(device.clone());
            out.push(pending.last.change(Action::Attach, device, edges, pending.last.at.wall_us));
        }
        self.forget_if_empty(port);
    }

    /// A hub that was plugged anew within its window is told of before what is now below it.
    fn settle_hubs_above(&mut self, port: Port, out: &mut Vec<Change>) {
        let Some(hub) = port.parent() else { return };
        self.settle_hubs_above(hub, out);
        let state = self.ports.get(&hub);
        if state.and_then(|state| state.window.as_ref()).is_some_and(|window| window.pending.is_some()) {
            self.close_window(hub, out);
        }
    }

    /// What a filter hides below a hub that it hides, too, is told to have left before the hub.
    fn settle_hidden_below(&mut self, hub: Port, out: &mut Vec<Change>) {
        for child in self.below(hub).into_iter().rev() {
            if self.wanted(child).is_none() && self.state(child).published.is_some() {
                self.close_window(child, out);
            }
        }
    }

    /// Tells only that what was published in `port` has left; what is there now waits on.
    fn detach_held(&mut self, port: Port, out: &mut Vec<Change>) {
        let pending = self.state(port).window.as_ref().and_then(|window| window.pending);
        let Some(Pending { last, .. }) = pending else { return };
        self.flush_below(port, last, out);
        if let Some(device) = self.state(port).published.take() {
            out.push(last.change(Action::Detach, device, 1, last.at.wall_us));
        }
    }

    /// Below a hub that leaves nothing stays published, the deepest first, and the windows of what is gone
    /// end. A window over something that was plugged in since stays open.
    fn flush_below(&mut self, hub: Port, cause: Cause, out: &mut Vec<Change>) {
        for child in self.below(hub).into_iter().rev() {
            let is_gone = self.state(child).present.is_none();
            let pending = if is_gone { self.end_window(child) } else { None };
            let edges = pending.map_or(0, |pending| pending.edges);
            let untallied = pending.map_or(0, Pending::untallied);
            if let Some(device) = self.state(child).published.take() {
                let last = pending.map_or(cause, |pending| pending.last);
                self.tallies.coalesced += u64::from(untallied.saturating_sub(1));
                out.push(last.change(Action::Detach, device, edges.max(1), last.at.wall_us));
            } else {
                self.tallies.coalesced += u64::from(untallied);
            }
            self.forget_if_empty(child);
        }
    }

    fn end_window(&mut self, port: Port) -> Option<Pending> {
        let window = self.state(port).window.take()?;
        self.windows.remove(&(window.ends_at, port));
        window.pending
    }

    /// Counts edges that become no event, beside `events` of the same window.
    fn tally(&mut self, port: Port, quiet: u32, events: u32) {
        match self.state(port).hidden {
            Some(rule) if events == 0 => self.tallies.filtered[rule as usize] += u64::from(quiet),
            _ => self.tallies.coalesced += u64::from(quiet),
        }
    }

    /// The device in `port`, if the outside is to hear of it.
    fn wanted(&self, port: Port) -> Option<Arc<Device>> {
        let state = self.ports.get(&port)?;
        state.present.clone().filter(|_| state.hidden.is_none() && state.orphan.is_none())
    }

    fn below(&self, hub: Port) -> Vec<Port> {
        let from_hub = self.ports.range(hub..).map(|(port, _)| *port).skip_while(|port| *port == hub);
        from_hub.take_while(|port| port.is_below(hub)).collect()
    }

    fn state(&mut self, port: Port) -> &mut State {
        self.ports.entry(port).or_default()
    }

    fn forget_if_empty(&mut self, port: Port) {
        let empty =
            |state: &State| state.present.is_none() && state.published.is_none() && state.window.is_none();
        if self.ports.get(&port).is_some_and(empty) {
            self.ports.remove(&port);
        }
    }
}

/// Whether the outside would take the one for the other.
fn is_same(a: &Device, b: &Device) -> bool {
    a.device_id == b.device_id && a.device_address == b.device_address
}

impl Pending {
    fn none(cause: Cause) -> Self {
        Self { first_number: cause.number, edges: 0, tallied: 0, left_us: None, last: cause }
    }

    fn one(cause: Cause) -> Self {
        Self { edges: 1, ..Self::none(cause) }
    }

    fn untallied(self) -> u32 {
        self.edges.saturating_sub(self.tallied)
    }
}

impl Cause {
    fn change(self, action: Action, device: Arc<Device>, edges: u32, observed_us: u64) -> Change {
        let Self { reason, source, seqnum, .. } = self;
        Change::Edge(Edge { action, reason, source, observed_us, edges, seqnum, device })
    }
}
