//! Two nodes behind different NATs, who know nothing but a bootstrap node: they meet through it as a relay, and where
//! their routers let them, go on without it. And a node whose router forwards ports, if it is asked.
//!
//! The NAT is the kernel's, in network namespaces; making those needs root.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "../common/mod.rs"]
mod common;
mod router;
mod town;

use std::time::{Duration, Instant};

use common::eventually;
use dunlin_testnet::nat::Mapping;
use router::{Lane, PUBLIC};
use serde_json::Value;
use town::{HOUSES, Resident, Town};

/// Two nodes at home, and the bootstrap node.
struct Scene {
    homes: Vec<Resident>,
    ids: Vec<String>,
    boot_id: String,
    _boot: Resident,
    town: Town,
    _temp: tempfile::TempDir,
}

impl Scene {
    /// Starts all three; the bootstrap node is reached over a transport.
    fn start(name: &str, mapping: Mapping, transport: &str) -> Option<Self> {
        let town = Town::build(name, mapping)?;
        let temp = tempfile::tempdir().unwrap();
        let (boot, address) = town.start_boot(&temp.path().join("boot"), transport);
        let home = |house: usize| {
            town.start_home(house, &temp.path().join(format!("home{house}")), &address)
        };
        let homes: Vec<_> = (0..HOUSES).map(home).collect();
        let ids = homes.iter().map(Resident::id).collect();
        let boot_id = address.rsplit('/').next().unwrap().to_owned();
        Some(Self { homes, ids, boot_id, _boot: boot, town, _temp: temp })
    }

    /// Waits until both know that strangers do not reach them, and are reachable through the relay all the same.
    fn find_out_where_they_are(&self) {
        for home in &self.homes {
            let status = eventually("a node behind a NAT knows it", || {
                let status = home.json(&["status"]);
                (status["reachability"] == "private" && status["relays"] == relays(&self.boot_id))
                    .then_some(status)
            });
            let external: Vec<_> = status["external"].as_array().unwrap().iter().collect();
            let is_relayed = |at: &&Value| at.as_str().unwrap().contains("/p2p-circuit");
            assert!(!external.is_empty() && external.iter().all(is_relayed), "{external:?}");
            let reach = home.diagnosis("reach");
            assert!(reach["found"].as_str().unwrap().starts_with("private"), "{reach}");
        }
    }

    /// Waits until both say of their connection with the other what is wanted.
    fn until(&self, what: &str, is_wanted: impl Fn(&Value) -> bool) {
        for (home, other) in [(0, 1), (1, 0)] {
            eventually(what, || {
                self.homes[home].link_to(&self.ids[other]).filter(|link| is_wanted(link))
            });
        }
    }
}

fn relays(id: &str) -> Value {
    Value::Array(vec![Value::from(id)])
}

#[test]
fn nodes_behind_different_nats_meet_through_a_relay_and_go_on_without_it_over_quic() {
    let Some(scene) = Scene::start("quic", Mapping::PerSource, "/udp/4601/quic-v1") else { return };
    scene.find_out_where_they_are();
    scene.until("a direct connection", |link| {
        link["relay"].is_null() && link["transport"] == "quic"
    });
    let passed = |home: &Resident| home.log().contains("takes the place of a relayed one");
    assert!(scene.homes.iter().any(passed), "they met through the relay first");
    // Nobody listens to the world: what they see of each other are the routers.
    for (home, other) in [(0, 1), (1, 0)] {
        let link = scene.homes[home].link_to(&scene.ids[other]).unwrap();
        let address = link["addresses"][0].as_str().unwrap();
        assert!(address.contains(&Town::public_address(other)), "{address}");
    }
    costs_little_while_nothing_happens(&scene);
    is_back_soon_after_it_moved(&scene);
}

/// Goal: what a node and its two peers send each other while there is nothing to say stays under 2 KiB/s for each, on the
/// cable, with all headers.
fn costs_little_while_nothing_happens(scene: &Scene) {
    let time = Duration::from_secs(20);
    let before = scene.town.wire_bytes(0);
    std::thread::sleep(time);
    let rate = (scene.town.wire_bytes(0) - before) / time.as_secs() / 2;
    eprintln!("an unused peer costs {rate} B/s on the wire");
    assert!(rate < 2_048, "{rate} B/s");
}

/// Goal: a laptop that gets another address is connected again within 10 s, though nobody tells its peers.
fn is_back_soon_after_it_moved(scene: &Scene) {
    let moved = Instant::now();
    scene.town.move_home(0);
    for peer in [&scene.boot_id, &scene.ids[1]] {
        let back = eventually("a connection from the new address", || {
            let link = scene.homes[0].link_to(peer)?;
            let elapsed = moved.elapsed();
            let is_new = link["connected_s"].as_u64().unwrap() < elapsed.as_secs();
            (is_new && link["rtt_ms"].is_number()).then_some(elapsed)
        });
        eprintln!("connected again {back:?} after the move");
        if peer == &scene.boot_id {
            assert!(back < Duration::from_secs(10), "{back:?}");
        }
    }
}

#[test]
fn nodes_behind_different_nats_meet_through_a_relay_and_go_on_without_it_over_tcp() {
    let Some(scene) = Scene::start("tcp", Mapping::PerSource, "/tcp/4601") else { return };
    scene.find_out_where_they_are();
    scene
        .until("a direct connection", |link| link["relay"].is_null() && link["transport"] == "tcp");
}

#[test]
fn where_the_routers_hide_the_ports_the_relay_goes_on_to_serve() {
    let Some(scene) = Scene::start("sym", Mapping::PerDestination, "/udp/4601/quic-v1") else {
        return;
    };
    scene.find_out_where_they_are();
    let relayed = |link: &Value| link["relay"] == scene.boot_id.as_str();
    scene.until("a relayed connection", relayed);
    eventually("the direct one is given up", || {
        let gave_up = |home: &Resident| home.log().contains("stays with its relay");
        scene.homes.iter().any(gave_up).then_some(())
    });
    // What they say to each other arrives.
    scene.until("pings go through it", |link| {
        relayed(link) && link["rtt_ms"].is_number() && link["bytes_down"].as_u64() > Some(0)
    });
}

#[test]
fn a_router_with_upnp_lets_strangers_in() {
    let Some(lane) = Lane::build() else { return };
    let temp = tempfile::tempdir().unwrap();
    let home = lane.start_home(&temp.path().join("home"));

    let external = eventually("a forwarded address is the node's own", || {
        let status = home.json(&["status"]);
        let external = status["external"].as_array().unwrap().clone();
        (external.len() >= 2).then_some(external)
    });
    for transport in ["tcp/4601", "udp/4601/quic-v1"] {
        let address = format!("/ip4/{PUBLIC}/{transport}");
        assert!(
            external.iter().any(|one| one.as_str().unwrap().starts_with(&address)),
            "{external:?}"
        );
    }
    let inside = "192.168.1.2:4601".parse().unwrap();
    let forwards = lane.forwards();
    for protocol in ["TCP", "UDP"] {
        assert!(forwards.contains(&(protocol.to_owned(), 4601, inside)), "{forwards:?}");
    }

    let known = format!("/ip4/{PUBLIC}/tcp/4601/p2p/{}", home.id());
    let guest = lane.start_guest(&temp.path().join("guest"), &known);
    eventually("a stranger came in", || guest.link_to(&home.id()));
}
