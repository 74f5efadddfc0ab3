//! Plugging and unplugging gadgets, all at their own pace, each as soon as the kernel has done what was asked for.

use std::time::{Duration, Instant};

use super::gadget::Gadget;
use super::kernel::Kernel;

/// How long the kernel may take for a step: it enumerates the ports of one hub in turn.
const STUCK: Duration = Duration::from_secs(60);

/// How long a gadget stays plugged once the kernel has enumerated it, and unplugged once it is gone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Plugged.
    pub hold: Duration,
    /// Unplugged.
    pub gap: Duration,
}

#[derive(Clone, Copy)]
enum State {
    Out { since: Instant },
    Plugging,
    In { since: Instant },
    Unplugging,
}

/// Plugs and unplugs each gadget `times` times.
pub fn cycle(kernel: &mut Kernel, gadgets: &[Gadget], times: usize, pace: Pace) {
    let begin = Instant::now();
    let mut states = vec![State::Out { since: begin.checked_sub(pace.gap).unwrap_or(begin) }; gadgets.len()];
    let mut left = vec![times; gadgets.len()];
    let mut progress = begin;
    while left.iter().any(|left| *left > 0) {
        assert!(progress.elapsed() < STUCK, "the kernel does not go on; cycles left: {left:?}");
        let now = Instant::now();
        let mut wake = now + Duration::from_secs(1);
        for (gadget, state) in gadgets.iter().zip(&mut states).filter(|(gadget, _)| left[gadget.index()] > 0)
        {
            let due = match *state {
                State::Out { since } => since + pace.gap,
                State::In { since } => since + pace.hold,
                State::Plugging | State::Unplugging => continue,
            };
            if due > now {
                wake = wake.min(due);
            } else if matches!(state, State::Out { .. }) {
                gadget.plug();
                *state = State::Plugging;
            } else {
                gadget.unplug();
                *state = State::Unplugging;
            }
        }
        while let Some(edge) = kernel.next(wake.saturating_duration_since(Instant::now())) {
            let since = Instant::now();
            wake = since;
            let Some(gadget) = gadgets.iter().find(|gadget| gadget.is_at(&edge.devpath)) else { continue };
            let state = &mut states[gadget.index()];
            match (*state, edge.action.as_str()) {
                (State::Plugging, "bind") => *state = State::In { since },
                (State::Unplugging, "remove") => {
                    *state = State::Out { since };
                    left[gadget.index()] -= 1;
                }
                _ => continue,
            }
            progress = since;
        }
    }
}
