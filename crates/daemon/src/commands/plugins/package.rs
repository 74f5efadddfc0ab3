//! What a package is, and what is wrong with it.

use std::path::Path;

use autoweave_usb_plugin::launch::Launch;
use autoweave_usb_plugin::loader::notes;
use autoweave_usb_plugin::manifest::Manifest;
use autoweave_usb_plugin::package::Package;

use crate::cli::Common;
use crate::commands::print_line;
use crate::config::Loaded;
use crate::exit::Failure;
use crate::{plugins, show, state_dir};

/// Checks the package in `directory` as the loader would.
pub fn run(common: &Common, directory: &Path) -> Result<(), Failure> {
    let loaded = super::super::load(common, None)?;
    let package = Package::check(directory, require_signature(&loaded)).map_err(unfit)?;
    Launch::plan(&package, &host(&loaded)?).map_err(unfit)?;
    let Manifest { name, version, hooks, permissions, signature, .. } = &package.manifest;
    print_line(&format!("{name} {version} can be run"))?;
    let hooks = [
        ("onLoad", &hooks.on_load),
        ("onUnload", &hooks.on_unload),
        ("onUSBAttach", &hooks.on_usb_attach),
        ("onUSBDetach", &hooks.on_usb_detach),
    ];
    for (hook, function) in hooks {
        if let Some(function) = function {
            print_line(&show::escape_json(&format!("{hook}: {function}")))?;
        }
    }
    for grant in &permissions.filesystem {
        let may = match (grant.read, grant.write) {
            (true, true) => "reads and writes",
            (false, true) => "writes",
            _ => "reads",
        };
        print_line(&show::escape_json(&format!("{may} {}", grant.path.display())))?;
    }
    for note in notes(permissions) {
        print_line(&note)?;
    }
    match signature {
        Some(_) => print_line("the signature fits the files"),
        None => print_line(
            "no signature: for one, give the manifest \"signature\": {\"algorithm\": \"SHA-256\", \"value\": 64 zeros}, and \
             then the value that this command asks for",
        ),
    }
}

/// Who runs plugins here.
pub fn host(loaded: &Loaded) -> Result<autoweave_usb_plugin::launch::Host, Failure> {
    let settings = loaded.config.plugins.as_ref();
    let without_landlock = settings.map(|settings| settings.without_landlock.clone()).unwrap_or_default();
    Ok(plugins::host(loaded, without_landlock, &state_dir::find(None)?))
}

/// Whether packages have to have one here.
pub fn require_signature(loaded: &Loaded) -> bool {
    loaded.config.plugins.as_ref().is_some_and(|settings| settings.require_signature)
}

/// A package that cannot be run is wrong usage.
pub fn unfit(fault: impl std::fmt::Display) -> Failure {
    Failure::usage(show::escape_json(&fault.to_string()))
}
