//! From text to a [`Manifest`], or to all that is wrong in it.

use std::path::PathBuf;

use semver::Version;

use super::json::Value;
use super::{FileGrant, Finding, Hooks, Manifest, Permissions, Runtime, SIZE_MAX, Signature, UsbPermission};

const NAMES: &str = "lower-case words joined by `-`, 3 to 50 characters, such as \"barcode-scanner\"";
const HOOK_KEYS: [&str; 4] = ["onLoad", "onUnload", "onUSBAttach", "onUSBDetach"];

pub(super) fn manifest(text: &str) -> Result<Manifest, Vec<Finding>> {
    let finding = |line, problem, mend: &str| {
        vec![Finding { line, key: String::new(), problem, mend: mend.to_owned() }]
    };
    if text.len() > SIZE_MAX {
        let problem = format!("{} bytes, more than {SIZE_MAX}", text.len());
        return Err(finding(1, problem, "move what is large into other files"));
    }
    let value = Value::parse(text)
        .map_err(|(line, problem)| finding(line, format!("no JSON: {problem}"), "correct it there"))?;
    let mut read = Read { findings: Vec::new() };
    let manifest = read.manifest(value);
    read.findings.sort_by_key(|finding| finding.line);
    manifest.filter(|_| read.findings.is_empty()).ok_or(read.findings)
}

struct Read {
    findings: Vec<Finding>,
}

/// An object's members by key, each there once, and where the object is.
struct Object<'a> {
    value: Value<'a>,
    key: String,
    members: Vec<(String, Value<'a>)>,
}

impl<'a> Object<'a> {
    fn get(&self, key: &str) -> Option<Value<'a>> {
        self.members.iter().find(|(name, _)| name == key).map(|(_, value)| *value)
    }

    fn path(&self, key: &str) -> String {
        join(&self.key, key)
    }
}

impl Read {
    fn manifest(&mut self, value: Value<'_>) -> Option<Manifest> {
        const KEYS: [&str; 10] = [
            "$schema",
            "name",
            "version",
            "entry",
            "description",
            "author",
            "dependencies",
            "signature",
            "permissions",
            "hooks",
        ];
        let top = self.object(value, "", &KEYS)?;
        let name = self.required(&top, "name").and_then(|value| self.name(value));
        let version = self.required(&top, "version").and_then(|value| self.version(value));
        let entry = self.required(&top, "entry").and_then(|value| self.entry(value));
        let permissions = self.required(&top, "permissions").and_then(|value| self.permissions(value));
        let runtime = entry.as_deref().map_or(Runtime::Executable, Runtime::of);
        let hooks = self.required(&top, "hooks").and_then(|value| self.hooks(value, runtime));
        self.text(&top, "$schema");
        let (description, author) = (self.text(&top, "description"), self.text(&top, "author"));
        let dependencies = top.get("dependencies").map(|value| self.dependencies(value)).unwrap_or_default();
        let signature = top.get("signature").and_then(|value| self.signature(value));
        Some(Manifest {
            name: name?,
            version: version?,
            entry: PathBuf::from(entry?),
            description,
            author,
            dependencies,
            signature,
            permissions: permissions?,
            hooks: hooks?,
        })
    }

    fn name(&mut self, value: Value<'_>) -> Option<String> {
        let name = self.string(value, "name")?;
        let word = |word: &str| {
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        let kebab = name.starts_with(|first: char| first.is_ascii_lowercase()) && name.split('-').all(word);
        if !kebab || !(3..=50).contains(&name.len()) {
            self.find(value, "name", format!("{name:?} is no plugin's name"), format!("write {NAMES}"));
        }
        Some(name)
    }

    fn version(&mut self, value: Value<'_>) -> Option<Version> {
        let text = self.string(value, "version")?;
        // 18 digits always fit 64 bits; the schema can count digits only.
        let short = |text: &str| text.len() <= 18;
        let version = Version::parse(&text).ok().filter(|version| {
            text.len() <= 100
                && [version.major, version.minor, version.patch].iter().all(|n| short(&n.to_string()))
        });
        if version.is_none() {
            let problem = format!("{text:?} is no semantic version");
            self.find(value, "version", problem, "write three numbers, such as \"1.0.0\"");
        }
        version
    }

    fn entry(&mut self, value: Value<'_>) -> Option<String> {
        let entry = self.string(value, "entry")?;
        let problem = if entry.is_empty() || entry.chars().count() > 255 || entry.contains(is_control) {
            "is empty, longer than 255 characters or has control characters"
        } else if entry.starts_with('/') {
            "is absolute"
        } else if entry.split('/').any(|part| part == "..") {
            "leaves the package"
        } else if entry.ends_with('/') {
            "is a directory"
        } else {
            return Some(entry);
        };
        self.find(
            value,
            "entry",
            problem,
            "write a file's path relative to the package, such as \"index.js\"",
        );
        None
    }

    fn hooks(&mut self, value: Value<'_>, runtime: Runtime) -> Option<Hooks> {
        let object = self.object(value, "hooks", &HOOK_KEYS)?;
        if object.members.is_empty() {
            let mend = format!("name a function for one or more of {}", HOOK_KEYS.join(", "));
            self.find(value, "hooks", "is empty: the plugin would never be called", mend);
        }
        let mut hook = |key: &str| self.hook(&object, key, runtime);
        Some(Hooks {
            on_load: hook("onLoad"),
            on_unload: hook("onUnload"),
            on_usb_attach: hook("onUSBAttach"),
            on_usb_detach: hook("onUSBDetach"),
        })
    }

    fn hook(&mut self, object: &Object<'_>, key: &str, runtime: Runtime) -> Option<String> {
        let value = object.get(key)?;
        let path = object.path(key);
        let name = self.string(value, &path)?;
        let in_name = |character: char| character.is_ascii_alphanumeric() || "_$".contains(character);
        let function = name.chars().all(in_name) && !name.starts_with(|first: char| first.is_ascii_digit());
        if name.is_empty() || name.chars().count() > 100 {
            self.find(value, &path, "is empty or longer than 100 characters", "write a name");
        } else if runtime != Runtime::Executable && !function {
            let problem = format!("{name:?} is no function's name");
            self.find(value, &path, problem, "write the name of a function that the entry exports");
        }
        Some(name)
    }

    fn dependencies(&mut self, value: Value<'_>) -> Vec<(String, String)> {
        let Some(members) = value.members() else {
            self.find(value, "dependencies", "is no object", "write {\"NAME\": \"VERSION\"}");
            return Vec::new();
        };
        if members.len() > 256 {
            self.find(value, "dependencies", "has more than 256 members", "take some out");
        }
        let mut dependencies = Vec::new();
        for (name, value) in members {
            let path = join("dependencies", &name);
            if let Some(version) = self.bounded(value, &path, 1000) {
                dependencies.push((name, version));
            }
        }
        dependencies
    }

    fn signature(&mut self, value: Value<'_>) -> Option<Signature> {
        let object = self.object(value, "signature", &["algorithm", "value"])?;
        let algorithm = self.required(&object, "algorithm");
        if let Some(value) = algorithm.filter(|value| value.string().as_deref() != Some("SHA-256")) {
            let problem = format!("{} is not known", value.raw());
            self.find(value, "signature.algorithm", problem, "write \"SHA-256\"");
        }
        let value = self.required(&object, "value")?;
        let digits = self.string(value, "signature.value")?;
        if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            self.find(value, "signature.value", "is not 64 hexadecimal digits", "have it computed anew");
            return None;
        }
        let start = value.offset() + 1;
        // Written with escapes it would have no place of 64 digits that the digest could leave out.
        if value.raw().len() != 66 {
            self.find(value, "signature.value", "is written with escapes", "write the digits themselves");
            return None;
        }
        Some(Signature { value: digits.to_ascii_lowercase(), place: start..start + 64 })
    }

    fn permissions(&mut self, value: Value<'_>) -> Option<Permissions> {
        let keys = ["usb", "filesystem", "network", "memory"];
        let object = self.object(value, "permissions", &keys)?;
        let mut permissions = Permissions::default();
        if let Some(usb) = object.get("usb").and_then(|value| self.usb(value)) {
            permissions.usb = usb;
        }
        if let Some(value) = object.get("filesystem") {
            for (index, value) in self.list(value, "permissions.filesystem", 64).into_iter().enumerate() {
                permissions.filesystem.extend(self.file_grant(value, index));
            }
        }
        if let Some(value) = object.get("network") {
            permissions.tcp_ports = self.network(value);
        }
        if let Some(value) = object.get("memory") {
            let keys = ["max_heap_mb", "max_workers"];
            if let Some(memory) = self.object(value, "permissions.memory", &keys) {
                let heap = self.number(&memory, "max_heap_mb", 10, 1024);
                let workers = self.number(&memory, "max_workers", 1, 8);
                permissions.max_heap_mb = heap.unwrap_or(permissions.max_heap_mb);
                permissions.max_workers = workers.unwrap_or(permissions.max_workers);
            }
        }
        Some(permissions)
    }

    fn usb(&mut self, value: Value<'_>) -> Option<UsbPermission> {
        let keys = ["vendor_ids", "product_ids", "device_classes", "open"];
        let object = self.object(value, "permissions.usb", &keys)?;
        let (mut listed, path) = (false, |key: &str| object.path(key));
        let mut numbers = |key: &str, digits: usize| {
            let Some(value) = object.get(key) else { return Vec::new() };
            let items = self.list(value, &path(key), 256);
            listed |= !items.is_empty();
            self.ids(&items, &path(key), digits)
        };
        let vendor_ids = numbers("vendor_ids", 4);
        let product_ids = numbers("product_ids", 4);
        let device_classes = numbers("device_classes", 2);
        let open = object.get("open").map(|value| {
            let open = value.boolean();
            if open.is_none() {
                self.find(value, &path("open"), "is no boolean", "write true or false");
            }
            open == Some(true)
        });
        // Two digits at most have been let through.
        let device_classes =
            device_classes.into_iter().filter_map(|class| u8::try_from(class).ok()).collect();
        Some(UsbPermission { listed, vendor_ids, product_ids, device_classes, open: open == Some(true) })
    }

    /// Empty where one of them is `*`.
    fn ids(&mut self, items: &[Value<'_>], path: &str, digits: usize) -> Vec<u16> {
        let max = if digits == 4 { u16::MAX } else { 0xff };
        let (mut ids, mut any) = (Vec::new(), false);
        for (index, item) in items.iter().enumerate() {
            let text = item.string();
            any |= text.as_deref() == Some("*");
            if text.as_deref() == Some("*") {
                continue;
            }
            let id = match &text {
                Some(text) => hex(text, digits),
                None => item.integer().and_then(|id| u16::try_from(id).ok()).filter(|id| *id <= max),
            };
            match id {
                Some(id) => ids.push(id),
                None => {
                    let example = if digits == 4 { "\"0x046d\"" } else { "\"0x08\"" };
                    let mend = format!("write hexadecimal digits such as {example}, or \"*\" for any");
                    self.find(*item, &format!("{path}[{index}]"), format!("{} is none", item.raw()), mend);
                }
            }
        }
        if any { Vec::new() } else { ids }
    }

    fn file_grant(&mut self, value: Value<'_>, index: usize) -> Option<FileGrant> {
        let key = format!("permissions.filesystem[{index}]");
        let object = self.object(value, &key, &["path", "mode"])?;
        let path = self.required(&object, "path");
        let mode = self.required(&object, "mode");
        let (path, mode) = (path?, mode?);
        let text = self.bounded(path, &object.path("path"), 4096)?;
        let inside = text.starts_with('/') && !text.split('/').any(|part| part == "..");
        if !inside || text.contains(is_control) {
            self.find(
                path,
                &object.path("path"),
                format!("{text:?} is not absolute"),
                "write all of it, without `..`",
            );
        }
        let (read, write) = match mode.string().as_deref() {
            Some("read") => (true, false),
            Some("write") => (false, true),
            Some("readwrite") => (true, true),
            _ => {
                let problem = format!("{} is no mode", mode.raw());
                self.find(mode, &object.path("mode"), problem, "write \"read\", \"write\" or \"readwrite\"");
                return None;
            }
        };
        Some(FileGrant { path: PathBuf::from(text), read, write })
    }

    fn network(&mut self, value: Value<'_>) -> Vec<u16> {
        let Some(object) = self.object(value, "permissions.network", &["outbound"]) else {
            return Vec::new();
        };
        let Some(value) = object.get("outbound") else { return Vec::new() };
        let path = object.path("outbound");
        let mut ports = Vec::new();
        for (index, item) in self.list(value, &path, 64).into_iter().enumerate() {
            let path = format!("{path}[{index}]");
            let Some(text) = self.bounded(item, &path, 1000) else { continue };
            match port(&text) {
                Some(port) => ports.push(port),
                None => {
                    let mend = "write \"HOST:PORT\" or \"https://HOST\"";
                    self.find(item, &path, format!("{text:?} is no host with a port"), mend);
                }
            }
        }
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    fn number<T: TryFrom<i64>>(&mut self, object: &Object<'_>, key: &str, min: i64, max: i64) -> Option<T> {
        let value = object.get(key)?;
        let number = value.integer().filter(|number| (min..=max).contains(number));
        if number.is_none() {
            let problem = format!("is {}", value.raw());
            self.find(value, &object.path(key), problem, format!("write a whole number from {min} to {max}"));
        }
        number.and_then(|number| T::try_from(number).ok())
    }

    fn object<'a>(&mut self, value: Value<'a>, key: &str, known: &[&str]) -> Option<Object<'a>> {
        let Some(all) = value.members() else {
            self.find(value, key, "is no object", "write {…}");
            return None;
        };
        let mut object = Object { value, key: key.to_owned(), members: Vec::new() };
        for (name, value) in all {
            if !known.contains(&name.as_str()) {
                let mend = format!("take it out; known are {}", known.join(", "));
                self.find(value, &object.path(&name), "unknown key", mend);
            } else if object.get(&name).is_some() {
                self.find(value, &object.path(&name), "is there twice", "leave one");
            } else {
                object.members.push((name, value));
            }
        }
        Some(object)
    }

    fn required<'a>(&mut self, object: &Object<'a>, key: &str) -> Option<Value<'a>> {
        let value = object.get(key);
        if value.is_none() {
            self.find(object.value, &object.path(key), "is missing", "add it");
        }
        value
    }

    fn list<'a>(&mut self, value: Value<'a>, path: &str, max: usize) -> Vec<Value<'a>> {
        let items = value.items();
        if items.as_ref().is_none_or(|items| items.len() > max) {
            self.find(value, path, format!("is no list of at most {max}"), "write […]");
        }
        items.unwrap_or_default()
    }

    fn text(&mut self, object: &Object<'_>, key: &str) -> Option<String> {
        object.get(key).and_then(|value| self.bounded(value, key, 1000))
    }

    fn bounded(&mut self, value: Value<'_>, path: &str, max: usize) -> Option<String> {
        let text = self.string(value, path)?;
        if text.chars().count() > max {
            self.find(value, path, format!("longer than {max} characters"), "shorten it");
        }
        Some(text)
    }

    fn string(&mut self, value: Value<'_>, path: &str) -> Option<String> {
        let text = value.string();
        if text.is_none() {
            self.find(value, path, "is no string", "write \"…\"");
        }
        text
    }

    fn find(&mut self, at: Value<'_>, key: &str, problem: impl Into<String>, mend: impl Into<String>) {
        let (problem, mend) = (problem.into(), mend.into());
        self.findings.push(Finding { line: at.line(), key: key.to_owned(), problem, mend });
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn is_control(character: char) -> bool {
    character.is_ascii_control()
}

fn hex(text: &str, digits: usize) -> Option<u16> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?;
    let plain = (1..=digits).contains(&hex.len()) && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u16::from_str_radix(hex, 16).ok()).flatten()
}

/// The port of `[SCHEME://]HOST[:PORT][/PATH]`.
fn port(text: &str) -> Option<u16> {
    let schemes = [("https://", 443), ("wss://", 443), ("http://", 80), ("ws://", 80), ("", 443)];
    let (rest, default) =
        schemes.iter().find_map(|(scheme, port)| Some((text.strip_prefix(scheme)?, *port)))?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if path.contains(|character: char| character.is_ascii_control() || character == ' ') {
        return None;
    }
    let (host, port) = match authority.rsplit_once(':').filter(|(host, _)| is_host(host)) {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let digits = |port: &str| {
        let plain = !port.starts_with('0') && port.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| port.parse().ok()).flatten()
    };
    if !is_host(host) {
        return None;
    }
    port.map_or(Some(default), digits)
}

fn is_host(host: &str) -> bool {
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match inner {
        Some(address) => {
            !address.is_empty()
                && address.bytes().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte))
        }
        None => {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".*_-".contains(&byte);
            !host.is_empty() && host.bytes().all(allowed)
        }
    }
}
