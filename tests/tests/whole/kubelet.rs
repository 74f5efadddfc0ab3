//! A kubelet as far as device plugins see it: it listens, asks a plugin that registers back, and watches its devices
//! (pkg/kubelet/cm/devicemanager/plugin/v1beta1 in kubernetes/kubernetes).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use autoweave_usb_device_plugin::api::{
    self, DevicePluginOptions, Empty, ListAndWatchResponse, RegisterRequest,
};
use futures_util::future::select;
use hyper::body::Incoming;
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{oneshot, watch};
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;
use tower::util::BoxService;

use crate::harness::wait_until;

/// How this one differs from others.
#[derive(Clone)]
pub struct Manner {
    /// The version of the API it speaks.
    pub version: &'static str,
    /// How much of a list it takes before it has read it, in bytes (HTTP/2's window).
    pub window: u32,
    /// Whether it reads the lists of a plugin that registers, or ends at once.
    pub watches: bool,
}

pub const USUAL: Manner = Manner { version: api::VERSION, window: 65_535, watches: true };

/// A list of a resource's devices, and when it came.
#[derive(Clone)]
pub struct Told {
    pub at: Instant,
    pub resource: String,
    /// Health by id.
    pub devices: BTreeMap<String, String>,
}

#[derive(Default)]
struct Known {
    registered: Vec<RegisterRequest>,
    options: Vec<DevicePluginOptions>,
    told: Vec<Told>,
}

/// A running kubelet. It stops when it is dropped, and leaves its socket, as one that crashes does.
pub struct Kubelet {
    directory: PathBuf,
    known: Arc<Mutex<Known>>,
    is_reading: watch::Sender<bool>,
    cut: watch::Sender<()>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A connection to a plugin.
type Plugin = Grpc<BoxService<Request<Body>, Response<Incoming>, hyper::Error>>;

#[derive(Clone)]
struct Shared {
    directory: PathBuf,
    manner: Manner,
    known: Arc<Mutex<Known>>,
    is_reading: watch::Receiver<bool>,
    cut: watch::Receiver<()>,
}

impl Kubelet {
    /// Starts as a kubelet does: empties the directory, then listens.
    pub fn start(directory: &Path, manner: Manner) -> Self {
        for entry in fs::read_dir(directory).unwrap() {
            // What a plugin makes or takes away meanwhile is its own.
            let _ = fs::remove_file(entry.unwrap().path());
        }
        let (stop, stopped) = oneshot::channel();
        let (is_reading, cut) = (watch::Sender::new(true), watch::Sender::new(()));
        let known = Arc::<Mutex<Known>>::default();
        let shared = Shared {
            directory: directory.to_owned(),
            manner,
            known: known.clone(),
            is_reading: is_reading.subscribe(),
            cut: cut.subscribe(),
        };
        let thread = thread::spawn(move || {
            let listening = pin!(listen(shared));
            drop(runtime().block_on(select(listening, stopped)));
        });
        let (stop, thread) = (Some(stop), Some(thread));
        Self { directory: directory.to_owned(), known, is_reading, cut, stop, thread }
    }

    pub fn registered(&self) -> Vec<RegisterRequest> {
        self.known.lock().unwrap().registered.clone()
    }

    /// What plugins that registered said they can do.
    pub fn options(&self) -> Vec<DevicePluginOptions> {
        self.known.lock().unwrap().options.clone()
    }

    /// Every list it has been told, in order.
    pub fn told(&self) -> Vec<Told> {
        self.known.lock().unwrap().told.clone()
    }

    /// The newest list of `resource`.
    pub fn newest(&self, resource: &str) -> Option<Told> {
        let known = self.known.lock().unwrap();
        known.told.iter().rev().find(|told| told.resource == resource).cloned()
    }

    /// Waits until the newest list of `resource` is `expected`, in any order; when that came.
    pub fn wait_for(&self, resource: &str, expected: &[(&str, &str)]) -> Instant {
        let owned = |(id, health): &(&str, &str)| ((*id).to_owned(), (*health).to_owned());
        let expected: BTreeMap<String, String> = expected.iter().map(owned).collect();
        let mut newest = None;
        wait_until(&format!("{resource} is {expected:?}"), || {
            newest = self.newest(resource);
            newest.as_ref().is_some_and(|told| told.devices == expected)
        });
        newest.unwrap().at
    }

    /// Stops reading lists, or goes on.
    pub fn read_on(&self, is_reading: bool) {
        self.is_reading.send_replace(is_reading);
    }

    /// Ends the streams of lists and their connections, and goes on.
    pub fn cut(&self) {
        self.cut.send_replace(());
    }

    /// Asks the plugin that serves `resource`.
    pub fn ask<Question, Answer>(
        &self,
        resource: &str,
        method: &'static str,
        question: Question,
    ) -> Result<Answer, Status>
    where
        Question: Message + Default + 'static,
        Answer: Message + Default + 'static,
    {
        let endpoint = self.directory.join(endpoint(resource));
        runtime().block_on(async {
            let mut plugin = connect(&endpoint, USUAL.window).await?;
            unary(&mut plugin, method, question).await
        })
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The name of the socket of `resource`.
pub fn endpoint(resource: &str) -> String {
    format!("{}.sock", resource.replace('/', "_"))
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

async fn listen(shared: Shared) {
    let listener = UnixListener::bind(shared.directory.join(api::KUBELET_SOCKET)).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = shared.clone();
        let answer = hyper::service::service_fn(move |request| {
            let shared = shared.clone();
            async move { Ok::<_, Infallible>(registration(request, &shared).await) }
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(server.serve_connection(TokioIo::new(stream), answer));
    }
}

async fn registration(request: Request<Incoming>, shared: &Shared) -> Response<Body> {
    assert_eq!(request.uri().path(), api::REGISTER);
    let register = |request: tonic::Request<RegisterRequest>| async {
        register(request.into_inner(), shared).await.map(tonic::Response::new)
    };
    let mut grpc = tonic::server::Grpc::new(ProstCodec::<Empty, RegisterRequest>::default());
    grpc.unary(service_fn(register), request).await
}

async fn register(request: RegisterRequest, shared: &Shared) -> Result<Empty, Status> {
    shared.known.lock().unwrap().registered.push(request.clone());
    if request.version != shared.manner.version {
        let said = format!("requested API version {:?} is not supported", request.version);
        return Err(Status::new(Code::Unknown, said));
    }
    let mut plugin = connect(&shared.directory.join(&request.endpoint), shared.manner.window).await?;
    let options = unary(&mut plugin, api::GET_DEVICE_PLUGIN_OPTIONS, Empty {}).await?;
    shared.known.lock().unwrap().options.push(options);
    let mut cut = shared.cut.clone();
    cut.mark_unchanged();
    let watching = watch_devices(plugin, request.resource_name, shared.clone());
    tokio::spawn(async move {
        select(pin!(watching), pin!(cut.changed())).await;
    });
    Ok(Empty {})
}

async fn watch_devices(mut plugin: Plugin, resource: String, mut shared: Shared) {
    let path = PathAndQuery::from_static(api::LIST_AND_WATCH);
    let codec = ProstCodec::<Empty, ListAndWatchResponse>::default();
    let question = tonic::Request::new(Empty {});
    let Ok(answer) = plugin.server_streaming(question, path, codec).await else { return };
    let mut lists = answer.into_inner();
    if !shared.manner.watches {
        return;
    }
    while shared.is_reading.wait_for(|is_reading| *is_reading).await.is_ok() {
        let Ok(Some(list)) = lists.message().await else { return };
        let at = Instant::now();
        let devices = list.devices.into_iter().map(|device| (device.id, device.health)).collect();
        shared.known.lock().unwrap().told.push(Told { at, resource: resource.clone(), devices });
    }
}

async fn unary<Question, Answer>(
    plugin: &mut Plugin,
    method: &'static str,
    question: Question,
) -> Result<Answer, Status>
where
    Question: Message + Default + 'static,
    Answer: Message + Default + 'static,
{
    let codec = ProstCodec::<Question, Answer>::default();
    let path = PathAndQuery::from_static(method);
    Ok(plugin.unary(tonic::Request::new(question), path, codec).await?.into_inner())
}

async fn connect(socket: &Path, window: u32) -> Result<Plugin, Status> {
    let stream = UnixStream::connect(socket).await?;
    let handshake = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|error| Status::unknown(error.to_string()))?;
    tokio::spawn(connection);
    let service = service_fn(move |request: Request<Body>| sender.send_request(request));
    Ok(Grpc::with_origin(BoxService::new(service), Uri::from_static("http://localhost")))
}
