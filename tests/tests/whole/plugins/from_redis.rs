//! `run --role plugins`: loaders that read Redis, of which one in a group is active.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::bed::{Bed, assert_all_in_order, pairs};
use crate::flood::Random;
use crate::harness::{command, wait_until};
use crate::program::{Finished, Running, finish};
use crate::redis_server::Server;

const DEAD: &str = "{aw:hotplug}:dead";

/// A loader may take so long to be active when another one is gone, in a test that has a machine to share.
const TAKEOVER: Duration = Duration::from_secs(10);

fn loader(bed: &Bed, server: &Server) -> Running {
    let mut env = bed.env();
    let port = ("AUTOWEAVE_USB__MONITORING__HEALTHCHECK_PORT".to_owned(), "0".to_owned());
    env.extend([("REDIS_URL".to_owned(), server.url()), port]);
    let mut command = command(&pairs(&env));
    Running::start(command.args(["run", "--role", "plugins", "--state-dir"]).arg(bed.state.path()))
}

/// Puts the events of `devices` that come and go `cycles` times into the stream.
fn simulate(server: &Server, devices: u32, cycles: u32, rate: u32) -> Running {
    let url = server.url();
    let env = [
        ("REDIS_URL", url.as_str()),
        ("AUTOWEAVE_USB__PERFORMANCE__DEBOUNCE_MS", "0"),
        ("AUTOWEAVE_USB__PERFORMANCE__MAX_EVENTS_PER_SECOND", "0"),
        ("AUTOWEAVE_USB__PERFORMANCE__SHUTDOWN_TIMEOUT_MS", "60000"),
    ];
    let numbers = [devices, cycles, rate].map(|number| number.to_string());
    let mut command = command(&env);
    let [devices, cycles, rate] = &numbers;
    Running::start(command.args([
        "simulate",
        "--redis",
        "--devices",
        devices,
        "--cycles",
        cycles,
        "--rate",
        rate,
    ]))
}

fn pending(server: &Server) -> Option<u64> {
    let mut command = redis::cmd("XPENDING");
    let reply: (u64, redis::Value, redis::Value, redis::Value) =
        command.arg("aw:hotplug").arg("plugin-loader").query(&mut server.connect()?).ok()?;
    Some(reply.0)
}

fn is_active(running: &Running) -> bool {
    let log = running.stderr();
    log.rfind("active: this loader")
        .is_some_and(|active| log.rfind("lease is lost").is_none_or(|lost| lost < active))
}

/// The numbers in the stream's dead letters, and by whom.
fn dead(server: &Server) -> Vec<(String, u64)> {
    let entries: Vec<(String, Vec<String>)> =
        redis::cmd("XRANGE").arg(DEAD).arg("-").arg("+").query(&mut server.connect().unwrap()).unwrap();
    let value = |fields: &[String], name: &str| {
        fields.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone()).unwrap()
    };
    entries
        .iter()
        .map(|(_, fields)| (value(fields, "plugin"), value(fields, "seq").parse().unwrap()))
        .collect()
}

fn stopped(running: Running) -> Finished {
    running.end(Signal::SIGTERM).ok()
}

#[test]
fn a_group_gets_the_stream_from_its_oldest_entry_on() {
    let (bed, server) = (Bed::new(), Server::start());
    bed.shell("desk", "note; case $seq in 3) fail no;; *) ok;; esac");
    simulate(&server, 5, 2, 0).wait().ok();
    let running = loader(&bed, &server);
    wait_until("all is settled", || bed.heard("desk").len() >= 22 && pending(&server) == Some(0));
    assert_all_in_order(&bed.heard("desk"), 1..=20, "desk");
    assert_eq!(dead(&server), [("desk".to_owned(), 3)]);
    let url = server.url();
    let letters =
        finish(command(&[("REDIS_URL", &url)]).args(["plugins", "dead", "--redis", "--json"])).ok().json();
    assert_eq!((&letters[0]["error"], &letters[0]["deliveries"]), (&"no".into(), &3.into()));
    assert_eq!(letters[0]["event"]["seq"], 3);
    stopped(running);
    // The next one goes on from there; nothing comes twice but what is still connected, of which there is none.
    let before = bed.heard("desk").len();
    let running = loader(&bed, &server);
    simulate(&server, 5, 1, 0).wait().ok();
    wait_until("all is settled", || bed.heard("desk").len() >= before + 10 && pending(&server) == Some(0));
    assert_eq!(
        bed.heard("desk").len(),
        before
            + 10
            + 2 * bed.heard("desk")[before..].iter().filter(|h| h.seq == 3 && h.delivery == 1).count()
    );
    stopped(running);
}

#[test]
fn of_two_loaders_one_is_active_and_the_other_takes_over_in_seconds() {
    let (bed, server) = (Bed::new(), Server::start());
    bed.shell("desk", "note; ok");
    let first = loader(&bed, &server);
    first.wait_for_stderr("active: this loader");
    let second = loader(&bed, &server);
    second.wait_for_stderr("standing by");
    let flow = simulate(&server, 10, 100, 200);
    wait_until("the first is at it", || bed.heard_bytes("desk") > 2000);
    assert!(!is_active(&second));
    // Paused: it wakes up and does not know that it lost the lease.
    let pid = Pid::from_raw(first.pid().try_into().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    let paused = Instant::now();
    wait_until("the second takes over", || is_active(&second));
    assert!(paused.elapsed() < TAKEOVER, "{:?}", paused.elapsed());
    let heard = bed.heard_bytes("desk");
    wait_until("the second is at it", || bed.heard_bytes("desk") > heard + 500);
    kill(pid, Signal::SIGCONT).unwrap();
    first.wait_for_stderr("lease is lost");
    let mut flow = flow;
    flow.wait().ok();
    wait_until("all is settled", || {
        bed.heard("desk").iter().any(|heard| heard.seq == 2000) && pending(&server) == Some(0)
    });
    assert_all_in_order(&bed.heard("desk"), 1..=2000, "desk");
    assert!(dead(&server).is_empty());
    // One that ends gives the lease back.
    stopped(second);
    wait_until("the first is active again", || is_active(&first));
    stopped(first);
}

/// How often each entry that waits was delivered.
fn deliveries(server: &Server) -> Vec<u64> {
    let mut command = redis::cmd("XPENDING");
    command.arg("aw:hotplug").arg("plugin-loader").arg("-").arg("+").arg(1000);
    let pending: Vec<(String, String, u64, u64)> = command.query(&mut server.connect().unwrap()).unwrap();
    pending.into_iter().map(|(.., deliveries)| deliveries).collect()
}

#[test]
fn a_loader_that_is_stopped_counts_no_delivery_of_what_it_leaves() {
    let (bed, server) = (Bed::new(), Server::start());
    bed.shell("desk", "until [ -e $out.go ]; do sleep 0.05; done; note; ok");
    simulate(&server, 5, 1, 0).wait().ok();
    for _ in 0..2 {
        let running = loader(&bed, &server);
        wait_until("it has taken all", || pending(&server) == Some(10) && deliveries(&server) == [1; 10]);
        stopped(running);
        assert_eq!(deliveries(&server), [0; 10]);
    }
    bed.let_go("desk");
    let running = loader(&bed, &server);
    wait_until("all is settled", || bed.heard("desk").len() == 10 && pending(&server) == Some(0));
    assert!(dead(&server).is_empty());
    stopped(running);
}

/// Takes the detaches out of the stream, to be put in again later.
fn take_detaches(server: &Server) -> Vec<Vec<String>> {
    let mut connection = server.connect().unwrap();
    let entries: Vec<(String, Vec<String>)> =
        redis::cmd("XRANGE").arg("aw:hotplug").arg("-").arg("+").query(&mut connection).unwrap();
    let is_detach = |fields: &[String]| fields.chunks(2).any(|pair| pair == ["action", "detach"]);
    let (ids, detaches): (Vec<_>, Vec<_>) =
        entries.into_iter().filter(|(_, fields)| is_detach(fields)).unzip();
    redis::cmd("XDEL").arg("aw:hotplug").arg(ids).exec(&mut connection).unwrap();
    detaches
}

#[test]
fn a_loader_that_was_paused_delivers_nothing_of_before_when_it_has_the_lease_again() {
    const DEVICES: u32 = 300;
    let (bed, server) = (Bed::new(), Server::start());
    // The second loader's worker is the first that does not wait.
    bed.shell("desk", "[ -e $out.slow ] && (set -C; : >$out.first) 2>/dev/null && until [ -e $out.go ]; do sleep 0.05; done; note; ok");
    simulate(&server, DEVICES, 1, 0).wait().ok();
    let detaches = take_detaches(&server);
    let first = loader(&bed, &server);
    wait_until("all is settled", || bed.heard("desk").len() == 300 && pending(&server) == Some(0));
    stopped(first);
    std::fs::write(bed.out().join("desk.slow"), "").unwrap();
    let first = loader(&bed, &server);
    wait_until("it is at what is there", || bed.out().join("desk.first").exists());
    for fields in detaches {
        redis::cmd("XADD")
            .arg("aw:hotplug")
            .arg("*")
            .arg(fields)
            .exec(&mut server.connect().unwrap())
            .unwrap();
    }
    wait_until("it has taken some", || pending(&server) > Some(0));
    let pid = Pid::from_raw(first.pid().try_into().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    let second = loader(&bed, &server);
    let gone = || bed.heard("desk").iter().filter(|heard| heard.action == "detach").count();
    wait_until("the second has heard all", || gone() == 300 && pending(&server) == Some(0));
    kill(pid, Signal::SIGCONT).unwrap();
    first.wait_for_stderr("lease is lost");
    drop(second);
    bed.let_go("desk");
    wait_until("the first is active again", || first.stderr().matches("active: this loader").count() == 2);
    stopped(first);
    assert_all_in_order(&bed.heard("desk"), 1..=600, "desk");
}

#[test]
fn loaders_and_redis_are_killed_over_ten_thousand_events_and_each_is_heard() {
    const EVENTS: u64 = 10_000;
    let (bed, mut server) = (Bed::new(), Server::start());
    bed.shell("well", "note; ok");
    bed.shell("picky", "note; case $seq in *777) fail no;; *) ok;; esac");
    let mut loaders = [loader(&bed, &server), loader(&bed, &server)];
    let mut flow = simulate(&server, 50, u32::try_from(EVENTS / 100).unwrap(), 400);
    let mut random = Random(11);
    let mut round = 0;
    while flow.is_running() {
        thread::sleep(Duration::from_millis(1000 + random.below(3000) as u64));
        let (kills_loaders, kills_redis) = match round % 4 {
            0 => (1, false),
            1 => (0, true),
            2 => (2, true),
            _ => (2, false),
        };
        // A loader is killed with its plugins still running: their guards end them.
        for number in 0..kills_loaders {
            let other = (round / 4 + number) % 2;
            let killed = std::mem::replace(&mut loaders[other], loader(&bed, &server));
            drop(killed);
        }
        if kills_redis {
            server.kill_and_restart();
        }
        round += 1;
    }
    flow.wait().ok();
    assert!(round >= 6, "{round} rounds");
    let poison: BTreeSet<u64> = (1..=EVENTS).filter(|seq| seq % 1000 == 777).collect();
    wait_until("all is settled", || {
        bed.heard("well").iter().any(|heard| heard.seq == EVENTS)
            && pending(&server) == Some(0)
            && server.length() == EVENTS
    });
    let letters = dead(&server);
    assert!(letters.iter().all(|(plugin, _)| plugin == "picky"), "{letters:?}");
    assert_eq!(letters.iter().map(|(_, seq)| *seq).collect::<BTreeSet<_>>(), poison);
    assert_all_in_order(&bed.heard("well"), 1..=EVENTS, "well");
    assert_all_in_order(&bed.heard("picky"), 1..=EVENTS, "picky");
    loaders.into_iter().for_each(|loader| drop(stopped(loader)));
}

#[test]
fn what_is_missing_is_said_before_anything_is_begun() {
    let bed = Bed::new();
    let env = bed.env();
    let alone = |env: &[(&str, &str)]| finish(command(env).args(["run", "--role", "plugins"]));
    alone(&pairs(&env)).fails(64, &["redis.host"]);
    alone(&[("REDIS_URL", "unix:///nowhere")]).fails(64, &["plugins.dir"]);
    let nowhere = [("AUTOWEAVE_USB__PLUGINS__DIR", "/nowhere"), ("REDIS_URL", "unix:///nowhere")];
    alone(&nowhere).fails(69, &["plugins.dir", "/nowhere"]);
}
