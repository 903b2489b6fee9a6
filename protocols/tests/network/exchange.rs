//! Blocks, lists and templates between two nodes, and what the gate makes of askers and answers.

use dunlin_protocols::{
    NetworkError,
    messages::{
        ClaimedBlock, Message as _, RefusalReason, SegmentsRequest, SegmentsResponse,
        TemplatesResponse,
    },
};
use dunlin_trust::{Evidence, Operation, SentObject, Served, Standing};
use dunlin_wire::{
    Cid,
    block::{Block, Codec},
    envelope,
};
use tokio::task::JoinSet;

use super::common::{
    Mute, Node, Segments, Templates, connected_to, key, local, peer, stranger::Stranger, within,
};

const ALICE: u8 = 1;
const BOB: u8 = 2;
const CAROL: u8 = 3;

fn block(text: &str) -> Block {
    Block::new(Codec::Raw, text.as_bytes().to_vec())
}

/// Answers questions for blocks from `blocks`, as many as fit.
fn shelf(blocks: Vec<Block>) -> Segments<impl FnMut(SegmentsRequest) -> SegmentsResponse> {
    Segments(move |request| {
        let SegmentsRequest::Blocks { cids } = request else { return failed() };
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for cid in cids {
            match blocks.iter().find(|block| *block.cid() == cid) {
                Some(block) => found.push(block.clone()),
                None => missing.push(cid),
            }
        }
        SegmentsResponse::fitting(found, missing)
    })
}

fn failed() -> SegmentsResponse {
    SegmentsResponse::Refused { reason: RefusalReason::Failed }
}

/// Returns the error of a request that a peer refused.
fn refused_by(number: u8, reason: RefusalReason) -> NetworkError {
    NetworkError::Refused { peer: peer(number), reason }
}

#[tokio::test]
async fn blocks_arrive_verified_and_raise_the_score() {
    let (here, there) = (block("here"), block("not here"));
    let mut alice = Node::start(ALICE, local(), &[], Mute).await;
    let mut bob = Node::start(BOB, local(), &[ALICE], shelf(vec![here.clone()])).await;
    alice.meet(&mut bob).await;

    let wanted = vec![*here.cid(), *there.cid(), *here.cid()];
    let answer = within(alice.handle.blocks(bob.peer(), wanted)).await.unwrap();

    assert_eq!(answer.blocks, [here]);
    assert_eq!(answer.missing, [*there.cid()]);
    assert!(answer.wrong.is_empty());
    assert!(alice.opinion_of(BOB).await.score > 0.5);
    let counters = alice.handle.counters().await;
    assert_eq!((counters.answers_received, counters.block_bytes_received), (1, 4));
    let counters = bob.handle.counters().await;
    assert_eq!((counters.requests_served, counters.block_bytes_served), (1, 4));
    alice.shutdown().await;
    bob.shutdown().await;
}

#[tokio::test]
async fn bytes_of_a_liar_are_never_handed_out_and_it_is_quarantined() {
    let honest = block("what was asked for");
    let lie = ClaimedBlock { cid: *honest.cid(), bytes: b"something else".to_vec() };
    let mut alice = Node::start(ALICE, local(), &[], Mute).await;
    let answer = SegmentsResponse::Blocks { blocks: vec![lie], missing: Vec::new(), served: None };
    let mut bob = Node::start(BOB, local(), &[ALICE], Segments(move |_| answer.clone())).await;
    alice.meet(&mut bob).await;

    let answer = within(alice.handle.blocks(bob.peer(), vec![*honest.cid()])).await.unwrap();

    assert!(answer.blocks.is_empty());
    assert_eq!(answer.wrong, [*honest.cid()]);
    assert_eq!(alice.opinion_of(BOB).await.standing, Standing::Quarantined);
    assert_eq!(alice.handle.counters().await.wrong_cids, 1);
    // It is not asked again, and what it asks is denied.
    let again = within(alice.handle.blocks(bob.peer(), vec![*honest.cid()])).await;
    assert!(matches!(again, Err(NetworkError::Gate(_))), "{again:?}");
    assert_eq!(alice.handle.counters().await.asks_denied, 1);
    let asked = within(bob.handle.templates(peer(ALICE), "c")).await;
    assert_eq!(asked, Err(refused_by(ALICE, RefusalReason::Denied)));
    assert_eq!(alice.handle.counters().await.requests_denied, 1);
}

/// Returns an answer with these objects, which this peer signs for.
fn signed(by: u8, network: &str, objects: &[(Cid, &[u8])]) -> SegmentsResponse {
    let sent: Vec<_> = objects.iter().map(|(cid, bytes)| SentObject::new(*cid, bytes)).collect();
    let served = envelope::sign(&key(by), Served::new(network, &sent).unwrap()).unwrap();
    let claimed = |(cid, bytes): &(Cid, &[u8])| ClaimedBlock { cid: *cid, bytes: bytes.to_vec() };
    SegmentsResponse::Blocks {
        blocks: objects.iter().map(claimed).collect(),
        missing: Vec::new(),
        served: Some(served.bytes.into()),
    }
}

#[tokio::test]
async fn a_liar_that_signs_its_answer_is_convicted_everywhere() {
    let (right, wrong) = (block("right"), block("wrong"));
    let answer = signed(BOB, "test", &[(*right.cid(), b"right"), (*wrong.cid(), b"a lie")]);
    let mut alice = Node::start(ALICE, local(), &[], Mute).await;
    let mut bob = Node::start(BOB, local(), &[ALICE], Segments(move |_| answer.clone())).await;
    let mut carol = Node::start(CAROL, local(), &[], Mute).await;
    carol.meet(&mut alice).await;
    alice.meet(&mut bob).await;

    let wanted = vec![*right.cid(), *wrong.cid()];
    let answer = within(alice.handle.blocks(bob.peer(), wanted)).await.unwrap();

    assert_eq!(answer.blocks, [right]);
    assert_eq!(answer.wrong, [*wrong.cid()]);
    assert_eq!(alice.opinion_of(BOB).await.standing, Standing::Quarantined);
    let counters = alice.handle.counters().await;
    assert_eq!((counters.wrong_cids, counters.proofs_taken), (1, 1));
    // Carol never met him.
    carol.settles(async |carol| (carol.counters().await.proofs_taken == 1).then_some(())).await;
    assert_eq!(carol.opinion_of(BOB).await.standing, Standing::Quarantined);
    assert!(carol.opinion_of(ALICE).await.score >= 0.5, "who brings it is not to blame");
}

#[tokio::test]
async fn a_signature_that_is_not_for_what_came_proves_nothing_and_is_a_violation() {
    let wanted = block("wanted");
    let (cid, other) = (*wanted.cid(), *block("other").cid());
    let answers = [
        (signed(CAROL, "test", &[(cid, b"wanted")]), "somebody else's"),
        (signed(BOB, "another", &[(cid, b"wanted")]), "of another network"),
        (with_blocks_of(signed(BOB, "test", &[(other, b"other")]), &wanted), "of another answer"),
    ];
    for (answer, why) in answers {
        let mut alice = Node::start(ALICE, local(), &[], Mute).await;
        let mut bob = Node::start(BOB, local(), &[ALICE], Segments(move |_| answer.clone())).await;
        alice.meet(&mut bob).await;
        let answer = within(alice.handle.blocks(bob.peer(), vec![cid])).await;
        assert_eq!(answer, Err(NetworkError::Violation { peer: peer(BOB) }), "{why}");
        assert!(alice.opinion_of(BOB).await.score < 0.5, "{why}");
        assert_eq!(alice.handle.counters().await.proofs_taken, 0, "{why}");
        let known = alice.handle.peers().await;
        assert!(known.iter().all(|view| view.peer != peer(CAROL)), "nothing is on record of her");
    }
}

/// Returns the answer with other blocks than it was signed for.
fn with_blocks_of(answer: SegmentsResponse, block: &Block) -> SegmentsResponse {
    let SegmentsResponse::Blocks { served, .. } = answer else { panic!("an answer with blocks") };
    SegmentsResponse::Blocks { blocks: vec![block.clone().into()], missing: Vec::new(), served }
}

#[tokio::test]
async fn who_speaks_the_new_version_gets_signed_answers_and_who_speaks_the_old_one_gets_the_old_ones()
 {
    let here = block("here");
    let alice = Node::start(ALICE, local(), &[BOB, CAROL], shelf(vec![here.clone()])).await;
    let question = SegmentsRequest::Blocks { cids: vec![*here.cid()] }.encode().unwrap();
    for (mut stranger, is_signed) in
        [(Stranger::new(key(BOB)), false), (Stranger::with_signed_answers(key(CAROL)), true)]
    {
        stranger.meet(&alice.address).await;
        let answer = stranger.answer_to(peer(ALICE), question.clone()).await.unwrap();
        let answer = SegmentsResponse::decode(&answer).unwrap();
        let SegmentsResponse::Blocks { blocks, served, .. } = answer else { panic!("blocks") };
        assert_eq!(blocks, [ClaimedBlock::from(here.clone())]);
        assert_eq!(served.is_some(), is_signed);
        let Some(served) = served else { continue };
        let served = envelope::open::<Served>(&served).unwrap();
        assert_eq!(served.signer, peer(ALICE));
        assert!(served.value.is_about("test", &[SentObject::new(*here.cid(), b"here")]));
    }
}

#[tokio::test]
async fn an_old_peer_is_asked_in_its_version_and_its_lies_are_first_hand_evidence_alone() {
    let (right, wrong) = (block("right"), block("wrong"));
    let claimed = |cid: &Cid, bytes: &[u8]| ClaimedBlock { cid: *cid, bytes: bytes.to_vec() };
    let answer = SegmentsResponse::Blocks {
        blocks: vec![claimed(right.cid(), b"right"), claimed(wrong.cid(), b"a lie")],
        missing: Vec::new(),
        served: None,
    };
    let mut alice = Node::start(ALICE, local(), &[], Mute).await;
    let mut mallory = Stranger::new(key(BOB));
    mallory.meet(&alice.address).await;
    let going_on = mallory.answer(answer.encode().unwrap());
    alice.until(|event| connected_to(event, peer(BOB))).await;
    let wanted = vec![*right.cid(), *wrong.cid()];
    let answer = within(alice.handle.blocks(peer(BOB), wanted)).await.unwrap();
    going_on.abort();
    assert_eq!((answer.blocks, answer.wrong), (vec![right], vec![*wrong.cid()]));
    assert_eq!(alice.opinion_of(BOB).await.standing, Standing::Quarantined);
    let counters = alice.handle.counters().await;
    assert_eq!((counters.wrong_cids, counters.proofs_taken), (1, 0));
}

#[tokio::test]
async fn in_the_new_version_blocks_that_nobody_signed_for_are_a_violation() {
    let wanted = block("wanted");
    let unsigned = SegmentsResponse::fitting(vec![wanted.clone()], Vec::new());
    let mut alice = Node::start(ALICE, local(), &[], Mute).await;
    let mut mallory = Stranger::with_signed_answers(key(BOB));
    mallory.meet(&alice.address).await;
    let going_on = mallory.answer(unsigned.encode().unwrap());
    alice.until(|event| connected_to(event, peer(BOB))).await;
    let answer = within(alice.handle.blocks(peer(BOB), vec![*wanted.cid()])).await;
    going_on.abort();
    assert_eq!(answer, Err(NetworkError::Violation { peer: peer(BOB) }));
    assert!(alice.opinion_of(BOB).await.score < 0.5);
}

#[tokio::test]
async fn private_segments_are_denied_to_a_stranger() {
    let secret = block("secret");
    let mut alice = Node::start(ALICE, local(), &[], Mute).await;
    let mut bob = Node::start(BOB, local(), &[], shelf(vec![secret.clone()])).await;
    alice.meet(&mut bob).await;

    let blocks = within(alice.handle.blocks(bob.peer(), vec![*secret.cid()])).await;
    let list = within(alice.handle.segments(bob.peer(), "c", None, 16)).await;

    assert_eq!(blocks, Err(refused_by(BOB, RefusalReason::Denied)));
    assert_eq!(list, Err(refused_by(BOB, RefusalReason::Denied)));
    assert_eq!(bob.handle.counters().await.requests_denied, 2);
    // Nothing is held against either: asking and denying are both fine.
    assert_eq!(bob.handle.may(peer(ALICE), Operation::ServeTemplates).await, Ok(()));
    assert_eq!(alice.handle.may(peer(BOB), Operation::FetchSegments).await, Ok(()));
}

#[tokio::test]
async fn a_quarantined_peer_is_refused_everything() {
    let mut alice = Node::start(ALICE, local(), &[], Mute).await;
    let templates = Templates(|_| TemplatesResponse::Envelopes { envelopes: Vec::new() });
    let mut bob = Node::start(BOB, local(), &[ALICE], templates).await;
    alice.meet(&mut bob).await;
    assert_eq!(within(alice.handle.templates(bob.peer(), "c")).await, Ok(Vec::new()));

    bob.handle.judge(alice.peer(), Evidence::BadSignature, 1).await;

    let denied = refused_by(BOB, RefusalReason::Denied);
    assert_eq!(within(alice.handle.templates(bob.peer(), "c")).await, Err(denied.clone()));
    assert_eq!(within(alice.handle.segments(bob.peer(), "c", None, 1)).await.unwrap_err(), denied);
}

#[tokio::test]
async fn what_does_not_fit_into_one_answer_is_asked_for_again() {
    let large: Vec<_> =
        (0..5u8).map(|byte| Block::new(Codec::Raw, vec![byte; 1_500_000])).collect();
    let mut wanted: Vec<Cid> = large.iter().map(|block| *block.cid()).collect();
    let mut alice = Node::start(ALICE, local(), &[], Mute).await;
    let mut bob = Node::start(BOB, local(), &[ALICE], shelf(large.clone())).await;
    alice.meet(&mut bob).await;

    let mut received = Vec::new();
    while !wanted.is_empty() {
        let answer = within(alice.handle.blocks(bob.peer(), wanted.clone())).await.unwrap();
        assert_eq!(answer.blocks.len(), wanted.len().min(2), "4 MiB hold two");
        wanted.retain(|cid| answer.blocks.iter().all(|block| block.cid() != cid));
        received.extend(answer.blocks);
    }

    assert_eq!(received, large);
}

#[tokio::test]
async fn a_list_comes_in_pages() {
    let mut cids: Vec<Cid> = (0..10).map(|number| *block(&number.to_string()).cid()).collect();
    cids.sort();
    let all = cids.clone();
    let shell = Segments(move |request| {
        let SegmentsRequest::List { after, limit, .. } = request else { return failed() };
        let rest = all.iter().filter(|cid| Some(**cid) > after).take(limit.into());
        SegmentsResponse::Page { cids: rest.copied().collect() }
    });
    let mut alice = Node::start(ALICE, local(), &[], Mute).await;
    let mut bob = Node::start(BOB, local(), &[ALICE], shell).await;
    alice.meet(&mut bob).await;

    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = within(alice.handle.segments(bob.peer(), "c", after, 4)).await.unwrap();
        let is_last = page.cids.len() < 4;
        after = page.cids.last().copied().or(after);
        seen.extend(page.cids);
        if is_last {
            break;
        }
    }

    assert_eq!(seen, cids);
}

#[tokio::test]
async fn an_answer_to_another_question_is_a_violation() {
    let wanted = *block("wanted").cid();
    let unasked: ClaimedBlock = block("unasked").into();
    let answers = [
        SegmentsResponse::Page { cids: Vec::new() },
        SegmentsResponse::Blocks { blocks: vec![unasked], missing: vec![wanted], served: None },
        SegmentsResponse::Blocks { blocks: Vec::new(), missing: Vec::new(), served: None },
    ];
    for answer in answers {
        let mut alice = Node::start(ALICE, local(), &[], Mute).await;
        let mut bob = Node::start(BOB, local(), &[ALICE], Segments(move |_| answer.clone())).await;
        alice.meet(&mut bob).await;
        let answer = within(alice.handle.blocks(bob.peer(), vec![wanted])).await;
        assert!(alice.opinion_of(BOB).await.score < 0.5, "{answer:?}");
    }
}

#[tokio::test]
async fn a_peer_that_asks_too_fast_is_told_to_wait() {
    let mut alice = Node::start(ALICE, local(), &[], Mute).await;
    let mut bob = Node::start(BOB, local(), &[ALICE], shelf(Vec::new())).await;
    alice.meet(&mut bob).await;
    let wanted = *block("wanted").cid();

    // One after the other, so that neither the limit on streams nor the one on work under way shows.
    let mut is_told_to_wait = false;
    for _ in 0..1_000 {
        match within(alice.handle.blocks(bob.peer(), vec![wanted])).await {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error, refused_by(BOB, RefusalReason::Busy));
                is_told_to_wait = true;
                break;
            }
        }
    }

    assert!(is_told_to_wait);
    assert_eq!(bob.handle.counters().await.requests_busy, 1);
}

#[tokio::test]
async fn one_peer_does_not_take_all_of_a_shell_that_stands_still() {
    let mut alice = Node::start(ALICE, local(), &[], Mute).await;
    // A shell that keeps every reply and never answers.
    let mut bob = Node::start(BOB, local(), &[ALICE], Mute).await;
    alice.meet(&mut bob).await;

    let mut asks = JoinSet::new();
    for number in 0..16 {
        let handle = alice.handle.clone();
        let bob = bob.peer();
        asks.spawn(
            async move { handle.blocks(bob, vec![*block(&number.to_string()).cid()]).await },
        );
    }
    let answers = within(asks.join_all()).await;

    // The shell drops what it does not answer: those are failures; none hangs.
    let failed = refused_by(BOB, RefusalReason::Failed);
    let busy = refused_by(BOB, RefusalReason::Busy);
    assert!(
        answers.iter().all(|answer| [Err(failed.clone()), Err(busy.clone())].contains(answer)),
        "{answers:?}"
    );
}

#[tokio::test]
async fn an_unknown_peer_cannot_be_asked() {
    let alice = Node::start(ALICE, local(), &[], Mute).await;
    let answer = within(alice.handle.blocks(peer(BOB), vec![*block("x").cid()])).await;
    assert!(matches!(answer, Err(NetworkError::Failed { .. })), "{answer:?}");
}
