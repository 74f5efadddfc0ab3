//! Whether plugins can be run, where there are to be any.

use autoweave_usb_plugin::launch::Launch;
use autoweave_usb_plugin::package::Package;
use autoweave_usb_plugin::sandbox::landlock_abi;

use super::{Finding, finding};
use crate::config::Loaded;
use crate::show::{Outcome, escape_json};
use crate::{plugins, state_dir};

/// One finding for the sandbox, and one for each package.
pub fn findings(loaded: &Loaded) -> Vec<Finding> {
    let Some(settings) = &loaded.config.plugins else { return Vec::new() };
    let Ok(state_dir) = state_dir::find(None) else { return Vec::new() };
    let host = plugins::host(loaded, settings.without_landlock.clone(), &state_dir);
    let mut findings = vec![match landlock_abi() {
        0 => finding(
            "sandbox",
            Outcome::Fail,
            "this kernel offers no Landlock",
            "use Linux 5.13 or later with `lsm=landlock,…`, or name the plugins in plugins.without_landlock",
        ),
        abi => finding("sandbox", Outcome::Ok, format!("Landlock ABI {abi}"), ""),
    }];
    let entries = match std::fs::read_dir(&settings.dir) {
        Ok(entries) => entries,
        Err(error) => {
            let found = format!("{}: {error}", settings.dir.display());
            findings.push(finding("plugins", Outcome::Fail, found, "make it, or leave plugins.dir empty"));
            return findings;
        }
    };
    let mut packages: Vec<_> = entries.flatten().filter(|entry| entry.path().is_dir()).collect();
    packages.retain(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
    packages.sort_by_key(std::fs::DirEntry::file_name);
    for package in packages {
        let checked = Package::check(&package.path(), settings.require_signature)
            .map_err(|fault| fault.to_string())
            .and_then(|package| {
                Launch::plan(&package, &host).map(|_| package).map_err(|fault| fault.to_string())
            });
        findings.push(match checked {
            Ok(package) => {
                let (name, version) = (&package.manifest.name, &package.manifest.version);
                finding("plugin", Outcome::Ok, format!("{name} {version} can be run"), "")
            }
            Err(fault) => finding("plugin", Outcome::Warn, escape_json(&fault), "the others run without it"),
        });
    }
    findings
}
