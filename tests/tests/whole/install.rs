//! `install` and `uninstall`, with the machine's own directories covered for each test. Neither systemd nor udev runs
//! there; `cargo xtask package-test` has both.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use autoweave_usb_testbus::Bus;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;

use crate::harness::{executable, is_in_user_namespace};
use crate::program::{Finished, Running, finish};

const CONFIGURATION: &str = "/etc/autoweave/usbd.toml";
const HELPER: &str = "/usr/local/bin/autoweave-udev-notify";
const PROGRAM: &str = "/usr/local/bin/autoweave-usbd";
const RULES: &str = "/etc/udev/rules.d/99-autoweave-usb.rules";
const STATE: &str = "/var/lib/autoweave-usb";

/// Covers what the calling thread sees of the system, so that all that is written is gone with the test.
fn cover() -> Option<Bus> {
    if is_in_user_namespace() {
        eprintln!("SKIPPED: only a system's own root can install");
        return None;
    }
    let bus = Bus::enter().unwrap();
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    for directory in ["etc", "opt", "usr", "var"] {
        let [upper, work] = ["upper", "work"].map(|part| Path::new("/run").join(directory).join(part));
        fs::create_dir_all(&upper).unwrap();
        fs::create_dir_all(&work).unwrap();
        let directory = format!("/{directory}");
        let options = format!("lowerdir={directory},upperdir={},workdir={}", upper.display(), work.display());
        mount(Some("overlay"), directory.as_str(), Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .unwrap();
    }
    Some(bus)
}

fn bare(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

fn usbd(words: &[&str]) -> Finished {
    finish(bare(executable().to_str().unwrap()).args(words))
}

fn configure(helper: &str) {
    fs::create_dir_all("/etc/autoweave").unwrap();
    fs::write(CONFIGURATION, format!("fallback.udev_script_path = {helper:?}\n")).unwrap();
}

fn is_there(path: &str) -> bool {
    Path::new(path).symlink_metadata().is_ok()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// The id of `autoweave` in a file of accounts.
fn id(file: &str) -> u32 {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with("autoweave:")).unwrap();
    line.split(':').nth(2).unwrap().parse().unwrap()
}

#[test]
fn uninstall_takes_away_only_what_install_made() {
    let Some(_bus) = cover() else { return };
    fs::create_dir_all("/opt/tools").unwrap();
    fs::write("/opt/tools/precious", "").unwrap();
    configure("/opt/tools");
    usbd(&["uninstall"]).fails(64, &["fallback.udev_script_path", "autoweave-udev-notify"]);
    assert!(is_there("/opt/tools/precious"));

    fs::create_dir_all("/opt/autoweave-udev-notify").unwrap();
    fs::write("/opt/tools/autoweave-udev-notify", "#!/bin/sh\n").unwrap();
    for own in ["/opt/autoweave-udev-notify", "/opt/tools/autoweave-udev-notify"] {
        configure(own);
        usbd(&["install"]).fails(69, &[own, "in the way"]);
        let said = usbd(&["uninstall", "--purge"]).ok().stdout;
        assert!(said.contains(&format!("keep {own}")) && is_there(own), "{said}");
    }
}

#[test]
fn what_a_package_brought_is_left_to_the_package() {
    let Some(_bus) = cover() else { return };
    fs::create_dir_all("/usr/lib/systemd/system").unwrap();
    fs::write("/usr/lib/systemd/system/autoweave-usb.service", "").unwrap();
    fs::create_dir_all(STATE).unwrap();
    configure("/usr/bin/autoweave-udev-notify");
    for words in [&["uninstall"][..], &["uninstall", "--purge"], &["uninstall", "--dry-run"], &["install"]] {
        usbd(words).fails(69, &["apt-get remove autoweave-usb"]);
    }
    assert!(is_there(CONFIGURATION) && is_there(STATE));
}

#[test]
fn the_service_can_read_what_a_strict_root_installs() {
    let Some(_bus) = cover() else { return };
    let strict = |words: &[&str]| {
        let mut shell = bare("/bin/sh");
        shell.args(["-c", "umask 077; exec \"$0\" \"$@\""]).arg(executable()).args(words);
        finish(&mut shell).ok();
    };
    // Another test's `userdel` sees processes of its user, which may have the same number.
    finish(bare("groupadd").args(["--gid", "64242", "autoweave"])).ok();
    finish(bare("useradd").args(["--uid", "64242", "--gid", "autoweave", "autoweave"])).ok();
    strict(&["install"]);
    for path in ["/etc/autoweave", "/usr/local/share/doc/autoweave-usb", PROGRAM, HELPER] {
        assert_eq!(mode(Path::new(path)), 0o755, "{path}");
    }
    // Keys may hold secrets.
    assert_eq!(mode(Path::new(CONFIGURATION)), 0o640);
    let group = id("/etc/group");
    assert_eq!(fs::metadata(CONFIGURATION).unwrap().gid(), group);
    let mut check = bare(PROGRAM);
    let checked = finish(check.arg("check").uid(id("/etc/passwd")).gid(group));
    assert!(checked.stdout.contains("/etc/autoweave/usbd.toml is valid"), "{}", checked.stderr);

    strict(&["install", "--package", "/opt/stage"]);
    for path in ["/opt/stage/etc/autoweave", "/opt/stage/usr", "/opt/stage/usr/share/man/man1"] {
        assert_eq!(mode(Path::new(path)), 0o755, "{path}");
    }
    // What is there already stays as it was made.
    fs::set_permissions("/etc/autoweave", Permissions::from_mode(0o750)).unwrap();
    fs::set_permissions(CONFIGURATION, Permissions::from_mode(0o600)).unwrap();
    strict(&["install"]);
    assert_eq!([mode(Path::new("/etc/autoweave")), mode(Path::new(CONFIGURATION))], [0o750, 0o600]);
}

#[test]
fn each_page_that_the_manual_names_is_there() {
    let Some(_bus) = cover() else { return };
    usbd(&["install", "--package", "/opt/stage"]).ok();
    let pages = Path::new("/opt/stage/usr/share/man/man1");
    let mut named = Vec::new();
    for page in fs::read_dir(pages).unwrap() {
        let text = fs::read_to_string(page.unwrap().path()).unwrap();
        named.extend(
            text.lines().filter_map(|line| line.strip_suffix("(1)")).map(|page| page.replace('\\', "")),
        );
    }
    assert!(named.len() > 10, "{named:?}");
    for page in named {
        assert!(is_there(&format!("{}/{page}.1", pages.display())), "{page}");
    }
}

#[test]
fn rules_that_are_masked_stay_so() {
    let Some(_bus) = cover() else { return };
    fs::create_dir_all("/etc/udev/rules.d").unwrap();
    symlink("/dev/null", RULES).unwrap();
    for command in ["install", "uninstall"] {
        usbd(&[command]).ok();
        assert_eq!(fs::read_link(RULES).ok().as_deref(), Some(Path::new("/dev/null")), "after {command}");
    }
}

#[test]
fn a_helper_that_was_elsewhere_before_goes_as_well() {
    let Some(_bus) = cover() else { return };
    const DROP_IN: &str = "/etc/systemd/system/autoweave-usb.service.d";
    const ELSEWHERE: &str = "/opt/autoweave/autoweave-udev-notify";
    usbd(&["install"]).ok();
    assert!(is_there(HELPER));
    configure(ELSEWHERE);
    usbd(&["install"]).ok();
    assert!(is_there(ELSEWHERE) && !is_there(HELPER));
    configure(HELPER);
    fs::create_dir_all(DROP_IN).unwrap();
    fs::write(format!("{DROP_IN}/plugins.conf"), "").unwrap();
    usbd(&["uninstall"]).ok();
    assert!(!is_there("/opt/autoweave") && !is_there(HELPER) && is_there(DROP_IN));
    usbd(&["uninstall", "--purge"]).ok();
    assert!(!is_there(DROP_IN) && !is_there("/etc/autoweave"));
}

#[test]
fn a_state_directory_in_use_is_not_purged() {
    let Some(_bus) = cover() else { return };
    usbd(&["install"]).ok();
    let run = ["run", "--source", "uevent", "--state-dir", STATE];
    let daemon =
        Running::start(bare(PROGRAM).env("AUTOWEAVE_USB__MONITORING__HEALTHCHECK_PORT", "0").args(run));
    daemon.wait_for_stderr("the log is in");
    usbd(&["uninstall", "--purge"]).fails(69, &[STATE, "stop it first"]);
    assert!(is_there(PROGRAM) && is_there(CONFIGURATION));
    daemon.end(Signal::SIGTERM).ok();
    usbd(&["uninstall", "--purge"]).ok();
    for gone in [PROGRAM, HELPER, RULES, CONFIGURATION, STATE] {
        assert!(!is_there(gone), "{gone}");
    }
    assert!(!fs::read_to_string("/etc/passwd").unwrap().contains("autoweave"));
}
