//! Blocks over bitswap: between nodes of ours, and with nodes of IPFS, of all manners.

use std::{collections::BTreeSet, time::Duration};

use dunlin_archive::bitswap::{Ask, Claim, Kind, Message, Presence, Want};
use dunlin_protocols::{Fetch, Search};
use dunlin_trust::{Evidence, Standing};
use dunlin_wire::{
    Cid,
    block::{Block, Codec},
};
use futures::AsyncWriteExt;
use libp2p::StreamProtocol;
use tokio::time::sleep;

use super::common::{
    Blocks, Mute, Node, Public,
    foreigner::{Foreigner, NEWEST, Reader, frame, frame_bytes},
    key, local, peer, within,
};

const ALICE: u8 = 1;
const BOB: u8 = 2;
const KUBO: u8 = 50;
const OTHER: u8 = 51;

pub(super) fn block(number: u32) -> Block {
    Block::new(Codec::Raw, number.to_be_bytes().to_vec())
}

pub(super) fn blocks(numbers: std::ops::Range<u32>) -> Vec<Block> {
    numbers.map(block).collect()
}

fn cids(blocks: &[Block]) -> Vec<Cid> {
    blocks.iter().map(|block| *block.cid()).collect()
}

fn want(cid: Cid, ask: Ask) -> Want {
    Want { cid, ask, priority: 1, send_dont_have: true }
}

pub(super) fn asking_for(blocks: &[Block]) -> Message {
    let wants = blocks.iter().map(|block| want(*block.cid(), Ask::Block)).collect();
    Message { wants, ..Message::default() }
}

/// Takes all that a fetch brings; returns it with how often a delivery came.
async fn take(fetch: &mut Fetch) -> Vec<Block> {
    let mut all = Vec::new();
    while let Some((_, blocks)) = within(fetch.next()).await {
        all.extend(blocks);
    }
    all
}

/// Fetches blocks, and compares them with what they should be.
pub(super) async fn fetch_all(node: &Node, from: &[u8], wanted: &[Block]) {
    let from = from.iter().map(|number| peer(*number)).collect();
    let mut fetch = node.handle.fetch(cids(wanted), from, Search::Never).await.unwrap();
    let mut got = take(&mut fetch).await;
    let outcomes = within(fetch.finish()).await;
    assert_eq!(outcomes.len(), wanted.len());
    got.sort_by_key(|block| *block.cid());
    let mut wanted = wanted.to_vec();
    wanted.sort_by_key(|block| *block.cid());
    assert_eq!(got, wanted);
}

/// Waits until a foreigner got all of these.
async fn receives(foreigner: &mut Foreigner, wanted: &[Block]) {
    let mut missing: BTreeSet<_> = cids(wanted).into_iter().collect();
    while !missing.is_empty() {
        for claim in foreigner.next().await.blocks {
            let cid = *Block::new(Codec::Raw, claim.bytes).cid();
            assert!(missing.remove(&cid), "{cid} came twice, or unasked");
        }
    }
}

/// A node with blocks, and a foreigner that is one of its operator's own peers.
pub(super) async fn alice_and_kubo(
    shelf: Vec<Block>,
    protocol: StreamProtocol,
    reader: Reader,
) -> (Node, Foreigner) {
    let alice = Node::start(ALICE, local(), &[KUBO], Blocks(shelf)).await;
    let mut kubo = Foreigner::start(key(KUBO), protocol, reader);
    kubo.meet(alice.peer(), &alice.address).await;
    (alice, kubo)
}

#[tokio::test]
async fn nodes_exchange_small_and_large_blocks_both_ways() {
    let large: Vec<_> = (0..16_u8).map(|n| Block::new(Codec::Raw, vec![n; 1 << 20])).collect();
    let largest = vec![Block::new(Codec::Raw, vec![99; 2 << 20])];
    let here = [blocks(0..500), large, largest].concat();
    let there = blocks(1_000..1_064);
    let mut alice = Node::start(ALICE, local(), &[BOB], Blocks(here.clone())).await;
    let mut bob = Node::start(BOB, local(), &[ALICE], Blocks(there.clone())).await;
    alice.meet(&mut bob).await;

    tokio::join!(fetch_all(&bob, &[ALICE], &here), fetch_all(&alice, &[BOB], &there));

    assert!(bob.opinion_of(ALICE).await.score > 0.5);
    let bytes =
        |blocks: &[Block]| blocks.iter().map(|block| block.bytes().len() as u64).sum::<u64>();
    assert_eq!(bob.handle.counters().await.block_bytes_received, bytes(&here));
    assert_eq!(alice.handle.counters().await.block_bytes_served, bytes(&here));
    alice.shutdown().await;
    bob.shutdown().await;
}

#[tokio::test]
async fn a_peer_that_is_not_connected_is_dialled() {
    let shelf = blocks(0..10);
    let alice = Node::start(ALICE, local(), &[BOB], Blocks(shelf.clone())).await;
    let mut bob = Node::start(BOB, local(), &[], Mute).await;
    bob.handle.dial(alice.address.clone()).await.unwrap();
    fetch_all(&bob, &[ALICE], &shelf).await;
    // Nobody knows where this one is.
    let mut fetch = bob.handle.fetch(cids(&shelf), vec![peer(77)], Search::Never).await.unwrap();
    assert!(take(&mut fetch).await.is_empty());
    assert!(within(fetch.finish()).await.iter().all(|outcome| !outcome.is_found));
    bob.end_network().await;
}

#[tokio::test]
async fn sixty_four_wants_at_once_are_answered() {
    let shelf = blocks(0..64);
    let (_alice, mut kubo) = alice_and_kubo(shelf.clone(), NEWEST, Reader::Loops).await;
    kubo.send(&[asking_for(&shelf)]).await;
    receives(&mut kubo, &shelf).await;
}

#[tokio::test]
async fn eight_streams_at_once_are_read() {
    let shelf = blocks(0..64);
    let (_alice, mut kubo) = alice_and_kubo(shelf.clone(), NEWEST, Reader::Loops).await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(kubo.open().await);
    }
    // All are open before the first byte is written, and the last is written first.
    for (stream, part) in streams.iter_mut().rev().zip(shelf.chunks(8)) {
        stream.write_all(&frame(&asking_for(part))).await.unwrap();
        stream.flush().await.unwrap();
    }
    receives(&mut kubo, &shelf).await;
}

#[tokio::test]
async fn a_reader_of_one_message_a_stream_misses_nothing() {
    let shelf: Vec<_> = (0..20_u8).map(|n| Block::new(Codec::Raw, vec![n; 500_000])).collect();
    let (_alice, mut kubo) = alice_and_kubo(shelf.clone(), NEWEST, Reader::OneMessage).await;
    kubo.send(&[asking_for(&shelf)]).await;
    receives(&mut kubo, &shelf).await;
    // And long after the first stream could have been taken up again.
    sleep(Duration::from_millis(500)).await;
    kubo.send(&[asking_for(&shelf[..5])]).await;
    receives(&mut kubo, &shelf[..5]).await;
}

#[tokio::test]
async fn after_ten_seconds_of_idleness_both_sides_go_on() {
    let shelf = blocks(0..64);
    let (mut alice, mut kubo) = alice_and_kubo(shelf.clone(), NEWEST, Reader::Loops).await;
    let mut bob = Node::start(BOB, local(), &[], Mute).await;
    let mut carol = Node::start(3, local(), &[BOB], Blocks(shelf.clone())).await;
    bob.meet(&mut carol).await;
    alice.meet(&mut bob).await;
    for pause in [10, 0] {
        kubo.send(&[asking_for(&shelf)]).await;
        receives(&mut kubo, &shelf).await;
        fetch_all(&bob, &[3], &shelf).await;
        sleep(Duration::from_secs(pause)).await;
    }
}

#[tokio::test]
async fn what_is_here_and_what_is_not_is_said() {
    let shelf = blocks(0..2);
    let (_alice, mut kubo) = alice_and_kubo(shelf.clone(), NEWEST, Reader::Loops).await;
    let (here, absent) = (*shelf[0].cid(), *block(9).cid());
    let wants = vec![want(here, Ask::Have), want(absent, Ask::Block)];
    kubo.send(&[Message { wants, ..Message::default() }]).await;
    let presences = kubo.next().await.presences;
    let expected = |presence: &Presence| presence.is_here == (presence.cid == here);
    assert!(presences.len() == 2 && presences.iter().all(expected), "{presences:?}");
}

#[tokio::test]
async fn a_cancel_is_heard() {
    let (mut alice, mut kubo) = alice_and_kubo(Vec::new(), NEWEST, Reader::Loops).await;
    let wanted = blocks(0..3);
    kubo.send(&[asking_for(&wanted)]).await;
    assert_eq!(kubo.next().await.presences.len(), 3);
    stand(&mut alice, 3).await;
    let cancelled = wanted[..2].iter().map(|block| want(*block.cid(), Ask::Cancel)).collect();
    kubo.send(&[Message { wants: cancelled, ..Message::default() }]).await;
    stand(&mut alice, 1).await;
    // All three arrive; only the one that is still wanted is looked up again.
    alice.handle.stored(cids(&wanted)).await;
    let presences = kubo.next().await.presences;
    assert_eq!(presences, [Presence { cid: *wanted[2].cid(), is_here: false }]);
}

#[tokio::test]
async fn a_full_wantlist_takes_the_place_of_the_one_before() {
    let (mut alice, mut kubo) = alice_and_kubo(Vec::new(), NEWEST, Reader::Loops).await;
    kubo.send(&[asking_for(&blocks(0..40))]).await;
    stand(&mut alice, 40).await;
    kubo.send(&[Message { is_full: true, ..asking_for(&blocks(38..43)) }]).await;
    stand(&mut alice, 5).await;
    kubo.send(&[Message { is_full: true, ..Message::default() }]).await;
    stand(&mut alice, 0).await;
}

/// Waits until so many wants stand.
async fn stand(node: &mut Node, wants: usize) {
    let stand = async |handle: &dunlin_protocols::Handle| {
        (handle.counters().await.wants_standing == wants as u64).then_some(())
    };
    node.settles(stand).await;
}

#[tokio::test]
async fn a_block_that_is_stored_later_is_sent_then() {
    let late = block(7);
    let (alice, mut kubo) = alice_and_kubo(Vec::new(), NEWEST, Reader::Loops).await;
    kubo.send(&[asking_for(std::slice::from_ref(&late))]).await;
    assert!(!kubo.next().await.presences[0].is_here);
    // This shell never has it; that it is looked up again is seen by the answer.
    alice.handle.stored(vec![*late.cid()]).await;
    assert!(!kubo.next().await.presences[0].is_here);
    assert_eq!(alice.handle.counters().await.wants_standing, 1);
}

#[tokio::test]
async fn older_versions_are_spoken_both_ways() {
    for name in ["/ipfs/bitswap/1.1.0", "/ipfs/bitswap/1.0.0"] {
        let shelf = blocks(0..40);
        let protocol = StreamProtocol::new(name);
        let (alice, mut kubo) = alice_and_kubo(shelf.clone(), protocol, Reader::Loops).await;
        kubo.send(&[asking_for(&shelf)]).await;
        receives(&mut kubo, &shelf).await;
        let its = blocks(100..120);
        let answering = serve(kubo, its.clone());
        fetch_all(&alice, &[KUBO], &its).await;
        answering.abort();
    }
}

/// Has a foreigner serve blocks.
pub(super) fn serve(foreigner: Foreigner, shelf: Vec<Block>) -> tokio::task::JoinHandle<()> {
    foreigner.answer(move |message| {
        let wanted = |want: &Want| shelf.iter().find(|block| *block.cid() == want.cid).cloned();
        let asked = message.wants.iter().filter(|want| want.ask != Ask::Cancel);
        let blocks: Vec<_> = asked.filter_map(wanted).map(Claim::of).collect();
        (!blocks.is_empty()).then(|| Message { blocks, ..Message::default() })
    })
}

#[tokio::test]
async fn a_stranger_learns_nothing() {
    let secret = block(1);
    let alice = Node::start(ALICE, local(), &[], Blocks(vec![secret.clone()])).await;
    let mut kubo = Foreigner::start(key(KUBO), NEWEST, Reader::Loops);
    kubo.meet(alice.peer(), &alice.address).await;
    let absent = block(2);
    for ask in [Ask::Have, Ask::Block] {
        let wants = vec![want(*secret.cid(), ask), want(*absent.cid(), ask)];
        kubo.send(&[Message { wants, ..Message::default() }]).await;
        let answer = kubo.next().await;
        assert!(answer.blocks.is_empty());
        let told: Vec<_> = answer.presences.iter().map(|presence| presence.is_here).collect();
        assert_eq!(told, [false, false], "what is here and what is not look alike");
    }
    assert_eq!(alice.handle.counters().await.requests_denied, 2);
    assert_eq!(alice.handle.counters().await.requests_served, 0);
    // Nor does it count as one of us.
    assert_eq!(alice.opinion_of(KUBO).await.standing, Standing::Probation);
}

#[tokio::test]
async fn a_stranger_gets_what_is_public_and_learns_of_nothing_else() {
    let (public, private) = (blocks(0..3), blocks(3..6));
    let shell = Public { public: Blocks(public.clone()), private: Blocks(private.clone()) };
    let alice = Node::start(ALICE, local(), &[], shell).await;
    let mut kubo = Foreigner::start(key(KUBO), NEWEST, Reader::Loops);
    kubo.meet(alice.peer(), &alice.address).await;
    let both = [public.clone(), private.clone()].concat();
    kubo.send(&[asking_for(&both)]).await;
    let answer = kubo.next().await;
    assert_eq!(answer.blocks.len(), public.len());
    assert!(answer.blocks.iter().all(|claim| public.iter().any(|b| b.bytes() == claim.bytes)));
    let absent: BTreeSet<_> = answer.presences.iter().map(|presence| presence.cid).collect();
    assert_eq!(absent, cids(&private).into_iter().collect());
    assert!(answer.presences.iter().all(|presence| !presence.is_here));
    assert_eq!(alice.handle.counters().await.requests_served, 1);
}

#[tokio::test]
async fn a_half_written_message_stops_nothing() {
    let shelf = blocks(0..3);
    let (alice, mut kubo) = alice_and_kubo(shelf.clone(), NEWEST, Reader::Loops).await;
    let whole = frame(&asking_for(&shelf));
    // Cut off, and left open.
    kubo.send_bytes(&whole[..whole.len() / 2]).await;
    let mut open = kubo.open().await;
    open.write_all(&whole[..whole.len() / 2]).await.unwrap();
    open.flush().await.unwrap();
    kubo.send(&[asking_for(&shelf)]).await;
    receives(&mut kubo, &shelf).await;
    // Anybody's line may be cut.
    assert_eq!(alice.handle.counters().await.violations, 0);
    assert_eq!(alice.opinion_of(KUBO).await.standing, Standing::Probation);
}

#[tokio::test]
async fn what_is_no_message_costs_standing() {
    let (mut alice, mut kubo) = alice_and_kubo(Vec::new(), NEWEST, Reader::Loops).await;
    let too_long = [0xff, 0xff, 0xff, 0xff, 0x7f];
    for bytes in [frame_bytes(b"\x08\x01"), too_long.to_vec(), frame_bytes(&[0x0b; 9])] {
        let before = alice.handle.counters().await.violations;
        kubo.send_bytes(&bytes).await;
        let counted = async |handle: &dunlin_protocols::Handle| {
            (handle.counters().await.violations > before).then_some(())
        };
        alice.settles(counted).await;
    }
    assert_eq!(alice.opinion_of(KUBO).await.standing, Standing::Quarantined);
}

#[tokio::test]
async fn a_quarantined_peer_is_neither_served_nor_asked() {
    let shelf = blocks(0..3);
    let (mut alice, mut kubo) = alice_and_kubo(shelf.clone(), NEWEST, Reader::Loops).await;
    kubo.send(&[asking_for(&shelf)]).await;
    receives(&mut kubo, &shelf).await;
    alice.handle.judge(peer(KUBO), Evidence::BadSignature, 1).await;
    alice
        .settles(async |handle| {
            let views = handle.peers().await;
            let view = views.into_iter().find(|view| view.peer == peer(KUBO))?;
            (view.trust.standing == Standing::Quarantined).then_some(())
        })
        .await;
    let served = alice.handle.counters().await.requests_served;
    let mut stream = kubo.open().await;
    stream.write_all(&frame(&asking_for(&shelf))).await.ok();
    let mut fetch =
        alice.handle.fetch(cids(&shelf), vec![peer(KUBO)], Search::Never).await.unwrap();
    assert!(take(&mut fetch).await.is_empty());
    assert_eq!(alice.handle.counters().await.requests_served, served);
    assert_eq!(alice.handle.counters().await.asks_denied, 1);
}

#[tokio::test]
async fn a_block_that_was_never_asked_for_costs_standing() {
    let (mut alice, mut kubo) = alice_and_kubo(Vec::new(), NEWEST, Reader::Loops).await;
    for round in 1..=3 {
        let blocks = vec![Claim::of(block(round))];
        kubo.send(&[Message { blocks, ..Message::default() }]).await;
        let counted = async |handle: &dunlin_protocols::Handle| {
            (handle.counters().await.blocks_unasked == u64::from(round)).then_some(())
        };
        alice.settles(counted).await;
        assert!(alice.opinion_of(KUBO).await.score < 0.5);
    }
    assert_eq!(alice.opinion_of(KUBO).await.standing, Standing::Quarantined);
    assert_eq!(alice.handle.counters().await.block_bytes_received, 0);
}

#[tokio::test]
async fn forged_bytes_are_dropped_and_the_next_provider_is_asked() {
    let honest = blocks(0..64);
    let (alice, liar) = alice_and_kubo(Vec::new(), NEWEST, Reader::Loops).await;
    let mut helia = Foreigner::start(key(OTHER), NEWEST, Reader::Loops);
    helia.meet(alice.peer(), &alice.address).await;
    let lying = liar.answer(|message| {
        let asked = message.wants.iter().filter(|want| want.ask == Ask::Block);
        let lie = |_: &Want| Claim { kind: Kind::Ours(Codec::Raw), bytes: b"forged".to_vec() };
        let blocks: Vec<_> = asked.map(lie).collect();
        (!blocks.is_empty()).then(|| Message { blocks, ..Message::default() })
    });
    let serving = serve(helia, honest.clone());

    fetch_all(&alice, &[KUBO, OTHER], &honest).await;

    assert!(alice.opinion_of(KUBO).await.score < 0.5);
    assert!(alice.opinion_of(OTHER).await.score > 0.5);
    assert!(alice.handle.counters().await.blocks_unasked >= 1);
    lying.abort();
    serving.abort();
}

#[tokio::test]
async fn a_provider_that_stays_silent_is_passed_over_in_time() {
    let shelf = blocks(0..40);
    // It reads everything and says nothing.
    let (alice, _mute) = alice_and_kubo(Vec::new(), NEWEST, Reader::Loops).await;
    let mut helia = Foreigner::start(key(OTHER), NEWEST, Reader::Loops);
    helia.meet(alice.peer(), &alice.address).await;
    let serving = serve(helia, shelf.clone());
    fetch_all(&alice, &[KUBO, OTHER], &shelf).await;
    assert_eq!(alice.handle.counters().await.timeouts, 1);
    serving.abort();
}

#[tokio::test]
async fn a_fetch_that_is_dropped_takes_its_wants_back() {
    let (alice, mut kubo) = alice_and_kubo(Vec::new(), NEWEST, Reader::Loops).await;
    let wanted = cids(&blocks(0..5));
    let fetch = alice.handle.fetch(wanted.clone(), vec![peer(KUBO)], Search::Never).await.unwrap();
    let asked = kubo.next().await;
    assert!(asked.is_full && asked.wants.len() == 5);
    drop(fetch);
    let cancelled = kubo.next().await.wants;
    assert!(cancelled.iter().all(|want| want.ask == Ask::Cancel && wanted.contains(&want.cid)));
    assert_eq!(cancelled.len(), 5);
}

#[tokio::test]
async fn a_wantlist_that_no_one_could_mean_costs_standing() {
    let (mut alice, mut kubo) = alice_and_kubo(Vec::new(), NEWEST, Reader::Loops).await;
    let hostile = asking_for(&blocks(0..80_000));
    for count in 1..=3 {
        kubo.send(std::slice::from_ref(&hostile)).await;
        let counted = async |handle: &dunlin_protocols::Handle| {
            (handle.counters().await.violations == count).then_some(())
        };
        alice.settles(counted).await;
    }
    assert_eq!(alice.opinion_of(KUBO).await.standing, Standing::Quarantined);
    assert_eq!(alice.handle.counters().await.wants_standing, 0);
}

/// A provider is found through the DHT, and dialled where the DHT says that it is.
#[tokio::test]
async fn a_provider_is_searched_for() {
    let shelf = blocks(0..10);
    let boot = Node::start(100, local(), &[], Mute).await;
    let knowing = || {
        let mut config = local();
        config.bootstrap = vec![boot.address.clone()];
        config
    };
    let mut alice = Node::start(ALICE, knowing(), &[BOB], Blocks(shelf.clone())).await;
    let mut bob = Node::start(BOB, knowing(), &[], Mute).await;
    let boot_peer = boot.peer();
    alice.until(|event| super::common::connected_to(event, boot_peer)).await;
    bob.until(|event| super::common::connected_to(event, boot_peer)).await;
    alice.handle.provide(*shelf[0].cid()).await.unwrap();
    let wanted = cids(&shelf);
    bob.settles(async |bob| {
        let mut fetch = bob.fetch(wanted.clone(), Vec::new(), Search::Once).await.unwrap();
        (take(&mut fetch).await.len() == 10).then_some(())
    })
    .await;
}
