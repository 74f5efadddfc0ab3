//! `device_plugin.resources`.

use super::*;

const NAME: &str = "AUTOWEAVE_USB__DEVICE_PLUGIN__RESOURCES";

#[test]
fn resources_say_what_devices_have_to_be() {
    let text = r#"
        [device_plugin.resources]
        "autoweave.dev/usb-camera" = { class = 14 }
        "example.org/Scope_1.a" = { vendor = "0x046d", product = 1, class = "0e", serial = "S 1" }
    "#;
    let scope = Selector {
        vendor_id: Some(0x046d),
        product_id: Some(1),
        class: Some(14),
        serial_number: Some("S 1".to_owned()),
    };
    let camera = Selector { class: Some(14), ..Selector::default() };
    let expected: Vec<_> = [("autoweave.dev/usb-camera", camera.clone()), ("example.org/Scope_1.a", scope)]
        .map(|(name, selector)| (name.to_owned(), selector))
        .into();
    assert_eq!(config(text, &[]).device_plugin.resources.into_iter().collect::<Vec<_>>(), expected);
    let lines = "\"a.b/c\" = { class = 14 }\n\"a.b/d\" = { class = 14 }";
    let from_environment = config(text, &[(NAME, lines)]).device_plugin.resources;
    assert_eq!(from_environment.into_values().collect::<Vec<_>>(), [camera.clone(), camera]);
    assert!(config(text, &[(NAME, "")]).device_plugin.resources.is_empty());
}

#[test]
fn resources_that_kubernetes_or_nobody_understands_are_refused() {
    let long = format!("a.b/{}", "x".repeat(64));
    let too_long = format!("`{}…` is no name", &long[..60]);
    let cases = [
        ("camera", "{ class = 14 }", "`camera` is no name of a resource: expected a domain of yours"),
        ("A.b/c", "{ class = 14 }", "`A.b/c` is no name of a resource: what is before the slash"),
        ("a..b/c", "{ class = 14 }", "`a..b/c` is no name of a resource: what is before the slash"),
        (
            "x.kubernetes.io/c",
            "{ class = 14 }",
            "`x.kubernetes.io/c` is no name of a resource: that domain is",
        ),
        ("a.b/-c", "{ class = 14 }", "`a.b/-c` is no name of a resource: expected up to 63"),
        ("a.b/c/d", "{ class = 14 }", "`a.b/c/d` is no name of a resource: expected up to 63"),
        (&long, "{ class = 14 }", &too_long),
        ("a.b/c", "14", "`a.b/c`: expected a table such as"),
        ("a.b/c", "{}", "`a.b/c`: every device would do"),
        ("a.b/c", "{ product = 1 }", "`a.b/c`: `product` needs `vendor`"),
        ("a.b/c", "{ clas = 1 }", "`a.b/c`: unknown key `clas`; there are `vendor`"),
        ("a.b/c", "{ class = 256 }", "`a.b/c`: `class`: expected an integer from 0 to 255"),
        ("a.b/c", "{ vendor = -1 }", "`a.b/c`: `vendor`: expected an integer from 0 to 65535"),
        ("a.b/c", "{ serial = '' }", "`a.b/c`: `serial`: expected a string of 1 to 255 bytes"),
        ("a.b/c", "{ serial = 5 }", "`a.b/c`: `serial`: expected a string of 1 to 255 bytes"),
    ];
    for (name, value, message) in cases {
        let error =
            load_all(&format!("[device_plugin.resources]\n\"{name}\" = {value}"), &[], &[]).unwrap_err();
        let place = "FILE:1: `device_plugin.resources`: ";
        assert!(error.starts_with(&format!("{place}{message}")), "{name} = {value} gives {error}");
    }
    for (one, other) in [("a.b/c-d", "a.b/c_d"), ("a-b/x", "a.b/x"), ("a.b/X", "a.b/x")] {
        let both = format!("\"{one}\" = {{ class = 1 }}\n\"{other}\" = {{ class = 2 }}");
        let expected = format!(
            "{NAME}: `device_plugin.resources`: `{one}` and `{other}` differ in signs or capitals only, and a container's variables would not"
        );
        refused_with("", &[(NAME, &both)], &[&expected]);
    }
    let many: String = (0..65).map(|n| format!("\"a.b/{n}\" = {{ class = 1 }}\n")).collect();
    let expected = format!("{NAME}: `device_plugin.resources`: 65 resources are too many, at most 64");
    refused_with("", &[(NAME, &many)], &[&expected]);
    let error = load_all("device_plugin.resources = 'camera'", &[], &[]).unwrap_err();
    assert!(
        error.ends_with("each a table of some of `vendor`, `product`, `class` and `serial`, found a string")
    );
    let error = load_all("", &[(NAME, "camera")], &[]).unwrap_err();
    assert!(error.starts_with(&format!("{NAME}: `device_plugin.resources`: not valid TOML: ")), "{error}");
}
