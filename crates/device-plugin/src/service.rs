//! Answers the kubelet about one resource.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use autoweave_usb_device::Port;
use futures_util::{Stream, stream};
use hyper::body::Incoming;
use hyper::{Request, Response};
use prost::Message;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::allocation;
use crate::api::{
    self, AllocateRequest, AllocateResponse, Device, DevicePluginOptions, Empty, ListAndWatchResponse,
};
use crate::inventory::{Entry, Listing};
use crate::watchers::{Watcher, Watchers};

/// A request may be this long: room for some thousand ids.
const REQUEST_BYTES_MAX: usize = 256 * 1024;

/// How long sysfs may take to name the nodes of the devices in a request.
const NODES_TIMEOUT: Duration = Duration::from_secs(5);

/// The gRPC service `DevicePlugin` of one resource.
#[derive(Debug, Clone)]
pub struct Service {
    pub resource: String,
    pub listing: watch::Receiver<Listing>,
    pub nodes: fn(Port) -> Vec<String>,
    pub watchers: Arc<Watchers>,
}

/// What the plugin can do.
pub fn options() -> DevicePluginOptions {
    DevicePluginOptions { pre_start_required: false, get_preferred_allocation_available: true }
}

impl Service {
    /// Answers whatever is asked; a method that is not there is `Unimplemented`.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match request.uri().path() {
            api::GET_DEVICE_PLUGIN_OPTIONS => unary(request, |_: Empty| ready(Ok(options()))).await,
            api::LIST_AND_WATCH => {
                let watch = |_: tonic::Request<Empty>| {
                    let updates = updates(self.listing.clone(), self.watchers.open());
                    ready(Ok::<_, Status>(tonic::Response::new(updates)))
                };
                grpc().server_streaming(service_fn(watch), request).await
            }
            api::GET_PREFERRED_ALLOCATION => {
                unary(request, |wanted| ready(allocation::preferred(&self.listing.borrow(), wanted))).await
            }
            api::ALLOCATE => unary(request, |wanted| self.allocate(wanted)).await,
            _ => Status::new(Code::Unimplemented, "there is no such method").into_http(),
        }
    }

    async fn allocate(&self, request: AllocateRequest) -> Result<AllocateResponse, Status> {
        let containers = allocation::wanted(&self.listing.borrow(), &request)?;
        let (resource, nodes) = (self.resource.clone(), self.nodes);
        // Reading sysfs can wait for a device's lock in the kernel.
        let read = spawn_blocking(move || {
            let given = |devices: &Vec<_>| allocation::given(&resource, devices, nodes);
            containers.iter().map(given).collect::<Result<_, _>>()
        });
        let late = |_| Status::unavailable("the devices' nodes cannot be read in time");
        let read = timeout(NODES_TIMEOUT, read).await.map_err(late)?;
        let container_responses = read.map_err(|error| Status::internal(error.to_string()))??;
        Ok(AllocateResponse { container_responses })
    }
}

fn grpc<Question, Answer>() -> Grpc<ProstCodec<Answer, Question>>
where
    Question: Message + Default + 'static,
    Answer: Message + Default + 'static,
{
    Grpc::new(ProstCodec::default()).max_decoding_message_size(REQUEST_BYTES_MAX)
}

async fn unary<Question, Answer, Answering>(
    request: Request<Incoming>,
    answer: impl Fn(Question) -> Answering,
) -> Response<Body>
where
    Question: Message + Default + 'static,
    Answer: Message + Default + 'static,
    Answering: Future<Output = Result<Answer, Status>>,
{
    let answer = |question: tonic::Request<Question>| {
        let answering = answer(question.into_inner());
        async { Ok(tonic::Response::new(answering.await?)) }
    };
    grpc().unary(service_fn(answer), request).await
}

/// The listing now, and whenever it is another and the kubelet has taken the one before: of those between, none.
fn updates(
    mut listing: watch::Receiver<Listing>,
    watcher: Watcher,
) -> impl Stream<Item = Result<ListAndWatchResponse, Status>> + Send {
    listing.mark_changed();
    stream::unfold((listing, watcher), |(mut listing, watcher)| async {
        listing.changed().await.ok()?;
        let devices = listing.borrow_and_update().iter().map(told).collect();
        Some((Ok(ListAndWatchResponse { devices }), (listing, watcher)))
    })
}

fn told(entry: &Entry) -> Device {
    let health = if entry.place.is_some() { api::HEALTHY } else { api::UNHEALTHY };
    Device { id: entry.id.clone(), health: health.to_owned() }
}
