//! Peers that send more over bitswap than anyone could mean: it costs them their standing, and us a bounded
//! amount of memory, while others are served.
//!
//! Other tests of this process take memory, too, so each of these sends several times what it allows, and they
//! take turns.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dunlin_archive::bitswap::{Claim, Message};
use dunlin_trust::Standing;
use dunlin_wire::block::{Block, Codec};
use futures::AsyncWriteExt;
use tokio::{sync::Mutex, task::JoinSet, time::sleep};

use super::{
    bitswap::{alice_and_kubo, asking_for, blocks, fetch_all, serve},
    common::{
        Blocks, Node, PATIENCE,
        foreigner::{Foreigner, NEWEST, Reader, frame},
        key, local, peer,
    },
};

const ALICE: u8 = 1;
const HONEST: u8 = 50;
/// They are strangers, and there are four of them.
const HOSTILE: std::ops::Range<u8> = 60..64;
/// Streams that each of them opens: as many as are read.
const STREAMS: usize = 32;

/// Who measures memory.
static TURN: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn eight_hundred_thousand_wants_cost_little_memory_and_the_peers_standing() {
    let _turn = TURN.lock().await;
    let (mut alice, mut kubo) = alice_and_kubo(Vec::new(), NEWEST, Reader::Loops).await;
    let before = resident_mib();
    // 16 messages, each with less than what is a violation by itself.
    for message in 0..16 {
        kubo.send(&[asking_for(&blocks(message * 50_000..(message + 1) * 50_000))]).await;
    }
    alice.settles(async |handle| (handle.counters().await.violations == 3).then_some(())).await;
    assert_eq!(alice.opinion_of(HONEST).await.standing, Standing::Quarantined);
    assert_eq!(
        alice.handle.counters().await.wants_standing,
        0,
        "a peer that is muted wants nothing"
    );
    // Keeping it all would take 450 MiB.
    assert_grown_less(before, 200);
}

#[tokio::test]
async fn half_written_messages_hold_little_memory_and_stop_no_one() {
    let _turn = TURN.lock().await;
    let shelf: Vec<_> = (0..16_u8).map(|n| Block::new(Codec::Raw, vec![n; 1 << 20])).collect();
    let (alice, mut kubo) = alice_and_kubo(shelf.clone(), NEWEST, Reader::Loops).await;
    let before = resident_mib();
    // 512 MiB are announced, and all but a part of the last KiB is there to be read.
    let whole: Arc<[u8]> = frame(&unasked_blocks()).into();
    let half = whole.len() - 500;
    let flood = Flood::start(&alice, whole, half).await;
    flood.stands_still().await;

    // What honest peers want and send is read meanwhile, large or small.
    kubo.send(&[asking_for(&shelf)]).await;
    let mut served = 0;
    while served < shelf.len() {
        served += kubo.next().await.blocks.len();
    }
    // All of them in one message, which is long enough to need room.
    let theirs: Vec<_> = (20..36_u8).map(|n| Block::new(Codec::Raw, vec![n; 200_000])).collect();
    let serving = serve(kubo, theirs.clone());
    fetch_all(&alice, &[HONEST], &theirs).await;
    serving.abort();

    assert_grown_less(before, 250);
    assert_eq!(alice.handle.counters().await.violations, 0, "anybody's line may be slow");
}

#[tokio::test]
async fn a_flood_of_blocks_that_nobody_asked_for_is_not_kept() {
    let _turn = TURN.lock().await;
    let mut alice = Node::start(ALICE, local(), &[], Blocks(Vec::new())).await;
    let before = resident_mib();
    let whole: Arc<[u8]> = frame(&unasked_blocks()).into();
    let all = whole.len();
    let flood = Flood::start(&alice, whole, all).await;
    alice
        .settles(async |handle| {
            let views = handle.peers().await;
            let is_out = |number: u8| {
                let view = views.iter().find(|view| view.peer == peer(number));
                view.is_some_and(|view| view.trust.standing == Standing::Quarantined)
            };
            HOSTILE.into_iter().all(is_out).then_some(())
        })
        .await;
    drop(flood);
    // 512 MiB were on their way.
    assert_grown_less(before, 250);
    assert_eq!(alice.handle.counters().await.block_bytes_received, 0);
}

/// The longest message there is, of blocks that nobody asked for.
fn unasked_blocks() -> Message {
    let block = |byte: u8| Claim::of(Block::new(Codec::Raw, vec![byte; (2 << 20) - 100]));
    Message { blocks: vec![block(1), block(2)], ..Message::default() }
}

/// Strangers that write the same bytes on many streams at once.
struct Flood {
    written: Arc<AtomicUsize>,
    _foreigners: Vec<Foreigner>,
    _writers: JoinSet<()>,
}

impl Flood {
    /// Writes `count` bytes of `bytes` on every stream, and leaves it open.
    async fn start(node: &Node, bytes: Arc<[u8]>, count: usize) -> Self {
        let written = Arc::new(AtomicUsize::new(0));
        let (mut foreigners, mut writers) = (Vec::new(), JoinSet::new());
        for number in HOSTILE {
            let mut foreigner = Foreigner::start(key(number), NEWEST, Reader::Loops);
            foreigner.meet(node.peer(), &node.address).await;
            for _ in 0..STREAMS {
                let mut stream = foreigner.open().await;
                let (bytes, written) = (Arc::clone(&bytes), Arc::clone(&written));
                writers.spawn(async move {
                    for part in bytes[..count].chunks(64 * 1024) {
                        // The node may have had enough.
                        if stream.write_all(part).await.is_err() {
                            return;
                        }
                        written.fetch_add(part.len(), Ordering::Relaxed);
                    }
                    stream.flush().await.ok();
                    std::future::pending::<()>().await;
                });
            }
            foreigners.push(foreigner);
        }
        Self { written, _foreigners: foreigners, _writers: writers }
    }

    /// Waits until no more is read of them.
    async fn stands_still(&self) {
        let (mut last, mut still) = (0, 0);
        for _ in 0..PATIENCE.as_secs() * 4 {
            sleep(Duration::from_millis(250)).await;
            let written = self.written.load(Ordering::Relaxed);
            still = if written == last { still + 1 } else { 0 };
            if still == 8 {
                return;
            }
            last = written;
        }
        panic!("they were read on and on");
    }
}

#[track_caller]
fn assert_grown_less(before: u64, mib: u64) {
    let grown = resident_mib().saturating_sub(before);
    println!("resident memory grew by {grown} MiB");
    assert!(grown < mib, "{grown} MiB");
}

fn resident_mib() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4 / 1_024
}
