//! Names on the DHT: what they stand for, and who has a say in it.

use std::time::{Duration, SystemTime};

use dunlin_archive::ipns::{Name, RECORD_BYTES_MAX, Record, Terms};
use dunlin_protocols::{Config, Keypair};
use dunlin_wire::block::{Codec, cid_of};
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::StreamProtocol;

use super::common::{
    Mute, Node, connected_to,
    foreigner::{Foreigner, NEWEST, Reader},
    key, local, peer, within,
};

const BOOT: u8 = 100;
const ALICE: u8 = 1;
const BOB: u8 = 2;
const MALLORY: u8 = 66;

const KAD: StreamProtocol = StreamProtocol::new("/dunlin/test/kad/1.0.0");

fn name(number: u8) -> Name {
    Name::of(&peer(number)).unwrap()
}

fn record(key: &Keypair, sequence: u64, value: &str) -> Record {
    let terms = Terms {
        value: value.to_owned(),
        sequence,
        eol: SystemTime::now() + Duration::from_secs(3600),
        ttl: Duration::from_secs(60),
    };
    Record::sign(key, &terms).unwrap()
}

/// Alice and Bob, who know a third node alone.
async fn alice_and_bob() -> (Node, Node, Node) {
    let boot = Node::start(BOOT, local(), &[], Mute).await;
    let knowing = || Config { bootstrap: vec![boot.address.clone()], ..local() };
    let mut alice = Node::start(ALICE, knowing(), &[], Mute).await;
    let mut bob = Node::start(BOB, knowing(), &[], Mute).await;
    for node in [&mut alice, &mut bob] {
        node.until(|event| connected_to(event, peer(BOOT))).await;
    }
    (boot, alice, bob)
}

#[tokio::test]
async fn a_name_stands_for_what_its_node_published_last() {
    let (boot, alice, mut bob) = alice_and_bob().await;
    assert_eq!(within(bob.handle.resolve_name(name(ALICE))).await.unwrap(), None);

    for sequence in [1, 2] {
        let said = record(&key(ALICE), sequence, &format!("/ipfs/{sequence}"));
        assert!(within(alice.handle.put_name(said.clone())).await.unwrap() >= 1);
        bob.settles(async |bob| {
            let found = within(bob.resolve_name(name(ALICE))).await.unwrap();
            (found.as_ref() == Some(&said)).then_some(())
        })
        .await;
    }

    assert_eq!(boot.handle.records().await.names, [name(ALICE)]);
    // The name is there while its node is not.
    alice.shutdown().await;
    let found = within(bob.handle.resolve_name(name(ALICE))).await.unwrap().unwrap();
    assert_eq!(found.sequence(), 2);
}

#[tokio::test]
async fn a_node_that_knows_nobody_says_so() {
    let alice = Node::start(ALICE, local(), &[], Mute).await;
    let said = record(&key(ALICE), 1, "/ipfs/1");
    assert_eq!(within(alice.handle.put_name(said.clone())).await, Ok(0));
    assert_eq!(within(alice.handle.provide(cid_of(Codec::Raw, b"a root"))).await, Ok(false));
    // What it says itself it knows.
    assert_eq!(within(alice.handle.resolve_name(name(ALICE))).await, Ok(Some(said)));
    assert_eq!(within(alice.handle.resolve_name(name(BOB))).await, Ok(None));
}

#[tokio::test]
async fn what_is_withdrawn_is_not_said_any_more() {
    let alice = Node::start(ALICE, local(), &[], Mute).await;
    let (one, two) = (cid_of(Codec::Raw, b"one"), cid_of(Codec::Raw, b"two"));
    alice.handle.hold(vec![one, two]).await;
    alice.handle.withdraw(one).await;
    let held: Vec<_> = alice.handle.records().await.providers;
    assert_eq!(held, [(two.hash().to_bytes(), peer(ALICE))]);
}

/// A message of the DHT that puts a value: its type is the default and left out.
fn put_value(key: &[u8], value: &[u8]) -> Vec<u8> {
    let field =
        |number: u8, bytes: &[u8]| [&[number << 3 | 2][..], &varint(bytes.len()), bytes].concat();
    let record = [field(1, key), field(2, value)].concat();
    let message = [field(2, key), field(3, &record)].concat();
    [varint(message.len()), message].concat()
}

fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

#[tokio::test]
async fn nobody_else_has_a_say_in_what_a_name_stands_for() {
    let (boot, alice, mut bob) = alice_and_bob().await;
    let said = record(&key(ALICE), 7, "/ipfs/truth");
    assert!(within(alice.handle.put_name(said.clone())).await.unwrap() >= 1);
    let mut mallory = Foreigner::start(key(MALLORY), NEWEST, Reader::Loops);
    mallory.meet(peer(BOOT), &boot.address).await;

    let alices = name(ALICE).routing_key();
    let older = record(&key(ALICE), 6, "/ipfs/past");
    let forged = record(&key(MALLORY), 8, "/ipfs/lie");
    let mut damaged = record(&key(ALICE), 8, "/ipfs/truth").bytes().to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let long = vec![b'x'; RECORD_BYTES_MAX + 1];
    let lies: [(&[u8], &[u8]); 6] = [
        (&alices, older.bytes()),
        (&alices, forged.bytes()),
        (&alices, &damaged),
        (&alices, &long),
        (b"/pk/anything", b"any value"),
        (&[b"/ipns/".as_slice(), &[7; 80]].concat(), b"any value"),
    ];
    let mut stream = mallory.open_for(KAD).await;
    for (count, (key, value)) in (1..).zip(lies) {
        within(stream.write_all(&put_value(key, value))).await.unwrap();
        within(stream.flush()).await.unwrap();
        bob.settles(async |_| {
            let refused = boot.handle.counters().await.records_refused;
            (refused == count).then_some(())
        })
        .await;
        assert_eq!(boot.handle.records().await.names, [name(ALICE)]);
        // A value is answered as if it were kept; a stream that is not read stands still.
        let mut answer = [0; 64];
        within(stream.read(&mut answer)).await.unwrap();
    }

    assert_eq!(within(bob.handle.resolve_name(name(ALICE))).await, Ok(Some(said)));
    assert_eq!(within(bob.handle.resolve_name(name(MALLORY))).await, Ok(None));
}
