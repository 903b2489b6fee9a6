//! What a stranger can read: everything that reaches it, decrypted, and everything that it can store, is searched
//! for what the node keeps to itself. The same search over what an own peer reads finds all of it.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "../common/mod.rs"]
mod common;
mod listener;
mod secrets;

use std::{collections::BTreeSet, fs, process::Command};

use common::{
    Node, dunlin, eventually, output,
    peers::{Net, address_in},
    stdout,
};
use dunlin_client::{
    CollectionSpec, FetchRequest, Fidelity, Metric, Observation, SealedOutcome, Segment,
    SegmentsQuery, Share, ShareRequest, Units,
};
use dunlin_protocols::messages::SegmentsRequest;
use dunlin_wire::{Cid, cbor};
use libp2p::identity::Keypair;

use listener::Listener;
use secrets::Secrets;

/// Names that stand nowhere else.
const PRIVATE: &str = "gearboxes-of-halle";
const SEALED: &str = "bearings-of-jena";
const ENTITIES: [&str; 2] = ["turbine/seven-north", "turbine/eight-south"];

/// Values that stand nowhere else: irregular, and of a level that moves, so that there are several segments.
fn observations() -> Vec<Observation> {
    let observation = |number: u16, entity: &str, index: u16| {
        let level = f32::from(index / 50) * 0.117_339 + f32::from(number) * 0.031_337;
        let channel =
            |n: u16| level + 0.013_717 * f32::from(n + 1) + f32::from(index * 7 % 5) * 0.003_911;
        Observation {
            entity: entity.to_owned(),
            timestamp_us: 1_763_000_000_000_000 + i64::from(index) * 60_000_000,
            vector: (0..8).map(channel).collect(),
            metadata: None,
        }
    };
    let life = |(number, entity)| (0..400).map(move |index| observation(number, entity, index));
    (0..).zip(ENTITIES).flat_map(life).collect()
}

fn collection(name: &str) -> CollectionSpec {
    CollectionSpec {
        name: name.to_owned(),
        dim: 8,
        metric: Metric::Euclidean,
        fidelity: Fidelity::Lossless,
        // Without declared ranges no peer is asked for templates by this name.
        units: Units::NoiseFloor,
        threshold: None,
        error_bound: None,
        lateness_us: 0,
        channels: None,
    }
}

/// Returns all segments of a collection, when all are archived.
fn segments(node: &Node, collection: &str) -> Vec<Segment> {
    ENTITIES.iter().for_each(|entity| drop(node.archive_all(collection, entity)));
    let query = SegmentsQuery {
        collection: collection.to_owned(),
        limit: Some(1_000),
        ..SegmentsQuery::default()
    };
    node.client().segments(&query).unwrap().segments
}

/// Waits until every segment of a collection has a sealed copy, and returns them with it.
fn sealed_segments(node: &Node, collection: &str) -> Vec<Segment> {
    eventually("all copies are made", || {
        let all = segments(node, collection);
        all.iter().all(|segment| segment.sealed.is_some()).then_some(all)
    })
}

fn cids_of(segments: &[Segment]) -> Vec<Cid> {
    let all = segments.iter().flat_map(|segment| segment.payload.iter().chain([&segment.cid]));
    all.map(|cid| cid.parse().unwrap()).collect()
}

/// A node with a private and a sealed collection, and a public gateway.
struct Scene {
    net: Net,
    node: Node,
    node_id: String,
    own_key: Keypair,
    /// Of both collections, with payload.
    plain: Vec<Cid>,
    sealed: Vec<Segment>,
    catalog: String,
    secrets: Secrets,
}

impl Scene {
    fn start(test: &str) -> Self {
        let net = Net::start(test);
        let node_id = net.init("node");
        let own_key = Keypair::generate_ed25519();
        let own_id = own_key.public().to_peer_id().to_string();
        let flags =
            ["--bootstrap", &net.bootstrap, "--gateway", "127.0.0.1:0", "--own-peer", &own_id];
        let node = net.node_with("node", &flags);
        for name in [PRIVATE, SEALED] {
            node.fill(&collection(name), observations());
        }
        node.client().share(SEALED, Share::Sealed).unwrap();
        let private = segments(&node, PRIVATE);
        let sealed = sealed_segments(&node, SEALED);
        assert!(private.len() >= 8 && sealed.len() == private.len(), "{} segments", private.len());
        // Equal observations have equal payload, whatever their collection.
        let plain: BTreeSet<_> = cids_of(&private).into_iter().chain(cids_of(&sealed)).collect();
        let plain = Vec::from_iter(plain);
        let mut secrets = Secrets::default();
        for name in [PRIVATE, SEALED].iter().chain(&ENTITIES) {
            secrets.add_name(name);
        }
        observations().iter().for_each(|observation| secrets.add_vector(&observation.vector));
        for segment in private.iter().chain(&sealed) {
            secrets.add_vector(&segment.mean);
            for cid in &segment.payload {
                secrets.add_payload(&node.client().block(cid).unwrap());
            }
        }
        let status = node.client().archive().unwrap().sealed.remove(0);
        assert_eq!((status.copies, status.due), (sealed.len() as u64, 0));
        let catalog = status.root.unwrap();
        Self { net, node, node_id, own_key, plain, sealed, catalog, secrets }
    }

    fn copies(&self) -> Vec<Cid> {
        let copies = self.sealed.iter().map(|segment| segment.sealed.as_ref().unwrap());
        copies.map(|cid| cid.parse().unwrap()).collect()
    }

    /// Connects somebody, who asks for everything in every way there is.
    fn listen(&self, key: Keypair) -> Listener {
        let mut listener = Listener::start(&self.net.name, key);
        listener.meet(&address_in(&self.net.dir("node")).unwrap());
        let everything =
            [self.plain.clone(), self.copies(), vec![self.catalog.parse().unwrap()]].concat();
        for cids in everything.chunks(64) {
            let request = SegmentsRequest::Blocks { cids: cids.to_vec() };
            listener.ask_segments(cbor::encode(&request).unwrap());
        }
        for collection in [PRIVATE, SEALED] {
            let request = SegmentsRequest::List {
                collection: collection.to_owned(),
                after: None,
                limit: 1_000,
            };
            listener.ask_segments(cbor::encode(&request).unwrap());
        }
        listener.want(&everything);
        everything.iter().take(4).for_each(|cid| listener.ask_providers(cid));
        listener
    }

    fn gateway(&self) -> String {
        fs::read_to_string(self.net.dir("node").join("gateway.address")).unwrap().trim().to_owned()
    }
}

#[test]
fn a_stranger_finds_no_vector_no_entity_and_no_name_in_all_that_reaches_it() {
    let scene = Scene::start("wire");
    let stranger = scene.listen(Keypair::generate_ed25519());
    // The own peer is news to the node, which tells all the network how many segments it has.
    let own = scene.listen(scene.own_key.clone());
    stranger.wait_for_gossip();

    // It got every copy with its payload, and nothing else.
    let stored = stranger.blocks();
    for copy in scene.copies() {
        assert!(stored.contains_key(&copy), "{copy} is for everybody");
    }
    assert!(scene.plain.iter().all(|cid| !stored.contains_key(cid)));
    let heard = stranger.heard();
    assert!(heard.len() > 10_000, "{} bytes", heard.len());
    assert_eq!(scene.secrets.found_in(&heard), Vec::<String>::new());
    for block in stored.values() {
        assert_eq!(scene.secrets.found_in(block), Vec::<String>::new());
    }

    // The gateway tells it no more, in no form.
    for cid in &scene.plain {
        for form in ["raw", "car", "dag-json", "html"] {
            let answer = http_get(&scene.gateway(), &format!("/ipfs/{cid}?format={form}"));
            assert!(answer.starts_with(b"HTTP/1.1 404"), "{form}");
        }
    }
    let all = http_get(&scene.gateway(), &format!("/ipfs/{}?format=car", scene.catalog));
    assert!(all.starts_with(b"HTTP/1.1 200"));
    assert_eq!(scene.secrets.found_in(&all), Vec::<String>::new());

    // The search finds what is there: the own peer may read it all, and did.
    let heard = own.heard();
    let found = scene.secrets.found_in(&heard);
    for name in [PRIVATE, SEALED].iter().chain(&ENTITIES) {
        assert!(found.contains(&format!("name {name}")), "{found:?}");
    }
    let of = |kind: &str| found.iter().filter(|found| found.starts_with(kind)).count();
    assert!(of("f32 little endian") >= scene.sealed.len(), "{found:?}");
    assert!(of("payload") >= scene.sealed.len(), "{found:?}");
    assert!(scene.plain.iter().all(|cid| own.blocks().contains_key(cid)));
}

#[test]
fn a_stranger_keeps_copies_whole_and_opens_them_with_the_key_alone() {
    let scene = Scene::start("copies");
    let stranger_id = scene.net.init("stranger");
    let stranger = scene.net.node_with("stranger", &["--bootstrap", &scene.net.bootstrap]);
    stranger.wait_for_peer(&scene.node_id);
    assert!(!scene.node.peer(&stranger_id).unwrap().own);
    let copies: Vec<_> = scene.copies().iter().map(ToString::to_string).collect();
    let request = FetchRequest {
        cids: copies.clone(),
        peers: vec![scene.node_id.clone()],
        payload: true,
        ..FetchRequest::default()
    };

    // Without the key they are blocks like others.
    let closed = stranger.client().fetch(&request).unwrap();
    for fetched in &closed.segments {
        let sealed = fetched.sealed.as_ref().unwrap_or_else(|| panic!("{fetched:?}"));
        assert_eq!(sealed.outcome, SealedOutcome::NoKey);
        assert!(fetched.segment.is_none());
    }
    // It may keep all of them, as any node of IPFS may: the catalog's CAR is whole.
    let car = http_get(&scene.gateway(), &format!("/ipfs/{}?format=car", scene.catalog));
    let file = scene.net.dir("copies.car");
    fs::write(&file, unchunked(&car)).unwrap();
    let import = ["archive", "import", file.to_str().unwrap()];
    stdout(&mut stranger.command(&import));
    stranger.stop();
    let kept = files_in(&scene.net.dir("stranger"));
    assert!(kept.len() > 100_000, "{} bytes", kept.len());
    assert_eq!(scene.secrets.found_in(&kept), Vec::<String>::new());
    let own = files_in(&scene.net.dir("node"));
    assert!(!scene.secrets.found_in(&own).is_empty(), "the search finds what is there");

    // Handing over the key opens them, as what they are.
    let key = stdout(&mut dunlin_in(&scene, "node", &["keys", "export", SEALED]));
    let damaged =
        common::with_input(&mut dunlin_in(&scene, "stranger", &["keys", "import"]), &key[1..]);
    assert!(!damaged.status.success());
    let imported =
        common::with_input(&mut dunlin_in(&scene, "stranger", &["keys", "import"]), &key);
    assert!(imported.status.success(), "{imported:?}");
    let flags = ["--bootstrap", &scene.net.bootstrap];
    let stranger = scene.net.node_with("stranger", &flags);
    stranger.wait_for_peer(&scene.node_id);
    let opened = stranger.client().fetch(&request).unwrap();
    for (fetched, plain) in opened.segments.iter().zip(&scene.sealed) {
        let segment = fetched.segment.as_ref().unwrap_or_else(|| panic!("{fetched:?}"));
        assert_eq!((&segment.cid, &segment.mean), (&plain.cid, &plain.mean));
        for cid in segment.payload.iter().chain([&segment.cid]) {
            let here = stranger.client().block(cid).unwrap();
            assert_eq!(here, scene.node.client().block(cid).unwrap());
        }
    }
    assert_eq!(stranger.client().archive().unwrap().fetched, scene.sealed.len() as u64);
    let line = key.trim().rsplit_once(':').unwrap().1;
    for node in [&scene.node, &stranger] {
        assert!(!node.log().contains(line), "a key stands in a log");
    }
}

#[test]
fn what_is_private_again_is_served_no_more() {
    let scene = Scene::start("back");
    let copy = scene.copies()[0];
    let get = || http_get(&scene.gateway(), &format!("/ipfs/{copy}?format=raw"));
    assert!(get().starts_with(b"HTTP/1.1 200"));
    let said = stdout(&mut scene.node.command(&["collections", "share", SEALED, "private"]));
    assert!(said.contains("theirs for ever"), "{said}");
    eventually("the copies are gone", || {
        scene.node.client().archive().unwrap().sealed.is_empty().then_some(())
    });
    assert!(get().starts_with(b"HTTP/1.1 404"));
    assert!(scene.node.log().contains("what may leave was set"), "{}", scene.node.log());
    let all = http_get(&scene.gateway(), &format!("/ipfs/{}?format=raw", scene.catalog));
    assert!(all.starts_with(b"HTTP/1.1 404"));
    // And back: the same copies, which have the same CIDs.
    scene.node.client().share(SEALED, Share::Sealed).unwrap();
    let again = sealed_segments(&scene.node, SEALED);
    let cids = |segments: &[Segment]| segments.iter().map(|s| s.sealed.clone()).collect::<Vec<_>>();
    assert_eq!(cids(&again), cids(&scene.sealed));
    assert_eq!(
        scene.node.client().archive().unwrap().sealed[0].root.as_ref(),
        Some(&scene.catalog)
    );
}

#[test]
fn copies_are_made_on_after_a_crash_and_with_a_new_key_from_then_on() {
    let net = Net::start("on");
    net.init("node");
    let flags = ["--bootstrap", &net.bootstrap];
    let node = net.node_with("node", &flags);
    node.fill(&collection(SEALED), observations());
    let before = segments(&node, SEALED);
    assert!(before.iter().all(|segment| segment.sealed.is_none()));
    node.client().share(SEALED, Share::Sealed).unwrap();
    // Whatever has been done by now.
    node.kill();
    let node = net.node_with("node", &flags);
    let made = sealed_segments(&node, SEALED);
    assert_eq!(made.len(), before.len());
    let shares = node.client().collections().unwrap().shares;
    assert_eq!(shares.get(SEALED), Some(&Share::Sealed));

    stdout(&mut node.command(&["keys", "rotate", SEALED]));
    let late = |index: u16| Observation {
        timestamp_us: 1_764_000_000_000_000 + i64::from(index),
        entity: "turbine/nine-west".to_owned(),
        vector: vec![0.7; 8],
        metadata: None,
    };
    let batch = dunlin_client::IngestRequest { observations: (0..20).map(late).collect() };
    node.client().ingest(SEALED, &batch).unwrap();
    node.client().seal(SEALED, "turbine/nine-west").unwrap();
    let all = eventually("the new segment has its copy", || {
        let all = sealed_segments(&node, SEALED);
        (all.len() == made.len() + 1).then_some(all)
    });
    let copy =
        |segment: &Segment| all.iter().find(|s| s.cid == segment.cid).unwrap().sealed.clone();
    assert!(made.iter().all(|segment| copy(segment) == segment.sealed), "old copies stay");
    let ring = stdout(&mut node.command(&["keys", "ls", "--json"]));
    let ring: serde_json::Value = serde_json::from_str(&ring).unwrap();
    let keys: Vec<_> =
        ring.as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap()).collect();
    assert_eq!(keys.len(), 2);
    let newest = all.iter().find(|s| !made.iter().any(|m| m.cid == s.cid)).unwrap();
    for (segment, key) in [(&made[0], keys[0]), (newest, keys[1])] {
        let cids = vec![segment.sealed.clone().unwrap()];
        let request = FetchRequest { cids, ..FetchRequest::default() };
        let fetched = node.client().fetch(&request).unwrap().segments.remove(0);
        assert_eq!(fetched.sealed.unwrap().key, key);
        assert_eq!(fetched.segment.unwrap().cid, segment.cid);
    }
}

#[test]
fn noise_is_refused_with_a_reason_and_so_are_exposed_keys() {
    let net = Net::start("refused");
    net.init("node");
    let node = net.node_with("node", &["--bootstrap", &net.bootstrap]);
    node.client().create_collection(&collection(PRIVATE)).unwrap();
    // Noise is scaled to ranges, and this collection declares none.
    let error = node.client().share(PRIVATE, Share::Noised).unwrap_err();
    assert!(error.to_string().contains("no declared ranges"), "{error:?}");
    node.client().create_collection(&ranged("pumps")).unwrap();
    for (since_us, window_us) in
        [(None, Some(1)), (None, Some(u64::MAX)), (Some(0), Some(600_000_000))]
    {
        let request = ShareRequest { share: Share::Noised, since_us, window_us };
        let error = node.client().share_with("pumps", &request).unwrap_err();
        assert!(error.is_refusal("noised"), "{since_us:?} {window_us:?}: {error:?}");
    }
    let request = ShareRequest { share: Share::Sealed, since_us: Some(0), window_us: None };
    assert!(node.client().share_with("pumps", &request).unwrap_err().is_refusal("bad_query"));
    assert!(node.client().share("nowhere", Share::Sealed).unwrap_err().is_refusal("not_found"));
    stdout(&mut node.command(&["keys", "rotate", PRIVATE]));
    let mut chmod = Command::new("chmod");
    assert!(output(chmod.arg("644").arg(net.dir("node").join("sealing.keys"))).status.success());
    let error = node.client().share(PRIVATE, Share::Sealed).unwrap_err();
    assert!(error.is_refusal("keys"), "{error:?}");
    assert!(node.client().collections().unwrap().shares.is_empty(), "nothing changed");
}

fn ranged(name: &str) -> CollectionSpec {
    let each = |bound| vec![bound; 8];
    CollectionSpec {
        units: Units::Range { lower: each(0.0), upper: each(8.0) },
        ..collection(name)
    }
}

const DAY_US: u64 = 86_400_000_000;

#[test]
fn noised_segments_tell_strangers_a_noised_mean_and_nothing_else() {
    const NOISED: &str = "compressors-of-gera";
    const SINCE_US: i64 = 1_762_992_000_000_000;
    let net = Net::start("noised");
    let node_id = net.init("node");
    net.init("stranger");
    let flags = ["--bootstrap", &net.bootstrap, "--gateway", "127.0.0.1:0"];
    let node = net.node_with("node", &flags);
    node.fill(&ranged(NOISED), observations());
    let request =
        ShareRequest { share: Share::Noised, since_us: Some(SINCE_US), window_us: Some(DAY_US) };
    let answer = node.client().share_with(NOISED, &request).unwrap();
    let terms = answer.noised.unwrap();
    assert!(terms.epsilon == 1.0 && terms.observations_needed < 200, "{terms:?}");
    let released = |node: &Node, at_least: u64| {
        eventually("windows are released", || {
            let noised = node.client().archive().unwrap().noised.pop()?;
            let is_caught_up = noised.until_us? > now_us() - 2 * DAY_US as i64;
            (noised.segments >= at_least && is_caught_up).then_some(noised)
        })
    };
    let noised = released(&node, 2);
    // Both entities have 400 observations in one day, and nobody has any in the hundreds of days since: noise
    // alone passes a threshold of 20 deviations in none of these.
    assert_eq!(noised.segments, 2, "{noised:?}");

    // Anybody gets all of it by one CID, and finds no name and no vector in it.
    let gateway = fs::read_to_string(net.dir("node").join("gateway.address")).unwrap();
    let catalog = noised.root.clone().unwrap();
    let car = http_get(gateway.trim(), &format!("/ipfs/{catalog}?format=car"));
    assert!(car.starts_with(b"HTTP/1.1 200"));
    let mut secrets = Secrets::default();
    ENTITIES.iter().for_each(|entity| secrets.add_name(entity));
    observations().iter().for_each(|observation| secrets.add_vector(&observation.vector));
    let exact: Vec<Vec<f32>> = ENTITIES.iter().map(|entity| mean_of(entity)).collect();
    exact.iter().for_each(|mean| secrets.add_vector(mean));
    assert_eq!(secrets.found_in(&car), Vec::<String>::new());
    let pseudonyms = files_in(&net.dir("node"));
    assert!(!secrets.found_in(&pseudonyms).is_empty(), "the search finds what is there");

    // A stranger fetches one, and sees who promised what, and a mean that is near and not exact.
    let cids = dunlin_cids(&car).into_iter().filter(|cid| *cid != catalog).collect::<Vec<_>>();
    let stranger = net.node_with("stranger", &["--bootstrap", &net.bootstrap]);
    stranger.wait_for_peer(&node_id);
    let request = FetchRequest { cids, peers: vec![node_id.clone()], ..FetchRequest::default() };
    let fetched = stranger.client().fetch(&request).unwrap().segments;
    let found: Vec<_> = fetched.into_iter().filter_map(|one| one.noised).collect();
    assert_eq!(found.len(), 2);
    let mut entities = BTreeSet::new();
    for segment in &found {
        assert_eq!((&segment.signer, segment.collection.as_str()), (&node_id, NOISED));
        assert_eq!((segment.unit.as_str(), segment.epsilon), ("observation", 1.0));
        assert_eq!(segment.start_us.rem_euclid(DAY_US as i64), 0);
        assert!(segment.count.abs_diff(400) < 150, "{} observations", segment.count);
        assert!(entities.insert(segment.entity.clone()), "each entity has its own pseudonym");
        // The noise of a channel has a deviation of 0.13 in a range of 8: 1 is further than it ever gets.
        let is_near = |mean: &Vec<f32>| {
            mean.iter().zip(&segment.mean).all(|(exact, noised)| (exact - noised).abs() < 2.0)
        };
        assert!(exact.iter().any(is_near), "{:?}", segment.mean);
        assert!(!exact.contains(&segment.mean), "it is noised");
    }
    let shown =
        stdout(&mut stranger.command(&["segments", "fetch", &request.cids[0], &request.cids[1]]));
    assert!(shown.contains("pseudonym") && shown.contains("epsilon 1 per observation"), "{shown}");

    // The ledger has every window, and each cost an observation once.
    let ledger = node.client().ledger().unwrap();
    let windows = ledger.entries.iter().filter(|entry| entry.purpose == "segments").count();
    assert!(windows > 300, "{windows} windows");

    // After a kill, no window is released again.
    node.kill();
    let node = net.node_with("node", &flags);
    let again = released(&node, 2);
    assert_eq!((again.segments, again.root), (2, Some(catalog.clone())));
    let entries = node.client().ledger().unwrap().entries.len();
    assert!(
        entries <= ledger.entries.len() + 1,
        "{entries} entries, {} before",
        ledger.entries.len()
    );

    // Taken back, they are served no more.
    node.client().share(NOISED, Share::Private).unwrap();
    eventually("the segments are gone", || {
        node.client().archive().unwrap().noised.is_empty().then_some(())
    });
    let gateway = fs::read_to_string(net.dir("node").join("gateway.address")).unwrap();
    let all = http_get(gateway.trim(), &format!("/ipfs/{catalog}?format=raw"));
    assert!(all.starts_with(b"HTTP/1.1 404"));
}

fn now_us() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_micros()).unwrap()
}

fn mean_of(entity: &str) -> Vec<f32> {
    let all = observations();
    let own: Vec<_> = all.iter().filter(|observation| observation.entity == entity).collect();
    let mean = |channel: usize| {
        let sum: f64 = own.iter().map(|observation| f64::from(observation.vector[channel])).sum();
        (sum / own.len() as f64) as f32
    };
    (0..8).map(mean).collect()
}

/// Returns the CIDs of all blocks in a gateway's CAR.
fn dunlin_cids(answer: &[u8]) -> Vec<String> {
    let car = unchunked(answer);
    let mut reader = dunlin_archive::car::Reader::open(car.as_slice()).unwrap();
    let mut cids = Vec::new();
    while let Some(section) = reader.next_section().unwrap() {
        cids.push(section.cid.to_string());
    }
    cids
}

fn dunlin_in(scene: &Scene, node: &str, args: &[&str]) -> Command {
    let mut command = dunlin(args);
    command.arg("--data-dir").arg(scene.net.dir(node));
    command
}

/// Returns the bytes of all files under a folder, one after the other.
fn files_in(dir: &std::path::Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        bytes.extend(if path.is_dir() { files_in(&path) } else { fs::read(path).unwrap() });
    }
    bytes
}

/// Returns all that a server says to a request.
fn http_get(address: &str, path: &str) -> Vec<u8> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(common::PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

/// Returns the body of an answer that came in chunks.
fn unchunked(answer: &[u8]) -> Vec<u8> {
    let at = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert!(String::from_utf8_lossy(&answer[..at]).to_lowercase().contains("chunked"));
    let (mut body, mut rest) = (Vec::new(), &answer[at..]);
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").unwrap();
        let length = std::str::from_utf8(&rest[..end]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return body;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + length]);
        rest = &rest[end + 2 + length + 2..];
    }
}
