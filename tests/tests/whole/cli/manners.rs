//! What every command owes whoever types it: help, exit codes, quiet ends.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};

use autoweave_usb_testbus::Bus;
use nix::sys::signal::Signal;

use super::{assert_has, small_bus};
use crate::harness::{Daemon, StateDir, command, last_seq};
use crate::program::{CALM, Finished, Running, files, finish, ring_until, usbd};

const COMMANDS: [&str; 13] = [
    "run",
    "watch",
    "devices",
    "events",
    "check",
    "record",
    "replay",
    "simulate",
    "notify",
    "install",
    "uninstall",
    "completions",
    "man",
];

#[test]
fn every_command_has_help_with_an_example() {
    let all = usbd(&["--help"]).ok().stdout;
    assert_has(&all, &["Example"]);
    assert_has(&all, &COMMANDS);
    for name in COMMANDS {
        let help = usbd(&[name, "--help"]).ok();
        assert_has(
            &help.stdout,
            &["Example", &format!("autoweave-usbd {name}"), "--config", "--log-level", "--log-format"],
        );
        assert_eq!(help.stderr, "");
    }
    assert_eq!(usbd(&["--version"]).ok().stdout, format!("autoweave-usbd {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_ends_with_64_and_changes_nothing() {
    let state = StateDir::new();
    let directory = state.path().join("none");
    let place = directory.to_str().unwrap();
    for (arguments, words) in [
        (&["watsh"][..], &["watsh"][..]),
        (&["watch", "--jsno"], &["--jsno"]),
        (&["run", "--source", "usbmon", "--state-dir", place], &["--source", "usbmon", "uevent"]),
        (&["run", "--log-level", "loud", "--state-dir", place], &["--log-level", "loud", "info"]),
        (&["run", "--log-format", "xml", "--state-dir", place], &["--log-format", "xml", "json"]),
        (&["devices", "--tree", "--json"], &["--tree", "--json"]),
        (&["events", "-n", "many", "--state-dir", place], &["-n", "many"]),
        (&["events", "--since", "-1", "--state-dir", place], &["-1"]),
        (&["simulate", "--devices", "0"], &["--devices", "1.."]),
        (&["simulate", "--devices", "32131"], &["--devices", "32130"]),
        (&["replay"], &["FILE"]),
        (&["record"], &["FILE"]),
        (&["completions", "klingon"], &["klingon", "bash"]),
        (&["--state-dir", place, "devices"], &["--state-dir"]),
    ] {
        let ended = usbd(arguments);
        ended.fails(64, words);
        assert_eq!(ended.stdout, "", "{arguments:?}");
    }
    assert!(!directory.exists());
}

#[test]
fn completions_are_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        assert_has(&usbd(&["completions", shell]).ok().stdout, &COMMANDS);
    }
    let script = usbd(&["completions", "bash"]).stdout;
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().expect("bash is there");
    bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(bash.wait().unwrap().success(), "bash does not understand its completions");
}

#[test]
fn the_manual_page_renders() {
    let page = usbd(&["man"]).ok().stdout;
    assert!(page.starts_with(".ie") || page.starts_with(".TH"), "{page:.80}");
    assert_has(&page, &["EXIT STATUS", "FILES", "ENVIRONMENT", "SEE ALSO"]);
    let Ok(mut man) = Command::new("man")
        .args(["-l", "-"])
        .env("MANWIDTH", "80")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
    else {
        return;
    };
    man.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let rendered = man.wait_with_output().unwrap();
    assert!(rendered.status.success());
    assert_has(&String::from_utf8_lossy(&rendered.stdout), &["autoweave-usbd", "watch", "simulate"]);
}

/// Runs with a stdout that nobody reads any longer.
fn into_closed_pipe(command: &mut Command) -> Finished {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let error = tempfile::NamedTempFile::new().unwrap();
    let status =
        command.stdout(writer).stderr(error.reopen().unwrap()).status().expect("the program can be started");
    Finished::new(status, String::new(), fs::read_to_string(error.path()).unwrap())
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut bus = small_bus();
    let state = StateDir::new();
    let place = state.path().to_str().unwrap();
    usbd(&["simulate", "--devices", "2", "--cycles", "2", "--rate", "0", "--state-dir", place]).ok();
    for arguments in [
        &["devices"][..],
        &["devices", "--tree"],
        &["devices", "--json"],
        &["events", "--state-dir", place],
        &["events", "--json", "--state-dir", place],
        &["events", "--follow", "--state-dir", place],
        &["check", "--state-dir", place],
        &["simulate", "--rate", "0", "--json"],
        &["completions", "bash"],
        &["man"],
        &["--help"],
    ] {
        let ended = into_closed_pipe(command(CALM).args(arguments)).ok();
        let complaint = ended.stderr.lines().find(|line| line.starts_with("autoweave-usbd:"));
        assert_eq!(complaint, None, "{arguments:?}");
    }
    watch_ends_at_the_next_event(&mut bus);
}

fn watch_ends_at_the_next_event(bus: &mut Bus) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let error = tempfile::NamedTempFile::new().unwrap();
    let mut watch = command(CALM)
        .args(["watch", "--json"])
        .stdout(writer)
        .stderr(error.reopen().unwrap())
        .spawn()
        .unwrap();
    ring_until(bus, "1-1.2", || watch.try_wait().unwrap().is_some());
    let status = watch.wait().unwrap();
    let ended = Finished::new(status, String::new(), fs::read_to_string(error.path()).unwrap()).ok();
    assert!(!ended.stderr.contains("autoweave-usbd:"), "{}", ended.stderr);
}

#[test]
fn a_full_disk_behind_stdout_is_an_io_error() {
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    for arguments in [&["simulate", "--rate", "0", "--json"][..], &["man"], &["completions", "zsh"]] {
        let child = command(CALM).args(arguments).stdout(full()).stderr(Stdio::piped()).spawn().unwrap();
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Finished::new(output.status, String::new(), stderr).fails(74, &["standard output", "No space left"]);
    }
}

#[test]
fn check_says_one_line_about_each_thing() {
    let _bus = small_bus();
    let state = StateDir::new();
    let check = |arguments: &[&str]| {
        let mut command = command(CALM);
        command.env("AUTOWEAVE_USB__SOURCE__CHAIN", "auto").args(["check", "--state-dir"]).arg(state.path());
        finish(command.args(arguments)).ok()
    };
    let json = check(&["--json"]).json();
    let whats: Vec<&str> = json.iter().map(|finding| finding["what"].as_str().unwrap()).collect();
    assert_eq!(whats, ["config", "bus", "uevents", "libusb", "udev", "rules", "boot id", "journal", "http"]);
    for finding in &json {
        assert_ne!(finding["outcome"], "fail");
        assert!(!finding["found"].as_str().unwrap().is_empty());
        // What is not as it should be comes with the mend.
        assert!(finding["outcome"] == "ok" || !finding["mend"].as_str().unwrap().is_empty(), "{finding}");
    }
    let text = check(&[]).stdout;
    // A mend stands below, indented.
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(lines.len(), json.len(), "{text}");
    for (line, finding) in lines.into_iter().zip(&json) {
        assert_has(line, &[finding["what"].as_str().unwrap(), finding["found"].as_str().unwrap()]);
    }
    assert_eq!(files(state.path()), [""; 0], "looking makes nothing");
}

#[test]
fn check_fails_where_the_journal_cannot_be_read() {
    let _bus = small_bus();
    let state = StateDir::new();
    fs::write(state.path().join("journal.db"), "no journal at all, just some text in its place").unwrap();
    let ended = usbd(&["check", "--state-dir", state.path().to_str().unwrap()]);
    assert_eq!(ended.code(), 69);
    assert_has(&ended.stdout, &["journal.db", "--state-dir"]);
}

#[test]
fn a_key_without_effect_is_warned_about() {
    let bus = small_bus();
    let state = StateDir::new();
    let env = [CALM, &[("AUTOWEAVE_USB__PLUGINS__GROUP", "g")]].concat();
    let daemon = Daemon::start(&bus, &state, &env);
    daemon.wait_for_log("plugins.group");
    daemon.stop();
    let check = finish(command(&env).args(["check", "--state-dir"]).arg(state.path())).ok();
    assert_has(&check.stdout, &["AUTOWEAVE_USB__PLUGINS__GROUP", "plugins.group"]);
}

#[test]
fn an_interrupted_simulation_ends_with_130() {
    let program = Running::start(command(CALM).args(["simulate", "--rate", "1", "--json"]));
    program.wait_for_lines(1);
    assert_eq!(program.end(Signal::SIGINT).code(), 130);
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let directory = StateDir::new();
    let config = directory.path().join("autoweave");
    fs::create_dir(&config).unwrap();
    fs::write(config.join("usbd.toml"), "host = \"from-the-file\"\n").unwrap();
    let named = directory.path().join("named.toml");
    fs::write(&named, "host = \"from-the-named-file\"\n").unwrap();
    let mut usual = command(CALM);
    usual.env_remove("AUTOWEAVE_USB_CONFIG").env("XDG_CONFIG_HOME", directory.path());
    usual.args(["simulate", "--devices", "1", "--cycles", "1", "--rate", "0", "--json"]);
    let host = |command: &mut Command| finish(command).ok().json()[0]["host"].clone();
    assert_eq!(host(&mut usual), "from-the-file");
    assert_eq!(host(usual.env("AUTOWEAVE_USB_CONFIG", &named)), "from-the-named-file");
    assert_eq!(host(usual.env("AUTOWEAVE_USB__HOST", "from-the-environment")), "from-the-environment");

    let bus = small_bus();
    let state = StateDir::new();
    let env = [CALM, &[("LOG_LEVEL", "trace")]].concat();
    let daemon = Daemon::spawn(&bus, state.path(), &env, &["--log-level", "error"]);
    daemon.wait_until("it works", || last_seq(&state) == 3);
    assert_eq!(daemon.stop(), "", "nothing was wrong");
}
