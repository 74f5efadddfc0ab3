//! Makes this program a service of the machine, and undoes it.
//!
//! A package has the same files: it is built from what `install --package` lays out.

mod layout;
mod work;

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};

use crate::cli::{Common, Install, Uninstall};
use crate::exit::Failure;
use crate::held;
use layout::{CONFIGURATION, Content, LOCAL, PACKAGED, RULES};
use work::Work;

const HELPER: &str = "autoweave-udev-notify";
const STATE_DIRECTORY: &str = "/var/lib/autoweave-usb";

/// What the journal's writer holds.
const LOCK: &str = "/var/lib/autoweave-usb/journal.lock";

/// Where the administrator puts the drop-in for plugins.
const DROP_IN: &str = "/etc/systemd/system/autoweave-usb.service.d/plugins.conf";

/// What a Debian package of the same would have brought; see its `postinst`.
const PACKAGED_UNIT: &str = "/usr/lib/systemd/system/autoweave-usb.service";

/// Installs, or says what it would do.
pub fn install(common: &Common, arguments: &Install) -> Result<(), Failure> {
    let executable = held::executable()?;
    // Others than root have to read what is installed, whatever root's own files are like.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    if let Some(package) = &arguments.package {
        let items = layout::items(Path::new(PACKAGED), &Path::new(PACKAGED).join("bin").join(HELPER))?;
        return items.iter().try_for_each(|item| work::put(item, package, &executable));
    }
    let helper = helper(common)?;
    let work = Work::begin(arguments.dry_run)?;
    refuse_beside_package()?;
    if helper.exists() && fs::read_link(&helper).is_err() {
        return Err(Failure::unavailable(format!("{} is in the way: it is no link", helper.display())));
    }
    add_group_and_user(&work)?;
    let is_configured = Path::new(CONFIGURATION).exists();
    let mut former = helpers(&helper);
    former.remove(&helper);
    for item in layout::items(Path::new(LOCAL), &helper)? {
        work.put(&item, &executable)?;
    }
    if !is_configured {
        work.run(&["chgrp", "autoweave", CONFIGURATION])?;
    }
    work.reload_rules()?;
    former.iter().try_for_each(|helper| work.remove_link(helper, &layout::program(Path::new(LOCAL))))?;
    if !work.has_systemd() {
        work.say("no systemd runs here: start `autoweave-usbd run` as the user autoweave by other means")?;
        return Ok(());
    }
    work.run(&["systemctl", "daemon-reload"])?;
    work.run(&["systemctl", "enable", "autoweave-usb.socket", "autoweave-usb.service"])?;
    // Also one that runs already, which is an upgrade: what systemd stores for it outlives that.
    work.run(&["systemctl", "restart", "autoweave-usb.service"])
}

/// Uninstalls, or says what it would do.
pub fn uninstall(common: &Common, arguments: &Uninstall) -> Result<(), Failure> {
    let helper = helper(common)?;
    let work = Work::begin(arguments.dry_run)?;
    refuse_beside_package()?;
    let items = layout::items(Path::new(LOCAL), &helper)?;
    let helpers = helpers(&helper);
    let unit = items.iter().find(|item| item.path.ends_with("autoweave-usb.service"));
    let has_unit = unit.is_some_and(|unit| unit.path.exists());
    if has_unit && work.has_systemd() {
        work.run(&["systemctl", "disable", "--now", "autoweave-usb.service", "autoweave-usb.socket"])?;
    }
    if arguments.purge && !arguments.dry_run {
        refuse_while_running()?;
    }
    for item in &items {
        if !matches!(item.content, Content::Configuration(_) | Content::Link(_)) {
            work.remove(&item.path)?;
        }
    }
    helpers.iter().try_for_each(|helper| work.remove_link(helper, &layout::program(Path::new(LOCAL))))?;
    if arguments.purge {
        work.remove(Path::new(DROP_IN))?;
    }
    work.reload_rules()?;
    if work.has_systemd() {
        work.run(&["systemctl", "daemon-reload"])?;
    }
    if arguments.purge { purge(&work) } else { Ok(()) }
}

/// Where the configuration has the helper be.
fn helper(common: &Common) -> Result<PathBuf, Failure> {
    let helper = super::load(common, None)?.config.fallback.udev_script_path;
    if helper.file_name().is_some_and(|name| name == HELPER) {
        return Ok(helper);
    }
    let helper = helper.display();
    Err(Failure::usage(format!(
        "fallback.udev_script_path: {helper} has to end in `{HELPER}`: by that name the program knows its task"
    )))
}

/// Wherever an `install` may have put the helper: the configuration may have been another one then.
fn helpers(configured: &Path) -> BTreeSet<PathBuf> {
    let rules = fs::read_to_string(RULES).unwrap_or_default();
    let named = rules.split("RUN+=\"").skip(1).filter_map(|rest| rest.split([' ', '"']).next());
    let mut helpers: BTreeSet<_> = named.map(PathBuf::from).collect();
    helpers.extend([configured.to_owned(), Path::new(LOCAL).join("bin").join(HELPER)]);
    helpers
}

/// The package's files, user and state are dpkg's to take away.
fn refuse_beside_package() -> Result<(), Failure> {
    if !Path::new(PACKAGED_UNIT).exists() {
        return Ok(());
    }
    Err(Failure::unavailable(
        "the Debian package autoweave-usb is installed; remove it first: apt-get remove autoweave-usb",
    ))
}

/// A daemon that systemd does not run has to be stopped by whoever started it.
fn refuse_while_running() -> Result<(), Failure> {
    let lock = File::open(LOCK).map(|lock| lock.try_lock());
    match lock {
        Ok(Err(TryLockError::WouldBlock)) => Err(Failure::unavailable(format!(
            "a daemon runs that writes to {STATE_DIRECTORY}; stop it first"
        ))),
        _ => Ok(()),
    }
}

fn add_group_and_user(work: &Work) -> Result<(), Failure> {
    if !has_entry("/etc/group") {
        work.run(&["groupadd", "--system", "autoweave"])?;
    }
    if has_entry("/etc/passwd") {
        return Ok(());
    }
    let options = ["--home-dir", STATE_DIRECTORY, "--no-create-home", "--shell", "/usr/sbin/nologin"];
    let user = ["useradd", "--system", "--gid", "autoweave"];
    work.run(&[&user[..], &options, &["autoweave"]].concat())
}

fn purge(work: &Work) -> Result<(), Failure> {
    work.remove(Path::new(CONFIGURATION))?;
    work.remove_tree(Path::new(STATE_DIRECTORY))?;
    if has_entry("/etc/passwd") {
        work.run(&["userdel", "autoweave"])?;
    }
    // userdel takes a user's own group along on most systems.
    if has_entry("/etc/group") {
        work.run(&["groupdel", "autoweave"])?;
    }
    Ok(())
}

/// Whether `file` knows `autoweave`.
fn has_entry(file: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.lines().any(|line| line.starts_with("autoweave:")))
}
