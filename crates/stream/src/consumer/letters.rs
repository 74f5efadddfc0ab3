//! Dead letters: events that were given up, and why.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// From this many bytes on a new file is begun, and the one before replaced.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Why an event was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The reason.
    pub error: String,
    /// How often it was delivered.
    pub deliveries: u32,
    /// Who gave it up; empty where nobody had it.
    pub plugin: String,
}

/// The file beside the journal in `state_dir` that holds dead letters, one JSON object a line: `event` (null where it
/// cannot be read), `seq`, `error`, `deliveries`, `plugin`, `at` (milliseconds since the Unix epoch). The ones before
/// it have `.1` behind their name. A letter may be there twice: after a crash, an event may be given up again.
pub fn dead_letters_file(state_dir: &Path) -> PathBuf {
    state_dir.join("dead-letters.jsonl")
}

/// Adds letters to the file and syncs it.
pub(super) fn append(file: &Path, seq: u64, event: Option<Value>, letters: &[Letter]) -> io::Result<()> {
    if fs::metadata(file).is_ok_and(|metadata| metadata.len() > FILE_BYTES_MAX) {
        fs::rename(file, file.with_extension("jsonl.1"))?;
    }
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for Letter { error, deliveries, plugin } in letters {
        let letter = json!({
            "seq": seq, "event": event, "error": error, "deliveries": deliveries, "plugin": plugin, "at": at,
        });
        text += &format!("{letter}\n");
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    let mut file = options.open(file)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()
}
