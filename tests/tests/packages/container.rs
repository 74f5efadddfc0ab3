//! The image, run as a container that has nothing but a volume and a read-only `/sys`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use autoweave_usb_testbus::{Bus, Device};
use nix::mount::{MsFlags, mount};
use serde_json::Value;
use tempfile::TempDir;

use crate::{given, network_namespace, said, wait_until};

const IMAGE: &str = "localhost/autoweave-usb-daemon";
const BASE: &str = "localhost/autoweave-usb-base";
const COMPILER: &str = "localhost/autoweave-usb-compiler";

/// Where the compiler's image is given Rust.
const RUST: &str = "/opt/rust";

/// podman with images and containers of its own.
struct Podman {
    place: TempDir,
}

impl Podman {
    /// On the bus of the calling thread.
    fn new() -> Self {
        let podman = Self { place: tempfile::tempdir().unwrap() };
        // A setting of the network namespace, which podman may not change from within it.
        fs::write(podman.place.path().join("containers.conf"), "[containers]\ndefault_sysctls = []\n")
            .unwrap();
        fs::create_dir_all("/sys/fs/cgroup").unwrap();
        let nothing = None::<&str>;
        mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), MsFlags::empty(), nothing).unwrap();
        podman
    }

    fn command(&self, words: &[&str]) -> Command {
        let place = self.place.path();
        let mut podman = Command::new("podman");
        podman.env("CONTAINERS_CONF", place.join("containers.conf")).stdin(Stdio::null());
        podman.arg("--root").arg(place.join("root")).arg("--runroot").arg(place.join("run"));
        podman.args(["--storage-driver=vfs", "--runtime=runc", "--cgroup-manager=cgroupfs"]).args(words);
        podman
    }

    fn run(&self, words: &[&str]) -> String {
        said(&mut self.command(words))
    }

    /// Makes an image of the root of a system.
    fn import(&self, root: &Path, name: &str, changes: &[&str]) {
        let archive = self.place.path().join("root.tar");
        said(Command::new("tar").arg("-C").arg(root).arg("-cf").arg(&archive).arg("."));
        said(self.command(&["import"]).args(changes).arg(&archive).arg(name));
        fs::remove_file(archive).unwrap();
    }

    /// Builds the image from the Dockerfile, with this machine's Rust and the crates that it has fetched: there is no
    /// network. What was compiled is kept for the next time.
    fn build(&self) {
        self.import(&given("AUTOWEAVE_BASE"), BASE, &[]);
        let path = format!("--change=ENV PATH={RUST}/bin:/usr/bin:/bin");
        self.import(&given("AUTOWEAVE_COMPILER"), COMPILER, &[&path]);
        let mut command = self.command(&["build", "--isolation=chroot", "--format=docker", "--layers=false"]);
        command.arg(format!("--build-arg=BUILD_IMAGE={COMPILER}"));
        command.arg(format!("--build-arg=BASE_IMAGE={BASE}"));
        for (variable, at) in [
            ("AUTOWEAVE_TOOLCHAIN", &format!("{RUST}:ro")[..]),
            ("AUTOWEAVE_CRATES", "/root/.cargo/registry:ro"),
            ("AUTOWEAVE_TARGET", "/src/target"),
        ] {
            command.arg(format!("--volume={}:{at}", given(variable).display()));
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let begun = Instant::now();
        said(command.args(["--tag", IMAGE]).arg(source));
        println!("the image was built in {} s", begun.elapsed().as_secs());
    }

    fn start(&self) -> String {
        let namespace = format!("--network=ns:{}", network_namespace());
        let limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000", "--pids-limit=-1"];
        let confined = ["--read-only", "--cap-drop=all", "--security-opt=no-new-privileges"];
        let volumes = ["--volume=/sys:/sys:ro", "--volume=usbd:/var/lib/autoweave-usb"];
        let words = [&["run", "--detach", &namespace][..], &limits, &confined, &volumes, &[IMAGE]].concat();
        self.run(&words).trim().to_owned()
    }

    fn events(&self, container: &str) -> Vec<Value> {
        let lines = self.run(&["exec", container, "autoweave-usbd", "events", "--since", "0", "--json"]);
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.command(&["rm", "--force", "--all", "--time=1"]).output();
        let _ = self.command(&["unmount", "--all"]).output();
    }
}

#[test]
fn a_container_without_privileges_hears_plugs_and_is_healthy() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let podman = Podman::new();
    podman.build();
    let size: u64 = podman.run(&["image", "inspect", "--format={{.Size}}", IMAGE]).trim().parse().unwrap();
    println!("the image has {} MB", size / 1_000_000);
    let container = podman.start();
    let is_well = || {
        let mut check = podman.command(&["healthcheck", "run", &container]);
        check.output().is_ok_and(|output| output.status.success())
    };
    wait_until("its health check succeeds", is_well);

    let pid = podman.run(&["inspect", "--format={{.State.Pid}}", &container]);
    let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap();
    for line in ["Uid:\t65532", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{line:?} is not in:\n{status}");
    }

    bus.plug("1-1", &Device::receiver()).unwrap();
    wait_until("the plug is told", || podman.events(&container).len() >= 2);
    bus.unplug("1-1").unwrap();
    wait_until("the unplug is told", || podman.events(&container).len() >= 3);
    let events = podman.events(&container);
    let told: Vec<_> = events[1..].iter().map(|event| (&event["action"], &event["source"])).collect();
    assert_eq!(
        format!("{told:?}"),
        r#"[(String("attach"), String("uevent")), (String("detach"), String("uevent"))]"#
    );
    assert_eq!(events[1]["device"]["product"], "USB Receiver");

    podman.run(&["stop", "--time=20", &container]);
    let code = podman.run(&["inspect", "--format={{.State.ExitCode}}", &container]);
    assert_eq!(code.trim(), "0", "SIGTERM ends it in good order");
    let again = podman.start();
    wait_until("another container goes on where it ended", || podman.events(&again).len() == 3);
}
