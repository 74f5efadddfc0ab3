//! A cluster of three masters: the stream's slot is elsewhere, moves, and fails over.

use std::time::{Duration, Instant};

use autoweave_usb_stream::{Endpoint, Failure, Settings, probe};

use crate::bed::{Bed, assert_once};
use crate::sentinel::{consume, consumer};
use crate::server::{Server, ask, free_ports, until};

const STREAM: &str = "aw:hotplug";
const LAST_SLOT: u16 = 16383;
/// Redis gives up a manual failover after five seconds, `CLUSTER_MF_TIMEOUT`.
const MANUAL_FAILOVER: Duration = Duration::from_secs(6);

struct Cluster {
    /// Three masters, and a replica of the one that serves the stream.
    nodes: Vec<Server>,
    ports: [u16; 4],
    slot: u16,
    /// The node that serves the stream at first.
    owner: usize,
}

impl Cluster {
    fn start() -> Self {
        let [ports @ .., a, b, c, d] = free_ports::<8>();
        let buses = [a, b, c, d];
        let start = |(port, bus): (u16, u16)| {
            let (port, bus) = (port.to_string(), bus.to_string());
            let tcp = ["--port", &port, "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0"];
            let cluster =
                ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "1000"];
            Server::start(&[tcp, cluster].concat())
        };
        let nodes: Vec<Server> = ports.into_iter().zip(buses).map(start).collect();
        let slot: u16 = ask(&nodes[0], &["CLUSTER", "KEYSLOT", STREAM]);
        for (part, node) in (0u16..).zip(&nodes[..3]) {
            let from = part * 5461;
            let to = if part == 2 { LAST_SLOT } else { from + 5460 };
            ask::<()>(node, &["CLUSTER", "SET-CONFIG-EPOCH", &(part + 1).to_string()]);
            ask::<()>(node, &["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]);
        }
        for (port, bus) in ports.into_iter().zip(buses).skip(1) {
            ask::<()>(&nodes[0], &["CLUSTER", "MEET", "127.0.0.1", &port.to_string(), &bus.to_string()]);
        }
        let cluster = Self { nodes, ports, slot, owner: usize::from((slot / 5461).min(2)) };
        until("the nodes agree", || {
            cluster.nodes.iter().all(|node| {
                let info: String = ask(node, &["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:4")
            })
        });
        ask::<()>(&cluster.nodes[3], &["CLUSTER", "REPLICATE", &cluster.id(cluster.owner)]);
        until("the replica follows", || cluster.info(3).contains("master_link_status:up"));
        cluster
    }

    fn id(&self, node: usize) -> String {
        ask(&self.nodes[node], &["CLUSTER", "MYID"])
    }

    fn info(&self, node: usize) -> String {
        ask(&self.nodes[node], &["INFO", "replication"])
    }

    /// A node that the stream is not on.
    fn other(&self) -> usize {
        (self.owner + 1) % 3
    }

    fn settings(&self) -> Settings {
        let endpoint =
            Endpoint::Cluster { host: "127.0.0.1".to_owned(), port: self.ports[self.other()], tls: false };
        Settings { endpoint, ..self.nodes[0].settings() }
    }

    fn address(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.ports[node])
    }

    fn set_slot(&self, node: usize, words: &[&str]) {
        ask::<()>(&self.nodes[node], &[&["CLUSTER", "SETSLOT", &self.slot.to_string()], words].concat());
    }

    fn migrate(&self, to: usize, key: &str) {
        let port = self.ports[to].to_string();
        ask::<()>(&self.nodes[self.owner], &["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
    }
}

#[test]
fn the_node_that_has_the_stream_is_found() {
    let cluster = Cluster::start();
    let mut settings = cluster.settings();
    assert_eq!(probe(&settings).unwrap().address, cluster.address(cluster.owner));
    settings.endpoint =
        Endpoint::Cluster { host: "127.0.0.1".to_owned(), port: cluster.ports[3], tls: false };
    assert_eq!(
        probe(&settings).unwrap().address,
        cluster.address(cluster.owner),
        "a replica leads to its master"
    );
    let plain = probe(&cluster.nodes[cluster.other()].settings());
    assert!(matches!(&plain, Err(Failure::NotServed(why)) if why.starts_with("MOVED ")), "{plain:?}");
    ask::<()>(&cluster.nodes[cluster.owner], &["CLUSTER", "DELSLOTS", &cluster.slot.to_string()]);
    let nowhere = probe(&cluster.nodes[cluster.owner].settings());
    assert!(
        matches!(&nowhere, Err(Failure::NotServed(why)) if why.starts_with("CLUSTERDOWN")),
        "{nowhere:?}"
    );
}

#[test]
fn a_slot_that_moves_while_events_flow_is_followed() {
    let cluster = Cluster::start();
    let mut bed = Bed::new("a");
    let publisher = bed.publish(cluster.settings());
    let (mut consumer, mut seen) = (consumer(&cluster.settings()), Vec::new());
    bed.add(1000);
    bed.until_level(&publisher);
    consume(&mut consumer, &mut seen, 1000);
    let to = cluster.other();
    cluster.set_slot(to, &["IMPORTING", &cluster.id(cluster.owner)]);
    cluster.set_slot(cluster.owner, &["MIGRATING", &cluster.id(to)]);
    bed.add(500);
    bed.until_level(&publisher);
    bed.add(500);
    publisher.wake();
    // Neither node has both keys: `TRYAGAIN`.
    cluster.migrate(to, STREAM);
    until("the move is noticed", || !bed.failures().is_empty());
    bed.add(100);
    publisher.wake();
    // Neither key is here, and the slot still is: `ASK`.
    cluster.migrate(to, "{aw:hotplug}:seq");
    let asked = probe(&cluster.settings());
    assert!(matches!(&asked, Err(Failure::NotServed(why)) if why.starts_with("ASK ")), "{asked:?}");
    for node in [to, cluster.owner] {
        cluster.set_slot(node, &["NODE", &cluster.id(to)]);
    }
    bed.until_level(&publisher);
    assert_once(&mut cluster.nodes[to].connection(), "a", 1, 2100);
    assert!(matches!(bed.failures()[..], [Failure::NotServed(_)]), "told once: {:?}", bed.notices);
    consume(&mut consumer, &mut seen, 2100);
    assert_eq!(seen, (1..=2100).collect::<Vec<_>>());
}

#[test]
fn a_replica_that_takes_over_is_followed() {
    let mut cluster = Cluster::start();
    let mut bed = Bed::new("a");
    let publisher = bed.publish(cluster.settings());
    bed.add(1000);
    bed.until_level(&publisher);
    let mut ask_again = Instant::now();
    until("the replica has taken over", || {
        if ask_again <= Instant::now() && cluster.info(3).contains("role:slave") {
            ask::<()>(&cluster.nodes[3], &["CLUSTER", "FAILOVER"]);
            ask_again = Instant::now() + MANUAL_FAILOVER;
        }
        bed.add(1);
        publisher.wake();
        cluster.info(3).contains("role:master") && cluster.info(cluster.owner).contains("role:slave")
    });
    bed.until_level(&publisher);
    assert_once(&mut cluster.nodes[3].connection(), "a", 1, bed.last_seq());
    let old = cluster.owner;
    until("the old master follows", || cluster.info(old).contains("master_link_status:up"));
    cluster.nodes[3].kill();
    bed.add(100);
    publisher.wake();
    until("the old master has taken over", || cluster.info(old).contains("role:master"));
    bed.until_level(&publisher);
    assert_once(&mut cluster.nodes[old].connection(), "a", 1, bed.last_seq());
}
