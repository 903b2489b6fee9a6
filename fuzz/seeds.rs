//! Writes the seeds of every corpus: valid bytes, and a few damaged ones made from each.
//!
//! Run it after a format has changed: `cargo run --example seeds` in this folder. What a fuzzer has added stays.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use dunlin_archive::{
    Archive, Config as ArchiveConfig,
    bitswap::{Ask, Claim, Kind as BlockKind, Message as Bitswap, Presence, Version, Want},
    bundle::{Export, Form, Policy, Span, write},
    car, dag,
    ipns::{Record as NameRecord, Terms as NameTerms},
    roots::{Listed, Roots},
};
use dunlin_engine::{
    Budget, Change, ChangeOrder, ChangesQuery, CollectionName, CollectionSpec, Compaction,
    CompactionBudget, CompactionPolicy, Config, Dim, Engine, EntityId, ErrorBound, Fidelity,
    Observation, Segment, SegmentPolicy, Source, TimeRange, Timestamp, Units, compact,
    index::GraphIndex,
    storage::{Simulated, Storage},
};
use dunlin_privacy::{
    About, AboutSegment, Bounds, Ceiling, ChannelsDigest, Dataset, EntityTag, Epsilon, Intent,
    Ledger, Metric, NoisedSegment, Pseudonym, ReleaseConfig, ReleasedSegment, TemplateSet, Terms,
    Window, release,
};
use dunlin_protocols::messages::{
    CatalogRoot, Catalogs, CatalogsRequest, CatalogsResponse, ConsolePeer, ConsoleRequest,
    ConsoleResponse, ConsoleSegment, ConsoleView, Message, PinOutcome, RefusalReason, ReplicaBlock,
    ReplicaObject, ReplicasRequest, ReplicasResponse, SegmentAnnouncement, SegmentsRequest,
    SegmentsResponse, TemplateAnnouncement, TemplatesRequest, TemplatesResponse, Testimony, Ticket,
};
use dunlin_trust::{
    Evidence, ForgedStatement, Passed, Proof, RECORD_VERSION, SentObject, Served, Trust,
    UnixMillis, WrongObject,
    recovery::{Attestation, Decision},
};
use dunlin_wire::{
    block::{Block, Codec},
    cbor,
    envelope::{self, Payload},
};
use serde::Serialize;
use serde_bytes::{ByteArray, ByteBuf};

#[expect(dead_code, reason = "only the sample and its key are needed here")]
mod decoders;

use decoders::{Kind, NETWORK, Sample, keypair, sealing_key};

const NOW_MS: u64 = 1_763_700_000_000;

fn main() {
    let corpus = Corpus(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus"));
    samples(&corpus);
    messages(&corpus);
    replicas(&corpus);
    console(&corpus);
    catalogs(&corpus);
    membership(&corpus);
    bitswap(&corpus);
    announcements(&corpus);
    segments(&corpus);
    sealed(&corpus);
    outlines(&corpus);
    indexes(&corpus);
    operations(&corpus);
    trust(&corpus);
    templates(&corpus);
    graphs(&corpus);
    names(&corpus);
    bundles(&corpus);
}

fn names(corpus: &Corpus) {
    let cid = *Block::new(Codec::DagCbor, vec![0x80]).cid();
    let terms = NameTerms {
        value: format!("/ipfs/{cid}"),
        sequence: 3,
        eol: SystemTime::UNIX_EPOCH + Duration::from_millis(NOW_MS),
        ttl: Duration::from_secs(60),
    };
    let record = NameRecord::sign(&keypair(), &terms).expect("an Ed25519 key");
    corpus.add("ipns_record", "both-versions", record.bytes());
    let roots = Roots::new(vec![Listed("servers".to_owned(), cid, 300)], vec![cid]);
    corpus.add("roots", "one-each", roots.to_block().bytes());
}

/// The folder of all corpora.
struct Corpus(PathBuf);

impl Corpus {
    /// Writes valid bytes, and what a cut, a flipped bit and a byte too much make of them.
    fn add(&self, target: &str, name: &str, bytes: &[u8]) {
        let folder = self.0.join(target);
        fs::create_dir_all(&folder).expect("a writable folder");
        let write = |kind: &str, bytes: &[u8]| {
            let path = folder.join(format!("{kind}-{name}"));
            fs::write(path, bytes).expect("a writable folder");
        };
        write("valid", bytes);
        write("cut", &bytes[..bytes.len() * 2 / 3]);
        write("longer", &[bytes, &[0]].concat());
        let mut flipped = bytes.to_vec();
        flipped[bytes.len() / 2] ^= 0x10;
        write("flipped", &flipped);
    }

    /// Writes a payload as a stranger would encode it, and signed.
    fn add_signed<T: Payload>(&self, target: &str, value: T) {
        self.add(target, "payload", &cbor::encode(&value).expect("an encoding"));
        let signed = envelope::sign(&keypair(), value).expect("within its limits");
        self.add(target, "envelope", &signed.bytes);
    }
}

fn block() -> Block {
    Block::new(Codec::Raw, b"dunlin".to_vec())
}

fn sample(kinds: Vec<Kind>) -> Sample {
    Sample {
        bytes: ByteBuf::from(vec![0, 1, 255]),
        count: u64::MAX,
        kinds,
        link: Some(*block().cid()),
        names: [("a".to_owned(), -1), ("bb".to_owned(), i64::MIN)].into(),
        number: 0.1,
        text: "Alpenstrandläufer".to_owned(),
        version: 1,
    }
}

fn samples(corpus: &Corpus) {
    let flat = sample(vec![Kind::Empty, Kind::Flag(true), Kind::Pair(-70_000, 5)]);
    let nested = sample(vec![Kind::Inner { sample: Box::new(flat.clone()) }, Kind::Empty]);
    for (name, sample) in [("flat", flat), ("nested", nested)] {
        corpus.add("wire_cbor", name, &cbor::encode(&sample).expect("an encoding"));
        let signed = envelope::sign(&keypair(), sample).expect("within its limits");
        corpus.add("envelope", name, &signed.bytes);
    }
}

fn messages(corpus: &Corpus) {
    let cid = *block().cid();
    let add = |target: &str, name: &str, bytes: Vec<u8>| corpus.add(target, name, &bytes);
    let request = |name, request: SegmentsRequest| {
        add("segments_request", name, request.encode().expect("within its limits"));
    };
    request("blocks", SegmentsRequest::Blocks { cids: vec![cid, cid] });
    let collection = "servers".to_owned();
    request("list", SegmentsRequest::List { collection, after: Some(cid), limit: 7 });
    let response = |name, response: SegmentsResponse| {
        add("segments_response", name, response.encode().expect("within its limits"));
    };
    response("blocks", SegmentsResponse::fitting(vec![block()], vec![cid]));
    response("page", SegmentsResponse::Page { cids: vec![cid] });
    response("refused", SegmentsResponse::Refused { reason: RefusalReason::Denied });
    let request = TemplatesRequest::new("servers").encode();
    add("templates_request", "servers", request.expect("within its limits"));
    let response = |name, response: TemplatesResponse| {
        add("templates_response", name, response.encode().expect("within its limits"));
    };
    let envelopes = vec![ByteBuf::from(vec![1, 2, 3]), ByteBuf::new()];
    response("envelopes", TemplatesResponse::Envelopes { envelopes });
    response("refused", TemplatesResponse::Refused { reason: RefusalReason::Busy });
}

fn replicas(corpus: &Corpus) {
    let cid = *block().cid();
    let add = |target: &str, name: &str, bytes: Vec<u8>| corpus.add(target, name, &bytes);
    let request = |name, request: ReplicasRequest| {
        add("replicas_request", name, request.encode().expect("within its limits"));
    };
    let object = ReplicaObject { root: cid, links: vec![cid, cid], bytes: 70_000 };
    request("pin", ReplicasRequest::Pin { objects: vec![object.clone(), object] });
    let blocks = vec![ReplicaBlock { root: cid, cid }];
    request("challenge", ReplicasRequest::Challenge { nonce: ByteArray::new([7; 32]), blocks });
    request("release", ReplicasRequest::Release { roots: vec![cid] });
    let response = |name, response: ReplicasResponse| {
        add("replicas_response", name, response.encode().expect("within its limits"));
    };
    let outcomes = vec![PinOutcome::Held, PinOutcome::Full];
    response("pinned", ReplicasResponse::Pinned { outcomes });
    let proofs = vec![Some(ByteArray::new([7; 32])), None];
    response("proved", ReplicasResponse::Proved { proofs });
    response("released", ReplicasResponse::Released { count: 2 });
    response("refused", ReplicasResponse::Refused { reason: RefusalReason::Busy });
}

fn console(corpus: &Corpus) {
    let request = |name: &str, request: ConsoleRequest| {
        corpus.add("console_request", name, &request.encode().expect("within its limits"));
    };
    request("enter", ConsoleRequest::Enter { ticket: Ticket::new([7; 32]) });
    request("look", ConsoleRequest::Look {});
    let response = |name: &str, response: ConsoleResponse| {
        corpus.add("console_response", name, &response.encode().expect("within its limits"));
    };
    let text = || "one".to_owned();
    let peer = ConsolePeer {
        peer: text(),
        address: Some(text()),
        transport: Some(text()),
        relay: None,
        rtt_us: Some(1_500),
        standing: text(),
        score: 50,
        own: false,
        bytes_up: 70_000,
        bytes_down: 3,
        agent: Some(text()),
        protocols: vec![text(), text()],
    };
    let segment = ConsoleSegment {
        collection: text(),
        entity: text(),
        start_us: -1,
        end_us: 1_773_057_600_000_000,
        count: 60,
        cid: text(),
        link: Some(text()),
    };
    let view = ConsoleView {
        problems: vec![text()],
        peers: vec![peer],
        peers_known: 2,
        segments: vec![segment],
        ..ConsoleView::default()
    };
    response("shown", ConsoleResponse::Shown { view });
    response("entered", ConsoleResponse::Entered {});
    response("refused", ConsoleResponse::Refused { reason: RefusalReason::Busy });
}

/// One proof of each kind, which all convict the samples' key.
fn proofs(corpus: &Corpus, mut statement: Vec<u8>) {
    let sign = |served: Served| envelope::sign(&keypair(), served).expect("within its limits");
    let whole =
        |bytes: &[u8]| SentObject::whole(*Block::new(Codec::Raw, bytes.to_vec()).cid(), bytes);
    let lie = SentObject::new(*block().cid(), b"a lie");
    let sent = [whole(b"one"), lie, whole(b"two")];
    let wrong = WrongObject::first_of(&sent).expect("a lie").into();
    let served = sign(Served::new(NETWORK, &sent).expect("objects")).bytes.into();
    corpus.add("proof", "wrong-cid", &Proof::WrongCid { served, wrong }.encode());

    let label = b"\x69signature\x58\x40";
    let place = statement.windows(label.len()).position(|bytes| bytes == label);
    statement[place.expect("it is signed") + label.len()] ^= 1;
    let handed_on = [b"one".to_vec(), statement];
    let sent = handed_on
        .each_ref()
        .map(|one| SentObject::whole(*Block::new(Codec::DagCbor, one.clone()).cid(), one));
    let vouched = Vouched(Served::new(NETWORK, &sent).expect("objects"));
    let passed = envelope::sign(&keypair(), vouched).expect("within its limits").bytes.into();
    let forged = ForgedStatement::first_of(&handed_on).expect("a forgery").into();
    corpus.add("proof", "bad-signature", &Proof::BadSignature { forged, passed }.encode());

    let said = |count| {
        let announcement = SegmentAnnouncement::new("c", count, [7; 32], 1);
        envelope::sign(&keypair(), announcement).expect("within its limits").bytes
    };
    let proof = Proof::of_equivocation::<SegmentAnnouncement>(&said(1), &said(2));
    corpus.add("proof", "equivocation", &proof.encode());
}

/// What a liar signs in the place of [`Passed`].
#[derive(Serialize, serde::Deserialize)]
#[serde(transparent)]
struct Vouched(Served);

impl Payload for Vouched {
    const TYPE: &'static str = Passed::TYPE;
    const BYTES_MAX: usize = Passed::BYTES_MAX;
}

fn catalogs(corpus: &Corpus) {
    let cid = *block().cid();
    let root = CatalogRoot { cid, count: 300 };
    let of = |collection: &str, statements| Catalogs {
        collection: collection.to_owned(),
        segments: Some(root),
        statements,
    };
    let catalogs = vec![of("servers", Some(root)), of("fleet", None)];
    let compare = CatalogsRequest::Compare { catalogs: catalogs.clone() };
    corpus.add("catalogs_request", "compare", &compare.encode().expect("within its limits"));
    let compared = CatalogsResponse::Compared { catalogs };
    corpus.add("catalogs_response", "compared", &compared.encode().expect("within its limits"));
    let refused = CatalogsResponse::Refused { reason: RefusalReason::Denied };
    corpus.add("catalogs_response", "refused", &refused.encode().expect("within its limits"));
    let statements = CatalogsRequest::Statements { cids: vec![cid] };
    corpus.add("catalogs_request", "statements", &statements.encode().expect("within its limits"));
    let attestation = envelope::sign(&keypair(), Attestation::new(vec![cid])).expect("in limits");
    let (kept, passed) = Passed::new(NETWORK, vec![attestation.bytes.clone()]).expect("one");
    let passed = envelope::sign(&keypair(), passed).expect("within its limits").bytes;
    let statements = CatalogsResponse::Statements {
        statements: kept.into_iter().map(ByteBuf::from).collect(),
        passed: Some(passed.into()),
    };
    corpus.add("catalogs_response", "statements", &statements.encode().expect("in limits"));
    proofs(corpus, attestation.bytes);
    let report = Testimony::Report(ByteBuf::from(vec![1, 2, 3]));
    corpus.add("testimony", "report", &report.encode().expect("within its limits"));
    let proof = Testimony::Proof(ByteBuf::from(vec![4, 5, 6]));
    corpus.add("testimony", "proof", &proof.encode().expect("within its limits"));
    corpus.add_signed("attestation", Attestation::new(vec![cid]));
    let other = *Block::new(Codec::DagCbor, vec![0xa0]).cid();
    corpus.add_signed("decision", Decision::new(cid, other, UnixMillis(NOW_MS)));
}

fn membership(corpus: &Corpus) {
    let add = |target: &str, name: &str, value: Value| {
        corpus.add(target, name, &cbor::encode(&value).expect("an encoding"));
    };
    let map = |fields: &[(&str, Value)]| {
        let fields = fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
        Value::Map(fields.collect())
    };
    let bytes = |bytes: &[u8]| Value::Bytes(ByteBuf::from(bytes));
    let list = |items: &[Value]| Value::List(items.to_vec());
    let digest = Value::Bytes(ByteBuf::from([7; 32]));
    let head = list(&[bytes(&[1, 2, 3])]);
    let extension =
        map(&[("after", digest.clone()), ("keys", bytes(&[9; 64])), ("head", head.clone())]);
    let license = map(&[("license", map(&[("endorsements", head)]))]);
    let point = list(&[Value::Count(200), digest.clone()]);
    let known = map(&[
        ("logs", list(&[list(&[point])])),
        ("withdrawals", bytes(&[0; 8])),
        ("is_bucketed", Value::Flag(false)),
    ]);
    add("membership_request", "license", license);
    add("membership_request", "compare", map(&[("compare", map(&[("digest", digest)]))]));
    add("membership_request", "catch_up", map(&[("catch_up", map(&[("known", known)]))]));
    let answer = map(&[
        ("extensions", list(std::slice::from_ref(&extension))),
        ("withdrawals", list(&[bytes(&[4, 5])])),
        ("is_partial", Value::Flag(true)),
    ]);
    let response = |name: &str, fields: &[(&str, Value)]| {
        add("membership_response", name, map(&[(name, map(fields))]));
    };
    response("admitted", &[]);
    response("compared", &[("same", Value::Flag(false))]);
    response("missing", &[("answer", answer)]);
    response("refused", &[("reason", Value::Text("busy".to_owned()))]);
    add("revocation", "extension", map(&[("extension", extension)]));
    add("revocation", "withdrawal", map(&[("withdrawal", bytes(&[4, 5, 6]))]));
}

/// Objects whose fields have no constructor: bytes of the right shape, signed by nobody.
#[derive(Clone, Serialize)]
#[serde(untagged)]
enum Value {
    Bytes(ByteBuf),
    Count(u64),
    Flag(bool),
    List(Vec<Value>),
    Map(std::collections::BTreeMap<String, Value>),
    Text(String),
}

fn bitswap(corpus: &Corpus) {
    let cid = *block().cid();
    let want = |ask, priority, send_dont_have| Want { cid, ask, priority, send_dont_have };
    let asking = Bitswap {
        wants: vec![
            want(Ask::Block, 1, true),
            want(Ask::Have, i32::MIN, true),
            want(Ask::Cancel, 0, false),
        ],
        is_full: true,
        ..Bitswap::default()
    };
    let presences = [true, false].map(|is_here| Presence { cid, is_here }).to_vec();
    let answering = Bitswap {
        blocks: vec![Claim::of(block()), Claim { kind: BlockKind::Bare, bytes: vec![7; 9] }],
        presences,
        ..Bitswap::default()
    };
    for (name, message) in [("asking", asking), ("answering", answering)] {
        corpus.add("bitswap_message", name, &message.encode(Version::V1_2));
    }
}

fn announcements(corpus: &Corpus) {
    let segments = SegmentAnnouncement::new("servers", 1_000, [3; 32], NOW_MS);
    corpus.add_signed("segment_announcement", segments);
    let templates = TemplateAnnouncement::new("servers", 16, [5; 32], NOW_MS);
    corpus.add_signed("template_announcement", templates);
}

/// A sealed root, of what is no segment: that is for its reader to find.
fn sealed(corpus: &Corpus) {
    let (root, link) = (b"a segment".to_vec(), b"its payload".to_vec());
    let (root, link) = (Block::new(Codec::DagCbor, root), Block::new(Codec::Raw, link));
    let sealed = sealing_key().seal(&root, &[link]).expect("far below every limit");
    corpus.add("sealed_root", "root", sealed.root.bytes());
}

/// Segments of all fidelities, payload blocks, outlines, and the log of the store that made them. Payload
/// of the first version, which nothing writes any more, is kept by hand.
fn segments(corpus: &Corpus) {
    let bound = Some(ErrorBound::OfRange(0.01));
    for (name, fidelity, error_bound) in [
        ("summary", Fidelity::Summary, None),
        ("bounded", Fidelity::Bounded, bound),
        ("lossless", Fidelity::Lossless, None),
    ] {
        let folder = Simulated::new();
        let engine = Engine::open_storage(Arc::new(folder.clone()), Config::default());
        let engine = engine.expect("a new store");
        let collection = CollectionName::new("servers").expect("a name");
        let dim = Dim::new(3).expect("a dimension");
        let spec = CollectionSpec::new(collection.clone(), dim, Units::unit_range(dim));
        engine
            .create_collection(CollectionSpec { fidelity, error_bound, ..spec })
            .expect("a collection");
        let entity = EntityId::new("web-1").expect("a name");
        let observation = |index: u8| Observation {
            entity: entity.clone(),
            timestamp: Timestamp(i64::from(index) * 1_000_000),
            vector: vec![f32::from(index % 3) * 0.01, 0.5, 1.0],
            metadata: None,
        };
        engine.ingest(&collection, (0..40).map(observation).collect()).expect("taken in");
        let cid = engine.seal(&collection, &entity).expect("sealed").expect("a segment");
        let blocks = engine.segment_blocks(&cid).expect("a whole store").expect("its blocks");
        corpus.add("segment", name, blocks.summary.bytes());
        if let [payload] = blocks.payload.as_slice() {
            corpus.add("segment_payload", name, payload.bytes());
        }
        corpus.add("engine_log", name, &log_entries(&folder));
        let segment = Segment::decode(blocks.summary.bytes()).expect("a segment");
        let budget = Budget::Nrmse(0.05);
        let how = Compaction { budget, widths: &[1.0; 3], flag_drift_min: 0.1 };
        let outline = compact(&[segment], &how).expect("one course");
        corpus.add("outline", name, &outline.encode());
    }
}

/// Outlines that link to observations, as compaction makes them of seventy regimes.
fn outlines(corpus: &Corpus) {
    for (name, fidelity, error_bound) in [
        ("bounded-payload", Fidelity::Bounded, Some(ErrorBound::OfRange(0.01))),
        ("lossless-payload", Fidelity::Lossless, None),
    ] {
        let engine = Engine::open_storage(Arc::new(Simulated::new()), Config::default());
        let engine = engine.expect("a new store");
        let collection = CollectionName::new("servers").expect("a name");
        let dim = Dim::new(1).expect("a dimension");
        let spec = CollectionSpec::new(collection.clone(), dim, Units::unit_range(dim));
        let policy = SegmentPolicy { novelty_regimes_max: 1, ..spec.policy };
        engine
            .create_collection(CollectionSpec { fidelity, error_bound, policy, ..spec })
            .expect("a collection");
        let entity = EntityId::new("web-1").expect("a name");
        let observation = |index: u16| Observation {
            entity: entity.clone(),
            timestamp: Timestamp(i64::from(index) * 1_000_000),
            vector: vec![f32::from(index / 6 % 2) + f32::from(index % 3) * 0.01],
            metadata: None,
        };
        engine.ingest(&collection, (0..432).map(observation).collect()).expect("taken in");
        let before = Timestamp(i64::MAX);
        let (budget, segments_min) =
            (CompactionBudget::Nrmse(0.05), CompactionPolicy::SEGMENTS_MIN);
        let how = CompactionPolicy { before, budget, flag_drift_min: 0.16, segments_min };
        let done = engine.compact_course(&collection, &entity, &how, &|_| true);
        done.expect("a disk that works").expect("enough regimes");
        let changes = ChangesQuery {
            collection,
            entity: None,
            range: TimeRange::ALL,
            limit: 1_000,
            order: ChangeOrder::Newest,
        };
        let changes = engine.changes(&changes).expect("a good question").changes;
        let outlined = |change: &Change| match change.to {
            Source::Outlined(cid) => Some(cid),
            _ => None,
        };
        let cid = changes.iter().find_map(outlined).expect("an outline");
        let outline = engine.block(&cid).expect("a store that works").expect("the outline");
        corpus.add("outline", name, outline.bytes());
    }
}

fn operations(corpus: &Corpus) {
    // Twenty batches of three entities, with everything else in between, in each kind of collection.
    let mixed = (0..60_u8).flat_map(|step| {
        let kind = if step % 3 == 0 { 7 + step / 3 % 9 } else { step % 7 };
        [kind, step, step, step.wrapping_mul(37)]
    });
    let mixed: Vec<u8> = mixed.collect();
    for (name, setup) in
        [("summary", [0, 1]), ("bounded-late", [1 + 3 + 36, 3]), ("lossless-noise", [2 + 6 + 9, 2])]
    {
        corpus.add("engine_operations", name, &[&setup[..], &mixed].concat());
    }
}

/// Small indexes of rows that are kept as floats and as bytes. Large ones, with a graph, are left to the
/// engine's tests: they would be most of this repository.
fn indexes(corpus: &Corpus) {
    let dim = Dim::new(3).expect("a dimension");
    for (name, scale) in [("floats", 0.1), ("bytes", 1.0)] {
        let values: Vec<f32> = (0..60_u8).map(|value| f32::from(value % 17) * scale).collect();
        let metric = dunlin_engine::Metric::Euclidean;
        let index = GraphIndex::build(metric, dim, &values).expect("finite rows");
        corpus.add("index", name, &index.encode());
    }
}

/// Returns the entries of a log's records, one behind the other, as if they were one record.
fn log_entries(folder: &Simulated) -> Vec<u8> {
    let names = folder.list("log").expect("a folder");
    let [name] = names.as_slice() else { panic!("one log file, not {names:?}") };
    let log = folder.content(&format!("log/{name}")).expect("it is listed");
    let (mut rest, mut entries) = (&log[24..], Vec::new());
    while let Some((head, tail)) = rest.split_first_chunk::<16>() {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        entries.extend_from_slice(&tail[..length]);
        rest = &tail[length..];
    }
    entries
}

fn trust(corpus: &Corpus) {
    let mut trust = Trust::new(dunlin_trust::Config::default(), Vec::new());
    let peer = keypair().public().to_peer_id();
    let evidence = [Evidence::Served { blocks: 50 }, Evidence::Timeout, Evidence::WrongCid];
    for (step, evidence) in (0..).zip(evidence) {
        trust.observe(UnixMillis(NOW_MS + step), peer, evidence);
    }
    let records: Vec<_> = std::iter::from_fn(|| trust.next_dirty()).collect();
    let bytes = cbor::encode(&(RECORD_VERSION, records)).expect("an encoding");
    corpus.add("trust_records", "one", &bytes);
    let nobody = cbor::encode(&(RECORD_VERSION, [0_u8; 0])).expect("an encoding");
    corpus.add("trust_records", "none", &nobody);
}

/// A released set, and the ledger that allowed it.
fn templates(corpus: &Corpus) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("ledger");
    let epsilon = |value| Epsilon::new(value).expect("a valid epsilon");
    let mut ledger = Ledger::open(&path, Ceiling::pure(epsilon(4.0))).expect("a new ledger");
    corpus.add("privacy_ledger", "empty", &fs::read(&path).expect("it was made"));
    let bounds = Bounds::uniform(3, 0.0, 1.0).expect("a range");
    let rows: Vec<f32> = (0..9_000_u16).map(|index| f32::from(index % 9 / 3) * 0.3).collect();
    let data = Dataset::new(&rows, 3, bounds).expect("whole, finite rows");
    let intent = Intent {
        collection: "servers",
        data: &data,
        terms: Terms::observation(epsilon(1.0)).expect("valid terms"),
        now_unix_ms: NOW_MS,
        purpose: "templates",
    };
    let receipt = ledger.reserve(&intent).expect("within the ceiling");
    let released = release(&mut ledger, receipt, &data, &ReleaseConfig::default());
    let released = released.expect("a fresh receipt");
    corpus.add("privacy_ledger", "release", &fs::read(&path).expect("it was written"));
    let about = About {
        collection: "servers",
        metric: Metric::Euclidean,
        channels: ChannelsDigest::of(&[]),
        issued_unix_ms: NOW_MS,
        expires_unix_ms: NOW_MS + 7 * 86_400_000,
    };
    let set = TemplateSet::new(&released, &about).expect("thousands of rows stand out");
    corpus.add_signed("template_set", set);
    let window = Window::at_or_after(1_763_700_000_000_000, 3_600_000_000).expect("an hour");
    let about = AboutSegment {
        collection: "servers",
        metric: Metric::Euclidean,
        channels: ChannelsDigest::of(&[]),
        bounds: &released.bounds,
        terms: released.terms,
        entity: Pseudonym::of(&[7; 32], "servers", "web-1"),
        window,
    };
    let mean = ReleasedSegment {
        entity: EntityTag::of("web-1"),
        centroid: released.centroids[0].centroid.clone(),
        noised_count: 3_600,
    };
    corpus.add_signed("noised_segment", NoisedSegment::new(&mean, &about).expect("in range"));
}

/// Blocks as other IPFS nodes make them, and files of blocks.
fn graphs(corpus: &Corpus) {
    let leaf = block();
    let other = Block::new(Codec::DagCbor, cbor::encode(&[*leaf.cid()]).expect("an encoding"));
    let mut file = car::header(&[*other.cid()]);
    for block in [&other, &leaf] {
        car::section(&mut file, block.cid(), block.bytes());
    }
    corpus.add("car", "two-blocks", &file);
    corpus.add("car", "no-blocks", &car::header(&[]));
    corpus.add("dag_cbor", "link", other.bytes());
    let sample = cbor::encode(&sample(vec![Kind::Flag(true)])).expect("an encoding");
    corpus.add("dag_cbor", "object", &sample);
    let link = |name: &[u8]| {
        let cid = leaf.cid().to_bytes();
        let body =
            [&[0x0a, length(&cid)], &cid[..], &[0x12, length(name)], name, &[0x18, 6]].concat();
        [&[0x12, length(&body)], &body[..]].concat()
    };
    let node = |links: &[&[u8]], data: &[u8]| {
        let links: Vec<u8> = links.iter().flat_map(|name| link(name)).collect();
        [&links[..], &[0x0a, length(data)], data].concat()
    };
    corpus.add("unixfs", "file", &node(&[b"", b""], &[8, 2, 0x18, 12, 0x20, 6, 0x20, 6]));
    corpus.add("unixfs", "directory", &node(&[b"a", b"b"], &[8, 1]));
    corpus.add("unixfs", "hamt", &node(&[b"0", b"3a", b"Fb"], &[8, 5, 0x28, 0x22, 0x30, 16]));
    assert!(dag::Node::decode(&node(&[b"a"], &[8, 1])).is_ok());
}

/// A bundle of one segment with payload and one template set, and its manifest.
fn bundles(corpus: &Corpus) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let archive = Archive::open(&folder.path().join("blocks.redb"), ArchiveConfig::default());
    let archive = archive.expect("a new archive");
    let payload = block();
    let links = cbor::encode(&[*payload.cid()]).expect("an encoding");
    let segment = Block::new(Codec::DagCbor, links);
    let template = Block::new(Codec::DagCbor, vec![0x80]);
    let mut export = Export::begin(&archive).expect("a new archive");
    export.template(&template).expect("room for one");
    let size = (*payload.cid(), payload.bytes().len());
    let span = Span { from_us: 1, to_us: 2 };
    export.segment("servers", &segment, &[size], span).expect("room for two");
    let policy =
        Policy { form: Form::Private, since_us: Some(-1), collections: vec!["servers".into()] };
    let exported = export.finish(&keypair(), NOW_MS, policy).expect("a store that works");
    let mut file = Vec::new();
    let written = write(&mut file, &exported.sent.root, |cid| match archive.get(cid) {
        Ok(None) => {
            let blocks = [&payload, &segment, &template];
            let found = blocks.into_iter().find(|block| block.cid() == cid);
            Ok(found.map(|block| block.bytes().to_vec()))
        }
        found => found,
    });
    written.expect("all of it is there");
    corpus.add("bundle", "one-of-each", &file);
    corpus.add_signed("bundle_manifest", exported.signed.value);
}

fn length(bytes: &[u8]) -> u8 {
    u8::try_from(bytes.len()).expect("seeds are small")
}
