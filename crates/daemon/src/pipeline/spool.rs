//! What the udev helper left while no daemon ran.

use autoweave_usb_device::Change;
use autoweave_usb_source::{Backlog, Notices, Watch, kill_point};
use tracing::{error, info, warn};

/// Takes in the notices whose effect the journal, which has the kernel's numbers up to `known`, lacks. What is returned
/// is for [`begin`], once `changes` are written down.
pub(super) fn catch_up(
    notices: &Notices,
    known: u64,
    watch: &mut Watch,
    changes: &mut Vec<Change>,
) -> Backlog {
    let left = notices.backlog(known);
    if let Some(problem) = left.problem() {
        warn!("what the udev helper leaves in its spool cannot be read: {problem}");
    }
    // Else the kernel's own messages were kept, and have all of it.
    if !watch.resumes() {
        let caught_up = watch.catch_up(&left.observed);
        if !left.observed.is_empty() {
            info!(
                notices = left.observed.len(),
                changes = caught_up.len(),
                "took in what the udev helper left while no daemon ran"
            );
        }
        changes.extend(caught_up);
        if left.refused > 0 {
            warn!(
                refused = left.refused,
                "the udev helper's spool was full; the bus is scanned for what is not in it"
            );
        }
    }
    left
}

/// Deletes what was taken in and written down, and takes notices from now on.
pub(super) fn begin(notices: &Notices, left: Backlog) {
    kill_point("spooled");
    if let Err(error) = notices.begin(left) {
        error!("the udev helper's notices are not taken: {error}");
    }
}
