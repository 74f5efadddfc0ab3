//! Keeping the stream at about `max_len` without taking from a group what it still needs.

use std::num::NonZeroU32;

use crate::failure::Failure;
use crate::link::Link;
use crate::script;

/// Beyond this many times `max_len` no group is waited for.
const HARD_CAP: u64 = 10;

/// Entries removed by one call: a few milliseconds of the server's time.
const REMOVE_MAX: u64 = 10_000;

/// Entries read by one call to find where `max_len` begins while a group is behind.
const HEAD_MAX: u64 = 1_000;

/// A group that needs no more than this is as good as up to date.
const TAIL_MAX: u64 = 100;

/// How many calls one trimming may take.
const CALLS_MAX: usize = 10;

/// How far the stream could be trimmed.
#[derive(Default)]
pub(crate) struct Trimmed {
    /// The length that is left.
    pub(crate) length: u64,
    /// The group that needs the oldest of it and holds it above `max_len`; empty: none does.
    pub(crate) held_by: String,
    /// Whether entries were removed that this group needs.
    pub(crate) cut_off: bool,
}

/// After how many entries it is worth looking again.
pub(crate) fn every(max_len: NonZeroU32) -> u64 {
    u64::from(max_len.get() / 100).clamp(1, 500)
}

pub(crate) fn trim(link: &mut Link, stream: &str, max_len: NonZeroU32) -> Result<Trimmed, Failure> {
    let max_len = u64::from(max_len.get());
    let args = [max_len, max_len * HARD_CAP, REMOVE_MAX, HEAD_MAX, TAIL_MAX].map(|number| number.to_string());
    let args = args.each_ref().map(String::as_str);
    let mut trimmed = Trimmed::default();
    for _ in 0..CALLS_MAX {
        // The name of a group is whatever bytes someone chose.
        let (removed, length, held_by, cut): (u64, u64, Vec<u8>, bool) =
            link.call(&script::TRIM, &[stream], &args)?;
        let held_by = String::from_utf8_lossy(&held_by).into_owned();
        trimmed = Trimmed { length, held_by, cut_off: trimmed.cut_off || cut };
        if removed == 0 || length <= max_len {
            break;
        }
    }
    Ok(trimmed)
}
