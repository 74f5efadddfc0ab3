//! What waits for its turn to be told.

use std::time::Instant;

use autoweave_usb_device::{Moment, Observation, Reading};

/// A place in the order of observations.
pub struct Slot {
    pub place: Place,
    pub content: Pending,
}

/// What an observation came from.
pub struct Place {
    pub number: u64,
    pub seqnum: Option<u64>,
    pub at: Moment,
}

pub enum Pending {
    Ready(Observation),
    /// A device is being read; until then, this is what is known of it.
    Reading {
        bare: Box<Reading>,
        deadline: Instant,
        fallback: Fallback,
    },
    /// It led to nothing.
    Nothing,
}

/// What becomes of a device that could not be read.
#[derive(Clone, Copy, PartialEq)]
pub enum Fallback {
    /// It arrived all the same.
    Arrived,
    /// It is what was known before.
    Nothing,
}

impl Pending {
    /// What becomes of it now that its device was read.
    pub fn with_reading(self, reading: Reading) -> Self {
        let reading = Box::new(reading);
        match self {
            Self::Reading { fallback: Fallback::Arrived, .. } => {
                Self::Ready(Observation::Arrived { reading })
            }
            Self::Reading { .. } => Self::Ready(Observation::Refreshed { reading }),
            other => other,
        }
    }

    /// What is left when the device could not be read.
    pub fn without_reading(self) -> Self {
        match self {
            Self::Reading { bare, fallback: Fallback::Arrived, .. } => {
                Self::Ready(Observation::Arrived { reading: bare })
            }
            Self::Reading { .. } => Self::Nothing,
            ready => ready,
        }
    }
}
