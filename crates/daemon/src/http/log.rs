//! Events from the journal, for everybody who asks, through one reader.
//!
//! A client is only a position in the log. Those at its end, usually all, share the frames of its newest
//! events; one that is behind reads its own page.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use autoweave_usb_device::Action;
use autoweave_usb_journal::{ReadError, Reader, Stored};
use axum::body::Bytes;
use axum::http::StatusCode;
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

use super::problem::Problem;

/// Events read at once: with events of 1 KB, what a client that does not read holds in memory.
pub(super) const PAGE_ROWS: usize = 16;

/// Of the frames that are kept for the clients at the log's end.
const TAIL_BYTES_MAX: usize = 64 * 1024;

/// How long a request waits for the disk, and for others that read.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is nothing to read at a position.
#[derive(Debug, Error)]
pub(super) enum LogError {
    #[error(
        "events after {after} are no longer kept, the oldest is {oldest}; begin again with /api/v1/devices"
    )]
    Older { after: u64, oldest: u64 },
    #[error(
        "the log ends with event {newest}, before {after}: it was begun anew; begin again with /api/v1/devices"
    )]
    Ahead { after: u64, newest: u64 },
    #[error("the journal does not answer")]
    Busy,
    #[error(transparent)]
    Unreadable(#[from] ReadError),
}

impl From<LogError> for Problem {
    fn from(error: LogError) -> Self {
        let status = match error {
            LogError::Older { .. } | LogError::Ahead { .. } => StatusCode::GONE,
            LogError::Busy | LogError::Unreadable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

/// One or more events as a piece of an event stream.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    /// The last of them.
    pub(super) seq: u64,
    pub(super) text: Bytes,
}

/// See the module's description.
#[derive(Clone, Debug)]
pub(super) struct Log(Arc<Mutex<Tail>>);

#[derive(Debug)]
struct Tail {
    dir: PathBuf,
    /// Opened when first needed, and again after an error.
    reader: Option<Reader>,
    /// Of consecutive events, in order.
    frames: VecDeque<Frame>,
    bytes: usize,
}

impl Log {
    /// The log in the state directory `dir`, which need not exist yet.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self(Arc::new(Mutex::new(Tail { dir, reader: None, frames: VecDeque::new(), bytes: 0 })))
    }

    /// Up to `limit` events after `after`, or the oldest that are kept.
    pub(super) async fn page(&self, after: Option<u64>, limit: usize) -> Result<Vec<Stored>, LogError> {
        self.within_time(async { blocking(self.lock().await, move |tail| tail.rows(after, limit)).await })
            .await
    }

    /// What follows `after` in an event stream; `None` if nothing does yet.
    pub(super) async fn frame(&self, after: u64) -> Result<Option<Frame>, LogError> {
        self.within_time(async {
            let tail = self.lock().await;
            match tail.kept(after) {
                Some(frame) => Ok(Some(frame)),
                None => blocking(tail, move |tail| tail.read_frame(after)).await,
            }
        })
        .await
    }

    async fn lock(&self) -> OwnedMutexGuard<Tail> {
        self.0.clone().lock_owned().await
    }

    async fn within_time<T>(&self, read: impl Future<Output = Result<T, LogError>>) -> Result<T, LogError> {
        timeout(READ_TIMEOUT, read).await.unwrap_or(Err(LogError::Busy))
    }
}

/// Off the thread that serves HTTP: a slow disk must not keep `/health` from answering.
async fn blocking<T: Send + 'static>(
    mut tail: OwnedMutexGuard<Tail>,
    read: impl FnOnce(&mut Tail) -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    let work = move || {
        let result = read(&mut tail);
        if matches!(result, Err(LogError::Unreadable(_))) {
            tail.reader = None;
        }
        result
    };
    // It fails only if it panicked or the server stops meanwhile.
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(LogError::Busy))
}

impl Tail {
    fn kept(&self, after: u64) -> Option<Frame> {
        let first = self.frames.front()?.seq;
        let index = usize::try_from(after.checked_add(1)?.checked_sub(first)?).ok()?;
        self.frames.get(index).cloned()
    }

    fn read_frame(&mut self, after: u64) -> Result<Option<Frame>, LogError> {
        let rows = self.rows(Some(after), PAGE_ROWS)?;
        let Some(last) = rows.last() else { return Ok(None) };
        let newest_kept = self.frames.back().map_or(0, |frame| frame.seq);
        if after < newest_kept {
            let mut text = String::new();
            for row in &rows {
                write_frame(row, &mut text);
            }
            return Ok(Some(Frame { seq: last.seq, text: text.into() }));
        }
        if after > newest_kept {
            self.frames.clear();
            self.bytes = 0;
        }
        let mut first = None;
        for row in &rows {
            let mut text = String::with_capacity(row.event.len() + 64);
            write_frame(row, &mut text);
            let frame = Frame { seq: row.seq, text: text.into() };
            first.get_or_insert_with(|| frame.clone());
            self.keep(frame);
        }
        Ok(first)
    }

    fn keep(&mut self, frame: Frame) {
        self.bytes += frame.text.len();
        self.frames.push_back(frame);
        while self.bytes > TAIL_BYTES_MAX {
            let Some(oldest) = self.frames.pop_front() else { break };
            self.bytes -= oldest.text.len();
        }
    }

    /// Consecutive events, the first of them right behind `after`.
    fn rows(&mut self, after: Option<u64>, limit: usize) -> Result<Vec<Stored>, LogError> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            none => none.insert(Reader::open(&self.dir)?),
        };
        let rows = reader.since(after.unwrap_or(0), limit)?;
        let Some(after) = after else { return Ok(rows) };
        match rows.first() {
            Some(first) if Some(first.seq) == after.checked_add(1) => Ok(rows),
            Some(first) => Err(LogError::Older { after, oldest: first.seq }),
            None => {
                let newest = reader.last_seq()?;
                if after > newest { Err(LogError::Ahead { after, newest }) } else { Ok(rows) }
            }
        }
    }
}

/// `text/event-stream`, <https://html.spec.whatwg.org/multipage/server-sent-events.html>.
fn write_frame(row: &Stored, out: &mut String) {
    #[derive(Deserialize)]
    struct Kind {
        action: Action,
    }
    // Writing to a string cannot fail.
    let _ = writeln!(out, "id: {}", row.seq);
    // A row that is no event can only have been put there by hand; it goes out as it is, as a plain message.
    if let Ok(kind) = serde_json::from_str::<Kind>(&row.event) {
        let _ = writeln!(out, "event: {}", kind.action);
    }
    for line in row.event.split(['\r', '\n']) {
        let _ = writeln!(out, "data: {line}");
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(event: &str) -> String {
        let mut text = String::new();
        write_frame(&Stored { seq: 7, event_id: "x".to_owned(), event: event.to_owned() }, &mut text);
        text
    }

    #[test]
    fn a_frame_names_the_action_and_holds_the_event_on_one_line() {
        let event = r#"{"seq":7,"action":"detach"}"#;
        assert_eq!(framed(event), format!("id: 7\nevent: detach\ndata: {event}\n\n"));
    }

    #[test]
    fn what_is_no_event_cannot_break_out_of_its_frame() {
        assert_eq!(framed("a\nid: 9\rb"), "id: 7\ndata: a\ndata: id: 9\ndata: b\n\n");
    }
}
