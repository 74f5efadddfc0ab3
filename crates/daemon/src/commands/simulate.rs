//! Feeds synthetic devices, or a recording, through the pipeline that the daemon runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use autoweave_usb_device::{Event, Policy, Tallies};
use autoweave_usb_journal::Journal;
use autoweave_usb_source::{Kind, Simulation};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::{Common, Replay, Simulate};
use crate::config::Loaded;
use crate::exit::Failure;
use crate::http::{Monitor, Status, StreamKind};
use crate::pipeline::{self, Parts, Pipeline, Step, tell_set_aside};
use crate::signals::{self, Requests};
use crate::{logging, show, stamp};

/// A wait begins anew after this long; it only has to be finite.
const PATIENCE: Duration = Duration::from_secs(3600);

/// How long to wait before asking again whether all is published.
const PUBLISHED_PAUSE: Duration = Duration::from_millis(5);

/// What to print of each event.
#[derive(Clone, Copy, PartialEq)]
enum Print {
    Json,
    Lines,
    Nothing,
}

pub fn simulate(common: &Common, arguments: &Simulate) -> Result<(), Failure> {
    let loaded = super::load(common, None)?;
    let &Simulate { devices, cycles, rate, .. } = arguments;
    let simulation = Simulation { devices, cycles, rate };
    let mut policy = super::policy(&loaded.config);
    // Whoever simulates N cycles wants to see N cycles, unless they asked for debouncing.
    if !loaded.is_set("performance.debounce_ms") {
        policy.debounce_ms = 0;
    }
    let print = if arguments.json { Print::Json } else { Print::Nothing };
    let kind = Kind::Simulate(simulation);
    let (state_dir, edges) = (arguments.state_dir.as_deref(), Some(simulation.edges()));
    feed(&loaded, Feed { kind, policy, state_dir, publishes: arguments.redis, print, edges })
}

pub fn replay(common: &Common, arguments: &Replay) -> Result<(), Failure> {
    let loaded = super::load(common, None)?;
    let policy = super::policy(&loaded.config);
    let print = if arguments.json { Print::Json } else { Print::Lines };
    let kind = Kind::Replay(arguments.file.clone());
    let state_dir = arguments.state_dir.as_deref();
    feed(&loaded, Feed { kind, policy, state_dir, publishes: arguments.redis, print, edges: None })
}

/// What goes through the pipeline, and where to.
struct Feed<'a> {
    kind: Kind,
    policy: Policy,
    state_dir: Option<&'a Path>,
    /// Whether to the configured Redis, too.
    publishes: bool,
    print: Print,
    /// How many there will be, if that is known.
    edges: Option<u64>,
}

fn feed(loaded: &Loaded, feed: Feed<'_>) -> Result<(), Failure> {
    signals::block()?;
    let Feed { kind, policy, state_dir, publishes, print, edges } = feed;
    let config = &loaded.config;
    let sources = super::open_sources(super::options_for(config, vec![kind]))?;
    let mut redis = if publishes { Some(super::redis(config)?) } else { None };
    if let Some(redis) = redis.as_mut().filter(|_| !loaded.is_set("performance.max_events_per_second")) {
        redis.max_events_per_second = None;
    }
    let (directory, _temporary) = directory(state_dir)?;
    let _logging = logging::start(&config.log, None);
    let journal = Journal::open(&directory, super::journal_options(config)).map_err(Failure::state)?;
    tell_set_aside(&journal);
    let interrupter = sources.interrupter();
    let requests = signals::handle(move || interrupter.interrupt())?;
    let kind = if redis.is_some() { StreamKind::Redis } else { StreamKind::Embedded };
    let monitor = Arc::new(Monitor::new(Status::new(kind)));
    let (mut pipeline, events) = Pipeline::open(Parts {
        sources,
        notices: None,
        restored: pipeline::restore(&journal)?,
        journal,
        directory: directory.clone(),
        max_events: config.journal.max_events,
        redis,
        group: None,
        policy,
        host: stamp::host(config.host.as_ref()),
        requests: requests.clone(),
        monitor,
    })?;
    let progress = progress(edges);
    let begin = Instant::now();
    let mut count = tell(&events, print)?;
    let mut outcome = Ok(());
    while outcome.is_ok() {
        match pipeline.step(PATIENCE) {
            Ok(Step { events, batch }) => {
                count += tell(&events, print)?;
                progress.inc(events.iter().map(|event| u64::from(event.edges)).sum());
                if batch.ended {
                    break;
                }
            }
            Err(failure) => outcome = Err(failure),
        }
        if requests.is_stop() {
            outcome = Err(Failure::interrupted());
        }
    }
    if outcome.is_ok() {
        outcome =
            until_published(&mut pipeline, &requests, config.performance.shutdown_timeout, &mut |events| {
                count += tell(events, print)?;
                Ok(())
            });
    }
    let tallies = pipeline.watch().table().tallies();
    count += tell(&pipeline.finish()?, print)?;
    progress.finish_and_clear();
    let mut summary = summary(count, begin.elapsed().as_secs_f64(), tallies);
    if state_dir.is_some() {
        summary += &format!("; see `autoweave-usbd events --state-dir {}`", directory.display());
    }
    anstream::eprintln!("{summary}");
    outcome
}

fn summary(count: u64, seconds: f64, tallies: Tallies) -> String {
    let mut summary = format!("{count} events in {seconds:.2} s ({:.0} a second)", count as f64 / seconds);
    if tallies.coalesced > 0 {
        summary += &format!(", {} edges joined with others by debounce_ms", tallies.coalesced);
    }
    let hidden: u64 = tallies.filtered.iter().sum();
    if hidden > 0 {
        summary += &format!(", {hidden} hidden by filters");
    }
    summary
}

/// What was simulated or replayed is to be in the stream when the command ends, what was held included. A Redis that
/// fails for longer than `patience` ends the wait.
fn until_published(
    pipeline: &mut Pipeline,
    requests: &Requests,
    patience: Duration,
    on_events: &mut impl FnMut(&[Event]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut failing_since = None;
    loop {
        pipeline.attend_to_stream()?;
        on_events(&pipeline.flush()?)?;
        let waiting = pipeline.unpublished();
        if waiting == 0 && !pipeline.is_held() {
            return Ok(());
        }
        let problem = pipeline.publishing_problem();
        let since = failing_since.get_or_insert_with(Instant::now);
        match problem {
            Some(problem) if since.elapsed() >= patience => {
                return Err(Failure::unavailable(format!("{waiting} events are not published: {problem}")));
            }
            Some(_) => {}
            None => failing_since = None,
        }
        if requests.wait_for_stop(PUBLISHED_PAUSE) {
            return Err(Failure::interrupted());
        }
    }
}

/// The directory asked for, or one that goes when the second value does.
fn directory(asked: Option<&Path>) -> Result<(PathBuf, Option<tempfile::TempDir>), Failure> {
    if let Some(asked) = asked {
        return Ok((asked.to_owned(), None));
    }
    let temporary = tempfile::Builder::new().prefix("autoweave-usb-").tempdir();
    let temporary =
        temporary.map_err(|error| Failure::state(format!("no temporary directory can be made: {error}")))?;
    Ok((temporary.path().to_owned(), Some(temporary)))
}

fn tell(events: &[Event], print: Print) -> Result<u64, Failure> {
    for event in events {
        match print {
            Print::Json => super::print_json(event)?,
            Print::Lines => super::print_line(&show::event_line(event))?,
            Print::Nothing => {}
        }
    }
    Ok(events.len() as u64)
}

/// A bar on a terminal, nothing elsewhere.
fn progress(edges: Option<u64>) -> ProgressBar {
    let Some(edges) = edges else { return ProgressBar::hidden() };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} edges  {per_sec}  {eta} left");
    ProgressBar::new(edges).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
