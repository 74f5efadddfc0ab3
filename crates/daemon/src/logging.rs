//! The log, on stderr.

use std::io::{self, Write};

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::{Log, LogFormat, LogLevel};
use crate::show::escape_json;
use crate::telemetry::LogBridge;

/// Lines waiting for a slow terminal or pipe, at most. Further ones are dropped and counted: the journal has
/// the events, and the daemon must not wait for whoever reads its log.
const LINES_WAITING_MAX: usize = 4096;

/// Writes the lines that wait when it is dropped, and says how many were dropped.
pub struct Logging {
    writer: NonBlocking,
    level: reload::Handle<LevelFilter, Registry>,
    _guard: WorkerGuard,
}

/// Starts logging, to `bridge` as well if there is one. Once in a process.
pub fn start(log: &Log, bridge: Option<LogBridge>) -> Logging {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_WAITING_MAX)
        .finish(io::stderr());
    let (filter, level) = reload::Layer::new(level_filter(log.level));
    let lines = fmt::layer().with_target(false);
    let registry = tracing_subscriber::registry().with(filter).with(bridge);
    match log.format {
        LogFormat::Text => {
            let lines = lines.with_ansi(anstream::stderr().is_terminal());
            registry.with(lines.with_writer(writer.clone())).init();
        }
        LogFormat::Json => {
            let json = JsonLines(writer.clone());
            registry.with(lines.json().flatten_event(true).with_writer(move || json.clone())).init();
        }
    }
    Logging { writer, level, _guard: guard }
}

/// Takes a line of JSON at a time, and escapes what a terminal would obey or hide: devices name themselves. In the text
/// format tracing does that.
#[derive(Clone)]
struct JsonLines(NonBlocking);

impl Write for JsonLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(bytes).map(|text| text.trim_end_matches('\n')) {
            Ok(line) => self.0.write_all(format!("{}\n", escape_json(line)).as_bytes())?,
            Err(_) => self.0.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Logging {
    /// Logs `level` and what is worse from now on.
    pub fn set_level(&self, level: LogLevel) {
        // It fails only when the subscriber is gone, which is the process's own.
        let _ = self.level.reload(level_filter(level));
    }
}

fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let dropped = self.writer.error_counter().dropped_lines();
        if dropped > 0 {
            tracing::warn!(dropped, "log lines were dropped because nobody read them fast enough");
        }
    }
}
