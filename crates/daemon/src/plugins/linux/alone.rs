//! `run --role plugins`: no bus and no journal, only plugins fed from Redis. Of all that read as one group, the holder
//! of a lease is active.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use autoweave_usb_journal::Reader;
use autoweave_usb_stream::{Consumer, Lease, Member, Settings, Sharing, connected_in_stream};
use tracing::{info, warn};

use super::{Control, Copies, directory, options, session, tell};
use crate::config::{Loaded, Plugins};
use crate::exit::Failure;
use crate::http::{Monitor, Phase, Status, StreamState};
use crate::signals::{self, Requests};
use crate::telemetry::{Consumption, Telemetry};
use crate::{commands, held};
use crate::{logging, pipeline, stamp};

/// How often it is looked whether the lease is held, or the end is asked for.
const LOOK: Duration = Duration::from_millis(50);

/// Before Redis is asked again what is connected.
const AGAIN: Duration = Duration::from_secs(2);

/// How often it is looked whether anything else is asked for.
const ORDERS: Duration = Duration::from_secs(1);

/// How long HTTP clients may take for their answers at the end.
const HTTP_STOP: Duration = Duration::from_millis(500);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// What is missing: a plugin directory, a Redis, a place for copies, a port.
pub fn run_alone(loaded: &Loaded, state_dir: &Path) -> Result<(), Failure> {
    let config = &loaded.config;
    let telemetry = Telemetry::start(config)?;
    let _logging = logging::start(&config.log, telemetry.log_bridge());
    commands::warn_passed_over(loaded);
    let settings = config.plugins.as_ref().ok_or_else(|| {
        Failure::usage("--role plugins: plugins.dir names no directory; set it in the configuration")
    })?;
    directory(settings)?;
    let redis = pipeline::settings(config).ok_or_else(|| {
        Failure::usage("--role plugins reads Redis, and none is configured: set redis.host or redis.url")
    })?;
    let requests = signals::handle(|| {})?;
    let monitor = Arc::new(Monitor::new(Status::of_loader()).with_recorder(telemetry.recorder()));
    telemetry.begin(&monitor);
    let server = commands::serve(config, &monitor, state_dir)?;
    let copies = Copies::make(state_dir)?;
    let control = Arc::<Control>::default();
    monitor.set_plugins(control.probe());
    monitor.update(|status| status.phase = Phase::Ready);
    held::tell_ready();
    if let Some(server) = &server {
        info!("HTTP on http://{}; see /health and /metrics", server.address());
    }
    let alone = Alone {
        settings,
        redis: &redis,
        member: format!("{}-{}", settings.consumer, producer(state_dir, config.host.as_ref())),
        monitor: &monitor,
        control: &control,
        requests: &requests,
    };
    let lease = Lease::seek(redis.clone(), &settings.group, tell::listener(monitor.clone()))
        .map_err(|error| Failure::unavailable(format!("a thread cannot be started: {error}")))?;
    let grace = config.performance.shutdown_timeout;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !requests.wait_for_stop(ORDERS) {
                if requests.take_reload() || requests.is_upgrade() {
                    warn!(
                        "a daemon that only runs plugins takes another configuration or program by a restart"
                    );
                    requests.go_on();
                }
            }
            control.begin_to_stop(Instant::now() + grace);
        });
        while !requests.is_stop() {
            alone.turn(&lease, loaded, state_dir, &copies);
        }
    });
    drop(lease);
    if let Some(server) = server {
        server.stop(HTTP_STOP);
    }
    info!("stopped");
    telemetry.stop(Instant::now() + control.grace());
    Ok(())
}

struct Alone<'a> {
    settings: &'a Plugins,
    redis: &'a Settings,
    member: String,
    monitor: &'a Arc<Monitor>,
    control: &'a Control,
    requests: &'a Requests,
}

impl Alone<'_> {
    /// Stands by until the lease is held, then runs the plugins until it is not.
    fn turn(&self, lease: &Lease, loaded: &Loaded, state_dir: &Path, copies: &Copies) {
        let Plugins { group, max_deliveries, .. } = self.settings;
        let mut fence = lease.fence();
        if !fence.holds() {
            info!("standing by: another loader of the group {group} is active, or Redis does not answer");
        }
        while !fence.holds() {
            if self.requests.wait_for_stop(LOOK) {
                return;
            }
            fence = lease.fence();
        }
        info!("active: this loader has the lease of the group {group}");
        self.monitor.update(|status| status.stream.state = StreamState::Up);
        let connected = match connected_in_stream(self.redis, group) {
            Ok(connected) => connected,
            Err(failure) => {
                warn!("{failure}");
                self.requests.wait_for_stop(AGAIN);
                return;
            }
        };
        let gate = fence.clone();
        let options =
            options(loaded, self.settings, state_dir, &copies.path(), Arc::new(move || gate.holds()));
        let member = Member {
            group: group.clone(),
            consumer: self.member.clone(),
            max_deliveries: *max_deliveries,
            sharing: Sharing::Lease(fence),
        };
        let listener = tell::listener(self.monitor.clone());
        let mut consumer = Consumer::redis(self.redis.clone(), member, listener);
        let recorder = self.monitor.recorder.clone();
        let consumption = Consumption::new(recorder, "redis", &self.redis.stream, group);
        session::run(self.control, &mut consumer, &connected, &options, self.monitor, &consumption);
        if !self.requests.is_stop() {
            warn!("the lease is lost: the plugins were ended, and go on when it is back");
            self.monitor.update(|status| status.stream.state = StreamState::Down);
        }
    }
}

/// Tells this host's consumer from others: by the journal beside it, if there is one.
fn producer(state_dir: &Path, host: Option<&String>) -> String {
    let producer = Reader::open(state_dir).and_then(|mut reader| reader.producer());
    producer.unwrap_or_else(|_| stamp::host(host))
}
