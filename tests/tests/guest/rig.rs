//! A daemon that publishes to a Redis, beside a listener of the kernel's own uevents.

use std::path::Path;

use autoweave_usb_tests::guest::{Daemon, Entry, Gadget, Kernel, Redis, changes, compare, wait_until};
use tempfile::TempDir;

pub struct Rig {
    pub kernel: Kernel,
    pub redis: Redis,
    pub state: TempDir,
    pub daemon: Daemon,
}

impl Rig {
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_under(&[], arguments)
    }

    /// By way of a command that runs what follows.
    pub fn start_under(words: &[&str], arguments: &[&str]) -> Self {
        let (redis, state) = (Redis::start(), tempfile::tempdir().unwrap());
        open_to_all(state.path());
        let daemon = Daemon::start_under(words, &redis, state.path(), arguments);
        Self { kernel: Kernel::listen(), redis, state, daemon }
    }

    /// Plugs and unplugs these together, each time when everything before is told: what is there that long is read in
    /// full on the slowest machine.
    pub fn plug_and_unplug(&mut self, gadgets: &[Gadget], times: usize) {
        for _ in 0..times {
            gadgets.iter().for_each(Gadget::plug);
            self.kernel.wait_for("bind", gadgets.len());
            self.wait();
            gadgets.iter().for_each(Gadget::unplug);
            self.kernel.wait_for("remove", gadgets.len());
            self.wait();
        }
    }

    /// Waits until the stream has an entry for every edge that the kernel told, and returns those entries.
    pub fn wait(&mut self) -> Vec<Entry> {
        let (mut told, expected) = (Vec::new(), self.kernel.edges().len());
        wait_until("the stream has what the kernel told", || {
            // Reading all of it each time would take the daemon's time.
            if self.redis.length() >= expected {
                told = changes(self.redis.entries());
            }
            told.len() >= expected
        });
        told
    }

    /// [`Self::finish_scanning`], where no scan may have been faster than the source.
    pub fn finish(self) -> Vec<Entry> {
        let told = self.finish_scanning();
        for entry in &told {
            assert_eq!(entry.get("reason"), "hotplug", "{entry:?}");
        }
        told
    }

    /// [`Self::wait`]; then stops the daemon and checks that the stream has what the kernel told, and nothing else.
    pub fn finish_scanning(mut self) -> Vec<Entry> {
        self.wait();
        self.daemon.stop();
        let told = changes(self.redis.entries());
        compare(&self.kernel.edges(), &told);
        told
    }
}

pub fn open_to_all(directory: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o777)).unwrap();
}
