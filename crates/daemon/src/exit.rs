//! How the program ends: the exit codes of `sysexits.h`, each with a sentence that says what to do.

use std::fmt::{self, Display};
use std::io::{self, ErrorKind};
use std::process::ExitCode;

/// Why a command cannot do what it was asked for.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// 64: wrong usage or configuration, found before anything was opened.
    pub fn usage(message: impl Display) -> Self {
        Self::new(64, message)
    }

    /// 69: something the command needs is not available.
    pub fn unavailable(message: impl Display) -> Self {
        Self::new(69, message)
    }

    /// 73: the state directory cannot be used, or another daemon uses it.
    pub fn state(message: impl Display) -> Self {
        Self::new(73, message)
    }

    /// 74: reading or writing failed.
    pub fn io(message: impl Display) -> Self {
        Self::new(74, message)
    }

    /// 1: the daemon was asked how it is, and is not well.
    pub fn unwell(message: impl Display) -> Self {
        Self::new(1, message)
    }

    /// 130: interrupted. Nothing more has to be said.
    pub fn interrupted() -> Self {
        Self::new(130, "")
    }

    /// The outcome of writing to stdout. That the reader has gone, as `head` does, is no failure but an end.
    pub fn stdout(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Self { code: 0, message: String::new() },
            _ => Self::io(format!("cannot write to standard output: {error}")),
        }
    }

    /// Says on stderr what went wrong, now; what is left to be returned is the exit code.
    #[cfg(target_os = "linux")]
    pub fn told(self) -> Self {
        self.report();
        Self { message: String::new(), ..self }
    }

    fn new(code: u8, message: impl Display) -> Self {
        Self { code, message: message.to_string() }
    }

    /// Says on stderr what went wrong, and returns the exit code.
    pub fn report(&self) -> ExitCode {
        for line in self.message.lines() {
            anstream::eprintln!("autoweave-usbd: {line}");
        }
        ExitCode::from(self.code)
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Ends as clap wants it: help and version are no failure; anything else is wrong usage.
pub fn usage(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell if this cannot be printed.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS }
}
