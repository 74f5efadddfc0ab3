//! Where each operating system wants things to be kept.

use std::path::PathBuf;

/// The operating systems that differ in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum System {
    /// Linux: the Filesystem Hierarchy Standard 3.0 and the XDG Base Directory Specification 0.8.
    Linux,
    /// macOS: Apple's File System Programming Guide, "Library directories".
    MacOs,
    /// Windows: the known folders `ProgramData`, `LocalAppData` and `RoamingAppData`, by their variables.
    Windows,
}

impl System {
    /// This one.
    pub const HERE: Self = if cfg!(windows) {
        Self::Windows
    } else if cfg!(target_os = "macos") {
        Self::MacOs
    } else {
        Self::Linux
    };

    /// Where a configuration file may be: the machine's and the user's. `variable` gives the value of an environment
    /// variable as a path, if it is absolute.
    pub fn configuration_files(
        self,
        variable: impl Fn(&str) -> Option<PathBuf>,
    ) -> (Option<PathBuf>, Option<PathBuf>) {
        let (machine, user) = match self {
            Self::Linux => {
                let home = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
                (Some("/etc/autoweave".into()), home.map(|home| home.join("autoweave")))
            }
            Self::MacOs | Self::Windows => (self.machine(&variable), self.user("APPDATA", &variable)),
        };
        let file = |directory: Option<PathBuf>| Some(directory?.join("usbd.toml"));
        (file(machine), file(user))
    }

    /// Where a daemon that names no directory keeps its journal: the machine's if it `is_privileged`, else the user's.
    /// None where the variables that it depends on are not set.
    pub fn state_directory(
        self,
        is_privileged: bool,
        variable: impl Fn(&str) -> Option<PathBuf>,
    ) -> Option<PathBuf> {
        match self {
            _ if is_privileged => self.machine(&variable),
            Self::Linux => {
                let state =
                    variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")));
                state.map(|state| state.join("autoweave-usb"))
            }
            Self::MacOs | Self::Windows => self.user("LOCALAPPDATA", &variable),
        }
    }

    /// The variables that [`Self::state_directory`] depends on for a user.
    pub fn state_variables(self) -> &'static str {
        match self {
            Self::Linux => "neither $XDG_STATE_HOME nor $HOME is set",
            Self::MacOs => "$HOME is not set",
            Self::Windows => "neither %ProgramData% nor %LOCALAPPDATA% is set",
        }
    }

    fn machine(self, variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
        let parent = match self {
            Self::Linux => "/var/lib".into(),
            Self::MacOs => "/Library/Application Support".into(),
            Self::Windows => variable("ProgramData")?,
        };
        Some(parent.join("autoweave-usb"))
    }

    /// A user's own directory; Windows has one for each `kind` of file.
    fn user(self, kind: &str, variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
        let parent = if self == Self::Windows {
            variable(kind)?
        } else {
            variable("HOME")?.join("Library/Application Support")
        };
        Some(parent.join("autoweave-usb"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str) -> Option<PathBuf> {
        let value = match name {
            "HOME" => "/h",
            "ProgramData" => "/ProgramData",
            "LOCALAPPDATA" => "/u/Local",
            "APPDATA" => "/u/Roaming",
            _ => return None,
        };
        Some(value.into())
    }

    #[test]
    fn every_system_has_its_places() {
        for (system, machine, user) in [
            (System::Linux, "/var/lib/autoweave-usb", "/h/.local/state/autoweave-usb"),
            (
                System::MacOs,
                "/Library/Application Support/autoweave-usb",
                "/h/Library/Application Support/autoweave-usb",
            ),
            (System::Windows, "/ProgramData/autoweave-usb", "/u/Local/autoweave-usb"),
        ] {
            assert_eq!(system.state_directory(true, variable), Some(machine.into()));
            assert_eq!(system.state_directory(false, variable), Some(user.into()));
            assert_eq!(system.state_directory(false, |_| None), None);
        }
        let files = |system: System| system.configuration_files(variable);
        assert_eq!(
            files(System::MacOs),
            (
                Some("/Library/Application Support/autoweave-usb/usbd.toml".into()),
                Some("/h/Library/Application Support/autoweave-usb/usbd.toml".into())
            )
        );
        assert_eq!(
            files(System::Windows),
            (
                Some("/ProgramData/autoweave-usb/usbd.toml".into()),
                Some("/u/Roaming/autoweave-usb/usbd.toml".into())
            )
        );
    }
}
