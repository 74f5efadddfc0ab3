//! Recordings: what a source saw, one JSON object a line.
//!
//! The first line says what the file is: `{"format":"autoweave-usb-recording","version":1,"recorded_at":…}`.
//! Each further line is an [`Observed`], with descriptors and strings as hexadecimal bytes, so that a replay
//! makes sense of them anew.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;

use autoweave_usb_device::{Observed, SourceName};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::started::Started;
use crate::{RecordingError, Wire, clock};

const FORMAT: &str = "autoweave-usb-recording";
const VERSION: u32 = 1;

/// A scan of 1,000 devices takes about 1 MiB; a longer line is no recording of ours.
const LINE_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    /// In milliseconds since the Unix epoch.
    recorded_at: u64,
}

/// Writes a recording.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    file: BufWriter<File>,
}

/// Why a recording cannot be written.
#[derive(Debug, Error)]
#[error("the recording {} cannot be written: {error}", path.display())]
pub struct RecordError {
    path: PathBuf,
    error: io::Error,
}

impl Recorder {
    /// Begins a recording in a new file.
    ///
    /// # Errors
    /// The file cannot be made; one that exists is left as it is.
    pub fn create(path: &Path) -> Result<Self, RecordError> {
        let failed = |error| RecordError { path: path.to_owned(), error };
        let file = File::create_new(path).map_err(failed)?;
        let mut recorder = Self { path: path.to_owned(), file: BufWriter::new(file) };
        let recorded_at = clock::now().wall_ms();
        recorder.line(&Header { format: FORMAT.to_owned(), version: VERSION, recorded_at })?;
        Ok(recorder)
    }

    /// Adds what was seen. It is in the file when this returns.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn record(&mut self, observed: &Observed) -> Result<(), RecordError> {
        self.line(observed)
    }

    fn line(&mut self, value: &impl Serialize) -> Result<(), RecordError> {
        let written = serde_json::to_writer(&mut self.file, value).map_err(io::Error::from);
        let written = written.and_then(|()| self.file.write_all(b"\n")).and_then(|()| self.file.flush());
        written.map_err(|error| RecordError { path: self.path.clone(), error })
    }
}

/// Starts replaying. The source ends by itself.
pub fn spawn(started: Started, path: &Path) -> Result<(), RecordingError> {
    let mut lines = Lines::open(path)?;
    let run = move || {
        loop {
            let wire = match lines.next() {
                Ok(Some(observed)) => Wire::Observed(Observed { source: SourceName::Replay, ..observed }),
                Ok(None) => Wire::Ended,
                Err(error) => Wire::Failed(error.into()),
            };
            let is_last = !matches!(wire, Wire::Observed(_));
            if started.wire.send(wire).is_err() || is_last {
                return;
            }
        }
    };
    let thread = thread::Builder::new().name("usb-replay".to_owned()).spawn(run);
    thread.map(drop).map_err(|error| RecordingError {
        path: path.to_owned(),
        line: 0,
        problem: error.to_string(),
    })
}

struct Lines {
    path: PathBuf,
    file: BufReader<File>,
    line: u64,
    text: Vec<u8>,
}

impl Lines {
    fn open(path: &Path) -> Result<Self, RecordingError> {
        let file = File::open(path);
        let file = file.map_err(|error| RecordingError {
            path: path.to_owned(),
            line: 0,
            problem: error.to_string(),
        })?;
        let mut lines = Self { path: path.to_owned(), file: BufReader::new(file), line: 0, text: Vec::new() };
        let header = lines.read::<Header>()?;
        match header {
            Some(header) if header.format == FORMAT && header.version == VERSION => Ok(lines),
            Some(Header { format, version, .. }) if format == FORMAT => {
                Err(lines
                    .problem(format!("version {version} is not known here (this program reads {VERSION})")))
            }
            _ => Err(lines.problem("not a recording".to_owned())),
        }
    }

    fn next(&mut self) -> Result<Option<Observed>, RecordingError> {
        self.read()
    }

    fn read<T: for<'de> Deserialize<'de>>(&mut self) -> Result<Option<T>, RecordingError> {
        self.line += 1;
        self.text.clear();
        let mut limited = (&mut self.file).take(LINE_BYTES_MAX);
        let bytes =
            limited.read_until(b'\n', &mut self.text).map_err(|error| self.problem(error.to_string()))?;
        match bytes as u64 {
            0 => Ok(None),
            LINE_BYTES_MAX => Err(self.problem(format!("longer than {LINE_BYTES_MAX} bytes"))),
            _ => {
                serde_json::from_slice(&self.text).map(Some).map_err(|error| self.problem(error.to_string()))
            }
        }
    }

    fn problem(&self, problem: String) -> RecordingError {
        RecordingError { path: self.path.clone(), line: self.line, problem }
    }
}
