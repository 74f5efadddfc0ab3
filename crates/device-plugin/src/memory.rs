//! Which id each device was given, kept for the next run: the kubelet keeps its own account of which pod has which id, and
//! would else take one device for another.
//!
//! The file is beside the kubelet's account and lives as long: in a directory of its own, since a kubelet that starts
//! removes files (`CleanupPluginDirectory` in pkg/kubelet/cm/devicemanager/manager.go of kubernetes/kubernetes). Its
//! lines, the first of them as it is here:
//!
//! ```text
//! autoweave-usb-ids 1
//! resource NAME
//! IDENTITY PORT ID
//! ```
//!
//! Each device belongs to the resource before it; they are in the order in which they were first seen.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::identity::{ID_BYTES_MAX, Named};
use crate::inventory::Remembered;

const DIRECTORY: &str = "autoweave-usb";
const FILE: &str = "ids";
const FIRST_LINE: &str = "autoweave-usb-ids 1";

/// More than 64 resources with a thousand unplugged devices each, the longest there are.
const BYTES_MAX: u64 = 16 << 20;

/// The file. Without it the plugin works as well, but for what it would remember: nothing about it is fatal.
#[derive(Debug)]
pub struct Memory {
    directory: PathBuf,
}

impl Memory {
    /// The one in the directory that the kubelet shares with plugins.
    pub fn beside(kubelet: &Path) -> Self {
        Self { directory: kubelet.join(DIRECTORY) }
    }

    /// What an earlier run wrote; nothing where that cannot be read or understood, and then a log line says so.
    pub fn read(&self) -> Remembered {
        let path = self.directory.join(FILE);
        let read = read(&path).map_err(|error| error.to_string());
        let remembered = read.and_then(|text| match text {
            Some(text) => parse(&text).ok_or_else(|| "it is damaged".to_owned()),
            None => Ok(Remembered::new()),
        });
        remembered.unwrap_or_else(|why| {
            warn!(
                "{} cannot be used: {why}; devices with the same serial number may get other ids",
                path.display()
            );
            Remembered::new()
        })
    }

    /// Writes it anew, at once or not at all; a log line says when that fails.
    pub fn write(&self, remembered: &Remembered) {
        if let Err(error) = replace(&self.directory, &text(remembered)) {
            let path = self.directory.join(FILE);
            warn!(
                "{} cannot be written: {error}; a restart may give other ids to devices with the same serial number",
                path.display()
            );
        }
    }
}

/// None where there is no file.
fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut text = String::new();
    // What is cut off at the end does not parse.
    file.take(BYTES_MAX).read_to_string(&mut text)?;
    Ok(Some(text))
}

fn replace(directory: &Path, text: &str) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        created => created?,
    }
    let aside = directory.join(format!("{FILE}.new"));
    let mut file = File::create(&aside)?;
    file.write_all(text.as_bytes())?;
    // Else a power failure may leave the name with nothing in it.
    file.sync_data()?;
    fs::rename(aside, directory.join(FILE))
}

fn text(remembered: &Remembered) -> String {
    let mut text = format!("{FIRST_LINE}\n");
    let written = remembered.iter().try_for_each(|(resource, devices)| {
        writeln!(text, "resource {resource}")?;
        devices.iter().try_for_each(|Named { identity, port, id }| writeln!(text, "{identity} {port} {id}"))
    });
    written.expect("a string takes whatever is written to it");
    text
}

/// None unless the inventory could have had all of it.
fn parse(text: &str) -> Option<Remembered> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    lines.next().filter(|first| *first == FIRST_LINE)?;
    let mut remembered = Remembered::new();
    let mut devices: Option<&mut Vec<Named>> = None;
    let mut ids = BTreeSet::new();
    for line in lines {
        if let Some(resource) = line.strip_prefix("resource ") {
            ids.clear();
            devices = Some(remembered.entry(resource.to_owned()).or_default());
        } else {
            let named = device(line)?;
            ids.insert(named.id.clone()).then_some(())?;
            devices.as_mut()?.push(named);
        }
    }
    Some(remembered)
}

fn device(line: &str) -> Option<Named> {
    let words: Vec<&str> = line.split(' ').collect();
    let &[identity, port, id] = words.as_slice() else { return None };
    let is_identity = identity.len() <= ID_BYTES_MAX && identity.bytes().all(|byte| byte.is_ascii_graphic());
    let port = port.parse().ok().filter(|_| is_identity)?;
    let either = [Named::alone(identity.to_owned(), port), Named::in_port(identity.to_owned(), port)];
    either.into_iter().find(|named| named.id == id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some() -> Remembered {
        let port = |port: &str| port.parse().unwrap();
        let sticks = [
            Named::alone("0781:5581:S".to_owned(), port("1-4")),
            Named::in_port("0781:5581:S".to_owned(), port("1-3")),
            Named::in_port(format!("0781:5581:{}", "x".repeat(53)), port("255-255.255.255.255.255.255.255")),
            Named::alone("0781:5581@usb1".to_owned(), port("usb1")),
        ];
        [("a.b/none".to_owned(), Vec::new()), ("a.b/stick".to_owned(), sticks.into())].into()
    }

    #[test]
    fn what_was_written_is_read_after_a_kubelet_has_emptied_the_directory() {
        let kubelet = tempfile::tempdir().unwrap();
        let memory = Memory::beside(kubelet.path());
        assert_eq!(memory.read(), Remembered::new());
        memory.write(&some());
        assert!(fs::read_dir(kubelet.path()).unwrap().all(|entry| entry.unwrap().path().is_dir()));
        assert_eq!(memory.read(), some());
        memory.write(&Remembered::new());
        assert_eq!(memory.read(), Remembered::new());
    }

    #[test]
    fn what_is_damaged_is_as_good_as_nothing() {
        let written = text(&some());
        for cut in 0..written.len() {
            let whole_lines = written[..cut].ends_with('\n') && cut > FIRST_LINE.len();
            assert_eq!(parse(&written[..cut]).is_some(), whole_lines, "{cut}");
        }
        let good = "0781:5581:S 1-3 0781:5581:S@1-3";
        for (line, is_good) in [
            (good, true),
            (&format!("{good}\n0781:5581:S 1-4 0781:5581:S@1-4"), true),
            (&format!("{good}\n{good}"), false),
            ("0781:5581:S 1-4 0781:5581:S@1-3", false),
            ("0781:5581:S 1-0 0781:5581:S", false),
            ("0781:5581:S  1-3 0781:5581:S", false),
            ("é 1-3 é@1-3", false),
            ("", false),
        ] {
            let text = format!("{FIRST_LINE}\nresource a.b/c\n{line}\n");
            assert_eq!(parse(&text).is_some(), is_good, "{line}");
        }
        assert!(parse(&format!("{FIRST_LINE}\n{good}\n")).is_none());
        assert!(parse("autoweave-usb-ids 2\n").is_none());

        let kubelet = tempfile::tempdir().unwrap();
        let memory = Memory::beside(kubelet.path());
        memory.write(&some());
        fs::write(memory.directory.join(FILE), b"\xff\n").unwrap();
        assert_eq!(memory.read(), Remembered::new());
        memory.write(&some());
        assert_eq!(memory.read(), some());
        // What cannot be written is told, and no more.
        Memory::beside(Path::new("/nowhere")).write(&some());
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(line in "[ -~é]{0,80}", words in "[0-9a-f:@#]{0,70} 1-[0-9] [0-9a-f:@#-]{0,90}") {
            for line in [line, words] {
                parse(&format!("{FIRST_LINE}\nresource a\n{line}\n"));
            }
        }
    }
}
