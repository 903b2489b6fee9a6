//! Announcements: who hears them, and what is not passed on.

use std::time::Duration;

use dunlin_protocols::{
    Config, Event,
    messages::{
        MembershipRequest, MembershipResponse, Message, SegmentAnnouncement, TemplateAnnouncement,
    },
};
use dunlin_trust::{Evidence, Proof, Standing};
use dunlin_wire::envelope;
use serde_bytes::ByteBuf;
use tokio::time::timeout;

use super::common::{Mute, Node, key, local, peer, stranger::Stranger};

const ALICE: u8 = 1;
const BOB: u8 = 2;
const CAROL: u8 = 3;
const DORA: u8 = 4;
const MALLORY: u8 = 66;

fn segments(sequence: u64) -> SegmentAnnouncement {
    SegmentAnnouncement::new("c", 7, [7; 32], sequence)
}

/// Lets `from` announce, again and again with rising numbers, until `to` hears it: gossip tells only those
/// of whom it already knows that they listen. Returns the number that was heard.
async fn heard(from: &Node, to: &mut Node, next: &mut u64) -> u64 {
    let author = from.peer();
    for _ in 0..300 {
        *next += 1;
        from.handle.announce_segments(segments(*next)).await;
        let hears = to.until(|event| match event {
            Event::SegmentsAnnounced { peer, announcement } if peer == author => {
                Some(announcement.sequence)
            }
            _ => None,
        });
        if let Ok(sequence) = timeout(Duration::from_millis(100), hears).await {
            return sequence;
        }
    }
    panic!("nothing was heard");
}

#[tokio::test]
async fn announcements_travel_to_everyone() {
    let mut alice = Node::start(ALICE, local(), &[], Mute).await;
    let mut bob = Node::start(BOB, local(), &[], Mute).await;
    let mut carol = Node::start(CAROL, local(), &[], Mute).await;
    alice.meet(&mut bob).await;
    carol.meet(&mut bob).await;

    let mut next = 0;
    heard(&alice, &mut bob, &mut next).await;
    heard(&alice, &mut carol, &mut next).await;
    assert!(carol.handle.counters().await.announcements_accepted > 0);

    let announcement = TemplateAnnouncement::new("c", 16, [1; 32], 1);
    alice.handle.announce_templates(announcement.clone()).await;
    let author = alice.peer();
    let received = carol.until(|event| match event {
        Event::TemplatesAnnounced { peer, announcement } if peer == author => Some(announcement),
        _ => None,
    });
    assert_eq!(received.await, announcement);
}

#[tokio::test]
async fn old_news_and_news_of_a_quarantined_peer_are_not_heard() {
    let mut alice = Node::start(ALICE, local(), &[], Mute).await;
    let mut bob = Node::start(BOB, local(), &[], Mute).await;
    alice.meet(&mut bob).await;
    let mut next = 0;
    let newest = heard(&alice, &mut bob, &mut next).await;

    let ignored = bob.handle.counters().await.announcements_ignored;
    alice.handle.announce_segments(segments(newest)).await;
    bob.settles(async |bob| {
        (bob.counters().await.announcements_ignored == ignored + 1).then_some(())
    })
    .await;

    bob.handle.judge(peer(ALICE), Evidence::WrongCid, 1).await;
    assert_eq!(bob.opinion_of(ALICE).await.standing, Standing::Quarantined);
    let accepted = bob.handle.counters().await.announcements_accepted;
    alice.handle.announce_segments(segments(next + 1)).await;
    let counters = bob
        .settles(async |bob| {
            let counters = bob.counters().await;
            (counters.announcements_ignored == ignored + 2).then_some(counters)
        })
        .await;
    assert_eq!(counters.announcements_accepted, accepted);
    assert_eq!(counters.announcements_rejected, 0, "being quarantined by others is no offence");
}

/// Has a stranger publish bytes, and waits until a node has rejected them.
async fn rejected(bytes: Vec<u8>) -> Node {
    let mut alice = Node::start(ALICE, local(), &[], Mute).await;
    let mut mallory = Stranger::new(key(MALLORY));
    mallory.meet(&alice.address).await;
    mallory.publish(bytes).await;
    let going_on = mallory.answer(Vec::new());
    alice
        .settles(async |alice| (alice.counters().await.announcements_rejected == 1).then_some(()))
        .await;
    going_on.abort();
    assert_eq!(alice.handle.counters().await.announcements_accepted, 0);
    alice
}

#[tokio::test]
async fn a_badly_signed_announcement_is_dropped_and_its_bringer_quarantined() {
    let mut signed = envelope::sign(&key(MALLORY), segments(1)).unwrap().bytes;
    let label = b"\x69signature\x58\x40";
    let place = signed.windows(label.len()).position(|bytes| bytes == label).unwrap();
    signed[place + label.len()] ^= 1;
    assert!(envelope::open::<SegmentAnnouncement>(&signed).is_err());

    let alice = rejected(signed).await;

    assert_eq!(alice.opinion_of(MALLORY).await.standing, Standing::Quarantined);
}

#[tokio::test]
async fn an_announcement_of_somebody_else_is_dropped() {
    let stolen = envelope::sign(&key(BOB), segments(1)).unwrap().bytes;
    let alice = rejected(stolen).await;
    assert!(alice.opinion_of(MALLORY).await.score < 0.5);
}

#[tokio::test]
async fn an_announcement_of_another_kind_is_dropped() {
    let templates = TemplateAnnouncement::new("c", 1, [0; 32], 1);
    rejected(envelope::sign(&key(MALLORY), templates).unwrap().bytes).await;
}

#[tokio::test]
async fn an_announcement_with_a_long_name_is_dropped() {
    let long = SegmentAnnouncement::new("c".repeat(65), 1, [0; 32], 1);
    rejected(envelope::sign(&key(MALLORY), long).unwrap().bytes).await;
}

/// Lets `from` announce the same number twice with different content, until `to` has a proof of it.
async fn equivocate(from: &Node, to: &mut Node, next: &mut u64) {
    for _ in 0..50 {
        let newest = heard(from, to, next).await;
        from.handle.announce_segments(SegmentAnnouncement::new("c", 8, [8; 32], newest)).await;
        for _ in 0..20 {
            if to.handle.counters().await.proofs_taken > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    panic!("it was not caught");
}

#[tokio::test]
async fn who_says_two_things_in_one_place_is_convicted_everywhere() {
    let mut alice = Node::start(ALICE, local(), &[], Mute).await;
    let mut bob = Node::start(BOB, local(), &[], Mute).await;
    let mut carol = Node::start(CAROL, local(), &[], Mute).await;
    alice.meet(&mut bob).await;
    carol.meet(&mut bob).await;
    let mut next = 0;
    heard(&alice, &mut bob, &mut next).await;
    equivocate(&alice, &mut bob, &mut next).await;
    assert_eq!(bob.opinion_of(ALICE).await.standing, Standing::Quarantined);
    // Whoever brings the proof need not be trusted for it.
    carol.settles(async |carol| (carol.counters().await.proofs_taken == 1).then_some(())).await;
    assert_eq!(carol.opinion_of(ALICE).await.standing, Standing::Quarantined);
    // It says nothing about who found it.
    assert!(carol.opinion_of(BOB).await.score >= 0.5);
}

#[tokio::test]
async fn a_report_withholds_trust_when_its_author_is_trusted_and_does_nothing_else() {
    let mut alice = Node::start(ALICE, local(), &[], Mute).await;
    let mut bob = Node::start(BOB, local(), &[], Mute).await;
    let mut carol = Node::start(CAROL, local(), &[], Mute).await;
    alice.meet(&mut bob).await;
    carol.meet(&mut bob).await;
    // Gossip tells only those of whom it knows that they listen.
    let mut next = 0;
    heard(&bob, &mut alice, &mut next).await;
    heard(&bob, &mut carol, &mut next).await;
    for node in [&alice, &carol] {
        node.handle.judge(peer(MALLORY), Evidence::Served { blocks: 300 }, 1).await;
    }
    // Bob earned Alice's trust, and not Carol's.
    alice.handle.judge(peer(BOB), Evidence::Served { blocks: 400 }, 1).await;
    assert_eq!(alice.opinion_of(BOB).await.standing, Standing::Trusted);

    bob.handle.judge(peer(MALLORY), Evidence::WrongCid, 1).await;
    alice.settles(async |alice| (alice.counters().await.reports_heard == 1).then_some(())).await;
    let opinion = alice.opinion_of(MALLORY).await;
    assert!(opinion.lines.iter().any(|line| line.part == "hearsay"), "{opinion:?}");
    assert!(opinion.standing > Standing::Quarantined);
    carol
        .settles(async |carol| (carol.counters().await.announcements_ignored > 0).then_some(()))
        .await;
    assert_eq!(carol.handle.counters().await.reports_heard, 0);
    assert_eq!(carol.opinion_of(MALLORY).await.standing, Standing::Trusted);
    assert!(carol.opinion_of(BOB).await.score >= 0.5, "to report is no misconduct");
}

#[tokio::test]
async fn who_was_away_learns_what_was_proven_with_the_next_connection() {
    let mut alice = Node::start(ALICE, local(), &[], Mute).await;
    let mut bob = Node::start(BOB, local(), &[], Mute).await;
    alice.meet(&mut bob).await;
    let mut next = 0;
    heard(&alice, &mut bob, &mut next).await;
    equivocate(&alice, &mut bob, &mut next).await;
    assert_eq!(bob.opinion_of(ALICE).await.standing, Standing::Quarantined);
    alice.shutdown().await;

    // Carol was not there, and Dora meets nobody but Carol.
    let mut carol = Node::start(CAROL, local(), &[], Mute).await;
    let mut dora = Node::start(DORA, local(), &[], Mute).await;
    dora.meet(&mut carol).await;
    carol.meet(&mut bob).await;
    carol.settles(async |carol| (carol.counters().await.proofs_taken == 1).then_some(())).await;
    assert_eq!(carol.opinion_of(ALICE).await.standing, Standing::Quarantined);
    dora.settles(async |dora| (dora.counters().await.proofs_taken == 1).then_some(())).await;
    assert_eq!(dora.opinion_of(ALICE).await.standing, Standing::Quarantined);
    // Whoever brings it is not to blame.
    assert!(carol.opinion_of(BOB).await.score >= 0.5);
    assert!(dora.opinion_of(CAROL).await.score >= 0.5);
}

#[tokio::test]
async fn who_restarts_still_shows_what_was_proven() {
    let mut alice = Node::start(ALICE, local(), &[], Mute).await;
    let mut bob = Node::start(BOB, local(), &[], Mute).await;
    alice.meet(&mut bob).await;
    let mut next = 0;
    heard(&alice, &mut bob, &mut next).await;
    equivocate(&alice, &mut bob, &mut next).await;
    alice.shutdown().await;
    let kept = bob.end_and_keep_proofs().await;
    assert_eq!(kept.len(), 1);

    // What disks made of one proof is no reason not to start.
    let proofs = [kept.clone(), vec![b"rot".to_vec(), [&kept[0][..], b"x"].concat()]].concat();
    let mut bob = Node::start(BOB, Config { proofs, ..local() }, &[], Mute).await;
    assert_eq!(bob.opinion_of(ALICE).await.standing, Standing::Quarantined);
    let mut carol = Node::start(CAROL, local(), &[], Mute).await;
    carol.meet(&mut bob).await;
    carol.settles(async |carol| (carol.counters().await.proofs_taken == 1).then_some(())).await;
    assert_eq!(carol.opinion_of(ALICE).await.standing, Standing::Quarantined);
    assert!(carol.opinion_of(BOB).await.score >= 0.5);
}

/// A stranger says that it holds other proofs, and tells what proves nothing when it is asked for them.
#[tokio::test]
async fn who_tells_what_proves_nothing_is_blamed_for_it_and_nobody_else_is() {
    let mut bob = Node::start(BOB, local(), &[], Mute).await;
    let said = |sequence| envelope::sign(&key(ALICE), segments(sequence)).unwrap().bytes;
    // Two announcements one after the other are no contradiction.
    let proof = Proof::of_equivocation::<SegmentAnnouncement>(&said(1), &said(2));
    let proofs = vec![ByteBuf::from(proof.encode())];
    let told = MembershipResponse::Proofs { proofs, is_partial: true }.encode().unwrap();
    let compared = |same| MembershipResponse::Compared { same }.encode().unwrap();
    let (same, other) = (compared(true), compared(false));
    let mut mallory = Stranger::member(key(MALLORY));
    mallory.meet(&bob.address).await;
    let going_on = mallory.answer_each(move |asked| match MembershipRequest::decode(asked) {
        Ok(MembershipRequest::Proofs { .. }) => told.clone(),
        Ok(MembershipRequest::CompareProofs { .. }) => other.clone(),
        _ => same.clone(),
    });
    bob.settles(async |bob| (bob.counters().await.violations == 1).then_some(())).await;
    going_on.abort();
    assert!(bob.opinion_of(MALLORY).await.score < 0.5);
    let known = bob.handle.peers().await;
    assert!(known.iter().all(|view| view.peer != peer(ALICE)), "nothing is on record of Alice");
    assert_eq!(bob.handle.counters().await.proofs_taken, 0);
}
