//! Attaches and detaches as an iterator, for programs that keep no log of them.

use std::collections::VecDeque;
use std::time::Duration;

use autoweave_usb_device::{Change, DeviceTable, Edge, Policy, Reason};

use crate::{Batch, OpenError, OpenErrors, Options, Position, SourceError, Supervisor, Watch};

/// Waiting begins anew after this long; it only has to be finite.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Every attach and detach, in order, for as long as it is asked.
///
/// What is connected at the start comes first, with [`Reason::Coldplug`]. `next` waits; to be able to stop
/// waiting, take an [`crate::Interrupter`] from [`Self::watch`] and end the loop at the next event, or drop
/// the iterator from the thread that owns it.
#[derive(Debug)]
pub struct Events {
    watch: Watch,
    waiting: VecDeque<Edge>,
    ended: bool,
}

impl Events {
    /// Starts listening.
    ///
    /// # Errors
    /// No source can be opened.
    pub fn open(options: Options) -> Result<Self, OpenErrors> {
        Self::with_policy(options, Policy::default())
    }

    /// Starts listening, with filters and debouncing. When this returns, the bus was scanned: whatever is
    /// plugged in or out from then on is an edge of its own.
    ///
    /// # Errors
    /// No source can be opened.
    pub fn with_policy(options: Options, policy: Policy) -> Result<Self, OpenErrors> {
        let watch = Watch::new(
            Supervisor::open(options)?,
            DeviceTable::new(policy),
            Reason::Coldplug,
            Position::default(),
        );
        let mut events = Self { watch, waiting: VecDeque::new(), ended: false };
        while !events.ended {
            let batch = events.watch.next_batch(PATIENCE).map_err(OpenError::from)?;
            let is_listening = batch.scanned || !batch.scan_failures.is_empty();
            events.keep(batch);
            if is_listening {
                break;
            }
        }
        Ok(events)
    }

    /// The source and the table behind the events.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    fn keep(&mut self, batch: Batch) {
        self.ended = batch.ended || batch.interrupted;
        self.waiting.extend(batch.changes.into_iter().filter_map(|change| match change {
            Change::Edge(edge) => Some(edge),
            Change::Refreshed(_) => None,
        }));
        // Nothing is kept for a later run, so there is nothing to read again.
        self.watch.journaled();
    }
}

impl Iterator for Events {
    type Item = Result<Edge, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(edge) = self.waiting.pop_front() {
                return Some(Ok(edge));
            }
            if self.ended {
                return None;
            }
            let batch = match self.watch.next_batch(PATIENCE) {
                Ok(batch) => batch,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            };
            self.keep(batch);
        }
    }
}
