//! What belongs where: the Filesystem Hierarchy Standard 3.0, systemd.unit(5), udev(7), and where shells look.

use std::path::{Path, PathBuf};

use clap_complete::Shell;

use crate::commands::{completions, manual};
use crate::config::commented_toml;
use crate::exit::Failure;

const SERVICE: &str = include_str!("../../../../../packaging/systemd/autoweave-usb.service");
const SOCKET: &str = include_str!("../../../../../packaging/systemd/autoweave-usb.socket");
const PLUGINS: &str = include_str!("../../../../../packaging/systemd/plugins.conf");
const RULES_TEXT: &str = include_str!("../../../../../packaging/udev/99-autoweave-usb.rules");

/// Where the unit looks for the program, and where the rules look for the helper.
const PROGRAM_OF_THE_UNIT: &str = "/usr/bin/autoweave-usbd";
const HELPER_OF_THE_RULES: &str = "/usr/local/bin/autoweave-udev-notify";

/// The directory of the program that an administrator installs, and of one that a package brings.
pub const LOCAL: &str = "/usr/local";
pub const PACKAGED: &str = "/usr";

/// The configuration, which is the administrator's once it is there.
pub const CONFIGURATION: &str = "/etc/autoweave/usbd.toml";

/// Where an administrator's rules are.
pub const RULES: &str = "/etc/udev/rules.d/99-autoweave-usb.rules";

/// One file to install.
#[derive(Debug)]
pub struct Item {
    /// Where it goes.
    pub path: PathBuf,
    /// What it is.
    pub content: Content,
}

/// What a file is.
#[derive(Debug)]
pub enum Content {
    /// This program, mode 0755.
    Program,
    /// A symbolic link to this name.
    Link(&'static str),
    /// Bytes, mode 0644.
    Bytes(Vec<u8>),
    /// Bytes, mode 0640, that are left alone where there is a file already, and at an uninstall. The daemon's group has
    /// to be given them.
    Configuration(Vec<u8>),
}

/// All files of an installation below `prefix` ([`LOCAL`] or [`PACKAGED`]) whose udev helper is called `helper`.
///
/// # Errors
/// The manual page cannot be made.
pub fn items(prefix: &Path, helper: &Path) -> Result<Vec<Item>, Failure> {
    let program = program(prefix);
    let share = prefix.join("share");
    // An administrator's units and rules are in /etc, where they also win over a package's.
    let is_packaged = prefix == Path::new(PACKAGED);
    let system = |directory: &str| {
        if is_packaged { prefix.join("lib").join(directory) } else { Path::new("/etc").join(directory) }
    };
    let text = |path: PathBuf, text: String| Item { path, content: Content::Bytes(text.into_bytes()) };
    let service = SERVICE.replace(PROGRAM_OF_THE_UNIT, &program.display().to_string());
    let plugins = PLUGINS.replace(PROGRAM_OF_THE_UNIT, &program.display().to_string());
    let rules = RULES_TEXT.replace(HELPER_OF_THE_RULES, &helper.display().to_string());
    let zsh = if is_packaged { "zsh/vendor-completions" } else { "zsh/site-functions" };
    let completion = |directory: &str, name: &str, shell| Item {
        path: share.join(directory).join(name),
        content: Content::Bytes(completions(shell)),
    };
    let configuration = commented_toml(helper).into_bytes();
    let mut items = vec![
        Item { path: program, content: Content::Program },
        // Relative where both are in one directory, so that a package can be moved.
        Item { path: helper.to_owned(), content: Content::Link(link(prefix, helper)) },
        Item { path: CONFIGURATION.into(), content: Content::Configuration(configuration) },
        text(system("systemd/system/autoweave-usb.service"), service),
        text(system("systemd/system/autoweave-usb.socket"), SOCKET.to_owned()),
        text(system("udev/rules.d/99-autoweave-usb.rules"), rules),
        text(share.join("doc/autoweave-usb/plugins.conf"), plugins),
        Item { path: share.join("man/man1/autoweave-usbd.1"), content: Content::Bytes(manual::page()?) },
        completion("bash-completion/completions", "autoweave-usbd", Shell::Bash),
        completion(zsh, "_autoweave-usbd", Shell::Zsh),
        completion("fish/vendor_completions.d", "autoweave-usbd.fish", Shell::Fish),
    ];
    items.extend(
        manual::pages_of_commands()?.into_iter().map(|(name, page)| Item {
            path: share.join("man/man1").join(name),
            content: Content::Bytes(page),
        }),
    );
    Ok(items)
}

/// Where the program goes.
pub fn program(prefix: &Path) -> PathBuf {
    prefix.join("bin/autoweave-usbd")
}

/// What a link at `helper` has to say to lead to the program.
fn link(prefix: &Path, helper: &Path) -> &'static str {
    match (helper.parent() == Some(&prefix.join("bin")), prefix == Path::new(PACKAGED)) {
        (true, _) => "autoweave-usbd",
        (false, true) => "/usr/bin/autoweave-usbd",
        (false, false) => "/usr/local/bin/autoweave-usbd",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(items: &'a [Item], name: &str) -> (&'a Path, String) {
        let item = items.iter().find(|item| item.path.ends_with(name)).unwrap();
        let text = match &item.content {
            Content::Bytes(bytes) | Content::Configuration(bytes) => {
                String::from_utf8_lossy(bytes).into_owned()
            }
            Content::Link(to) => (*to).to_owned(),
            Content::Program => String::new(),
        };
        (&item.path, text)
    }

    #[test]
    fn what_refers_to_the_program_finds_it() {
        for (prefix, units, zsh) in [
            (PACKAGED, "/usr/lib/systemd/system", "/usr/share/zsh/vendor-completions/_autoweave-usbd"),
            (LOCAL, "/etc/systemd/system", "/usr/local/share/zsh/site-functions/_autoweave-usbd"),
        ] {
            let helper = Path::new(prefix).join("bin/autoweave-udev-notify");
            let items = items(Path::new(prefix), &helper).unwrap();
            let (path, service) = find(&items, "autoweave-usb.service");
            assert_eq!(path.parent(), Some(Path::new(units)));
            let run = format!("\nExecStart={prefix}/bin/autoweave-usbd run");
            assert!(service.contains(&format!("{run} --role watcher\n")), "{service}");
            let (_, plugins) = find(&items, "plugins.conf");
            assert!(plugins.contains(&format!("\nExecStart={run}\n")), "{plugins}");
            let (_, rules) = find(&items, "99-autoweave-usb.rules");
            assert_eq!(rules.matches(&format!("RUN+=\"{} ", helper.display())).count(), 2, "{rules}");
            assert_eq!(find(&items, "autoweave-udev-notify"), (&*helper, "autoweave-usbd".to_owned()));
            assert!(items.iter().any(|item| item.path == Path::new(zsh)));
        }
    }

    #[test]
    fn a_helper_elsewhere_leads_to_the_program() {
        let helper = Path::new("/opt/autoweave/autoweave-udev-notify");
        let items = items(Path::new(LOCAL), helper).unwrap();
        assert_eq!(
            find(&items, "autoweave-udev-notify"),
            (helper, "/usr/local/bin/autoweave-usbd".to_owned())
        );
        let (_, configuration) = find(&items, "usbd.toml");
        let set = "\nfallback.udev_script_path = \"/opt/autoweave/autoweave-udev-notify\"\n";
        assert!(configuration.contains(set), "{configuration}");
    }
}
