//! The kubelet's side of the registration.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use hyper::client::conn::http2;
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::api::{self, Empty, RegisterRequest};
use crate::service::options;

/// How long the kubelet may take; it asks the plugin back before it answers.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a resource is not registered.
#[derive(Debug)]
pub enum Unregistered {
    /// The kubelet is not there, or going, or slow: to be tried again.
    Absent(String),
    /// The kubelet said no.
    Refused(String),
}

/// Tells the kubelet that listens at `socket` of a `resource` served at `endpoint`, a file name beside it.
///
/// # Errors
/// The kubelet cannot be asked now, or said no.
pub async fn register(socket: &Path, endpoint: &str, resource: &str) -> Result<(), Unregistered> {
    let request = RegisterRequest {
        version: api::VERSION.to_owned(),
        endpoint: endpoint.to_owned(),
        resource_name: resource.to_owned(),
        options: Some(options()),
    };
    let answer = timeout(REGISTER_TIMEOUT, ask(socket, request)).await;
    answer.unwrap_or_else(|_| Err(Unregistered::Absent("it does not answer".to_owned())))
}

async fn ask(socket: &Path, request: RegisterRequest) -> Result<(), Unregistered> {
    let absent = |error: &dyn Error| Unregistered::Absent(error.to_string());
    let stream = UnixStream::connect(socket).await.map_err(|error| absent(&error))?;
    let connected = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = connected.map_err(|error| absent(&error))?;
    // It ends with the sender; what goes wrong with it is told to who waits for the answer.
    tokio::spawn(connection);
    let service = service_fn(move |request: Request<Body>| sender.send_request(request));
    let mut client = Grpc::with_origin(service, Uri::from_static("http://localhost"));
    let codec = ProstCodec::<RegisterRequest, Empty>::default();
    let path = PathAndQuery::from_static(api::REGISTER);
    client
        .unary(tonic::Request::new(request), path, codec)
        .await
        .map(drop)
        .map_err(|status| unregistered(&status))
}

fn unregistered(status: &Status) -> Unregistered {
    let message = status.message().to_owned();
    // What broke the connection is no word of the kubelet's.
    match status.code() {
        _ if status.source().is_some() => Unregistered::Absent(message),
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded => Unregistered::Absent(message),
        _ => Unregistered::Refused(message),
    }
}
