//! The HTTP client of the exporters, whose threads may wait.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::losses::Losses;

/// A collector answers with a few bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Sends, and tells how that went.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    losses: Arc<Losses>,
}

impl Client {
    /// `timeout`: of a whole request.
    pub(super) fn new(timeout: Duration, is_encrypted: bool, losses: Arc<Losses>) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .max_redirects(0);
        let config = if is_encrypted { config.tls_config(machines_certificates()) } else { config };
        Self { agent: config.build().into(), losses }
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        let (head, body) = request.into_parts();
        let answer = self.agent.run(Request::from_parts(head, &body[..]))?;
        let (head, mut body) = answer.into_parts();
        let body = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec()?;
        Ok(Response::from_parts(head, body.into()))
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.send(request);
        match &answer {
            Ok(answer) if answer.status().is_success() => self.losses.works(),
            Ok(answer) => self.losses.fails(&format!("the collector answers {}", answer.status())),
            Err(error) => self.losses.fails(&error.to_string()),
        }
        answer.map_err(Into::into)
    }
}

/// A collector of one's own often has a certificate that only the machine knows. Those that cannot be read are left out:
/// the collector's may be among the others.
fn machines_certificates() -> TlsConfig {
    let found = rustls_native_certs::load_native_certs().certs;
    let certificates: Vec<_> = found.iter().map(|found| Certificate::from_der(found).to_owned()).collect();
    TlsConfig::builder().root_certs(RootCerts::new_with_certs(&certificates)).build()
}
