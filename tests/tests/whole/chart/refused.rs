//! Values that would make pods that do not run, or worse: refused before there is one.

use serde_json::{Value, json};

use super::Chart;
use crate::harness::command;
use crate::program::{CALM, finish};

/// Asserts that `values` are refused, with `reason` among what is said.
fn refuses(chart: &Chart, values: &Value, reason: &str) {
    let said = chart.template("usb", values, &[]).expect_err(&format!("{values} is taken"));
    assert!(said.contains(reason), "{values}: {said}");
}

#[test]
fn values_that_can_only_be_mistakes_are_refused() {
    let Some(chart) = Chart::find() else { return };
    for directory in ["/", "/etc", "/etc/", "//etc", "/var/../etc", "/var/lib/..", "/./etc", "var/lib/usb"] {
        refuses(&chart, &json!({"usbDaemon": {"state": {"hostPath": directory}}}), "hostPath");
    }
    refuses(&chart, &json!({"usbDaemon": {"nodeSelector": {"hardware/usb": true}}}), "nodeSelector");
    refuses(&chart, &json!({"monitoring": {"hosts": ["usb.example.org:80"]}}), "hosts");
    let external = json!({"enabled": false, "external": {"existingSecret": "credentials"}});
    refuses(&chart, &json!({"redis": external}), "host");
    refuses(&chart, &json!({"redis": {"maxmemory": "much"}}), "maxmemory");
}

#[test]
fn the_device_plugin_takes_a_kubelet_that_it_can_talk_to() {
    let Some(chart) = Chart::find() else { return };
    let values = json!({"devicePlugin": {"enabled": true, "devices": {"a.b/c": {"class": 14}}}});
    let old = chart.template("usb", &values, &["--kube-version", "1.25.16"]).unwrap_err();
    assert!(old.contains("takes Kubernetes 1.26 or later"), "{old}");
    chart.template("usb", &values, &["--kube-version", "1.26.0"]).unwrap();
    chart.template("usb", &json!({}), &["--kube-version", "1.25.16"]).unwrap();
}

#[test]
fn resources_that_the_daemon_refuses_are_refused() {
    let Some(chart) = Chart::find() else { return };
    let camera = json!({"class": 14});
    let long = format!("a.b/{}", "c".repeat(64));
    let wide = format!("{}/c", "a".repeat(245));
    for (name, selector) in [
        ("a.b/c", json!({})),
        ("a.b/c", json!({"product": "6001"})),
        ("a.b/c", json!({"class": 999})),
        ("a.b/c", json!({"class": "0x1ff"})),
        ("a.b/c", json!({"class": "video"})),
        ("a.b/c", json!({"vendor": "12345"})),
        ("a.b/c", json!({"serial": ""})),
        ("a.b/c", json!({"serial": "a\u{7}b"})),
        ("a.b/c", json!({"serial": "S".repeat(256)})),
        ("a.b/c", json!({"speed": 480})),
        ("camera", camera.clone()),
        ("a..b/c", camera.clone()),
        ("a-.b/c", camera.clone()),
        ("A.b/c", camera.clone()),
        ("a.b/-c", camera.clone()),
        ("a.b/c.", camera.clone()),
        ("a.b/c/d", camera.clone()),
        ("requests.foo/x", camera.clone()),
        ("kubernetes.io/q", camera.clone()),
        ("node.kubernetes.io/q", camera.clone()),
        (&long, camera.clone()),
        (&wide, camera.clone()),
    ] {
        let reason = if name == "a.b/c" { "/devicePlugin/devices/a.b~1c" } else { "invalid propertyName" };
        refuses(&chart, &json!({"devicePlugin": {"enabled": true, "devices": {name: selector}}}), reason);
        let pairs = selector.as_object().unwrap().iter();
        let pairs: Vec<_> = pairs.map(|(key, value)| format!("{key} = {value}")).collect();
        let lines = format!("{} = {{ {} }}", json!(name), pairs.join(", "));
        let mut daemon = command(CALM);
        daemon.arg("device-plugin").env("AUTOWEAVE_USB__DEVICE_PLUGIN__RESOURCES", &lines);
        finish(&mut daemon).fails(64, &["device_plugin.resources"]);
    }
    let alike = json!({"a.b/c-d": camera, "a.b/C.d": camera});
    refuses(&chart, &json!({"devicePlugin": {"enabled": true, "devices": alike}}), "differ in signs");
    let many: serde_json::Map<_, _> =
        (0..65).map(|number| (format!("a.b/{number}"), camera.clone())).collect();
    refuses(&chart, &json!({"devicePlugin": {"enabled": true, "devices": many}}), "devices");
    // A file says 0403 without quotes and means hex; YAML says 259.
    for id in ["vendor", "product"] {
        let selector = json!({"vendor": "0403", "product": "6001", id: 259});
        refuses(&chart, &json!({"devicePlugin": {"enabled": true, "devices": {"a.b/c": selector}}}), id);
    }
}
