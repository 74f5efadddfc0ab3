//! The list of USB ids (<http://www.linux-usb.org/usb-ids.html>), as `build.rs` writes it.

/// A line each, sorted: the id, a tab, the name.
const NAMES: &str = include_str!(concat!(env!("OUT_DIR"), "/usb_names.txt"));

/// A vendor's name.
pub fn vendor(id: u16) -> Option<&'static str> {
    find(&format!("{id:04x}"))
}

/// A product's name.
pub fn product(vendor: u16, id: u16) -> Option<&'static str> {
    find(&format!("{vendor:04x}:{id:04x}"))
}

/// A class's name.
pub fn class(id: u8) -> Option<&'static str> {
    find(&format!("class {id:02x}"))
}

/// Looks at about 15 lines.
fn find(id: &str) -> Option<&'static str> {
    let mut rest = NAMES;
    while !rest.is_empty() {
        // By bytes: the middle may be amid a character.
        let before = &rest.as_bytes()[..rest.len() / 2];
        let begin = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let end = rest[begin..].find('\n').map_or(rest.len(), |end| begin + end + 1);
        let (found, name) = rest[begin..end].trim_end_matches('\n').split_once('\t')?;
        match found.cmp(id) {
            std::cmp::Ordering::Equal => return Some(name),
            std::cmp::Ordering::Less => rest = &rest[end..],
            std::cmp::Ordering::Greater => rest = &rest[..begin],
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_found_and_nothing_else() {
        for line in NAMES.lines() {
            let (id, name) = line.split_once('\t').unwrap();
            assert_eq!(find(id), Some(name));
        }
        assert!(NAMES.lines().is_sorted() && NAMES.lines().count() > 20_000);
        assert_eq!(
            (vendor(0x046d), product(0x046d, 0xc52b)),
            (Some("Logitech, Inc."), Some("Unifying Receiver"))
        );
        assert_eq!(
            (class(9), vendor(0xffff), product(0xffff, 1), class(0xf0)),
            (Some("Hub"), None, None, None)
        );
        assert_eq!((find(""), find("~")), (None, None));
    }
}
