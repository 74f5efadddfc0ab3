//! What is answered to what.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use autoweave_usb_device::Port;
use autoweave_usb_stream::Secret;
use axum::Router;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{map_request_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use tokio::sync::{Semaphore, watch};

use super::log::{Log, PAGE_ROWS};
use super::monitor::Monitor;
use super::problem::Problem;
use super::status::{Phase, Severity};
use super::stream::{self, Follower, Live};
use super::{descriptors, metrics, page, token};

/// Events a client gets if it does not say how many.
const EVENTS_DEFAULT: usize = 100;

/// Events a client gets at most, however many it asks for.
const EVENTS_MAX: usize = 1000;

/// What the handlers share.
#[derive(Debug)]
pub(super) struct App {
    /// Names that it may be asked by.
    pub(super) hosts: Vec<String>,
    /// What those who ask for devices and events have to know; `None`: nothing.
    pub(super) token: Option<Secret>,
    pub(super) monitor: Arc<Monitor>,
    pub(super) log: Log,
    /// A permit for the one request at a time that reads sysfs.
    pub(super) sysfs: Arc<Semaphore>,
    pub(super) live: watch::Receiver<Live>,
    /// A permit for each client that follows the log.
    pub(super) streams: Arc<Semaphore>,
    pub(super) keep_alive: Duration,
}

impl App {
    /// Whether whoever sends `headers` may know what is connected.
    fn trusts(&self, headers: &HeaderMap) -> bool {
        self.token.as_ref().is_none_or(|token| token::is_in(headers, token))
    }
}

type Answer = Result<Response, Problem>;

pub(super) fn router(app: App) -> Router {
    let app = Arc::new(app);
    let api = Router::new()
        .route("/api/v1/devices", get(devices))
        .route("/api/v1/devices/{port}/descriptors", get(descriptors_in))
        .route("/api/v1/events", get(events))
        .route("/api/v1/events/stream", get(events_stream))
        .route_layer(map_request_with_state(app.clone(), know_token));
    page::add_to(api)
        // Open to all: who probes and who scrapes has no token, and neither learns what is connected.
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics_text))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(map_request_with_state(app.clone(), know_host))
        .with_state(app)
        .layer(map_response(harden))
}

async fn health(State(app): State<Arc<App>>, headers: HeaderMap) -> Answer {
    let (now, mut plugins) = (app.monitor.snapshot(), app.monitor.plugins());
    if !app.trusts(&headers) {
        // What a plugin said may have what it was told in it, such as a serial number.
        plugins.running.iter_mut().for_each(|plugin| plugin.last_error = None);
    }
    let (is_failed, body) = app.monitor.look(|status| {
        let body = serde_json::to_string(&status.health(now.last_seq, now.devices.len(), plugins));
        (status.worst() == Some(Severity::Failed), body)
    });
    let body = body.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let status = if is_failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    Ok((status, json(body.into())).into_response())
}

async fn ready(State(app): State<Arc<App>>) -> Answer {
    let (phase, worst) = app.monitor.look(|status| (status.phase, status.worst()));
    match phase {
        Phase::Starting => Err(Problem::unavailable("the first scan is not in the journal yet")),
        Phase::Ready if worst == Some(Severity::Failed) => {
            Err(Problem::unavailable("the daemon does not do its job now; /health says why"))
        }
        Phase::Ready => Ok(json("{\"ready\":true}".into())),
        Phase::Stopping => Err(Problem::unavailable("the daemon is stopping")),
    }
}

async fn metrics_text(State(app): State<Arc<App>>) -> Response {
    typed("text/plain; version=0.0.4; charset=utf-8", metrics::render(&app.monitor).into())
}

async fn devices(State(app): State<Arc<App>>) -> Response {
    let now = app.monitor.snapshot();
    json(stream::devices(now.devices, now.last_seq))
}

async fn descriptors_in(State(app): State<Arc<App>>, port: Result<Path<Port>, PathRejection>) -> Answer {
    let missing = |detail: String| Problem::new(StatusCode::NOT_FOUND, detail);
    let Path(port) = port.map_err(|rejection| missing(rejection.body_text()))?;
    let known = app.monitor.snapshot().devices.iter().find(|device| device.port() == port).cloned();
    let device = known.ok_or_else(|| missing(format!("no device is at {port}; see /api/v1/devices")))?;
    Ok(json(descriptors::read(&app.sysfs, device).await?.into()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    since: Option<u64>,
    limit: Option<usize>,
}

async fn events(State(app): State<Arc<App>>, query: Result<Query<EventsQuery>, QueryRejection>) -> Answer {
    let Query(EventsQuery { since, limit }) = query.map_err(bad_query)?;
    let limit = limit.unwrap_or(EVENTS_DEFAULT).min(EVENTS_MAX);
    if limit == 0 {
        return Err(Problem::bad_request(format!(
            "limit is 0; it may be 1 or more, {EVENTS_MAX} events at most come at once"
        )));
    }
    // Before the answer begins, so that it can still be another one.
    let page = app.log.page(since, limit.min(PAGE_ROWS)).await?;
    Ok(json(stream::events(app.log.clone(), since, limit, page)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamQuery {
    since: Option<u64>,
}

async fn events_stream(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    query: Result<Query<StreamQuery>, QueryRejection>,
) -> Answer {
    let Query(StreamQuery { since }) = query.map_err(bad_query)?;
    // A browser that comes back asks for the same URL: what it has heard since then counts.
    let since = last_event_id(&headers)?.or(since);
    let Ok(permit) = app.streams.clone().try_acquire_owned() else {
        return Err(Problem::unavailable("as many clients follow the events as may; try again later"));
    };
    let position = since.unwrap_or_else(|| app.monitor.snapshot().last_seq);
    let first = match since {
        Some(since) => app.log.frame(since).await?,
        None => None,
    };
    let (log, live, keep_alive) = (app.log.clone(), app.live.clone(), app.keep_alive);
    let follower = Follower { log, live, position, keep_alive, _permit: permit };
    Ok(typed("text/event-stream", follower.body(first)))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let seq = value.to_str().ok().and_then(|text| text.parse().ok());
    seq.map(Some).ok_or_else(|| Problem::bad_request("Last-Event-ID is no sequence number"))
}

fn bad_query(rejection: QueryRejection) -> Problem {
    Problem::bad_request(rejection.body_text())
}

async fn not_found(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {}; see /", uri.path()))
}

async fn method_not_allowed(method: Method) -> Problem {
    let detail = format!("{method} is not possible here; everything can only be read");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

fn json(body: Body) -> Response {
    typed("application/json", body)
}

fn typed(kind: &'static str, body: Body) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], body).into_response()
}

/// Whoever owns a name can point it at this machine and let a browser here read the answers (DNS rebinding). The
/// browser then asks for that name, and this machine has others. HTTP/1.0 without a `Host` is no browser.
async fn know_host(State(app): State<Arc<App>>, request: Request) -> Result<Request, Problem> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match hosts.find(|host| !is_ours(host, &app.hosts)) {
        None => Ok(request),
        Some(host) => {
            let shown = String::from_utf8_lossy(host.as_bytes());
            let detail = format!(
                "{shown} is no name of this machine; ask by its address, as localhost or as {}, or add the name to \
                 monitoring.hosts",
                app.hosts.join(", ")
            );
            Err(Problem::new(StatusCode::FORBIDDEN, detail))
        }
    }
}

async fn know_token(State(app): State<Arc<App>>, request: Request) -> Result<Request, Response> {
    if app.trusts(request.headers()) { Ok(request) } else { Err(token::refusal()) }
}

/// Whether `host`, with or without a port, is an address, `localhost` or one of `names`.
fn is_ours(host: &HeaderValue, names: &[String]) -> bool {
    let Ok(authority) = Authority::try_from(host.as_bytes()) else { return false };
    let host = authority.host();
    let bare = host.strip_suffix('.').unwrap_or(host);
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    bare.eq_ignore_ascii_case("localhost")
        || names.iter().any(|name| bare.eq_ignore_ascii_case(name))
        || host.parse::<Ipv4Addr>().is_ok()
        || v6.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok())
}

/// A browser must neither guess types, run anything, keep anything, nor show an answer inside another page.
async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    // The page has one of its own.
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(policy);
    response
}
