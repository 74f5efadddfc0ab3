//! A plugin to begin with.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use autoweave_usb_plugin::manifest::{FILE_NAME, Manifest};

use crate::cli::Language;
use crate::commands::print_line;
use crate::exit::Failure;

const NODE: &str = include_str!("templates/index.mjs");
const PYTHON: &str = include_str!("templates/main.py");
const SHELL: &str = include_str!("templates/run.sh");

/// Writes the package NAME into the working directory.
pub fn run(name: &str, language: Language) -> Result<(), Failure> {
    let (entry, code) = match language {
        Language::Node => ("index.mjs", NODE),
        Language::Python => ("main.py", PYTHON),
        Language::Shell => ("run.sh", SHELL),
    };
    let manifest = manifest(name, entry);
    if let Err(findings) = Manifest::parse(&manifest) {
        let wrong: Vec<String> = findings
            .iter()
            .map(|finding| format!("{}: {}: {}", finding.key, finding.problem, finding.mend))
            .collect();
        return Err(Failure::usage(wrong.join("\n")));
    }
    let directory = Path::new(name);
    fs::create_dir(directory).map_err(|error| failed(directory, &error))?;
    for (file, text, mode) in [(FILE_NAME, manifest.as_str(), 0o644), (entry, code, 0o755)] {
        let path = directory.join(file);
        let mut options = OpenOptions::new();
        let written = options.write(true).create_new(true).mode(mode).open(&path);
        written
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| failed(&path, &error))?;
    }
    print_line(&format!("{name}/{FILE_NAME}: what it may do and wants to hear"))?;
    print_line(&format!("{name}/{entry}: what it does; try it: autoweave-usbd plugins run {name} --simulate"))
}

fn manifest(name: &str, entry: &str) -> String {
    // Told as an author would write it; the name is checked when this is read.
    let name = serde_json::Value::from(name);
    format!(
        r#"{{
  "name": {name},
  "version": "0.1.0",
  "description": "Says which devices come and go.",
  "entry": "{entry}",
  "permissions": {{
    "usb": {{ "vendor_ids": ["*"] }},
    "memory": {{ "max_heap_mb": 32 }}
  }},
  "hooks": {{ "onUSBAttach": "attached", "onUSBDetach": "detached" }}
}}
"#
    )
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::io(format!("{}: {error}", path.display()))
}
