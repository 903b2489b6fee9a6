//! Questions about catalogs between two nodes: own peers alone ask and answer them.

use dunlin_protocols::{
    NetworkError,
    messages::{CatalogRoot, Catalogs, CatalogsRequest, CatalogsResponse, RefusalReason},
};
use dunlin_trust::{
    Evidence, Passed, SentObject, Served, Standing, UnixMillis,
    recovery::{Attestation, Decision},
};
use dunlin_wire::{
    Cid,
    block::{Codec, cid_of},
    envelope::{self, Payload},
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::common::{CatalogsOf, Mute, Node, key, local, peer, within};

const ALICE: u8 = 1;
const BOB: u8 = 2;
const CAROL: u8 = 3;
const MAKER: u8 = 9;

fn catalogs(collection: &str) -> Catalogs {
    let root = CatalogRoot { cid: cid_of(Codec::DagCbor, b"root"), count: 3 };
    Catalogs { collection: collection.to_owned(), segments: Some(root), statements: None }
}

/// Knows nothing of any collection.
fn ignorant(_: CatalogsRequest) -> CatalogsResponse {
    CatalogsResponse::Compared { catalogs: Vec::new() }
}

/// Knows what it is asked about.
fn equal(request: CatalogsRequest) -> CatalogsResponse {
    match request {
        CatalogsRequest::Compare { catalogs } => CatalogsResponse::Compared { catalogs },
        CatalogsRequest::Statements { .. } => {
            CatalogsResponse::Refused { reason: RefusalReason::Failed }
        }
    }
}

/// Speaks of something else.
fn confused(_: CatalogsRequest) -> CatalogsResponse {
    CatalogsResponse::Compared { catalogs: vec![catalogs("other")] }
}

#[tokio::test]
async fn own_peers_compare_catalogs_and_strangers_learn_nothing() {
    let mut alice = Node::start(ALICE, local(), &[BOB], CatalogsOf(ignorant)).await;
    let mut bob = Node::start(BOB, local(), &[ALICE], CatalogsOf(equal)).await;
    let mut stranger = Node::start(3, local(), &[ALICE], CatalogsOf(equal)).await;
    alice.meet(&mut bob).await;
    stranger.meet(&mut alice).await;
    let known = || vec![catalogs("fleet"), catalogs("servers")];
    assert_eq!(within(alice.handle.compare_catalogs(bob.peer(), known())).await, Ok(known()));
    let none = within(bob.handle.compare_catalogs(alice.peer(), known())).await;
    assert_eq!(none, Ok(Vec::new()));

    // The stranger calls Alice its own. She tells it nothing, and asks it nothing.
    let told = within(stranger.handle.compare_catalogs(alice.peer(), known())).await;
    assert_eq!(
        told,
        Err(NetworkError::Refused { peer: peer(ALICE), reason: RefusalReason::Denied })
    );
    let asked = within(alice.handle.compare_catalogs(stranger.peer(), known())).await;
    assert!(matches!(asked, Err(NetworkError::Gate(_))), "{asked:?}");

    // Bob lies about something else, and is not told anything any more.
    alice.handle.judge(bob.peer(), Evidence::WrongCid, 1).await;
    let refused = within(bob.handle.compare_catalogs(alice.peer(), known())).await;
    assert_eq!(
        refused,
        Err(NetworkError::Refused { peer: peer(ALICE), reason: RefusalReason::Denied })
    );
    let asked = within(alice.handle.compare_catalogs(bob.peer(), known())).await;
    assert!(matches!(asked, Err(NetworkError::Gate(_))), "{asked:?}");
}

#[tokio::test]
async fn an_answer_about_something_else_breaks_the_protocol() {
    let mut alice = Node::start(ALICE, local(), &[BOB], Mute).await;
    let mut bob = Node::start(BOB, local(), &[ALICE], CatalogsOf(confused)).await;
    alice.meet(&mut bob).await;
    for _ in 0..3 {
        let answer = within(alice.handle.compare_catalogs(bob.peer(), vec![catalogs("fleet")]));
        assert_eq!(answer.await, Err(NetworkError::Violation { peer: peer(BOB) }));
    }
    let standing = within(alice.handle.explain(bob.peer())).await.unwrap().trust.standing;
    assert_eq!(standing, Standing::Quarantined);
}

/// Statements that somebody else signed.
fn signed() -> [Vec<u8>; 2] {
    let (one, other) = (cid_of(Codec::DagCbor, b"one"), cid_of(Codec::DagCbor, b"other"));
    let attestation = envelope::sign(&key(MAKER), Attestation::new(vec![one])).unwrap();
    let decision = Decision::new(one, other, UnixMillis(1_000));
    [attestation.bytes, envelope::sign(&key(MAKER), decision).unwrap().bytes]
}

/// A statement that nobody signed.
fn forged() -> Vec<u8> {
    let [mut statement, _] = signed();
    let label = b"\x69signature\x58\x40";
    let place = statement.windows(label.len()).position(|bytes| bytes == label).unwrap();
    statement[place + label.len()] ^= 1;
    assert!(envelope::open::<Attestation>(&statement).is_err());
    statement
}

fn cids(statements: &[Vec<u8>]) -> Vec<Cid> {
    statements.iter().map(|one| cid_of(Codec::DagCbor, one)).collect()
}

/// What a liar signs in the place of [`Passed`].
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Vouched(Served);

impl Payload for Vouched {
    const TYPE: &'static str = Passed::TYPE;
    const BYTES_MAX: usize = Passed::BYTES_MAX;
}

/// Answers every question for statements with these, for which a node with this number vouches in a network.
fn hands_on(
    by: u8,
    network: &'static str,
    statements: Vec<Vec<u8>>,
) -> impl FnMut(CatalogsRequest) -> CatalogsResponse {
    let blocks = statements.iter().zip(cids(&statements));
    let sent: Vec<_> = blocks.map(|(bytes, cid)| SentObject::whole(cid, bytes)).collect();
    let vouched = Vouched(Served::new(network, &sent).unwrap());
    let passed = envelope::sign(&key(by), vouched).unwrap().bytes;
    move |_| CatalogsResponse::Statements {
        statements: statements.iter().cloned().map(ByteBuf::from).collect(),
        passed: Some(passed.clone().into()),
    }
}

#[tokio::test]
async fn a_peer_that_hands_on_a_forged_statement_is_quarantined_by_those_who_never_met_it() {
    let [attestation, decision] = signed();
    let told = vec![attestation.clone(), forged(), decision.clone()];
    let asked = cids(&told);
    let liar = CatalogsOf(hands_on(ALICE, "test", told));
    let mut alice = Node::start(ALICE, local(), &[BOB], liar).await;
    let mut bob = Node::start(BOB, local(), &[ALICE], Mute).await;
    let mut carol = Node::start(CAROL, local(), &[], Mute).await;
    alice.meet(&mut bob).await;
    carol.meet(&mut bob).await;

    let answer = within(bob.handle.statements(alice.peer(), &asked)).await.unwrap();
    let got: Vec<_> = answer.blocks.iter().map(|block| block.bytes().to_vec()).collect();
    assert_eq!((got, answer.forged), (vec![attestation, decision], 1), "what is whole is of use");

    assert_eq!(bob.opinion_of(ALICE).await.standing, Standing::Quarantined);
    assert_eq!(bob.handle.counters().await.proofs_taken, 1);
    let one_offence = dunlin_trust::Trust::new(dunlin_trust::Config::default(), Vec::new());
    let mut one_offence = one_offence;
    one_offence.observe(UnixMillis(1), peer(ALICE), Evidence::Served { blocks: 2 });
    one_offence.observe(UnixMillis(1), peer(ALICE), Evidence::BadSignature);
    let expected = one_offence.score(UnixMillis(1), &peer(ALICE));
    let score = bob.opinion_of(ALICE).await.score;
    assert!((score - expected).abs() < 0.02, "{score} is not {expected}: it counts once");
    // Carol never met Alice, and learns of it from whom she does not trust.
    carol.settles(async |carol| (carol.counters().await.proofs_taken == 1).then_some(())).await;
    let opinion = carol.opinion_of(ALICE).await;
    assert_eq!(opinion.standing, Standing::Quarantined);
    assert!(opinion.to_string().contains("1 bad signatures"), "{opinion}");
    assert!(carol.opinion_of(BOB).await.score >= 0.5);
    let known = carol.handle.peers().await;
    assert!(known.iter().all(|view| view.peer != peer(MAKER)), "nothing is on record of the maker");
}

type Answering = Box<dyn FnMut(CatalogsRequest) -> CatalogsResponse + Send>;

#[tokio::test]
async fn a_word_that_is_not_for_what_came_proves_nothing_and_is_a_violation() {
    let honest = signed().to_vec();
    let of_others = |statements: &[Vec<u8>]| -> CatalogsResponse {
        let (_, passed) = Passed::new("test", statements.to_vec()).unwrap();
        let passed = envelope::sign(&key(ALICE), passed).unwrap().bytes;
        CatalogsResponse::Statements {
            statements: vec![forged().into()],
            passed: Some(passed.into()),
        }
    };
    let nobodys = hands_on(MAKER, "test", vec![forged()]);
    let elsewhere = hands_on(ALICE, "elsewhere", vec![forged()]);
    let mut cases: Vec<(_, Answering)> = vec![
        ("another signed it", Box::new(nobodys)),
        ("it is for another network", Box::new(elsewhere)),
        ("it is for other statements", Box::new(move |_| of_others(&honest))),
        ("it is an answer to something else", Box::new(confused)),
    ];
    for (why, liar) in cases.drain(..) {
        let mut alice = Node::start(ALICE, local(), &[BOB], CatalogsOf(liar)).await;
        let mut bob = Node::start(BOB, local(), &[ALICE], Mute).await;
        alice.meet(&mut bob).await;
        let answer = within(bob.handle.statements(alice.peer(), &cids(&[forged()]))).await;
        assert_eq!(answer, Err(NetworkError::Violation { peer: peer(ALICE) }), "{why}");
        assert_eq!(bob.handle.counters().await.proofs_taken, 0, "{why}");
        assert!(bob.opinion_of(ALICE).await.score < 0.5, "{why}");
        alice.shutdown().await;
        bob.shutdown().await;
    }
}

#[tokio::test]
async fn what_an_honest_peer_hands_on_is_taken_and_what_was_not_asked_for_is_not() {
    let told = signed().to_vec();
    let asked = cids(&told);
    let honest = told.clone();
    let shell = CatalogsOf(move |_| {
        let (kept, passed) =
            Passed::new("test", [honest.clone(), vec![forged()]].concat()).unwrap();
        let passed = envelope::sign(&key(ALICE), passed).unwrap().bytes;
        let statements = kept.into_iter().map(ByteBuf::from).collect();
        CatalogsResponse::Statements { statements, passed: Some(passed.into()) }
    });
    let mut alice = Node::start(ALICE, local(), &[BOB], shell).await;
    let mut bob = Node::start(BOB, local(), &[ALICE], Mute).await;
    alice.meet(&mut bob).await;
    let answer = within(bob.handle.statements(alice.peer(), &asked)).await.unwrap();
    let got: Vec<_> = answer.blocks.iter().map(|block| block.bytes().to_vec()).collect();
    assert_eq!((got, answer.forged), (told, 0));
    assert!(bob.opinion_of(ALICE).await.score > 0.5, "it served what was asked for");
    let answer = within(bob.handle.statements(alice.peer(), &asked[..1])).await.unwrap();
    assert_eq!(answer.blocks.len(), 1);
    assert!(bob.opinion_of(ALICE).await.score < 0.5, "it served something else as well");
    assert_eq!(bob.handle.counters().await.proofs_taken, 0);
}
