//! The group of this host's plugins: how far it is in the journal, and what the journal has to keep for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use autoweave_usb_journal::{Journal, ReadError};
use autoweave_usb_stream::Cursor;

/// The group's place: `SEQ NAME`, or nothing where no group reads. Persisted name.
const META_GROUP: &str = "plugins";

/// Between two writes of the place when there is nothing else to write. What was settled since the last one comes again
/// after a crash.
const SAVE_PAUSE: Duration = Duration::from_secs(1);

/// See the module's description.
#[derive(Debug)]
pub struct Group {
    name: String,
    cursor: Arc<Cursor>,
    /// What the journal has.
    saved: Option<String>,
    saved_at: Instant,
    max_events: u64,
    is_cut_off: bool,
}

impl Group {
    /// Goes on where the journal says; a group it does not know begins at its end.
    ///
    /// # Errors
    /// The journal cannot be read.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux runs plugins"))]
    pub fn restore(journal: &Journal, name: &str, max_events: u64) -> Result<Self, ReadError> {
        let saved = journal.meta(META_GROUP)?;
        let seq = saved.as_deref().and_then(|text| parse(text, name)).unwrap_or(journal.last_seq());
        let cursor = Arc::new(Cursor::new(seq.min(journal.last_seq())));
        Ok(Self {
            name: name.to_owned(),
            cursor,
            saved,
            saved_at: Instant::now(),
            max_events,
            is_cut_off: false,
        })
    }

    /// Who reads is told by it that the journal grows, and tells by it how far it is.
    pub fn cursor(&self) -> &Arc<Cursor> {
        &self.cursor
    }

    pub fn set_max_events(&mut self, max_events: u64) {
        self.max_events = max_events;
    }

    /// What the journal is to remember now, if it does not yet.
    pub fn save(&mut self) -> Option<(&'static str, String)> {
        let place = format!("{} {}", self.cursor.done(), self.name);
        (self.saved.as_ref() != Some(&place)).then(|| {
            (self.saved, self.saved_at) = (Some(place.clone()), Instant::now());
            (META_GROUP, place)
        })
    }

    /// [`Self::save`], but not too often.
    pub fn save_when_due(&mut self) -> Option<(&'static str, String)> {
        if self.saved_at.elapsed() >= SAVE_PAUSE { self.save() } else { None }
    }

    /// The events behind this one have to be kept; none where the group is so far behind that nothing is kept for it.
    pub fn needed_after(&self, last_seq: u64) -> Option<u64> {
        let done = self.cursor.done();
        (last_seq.saturating_sub(done) < self.max_events).then_some(done)
    }

    /// Whether the group began to be cut off (true), or ceased to be (false), since this was last asked.
    pub fn cut_off_changed(&mut self, last_seq: u64) -> Option<bool> {
        let is_cut_off = self.needed_after(last_seq).is_none();
        (std::mem::replace(&mut self.is_cut_off, is_cut_off) != is_cut_off).then_some(is_cut_off)
    }
}

/// What the journal is to remember at the start: the group's place, or nothing where no group reads, so that one that
/// comes later begins at the end.
///
/// # Errors
/// The journal cannot be read.
pub fn place(
    group: Option<&mut Group>,
    journal: &Journal,
) -> Result<Option<(&'static str, String)>, ReadError> {
    if let Some(group) = group {
        return Ok(group.save());
    }
    let is_known = journal.meta(META_GROUP)?.is_some_and(|place| !place.is_empty());
    Ok(is_known.then(|| (META_GROUP, String::new())))
}

#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux runs plugins"))]
fn parse(place: &str, name: &str) -> Option<u64> {
    let (seq, known) = place.split_once(' ')?;
    if known == name { seq.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_place_is_its_groups() {
        assert_eq!(parse("42 plugin-loader", "plugin-loader"), Some(42));
        for place in ["42 other", "42", "", "x plugin-loader"] {
            assert_eq!(parse(place, "plugin-loader"), None, "{place}");
        }
    }
}
