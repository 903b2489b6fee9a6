//! Statements that nodes of one operator hand on to each other: one that hands on what nobody signed is convicted before
//! everybody, and one that has such a thing in its archive, and vouches for nothing, is not.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{collections::BTreeSet, convert::Infallible, fs, time::Duration};

use common::{
    Node, eventually,
    peers::{Net, address_in, set},
    stdout, two_channels,
};
use dunlin_archive::{
    car,
    catalog::{Entry, Update, insert},
};
use dunlin_client::Standing;
use dunlin_protocols::{
    Config, Event, Handle, Keypair, Multiaddr, Network, PeerId,
    messages::{
        CatalogRoot, Catalogs, CatalogsRequest, CatalogsResponse, SegmentsRequest, SegmentsResponse,
    },
};
use dunlin_trust::{Passed, SentObject, Served, Trust, recovery::Attestation};
use dunlin_wire::{
    Cid,
    block::{Block, Codec, cid_of},
    envelope::{self, Payload},
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tokio::runtime::Runtime;

/// What a liar signs in the place of [`Passed`].
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Vouched(Served);

impl Payload for Vouched {
    const TYPE: &'static str = Passed::TYPE;
    const BYTES_MAX: usize = Passed::BYTES_MAX;
}

/// A statement whose signature is not that of the key it names.
fn forged() -> Block {
    let attestation = Attestation::new(vec![cid_of(Codec::DagCbor, b"a segment")]);
    let maker = Keypair::generate_ed25519();
    let mut statement = envelope::sign(&maker, attestation).unwrap().bytes;
    let label = b"\x69signature\x58\x40";
    let place = statement.windows(label.len()).position(|bytes| bytes == label).unwrap();
    statement[place + label.len()] ^= 1;
    Block::new(Codec::DagCbor, statement)
}

/// A peer of this test's own making, on the swarm that everybody uses.
struct Mallory {
    handle: Handle,
    runtime: Runtime,
}

impl Mallory {
    /// Joins a network by one of its nodes, which it calls its own.
    #[track_caller]
    fn meet(keypair: Keypair, net: &Net, node: &str, forged: &Block) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let node_address = eventually("the node listens", || address_in(&net.dir(node)));
        let address: Multiaddr = node_address.parse().unwrap();
        let peer: PeerId = node_address.rsplit_once("/p2p/").unwrap().1.parse().unwrap();
        let mut config = Config::new(net.name.parse().unwrap());
        config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        (config.mdns, config.one_machine) = (false, true);
        let own_peers = BTreeSet::from([peer]);
        let trust =
            Trust::new(dunlin_trust::Config { own_peers, ..Default::default() }, Vec::new());
        let lie = Lie::new(&keypair, &net.name, forged.clone());
        let handle = runtime.block_on(async {
            let (handle, mut events, network) =
                Network::start(config, keypair, trust).await.unwrap();
            tokio::spawn(async move {
                let _network = network;
                while let Some(event) = events.recv().await {
                    lie.answer(event);
                }
            });
            handle.dial(address).await.unwrap();
            handle
        });
        Self { handle, runtime }
    }
}

/// A catalog with one statement, that nobody signed.
struct Lie {
    forged: Block,
    catalog: Update,
    passed: Vec<u8>,
}

impl Lie {
    fn new(keypair: &Keypair, network: &str, forged: Block) -> Self {
        let entry = Entry::new(0, forged.cid()).unwrap();
        let catalog = insert(|_| Ok::<_, Infallible>(None), None, &[entry]).unwrap().unwrap();
        let sent = [SentObject::whole(*forged.cid(), forged.bytes())];
        let vouched = Vouched(Served::new(network, &sent).unwrap());
        let passed = envelope::sign(keypair, vouched).unwrap().bytes;
        Self { forged, catalog, passed }
    }

    fn answer(&self, event: Event) {
        match event {
            Event::CatalogsRequested {
                request: CatalogsRequest::Compare { catalogs },
                reply,
                ..
            } => {
                let root = CatalogRoot { cid: self.catalog.root.cid, count: 1 };
                let with_lie = |of: Catalogs| Catalogs { statements: Some(root), ..of };
                let catalogs = catalogs.into_iter().map(with_lie).collect();
                reply.send(CatalogsResponse::Compared { catalogs });
            }
            Event::CatalogsRequested { reply, .. } => {
                let statements = vec![ByteBuf::from(self.forged.bytes().to_vec())];
                let passed = Some(self.passed.clone().into());
                reply.send(CatalogsResponse::Statements { statements, passed });
            }
            Event::SegmentsRequested {
                request: SegmentsRequest::Blocks { cids }, reply, ..
            } => {
                let (found, missing): (Vec<_>, Vec<Cid>) = cids
                    .into_iter()
                    .partition(|cid| self.catalog.added.iter().any(|block| block.cid() == cid));
                let added = self.catalog.added.iter().filter(|block| found.contains(block.cid()));
                reply.send(SegmentsResponse::fitting(added.cloned().collect(), missing));
            }
            _ => {}
        }
    }
}

#[track_caller]
fn init_recovering(net: &Net, name: &str) -> String {
    let id = net.init(name);
    set(&net.dir(name), "recover = \"off\"", "recover = \"summaries\"");
    id
}

fn is_quarantined(node: &Node, peer: &str) -> Option<()> {
    let peer = node.peer(peer)?;
    (peer.standing == Standing::Quarantined).then_some(())
}

#[test]
fn an_own_peer_that_hands_on_a_forged_statement_is_convicted_before_those_who_never_met_it() {
    let net = Net::start("vouching");
    let victim_id = init_recovering(&net, "victim");
    net.init("witness");
    let keypair = Keypair::generate_ed25519();
    let liar_id = keypair.public().to_peer_id().to_string();
    let victim = net.node("victim", &[&liar_id]);
    victim.client().create_collection(&two_channels("fleet")).unwrap();
    let witness = net.node("witness", &[]);
    witness.wait_for_peer(&victim_id);

    let forged = forged();
    let _liar = Mallory::meet(keypair, &net, "victim", &forged);
    eventually("the victim has a proof", || is_quarantined(&victim, &liar_id));
    eventually("the witness is told", || is_quarantined(&witness, &liar_id));
    assert_eq!(witness.metric("dunlin_trust_proofs_taken_total"), 1.0);
    assert_ne!(victim.peer(&liar_id).unwrap().evidence, Vec::<String>::new());
    let shown = stdout(&mut witness.command(&["trust", "show", &liar_id]));
    assert!(shown.contains(" 1 bad signatures"), "{shown}");
    // It counted once where it was found, and nothing of it was kept.
    let shown = stdout(&mut victim.command(&["trust", "show", &liar_id]));
    assert!(shown.contains(" 1 bad signatures"), "{shown}");
    assert!(victim.client().block(&forged.cid().to_string()).is_err());
    let recovery = victim.client().archive().unwrap().recovery;
    assert_eq!((recovery.statements, recovery.statements_refused), (0, 1));
    // Whoever restarts still shows it.
    eventually("the proof is on disk", || {
        net.dir("witness").join("proofs.cbor").exists().then_some(())
    });
    witness.kill();
    let witness = net.node("witness", &[]);
    eventually("it knows", || is_quarantined(&witness, &liar_id));
}

#[test]
fn a_node_with_a_forgery_that_somebody_archived_vouches_for_nothing() {
    let net = Net::start("framing");
    init_recovering(&net, "node");
    let keypair = Keypair::generate_ed25519();
    let own = keypair.public().to_peer_id().to_string();
    let node = net.node("node", &[&own]);
    node.client().create_collection(&two_channels("fleet")).unwrap();
    let forged = forged();
    let mut bytes = car::header(&[*forged.cid()]);
    car::section(&mut bytes, forged.cid(), forged.bytes());
    let file = net.dir("forgery.car");
    fs::write(&file, bytes).unwrap();
    stdout(&mut node.command(&["archive", "import", file.to_str().unwrap()]));

    // An own peer asks for it in every way there is. What it says itself is true: its catalog is a true one.
    let asker = Mallory::meet(keypair, &net, "node", &Block::new(Codec::DagCbor, vec![0x80]));
    let node_address = address_in(&net.dir("node")).unwrap();
    let peer: PeerId = node_address.rsplit_once("/p2p/").unwrap().1.parse().unwrap();
    let asked = eventually("the node answers", || {
        std::thread::sleep(Duration::from_millis(100));
        asker.runtime.block_on(asker.handle.statements(peer, &[*forged.cid()])).ok()
    });
    assert_eq!((asked.blocks, asked.forged), (Vec::new(), 0), "it vouches for no forgery");
    let got = asker.runtime.block_on(asker.handle.blocks(peer, vec![*forged.cid()])).unwrap();
    assert_eq!(got.blocks, [forged], "a block is a block");
    let counters = asker.runtime.block_on(asker.handle.counters());
    assert_eq!((counters.proofs_taken, counters.wrong_cids, counters.violations), (0, 0, 0));
}
