//! A reader of the stream over outages of the server.

use std::ops::ControlFlow;
use std::thread;
use std::time::Duration;

use autoweave_usb_stream::{self as stream, Backoff, Settings};

use crate::exit::Failure;
use crate::show;

/// How long a read waits for an entry before it looks at how things are.
pub const BLOCK: Duration = Duration::from_secs(5);

/// Why a step did not succeed.
pub enum Trouble {
    /// The server is the reason; a new connection may mend it.
    Redis(stream::Failure),
    /// The command ends.
    End(Failure),
}

impl From<stream::Failure> for Trouble {
    fn from(failure: stream::Failure) -> Self {
        Self::Redis(failure)
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::End(failure)
    }
}

/// Connects, and takes one step after the other until one breaks off. A `patient` session that has worked once
/// connects again after an outage and says so; the first step on each connection is told that it is.
pub fn run<R>(
    settings: &Settings,
    patient: bool,
    connect: impl Fn() -> Result<R, stream::Failure>,
    mut step: impl FnMut(&mut R, bool) -> Result<ControlFlow<()>, Trouble>,
) -> Result<(), Failure> {
    let mut reader = None;
    let mut backoff = Backoff::default();
    let (mut has_worked, mut is_down) = (false, false);
    loop {
        let taken = match &mut reader {
            Some(reader) => step(reader, false),
            None => connect().map_err(Trouble::from).and_then(|new| step(reader.insert(new), true)),
        };
        match taken {
            Ok(ControlFlow::Break(())) => return Ok(()),
            Ok(ControlFlow::Continue(())) => {
                if is_down {
                    tell("Redis answers again");
                }
                (has_worked, is_down) = (true, false);
                backoff.reset();
            }
            Err(Trouble::End(failure)) => return Err(failure),
            Err(Trouble::Redis(failure)) if !(patient && has_worked) || is_no_stream(&failure) => {
                return Err(unavailable(settings, &failure));
            }
            Err(Trouble::Redis(failure)) => {
                if !is_down {
                    tell(&format!("{}: {failure}; trying again", settings.endpoint));
                }
                is_down = true;
                reader = None;
                thread::sleep(backoff.next());
            }
        }
    }
}

/// Says something on stderr that may have come from the server.
pub fn tell(text: &str) {
    anstream::eprintln!("autoweave-usbd: {}", show::escape_json(text));
}

/// The end of a command that needs what the server does not give.
pub fn unavailable(settings: &Settings, failure: &stream::Failure) -> Failure {
    let hint =
        if is_no_stream(failure) { format!("; {} is no stream", settings.stream) } else { String::new() };
    Failure::unavailable(show::escape_json(&format!("{}: {failure}{hint}", settings.endpoint)))
}

fn is_no_stream(failure: &stream::Failure) -> bool {
    matches!(failure, stream::Failure::Refused(text) if text.starts_with("WRONGTYPE"))
}
