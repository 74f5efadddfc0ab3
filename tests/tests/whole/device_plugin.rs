//! `autoweave-usbd device-plugin`, beside a kubelet.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use autoweave_usb_device_plugin::api::{
    self, AllocateRequest, AllocateResponse, ContainerAllocateRequest, ContainerPreferredAllocationRequest,
    Empty, PreferredAllocationRequest, PreferredAllocationResponse,
};
use autoweave_usb_testbus::{Bus, Device};
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tonic::Code;

use crate::harness::{command, wait_until};
use crate::kubelet::{Kubelet, Manner, USUAL, endpoint};
use crate::program::{CALM, Running, files, finish};

const STICKS: &str = "autoweave.dev/usb-stick";
const KEYS: &str = "autoweave.dev/usb-input";
const RESOURCES: &str =
    "\"autoweave.dev/usb-stick\" = { class = 8 }\n\"autoweave.dev/usb-input\" = { class = 3 }";

const STICK: &str = "0781:5581:S1";
const RECEIVER: &str = "046d:c52b:ABC123";

const HEALTHY: &str = api::HEALTHY;
const UNHEALTHY: &str = api::UNHEALTHY;

/// A node of a cluster: a bus, and the directory that kubelet and plugin share.
struct Node {
    bus: Bus,
    shared: TempDir,
}

impl Node {
    fn new() -> Self {
        let mut bus = Bus::enter().unwrap();
        bus.add_root_hub(1).unwrap();
        bus.add_root_hub(2).unwrap();
        Self { bus, shared: tempfile::tempdir().unwrap() }
    }

    fn directory(&self) -> &Path {
        self.shared.path()
    }

    fn command(&self, resources: &str) -> Command {
        let mut command = command(CALM);
        command
            .arg("device-plugin")
            .args(["--source", "uevent"])
            .env("AUTOWEAVE_USB__DEVICE_PLUGIN__DIRECTORY", self.directory())
            .env("AUTOWEAVE_USB__DEVICE_PLUGIN__RESOURCES", resources);
        command
    }

    fn start(&self, resources: &str) -> Running {
        Running::start(&mut self.command(resources))
    }
}

fn allocate(kubelet: &Kubelet, resource: &str, ids: &[&str]) -> Result<AllocateResponse, Code> {
    let devices_ids = ids.iter().map(|id| (*id).to_owned()).collect();
    let question = AllocateRequest { container_requests: vec![ContainerAllocateRequest { devices_ids }] };
    kubelet.ask(resource, api::ALLOCATE, question).map_err(|status| status.code())
}

#[test]
fn a_device_is_healthy_while_it_is_plugged_in_under_the_same_id() {
    let mut node = Node::new();
    node.bus.plug_silent("1-1", &Device::storage("S1")).unwrap();
    let kubelet = Kubelet::start(node.directory(), USUAL);
    let plugin = node.start(RESOURCES);
    kubelet.wait_for(STICKS, &[(STICK, HEALTHY)]);
    kubelet.wait_for(KEYS, &[]);
    let mut names: Vec<_> = kubelet.registered().into_iter().map(|asked| asked.resource_name).collect();
    names.sort();
    assert_eq!(names, [KEYS, STICKS]);
    let asked = kubelet.registered().remove(0);
    assert_eq!((asked.version.as_str(), asked.endpoint), ("v1beta1", endpoint(&asked.resource_name)));
    assert_eq!(asked.options.as_ref(), kubelet.options().first());
    assert!(kubelet.options()[0].get_preferred_allocation_available);
    assert!(!kubelet.options()[0].pre_start_required);

    node.bus.unplug("1-1").unwrap();
    kubelet.wait_for(STICKS, &[(STICK, UNHEALTHY)]);
    node.bus.plug("1-1", &Device::storage("S1")).unwrap();
    kubelet.wait_for(STICKS, &[(STICK, HEALTHY)]);
    node.bus.unplug("1-1").unwrap();
    // With a serial number it is the same device in another port as well.
    node.bus.plug("2-3", &Device::storage("S1")).unwrap();
    kubelet.wait_for(STICKS, &[(STICK, HEALTHY)]);

    // Two of a kind without serial numbers are told apart by their ports.
    let nameless = Device { serial: None, ..Device::receiver() };
    node.bus.plug("1-2", &nameless).unwrap();
    node.bus.plug("1-4", &nameless).unwrap();
    let (two, four) = ("046d:c52b@1-2", "046d:c52b@1-4");
    kubelet.wait_for(KEYS, &[(two, HEALTHY), (four, HEALTHY)]);
    node.bus.unplug("1-2").unwrap();
    kubelet.wait_for(KEYS, &[(two, UNHEALTHY), (four, HEALTHY)]);
    node.bus.unplug("1-4").unwrap();
    node.bus.plug("1-2", &nameless).unwrap();
    kubelet.wait_for(KEYS, &[(two, HEALTHY), (four, UNHEALTHY)]);

    assert_eq!(plugin.end(Signal::SIGTERM).code(), 0);
    assert_eq!(files(node.directory()), ["autoweave-usb", api::KUBELET_SOCKET]);
}

#[test]
fn devices_with_one_serial_number_keep_their_ids_over_moves_and_restarts() {
    const THIRD: &str = "0781:5581:S1@1-3";
    const FIFTH: &str = "0781:5581:S1@1-5";
    let mut node = Node::new();
    let twin = Device::storage("S1");
    let first = node.bus.plug_silent("1-4", &twin).unwrap();
    let kubelet = Kubelet::start(node.directory(), USUAL);
    let plugin = node.start(RESOURCES);
    kubelet.wait_for(STICKS, &[(STICK, HEALTHY)]);
    let second = node.bus.plug("1-3", &twin).unwrap();
    kubelet.wait_for(STICKS, &[(STICK, HEALTHY), (THIRD, HEALTHY)]);

    // Both are there when it starts again, in the order of their ports.
    let own = |kubelet: &Kubelet, id| {
        allocate(kubelet, STICKS, &[id]).unwrap().container_responses.remove(0).devices.remove(0).host_path
    };
    let node_of = |address: u8| format!("/dev/bus/usb/001/{address:03}");
    assert_eq!(plugin.end(Signal::SIGTERM).code(), 0);
    let kubelet = Kubelet::start(node.directory(), USUAL);
    let plugin = node.start(RESOURCES);
    kubelet.wait_for(STICKS, &[(STICK, HEALTHY), (THIRD, HEALTHY)]);
    assert_eq!((own(&kubelet, STICK), own(&kubelet, THIRD)), (node_of(first), node_of(second)));

    node.bus.unplug("1-3").unwrap();
    node.bus.plug("1-5", &twin).unwrap();
    kubelet.wait_for(STICKS, &[(STICK, HEALTHY), (THIRD, UNHEALTHY), (FIFTH, HEALTHY)]);
    let third = node.bus.plug("1-3", &twin).unwrap();
    kubelet.wait_for(STICKS, &[(STICK, HEALTHY), (THIRD, HEALTHY), (FIFTH, HEALTHY)]);
    assert_eq!(own(&kubelet, THIRD), node_of(third));

    // One that remembers nothing has ids as well, and says so.
    drop(plugin.end(Signal::SIGKILL));
    fs::write(node.directory().join("autoweave-usb/ids"), "what is that").unwrap();
    let kubelet = Kubelet::start(node.directory(), USUAL);
    let plugin = node.start(RESOURCES);
    kubelet.wait_for(STICKS, &[(THIRD, HEALTHY), ("0781:5581:S1@1-4", HEALTHY), (FIFTH, HEALTHY)]);
    plugin.wait_for_stderr("autoweave-usb/ids cannot be used: it is damaged");
}

#[test]
fn a_container_gets_a_devices_nodes() {
    let mut node = Node::new();
    let devnum = node.bus.plug("1-1", &Device::storage("S1")).unwrap();
    node.bus.plug("2-1", &Device::storage("S2")).unwrap();
    let disk = fs::canonicalize("/sys/bus/usb/devices/1-1:1.0").unwrap().join("host0/block/sdb");
    fs::create_dir_all(&disk).unwrap();
    fs::write(disk.join("uevent"), "MAJOR=8\nMINOR=16\nDEVNAME=sdb\nDEVTYPE=disk\n").unwrap();
    let kubelet = Kubelet::start(node.directory(), USUAL);
    let _plugin = node.start(RESOURCES);
    kubelet.wait_for(STICKS, &[(STICK, HEALTHY), ("0781:5581:S2", HEALTHY)]);

    let given = allocate(&kubelet, STICKS, &[STICK]).unwrap().container_responses.remove(0);
    let own = format!("/dev/bus/usb/001/{devnum:03}");
    let paths: Vec<_> = given.devices.iter().map(|node| node.host_path.as_str()).collect();
    assert_eq!(paths, [&own, "/dev/sdb"]);
    assert!(given.devices.iter().all(|n| n.container_path == n.host_path && n.permissions == "rw"));
    assert_eq!(given.envs["AUTOWEAVE_DEV_USB_STICK_IDS"], STICK);
    assert_eq!(given.envs["AUTOWEAVE_DEV_USB_STICK_NODES"], format!("{own},/dev/sdb"));

    let container = ContainerPreferredAllocationRequest {
        available_device_ids: vec!["0781:5581:S2".to_owned(), STICK.to_owned()],
        must_include_device_ids: Vec::new(),
        allocation_size: 1,
    };
    let question = PreferredAllocationRequest { container_requests: vec![container] };
    let preferred: PreferredAllocationResponse =
        kubelet.ask(STICKS, api::GET_PREFERRED_ALLOCATION, question).unwrap();
    assert_eq!(preferred.container_responses[0].device_ids, [STICK]);

    assert_eq!(allocate(&kubelet, STICKS, &["0781:5581:S9"]), Err(Code::NotFound));
    assert_eq!(allocate(&kubelet, KEYS, &[STICK]), Err(Code::NotFound));
    node.bus.unplug("1-1").unwrap();
    kubelet.wait_for(STICKS, &[(STICK, UNHEALTHY), ("0781:5581:S2", HEALTHY)]);
    assert_eq!(allocate(&kubelet, STICKS, &[STICK]), Err(Code::Unavailable));
    // It has another address now, and so another node.
    let devnum = node.bus.plug("1-1", &Device::storage("S1")).unwrap();
    kubelet.wait_for(STICKS, &[(STICK, HEALTHY), ("0781:5581:S2", HEALTHY)]);
    let given = allocate(&kubelet, STICKS, &[STICK]).unwrap().container_responses.remove(0);
    assert_eq!(given.devices[0].host_path, format!("/dev/bus/usb/001/{devnum:03}"));
}

#[test]
fn a_device_that_two_resources_match_belongs_to_the_one_that_names_more() {
    let mut node = Node::new();
    node.bus.plug_silent("1-1", &Device::storage("S1")).unwrap();
    node.bus.plug_silent("1-2", &Device::storage("S2")).unwrap();
    let kubelet = Kubelet::start(node.directory(), USUAL);
    let one = "\"autoweave.dev/the-one\" = { class = 8, serial = \"S2\" }";
    let _plugin = node.start(&format!("{RESOURCES}\n{one}"));
    kubelet.wait_for(STICKS, &[(STICK, HEALTHY)]);
    kubelet.wait_for("autoweave.dev/the-one", &[("0781:5581:S2", HEALTHY)]);
}

#[test]
fn a_kubelet_that_starts_is_told_of_everything() {
    let mut node = Node::new();
    node.bus.plug_silent("1-1", &Device::storage("S1")).unwrap();
    let plugin = node.start(RESOURCES);
    plugin.wait_for_stderr("waiting for the kubelet");
    for round in 0..5 {
        let kubelet = Kubelet::start(node.directory(), USUAL);
        kubelet.wait_for(STICKS, &[(STICK, HEALTHY)]);
        kubelet.wait_for(KEYS, &[]);
        if round == 3 {
            // Somebody tidied up.
            fs::remove_file(node.directory().join(endpoint(STICKS))).unwrap();
            wait_until("it is registered again", || kubelet.registered().len() >= 3);
            node.bus.unplug("1-1").unwrap();
            kubelet.wait_for(STICKS, &[(STICK, UNHEALTHY)]);
            node.bus.plug("1-1", &Device::storage("S1")).unwrap();
            kubelet.wait_for(STICKS, &[(STICK, HEALTHY)]);
        }
    }
    // The last one is gone: what happens meanwhile the next one hears.
    node.bus.unplug("1-1").unwrap();
    let kubelet = Kubelet::start(node.directory(), USUAL);
    kubelet.wait_for(STICKS, &[(STICK, UNHEALTHY)]);
    assert_eq!(plugin.end(Signal::SIGINT).code(), 0);
}

#[test]
fn a_kubelet_that_ceases_to_watch_is_told_again() {
    let mut node = Node::new();
    node.bus.plug_silent("1-1", &Device::storage("S1")).unwrap();
    let kubelet = Kubelet::start(node.directory(), USUAL);
    let plugin = node.start(RESOURCES);
    kubelet.wait_for(STICKS, &[(STICK, HEALTHY)]);
    kubelet.wait_for(KEYS, &[]);
    for round in 1..=3 {
        kubelet.cut();
        wait_until("both are registered again", || kubelet.registered().len() >= 2 + 2 * round);
        node.bus.unplug("1-1").unwrap();
        kubelet.wait_for(STICKS, &[(STICK, UNHEALTHY)]);
        node.bus.plug("1-1", &Device::storage("S1")).unwrap();
        kubelet.wait_for(STICKS, &[(STICK, HEALTHY)]);
    }
    plugin.wait_for_stderr("the kubelet does not watch autoweave.dev/usb-stick any longer");
    assert_eq!(plugin.end(Signal::SIGTERM).code(), 0);
}

#[test]
fn a_kubelet_that_never_watches_is_told_ever_more_seldom() {
    let node = Node::new();
    let kubelet = Kubelet::start(node.directory(), Manner { watches: false, ..USUAL });
    let began = Instant::now();
    let _plugin = node.start(RESOURCES);
    wait_until("it is registered many times", || kubelet.registered().len() >= 14);
    // Seven rounds with six waits between them, the first of 20 ms.
    assert!(began.elapsed() > Duration::from_millis(20 * 63), "after {:?}", began.elapsed());
}

#[test]
fn a_kubelet_is_told_of_nothing_before_the_bus_could_be_scanned() {
    let mut node = Node::new();
    node.bus.plug_silent("1-1", &Device::storage("S1")).unwrap();
    let (devices, aside) = (Path::new("/sys/bus/usb/devices"), Path::new("/sys/bus/usb/aside"));
    fs::rename(devices, aside).unwrap();
    fs::write(devices, "").unwrap();
    let kubelet = Kubelet::start(node.directory(), USUAL);
    let plugin = Running::start(node.command(RESOURCES).env("AUTOWEAVE_USB__MONITORING__INTERVAL", "100"));
    let failures = || plugin.stderr().matches("the bus cannot be scanned").count();
    wait_until("it has tried a few times", || failures() >= 3);
    assert_eq!(files(node.directory()), [api::KUBELET_SOCKET]);
    fs::remove_file(devices).unwrap();
    fs::rename(aside, devices).unwrap();
    kubelet.wait_for(STICKS, &[(STICK, HEALTHY)]);
    let sticks = kubelet.told().into_iter().find(|told| told.resource == STICKS).unwrap();
    assert_eq!(sticks.devices.len(), 1);
}

#[test]
fn a_resource_whose_name_is_too_long_for_a_socket_has_one() {
    let mut node = Node::new();
    node.bus.plug_silent("1-1", &Device::storage("S1")).unwrap();
    let long = format!("autoweave.dev/{}", "x".repeat(63));
    let shared = node.directory().join("a-directory-as-deep-as-microk8s-has-it-for-the-kubelet");
    fs::create_dir(&shared).unwrap();
    let kubelet = Kubelet::start(&shared, USUAL);
    let mut command = node.command(&format!("\"{long}\" = {{ class = 8 }}"));
    let _plugin = Running::start(command.env("AUTOWEAVE_USB__DEVICE_PLUGIN__DIRECTORY", &shared));
    kubelet.wait_for(&long, &[(STICK, HEALTHY)]);
    assert!(kubelet.registered()[0].endpoint.len() < 32, "{:?}", kubelet.registered());
}

#[test]
fn a_slow_kubelet_is_told_the_newest_and_little_before() {
    const PLUGS: usize = 200;
    let mut node = Node::new();
    let kubelet = Kubelet::start(node.directory(), Manner { window: 64, ..USUAL });
    let _plugin = node.start(RESOURCES);
    kubelet.wait_for(STICKS, &[]);
    kubelet.wait_for(KEYS, &[]);
    kubelet.read_on(false);
    // The read that waits already takes one more.
    node.bus.plug("1-1", &Device::storage("S1")).unwrap();
    kubelet.wait_for(STICKS, &[(STICK, HEALTHY)]);
    for _ in 0..PLUGS {
        node.bus.unplug("1-1").unwrap();
        node.bus.plug("1-1", &Device::storage("S1")).unwrap();
    }
    node.bus.plug("1-2", &Device::receiver()).unwrap();
    kubelet.wait_for(KEYS, &[(RECEIVER, HEALTHY)]);
    let before = kubelet.told().len();
    node.bus.unplug("1-1").unwrap();
    node.bus.plug("1-3", &Device::storage("S3")).unwrap();
    // The plugin has taken in all that was before this.
    node.bus.plug("1-4", &Device::storage("LAST")).unwrap();
    wait_until("the last is known", || allocate(&kubelet, STICKS, &["0781:5581:LAST"]).is_ok());
    kubelet.read_on(true);
    let last = [(STICK, UNHEALTHY), ("0781:5581:S3", HEALTHY), ("0781:5581:LAST", HEALTHY)];
    kubelet.wait_for(STICKS, &last);
    let lists = kubelet.told().len() - before;
    assert!(lists <= 5, "{lists} lists waited, and not only the newest");
}

#[test]
fn a_kubelet_that_refuses_ends_it() {
    let node = Node::new();
    let kubelet = Kubelet::start(node.directory(), Manner { version: "v1", ..USUAL });
    let ended = node.start(RESOURCES).wait();
    assert_eq!(ended.code(), 69);
    let said = "the kubelet refuses autoweave.dev/usb-input: \"requested API version \\\"v1beta1\\\" is not supported\"";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
    assert_eq!(kubelet.registered().len(), 1);
    assert_eq!(files(node.directory()), [api::KUBELET_SOCKET]);
}

#[test]
fn what_cannot_work_is_said_at_once() {
    let node = Node::new();
    let nothing = finish(&mut node.command(""));
    assert_eq!(nothing.code(), 64);
    assert!(nothing.stderr.contains("set device_plugin.resources"), "{}", nothing.stderr);
    let mut elsewhere = node.command(RESOURCES);
    elsewhere.env("AUTOWEAVE_USB__DEVICE_PLUGIN__DIRECTORY", "/nowhere");
    let elsewhere = finish(&mut elsewhere);
    assert_eq!(elsewhere.code(), 69);
    assert!(
        elsewhere.stderr.contains("the kubelet's directory /nowhere cannot be watched"),
        "{}",
        elsewhere.stderr
    );
}

#[test]
fn of_two_plugins_for_a_resource_the_later_stays() {
    let mut node = Node::new();
    node.bus.plug_silent("1-1", &Device::storage("S1")).unwrap();
    let kubelet = Kubelet::start(node.directory(), USUAL);
    let mut first = node.start(RESOURCES);
    kubelet.wait_for(STICKS, &[(STICK, HEALTHY)]);
    let second = node.start(RESOURCES);
    let ended = first.wait();
    assert_eq!(ended.code(), 69);
    assert!(ended.stderr.contains("another device plugin has taken"), "{}", ended.stderr);
    node.bus.unplug("1-1").unwrap();
    kubelet.wait_for(STICKS, &[(STICK, UNHEALTHY)]);
    assert_eq!(second.end(Signal::SIGTERM).code(), 0);
}

#[test]
fn odd_requests_are_refused_and_hurt_nobody() {
    let mut node = Node::new();
    node.bus.plug_silent("1-1", &Device::storage("S1")).unwrap();
    let kubelet = Kubelet::start(node.directory(), USUAL);
    let mut plugin = node.start(RESOURCES);
    kubelet.wait_for(STICKS, &[(STICK, HEALTHY)]);

    let ask = |method| kubelet.ask::<Empty, Empty>(STICKS, method, Empty {}).map_err(|status| status.code());
    assert_eq!(ask("/v1beta1.DevicePlugin/PreStartContainer"), Err(Code::Unimplemented));
    assert_eq!(ask("/v1alpha.DevicePlugin/ListAndWatch"), Err(Code::Unimplemented));
    assert_eq!(ask("/"), Err(Code::Unimplemented));
    let long = "x".repeat(300 * 1024);
    assert_eq!(allocate(&kubelet, STICKS, &[&long]), Err(Code::OutOfRange));
    assert_eq!(allocate(&kubelet, STICKS, &["\u{1b}[2J\n"]), Err(Code::NotFound));
    assert_eq!(allocate(&kubelet, STICKS, &[STICK, STICK]), Err(Code::InvalidArgument));
    assert_eq!(allocate(&kubelet, STICKS, &[""]), Err(Code::NotFound));
    // Another message than the one that is due: a field of another type.
    let other = kubelet.ask::<_, Empty>(
        STICKS,
        api::ALLOCATE,
        api::DevicePluginOptions { pre_start_required: true, get_preferred_allocation_available: true },
    );
    assert_eq!(other.unwrap_err().code(), Code::Internal);

    // More clients than there is room for, that never say a word of HTTP.
    let socket = node.directory().join(endpoint(STICKS));
    let mut mute: Vec<_> = (0..40).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    mute[0].write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    mute[0].read_to_end(&mut answer).unwrap();
    node.bus.unplug("1-1").unwrap();
    kubelet.wait_for(STICKS, &[(STICK, UNHEALTHY)]);
    drop(mute);
    assert_eq!(allocate(&kubelet, STICKS, &[STICK]), Err(Code::Unavailable));
    assert!(plugin.is_running());
}

#[test]
fn an_unplug_is_told_in_no_time() {
    const TIMES: usize = 200;
    /// What was asked for; the next best looks every 5 s.
    const AIM: Duration = Duration::from_millis(50);
    let mut node = Node::new();
    let kubelet = Kubelet::start(node.directory(), USUAL);
    let _plugin = node.start(RESOURCES);
    kubelet.wait_for(STICKS, &[]);
    let (mut plugs, mut unplugs) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        let before = Instant::now();
        node.bus.plug("1-1", &Device::storage("S1")).unwrap();
        plugs.push(kubelet.wait_for(STICKS, &[(STICK, HEALTHY)]) - before);
        let before = Instant::now();
        node.bus.unplug("1-1").unwrap();
        unplugs.push(kubelet.wait_for(STICKS, &[(STICK, UNHEALTHY)]) - before);
    }
    for (what, times) in [("plug", &mut plugs), ("unplug", &mut unplugs)] {
        times.sort_unstable();
        let [p50, p99, most] = [TIMES / 2, TIMES * 99 / 100, TIMES - 1].map(|at| times[at]);
        eprintln!("{what} to list: p50 {p50:.2?}, p99 {p99:.2?}, most {most:.2?} of {TIMES}");
    }
    assert!(unplugs[TIMES / 2] < AIM, "half of the unplugs took longer than {:?}", unplugs[TIMES / 2]);
}
