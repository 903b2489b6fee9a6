//! Copies at peers, on real sockets: placed, proved, made again when one is lost, and fetched when their
//! origin is gone; and what the operator pins.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{collections::BTreeSet, fs};

use common::{
    Node, complaint, eventually, observation,
    peers::{Net, set},
    stdout, two_channels,
};
use dunlin_archive::car;
use dunlin_client::{
    AttemptOutcome, FetchRequest, Observation, PinRequest, ReplicaPeer, Replicas, Standing,
};
use dunlin_wire::block::{Block, Codec};

fn life(entity: &str, count: u32) -> Vec<Observation> {
    (0..count).map(|index| observation(entity, index)).collect()
}

/// Makes the folder of a node that wants so many copies, and looks after them every second.
fn init_with_replicas(net: &Net, name: &str, replicas: u32) -> String {
    let id = net.init(name);
    let dir = net.dir(name);
    set(&dir, "\nreplicas = 0", &format!("\nreplicas = {replicas}"));
    set(&dir, "replica_check_secs = 3600", "replica_check_secs = 1");
    id
}

/// Waits until so many objects have as many copies as they shall have, and none has fewer.
#[track_caller]
fn all_replicated(node: &Node, objects: usize) -> Replicas {
    eventually("all objects have their copies", || {
        let status = node.client().replicas().unwrap();
        let fewer: u64 = status.objects.iter().rev().skip(1).sum();
        (fewer == 0 && status.objects.last() == Some(&(objects as u64))).then_some(status)
    })
}

fn peer_in<'a>(status: &'a Replicas, id: &str) -> &'a ReplicaPeer {
    status.peers.iter().find(|peer| peer.peer == id).unwrap()
}

#[test]
fn copies_are_proved_made_again_when_one_is_lost_and_outlive_their_origin() {
    let net = Net::start("replicas");
    let names = ["b", "c", "d"];
    let a_id = init_with_replicas(&net, "a", 2);
    let ids = names.map(|name| net.init(name));
    let reader_id = net.init("reader");
    let own: Vec<&str> = ids.iter().map(String::as_str).chain([&*a_id, &*reader_id]).collect();
    let start = |name: &str| net.node(name, &own);
    let a = start("a");
    let mut nodes = names.map(|name| Some(start(name)));
    a.fill(&two_channels("pairs"), life("web", 800));
    let cids = a.archive_all("pairs", "web");
    let blocks: Vec<_> = cids.iter().map(|cid| a.client().block(cid).unwrap()).collect();
    let placed = all_replicated(&a, cids.len());
    let held: u64 = placed.peers.iter().map(|peer| peer.held).sum();
    assert_eq!(held, 2 * cids.len() as u64);
    let said = stdout(&mut a.command(&["archive", "status"]));
    assert!(said.contains(&format!("{} objects have 2 copies at peers", cids.len())), "{said}");

    // Who holds most has them and says for whom.
    let (loser, _) =
        ids.iter().enumerate().max_by_key(|(_, id)| peer_in(&placed, id).held).unwrap();
    let loser_id = &ids[loser];
    let node = nodes[loser].take().unwrap();
    let kept = node.client().replicas().unwrap().kept;
    assert_eq!((kept.len(), &kept[0].peer), (1, &a_id));
    assert_eq!(kept[0].objects, peer_in(&placed, loser_id).held);
    eventually("it has proved what it holds", || {
        let status = a.client().replicas().unwrap();
        (peer_in(&status, loser_id).proofs_right > 0).then_some(())
    });
    assert_eq!(a.metric("dunlin_archive_replica_proofs_failed_total"), 0.0);

    // It loses its store.
    node.stop();
    fs::remove_file(net.dir(names[loser]).join("archive/blocks.redb")).unwrap();
    nodes[loser] = Some(start(names[loser]));
    eventually("the loss is found", || {
        (a.metric("dunlin_archive_replica_proofs_failed_total") >= 1.0).then_some(())
    });
    let repaired = eventually("the copies are made elsewhere", || {
        let status = a.client().replicas().unwrap();
        let is_whole = status.objects == [0, 0, cids.len() as u64];
        (is_whole && peer_in(&status, loser_id).held == 0).then_some(status)
    });
    assert!(peer_in(&repaired, loser_id).paused_s.is_some(), "{repaired:?}");
    for id in ids.iter().filter(|id| *id != loser_id) {
        assert_eq!(peer_in(&repaired, id).held, cids.len() as u64);
    }
    let judged = a.peer(loser_id).unwrap();
    assert!(judged.evidence.iter().any(|line| line.contains("1 replicas lost")), "{judged:?}");
    assert_eq!(judged.standing, Standing::Probation, "a broken disk is no lie");

    // The origin is gone for good.
    a.kill();
    fs::remove_dir_all(net.dir("a")).unwrap();
    let reader = start("reader");
    for id in ids.iter().filter(|id| *id != loser_id) {
        reader.wait_for_peer(id);
    }
    let request = FetchRequest { cids: cids.clone(), payload: true, ..FetchRequest::default() };
    let got = reader.client().fetch(&request).unwrap();
    for ((fetched, cid), block) in got.segments.iter().zip(&cids).zip(&blocks) {
        assert!(fetched.segment.is_some() && fetched.missing_payload.is_empty(), "{fetched:?}");
        let last = fetched.attempts.last().unwrap();
        assert_eq!(last.outcome, AttemptOutcome::Verified);
        assert!(ids.contains(&last.peer), "{fetched:?}");
        assert_eq!(&reader.client().block(cid).unwrap(), block);
    }
}

#[test]
fn a_kill_forgets_no_copy_and_makes_none_twice() {
    let net = Net::start("replicas-kill");
    let a_id = init_with_replicas(&net, "a", 1);
    let (b_id, c_id) = (net.init("b"), net.init("c"));
    let (b, c) = (net.node("b", &[&a_id]), net.node("c", &[&a_id]));
    let a = net.node("a", &[&b_id, &c_id]);
    let kept = |node: &Node| -> u64 {
        node.client().replicas().unwrap().kept.iter().map(|kept| kept.objects).sum()
    };
    let mut cids = Vec::new();
    let mut a = Some(a);
    for round in 0..3 {
        let node = a.take().unwrap();
        let entity = format!("web-{round}");
        node.fill(&two_channels("pairs"), life(&entity, 800));
        cids = node.archive_all("pairs", &entity);
        // Somewhere in the middle of it.
        eventually("some are placed", || (kept(&b) + kept(&c) > 0).then_some(()));
        node.kill();
        a = Some(net.node("a", &[&b_id, &c_id]));
    }
    let a = a.unwrap();
    all_replicated(&a, cids.len());
    assert_eq!(kept(&b) + kept(&c), cids.len() as u64);
    a.kill();
    let a = net.node("a", &[&b_id, &c_id]);
    let status = all_replicated(&a, cids.len());
    assert_eq!(peer_in(&status, &b_id).held + peer_in(&status, &c_id).held, cids.len() as u64);
    assert_eq!(a.metric("dunlin_archive_replicas_placed_total"), 0.0, "it was all known");
    assert_eq!(kept(&b) + kept(&c), cids.len() as u64);

    // Who wants none any more has them released.
    a.stop();
    set(&net.dir("a"), "\nreplicas = 1", "\nreplicas = 0");
    let a = net.node("a", &[&b_id, &c_id]);
    eventually("all are released", || (kept(&b) + kept(&c) == 0).then_some(()));
    a.stop();
}

#[test]
fn private_objects_go_to_own_peers_alone_and_not_beyond_their_quota() {
    let net = Net::start("replicas-own");
    let a_id = init_with_replicas(&net, "a", 2);
    let (stranger_id, full_id, own_id) = (net.init("stranger"), net.init("full"), net.init("own"));
    set(&net.dir("stranger"), "replicate_for_mib = 0", "replicate_for_mib = 100");
    set(&net.dir("full"), "replicate_for_own_mib = 10240", "replicate_for_own_mib = 0");
    let stranger = net.node("stranger", &[&a_id]);
    let full = net.node("full", &[&a_id]);
    let own = net.node("own", &[&a_id]);
    // The stranger calls this node its own; this node does not.
    let a = net.node("a", &[&full_id, &own_id]);
    for id in [&stranger_id, &full_id, &own_id] {
        a.wait_for_peer(id);
    }
    a.fill(&two_channels("pairs"), life("web", 400));
    let count = a.archive_all("pairs", "web").len() as u64;
    let status = eventually("the one that may and can has them all", || {
        let status = a.client().replicas().unwrap();
        (status.objects == [0, count, 0]).then_some(status)
    });
    assert_eq!(peer_in(&status, &own_id).held, count);
    assert!(status.peers.iter().all(|peer| peer.peer != stranger_id), "{status:?}");
    eventually("the other one has refused", || {
        (full.metric("dunlin_archive_kept_objects_refused_total") >= 1.0).then_some(())
    });
    for node in [&stranger, &full] {
        assert_eq!(node.client().archive().unwrap().blocks, 0);
    }
    assert!(own.metric("dunlin_archive_kept_objects_stored_total") >= count as f64);
    let said = stdout(&mut a.command(&["archive", "replicas"]));
    assert!(said.contains(&format!("{count} objects have 1")) && said.contains(&own_id), "{said}");
    let judged = a.peer(&full_id).unwrap();
    assert!(judged.score >= 0.5, "to refuse is no offence: {judged:?}");
}

/// Makes segments public with all that they link to; returns how many blocks that are.
#[track_caller]
fn publish(net: &Net, node: &Node, cids: &[String]) -> u64 {
    let client = node.client();
    let roots: Vec<_> = cids.iter().map(|cid| cid.parse().unwrap()).collect();
    let mut bytes = car::header(&roots);
    let payload = cids.iter().flat_map(|cid| client.segment(cid).unwrap().payload);
    let blocks: BTreeSet<_> = payload.chain(cids.iter().cloned()).collect();
    for cid in &blocks {
        car::section(&mut bytes, &cid.parse().unwrap(), &client.block(cid).unwrap());
    }
    let path = net.dir("public.car");
    fs::write(&path, bytes).unwrap();
    stdout(node.command(&["archive", "import", "--public"]).arg(path));
    blocks.len() as u64
}

#[test]
fn public_objects_go_to_strangers_who_earned_trust_and_to_no_others() {
    // Each earns the other's trust by serving what it made public.
    const SEGMENTS: u32 = 300;
    let net = Net::start("replicas-strangers");
    let a_id = init_with_replicas(&net, "a", 1);
    let (b_id, c_id) = (net.init("b"), net.init("c"));
    for name in ["b", "c"] {
        set(&net.dir(name), "replicate_for_mib = 0", "replicate_for_mib = 100");
    }
    for name in ["a", "b", "c"] {
        set(&net.dir(name), "trust_after_hours = 1.0", "trust_after_hours = 0.0");
    }
    let (a, b, c) = (net.node("a", &[]), net.node("b", &[]), net.node("c", &[]));
    for id in [&b_id, &c_id] {
        a.wait_for_peer(id);
    }
    let of = |node: &Node, entity: &str| {
        node.fill(&two_channels("pairs"), life(entity, SEGMENTS * 50));
        let cids = node.archive_all("pairs", entity);
        let blocks = publish(&net, node, &cids);
        (cids, blocks)
    };
    let ((of_a, blocks), (of_b, _)) = (of(&a, "of-a"), of(&b, "of-b"));
    let holders = || -> Vec<(String, u64)> {
        let status = a.client().replicas().unwrap();
        status.peers.iter().map(|peer| (peer.peer.clone(), peer.held)).collect()
    };
    assert!(holders().iter().all(|(_, held)| *held == 0), "nobody has earned anything yet");
    let fetch = |node: &Node, peer: &str, cids: &[String]| {
        let peers = vec![peer.to_owned()];
        let request = FetchRequest { cids: cids.to_vec(), peers, ..FetchRequest::default() };
        let got = node.client().fetch(&request).unwrap();
        assert!(got.segments.iter().all(|fetched| fetched.segment.is_some()), "{got:?}");
        assert_eq!(node.peer(peer).unwrap().standing, Standing::Trusted);
    };
    // First the one that is to hold: asked before, it has no room, and is left alone for an hour.
    fetch(&b, &a_id, &of_a);
    assert!(holders().iter().all(|(_, held)| *held == 0), "this node does not trust it yet");
    fetch(&a, &b_id, &of_b);
    eventually("the one that is trusted has them all", || {
        (holders() == [(b_id.clone(), blocks)]).then_some(())
    });
    assert!(c.client().replicas().unwrap().kept.is_empty());

    // What is public no more is asked back.
    let imported = format!("public/{}", of_a[0]);
    stdout(&mut a.command(&["archive", "pins", "rm", &imported]));
    eventually("it lets go of them", || (holders() == [(b_id.clone(), 0)]).then_some(()));
    assert!(b.client().replicas().unwrap().kept.is_empty());
}

#[test]
fn the_operator_pins_lists_and_lets_go() {
    let net = Net::start("pins");
    net.init("a");
    set(&net.dir("a"), "mib_max = 10240", "mib_max = 1");
    let a = net.node("a", &[]);
    a.fill(&two_channels("pairs"), life("web", 100));
    let cid = a.archive_all("pairs", "web").remove(0);
    let pins = |args: &[&str]| a.command(&[&["archive", "pins"], args].concat());
    let said = stdout(&mut pins(&["add", "incident-7", &cid]));
    assert!(said.starts_with("incident-7 holds 2 blocks of"), "{said}");
    stdout(&mut pins(&["add", "top", &cid, "--direct"]));
    let said = stdout(&mut pins(&["ls"]));
    let row = |name: &str| said.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(row("incident-7").contains("recursive") && row("incident-7").ends_with(&cid), "{said}");
    assert!(row("top").contains("direct"), "{said}");
    let said = stdout(&mut pins(&["ls", "--all"]));
    assert!(said.contains("own/pairs") && said.contains("named/incident-7"), "{said}");

    let said = complaint(&mut pins(&["add", "top", &cid]));
    assert!(said.contains("choose another name"), "{said}");
    let said = complaint(&mut pins(&["rm", "own/pairs"]));
    assert!(said.contains("no pin that can be removed"), "{said}");
    let said = complaint(&mut pins(&["rm", "nothing"]));
    assert!(said.contains("there is no pin nothing"), "{said}");
    let request = PinRequest { name: "a/b".into(), cid: cid.clone(), direct: false };
    assert!(a.client().pin(&request).unwrap_err().is_refusal("bad_query"));

    // What does not fit is refused with what to do, and what is let go of makes room.
    let import = |block: &Block| {
        let path = net.dir("import.car");
        let mut bytes = car::header(&[*block.cid()]);
        car::section(&mut bytes, block.cid(), block.bytes());
        fs::write(&path, bytes).unwrap();
        let mut command = a.command(&["archive", "import"]);
        command.arg(path);
        command
    };
    let large = |fill: u8| Block::new(Codec::Raw, vec![fill; 900 << 10]);
    stdout(&mut import(&large(1)));
    let said = complaint(&mut import(&large(2)));
    assert!(said.contains("archive.mib_max") && said.contains("pins ls --all"), "{said}");
    let said = stdout(&mut pins(&["rm", &format!("imported/{}", large(1).cid())]));
    assert!(said.contains("1 blocks of 900.0 KiB left"), "{said}");
    stdout(&mut import(&large(2)));
    stdout(&mut pins(&["rm", "incident-7"]));
    let shown = a.client().pins(false).unwrap();
    assert_eq!((shown.named.len(), shown.named[0].name.as_str()), (1, "top"));

    let said = complaint(&mut a.command(&["archive", "compact"]));
    assert!(said.contains("stop it first"), "{said}");
    let mut compact = a.command(&["archive", "compact"]);
    a.stop();
    let said = stdout(&mut compact);
    assert!(said.contains("the archive's file had"), "{said}");
    let a = net.node("a", &[]);
    assert_eq!(a.client().pins(false).unwrap(), shown);
    assert_eq!(
        a.client().block(&cid).unwrap().len(),
        a.client().segment(&cid).unwrap().block_bytes as usize
    );
}
