//! Closed networks and revocations between real nodes: who is let in, who is shut out, and who hears of it.

use std::{
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use dunlin_protocols::{
    Config, Handle, NetworkError,
    messages::{
        Message, RefusalReason, Revocation, SegmentAnnouncement, TemplatesRequest,
        TemplatesResponse,
    },
};
use dunlin_trust::{
    Authorities, CLOCK_SLACK_MS, Endorsements, License, Operation, Refusal, Revocations, Standing,
    Trust, UnixMillis, Withdrawal,
};
use dunlin_wire::envelope;
use serde_bytes::ByteBuf;

use super::common::{
    Mute, Node, Shell, Templates, connected_to, disconnected_from, key, local, peer,
    stranger::{REVOCATIONS_TOPIC, Stranger},
};

const ALICE: u8 = 1;
const BOB: u8 = 2;
const CAROL: u8 = 3;
const MALLORY: u8 = 66;
/// Two authorities, both of whom must agree.
const AUTHORITIES: [u8; 2] = [91, 92];

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    UnixMillis(u64::try_from(since.as_millis()).unwrap())
}

fn authorities() -> Authorities {
    Authorities::new("test", AUTHORITIES.map(peer), 2).unwrap()
}

fn closed() -> Trust {
    let authorities = Some(authorities());
    Trust::new(dunlin_trust::Config { authorities, ..dunlin_trust::Config::default() }, Vec::new())
}

fn license_until(number: u8, expires: UnixMillis, signers: &[u8]) -> Endorsements {
    let license = License::new("test", peer(number), UnixMillis(0), expires);
    let sign = |signer: &u8| envelope::sign(&key(*signer), license.clone()).unwrap().bytes;
    Endorsements::collect::<License>(signers.iter().map(sign).collect()).unwrap()
}

fn licensed(number: u8) -> Config {
    let expires = UnixMillis(now().0 + 60 * 60 * 1_000);
    Config { license: Some(license_until(number, expires, &AUTHORITIES)), ..local() }
}

/// Returns what both authorities say to revoke peers, when they know no other revocation.
fn revocation(revoked: &[u8], signers: &[u8]) -> Revocation {
    let peers: Vec<_> = revoked.iter().map(|number| peer(*number)).collect();
    let draft = Revocations::new(Some(authorities())).draft(&peers, now()).unwrap();
    let signatures = signers.iter().map(|signer| draft.sign(&key(*signer)).unwrap()).collect();
    Revocation::Extension(draft.signed(signatures).unwrap())
}

fn withdrawal(number: u8) -> Revocation {
    let signed = envelope::sign(&key(number), Withdrawal::new(now(), None)).unwrap();
    Revocation::Withdrawal(ByteBuf::from(signed.bytes))
}

fn no_templates(_: TemplatesRequest) -> TemplatesResponse {
    TemplatesResponse::Envelopes { envelopes: Vec::new() }
}

async fn member(number: u8) -> Node {
    Node::start_trusting(number, licensed(number), closed(), Templates(no_templates)).await
}

async fn is_connected(handle: &Handle, number: u8) -> bool {
    handle.peers().await.iter().any(|view| view.peer == peer(number) && view.link.is_some())
}

async fn knows_revocations(node: &mut Node, keys: usize) {
    node.settles(async |node| (node.revocations().await.keys == keys).then_some(())).await;
}

#[tokio::test]
async fn a_closed_network_admits_the_licensed_and_gives_the_others_nothing_but_the_refusal() {
    let (mut alice, mut bob) = (member(ALICE).await, member(BOB).await);
    alice.meet(&mut bob).await;
    assert_eq!(bob.handle.templates(alice.peer(), "c").await, Ok(Vec::new()));

    let ended = UnixMillis(now().0 - CLOCK_SLACK_MS - 1_000);
    let hour = UnixMillis(now().0 + 60 * 60 * 1_000);
    let useless = [
        ("none", None),
        ("ended", Some(license_until(MALLORY, ended, &AUTHORITIES))),
        ("of one authority", Some(license_until(MALLORY, hour, &AUTHORITIES[..1]))),
        ("of strangers", Some(license_until(MALLORY, hour, &[CAROL, MALLORY]))),
        ("of another", Some(license_until(BOB, hour, &AUTHORITIES))),
    ];
    for (what, license) in useless {
        // Whom Mallory lets in is her own business: her network is open.
        let config = Config { license, ..local() };
        let mut mallory = Node::start(MALLORY, config, &[], Mute).await;
        mallory.handle.dial(alice.address.clone()).await.unwrap();
        let met = alice.peer();
        mallory.until(|event| connected_to(event, met)).await;

        let refused = NetworkError::Refused { peer: met, reason: RefusalReason::Denied };
        let answer = mallory.handle.templates(met, "c").await;
        assert_eq!(answer, Err(refused.clone()), "license {what}");
        assert_eq!(mallory.handle.blocks(met, Vec::new()).await, Err(refused), "license {what}");
        let operation = Operation::FetchTemplates;
        let gate = alice.handle.may(peer(MALLORY), operation).await;
        let unlicensed = Refusal::Unlicensed { peer: peer(MALLORY), operation };
        assert_eq!(gate, Err(NetworkError::Gate(unlicensed)), "license {what}");
        // Gossip goes on to members, and stops at her.
        let mut sequence = now().0;
        bob.settles(async |bob| {
            sequence += 1;
            let announcement = SegmentAnnouncement::new("c", 7, [7; 32], sequence);
            alice.handle.announce_segments(announcement).await;
            (bob.counters().await.announcements_accepted > 0).then_some(())
        })
        .await;
        let heard = mallory.handle.counters().await;
        assert_eq!(heard.announcements_accepted + heard.announcements_ignored, 0, "license {what}");
        mallory.shutdown().await;
    }
    assert_eq!(alice.handle.counters().await.licenses_refused, 0, "an open network presents none");
    assert!(is_connected(&alice.handle, BOB).await);
}

#[tokio::test]
async fn a_license_that_does_not_open_the_network_is_refused_and_its_peer_sent_away() {
    let mut alice = member(ALICE).await;
    let ended = UnixMillis(now().0 - CLOCK_SLACK_MS - 1_000);
    let license = Some(license_until(MALLORY, ended, &AUTHORITIES));
    let config = Config { license, ..local() };
    let mallory = Node::start_trusting(MALLORY, config, closed(), Mute).await;
    mallory.handle.dial(alice.address.clone()).await.unwrap();
    alice.settles(async |alice| (alice.counters().await.licenses_refused > 0).then_some(())).await;
    alice.settles(async |alice| (!is_connected(alice, MALLORY).await).then_some(())).await;
    assert!(alice.handle.counters().await.connections_closed > 0);
}

/// A shell that writes revocations down, unless its disk is full.
#[derive(Clone, Default)]
struct Disk {
    records: Arc<Mutex<Vec<Vec<u8>>>>,
    is_full: Arc<Mutex<bool>>,
}

impl Shell for Disk {
    fn keeps(&mut self, records: Vec<Vec<u8>>) -> bool {
        let is_full = *self.is_full.lock().unwrap();
        if !is_full {
            self.records.lock().unwrap().extend(records);
        }
        !is_full
    }
}

#[tokio::test]
async fn a_revocation_reaches_everyone_shuts_the_peer_out_and_outlives_restarts() {
    let disk = Disk::default();
    let (mut alice, mut carol) = (member(ALICE).await, member(CAROL).await);
    let mut bob = Node::start_trusting(BOB, licensed(BOB), closed(), disk.clone()).await;
    alice.meet(&mut bob).await;
    carol.meet(&mut bob).await;

    // Alice and Carol have never met: Bob is the only way between them.
    let told = alice.handle.revoke(revocation(&[CAROL], &AUTHORITIES)).await;
    assert_eq!(told, Ok(1));
    knows_revocations(&mut bob, 1).await;
    bob.settles(async |bob| (!is_connected(bob, CAROL).await).then_some(())).await;
    assert_eq!(disk.records.lock().unwrap().len(), 1, "it was on disk before it counted");
    assert_eq!(alice.handle.revocations().await.digest, bob.handle.revocations().await.digest);
    let gate = bob.handle.may(peer(CAROL), Operation::Connect).await;
    assert!(matches!(
        gate,
        Err(NetworkError::Gate(Refusal::Standing { standing: Standing::Revoked, .. }))
    ));

    // Carol comes again, from another address; and Bob restarts.
    carol.shutdown().await;
    let mut carol = member(CAROL).await;
    bob.shutdown().await;
    let mut trust = closed();
    for record in disk.records.lock().unwrap().iter() {
        trust.restore_revocation(record).unwrap();
    }
    let mut bob = Node::start_trusting(BOB, licensed(BOB), trust, disk.clone()).await;
    carol.handle.dial(bob.address.clone()).await.unwrap();
    bob.settles(async |bob| (bob.counters().await.connections_closed > 0).then_some(())).await;
    carol.settles(async |carol| (!is_connected(carol, BOB).await).then_some(())).await;
    assert_eq!(bob.handle.revocations().await.keys, 1);
    // Nothing that anybody says takes it back, and the same again is nothing new.
    assert_eq!(bob.handle.revoke(revocation(&[CAROL], &AUTHORITIES)).await, Ok(0));
}

#[tokio::test]
async fn who_was_away_learns_of_it_with_the_next_connection() {
    let mut alice = member(ALICE).await;
    assert_eq!(alice.handle.revoke(revocation(&[CAROL, MALLORY], &AUTHORITIES)).await, Ok(2));
    assert_eq!(alice.handle.revoke(withdrawal(77)).await, Ok(1));
    let mut bob = member(BOB).await;
    assert_eq!(bob.handle.revoke(withdrawal(78)).await, Ok(1));

    bob.meet(&mut alice).await;

    knows_revocations(&mut alice, 4).await;
    knows_revocations(&mut bob, 4).await;
    assert_eq!(alice.handle.revocations().await, bob.handle.revocations().await);
    assert!(is_connected(&alice.handle, BOB).await);
}

#[tokio::test]
async fn a_revoked_peer_that_was_the_only_way_to_others_keeps_nothing_from_them() {
    let (mut alice, mut bob) = (member(ALICE).await, member(BOB).await);
    let mut carol = member(CAROL).await;
    alice.meet(&mut bob).await;
    carol.meet(&mut bob).await;

    assert_eq!(alice.handle.revoke(revocation(&[BOB], &AUTHORITIES)).await, Ok(1));
    alice.settles(async |alice| (!is_connected(alice, BOB).await).then_some(())).await;
    // Whether Bob told Carol or not, the first other way that there is does.
    carol.meet(&mut alice).await;
    knows_revocations(&mut carol, 1).await;
    carol.settles(async |carol| (!is_connected(carol, BOB).await).then_some(())).await;
    assert!(is_connected(&carol.handle, ALICE).await, "the two go on without him");
    // He is let in by neither, wherever he comes from.
    bob.shutdown().await;
    let bob = member(BOB).await;
    for other in [&mut alice, &mut carol] {
        let before = other.handle.counters().await.connections_closed;
        bob.handle.dial(other.address.clone()).await.unwrap();
        other
            .settles(async |other| {
                (other.counters().await.connections_closed > before).then_some(())
            })
            .await;
        assert!(!is_connected(&other.handle, BOB).await);
    }
}

#[tokio::test]
async fn in_an_open_network_a_key_revokes_itself_and_nobody_else() {
    let mut alice = Node::start(ALICE, local(), &[], Mute).await;
    let mut bob = Node::start(BOB, local(), &[], Mute).await;
    let mut carol = Node::start(CAROL, local(), &[], Mute).await;
    alice.meet(&mut bob).await;
    carol.meet(&mut bob).await;
    let by_authorities = alice.handle.revoke(revocation(&[BOB], &AUTHORITIES)).await;
    assert!(matches!(by_authorities, Err(NetworkError::Impossible { .. })));

    assert_eq!(carol.handle.revoke(withdrawal(CAROL)).await, Ok(1));

    assert!(carol.handle.revocations().await.is_own_key_revoked);
    for node in [&mut alice, &mut bob] {
        knows_revocations(node, 1).await;
    }
    bob.settles(async |bob| (!is_connected(bob, CAROL).await).then_some(())).await;
    assert!(is_connected(&alice.handle, BOB).await);
}

#[tokio::test]
async fn a_revocation_that_cannot_be_written_down_does_not_count() {
    let disk = Disk::default();
    *disk.is_full.lock().unwrap() = true;
    let alice = Node::start_trusting(ALICE, licensed(ALICE), closed(), disk.clone()).await;
    let refused = alice.handle.revoke(revocation(&[CAROL], &AUTHORITIES)).await;
    assert!(matches!(refused, Err(NetworkError::Impossible { .. })));
    assert_eq!(alice.handle.revocations().await.keys, 0);

    *disk.is_full.lock().unwrap() = false;
    assert_eq!(alice.handle.revoke(revocation(&[CAROL], &AUTHORITIES)).await, Ok(1));
}

#[tokio::test]
async fn forged_and_replayed_statements_change_nothing() {
    let alice = member(ALICE).await;
    for signers in [&AUTHORITIES[..1], &[MALLORY, CAROL], &[91, MALLORY]] {
        let refused = alice.handle.revoke(revocation(&[BOB], signers)).await;
        assert!(matches!(refused, Err(NetworkError::Impossible { .. })), "{signers:?}");
    }
    assert_eq!(alice.handle.revocations().await.keys, 0);

    // Over the wire, where it costs whoever says it.
    let mut bob = Node::start(BOB, local(), &[], Mute).await;
    let mut forged = withdrawal(CAROL).encode().unwrap();
    let label = b"\x69signature\x58\x40";
    let place = forged.windows(label.len()).position(|bytes| bytes == label).unwrap();
    forged[place + label.len()] ^= 1;
    let mut mallory = Stranger::new(key(MALLORY));
    mallory.meet(&bob.address).await;
    mallory.publish_on(REVOCATIONS_TOPIC, withdrawal(77).encode().unwrap()).await;
    mallory.publish_on(REVOCATIONS_TOPIC, forged).await;
    let going_on = mallory.answer(Vec::new());
    bob.settles(async |bob| (bob.counters().await.revocations_rejected == 1).then_some(())).await;
    going_on.abort();
    assert_eq!(bob.opinion_of(MALLORY).await.standing, Standing::Quarantined);
    knows_revocations(&mut bob, 1).await;
    assert!(bob.handle.may(peer(CAROL), Operation::Connect).await.is_ok());
}

#[tokio::test]
async fn a_revoked_authority_licenses_nobody_any_more() {
    let (mut alice, mut bob) = (member(ALICE).await, member(BOB).await);
    alice.meet(&mut bob).await;

    assert_eq!(alice.handle.revoke(withdrawal(AUTHORITIES[0])).await, Ok(1));

    let operation = Operation::FetchTemplates;
    alice.settles(async |alice| alice.may(peer(BOB), operation).await.is_err().then_some(())).await;
    let gone = bob.peer();
    alice.until(|event| disconnected_from(event, gone)).await;
    assert!(alice.handle.templates(gone, "c").await.is_err());
}
