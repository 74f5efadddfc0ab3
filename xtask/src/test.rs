//! `cargo xtask test`: everything a change has to pass, stopping at the first failure.

use std::path::Path;
use std::process::Command;

use clap::Args;

use crate::step::{command, need, release_binary, run as run_command, step, succeeds};
use crate::{fuzz, guest, package, packaging, tidy, tools};

/// Of `cargo xtask test`.
#[derive(Args)]
pub struct Arguments {
    /// Adds what takes long: more cycles in the whole-program tests, all tests in the guest, 60 s of each fuzz target, and
    /// `package-test`
    #[arg(long)]
    all: bool,
    /// Only the tests in the guest, all of them
    #[arg(long, conflicts_with = "all")]
    guest: bool,
}

/// The tests of packages are looked at, too.
const CLIPPY: &[&str] = &["--features", "autoweave-usb-tests/packages", "--", "-D", "warnings"];

const FUZZ_SECONDS: u32 = 60;

const IN_USER_NAMESPACE: &[&str] = &["unshare", "--user", "--map-root-user"];

const NO_NAMESPACES: &str = "\
the tests make mount and network namespaces, which they may not do here. Do one of these:
  - run as root (in a container: one started with `--privileged`);
  - allow user namespaces: `sudo sysctl kernel.unprivileged_userns_clone=1` (Debian),
    `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu 23.10 and later),
    `sudo sysctl user.max_user_namespaces=10000` (where it is 0);
  - install util-linux where `unshare` or `mount` is missing.";

/// Runs every check in order.
///
/// # Errors
/// The first check that fails, or what the tests need and this machine lacks.
pub fn run(arguments: &Arguments) -> Result<(), String> {
    // Asked before anything is built: the answer changes when our own executable is replaced.
    let daemon = release_binary("autoweave-usbd")?;
    let guest = guest::Runner::find()?;
    if arguments.guest {
        run_command(command(&["cargo", "build", "--release"]))?;
        return guest.run(&daemon, true);
    }
    let (mut privileges, mut packaging) = (None, None);
    step("what the tests need", || {
        components()?;
        need("cc", "gcc")?;
        need("redis-server", "redis-server")?;
        need("openssl", "openssl")?;
        need("node", "nodejs")?;
        need("python3", "python3")?;
        tools::install()?;
        let tools = packaging::Tools::install();
        tools::or_skip(
            "the checks of units, Dockerfile, Compose file and chart",
            tools.map(|tools| packaging = Some(tools)),
        )?;
        privileges = Some(find_privileges()?);
        Ok(())
    })?;
    step("tidy", tidy::run)?;
    packaging.map_or(Ok(()), |tools| tools.check())?;
    step("the daemon with kill points", tools::kill_points)?;
    let plan = Plan {
        long: arguments.all,
        daemon: &daemon,
        privileges: privileges.unwrap_or_default(),
        nextest: succeeds(&["cargo", "nextest", "--version"]),
    };
    plan.checks().into_iter().try_for_each(run_command)?;
    match guest::install() {
        Ok(()) => guest.run(&daemon, arguments.all)?,
        missing => tools::or_skip("the tests in the guest", missing)?,
    }
    run_command(plan.tests())?;
    if !arguments.all {
        return Ok(());
    }
    match package::test::needs() {
        Ok(()) => package::test::run()?,
        error => tools::or_skip("the tests of packages", error)?,
    }
    fuzz::run_all(FUZZ_SECONDS)
}

fn components() -> Result<(), String> {
    if succeeds(&["cargo", "fmt", "--version"]) && succeeds(&["cargo", "clippy", "--version"]) {
        return Ok(());
    }
    run_command(command(&["rustup", "component", "add", "rustfmt", "clippy"]))
}

/// The words to put before a test's command line for the CAP_SYS_ADMIN that its namespaces take.
fn find_privileges() -> Result<&'static [&'static str], String> {
    // What the virtual bus does: covers /sys in namespaces of its own.
    let probe: &[&str] = &["unshare", "--mount", "--net", "mount", "-t", "tmpfs", "tmpfs", "/sys"];
    [&[], IN_USER_NAMESPACE]
        .into_iter()
        .find(|privileges| succeeds(&[privileges, probe].concat()))
        .ok_or_else(|| NO_NAMESPACES.to_owned())
}

struct Plan<'a> {
    long: bool,
    daemon: &'a Path,
    privileges: &'static [&'static str],
    nextest: bool,
}

impl Plan<'_> {
    /// What comes before the tests in the guest.
    fn checks(&self) -> Vec<Command> {
        let mut doc = command(&["cargo", "doc", "--workspace", "--no-deps"]);
        doc.env("RUSTDOCFLAGS", "-D warnings");
        vec![
            command(&["cargo", "fmt", "--all", "--check"]),
            command(&[&["cargo", "clippy", "--workspace", "--all-targets"][..], CLIPPY].concat()),
            // Left out of `--all-targets`, as no other test is to run them.
            command(
                &[&["cargo", "clippy", "-p", "autoweave-usb-tests", "--test", "guest"][..], CLIPPY].concat(),
            ),
            doc,
            command(&["cargo", "build", "--release"]),
            // Before the other tests, as the guest's are: a crate without examples closes with "0 passed", and CI
            // takes the last closing line it reads for the whole run's.
            self.test(&["cargo", "test", "--workspace", "--doc"]),
        ]
    }

    /// What comes after them.
    fn tests(&self) -> Command {
        self.test(self.runner())
    }

    fn runner(&self) -> &'static [&'static str] {
        match (self.nextest, self.long) {
            (true, false) => &["cargo", "nextest", "run", "--workspace"],
            (true, true) => &["cargo", "nextest", "run", "--workspace", "--profile", "long"],
            (false, _) => &["cargo", "test", "--workspace", "--lib", "--bins", "--tests"],
        }
    }

    fn test(&self, runner: &[&str]) -> Command {
        let mut command = command(&[self.privileges, runner].concat());
        command.env("AUTOWEAVE_USBD", self.daemon);
        if self.long {
            command.env("AUTOWEAVE_LONG", "1");
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::command_line;

    fn test_lines(long: bool, nextest: bool, privileges: &'static [&'static str]) -> Vec<String> {
        let plan = Plan { long, daemon: Path::new("/t/release/autoweave-usbd"), privileges, nextest };
        let commands = plan.checks().into_iter().chain([plan.tests()]);
        let lines = commands.map(|command| command_line(&command)).collect::<Vec<_>>();
        lines.into_iter().filter(|line| line.contains("AUTOWEAVE_USBD")).collect()
    }

    #[test]
    fn tests_are_given_the_daemon() {
        assert_eq!(
            test_lines(false, true, &[]),
            [
                "AUTOWEAVE_USBD=/t/release/autoweave-usbd cargo test --workspace --doc",
                "AUTOWEAVE_USBD=/t/release/autoweave-usbd cargo nextest run --workspace",
            ]
        );
    }

    #[test]
    fn tests_get_their_privileges_and_long_ones_their_time() {
        let before =
            "AUTOWEAVE_LONG=1 AUTOWEAVE_USBD=/t/release/autoweave-usbd unshare --user --map-root-user";
        let long = test_lines(true, true, IN_USER_NAMESPACE);
        assert_eq!(long[1], format!("{before} cargo nextest run --workspace --profile long"));
        let without_nextest = test_lines(true, false, IN_USER_NAMESPACE);
        assert_eq!(without_nextest[1], format!("{before} cargo test --workspace --lib --bins --tests"));
    }

    #[test]
    fn the_daemon_is_built_before_the_tests_that_run_it() {
        let plan = Plan { long: false, daemon: Path::new("d"), privileges: &[], nextest: true };
        let lines: Vec<_> = plan.checks().iter().map(command_line).collect();
        let at = |text: &str| lines.iter().position(|line| line.contains(text)).unwrap();
        assert!(at("fmt") < at("clippy") && at("clippy") < at("build --release"));
        assert!(at("build --release") < at("AUTOWEAVE_USBD"));
    }
}
