//! Which version of the C library a program needs: the newest of the versions its symbols are bound to.

use std::path::Path;
use std::process::Command;

/// Checks that `program` needs no newer glibc than `newest`.
///
/// # Errors
/// It does, or cannot be read.
pub fn check(program: &Path, newest: (u32, u32)) -> Result<(), String> {
    let output = Command::new("readelf").args(["--wide", "--version-info"]).arg(program).output();
    let output = output.map_err(|error| format!("readelf: {error}"))?;
    let needed = needed(&String::from_utf8_lossy(&output.stdout))
        .ok_or_else(|| format!("{}: no version of glibc is in it", program.display()))?;
    println!("{} needs glibc {}.{}", program.display(), needed.0, needed.1);
    if needed <= newest { Ok(()) } else { Err(format!("that is newer than {}.{}", newest.0, newest.1)) }
}

/// The newest version that readelf's text names.
fn needed(text: &str) -> Option<(u32, u32)> {
    let versions = text.split_whitespace().filter_map(|word| {
        let mut numbers = word.strip_prefix("GLIBC_")?.split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    });
    versions.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_counts_by_its_numbers() {
        let text = "0x0010: Name: GLIBC_2.9  Flags: none  Version: 7\n\
                    0x0020: Name: GLIBC_2.30  Flags: none\n  0x0030: Name: GLIBC_PRIVATE\n\
                    0x0040: Name: GLIBC_2.2.5  Flags: none";
        assert_eq!(needed(text), Some((2, 30)));
        assert_eq!(needed("Name: GLIBC_ABI_DT_RELR"), None);
    }
}
