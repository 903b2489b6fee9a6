//! Bundles between real nodes that share no network: what leaves, what comes in, and what a kill leaves.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use common::{
    Node, complaint, dunlin, eventually, http, observation, output,
    peers::{init, set},
    stdout, two_channels, with_input,
};
use dunlin_client::{
    Bundle, BundleImported, BundleMade, Client, FetchRequest, IngestRequest, KnnQuery,
    PublishRequest, Scope, TemplateSource,
};
use dunlin_trust::{Evidence, Record, Trust, UnixMillis};
use dunlin_wire::cbor;

/// Two nodes that never meet.
struct Islands {
    temp: tempfile::TempDir,
    sender: Node,
    sender_id: String,
    receiver: Node,
}

impl Islands {
    #[track_caller]
    fn start() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dirs = ["sender", "receiver"].map(|name| temp.path().join(name));
        // Networks of different names never meet.
        let [sender_id, _] = [0, 1].map(|at| init(&dirs[at], &format!("island-{at}")));
        let [sender, receiver] = dirs.map(|dir| Node::start(&dir));
        Self { temp, sender, sender_id, receiver }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// Makes a bundle of what is new, in a file.
    #[track_caller]
    fn export(&self, name: &str) -> (PathBuf, BundleMade) {
        let file = self.file(name);
        let mut command = self.sender.command(&["bundle", "export", "--json"]);
        let made = stdout(command.arg("-o").arg(&file));
        (file, serde_json::from_str(&made).unwrap())
    }

    fn import_command(&self, file: &Path) -> std::process::Command {
        let mut command = self.receiver.command(&["bundle", "import", "--from", &self.sender_id]);
        command.arg(file);
        command
    }

    #[track_caller]
    fn import(&self, file: &Path) -> BundleImported {
        serde_json::from_str(&stdout(self.import_command(file).arg("--json"))).unwrap()
    }
}

/// So many entities with one sealed segment each.
#[track_caller]
fn fill(node: &Node, collection: &str, entities: std::ops::Range<u32>) -> Vec<String> {
    let client = node.client();
    client.create_collection(&two_channels(collection)).unwrap();
    let names: Vec<_> = entities.map(|entity| format!("e{entity}")).collect();
    for names in names.chunks(100) {
        let of = |name: &String| (0..4).map(|index| observation(name, index)).collect::<Vec<_>>();
        let observations = names.iter().flat_map(of).collect();
        client.ingest(collection, &IngestRequest { observations }).unwrap();
        for name in names {
            client.seal(collection, name).unwrap();
        }
    }
    eventually("all segments are archived", || (client.archive().unwrap().due == 0).then_some(()));
    let query = dunlin_client::SegmentsQuery {
        collection: collection.to_owned(),
        limit: Some(1_000),
        ..Default::default()
    };
    client.segments(&query).unwrap().segments.into_iter().map(|segment| segment.cid).collect()
}

fn visible(client: &Client, cids: &[String]) -> usize {
    cids.iter().filter(|cid| client.block(cid).is_ok()).count()
}

#[test]
fn segments_and_templates_travel_in_a_file_and_are_answered_like_fetched_ones() {
    let islands = Islands::start();
    let (sender, receiver) = (islands.sender.client(), islands.receiver.client());
    islands
        .sender
        .fill(&two_channels("pairs"), (0..20_000).map(|i| observation("web", i)).collect());
    let cids = islands.sender.archive_all("pairs", "web");
    let released = sender
        .publish_templates(&PublishRequest {
            collection: "pairs".into(),
            epsilon: Some(1.0),
            ..PublishRequest::default()
        })
        .unwrap();
    // The receiver leads a life like the sender's, so that its gate has something to judge by.
    islands
        .receiver
        .fill(&two_channels("pairs"), (0..2_000).map(|i| observation("db", i)).collect());

    let (file, made) = islands.export("first.car");
    assert_eq!(made.bundle.segments, u64::try_from(cids.len()).unwrap());
    assert_eq!((made.bundle.templates, made.bundle.sequence, made.due), (1, 1, 0));
    assert_eq!(made.bundle.peer, islands.sender_id);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // It can be checked by anyone, without a node.
    let nowhere = islands.file("nowhere");
    let mut verify = dunlin(&["bundle", "verify", "--json", "--data-dir"]);
    let verified: Bundle = serde_json::from_str(&stdout(verify.arg(&nowhere).arg(&file))).unwrap();
    assert_eq!(verified, made.bundle);
    assert!(!nowhere.exists());

    let imported = islands.import(&file);
    assert_eq!((&imported.bundle, imported.resumed, imported.templates_kept), (&made.bundle, 0, 1));
    assert_eq!(receiver.archive().unwrap().fetched, made.bundle.segments);
    for cid in &cids {
        let (there, here) = (sender.segment(cid).unwrap(), receiver.segment(cid).unwrap());
        assert_eq!(there.payload, here.payload);
        for block in here.payload.iter().chain([cid]) {
            assert_eq!(sender.block(block).unwrap(), receiver.block(block).unwrap());
        }
    }
    let question =
        KnnQuery { scope: Scope::Fetched, ..KnnQuery::new("pairs", vec![0.25, 0.75], 1) };
    let hits = receiver.knn(&question).unwrap().hits;
    assert!(hits[0].cid.as_ref().is_some_and(|cid| cids.contains(cid)), "{hits:?}");
    // Nothing has to be fetched any more.
    let wish = FetchRequest { cids: cids.clone(), payload: true, ..FetchRequest::default() };
    assert!(receiver.fetch(&wish).unwrap().segments.iter().all(|segment| segment.local));
    // The templates are the sender's, and the gate has its say.
    let set = eventually("the gate judges", || {
        let sets = receiver.templates().unwrap().sets;
        sets.into_iter().find(|set| set.signer == islands.sender_id && set.verdict.is_some())
    });
    assert_eq!((set.source, set.centroids), (TemplateSource::Peer, released.set.centroids));
    // And after a restart, too.
    let dir = islands.receiver.dir.clone();
    let Islands { temp: _temp, receiver, sender_id, .. } = islands;
    receiver.stop();
    let receiver = Node::start(&dir);
    assert_eq!(visible(&receiver.client(), &cids), cids.len());
    let sets = receiver.client().templates().unwrap().sets;
    assert!(sets.iter().any(|set| set.signer == sender_id));
}

#[test]
fn bundles_are_taken_in_order_once_and_from_named_peers_alone() {
    let islands = Islands::start();
    let receiver = islands.receiver.client();
    let nothing =
        complaint(islands.sender.command(&["bundle", "export", "-o", "/dev/null"]).arg("--json"));
    assert!(nothing.contains("nothing"), "{nothing}");
    let mut files = Vec::new();
    for round in 0..3 {
        fill(&islands.sender, "pairs", round * 3..round * 3 + 3);
        let (file, made) = islands.export(&format!("{round}.car"));
        assert_eq!((made.bundle.sequence, made.bundle.segments), (u64::from(round) + 1, 3));
        files.push(file);
    }
    let refused = |file: &Path| complaint(&mut islands.import_command(file));
    // Nobody was named, and the sender is no own peer.
    let stranger = complaint(islands.receiver.command(&["bundle", "import"]).arg(&files[0]));
    assert!(stranger.contains(&islands.sender_id) && stranger.contains("--from"), "{stranger}");
    let early = refused(&files[2]);
    assert!(early.contains("bundles 1 to 2") && early.contains("--again 1"), "{early}");
    islands.import(&files[0]);
    assert!(refused(&files[0]).contains("bundle 1 was imported already"));
    assert!(refused(&files[2]).contains("bundle 2 must be imported first"));
    assert_eq!(receiver.archive().unwrap().fetched, 3);
    // The second one got lost: the sender writes it again, byte for byte, into a pipe.
    let second = fs::read(&files[1]).unwrap();
    let again = output(
        islands
            .sender
            .command(&["bundle", "export", "--again", "2", "-o", "-"])
            .stdout(Stdio::piped()),
    );
    assert!(again.status.success());
    assert_eq!(again.stdout, second);
    let mut command = islands.import_command(Path::new("-"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&again.stdout).unwrap();
    assert!(child.wait().unwrap().success());
    islands.import(&files[2]);
    assert_eq!(receiver.archive().unwrap().fetched, 9);
    let bundles = receiver.bundles().unwrap();
    assert_eq!((bundles.received[0].sequence, &bundles.received[0].peer), (3, &islands.sender_id));
    assert_eq!(bundles.unfinished, []);
    // A time takes what was carried before, too; and what is narrowed leaves the rest for later.
    fill(&islands.sender, "other", 0..2);
    let time = ["bundle", "export", "--json", "--since", "0", "-c", "pairs"];
    let made = stdout(islands.sender.command(&time).arg("-o").arg(islands.file("time.car")));
    let made: BundleMade = serde_json::from_str(&made).unwrap();
    assert_eq!((made.bundle.segments, made.bundle.collections), (9, vec!["pairs".to_owned()]));
    let (_, made) = islands.export("rest.car");
    assert_eq!((made.bundle.segments, made.bundle.sequence), (2, 5));
    // A new receiver that needs no past.
    let mut gap = islands.import_command(&islands.file("rest.car"));
    stdout(gap.arg("--accept-gap"));
    assert_eq!(receiver.archive().unwrap().fetched, 11);
}

#[test]
fn own_peers_need_no_naming_and_quarantined_and_revoked_ones_are_refused() {
    let Islands { temp, sender, sender_id, receiver } = Islands::start();
    fill(&sender, "pairs", 0..2);
    let file = temp.path().join("f.car");
    stdout(sender.command(&["bundle", "export"]).arg("-o").arg(&file));
    let dir = receiver.dir.clone();
    receiver.stop();
    let id = sender_id.parse().unwrap();
    let now = UnixMillis(
        u64::try_from(
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis(),
        )
        .unwrap(),
    );
    let remember = |judge: &dyn Fn(&mut Trust)| {
        let mut trust = Trust::new(dunlin_trust::Config::default(), Vec::new());
        judge(&mut trust);
        let records: Vec<Record> = std::iter::from_fn(|| trust.next_dirty()).collect();
        fs::write(
            dir.join("trust.cbor"),
            cbor::encode(&(dunlin_trust::RECORD_VERSION, records)).unwrap(),
        )
        .unwrap();
    };
    let import = |node: &Node| node.command(&["bundle", "import", "--from", &sender_id]);
    remember(&|trust| assert!(trust.observe(now, id, Evidence::WrongCid).is_some()));
    let node = Node::start(&dir);
    let refused = complaint(import(&node).arg(&file));
    assert!(refused.contains("quarantined"), "{refused}");
    node.stop();
    // Records say so, too, and no evidence makes one.
    remember(&|trust| assert!(trust.observe(now, id, Evidence::Timeout).is_none()));
    let path = dir.join("trust.cbor");
    let mut bytes = fs::read(&path).unwrap();
    let flag = b"\x67revoked";
    let at = bytes.windows(flag.len()).position(|window| window == flag).unwrap() + flag.len();
    assert_eq!(bytes[at], 0xf4, "false");
    bytes[at] = 0xf5;
    fs::write(&path, bytes).unwrap();
    let node = Node::start(&dir);
    let refused = complaint(import(&node).arg(&file));
    assert!(refused.contains("revoked"), "{refused}");
    assert_eq!(node.client().archive().unwrap().fetched, 0);
    assert_eq!(node.client().bundles().unwrap().unfinished, [], "nothing of it is even staged");
    node.stop();
    fs::remove_file(dir.join("trust.cbor")).unwrap();
    set(&dir, "own_peers = []", &format!("own_peers = [\"{sender_id}\"]"));
    let node = Node::start(&dir);
    stdout(node.command(&["bundle", "import"]).arg(&file));
    assert_eq!(node.client().archive().unwrap().fetched, 2);
}

#[test]
fn what_is_cut_altered_or_no_bundle_is_refused_by_import_and_verify() {
    let islands = Islands::start();
    let cids = fill(&islands.sender, "pairs", 0..5);
    let (file, _) = islands.export("f.car");
    let whole = fs::read(&file).unwrap();
    let damaged = islands.file("damaged.car");
    let mut altered = whole.clone();
    let at = altered.len() - 20;
    altered[at] ^= 1;
    let cases: [(&str, Vec<u8>, &str); 5] = [
        ("cut", whole[..whole.len() - 7].to_vec(), "cut off"),
        ("empty", Vec::new(), "cut off"),
        ("altered", altered, "altered or damaged"),
        ("longer", [&whole[..], &whole[59..]].concat(), "more behind its end"),
        ("text", b"segments ".repeat(40), "no CAR file"),
    ];
    for (name, bytes, expected) in cases {
        fs::write(&damaged, bytes).unwrap();
        for mut command in [islands.import_command(&damaged), {
            let mut verify = dunlin(&["bundle", "verify"]);
            verify.arg(&damaged);
            verify
        }] {
            let refused = complaint(&mut command);
            assert!(refused.contains(expected), "{name}: {refused}");
        }
        assert_eq!(visible(&islands.receiver.client(), &cids), 0, "{name}");
    }
    let verify =
        ["bundle", "verify", "-", "--from", &islands.receiver.client().status().unwrap().peer];
    let other = common::output(dunlin(&verify).stdin(fs::File::open(&file).unwrap()));
    assert!(!other.status.success());
    assert!(String::from_utf8_lossy(&other.stderr).contains("did not name"));
    assert!(!with_input(&mut dunlin(&["bundle", "verify", "-"]), "{}").status.success());
    // The good copy still lands.
    islands.import(&file);
    assert_eq!(visible(&islands.receiver.client(), &cids), cids.len());
}

/// Segments in the bundle whose import is killed: several batches of the staging area.
const MANY: u32 = 900;

#[test]
fn kill_9_during_an_import_leaves_nothing_or_all_and_the_next_run_goes_on() {
    let islands = Islands::start();
    let cids = fill(&islands.sender, "pairs", 0..MANY);
    let (file, made) = islands.export("many.car");
    assert_eq!(made.bundle.segments, u64::from(MANY));
    let bytes = fs::read(&file).unwrap();
    let Islands { temp: _temp, sender: _sender, sender_id, receiver } = islands;
    let dir = receiver.dir.clone();
    // Two thirds of it arrive, and then the node is killed.
    let sent = send_half_open(&receiver, &sender_id, &bytes[..bytes.len() / 3 * 2]);
    let staged = |node: &Node| {
        let unfinished = node.client().bundles().unwrap().unfinished;
        unfinished.first().map_or(0, |part| part.blocks)
    };
    eventually("much of it is staged", || (staged(&receiver) > u64::from(MANY / 2)).then_some(()));
    assert_eq!(visible(&receiver.client(), &cids), 0);
    receiver.kill();
    drop(sent);
    let mut receiver = Node::start(&dir);
    assert_eq!(visible(&receiver.client(), &cids), 0);
    assert_eq!(receiver.client().archive().unwrap().fetched, 0);
    let had = staged(&receiver);
    assert!(had > u64::from(MANY / 2), "{had}");
    // And at whatever it is doing a moment after it got the rest.
    for pause_ms in [30, 60, 120] {
        let mut import = receiver.command(&["bundle", "import", "--from", &sender_id]);
        let mut import =
            import.arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(pause_ms));
        receiver.kill();
        import.wait().unwrap();
        receiver = Node::start(&dir);
        let shown = visible(&receiver.client(), &cids);
        let fetched = receiver.client().archive().unwrap().fetched;
        assert!(shown == 0 || shown == cids.len(), "{shown} of {}", cids.len());
        assert_eq!(fetched, if shown == 0 { 0 } else { u64::from(MANY) });
        assert!(shown > 0 || staged(&receiver) >= had);
    }
    let mut command = receiver.command(&["bundle", "import", "--json", "--from", &sender_id]);
    let done = output(command.arg(&file));
    if done.status.success() {
        let imported: BundleImported = serde_json::from_slice(&done.stdout).unwrap();
        assert!(imported.resumed >= had, "{} of {had}", imported.resumed);
    } else {
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(told.contains("was imported already"), "{told}");
    }
    receiver.kill();
    let receiver = Node::start(&dir);
    assert_eq!(visible(&receiver.client(), &cids), cids.len());
    assert_eq!(receiver.client().archive().unwrap().fetched, u64::from(MANY));
    assert_eq!(receiver.client().bundles().unwrap().unfinished, []);
}

/// Begins to send a bundle that never ends.
fn send_half_open(node: &Node, from: &str, bytes: &[u8]) -> std::net::TcpStream {
    let mut stream = http::connect(node);
    let head = format!(
        "POST /v1/bundles/import?from={from} HTTP/1.1\r\nHost: dunlin\r\nContent-Length: {}\r\n{}\r\n",
        bytes.len() * 2,
        http::authorization(node)
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}
