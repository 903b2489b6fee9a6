//! Questions about replicas between two nodes: who may ask them, and which answers are none.

use dunlin_protocols::{
    NetworkError,
    messages::{
        PinOutcome, RefusalReason, ReplicaBlock, ReplicaObject, ReplicasRequest, ReplicasResponse,
    },
};
use dunlin_trust::{Evidence, Standing};
use dunlin_wire::{
    Cid,
    block::{Codec, cid_of},
};
use serde_bytes::ByteArray;

use super::common::{Mute, Node, Replicas, local, peer, within};

const ALICE: u8 = 1;
const BOB: u8 = 2;

fn cid(text: &str) -> Cid {
    cid_of(Codec::Raw, text.as_bytes())
}

fn pin(text: &str) -> ReplicasRequest {
    let object = ReplicaObject { root: cid(text), links: Vec::new(), bytes: 1 };
    ReplicasRequest::Pin { objects: vec![object] }
}

fn challenge() -> ReplicasRequest {
    let block = ReplicaBlock { root: cid("a"), cid: cid("a") };
    ReplicasRequest::Challenge { nonce: ByteArray::new([7; 32]), blocks: vec![block] }
}

/// Answers as a keeper that holds what it is asked to, and cannot prove it.
fn keeper(request: ReplicasRequest) -> ReplicasResponse {
    match request {
        ReplicasRequest::Pin { objects } => {
            ReplicasResponse::Pinned { outcomes: vec![PinOutcome::Held; objects.len()] }
        }
        ReplicasRequest::Challenge { blocks, .. } => {
            ReplicasResponse::Proved { proofs: vec![None; blocks.len()] }
        }
        ReplicasRequest::Release { roots } => {
            ReplicasResponse::Released { count: roots.len() as u64 }
        }
    }
}

fn denied(by: u8) -> NetworkError {
    NetworkError::Refused { peer: peer(by), reason: RefusalReason::Denied }
}

#[tokio::test]
async fn own_peers_hold_objects_for_each_other_and_not_for_strangers() {
    let mut alice = Node::start(ALICE, local(), &[BOB], Replicas(keeper)).await;
    let mut bob = Node::start(BOB, local(), &[ALICE], Replicas(keeper)).await;
    let mut stranger = Node::start(3, local(), &[ALICE], Replicas(keeper)).await;
    alice.meet(&mut bob).await;
    stranger.meet(&mut alice).await;

    let held = within(alice.handle.replicas(bob.peer(), pin("a"))).await.unwrap();
    assert_eq!(held, ReplicasResponse::Pinned { outcomes: vec![PinOutcome::Held] });
    let proved = within(alice.handle.replicas(bob.peer(), challenge())).await.unwrap();
    assert_eq!(proved, ReplicasResponse::Proved { proofs: vec![None] });
    let release = ReplicasRequest::Release { roots: vec![cid("a")] };
    let released = within(bob.handle.replicas(alice.peer(), release)).await.unwrap();
    assert_eq!(released, ReplicasResponse::Released { count: 1 });

    // The stranger calls Alice its own. She denies it, and asks nothing of it.
    for request in [pin("a"), challenge()] {
        let answer = within(stranger.handle.replicas(peer(ALICE), request)).await;
        assert_eq!(answer, Err(denied(ALICE)));
    }
    let gate = within(alice.handle.replicas(peer(3), pin("a"))).await;
    assert!(matches!(gate, Err(NetworkError::Gate(_))), "{gate:?}");
    let counters = alice.handle.counters().await;
    assert_eq!((counters.requests_denied, counters.asks_denied), (2, 1));
}

#[tokio::test]
async fn a_stranger_that_earned_trust_may_and_one_that_lost_it_may_not() {
    let mut alice = Node::start(ALICE, local(), &[], Replicas(keeper)).await;
    let mut bob = Node::start(BOB, local(), &[], Replicas(keeper)).await;
    alice.meet(&mut bob).await;
    for (node, other) in [(&alice, BOB), (&bob, ALICE)] {
        node.handle.judge(peer(other), Evidence::Served { blocks: 500 }, 1).await;
        assert_eq!(node.opinion_of(other).await.standing, Standing::Trusted);
    }
    assert!(within(alice.handle.replicas(bob.peer(), pin("a"))).await.is_ok());
    bob.handle.judge(peer(ALICE), Evidence::WrongProof, 1).await;
    assert_eq!(bob.opinion_of(ALICE).await.standing, Standing::Probation);
    assert_eq!(within(alice.handle.replicas(bob.peer(), pin("a"))).await, Err(denied(BOB)));
}

#[tokio::test]
async fn an_answer_to_something_else_is_a_violation() {
    let answers = [
        ReplicasResponse::Pinned { outcomes: Vec::new() },
        ReplicasResponse::Pinned { outcomes: vec![PinOutcome::Held; 2] },
        ReplicasResponse::Released { count: 1 },
    ];
    let mut next = answers.clone().into_iter();
    let liar = Replicas(move |_| next.next().expect("it is asked so often"));
    let mut alice = Node::start(ALICE, local(), &[BOB], Mute).await;
    let mut bob = Node::start(BOB, local(), &[ALICE], liar).await;
    alice.meet(&mut bob).await;
    for _ in &answers {
        let got = within(alice.handle.replicas(bob.peer(), pin("a"))).await;
        assert_eq!(got, Err(NetworkError::Violation { peer: bob.peer() }));
    }
    assert_eq!(alice.opinion_of(BOB).await.standing, Standing::Quarantined);
}

#[tokio::test]
async fn questions_that_come_too_fast_are_refused_as_busy() {
    let mut alice = Node::start(ALICE, local(), &[BOB], Mute).await;
    let mut bob = Node::start(BOB, local(), &[ALICE], Replicas(keeper)).await;
    alice.meet(&mut bob).await;
    // However slow this machine is, so many at a time are faster than 20 a second.
    let busy = NetworkError::Refused { peer: bob.peer(), reason: RefusalReason::Busy };
    for _ in 0..100 {
        let asks = (0..8).map(|_| alice.handle.replicas(bob.peer(), pin("a")));
        for answer in within(futures::future::join_all(asks)).await {
            match answer {
                Ok(_) => {}
                Err(cause) => return assert_eq!(cause, busy),
            }
        }
    }
    panic!("800 questions were all answered");
}
