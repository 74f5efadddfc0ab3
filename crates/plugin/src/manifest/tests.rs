//! The code and the published schema are held together by asking both.

use std::sync::LazyLock;

use jsonschema::Validator;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    assert!(jsonschema::draft7::meta::is_valid(&schema));
    jsonschema::draft7::new(&schema).unwrap()
});

fn full() -> Value {
    json!({
        "$schema": "autoweave.plugin.schema.json",
        "name": "barcode-scanner", "version": "1.2.3-rc.1+build.5", "entry": "src/index.js",
        "description": "Reads.", "author": "A", "dependencies": {"left-pad": "^1.0.0"},
        "signature": {"algorithm": "SHA-256", "value": "aB".repeat(32)},
        "permissions": {
            "usb": {"vendor_ids": ["0x046D", 1133], "product_ids": ["0xC52B"], "device_classes": ["0x03", 8], "open": true},
            "filesystem": [{"path": "/srv/scans", "mode": "write"}, {"path": "/etc/hosts", "mode": "read"}],
            "network": {"outbound": ["https://api.example.com/v1", "mqtt.example.com:1883", "[::1]:80", "*"]},
            "memory": {"max_heap_mb": 64, "max_workers": 2}
        },
        "hooks": {"onLoad": "load", "onUnload": "unload", "onUSBAttach": "attach", "onUSBDetach": "detach"}
    })
}

/// Asks both, and returns what they agree on.
fn is_valid(manifest: &Value) -> bool {
    let text = serde_json::to_string_pretty(manifest).unwrap();
    let (schema, code) = (VALIDATOR.is_valid(manifest), Manifest::parse(&text));
    assert_eq!(schema, code.is_ok(), "the schema says {schema}, the code {code:?} of {text}");
    schema
}

#[test]
fn all_that_a_manifest_may_say() {
    assert!(is_valid(&full()));
    let manifest = Manifest::parse(&full().to_string()).unwrap();
    assert_eq!(manifest.permissions.usb.vendor_ids, [0x046d, 1133]);
    assert_eq!(manifest.permissions.usb.device_classes, [3, 8]);
    assert_eq!(manifest.permissions.tcp_ports, [80, 443, 1883]);
    assert_eq!((manifest.permissions.max_heap_mb, manifest.permissions.max_workers), (64, 2));
    assert_eq!(manifest.hooks.on_usb_attach.as_deref(), Some("attach"));
    assert_eq!(manifest.runtime(), Runtime::Node);
    let place = manifest.signature.unwrap().place;
    assert_eq!(full().to_string()[place], "aB".repeat(32));
}

#[test]
fn without_a_usb_list_no_device_and_a_star_is_all() {
    let usb = |usb: Value| {
        let mut manifest = full();
        manifest["permissions"] = json!({"usb": usb});
        assert!(is_valid(&manifest));
        Manifest::parse(&manifest.to_string()).unwrap().permissions.usb
    };
    assert!(!usb(json!({})).listed);
    assert!(!usb(json!({"vendor_ids": [], "product_ids": [], "device_classes": []})).listed);
    let all = usb(json!({"vendor_ids": ["0x1", "*"]}));
    assert!(all.listed && all.vendor_ids.is_empty());
}

#[test]
fn a_message_names_line_key_and_mend() {
    let text = "{\n \"name\": \"x\",\n \"version\": \"1.0.0\",\n \"entry\": \"../a.js\",\n \"hooks\": {},\n \
                \"permissions\": {\n  \"memory\": {\"max_heap_mb\": 5},\n  \"usb\": {\"open\": 1}\n },\n \"extra\": 1\n}";
    let said: Vec<_> = Manifest::parse(text).unwrap_err().iter().map(ToString::to_string).collect();
    let expected = [
        "2: name: \"x\" is no plugin's name: write lower-case words",
        "4: entry: leaves the package: write a file's path",
        "5: hooks: is empty: the plugin would never be called: name a function",
        "7: permissions.memory.max_heap_mb: is 5: write a whole number from 10 to 1024",
        "8: permissions.usb.open: is no boolean: write true or false",
        "10: extra: unknown key: take it out; known are $schema, name",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.starts_with(expected), "{said} should start with {expected}");
    }
    let said = Manifest::parse("{\n \"name\": \"abc\",\n}").unwrap_err();
    assert_eq!((said.len(), said[0].line), (1, 3));
    assert_eq!(Manifest::parse(&" ".repeat(SIZE_MAX + 1)).unwrap_err().len(), 1);
    let twice = full().to_string().replacen('{', "{\"name\":\"other\",", 1);
    assert_eq!(Manifest::parse(&twice).unwrap_err()[0].problem, "is there twice");
}

/// Every place in a manifest, as a JSON pointer.
fn places(value: &Value, at: &str, into: &mut Vec<String>) {
    into.push(at.to_owned());
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(key, value)| places(value, &format!("{at}/{key}"), into));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| places(value, &format!("{at}/{index}"), into));
        }
        _ => {}
    }
}

fn odd_values() -> Vec<Value> {
    let texts = [
        "",
        "*",
        "0x",
        "0x1",
        "0X0046",
        "0x12345",
        "0xZZ",
        "046d",
        "/",
        "/a/../b",
        "/..a",
        "..",
        "../x",
        "a/..",
        "./a",
        "a/",
        "a\u{1}",
        "/tmp\n",
        "a.py",
        "a.sh",
        "1.0",
        "1.0.0",
        "01.0.0",
        "1.0.0-01",
        "1.0.0-a..b",
        "1.0.0+é",
        "999999999999999999.0.0",
        "1000000000000000000.0.0",
        "99999999999999999999.0.0",
        "read",
        "Read",
        "é",
        "abc",
        "ABC",
        "a-b",
        "abc-",
        "a--b",
        "9ab",
        "host:0",
        "host:65535",
        "host:65536",
        "host:080",
        "host:",
        ":80",
        "http://",
        "http://h/ p",
        "https://h:1/p",
        "ftp://h",
        "[::1]",
        "[::1]:",
        "[]:1",
        "[g]:1",
        "a:b:1",
        "h/p:1",
        "*.example.com",
        "SHA-256",
        "has space",
        "1digit",
        "ok_name$",
    ];
    let numbers =
        [json!(-1), json!(0), json!(1), json!(8), json!(8.0), json!(8.5), json!(9), json!(10), json!(255)];
    let more =
        [json!(256), json!(1024), json!(1025), json!(65535), json!(65536), json!(1e300), json!(u64::MAX)];
    let others =
        [json!(null), json!(true), json!([]), json!({}), json!(["*"]), json!({"a": 1}), json!({"a": "b"})];
    let long = [50, 51, 100, 101, 255, 256, 1000, 1001, 4096].map(|length| json!("a".repeat(length)));
    texts.iter().map(|text| json!(text)).chain(numbers).chain(more).chain(others).chain(long).collect()
}

#[test]
fn schema_and_code_agree_on_one_odd_value_anywhere() {
    let mut all = Vec::new();
    places(&full(), "", &mut all);
    let (mut valid, mut invalid) = (0, 0);
    for place in &all {
        for odd in odd_values() {
            let mut manifest = full();
            *manifest.pointer_mut(place).unwrap() = odd;
            *if is_valid(&manifest) { &mut valid } else { &mut invalid } += 1;
        }
    }
    assert!(valid > 100 && invalid > 1000, "{valid} {invalid}");
}

#[test]
fn schema_and_code_agree_on_what_is_missing_or_too_much() {
    let mut all = Vec::new();
    places(&full(), "", &mut all);
    for place in &all {
        let (parent, key) = place.rsplit_once('/').unwrap_or(("", ""));
        let mut manifest = full();
        if let Some(Value::Object(members)) = manifest.pointer_mut(parent) {
            members.remove(key);
            is_valid(&manifest);
        }
        let mut manifest = full();
        if let Some(Value::Object(members)) = manifest.pointer_mut(place) {
            members.insert("extra".to_owned(), json!("1"));
            is_valid(&manifest);
        }
        let mut manifest = full();
        if let Some(Value::Array(items)) = manifest.pointer_mut(place) {
            items.resize(300, items[0].clone());
            is_valid(&manifest);
        }
    }
}

proptest! {
    #[test]
    fn schema_and_code_agree_on_several_at_once(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..5)
    ) {
        let odd = odd_values();
        let mut manifest = full();
        for (place, value) in changes {
            let mut all = Vec::new();
            places(&manifest, "", &mut all);
            *manifest.pointer_mut(all[place.index(all.len())].as_str()).unwrap() = value.get(&odd).clone();
        }
        is_valid(&manifest);
    }

    #[test]
    fn no_text_panics(text in "\\PC*", cut in any::<prop::sample::Index>()) {
        let _ = Manifest::parse(&text);
        let full = serde_json::to_string_pretty(&full()).unwrap();
        prop_assert!(Manifest::parse(&full[..cut.index(full.len())]).is_err());
    }
}
