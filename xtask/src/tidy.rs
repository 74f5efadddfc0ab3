//! `cargo xtask tidy`: what no lint checks. Source files stay short, and nothing unfinished is left in them.

use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 600;

// In two parts each, or this file would not pass itself.
const MARKS: [&str; 2] = [concat!("FIX", "ME"), concat!("X", "XX")];
const CODE: [&str; 2] = [concat!("todo", "!"), concat!("#[", "ignore")];

/// Checks every `.rs` file below the working directory.
///
/// # Errors
/// The list of findings as `FILE:LINE: what`, or a file that cannot be read.
pub fn run() -> Result<(), String> {
    let mut files = Vec::new();
    collect(Path::new("."), &mut files)?;
    files.sort();
    let mut findings = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        findings.extend(check(&text).map(|finding| format!("{}:{finding}", file.display())));
    }
    if findings.is_empty() { Ok(()) } else { Err(findings.join("\n")) }
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let failed = |error| format!("{}: {error}", directory.display());
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (name, path) = (entry.file_name(), entry.path());
        let hidden = name.as_encoded_bytes().starts_with(b".");
        if entry.file_type().map_err(failed)?.is_dir() {
            if !hidden && name != "target" {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// What is wrong in a file, each with its line.
fn check(text: &str) -> impl Iterator<Item = String> {
    let lines = text.lines().count();
    let long = (lines > LINES_MAX).then(|| format!("{lines}: more than {LINES_MAX} lines: split it"));
    let unfinished = text.lines().zip(1..).filter_map(|(line, number)| {
        let mut words = line.split(|character: char| !character.is_alphanumeric());
        let mark = words.find(|word| MARKS.contains(word));
        let found = mark.or_else(|| CODE.into_iter().find(|code| line.contains(code)))?;
        Some(format!("{number}: `{found}`: finish it or take it out"))
    });
    long.into_iter().chain(unfinished)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unfinished_is_found_with_its_line() {
        let found =
            |text: &str| check(text).map(|finding| finding.split_once(':').unwrap().0.to_owned()).collect();
        let unfinished: Vec<String> = found(&[MARKS[0], "fine", MARKS[1], CODE[0], CODE[1]].join("\n"));
        assert_eq!(unfinished, ["1", "3", "4", "5"]);
        let fine: Vec<String> = found(&format!("{}X {}_TIMES ignore todo", MARKS[1], "FIXED"));
        assert!(fine.is_empty(), "{fine:?}");
    }

    #[test]
    fn long_files_are_found() {
        assert_eq!(check(&"\n".repeat(LINES_MAX)).count(), 0);
        assert_eq!(check(&"\n".repeat(LINES_MAX + 1)).count(), 1);
    }
}
