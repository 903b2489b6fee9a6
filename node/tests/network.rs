//! Peers on real sockets: whom they meet, what they give to whom, and what they believe.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use common::{
    Node, eventually, observation,
    peers::{KillOnDrop, Net, address_in, init, set},
    two_channels,
};
use dunlin_client::{
    AdoptRequest, AttemptOutcome, FetchRequest, IngestRequest, KnnQuery, Nearest, Observation,
    PublishRequest, RollBackRequest, Scope, Standing, TemplateSet, TemplateSource, Templates,
};
use dunlin_trust::{Record, Trust, UnixMillis};
use dunlin_wire::cbor;
use serde_bytes::ByteBuf;

/// Observations enough that the noise of a release at epsilon 1 is far below what the gate allows.
const LIFE: u32 = 20_000;

fn life(entity: &str, count: u32) -> Vec<Observation> {
    (0..count).map(|index| observation(entity, index)).collect()
}

fn fetch_request(cids: &[String], peers: &[&str], payload: bool) -> FetchRequest {
    let peers = peers.iter().map(ToString::to_string).collect();
    FetchRequest { cids: cids.to_vec(), peers, payload, ..FetchRequest::default() }
}

fn publish_request(epsilon: f64) -> PublishRequest {
    PublishRequest {
        collection: "pairs".into(),
        epsilon: Some(epsilon),
        ..PublishRequest::default()
    }
}

#[test]
fn peers_meet_through_the_bootstrap_node_and_through_nothing_else() {
    let net = Net::start("meet");
    let names = ["a", "b", "c"];
    // One more, of the same network and machine, that was told of nobody.
    let hermit_id = net.init("hermit");
    let hermit = net.node_with("hermit", &[]);
    let ids = names.map(|name| net.init(name));
    let nodes = names.map(|name| net.node(name, &[]));
    for node in &nodes {
        let me = node.client().status().unwrap().peer;
        ids.iter().filter(|id| **id != me).for_each(|id| node.wait_for_peer(id));
    }
    assert_eq!(hermit.client().peers().unwrap().peers, []);
    assert!(nodes.iter().all(|node| node.peer(&hermit_id).is_none()));
    // The network is the nodes' own once they have met: a newcomer needs just one of them.
    let late_id = net.init("late");
    let late = net.node_with("late", &["--bootstrap", &address_in(&net.dir("b")).unwrap()]);
    ids.iter().for_each(|id| late.wait_for_peer(id));
    nodes.iter().for_each(|node| node.wait_for_peer(&late_id));
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn peers_of_another_network_are_turned_away() {
    let net = Net::start("ours");
    let (a_id, b_id) = (net.init("a"), net.init("b"));
    let other_id = init(&net.dir("other"), &format!("{}-not", net.name));
    let a = net.node("a", &[]);
    let a_address = address_in(&net.dir("a")).unwrap();
    let flags = ["--bootstrap", &a_address, "--bootstrap", &net.bootstrap];
    let other = net.node_with("other", &flags);
    let b = net.node("b", &[]);
    a.wait_for_peer(&b_id);
    b.wait_for_peer(&a_id);
    // It was let in by nobody: somebody has closed a connection, and none is open.
    eventually("the stranger is turned away", || {
        let closed = |node: &Node| node.metric("dunlin_protocols_connections_closed_total");
        (closed(&a) + closed(&other) >= 1.0).then_some(())
    });
    eventually("no connection is left", || {
        let has_other = a.is_connected_to(&other_id) || b.is_connected_to(&other_id);
        let met = other.client().peers().unwrap().peers.iter().any(|peer| peer.connected);
        (!has_other && !met).then_some(())
    });
    assert!(a.is_connected_to(&b_id), "its own network goes on");
}

#[test]
fn own_peers_get_segments_and_strangers_get_nothing() {
    let net = Net::start("private");
    let [a_id, b_id, stranger_id] = ["a", "b", "stranger"].map(|name| net.init(name));
    let (a, b) = (net.node("a", &[&b_id]), net.node("b", &[&a_id]));
    // Whom the stranger calls its own is nobody else's business.
    let stranger = net.node("stranger", &[&a_id, &b_id]);
    a.fill(&two_channels("pairs"), life("web", 400));
    let cids = a.archive_all("pairs", "web");
    assert!(cids.len() >= 5, "{} segments", cids.len());
    for node in [&b, &stranger] {
        node.wait_for_peer(&a_id);
        node.client().create_collection(&two_channels("pairs")).unwrap();
    }
    stranger.wait_for_peer(&b_id);

    // First the summaries, of which the payload is then fetched.
    let summaries = b.client().fetch(&fetch_request(&cids, &[], false)).unwrap();
    for fetched in &summaries.segments {
        let outcomes: Vec<_> = fetched.attempts.iter().map(|attempt| &attempt.peer).collect();
        assert_eq!(outcomes, [&a_id], "only own peers hear what this node looks for");
    }
    let link = &summaries.segments[0].segment.as_ref().unwrap().payload[0];
    assert!(b.client().block(link).is_err(), "it was not wished for");
    let got = b.client().fetch(&fetch_request(&cids, &[&a_id], true)).unwrap();
    for (fetched, cid) in got.segments.iter().zip(&cids) {
        let last = fetched.attempts.last().unwrap();
        assert_eq!((&last.peer, last.outcome), (&a_id, AttemptOutcome::Verified), "{fetched:?}");
        let segment = fetched.segment.as_ref().unwrap();
        assert_eq!((&segment.cid, fetched.local), (cid, false));
        // Summary and observations are there, byte for byte.
        for block in segment.payload.iter().chain([cid]) {
            assert_eq!(b.client().block(block).unwrap(), a.client().block(block).unwrap());
        }
        assert_eq!(segment.mean, a.client().segment(cid).unwrap().mean);
    }
    let again = b.client().fetch(&fetch_request(&cids, &[], true)).unwrap();
    assert!(again.segments.iter().all(|fetched| fetched.local && fetched.attempts.is_empty()));
    assert_eq!(nearest(&b, Scope::Fetched), nearest(&a, Scope::Local), "the same answer there");

    // Asking the owner, and asking the peer that has a copy.
    let refused = stranger.client().fetch(&fetch_request(&cids, &[&a_id, &b_id], true)).unwrap();
    for fetched in &refused.segments {
        assert!(fetched.segment.is_none(), "{fetched:?}");
        assert!(!fetched.attempts.is_empty(), "{fetched:?}");
        let is_refusal = |outcome| outcome == AttemptOutcome::Refused;
        assert!(fetched.attempts.iter().all(|attempt| is_refusal(attempt.outcome)), "{fetched:?}");
    }
    let status = stranger.client().archive().unwrap();
    assert_eq!((status.blocks, status.fetched), (0, 0));
    for node in [&a, &b] {
        assert!(node.metric("dunlin_protocols_requests_denied_total") >= 1.0);
        assert!(!node.peer(&stranger_id).unwrap().own);
    }
    // What a stranger could keep is what it could read: none of the private blocks is in it.
    let blocks: Vec<_> = cids.iter().map(|cid| a.client().block(cid).unwrap()).collect();
    stranger.stop();
    for block in &blocks {
        assert!(!is_anywhere_in(&net.dir("stranger"), block), "a private block got out");
        assert!(is_anywhere_in(&net.dir("b"), block), "the search finds what is there");
    }
}

#[test]
fn blocks_that_rot_on_disk_are_noticed_and_made_whole() {
    let net = Net::start("rot");
    let [a_id, b_id] = ["a", "b"].map(|name| net.init(name));
    let (a, b) = (net.node("a", &[&b_id]), net.node("b", &[&a_id]));
    a.fill(&two_channels("pairs"), life("web", 400));
    let cids = a.archive_all("pairs", "web");
    b.wait_for_peer(&a_id);
    b.client().create_collection(&two_channels("pairs")).unwrap();
    b.client().fetch(&fetch_request(&cids, &[], true)).unwrap();
    let blocks: Vec<_> = cids.iter().map(|cid| a.client().block(cid).unwrap()).collect();
    a.stop();
    b.stop();
    // One block of each rots.
    rot(&net.dir("a"), &blocks[0]);
    rot(&net.dir("b"), &blocks[1]);
    let (a, b) = (net.node("a", &[&b_id]), net.node("b", &[&a_id]));
    b.wait_for_peer(&a_id);
    a.wait_for_peer(&b_id);

    // Questions are answered from what is whole, and say that it is not all.
    let query = |scope| KnnQuery { scope, ..KnnQuery::new("pairs", vec![0.3, 0.6], 1_000) };
    let answer = b.client().knn(&query(Scope::Fetched)).unwrap();
    assert_eq!(answer.hits.len(), cids.len() - 1);
    assert!(!answer.coverage.complete);
    let problems = b.client().status().unwrap().problems;
    assert!(problems.iter().any(|problem| problem.contains(&cids[1])), "{problems:?}");

    let got = b.client().fetch(&fetch_request(&cids, &[], true)).unwrap();
    let again: Vec<_> = got.segments.iter().filter(|fetched| !fetched.local).collect();
    assert_eq!(again.len(), 1, "only what rotted is fetched again");
    assert_eq!((&again[0].cid, again[0].missing_payload.len()), (&cids[1], 0));
    assert_eq!(b.client().block(&cids[1]).unwrap(), blocks[1]);
    assert!(b.client().knn(&query(Scope::Fetched)).unwrap().coverage.complete);
    assert!(b.client().status().unwrap().problems.is_empty());

    // What the node sealed itself it makes whole by itself, and serves on.
    b.stop();
    let dir = net.dir("b");
    fs::remove_file(dir.join("archive/blocks.redb")).unwrap();
    let b = net.node("b", &[&a_id]);
    b.wait_for_peer(&a_id);
    let got = b.client().fetch(&fetch_request(&cids, &[], true)).unwrap();
    assert!(got.segments.iter().all(|fetched| fetched.segment.is_some()), "{got:?}");
    assert!(a.client().status().unwrap().problems.is_empty());
    assert!(a.log().contains("whole again"), "{}", a.log());
}

/// Changes a byte of a block in a node's archive.
#[track_caller]
fn rot(dir: &Path, block: &[u8]) {
    let path = dir.join("archive/blocks.redb");
    let mut bytes = fs::read(&path).unwrap();
    let places: Vec<_> = (0..bytes.len().saturating_sub(block.len()))
        .filter(|&at| bytes[at] == block[0] && bytes[at..].starts_with(block))
        .collect();
    assert!(!places.is_empty(), "the block stands in the file as it is");
    for at in places {
        bytes[at + block.len() / 2] ^= 1;
    }
    fs::write(&path, bytes).unwrap();
}

/// Returns the regimes nearest to a vector: CID and distance.
fn nearest(node: &Node, scope: Scope) -> Vec<(Option<String>, f64)> {
    let query = KnnQuery { scope, ..KnnQuery::new("pairs", vec![0.3, 0.6], 5) };
    let hits = node.client().knn(&query).unwrap().hits;
    assert_eq!(hits.len(), 5);
    hits.into_iter().map(|hit| (hit.cid, hit.distance)).collect()
}

/// Returns whether some file under `dir` holds `needle`.
fn is_anywhere_in(dir: &Path, needle: &[u8]) -> bool {
    let mut paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.any(|path| {
        if path.is_dir() {
            return is_anywhere_in(&path, needle);
        }
        let bytes = fs::read(&path).unwrap();
        // A small prefix finds the candidates fast.
        let first = needle[0];
        let starts = 0..bytes.len().saturating_sub(needle.len() - 1);
        starts.into_iter().any(|at| bytes[at] == first && bytes[at..].starts_with(needle))
    })
}

#[test]
fn a_liar_is_refused_and_stays_in_quarantine_after_a_restart() {
    let net = Net::start("liar");
    let [honest_id, victim_id] = ["honest", "victim"].map(|name| net.init(name));
    let honest = net.node("honest", &[&victim_id]);
    let victim = net.node("victim", &[&honest_id]);
    honest.fill(&two_channels("pairs"), life("web", 400));
    let cids = honest.archive_all("pairs", "web");
    let contested = std::slice::from_ref(&cids[0]);
    let block = honest.client().block(&cids[0]).unwrap();
    let (liar_id, _liar) = net.liar(&victim_id, &block, &cids[0]);
    victim.wait_for_peer(&liar_id);
    victim.wait_for_peer(&honest_id);

    let got =
        victim.client().fetch(&fetch_request(contested, &[&liar_id, &honest_id], false)).unwrap();
    let fetched = &got.segments[0];
    let outcomes: Vec<_> =
        fetched.attempts.iter().map(|attempt| (&attempt.peer, attempt.outcome)).collect();
    let (lie, truth) = (AttemptOutcome::Corrupt, AttemptOutcome::Verified);
    assert_eq!(outcomes, [(&liar_id, lie), (&honest_id, truth)]);
    assert_eq!(victim.client().block(&cids[0]).unwrap(), block);
    assert_eq!(victim.client().archive().unwrap().corrupt_refused, 1);
    assert_eq!(victim.metric("dunlin_protocols_wrong_cids_total"), 1.0);
    let opinion = |node: &Node| {
        let peer = node.peer(&liar_id)?;
        (peer.standing == Standing::Quarantined).then_some(peer)
    };
    let peer = opinion(&victim).expect("one lie is enough");
    assert!(peer.score <= 0.25 && !peer.evidence.is_empty(), "{peer:?}");
    assert_eq!(victim.peer(&honest_id).map(|peer| peer.standing), Some(Standing::Probation));

    // The gate does not let it be asked again, whoever names it first.
    let ask_again = |node: &Node, cid: &String| {
        let request = fetch_request(std::slice::from_ref(cid), &[&liar_id], false);
        let fetched = node.client().fetch(&request).unwrap().segments.remove(0);
        assert!(fetched.segment.is_some(), "{fetched:?}");
        let asked = fetched.attempts.iter().filter(|attempt| attempt.peer == liar_id);
        for attempt in asked {
            assert_eq!(attempt.outcome, AttemptOutcome::Refused, "{fetched:?}");
        }
    };
    ask_again(&victim, &cids[1]);
    // Killed, not stopped: what was found out is on disk already.
    eventually("the lie is written down", || {
        is_quarantined_on_disk(&net.dir("victim"), &liar_id).then_some(())
    });
    victim.kill();
    let victim = net.node("victim", &[&honest_id]);
    victim.wait_for_peer(&honest_id);
    victim.wait_for_peer(&liar_id);
    opinion(&victim).expect("a restart forgives nothing");
    ask_again(&victim, &cids[2]);
    assert_eq!(victim.client().archive().unwrap().corrupt_refused, 0, "it was not asked");
}

/// Has a node ask for a block that it lost, and be lied to; returns it, its id, and the liar with its id.
#[track_caller]
fn lied_to(net: &Net) -> (Node, String, KillOnDrop, String) {
    let victim_id = net.init("victim");
    let victim = net.node("victim", &[]);
    victim.fill(&two_channels("pairs"), life("web", 400));
    let cid = victim.archive_all("pairs", "web").remove(0);
    let block = victim.client().block(&cid).unwrap();
    victim.stop();
    fs::remove_dir_all(net.dir("victim").join("archive")).unwrap();
    fs::remove_dir_all(net.dir("victim").join("engine")).unwrap();
    let victim = net.node("victim", &[]);
    let (liar_id, liar) = net.liar(&victim_id, &block, &cid);
    victim.wait_for_peer(&liar_id);
    let got = victim.client().fetch(&fetch_request(&[cid], &[&liar_id], false)).unwrap();
    assert_eq!(got.segments[0].attempts[0].outcome, AttemptOutcome::Corrupt);
    (victim, victim_id, liar, liar_id)
}

#[test]
fn what_a_liar_signed_convicts_it_before_who_never_met_it_after_a_restart_too() {
    let net = Net::start("proof");
    let (victim, victim_id, liar, liar_id) = lied_to(&net);
    drop(liar);
    eventually("the proof is on disk", || {
        net.dir("victim").join("proofs.cbor").exists().then_some(())
    });
    victim.kill();
    // It knows nobody any more who could have the proof, too.
    fs::remove_file(net.dir("victim").join("peers.cbor")).ok();
    let _victim = net.node_with("victim", &[]);
    let address = eventually("the victim listens again", || address_in(&net.dir("victim")));
    net.init("late");
    let late = net.node_with("late", &["--bootstrap", &address]);
    late.wait_for_peer(&victim_id);
    eventually("who was away learns what was proven", || {
        let peer = late.peer(&liar_id)?;
        (peer.standing == Standing::Quarantined).then_some(())
    });
    assert_eq!(late.peer(&victim_id).unwrap().standing, Standing::Probation);
}

#[test]
fn a_clean_end_keeps_what_was_found_out_last() {
    let net = Net::start("last");
    let (victim, _, _liar, liar_id) = lied_to(&net);
    // At once, before the network has handed it out.
    victim.stop();
    assert!(is_quarantined_on_disk(&net.dir("victim"), &liar_id));
}

/// Returns whether a node that starts on this folder will hold the peer in quarantine.
fn is_quarantined_on_disk(dir: &Path, peer: &str) -> bool {
    let mut records: BTreeMap<_, Record> = BTreeMap::new();
    if let Ok(bytes) = fs::read(dir.join("trust.cbor")) {
        let (_, table): (u8, Vec<Record>) = cbor::decode(&bytes, bytes.len()).unwrap();
        records.extend(table.into_iter().map(|record| (*record.peer(), record)));
    }
    // Behind its header, the log has frames, as docs/formats/revocations.md has them.
    let bytes = fs::read(dir.join("trust.log")).unwrap_or_default();
    let mut rest = bytes.get(16..).unwrap_or_default();
    while let Some((length, _)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        // One that is being written.
        let Some(body) = rest.get(8..8 + length) else { break };
        let (changed, _): (Vec<Record>, Vec<ByteBuf>) = cbor::decode(body, body.len()).unwrap();
        records.extend(changed.into_iter().map(|record| (*record.peer(), record)));
        rest = rest.get((8 + length + 4).next_multiple_of(8)..).unwrap_or_default();
    }
    let records = records.into_values().collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let now = UnixMillis(u64::try_from(now).unwrap());
    let trust = Trust::new(dunlin_trust::Config::default(), records);
    trust.standing(now, &peer.parse().unwrap()) == dunlin_trust::Standing::Quarantined
}

#[test]
fn templates_are_judged_by_who_hears_of_them_and_survive_restarts() {
    let net = Net::start("templates");
    let [a_id, alike_id, _] = ["a", "alike", "unlike"].map(|name| net.init(name));
    let start_all = || ["a", "alike", "unlike"].map(|name| net.node(name, &[]));
    let [a, alike, unlike] = start_all();
    a.fill(&two_channels("pairs"), life("web", LIFE));
    alike.fill(&two_channels("pairs"), life("db", LIFE));
    unlike.fill(&two_channels("pairs"), life("odd", LIFE).into_iter().map(elsewhere).collect());
    alike.wait_for_peer(&a_id);
    unlike.wait_for_peer(&a_id);
    let released = a.client().publish_templates(&publish_request(1.0)).unwrap();
    assert!(released.set.templates >= 1 && released.set.source == TemplateSource::Own);

    let check = |node: &Node, adopted: bool| {
        let set = judged_set(node, &a_id);
        let verdict = set.verdict.unwrap();
        assert_eq!(verdict.adopted, adopted, "{verdict:?}");
        let reason = if adopted { "explains" } else { "too far" };
        assert!(verdict.reason.contains(reason), "{verdict:?}");
        assert_eq!(set.centroids, released.set.centroids, "as they were signed");
        assert_eq!(node.client().status().unwrap().templates_adopted, u64::from(adopted));
        // Questions look at those that were adopted, and no others.
        let centroids = &released.set.centroids;
        let vector = centroids[0].clone();
        let query = KnnQuery { scope: Scope::Templates, ..KnnQuery::new("pairs", vector, 100) };
        let hits = node.client().knn(&query).unwrap().hits;
        assert_eq!(hits.len(), if adopted { centroids.len() } else { 0 });
        assert!(hits.first().is_none_or(|hit| hit.distance == 0.0 && hit.template.is_some()));
    };
    check(&alike, true);
    check(&unlike, false);
    // What comes in is matched with what was adopted, and with nothing that was not.
    let centroid = released.set.centroids[0].clone();
    let like_template = |node: &Node, index: u32| {
        let new = Observation { vector: centroid.clone(), ..observation("new", index) };
        node.client().ingest("pairs", &IngestRequest { observations: vec![new] }).unwrap();
        let entities = node.client().entities("pairs").unwrap().entities;
        entities.into_iter().find(|entity| entity.entity == "new").unwrap().matched
    };
    let mut indices = 0..;
    let mut next = || indices.next().unwrap();
    let found = eventually("the engine is told what is adopted", || like_template(&alike, next()));
    assert_eq!((found.nearest, found.distance), (Nearest::Template(format!("{a_id}/0")), 0.0));
    assert_eq!(like_template(&unlike, 0), None);

    // Who comes late hears of it too, and judges by what it has: nothing yet.
    net.init("late");
    let late = net.node("late", &[]);
    late.client().create_collection(&two_channels("pairs")).unwrap();
    let verdict = judged_set(&late, &a_id).verdict.unwrap();
    assert!(!verdict.adopted && verdict.reason.contains("too little"), "{verdict:?}");

    for node in [a, alike, unlike, late] {
        node.stop();
    }
    let [a, alike, unlike] = start_all();
    let own = a.client().templates().unwrap().sets.remove(0);
    assert_eq!((own.signer, own.centroids), (a_id.clone(), released.set.centroids.clone()));
    check(&alike, true);
    check(&unlike, false);

    // What the operator takes back counts no more, over a restart too, until it is adopted again.
    let request = |peer: &str| RollBackRequest {
        collection: "pairs".to_owned(),
        peer: Some(peer.to_owned()),
    };
    let stranger = alike.client().roll_back_templates(&request(&alike_id)).unwrap_err();
    assert!(stranger.is_refusal("not_found"), "{stranger}");
    let verdict = |sets: Templates| {
        let set = sets.sets.into_iter().find(|set| set.signer == a_id).unwrap();
        set.verdict.unwrap()
    };
    let taken_back = verdict(alike.client().roll_back_templates(&request(&a_id)).unwrap());
    assert!(!taken_back.adopted && taken_back.reason.contains("took it back"), "{taken_back:?}");
    assert_eq!(like_template(&alike, next()), None, "from that moment on");
    alike.stop();
    let alike = net.node("alike", &[]);
    let still = judged_set(&alike, &a_id).verdict.unwrap();
    assert!(!still.adopted && still.reason.contains("took it back"), "{still:?}");
    let request = AdoptRequest { collection: "pairs".to_owned() };
    assert!(verdict(alike.client().adopt_templates(&request).unwrap()).adopted);
    assert!(like_template(&alike, next()).is_some());
    check(&alike, true);
}

/// Moves an observation to where the templates of others are not.
fn elsewhere(mut observation: Observation) -> Observation {
    observation.vector = vec![0.9 + observation.vector[0] * 0.05, 0.95];
    observation
}

/// Waits for the set of a peer and what the gate says of it.
#[track_caller]
fn judged_set(node: &Node, signer: &str) -> TemplateSet {
    eventually("the templates arrive and are judged", || {
        let sets = node.client().templates().unwrap().sets;
        sets.into_iter().find(|set| set.signer == signer && set.verdict.is_some())
    })
}

#[test]
fn what_is_unchanged_costs_nothing_and_what_is_beyond_the_ceiling_is_refused() {
    let net = Net::start("ledger");
    net.init("a");
    set(&net.dir("a"), "epsilon_max = 4.0", "epsilon_max = 1.5");
    let a = net.node_with("a", &[]);
    a.fill(&two_channels("pairs"), life("web", LIFE));
    let released = a.client().publish_templates(&publish_request(1.0)).unwrap();
    assert_eq!((released.epsilon_spent, released.epsilon_max), (Some(1.0), 1.5));
    let refusal = |node: &Node, epsilon: f64, code: &str| {
        let error = node.client().publish_templates(&publish_request(epsilon)).unwrap_err();
        assert!(error.is_refusal(code), "{error:?}");
        let ledger = node.client().ledger().unwrap();
        assert_eq!((ledger.entries.len(), ledger.epsilon_spent), (1, 1.0));
        assert!(ledger.entries[0].released && ledger.entries[0].epsilon == 1.0);
    };
    let again = a.client().publish_templates(&publish_request(0.25)).unwrap();
    assert!(again.unchanged && !released.unchanged);
    assert_eq!(again.set, released.set, "the very set, in the same bytes");
    let new = |index| IngestRequest { observations: vec![observation("web", index)] };
    a.client().ingest("pairs", &new(LIFE)).unwrap();
    refusal(&a, 1.0, "budget_exhausted");
    // Neither is forgotten by a crash.
    a.kill();
    let a = net.node_with("a", &[]);
    refusal(&a, 1.0, "budget_exhausted");
    let rest = a.client().publish_templates(&publish_request(0.5)).unwrap();
    assert_eq!(rest.epsilon_spent, Some(1.5), "up to the ceiling it may go");
    assert_eq!(a.client().ledger().unwrap().entries.len(), 2);
    // What was observed since has a budget of its own.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    let later = |index| Observation {
        timestamp_us: i64::try_from(since).unwrap() + i64::from(index),
        // Not the very values of before: those would be unchanged, whatever their time.
        ..observation("web", index + 7)
    };
    let more: Vec<_> = (0..LIFE).map(later).collect();
    for batch in more.chunks(5_000) {
        let batch = IngestRequest { observations: batch.to_vec() };
        a.client().ingest("pairs", &batch).unwrap();
    }
    let refused = a.client().publish_templates(&publish_request(1.0)).unwrap_err();
    assert!(refused.is_refusal("budget_exhausted"), "{refused:?}");
    let fresh = PublishRequest { fresh: true, ..publish_request(1.0) };
    let released = a.client().publish_templates(&fresh).unwrap();
    assert!(!released.unchanged && released.from_us.is_some());
    // What was observed between the two releases was in the second of them, and in this one.
    assert_eq!(released.epsilon_spent, Some(1.5), "by the worst off of what took part");
}

#[test]
fn a_fleet_that_is_too_small_for_entities_is_told_how_many_it_takes() {
    let net = Net::start("too-few");
    net.init("a");
    set(&net.dir("a"), "delta = 0.0", "delta = 1e-6");
    let a = net.node_with("a", &[]);
    a.fill(&two_channels("pairs"), life("web", 500));
    let per_entity = PublishRequest {
        unit: Some("entity".into()),
        mechanism: Some("gaussian".into()),
        ..publish_request(1.0)
    };
    let error = a.client().publish_templates(&per_entity).unwrap_err();
    assert!(error.is_refusal("too_few") && error.to_string().contains("are needed"), "{error}");
    let ledger = a.client().ledger_of("pairs").unwrap();
    let [entry] = ledger.entries.as_slice() else { panic!("{ledger:?}") };
    assert!(!entry.released && entry.units_needed > Some(50), "{entry:?}");
    assert!(entry.epsilon < 0.3 && entry.rho > Some(0.0), "only the count was paid for: {entry:?}");
    let spent = |name| {
        let found = ledger.entities.iter().find(|entity| entity.entity == name);
        found.and_then(|entity| entity.epsilon_spent)
    };
    assert_eq!(spent("web"), Some(entry.epsilon));
    // The answer is remembered, and costs nothing more.
    let error = a.client().publish_templates(&per_entity).unwrap_err();
    assert!(error.is_refusal("too_few"), "{error}");
    assert_eq!(a.client().ledger().unwrap().entries.len(), 1);
    let nonsense = PublishRequest { unit: Some("fleet".into()), ..per_entity };
    assert!(a.client().publish_templates(&nonsense).unwrap_err().is_refusal("bad_query"));
}
