//! The publisher's handle: the thread behind it is [`crate::worker`].

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crate::control::{Ending, Shared};
use crate::notice::{Listener, State, Status};
use crate::rows::Rows;
use crate::settings::Settings;
use crate::worker::Worker;

/// Publishes a journal from a thread of its own. Dropping it closes the journal and ends the thread at its next
/// step; what is not published is when the next publisher starts.
pub struct Publisher {
    shared: Arc<Shared>,
    rows: Rows,
}

impl Publisher {
    /// Starts to publish the journal in `state_dir` under the id `producer`: the journal's own, or the one last
    /// given to [`Publisher::resume_as`].
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(
        settings: Settings,
        state_dir: impl Into<PathBuf>,
        producer: String,
        listener: Listener,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let rows = Rows::new(state_dir.into());
        let worker = Worker::new(settings, rows.clone(), producer, shared.clone(), listener);
        let ending = Ending::new(shared.clone());
        thread::Builder::new().name("publisher".to_owned()).spawn(move || {
            let _ending = ending;
            worker.run();
        })?;
        Ok(Self { shared, rows })
    }

    /// Says that the journal has grown. Costs a lock.
    pub fn wake(&self) {
        self.shared.order(|orders| orders.woken = true);
    }

    /// How the publisher is doing, all of it at one moment.
    pub fn status(&self) -> Status {
        self.shared.lock().status.clone()
    }

    /// [`Status::published_seq`]. Costs a lock.
    pub fn published_seq(&self) -> Option<u64> {
        self.shared.lock().status.published_seq
    }

    /// Goes on with these settings. Another server, user, password, database or stream is connected to anew; another
    /// stream gets what the journal has and it lacks. While nothing gets through, tries again at once: the file with
    /// the password may be another. Settings that have not changed change nothing else.
    pub fn reload(&self, settings: Settings) {
        self.shared.order(|orders| orders.settings = Some(settings));
    }

    /// Goes on under a new producer id, after [`crate::Notice::NewProducerNeeded`] or when the journal was begun anew.
    /// Remember it: the next [`Publisher::spawn`] needs it.
    pub fn resume_as(&self, producer: String) {
        self.shared.order(|orders| orders.producer = Some(producer));
    }

    /// Publishes what the journal has and the server takes, then ends; gives up at `deadline`. Returns the last
    /// status; its state is [`State::Stopped`] unless the deadline passed. The journal is closed then, and must not
    /// grow meanwhile.
    pub fn stop(self, deadline: Instant) -> Status {
        self.shared.order(|orders| orders.stop = Some(deadline));
        let last_seq = self.rows.last_seq().ok();
        let mut control = self.shared.lock();
        loop {
            // The thread may be waiting for a server that does not answer.
            let is_level = last_seq.is_some() && control.status.published_seq == last_seq;
            let left = deadline.saturating_duration_since(Instant::now());
            if is_level || control.status.state == State::Stopped || left.is_zero() {
                let mut status = control.status.clone();
                if is_level {
                    status.state = State::Stopped;
                    status.unpublished = Some(0);
                }
                return status;
            }
            control = self.shared.wait_until(control, Some(deadline));
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.shared.order(|orders| {
            orders.stop.get_or_insert_with(Instant::now);
        });
        self.rows.release();
    }
}
