//! Every decoder that a stranger's bytes or a damaged disk can reach, each with what has to hold: it
//! never panics, and what it accepts encodes to the same bytes again.
//!
//! The fuzz targets call these functions, and so does a test of the product that replays the corpus.

#[path = "../engine/tests/scenarios/model/play.rs"]
mod play;
#[path = "../engine/tests/scenarios/model/questions.rs"]
mod questions;

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, OnceLock},
};

use dunlin_archive::{
    bitswap::{self, Version, WANTS_MAX},
    bundle::{self, Manifest, Reader},
    car,
    dag::{self, Source},
    ipns::{Name, Record as NameRecord},
    roots::Roots,
    sealing::{KEY_BYTES, SealedRoot, SealingKey, Zeroizing},
};
use dunlin_engine::{
    Config, Engine, Outline, Segment, decode_payload,
    index::{GraphIndex, Index, Search},
    storage::Simulated,
    storage::Storage,
};
use dunlin_privacy::{Ceiling, Epsilon, Ledger, NoisedSegment, TemplateSet};
use dunlin_protocols::{
    Keypair,
    messages::{
        CatalogsRequest, CatalogsResponse, ConsoleRequest, ConsoleResponse, MembershipRequest,
        MembershipResponse, Message, ReplicasRequest, ReplicasResponse, Revocation,
        SegmentAnnouncement, SegmentsRequest, SegmentsResponse, TemplateAnnouncement,
        TemplatesRequest, TemplatesResponse, Testimony,
    },
};
use dunlin_trust::{
    Kind as TrustKind, Proof, Record, Trust, UnixMillis,
    recovery::{Attestation, Decision},
};
use dunlin_wire::{
    Cid,
    block::{Block, Codec, cid_of},
    cbor,
    envelope::{self, Payload},
    limits::MESSAGE_BYTES_MAX,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;

/// A decoder: takes any bytes, checks what has to hold, and says whether it accepted them.
type Decoder = fn(&[u8]) -> bool;

/// All decoders by the name of their fuzz target and corpus.
pub(crate) const TARGETS: [(&str, Decoder); 40] = [
    ("wire_cbor", canonical::<Sample>),
    ("envelope", opens::<Sample>),
    ("segments_request", message::<SegmentsRequest>),
    ("segments_response", message::<SegmentsResponse>),
    ("templates_request", message::<TemplatesRequest>),
    ("templates_response", message::<TemplatesResponse>),
    ("catalogs_request", message::<CatalogsRequest>),
    ("catalogs_response", message::<CatalogsResponse>),
    ("attestation", signed::<Attestation>),
    ("decision", signed::<Decision>),
    ("replicas_request", message::<ReplicasRequest>),
    ("replicas_response", message::<ReplicasResponse>),
    ("membership_request", message::<MembershipRequest>),
    ("membership_response", message::<MembershipResponse>),
    ("console_request", message::<ConsoleRequest>),
    ("console_response", message::<ConsoleResponse>),
    ("revocation", message::<Revocation>),
    ("testimony", message::<Testimony>),
    ("proof", proof),
    ("segment_announcement", signed::<SegmentAnnouncement>),
    ("template_announcement", signed::<TemplateAnnouncement>),
    ("bitswap_message", bitswap_message),
    ("segment", segment),
    ("segment_payload", segment_payload),
    ("sealed_root", sealed_root),
    ("outline", outline),
    ("index", index),
    ("template_set", template_set),
    ("noised_segment", noised_segment),
    ("trust_records", trust_records),
    ("engine_log", engine_log),
    ("engine_operations", engine_operations),
    ("privacy_ledger", privacy_ledger),
    ("car", car),
    ("bundle", bundle),
    ("bundle_manifest", signed::<Manifest>),
    ("unixfs", unixfs),
    ("dag_cbor", dag_cbor),
    ("ipns_record", ipns_record),
    ("roots", roots),
];

/// A lossless segment, whose link is replaced by one to the bytes that are its payload.
const LOSSLESS: &[u8] = include_bytes!("corpus/segment/valid-lossless");

/// Runs the decoder of a target; returns whether it accepted the bytes.
pub(crate) fn run(target: &str, data: &[u8]) -> bool {
    let (_, decoder) = TARGETS.iter().find(|(name, _)| *name == target).expect("a known target");
    decoder(data)
}

/// An object with everything that objects on the wire are made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sample {
    pub(crate) bytes: ByteBuf,
    pub(crate) count: u64,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) link: Option<Cid>,
    pub(crate) names: BTreeMap<String, i64>,
    pub(crate) number: f64,
    pub(crate) text: String,
    pub(crate) version: u8,
}

/// Every form of a variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Kind {
    Empty,
    Flag(bool),
    Pair(i32, i8),
    Inner { sample: Box<Sample> },
}

impl Payload for Sample {
    const TYPE: &'static str = "dunlin/fuzz/1";
    const BYTES_MAX: usize = 64 * 1024;
}

/// The network of the samples.
pub(crate) const NETWORK: &str = "home";

/// The key with which samples are signed.
pub(crate) fn keypair() -> Keypair {
    Keypair::ed25519_from_bytes([7; 32]).expect("32 bytes are a key")
}

/// A proof, in the network of the samples. Whoever is convicted by it signed something in it.
fn proof(data: &[u8]) -> bool {
    let Ok(proof) = Proof::decode(data) else { return false };
    assert_eq!(proof.encode(), data);
    let kinds = [TrustKind::of::<SegmentAnnouncement>(), TrustKind::of::<TemplateAnnouncement>()];
    if let Ok(proven) = proof.verify(NETWORK, &kinds) {
        assert_eq!(*proven.peer(), keypair().public().to_peer_id());
    }
    true
}

/// A record of the samples' key, whenever it ends.
fn ipns_record(data: &[u8]) -> bool {
    let name = Name::of(&keypair().public().to_peer_id()).expect("an Ed25519 key");
    let Ok(record) = NameRecord::read(&name, data) else { return false };
    assert_eq!(record.bytes(), data);
    assert!(record.compare(&record).is_eq());
    assert!(record.cid().is_none() || record.value().starts_with(b"/ipfs/"));
    true
}

fn roots(data: &[u8]) -> bool {
    let Ok(roots) = Roots::decode(data) else { return false };
    assert_eq!(roots.to_block().bytes(), data);
    true
}

fn canonical<T: Serialize + DeserializeOwned>(data: &[u8]) -> bool {
    let Ok(value) = cbor::decode::<T>(data, MESSAGE_BYTES_MAX) else { return false };
    assert_eq!(cbor::encode(&value).expect("it was decoded"), data);
    true
}

fn message<M: Message>(data: &[u8]) -> bool {
    let Ok(message) = M::decode(data) else { return false };
    assert_eq!(message.encode().expect("it was decoded"), data);
    true
}

/// Protobuf has many encodings of one message, so what is compared is what the bytes say. Blocks of kinds
/// that nobody asks for are read and not kept.
fn bitswap_message(data: &[u8]) -> bool {
    let Ok(mut message) = bitswap::Message::decode(data) else { return false };
    assert!(message.wants.len() <= WANTS_MAX && message.presences.len() <= WANTS_MAX);
    message.blocks.retain(|claim| claim.kind != bitswap::Kind::Foreign);
    message.passed_over = 0;
    let again = bitswap::Message::decode(&message.encode(Version::V1_2));
    assert_eq!(again.as_ref(), Ok(&message));
    for version in [Version::V1_0, Version::V1_1] {
        bitswap::Message::decode(&message.encode(version)).expect("what we write can be read");
    }
    message.blocks.into_iter().for_each(|claim| drop(claim.name()));
    true
}

/// What a stranger sends: an envelope.
fn opens<T: Payload>(data: &[u8]) -> bool {
    let Ok(signed) = envelope::open::<T>(data) else { return false };
    assert_eq!(signed.bytes, data);
    says(signed.value);
    true
}

/// An envelope, or what a stranger with a key of its own puts into one: a fuzzer forges no signatures.
fn signed<T: Payload>(data: &[u8]) -> bool {
    if opens::<T>(data) {
        return true;
    }
    let Ok(value) = cbor::decode::<T>(data, T::BYTES_MAX) else { return false };
    assert_eq!(cbor::encode(&value).expect("it was decoded"), data);
    says(value);
    true
}

/// Checks that a value comes out of an envelope as it went in.
fn says<T: Payload>(value: T) {
    let bytes = cbor::encode(&value).expect("it was decoded");
    let signed = envelope::sign(&keypair(), value).expect("it is within its limits");
    let opened = envelope::open::<T>(&signed.bytes).expect("it was signed");
    assert_eq!((opened.signer, opened.bytes), (signed.signer, signed.bytes));
    assert_eq!(cbor::encode(&opened.value).expect("it was decoded"), bytes);
}

fn segment(data: &[u8]) -> bool {
    let Ok(segment) = Segment::decode(data) else { return false };
    assert_eq!(segment.encode(), data);
    assert_eq!(segment.cid(), cid_of(Codec::DagCbor, data));
    let dim = segment.dim();
    let rows = [segment.mean().to_vec(), segment.spread(), segment.first(), segment.last()];
    assert!(rows.iter().all(|row| row.len() == dim));
    true
}

/// The key of the sealed roots of the corpus.
pub(crate) fn sealing_key() -> SealingKey {
    SealingKey::new(Zeroizing::new([7; KEY_BYTES]))
}

fn sealed_root(data: &[u8]) -> bool {
    let key = sealing_key();
    // Nobody seals payload so that it is a root, too.
    assert!(key.open_payload(data).is_err() || SealedRoot::decode(data).is_err());
    let Ok(root) = SealedRoot::decode(data) else { return false };
    assert_eq!(root.to_block().bytes(), data);
    key.open(&root).is_ok()
}

fn outline(data: &[u8]) -> bool {
    let Ok(outline) = Outline::decode(data) else { return false };
    assert!(outline.pieces().is_sorted_by(|a, b| a.end < b.start));
    let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
    assert!(outline.pieces().iter().all(|piece| finite(&piece.mean) && finite(&piece.spread)));
    true
}

fn index(data: &[u8]) -> bool {
    let Ok(index) = GraphIndex::decode(data) else { return false };
    assert_eq!(index.encode(), data, "one encoding of each index");
    let vector = vec![0.5; index.dim()];
    let search = Search { vector: &vector, k: 3, effort: 10, filter: None };
    let found = index.search(&search).expect("a vector of the right length");
    assert_eq!(found.len(), index.count().min(3));
    true
}

/// A payload block, and a segment that links to it and to nothing else.
fn segment_payload(data: &[u8]) -> bool {
    let block = Block::new(Codec::Raw, data.to_vec());
    let old = Segment::decode(LOSSLESS).expect("a valid segment").payload()[0].to_bytes();
    let at = LOSSLESS.windows(old.len()).position(|window| window == old).expect("its link");
    let mut bytes = LOSSLESS.to_vec();
    bytes[at..at + old.len()].copy_from_slice(&block.cid().to_bytes());
    let segment = Segment::decode(&bytes).expect("another link is a link");
    let Ok(rows) = decode_payload(&segment, &[block]) else { return false };
    assert_eq!((rows.count(), rows.dim()), (segment.count() as usize, segment.dim()));
    assert_eq!(rows.time(0), Some(segment.start()));
    true
}

fn template_set(data: &[u8]) -> bool {
    let check = |set: &TemplateSet| {
        assert_eq!(set.centroids().len(), set.dim() * set.templates().len());
        for template in set.templates() {
            let spread = template.spread(set.bounds());
            let rows = [Some(template.centroid(set.bounds())), spread];
            assert!(rows.iter().flatten().all(|row| row.len() == set.dim()));
        }
        set.is_current(0)
    };
    if let Ok(signed) = envelope::open::<TemplateSet>(data) {
        check(&signed.value);
    } else if let Ok(set) = cbor::decode::<TemplateSet>(data, TemplateSet::BYTES_MAX) {
        check(&set);
    }
    signed::<TemplateSet>(data)
}

fn noised_segment(data: &[u8]) -> bool {
    let check = |segment: &NoisedSegment| {
        assert_eq!(segment.mean().len(), segment.bounds().dim());
        assert!(segment.count() > 0 && segment.window().last_us() > segment.window().start_us());
    };
    if let Ok(signed) = envelope::open::<NoisedSegment>(data) {
        check(&signed.value);
    } else if let Ok(segment) = cbor::decode::<NoisedSegment>(data, NoisedSegment::BYTES_MAX) {
        check(&segment);
    }
    signed::<NoisedSegment>(data)
}

/// What a node remembers of its peers. A damaged file may be refused, but not believed halfway.
fn trust_records(data: &[u8]) -> bool {
    let Ok(decoded) = cbor::decode::<(u8, Vec<Record>)>(data, MESSAGE_BYTES_MAX) else {
        return false;
    };
    assert_eq!(cbor::encode(&decoded).expect("it was decoded"), data);
    let trust = Trust::new(dunlin_trust::Config::default(), decoded.1);
    for now in [0, 1_763_700_000_000, u64::MAX].map(UnixMillis) {
        for peer in trust.peers() {
            let score = trust.score(now, peer);
            assert!((0.0..=1.0).contains(&score), "a score of {score}");
            assert_eq!(trust.explain(now, peer).standing, trust.standing(now, peer));
        }
    }
    true
}

/// The content of one log record, framed as the engine frames it: a checksum keeps out accidents only.
fn engine_log(data: &[u8]) -> bool {
    let (files, log) = empty_store();
    let folder = Simulated::new();
    for (name, content) in files {
        folder.put(name, content.clone());
    }
    let mut content = folder.content(log).expect("a new store has a log");
    let number = content[12..20].to_vec();
    let length = u32::try_from(data.len()).expect("inputs are small").to_le_bytes();
    let checksum = crc32(&[&length[..], &number, data].concat()).to_le_bytes();
    content.extend([&length[..], &checksum, &number, data].concat());
    folder.put(log, content);
    let open = || Engine::open_storage(Arc::new(folder.clone()), Config::default());
    let Ok(engine) = open() else { return false };
    let replayed = engine.recovery().replayed_records;
    let sealed = engine.sealed_after(0, usize::MAX).expect("a whole store").len();
    engine.close().expect("nothing fails here");
    drop(engine);
    let engine = open().expect("what was opened and closed opens again");
    assert_eq!(engine.recovery().replayed_records, 0, "{replayed} records were applied");
    assert_eq!(engine.sealed_after(0, usize::MAX).expect("a whole store").len(), sealed);
    true
}

/// Two bytes for the kind of collection, and operations of four bytes each, against the plain model.
fn engine_operations(data: &[u8]) -> bool {
    let Some((setup, operations)) = data.split_first_chunk::<2>() else { return false };
    let (operations, []) = operations.as_chunks::<4>() else { return false };
    let operations: Vec<_> = operations.iter().copied().map(play::Operation::from_bytes).collect();
    play::play(play::Setup::from_bytes(*setup), &operations);
    true
}

/// Files by name, and which of them is the log.
type Store = (Vec<(String, Vec<u8>)>, String);

/// Returns the files of a store with nothing in it: making one takes longer than reading it.
fn empty_store() -> &'static Store {
    static STORE: OnceLock<Store> = OnceLock::new();
    STORE.get_or_init(|| {
        let folder = Simulated::new();
        let engine = Engine::open_storage(Arc::new(folder.clone()), Config::default());
        drop(engine.expect("a new store"));
        let log = folder.list("log").expect("a folder").pop().expect("a new store has a log");
        let log = format!("log/{log}");
        let names = folder.list("").expect("a folder").into_iter().chain([log.clone()]);
        let files = names.filter_map(|name| folder.content(&name).map(|content| (name, content)));
        (files.collect(), log)
    })
}

/// CRC-32 as zlib has it, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

/// The ledger: what opens is what opens again, and nothing that was spent is forgotten in between.
fn privacy_ledger(data: &[u8]) -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("ledger");
    fs::write(&path, data).expect("a writable folder");
    let ceiling = Ceiling { epsilon: Epsilon::new(4.0).expect("a valid epsilon"), delta: 1e-6 };
    let entries = |ledger: &Ledger| format!("{:?}", ledger.entries());
    let Ok(ledger) = Ledger::open(&path, ceiling) else {
        assert_eq!(fs::read(&path).expect("it is there"), data, "what is refused is left as it is");
        return false;
    };
    let first = entries(&ledger);
    drop(ledger);
    let again = Ledger::open(&path, ceiling).expect("what was opened opens again");
    assert_eq!(entries(&again), first);
    true
}

/// A file of blocks: whole, each block is what its CID names, and written again it is the same file.
fn car(data: &[u8]) -> bool {
    let Ok(mut reader) = car::Reader::open(data) else { return false };
    let mut again = car::header(reader.roots());
    loop {
        match reader.next_section() {
            Ok(Some(block)) => {
                dag::check(&block.cid, &block.bytes).expect("it was checked");
                car::section(&mut again, &block.cid, &block.bytes);
            }
            Ok(None) => break,
            Err(_) => return false,
        }
    }
    assert_eq!(again, data);
    true
}

/// A bundle: what is whole is the file that its own blocks make again.
fn bundle(data: &[u8]) -> bool {
    let Ok(mut reader) = Reader::open(data) else { return false };
    loop {
        match reader.next_entry() {
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(_) => return false,
        }
    }
    assert_eq!(reader.read(), reader.signed().value.counts);
    let mut blocks = BTreeMap::new();
    let mut file = car::Reader::open(data).expect("it was read");
    let root = file.roots()[0];
    while let Some(section) = file.next_section().expect("it was read") {
        blocks.insert(section.cid, section.bytes);
    }
    let get = |cid: &Cid| Ok::<_, std::convert::Infallible>(blocks.get(cid).cloned());
    let mut again = Vec::new();
    bundle::write(&mut again, &root, get).expect("all of it is there");
    assert_eq!(again, data);
    true
}

/// A `dag-pb` node under every question that is put to one, alone in the world.
fn unixfs(data: &[u8]) -> bool {
    in_a_world_of_its_own(dag::DAG_PB, data);
    dag::Node::decode(data).is_ok()
}

/// The same for DAG-CBOR of any shape.
fn dag_cbor(data: &[u8]) -> bool {
    in_a_world_of_its_own(dag::DAG_CBOR, data);
    dag::links(&block_cid(dag::DAG_CBOR, data), data).is_ok()
}

fn block_cid(codec: u64, data: &[u8]) -> Cid {
    Cid::new_v1(codec, *cid_of(Codec::Raw, data).hash())
}

/// Every CID leads to the same bytes: a graph as deep as its CIDs allow.
struct Everywhere<'a>(&'a [u8]);

impl Source for Everywhere<'_> {
    type Error = std::convert::Infallible;

    fn block(&self, _: &Cid) -> Result<Option<Vec<u8>>, Self::Error> {
        Ok(Some(self.0.to_vec()))
    }
}

fn in_a_world_of_its_own(codec: u64, data: &[u8]) {
    let (cid, source) = (block_cid(codec, data), Everywhere(data));
    dag::to_json(&cid, data).ok();
    for path in ["a", "0/a", "Links/0/Hash"] {
        let path: Vec<_> = path.split('/').map(str::to_owned).collect();
        dag::resolve(&source, &cid, &path).ok();
    }
    let ranges = [(0, None), (-3, Some(-1)), (i64::MIN, Some(i64::MAX)), (7, Some(7))];
    let entities = ranges.map(|(from, to)| dag::Scope::Entity(dag::ByteRange { from, to }));
    for scope in entities.into_iter().chain([dag::Scope::Block, dag::Scope::All]) {
        let plan = dag::Plan { trail: Vec::new(), last: cid, scope, with_duplicates: true };
        let mut walk = dag::Walk::new(&source, &plan);
        // The world repeats itself without end.
        for _ in 0..100 {
            if !matches!(walk.next_block(), Ok(Some(_))) {
                break;
            }
        }
    }
}
