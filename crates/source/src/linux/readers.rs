//! Threads that read sysfs, so that a read that waits for a device's lock holds up nothing but itself.

use std::collections::HashSet;
use std::io;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use autoweave_usb_device::{Port, Reading};

use super::sysfs::{Sysfs, Unread};

/// With this many reads stuck at once, further devices are announced with what their uevent says.
const THREADS: usize = 4;

/// How long to wait before asking sysfs again for a device that is not complete yet.
const RETRY: Duration = Duration::from_millis(2);

/// Jobs that wait for a thread, at most. With more, every thread is stuck.
const JOBS_MAX: usize = 64;

/// What to read.
#[derive(Debug)]
pub enum Job {
    /// The device a uevent was about, again and again until it can be read or the deadline has come.
    Announced { ticket: u64, devpath: String, port: Port, address: u8, deadline: Instant },
    /// Whatever is in a port.
    Listed { port: Port },
}

/// What came of it.
#[derive(Debug)]
pub struct Done {
    /// The job.
    pub job: Job,
    /// The reading.
    pub outcome: Result<Reading, Unread>,
}

/// The threads. They end when this is dropped, a stuck one when its read does.
#[derive(Debug)]
pub struct Readers {
    jobs: SyncSender<Job>,
    done: Receiver<Done>,
    /// Ports whose listing is being read; a stuck one is not asked again.
    listing: HashSet<Port>,
}

impl Readers {
    /// Starts the threads. `observer` is unparked whenever one is done.
    ///
    /// # Errors
    /// No more threads can be had.
    pub fn spawn(sysfs: &Sysfs, observer: &Thread) -> io::Result<Self> {
        let (jobs, queue) = mpsc::sync_channel(JOBS_MAX);
        let (results, done) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        for index in 0..THREADS {
            let (sysfs, observer, queue, results) =
                (sysfs.clone(), observer.clone(), queue.clone(), results.clone());
            thread::Builder::new().name(format!("usb-read-{index}")).spawn(move || {
                while let Some(done) = next_job(&queue).map(|job| run(&sysfs, job)) {
                    if results.send(done).is_err() {
                        return;
                    }
                    observer.unpark();
                }
            })?;
        }
        Ok(Self { jobs, done, listing: HashSet::new() })
    }

    /// Has a device read that a uevent was about. False if the threads have too much to do.
    pub fn announced(&self, ticket: u64, devpath: &str, bare: &Reading, deadline: Instant) -> bool {
        let (port, address) = (bare.port, bare.address);
        self.send(Job::Announced { ticket, devpath: devpath.to_owned(), port, address, deadline })
    }

    /// Has a port read for a scan. False if the threads have too much to do, or still read it for an earlier
    /// one.
    pub fn listed(&mut self, port: Port) -> bool {
        let is_sent = !self.listing.contains(&port) && self.send(Job::Listed { port });
        if is_sent {
            self.listing.insert(port);
        }
        is_sent
    }

    /// A job that is done, if one is.
    pub fn done(&mut self) -> Option<Done> {
        let done = self.done.try_recv().ok()?;
        if let Job::Listed { port } = done.job {
            self.listing.remove(&port);
        }
        Some(done)
    }

    fn send(&self, job: Job) -> bool {
        self.jobs.try_send(job).is_ok()
    }
}

fn next_job(queue: &Mutex<Receiver<Job>>) -> Option<Job> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn run(sysfs: &Sysfs, job: Job) -> Done {
    let outcome = match &job {
        Job::Listed { port } => sysfs.read(*port),
        // It was announced without being read while all threads were stuck; the next scan reads it.
        Job::Announced { deadline, .. } if Instant::now() >= *deadline => Err(Unread::NotReady),
        Job::Announced { devpath, port, address, deadline, .. } => loop {
            match sysfs.read_devpath(devpath, *port, *address) {
                Err(Unread::NotReady) if Instant::now() + RETRY < *deadline => thread::sleep(RETRY),
                outcome => break outcome,
            }
        },
    };
    Done { job, outcome }
}
