//! Passwords and tokens: where they may stand, and who is told of those that stand open.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use autoweave_usb_testbus::Bus;

use crate::harness::{Daemon, QUICK, StateDir, command};
use crate::http::answer_with;
use crate::program::{CALM, finish};

#[test]
fn check_tells_of_a_configuration_that_everyone_can_read_and_that_holds_secrets() {
    let state = StateDir::new();
    let file = state.path().join("usbd.toml");
    let warned = |text: &str, mode: u32| {
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let mut check = command(CALM);
        let said = finish(check.arg("check").arg("--config").arg(&file)).stdout;
        said.lines().find(|line| line.contains("every user can read")).map(str::to_owned)
    };
    for (text, key) in [
        ("monitoring.token = 's3cret'", "monitoring.token"),
        ("redis.host = '/none'\nredis.password = 's3cret'", "redis.password"),
        ("redis.url = 'unix:///none?pass=s3cret'", "redis.password"),
    ] {
        let warning = warned(text, 0o644).unwrap();
        assert!(warning.contains(key) && !warning.contains("s3cret"), "{warning}");
        assert_eq!(warned(text, 0o640), None);
    }
    for text in ["monitoring.token_file = '/none'", "redis.url = 'unix:///none'", "host = 'h'"] {
        assert_eq!(warned(text, 0o644), None);
    }
}

#[test]
fn the_token_may_be_in_a_file() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let state = StateDir::new();
    let file = state.path().join("token");
    fs::write(&file, "s3cret\n").unwrap();
    let env = [QUICK, &[("AUTOWEAVE_USB__MONITORING__TOKEN_FILE", file.to_str().unwrap())]].concat();
    let daemon = Daemon::start(&bus, &state, &env);
    let status = |headers: &str| answer_with("/api/v1/devices", headers).0;
    assert!(status("").contains("401") && status("Authorization: Bearer s3cret\r\n").contains("200"));
    assert!(!daemon.stop().contains("s3cret"));

    for unfit in ["\n", "two words\n"] {
        fs::write(&file, unfit).unwrap();
        let mut run = command(&env);
        finish(run.args(["run", "--state-dir"]).arg(state.path())).fails(69, &["monitoring.token_file"]);
        assert!(finish(command(&env).arg("check")).stdout.contains("monitoring.token_file"));
    }
    fs::remove_file(&file).unwrap();
    finish(command(&env).args(["run", "--state-dir"]).arg(state.path()))
        .fails(69, &["monitoring.token_file"]);
}
