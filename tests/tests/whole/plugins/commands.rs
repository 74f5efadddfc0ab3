//! `plugins new`, `check` and `run`: what authors do.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::bed::{Bed, pairs};
use crate::harness::command;
use crate::program::{Finished, finish, usbd};

fn plugins(bed: &Bed, directory: &Path, arguments: &[&str]) -> Finished {
    let env = bed.env();
    let mut command = command(&pairs(&env));
    let state = bed.state.path().to_str().unwrap();
    command.env("STATE_DIRECTORY", state).current_dir(directory).arg("plugins").args(arguments);
    finish(&mut command)
}

#[test]
fn a_new_plugin_of_each_language_can_be_run_at_once() {
    let (bed, directory) = (Bed::new(), tempfile::tempdir().unwrap());
    for lang in ["node", "python", "shell"] {
        let name = format!("my-{lang}");
        plugins(&bed, directory.path(), &["new", &name, "--lang", lang]).ok();
        let checked = plugins(&bed, directory.path(), &["check", &name]).ok();
        assert!(checked.stdout.contains(&format!("{name} 0.1.0 can be run")), "{}", checked.stdout);
        let run = plugins(&bed, directory.path(), &["run", &name, "--simulate"]).ok();
        let lines: Vec<&str> = run.stdout.lines().filter(|line| line.starts_with(['-', '<'])).collect();
        let id = "1209:0001:TRY-1";
        let expected =
            [&format!("-> onUSBAttach {id}"), "<- done", &format!("-> onUSBDetach {id}"), "<- done"];
        assert_eq!(lines, expected, "{}", run.stdout);
        assert_eq!(run.stdout.matches("   log  ").count(), 2, "{}", run.stdout);
        plugins(&bed, directory.path(), &["new", &name]).fails(74, &[&name]);
    }
    plugins(&bed, directory.path(), &["new", "No Name"]).fails(64, &["lower-case words"]);
}

/// As in a container whose first process leads no group of its own.
#[test]
fn a_plugin_ends_as_it_does_where_the_loaders_group_is_out_of_sight() {
    let (bed, directory) = (Bed::new(), tempfile::tempdir().unwrap());
    plugins(&bed, directory.path(), &["new", "mine", "--lang", "shell"]).ok();
    let env = bed.env();
    let mut inside = command(&pairs(&env));
    inside.args(["plugins", "run", "mine", "--simulate"]).env("STATE_DIRECTORY", bed.state.path());
    let mut outside = Command::new("unshare");
    outside.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(inside.get_program());
    outside.args(inside.get_args()).env_clear().current_dir(directory.path());
    outside.envs(inside.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let run = finish(&mut outside).ok();
    assert!(!format!("{}{}", run.stdout, run.stderr).contains("signal"), "{}{}", run.stdout, run.stderr);
}

#[test]
fn what_is_wrong_with_a_package_is_said_with_line_key_and_mend() {
    let (bed, directory) = (Bed::new(), tempfile::tempdir().unwrap());
    plugins(&bed, directory.path(), &["new", "my-plugin"]).ok();
    let manifest = directory.path().join("my-plugin/autoweave.plugin.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"max_heap_mb\": 32", "\"max_heap_mb\": 5")).unwrap();
    let words = ["autoweave.plugin.json:8: permissions.memory.max_heap_mb", "10", "1024"];
    plugins(&bed, directory.path(), &["check", "my-plugin"]).fails(64, &words);
    fs::write(&manifest, text.replace("\"vendor_ids\": [\"*\"]", "")).unwrap();
    let heard = plugins(&bed, directory.path(), &["check", "my-plugin"]).ok();
    assert!(heard.stdout.contains("hears of no device"), "{}", heard.stdout);
    usbd(&["plugins", "run", "."]).fails(64, &["--event"]);
}

#[test]
fn packages_and_their_copies_cannot_be_granted() {
    let (bed, directory) = (Bed::new(), tempfile::tempdir().unwrap());
    plugins(&bed, directory.path(), &["new", "my-plugin"]).ok();
    let manifest = directory.path().join("my-plugin/autoweave.plugin.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let env = bed.env();
    let cache = env.iter().find(|(key, _)| key == "CACHE_DIRECTORY").unwrap().1.clone();
    for granted in [bed.plugins.path().to_str().unwrap(), &cache] {
        let grant =
            format!(r#""permissions": {{"filesystem": [{{"path": "{granted}/any", "mode": "write"}}], "#);
        fs::write(&manifest, text.replace(r#""permissions": {"#, &grant)).unwrap();
        plugins(&bed, directory.path(), &["check", "my-plugin"]).fails(64, &["it is the daemon's", granted]);
    }
}

#[test]
fn the_doctor_looks_at_sandbox_and_packages() {
    let bed = Bed::new();
    bed.shell("desk", "ok");
    fs::create_dir(bed.plugins.path().join("empty")).unwrap();
    let env = bed.env();
    let mut check = command(&pairs(&env));
    let checked = finish(check.env("STATE_DIRECTORY", bed.state.path()).arg("check"));
    for words in ["Landlock ABI", "desk 1.0.0 can be run", "empty/autoweave.plugin.json: there is none"] {
        assert!(checked.stdout.contains(words), "{words} in {}", checked.stdout);
    }
}

#[test]
fn a_plugin_is_tried_with_events_of_a_file() {
    let (bed, directory) = (Bed::new(), tempfile::tempdir().unwrap());
    plugins(&bed, directory.path(), &["new", "my-plugin", "--lang", "python"]).ok();
    let code = "def attached(event, context):\n    raise ValueError(event['seq'])\n\ndef detached(event, context): pass\n";
    fs::write(directory.path().join("my-plugin/main.py"), code).unwrap();
    let events = usbd(&["simulate", "--devices", "1", "--cycles", "1", "--rate", "0", "--json"]).ok().stdout;
    fs::write(directory.path().join("events"), events).unwrap();
    let run = plugins(&bed, directory.path(), &["run", "my-plugin", "--event", "events"]);
    run.fails(1, &["1 events failed"]);
    assert!(
        run.stdout.contains("<- failed, would be told again") && run.stdout.contains("<- done"),
        "{}",
        run.stdout
    );
    fs::write(directory.path().join("events"), format!("\n{}\n", json!({"seq": 1}))).unwrap();
    let run = plugins(&bed, directory.path(), &["run", "my-plugin", "--event", "events"]);
    run.fails(64, &["events:2", "events --json"]);
}
