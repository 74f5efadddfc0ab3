//! From a package to the process of a worker: what is executed, with which arguments and environment.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use autoweave_usb_device::Event;
use serde_json::json;
use thiserror::Error;

use crate::manifest::{Hooks, Manifest, Runtime};
use crate::node;
use crate::package::Package;
use crate::sandbox::{Grant, Identity, Spec, is_system};

/// Where interpreters are looked for, and what a plugin gets as `PATH`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const NODE_SHIM: &str = include_str!("../shims/node.mjs");
const PYTHON_SHIM: &str = include_str!("../shims/python.py");

const MIB: u64 = 1024 * 1024;

/// What belongs to the loader, and not to a plugin.
#[derive(Debug, Clone)]
pub struct Host {
    /// The program that calls [`crate::sandbox::exec`] with its last argument.
    pub launcher: PathBuf,
    /// What it is given before that argument.
    pub launcher_arguments: Vec<OsString>,
    /// Who plugins run as; none for the same as the loader.
    pub identity: Option<Identity>,
    /// Plugins that may run where the kernel has no Landlock.
    pub without_landlock: Vec<String>,
    /// What this machine is called in events: the devices of others have no nodes here.
    pub name: String,
    /// Where sysfs is mounted: `/sys` everywhere but in tests.
    pub sysfs: PathBuf,
    /// Files and directories no plugin gets, whatever it asks for: the journal, the configuration.
    pub protected: Vec<PathBuf>,
}

/// Why a package cannot be run here. The text names the mend.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the fields are named by the messages")]
pub enum LaunchFault {
    #[error("{plugin}: {program} is not in {PATH}: install it")]
    NoInterpreter { plugin: String, program: &'static str },
    #[error("{plugin}: asks for {}, which has {} in it or is in it: it is the daemon's, grant less", granted.display(), protected.display())]
    Protected { plugin: String, granted: PathBuf, protected: PathBuf },
    #[error("{plugin}: asks for {}: device nodes are granted one by one, with permissions.usb.open", granted.display())]
    Devices { plugin: String, granted: PathBuf },
    #[error("{plugin}: {}: the name is not UTF-8: rename it", path.display())]
    NotUtf8 { plugin: String, path: PathBuf },
}

/// How a package's workers are started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The plugin's name.
    pub plugin: String,
    launcher: PathBuf,
    launcher_arguments: Vec<OsString>,
    spec: Spec,
    host: String,
    sysfs: PathBuf,
}

impl Launch {
    /// Plans how `package` is run.
    ///
    /// # Errors
    /// Why it cannot be run here.
    pub fn plan(package: &Package, host: &Host) -> Result<Self, LaunchFault> {
        let manifest = &package.manifest;
        let plugin = manifest.name.clone();
        check_grants(manifest, host)?;
        if package.root.to_str().is_none() {
            return Err(LaunchFault::NotUtf8 { plugin, path: package.root.clone() });
        }
        let entry = package.root.join(&manifest.entry);
        let (program, arguments, overhead_mb) = match manifest.runtime() {
            Runtime::Node => {
                let heap = format!("--max-old-space-size={}", manifest.permissions.max_heap_mb);
                let flags = [&heap, "--input-type=module", "--eval", NODE_SHIM, "--"].map(str::to_owned);
                (interpreter(&plugin, "node")?, [&flags[..], &[argument(package)]].concat(), 192)
            }
            Runtime::Python => {
                let flags = ["-I", "-B", "-u", "-c", PYTHON_SHIM].map(str::to_owned);
                (interpreter(&plugin, "python3")?, [&flags[..], &[argument(package)]].concat(), 64)
            }
            Runtime::Executable => (entry, Vec::new(), 16),
        };
        let permissions = &manifest.permissions;
        let grant = |grant: &crate::manifest::FileGrant| Grant {
            path: grant.path.clone(),
            read: grant.read,
            write: grant.write,
        };
        let spec = Spec {
            interpreter: prefix(&program, package),
            program,
            arguments,
            package: package.root.clone(),
            grants: permissions.filesystem.iter().map(grant).collect(),
            devices: Vec::new(),
            tcp_ports: permissions.tcp_ports.clone(),
            data_bytes: (u64::from(permissions.max_heap_mb) + overhead_mb) * MIB,
            identity: host.identity.clone(),
            without_landlock: host.without_landlock.contains(&plugin),
            loader: i32::try_from(std::process::id()).unwrap_or(i32::MAX),
        };
        let (launcher, launcher_arguments) = (host.launcher.clone(), host.launcher_arguments.clone());
        let (host, sysfs) = (host.name.clone(), host.sysfs.clone());
        Ok(Self { plugin, launcher, launcher_arguments, spec, host, sysfs })
    }

    /// The node of the device that an event is about, if it is connected to this machine and still the same.
    pub(crate) fn node(&self, event: &Event) -> Option<PathBuf> {
        (event.host == self.host).then(|| node::of(&event.device, &self.sysfs)).flatten()
    }

    /// The same, with a device's node to open.
    pub fn with_device(&self, node: PathBuf) -> Self {
        let mut launch = self.clone();
        launch.spec.devices.push(node);
        launch
    }

    /// The command that starts a worker: in a process group of its own, with nothing of the loader's environment.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.launcher);
        let spec = serde_json::to_string(&self.spec)
            .expect("its paths are UTF-8: `plan` looked, manifest and node are text");
        command
            .args(&self.launcher_arguments)
            .arg(spec)
            .env_clear()
            .envs([
                ("PATH", PATH),
                ("LANG", "C.UTF-8"),
                ("HOME", "/nonexistent"),
                ("AUTOWEAVE_PLUGIN", &self.plugin),
            ])
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

fn argument(package: &Package) -> String {
    let Hooks { on_load, on_unload, on_usb_attach, on_usb_detach } = &package.manifest.hooks;
    let hooks = json!({
        "onLoad": on_load, "onUnload": on_unload, "onUSBAttach": on_usb_attach, "onUSBDetach": on_usb_detach,
    });
    json!({ "entry": package.root.join(&package.manifest.entry).to_string_lossy(), "hooks": hooks })
        .to_string()
}

fn check_grants(manifest: &Manifest, host: &Host) -> Result<(), LaunchFault> {
    let overlap = |a: &Path, b: &Path| a.starts_with(b) || b.starts_with(a);
    for grant in &manifest.permissions.filesystem {
        let (plugin, granted) = (manifest.name.clone(), grant.path.clone());
        // A path that leads through a link is refused at the start of each worker, so this one cannot lead on.
        if overlap(&granted, Path::new("/dev/bus")) {
            return Err(LaunchFault::Devices { plugin, granted });
        }
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if let Some(protected) =
            host.protected.iter().find(|path| overlap(&granted, path) || overlap(&granted, &real(path)))
        {
            return Err(LaunchFault::Protected { plugin, granted, protected: protected.clone() });
        }
    }
    Ok(())
}

fn interpreter(plugin: &str, program: &'static str) -> Result<PathBuf, LaunchFault> {
    let candidates = PATH.split(':').map(|directory| Path::new(directory).join(program));
    let is_program = |path: &PathBuf| fs::metadata(path).is_ok_and(|m| m.is_file() && m.mode() & 0o111 != 0);
    let found = candidates.filter(is_program).find_map(|path| fs::canonicalize(path).ok());
    found.ok_or_else(|| LaunchFault::NoInterpreter { plugin: plugin.to_owned(), program })
}

/// Where an interpreter's libraries are if it is not one of the system's: the directory its `bin` is in.
fn prefix(program: &Path, package: &Package) -> Option<PathBuf> {
    let prefix = program.parent()?.parent()?;
    let own = is_system(program) || program.starts_with(&package.root);
    (!own && prefix.components().count() > 2).then(|| prefix.to_owned())
}
