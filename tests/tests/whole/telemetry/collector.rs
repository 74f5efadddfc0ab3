//! A collector that keeps what it gets, so that tests can look at it; and a real one in front of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::{env, thread};

use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use prost::Message;

use crate::harness::wait_until;

/// What a collector does with a request.
#[derive(Clone, Copy, PartialEq)]
pub enum Manner {
    Takes,
    /// Reads it and never answers.
    Hangs,
}

/// Paths and bodies.
type Requests = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Listens on this thread's loopback.
pub struct Collector {
    address: SocketAddr,
    requests: Requests,
}

/// A span that was exported.
#[derive(Debug, Clone)]
pub struct Seen {
    pub service: String,
    pub name: String,
    pub trace: String,
    pub id: String,
    /// Empty: none.
    pub parent: String,
    /// Traces and spans.
    pub links: Vec<(String, String)>,
    pub attributes: BTreeMap<String, String>,
    pub begin: u64,
    pub end: u64,
    pub is_error: bool,
}

impl Collector {
    pub fn start(manner: Manner) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), manner)
    }

    pub fn start_at(address: SocketAddr, manner: Manner) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Requests::default();
        let kept = requests.clone();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let kept = kept.clone();
                thread::spawn(move || serve(connection, manner, &kept));
            }
        });
        Self { address, requests }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn requests(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    fn bodies(&self, path: &str) -> Vec<Vec<u8>> {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|(to, _)| to == path).map(|(_, body)| body.clone()).collect()
    }

    pub fn spans(&self) -> Vec<Seen> {
        let requests = self.bodies("/v1/traces");
        let requests = requests.iter().map(|body| ExportTraceServiceRequest::decode(&body[..]).unwrap());
        let mut seen = Vec::new();
        for resource in requests.flat_map(|request| request.resource_spans) {
            let about = attributes(&resource.resource.unwrap().attributes);
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                seen.push(Seen {
                    service: about["service.name"].clone(),
                    name: span.name,
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
                    attributes: attributes(&span.attributes),
                    begin: span.start_time_unix_nano,
                    end: span.end_time_unix_nano,
                    // STATUS_CODE_ERROR, opentelemetry/proto/trace/v1/trace.proto.
                    is_error: span.status.is_some_and(|status| status.code == 2),
                });
            }
        }
        seen
    }

    /// Names of metrics.
    pub fn metrics(&self) -> BTreeSet<String> {
        let requests = self.bodies("/v1/metrics");
        let requests = requests.iter().map(|body| ExportMetricsServiceRequest::decode(&body[..]).unwrap());
        let resources = requests.flat_map(|request| request.resource_metrics);
        let scopes = resources.flat_map(|resource| resource.scope_metrics);
        scopes.flat_map(|scope| scope.metrics).map(|metric| metric.name).collect()
    }

    /// How much a histogram counts in the newest export that has it, all series together.
    pub fn count_of(&self, histogram: &str) -> u64 {
        let requests = self.bodies("/v1/metrics");
        let requests = requests.iter().map(|body| ExportMetricsServiceRequest::decode(&body[..]).unwrap());
        let resources = requests.flat_map(|request| request.resource_metrics);
        let metrics = resources.flat_map(|one| one.scope_metrics).flat_map(|scope| scope.metrics);
        let counts =
            metrics.filter(|metric| metric.name == histogram).filter_map(|metric| match metric.data? {
                Data::Histogram(histogram) => {
                    Some(histogram.data_points.iter().map(|point| point.count).sum())
                }
                _ => None,
            });
        counts.max().unwrap_or(0)
    }

    /// Lines of the log: the text, and the trace they are of.
    pub fn logs(&self) -> Vec<(String, String)> {
        let requests = self.bodies("/v1/logs");
        let requests = requests.iter().map(|body| ExportLogsServiceRequest::decode(&body[..]).unwrap());
        let resources = requests.flat_map(|request| request.resource_logs);
        let records = resources.flat_map(|resource| resource.scope_logs).flat_map(|scope| scope.log_records);
        records
            .map(|record| (record.body.as_ref().map(shown).unwrap_or_default(), hex(&record.trace_id)))
            .collect()
    }

    /// Waits until the trace has a span for each of `names`, and returns them in that order. Where several have a name,
    /// the first.
    pub fn trace(&self, trace: &str, names: &[&str]) -> Vec<Seen> {
        let find = || {
            let spans = self.spans();
            let found =
                |name: &&str| spans.iter().find(|span| span.trace == trace && span.name == *name).cloned();
            names.iter().map(found).collect::<Option<Vec<_>>>()
        };
        wait_until(&format!("the trace {trace} has all of {names:?}"), || find().is_some());
        find().unwrap()
    }
}

/// A real collector, which passes on what it understood.
pub struct Rotel {
    child: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Rotel {
    /// In front of `collector`; `None` where it is not installed, which is said.
    pub fn start(collector: &Collector) -> Option<Self> {
        let Some(program) = program() else {
            eprintln!("SKIPPED: rotel is not installed, `cargo xtask test` does it");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (address, grpc) = (free(), free());
        let mut command = Command::new(program);
        command.current_dir(directory.path()).stdout(Stdio::null()).stderr(Stdio::null());
        command.args(["start", "--exporter", "otlp", "--otlp-exporter-protocol", "http"]);
        command.args(["--otlp-exporter-endpoint", &collector.url(), "--batch-timeout", "50ms"]);
        command.args([
            "--otlp-http-endpoint",
            &address.to_string(),
            "--otlp-grpc-endpoint",
            &grpc.to_string(),
        ]);
        for file in ["pid", "log"] {
            command.arg(format!("--{file}-file")).arg(directory.path().join(file));
        }
        let rotel = Self { child: command.spawn().unwrap(), address, _directory: directory };
        wait_until("rotel listens", || TcpStream::connect(address).is_ok());
        Some(rotel)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Rotel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where `cargo xtask test` puts it.
fn program() -> Option<PathBuf> {
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    Some(target.join("test-tools/rotel/rotel/rotel-agent")).filter(|path| path.is_file())
}

fn serve(connection: TcpStream, manner: Manner, kept: &Mutex<Vec<(String, Vec<u8>)>>) -> Option<()> {
    let mut reader = BufReader::new(connection);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if reader.read_until(b'\n', &mut head).ok()? == 0 {
                return None;
            }
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length:"))?.trim().parse().unwrap();
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let path = head.split(' ').nth(1)?.to_owned();
        if head.contains("content-encoding: gzip") {
            let mut text = Vec::new();
            GzDecoder::new(&body[..]).read_to_end(&mut text).unwrap();
            body = text;
        }
        kept.lock().unwrap().push((path, body));
        if manner == Manner::Takes {
            let answer =
                "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
            reader.get_mut().write_all(answer.as_bytes()).ok()?;
        }
    }
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    pairs.iter().map(|pair| (pair.key.clone(), pair.value.as_ref().map(shown).unwrap_or_default())).collect()
}

fn shown(value: &AnyValue) -> String {
    match &value.value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
