//! The manual pages, in roff (man(7)).

use clap::CommandFactory as _;
use clap_mangen::Man;

use crate::cli::Arguments;
use crate::exit::Failure;

/// What the command line does not say of itself.
const MORE: &str = r#".SH "EXIT STATUS"
.TP
\fB0\fR
Done; a daemon that was asked to stop.
.TP
\fB1\fR
\fBhealth\fR: the daemon is not well, or does not answer.
.TP
\fB64\fR
The command line or the configuration is wrong, which was found before anything was opened.
.TP
\fB69\fR
Something that is needed is not available, such as the port of HTTP.
.TP
\fB73\fR
The state directory cannot be used, or another daemon uses it.
.TP
\fB74\fR
Reading or writing failed.
.TP
\fB130\fR
Interrupted.
.SH FILES
.TP
\fI/etc/autoweave/usbd.toml\fR
The configuration, if \fB\-\-config\fR names no other; for a user's own daemon \fI~/.config/autoweave/usbd.toml\fR.
.TP
\fI/var/lib/autoweave\-usb\fR
The journal: the state directory of root, and of the service. Others have \fI~/.local/state/autoweave\-usb\fR.
.TP
\fI/run/autoweave\-usb/notify.sock\fR
Where the udev helper leaves word.
.SH ENVIRONMENT
.TP
\fBAUTOWEAVE_USB_CONFIG\fR
The configuration file, if \fB\-\-config\fR names none.
.TP
\fBAUTOWEAVE_USB__\fISECTION\fB__\fIKEY\fR
Sets a key, whatever the configuration file says: \fBAUTOWEAVE_USB__MONITORING__BIND=0.0.0.0\fR.
.TP
\fBREDIS_URL\fR, \fBREDIS_HOST\fR, \fBREDIS_PORT\fR, \fBREDIS_PASSWORD\fR, \fBREDIS_DB\fR
Where Redis is.
.TP
\fBSTATE_DIRECTORY\fR, \fBRUNTIME_DIRECTORY\fR
Instead of the directories above, as systemd sets them.
.SH "SEE ALSO"
The keys of the configuration are in docs/configuration.md, all else in the files beside it: below
\fI/usr/share/doc/autoweave\-usb\fR where a package has installed them.
"#;

/// The page of the program.
///
/// # Errors
/// It cannot be made.
pub fn page() -> Result<Vec<u8>, Failure> {
    let mut page = Vec::new();
    Man::new(Arguments::command().disable_help_subcommand(true)).render(&mut page).map_err(Failure::io)?;
    page.extend(MORE.as_bytes());
    Ok(page)
}

/// The pages of its commands, which the program's names, each with the name of its file.
///
/// # Errors
/// One cannot be made.
#[cfg(target_os = "linux")]
pub fn pages_of_commands() -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let mut program = Arguments::command().disable_help_subcommand(true);
    program.build();
    let mut waiting: Vec<_> = program.get_subcommands().cloned().collect();
    let mut pages = Vec::new();
    while let Some(command) = waiting.pop() {
        waiting.extend(command.get_subcommands().cloned());
        let man = Man::new(command);
        let mut page = Vec::new();
        man.render(&mut page).map_err(Failure::io)?;
        pages.push((man.get_filename(), page));
    }
    Ok(pages)
}
