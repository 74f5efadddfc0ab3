//! What comes out of a source.

use std::{fmt, io};

use autoweave_usb_device::{Observed, SourceName};

use crate::SourceError;

/// What comes out of a source.
#[derive(Debug)]
pub enum Wire {
    /// Something was seen.
    Observed(Observed),
    /// A scan could not list the bus; what is known of it stands.
    ScanFailed(io::Error),
    /// Somebody wants the taker's attention; see [`crate::Supervisor::take_interrupt`].
    Interrupted,
    /// From here on, what comes is another source's.
    Switched(Switch),
    /// The source cannot go on.
    Failed(SourceError),
    /// The recording or the simulation is over.
    Ended,
}

/// A change from one source to another.
#[derive(Debug)]
pub struct Switch {
    /// The one before.
    pub from: SourceName,
    /// The one from now on. The same, if it was opened anew.
    pub to: SourceName,
    /// Why the one before cannot go on; `None`: the other is better, and works.
    pub why: Option<SourceError>,
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, why } = self;
        match why {
            Some(why) if from == to => write!(f, "the source {from} failed ({why}) and was opened anew"),
            Some(why) => write!(f, "the source {from} failed ({why}): {to} takes over"),
            None => write!(f, "the source {to} works and takes over from {from}"),
        }
    }
}
