//! The log, on stderr.

use std::io;

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;

use crate::config::{Log, LogFormat, LogLevel};

/// Lines waiting for a slow terminal or pipe, at most. Further ones are dropped and counted: the journal has
/// the events, and the daemon must not wait for whoever reads its log.
const LINES_WAITING_MAX: usize = 4096;

/// Writes the lines that wait when it is dropped, and says how many were dropped.
pub struct Logging {
    writer: NonBlocking,
    _guard: WorkerGuard,
}

/// Starts logging. Once in a process.
pub fn start(log: &Log) -> Logging {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_WAITING_MAX)
        .finish(io::stderr());
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let subscriber =
        tracing_subscriber::fmt().with_max_level(level).with_target(false).with_writer(writer.clone());
    match log.format {
        LogFormat::Text => subscriber.with_ansi(anstream::stderr().is_terminal()).init(),
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
    Logging { writer, _guard: guard }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let dropped = self.writer.error_counter().dropped_lines();
        if dropped > 0 {
            tracing::warn!(dropped, "log lines were dropped because nobody read them fast enough");
        }
    }
}
