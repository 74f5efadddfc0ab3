//! Who watches the list of a resource.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use tokio::sync::Notify;

/// The streams of one socket. The kubelet has one and never asks for another: when it ends, the resource has to be
/// registered again.
#[derive(Debug)]
pub struct Watchers {
    open: AtomicUsize,
    are_lost: AtomicBool,
    lost: Arc<Notify>,
}

/// A stream that is open until this is dropped.
#[derive(Debug)]
pub struct Watcher(Arc<Watchers>);

impl Watchers {
    /// None yet; `lost` hears when the last one ends.
    pub fn new(lost: Arc<Notify>) -> Self {
        Self { open: AtomicUsize::new(0), are_lost: AtomicBool::new(false), lost }
    }

    /// None, for a socket in place of another.
    pub fn anew(&self) -> Self {
        Self::new(self.lost.clone())
    }

    /// One more.
    pub fn open(self: &Arc<Self>) -> Watcher {
        self.open.fetch_add(1, SeqCst);
        self.are_lost.store(false, SeqCst);
        Watcher(self.clone())
    }

    /// Whether the last one has ended, and none began since, nor was this asked.
    pub fn take_lost(&self) -> bool {
        self.are_lost.swap(false, SeqCst)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let Watchers { open, are_lost, lost } = &*self.0;
        if open.fetch_sub(1, SeqCst) == 1 {
            are_lost.store(true, SeqCst);
            lost.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_the_last_one_is_a_loss() {
        let watchers = Arc::new(Watchers::new(Arc::new(Notify::new())));
        assert!(!watchers.take_lost());
        let (one, two) = (watchers.open(), watchers.open());
        drop(one);
        assert!(!watchers.take_lost());
        drop(two);
        assert!(watchers.take_lost() && !watchers.take_lost());
        drop(watchers.open());
        let _three = watchers.open();
        assert!(!watchers.take_lost());
    }
}
