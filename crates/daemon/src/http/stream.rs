//! Bodies that are made while they are sent, so that a client that reads slowly costs a page and no more.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use autoweave_usb_device::Device;
use autoweave_usb_journal::Stored;
use axum::body::{Body, Bytes};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;
use tracing::debug;

use super::log::{Frame, Log, LogError, PAGE_ROWS};

/// Browsers connect again after as long, in milliseconds.
const HELLO: &str = "retry: 1000\n\n";

const KEEP_ALIVE: &str = ": keep-alive\n\n";

/// What those who follow the log wait for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Live {
    /// The log's end.
    pub(super) last_seq: u64,
    /// Whether the server is about to stop.
    pub(super) is_closing: bool,
}

/// A client that follows the log.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) log: Log,
    pub(super) live: watch::Receiver<Live>,
    /// The last event it has.
    pub(super) position: u64,
    pub(super) keep_alive: Duration,
    /// Its place among the clients there may be.
    pub(super) _permit: OwnedSemaphorePermit,
}

impl Follower {
    /// The body of an event stream: `first`, then what follows it for as long as both sides are there.
    pub(super) fn body(mut self, first: Option<Frame>) -> Body {
        let mut hello = HELLO.to_owned();
        if let Some(frame) = first {
            self.position = frame.seq;
            hello.push_str(&String::from_utf8_lossy(&frame.text));
        }
        let pieces = stream::unfold((self, Some(Bytes::from(hello))), |(mut follower, hello)| async move {
            let piece = match hello {
                Some(hello) => hello,
                None => follower.next().await?,
            };
            Some((Ok::<_, LogError>(piece), (follower, None)))
        });
        Body::from_stream(pieces)
    }

    /// Waits for what to send next; `None` ends the stream, and the client comes back with its position.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let position = self.position;
            let live = *self.live.borrow_and_update();
            if live.is_closing {
                return None;
            }
            if live.last_seq > position {
                match self.log.frame(position).await {
                    Ok(Some(frame)) => {
                        self.position = frame.seq;
                        return Some(frame.text);
                    }
                    Ok(None) => debug!(position, "an event was announced that is not in the journal"),
                    Err(error) => debug!(position, "an event stream ends: {error}"),
                }
                return None;
            }
            match timeout(self.keep_alive, self.live.changed()).await {
                Ok(changed) => changed.ok()?,
                Err(_elapsed) => return Some(Bytes::from_static(KEEP_ALIVE.as_bytes())),
            }
        }
    }
}

/// `{"events":[…],"next":SEQ}` with up to `limit` events after `after` or the oldest, of which `page` has been
/// read. Cut short, so that it is no JSON, if the journal cannot be read on.
pub(super) fn events(log: Log, after: Option<u64>, limit: usize, page: Vec<Stored>) -> Body {
    let start = Events { log, position: after.unwrap_or(0), left: limit, page: Some(page), is_begun: false };
    Body::from_stream(stream::try_unfold(Some(start), |events| async move {
        match events {
            Some(events) => events.next().await.map(Some),
            None => Ok(None),
        }
    }))
}

struct Events {
    log: Log,
    position: u64,
    left: usize,
    page: Option<Vec<Stored>>,
    is_begun: bool,
}

impl Events {
    /// The next piece of the body, and what makes the one after it.
    async fn next(mut self) -> Result<(Bytes, Option<Self>), LogError> {
        let asked = self.left.min(PAGE_ROWS);
        let page = match self.page.take() {
            Some(page) => page,
            None => self.log.page(Some(self.position), asked).await?,
        };
        let mut text = String::with_capacity(page.iter().map(|row| row.event.len() + 1).sum::<usize>() + 64);
        if !self.is_begun {
            text.push_str("{\"events\":[");
        }
        for row in &page {
            if self.is_begun {
                text.push(',');
            }
            text.push_str(&row.event);
            self.is_begun = true;
            self.position = row.seq;
        }
        self.left -= page.len();
        if page.len() == asked && self.left > 0 {
            return Ok((text.into(), Some(self)));
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "],\"next\":{}}}", self.position);
        Ok((text.into(), None))
    }
}

/// `{"devices":[…],"seq":N}`. The devices themselves are shared with the device table.
pub(super) fn devices(devices: Arc<[Arc<Device>]>, last_seq: u64) -> Body {
    Body::from_stream(stream::unfold(Some(0), move |index| {
        let devices = devices.clone();
        async move {
            let index: usize = index?;
            let Some(device) = devices.get(index) else {
                let begin = if index == 0 { "{\"devices\":[" } else { "" };
                return Some((Ok(format!("{begin}],\"seq\":{last_seq}}}")), None));
            };
            let begin = if index == 0 { "{\"devices\":[" } else { "," };
            let piece = serde_json::to_string(&**device).map(|device| format!("{begin}{device}"));
            Some((piece, Some(index + 1)))
        }
    }))
}
