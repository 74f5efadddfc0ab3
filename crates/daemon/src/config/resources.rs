//! The resources of a Kubernetes node, as they are written.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::model::Selector;
use super::raw::{Raw, shown};

/// What is allowed, as in "expected …".
pub const EXPECTED: &str =
    "a table of resources, each a table of some of `vendor`, `product`, `class` and `serial`";

/// Each has a socket and connections of its own.
const RESOURCES_MAX: usize = 64;

/// What fits `requests.` and a domain into 253 characters, and the name into 63 (Kubernetes, `IsExtendedResourceName`
/// and `IsQualifiedName`).
const DOMAIN_BYTES_MAX: usize = 253 - "requests.".len();
const NAME_BYTES_MAX: usize = 63;

const SERIAL_BYTES_MAX: usize = 255;

/// Reads a table of resources, which plain text holds as lines of TOML.
///
/// # Errors
/// What is wrong and what is allowed.
pub fn parse(raw: Raw<'_>) -> Result<BTreeMap<String, Selector>, String> {
    match raw {
        Raw::Toml(DeValue::Table(table)) => resources(table),
        Raw::Toml(_) => Err(format!("expected {EXPECTED}, found {}", raw.found())),
        Raw::Text(text) => {
            let table =
                DeTable::parse(text).map_err(|error| format!("not valid TOML: {}", error.message()))?;
            resources(table.get_ref())
        }
    }
}

fn resources(table: &DeTable<'_>) -> Result<BTreeMap<String, Selector>, String> {
    if table.len() > RESOURCES_MAX {
        return Err(format!("{} resources are too many, at most {RESOURCES_MAX}", table.len()));
    }
    let resource = |(name, value): (&toml::Spanned<_>, &toml::Spanned<_>)| {
        let name: &str = AsRef::<str>::as_ref(name.get_ref());
        check_name(name)?;
        let selector = selector(value.get_ref());
        Ok((name.to_owned(), selector.map_err(|problem| format!("`{name}`: {problem}"))?))
    };
    let resources: BTreeMap<_, _> = table.iter().map(resource).collect::<Result<_, String>>()?;
    let mut names: BTreeMap<String, &str> = BTreeMap::new();
    for name in resources.keys() {
        if let Some(other) = names.insert(variables(name), name) {
            return Err(format!(
                "`{other}` and `{name}` differ in signs or capitals only, and a container's variables would not"
            ));
        }
    }
    Ok(resources)
}

/// What the names of the variables that a container gets begin with, but for capitals.
fn variables(name: &str) -> String {
    name.replace(|c: char| !c.is_ascii_alphanumeric(), "_").to_ascii_lowercase()
}

fn check_name(name: &str) -> Result<(), String> {
    let refused = |why: &str| Err(format!("`{}` is no name of a resource: {why}", shown(name)));
    let Some((domain, last)) = name.split_once('/') else {
        return refused("expected a domain of yours, a slash and a name, such as `autoweave.dev/usb-camera`");
    };
    let is_label = |label: &str| {
        let is_inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.bytes().all(is_inside) && !label.starts_with('-') && !label.ends_with('-')
    };
    if domain.len() > DOMAIN_BYTES_MAX || !domain.split('.').all(is_label) {
        return refused("what is before the slash is no domain in lower case");
    }
    if domain == "kubernetes.io" || domain.ends_with(".kubernetes.io") || domain.starts_with("requests.") {
        return refused("that domain is Kubernetes' own");
    }
    let is_inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let ends = [last.bytes().next(), last.bytes().last()];
    let ends_well = ends.iter().all(|end| end.is_some_and(|byte| byte.is_ascii_alphanumeric()));
    if last.len() > NAME_BYTES_MAX || !ends_well || !last.bytes().all(is_inside) {
        return refused(
            "expected up to 63 letters, digits and `-_.` after the slash, first and last no sign",
        );
    }
    Ok(())
}

fn selector(value: &DeValue<'_>) -> Result<Selector, String> {
    let DeValue::Table(table) = value else {
        return Err("expected a table such as `{ vendor = \"046d\", class = 14 }`".to_owned());
    };
    let mut selector = Selector::default();
    for (key, value) in table {
        let value = Raw::Toml(value.get_ref());
        match AsRef::<str>::as_ref(key.get_ref()) {
            "vendor" => selector.vendor_id = Some(id(key.get_ref(), value)?),
            "product" => selector.product_id = Some(id(key.get_ref(), value)?),
            "class" => selector.class = Some(id(key.get_ref(), value)?),
            "serial" => selector.serial_number = Some(serial(value)?),
            other => {
                let other = shown(other);
                return Err(format!(
                    "unknown key `{other}`; there are `vendor`, `product`, `class`, `serial`"
                ));
            }
        }
    }
    if selector.specificity() == 0 {
        return Err(
            "every device would do; name some of `vendor`, `product`, `class` and `serial`".to_owned()
        );
    }
    if selector.product_id.is_some() && selector.vendor_id.is_none() {
        return Err("`product` needs `vendor`: each vendor gives its products numbers of its own".to_owned());
    }
    Ok(selector)
}

fn id<T: TryFrom<i128>>(key: &str, value: Raw<'_>) -> Result<T, String> {
    let number = value.id().and_then(|number| T::try_from(number).ok());
    let max = (1_u64 << (8 * size_of::<T>())) - 1;
    number.ok_or_else(|| format!("`{key}`: expected an integer from 0 to {max} or hex digits in a string"))
}

fn serial(value: Raw<'_>) -> Result<String, String> {
    let serial = value.string().filter(|serial| {
        let is_printable = !serial.chars().any(char::is_control);
        !serial.is_empty() && serial.len() <= SERIAL_BYTES_MAX && is_printable
    });
    let expected = format!("`serial`: expected a string of 1 to {SERIAL_BYTES_MAX} bytes");
    serial.map(str::to_owned).ok_or(expected)
}
