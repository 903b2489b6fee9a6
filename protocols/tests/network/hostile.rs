//! Peers that break the protocol: what they do is refused, counted, and held against them.

use dunlin_protocols::{
    Multiaddr, NetworkError,
    messages::{Message, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, SegmentsRequest, SegmentsResponse},
};
use dunlin_trust::Standing;
use dunlin_wire::block::{Codec, cid_of};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, future::poll_fn};
use libp2p::{
    Transport as _,
    core::{
        Endpoint,
        muxing::{StreamMuxerBox, StreamMuxerExt as _},
        transport::{DialOpts, PortUse},
        upgrade::Version,
    },
    noise, tcp, yamux,
};

use super::common::{Mute, Node, connected_to, key, local, peer, stranger::Stranger, within};

const ALICE: u8 = 1;
const MALLORY: u8 = 66;

#[tokio::test]
async fn a_peer_that_sends_no_messages_is_quarantined_by_the_third() {
    let alice = Node::start(ALICE, local(), &[MALLORY], Mute).await;
    let mut mallory = Stranger::new(key(MALLORY));
    mallory.meet(&alice.address).await;

    // A string, a request with a trailing byte, and a map with a key that nobody knows.
    let mut trailing = SegmentsRequest::Blocks { cids: Vec::new() }.encode().unwrap();
    trailing.push(0);
    let unknown = [&[0xa1, 0x64][..], b"what", &[0xa0]].concat();
    for (count, bytes) in (1..).zip([b"\x65hello".to_vec(), trailing, unknown]) {
        assert!(!mallory.ask(peer(ALICE), bytes).await, "nothing is answered");
        assert_eq!(alice.handle.counters().await.violations, count);
    }

    assert_eq!(alice.opinion_of(MALLORY).await.standing, Standing::Quarantined);
}

#[tokio::test]
async fn an_oversize_request_is_refused_before_it_is_read_to_the_end() {
    let mut alice = Node::start(ALICE, local(), &[MALLORY], Mute).await;
    let mut mallory = Stranger::new(key(MALLORY));
    mallory.meet(&alice.address).await;

    assert!(!mallory.ask(peer(ALICE), vec![0x40; REQUEST_BYTES_MAX + 1]).await);
    // 16 MiB fit into no window, so this request never ends: it is enough that it is seen for what it is.
    let judged =
        alice.settles(async |alice| (alice.counters().await.violations == 2).then_some(()));
    tokio::select! {
        () = judged => {}
        _ = mallory.ask(peer(ALICE), vec![0x40; 16 << 20]) => {}
    }

    assert_eq!(alice.handle.counters().await.violations, 2);
    assert!(alice.opinion_of(MALLORY).await.score < 0.5);
}

#[tokio::test]
async fn a_request_that_ends_early_is_nobodys_fault() {
    let alice = Node::start(ALICE, local(), &[MALLORY], Mute).await;
    let mut mallory = Stranger::new(key(MALLORY));
    mallory.meet(&alice.address).await;

    let cid = cid_of(Codec::Raw, b"x");
    let mut request = SegmentsRequest::Blocks { cids: vec![cid] }.encode().unwrap();
    request.pop();
    assert!(!mallory.ask(peer(ALICE), request).await);

    assert_eq!(alice.handle.counters().await.violations, 0);
    assert_eq!(alice.opinion_of(MALLORY).await.standing, Standing::Probation);
}

/// Asks a stranger that answers with these bytes.
async fn answered_with(bytes: Vec<u8>) -> (Node, NetworkError) {
    let mut alice = Node::start(ALICE, local(), &[MALLORY], Mute).await;
    let mut mallory = Stranger::new(key(MALLORY));
    mallory.meet(&alice.address).await;
    let answering = mallory.answer(bytes);
    let mallory = peer(MALLORY);
    alice.until(|event| connected_to(event, mallory)).await;
    let wanted = vec![cid_of(Codec::Raw, b"x")];
    let error = within(alice.handle.blocks(mallory, wanted)).await.unwrap_err();
    answering.abort();
    (alice, error)
}

#[tokio::test]
async fn an_oversize_answer_is_a_violation() {
    let (alice, error) = answered_with(vec![0x40; RESPONSE_BYTES_MAX + 1]).await;
    assert_eq!(error, NetworkError::Violation { peer: peer(MALLORY) });
    assert_eq!(alice.handle.counters().await.violations, 1);
    assert!(alice.opinion_of(MALLORY).await.score < 0.5);
}

#[tokio::test]
async fn an_answer_that_is_no_message_is_a_violation() {
    let (alice, error) = answered_with(b"\x65hello".to_vec()).await;
    assert_eq!(error, NetworkError::Violation { peer: peer(MALLORY) });
    assert!(alice.opinion_of(MALLORY).await.score < 0.5);
}

#[tokio::test]
async fn an_answer_that_ends_early_is_only_a_failure() {
    let mut answer =
        SegmentsResponse::Page { cids: vec![cid_of(Codec::Raw, b"x")] }.encode().unwrap();
    answer.pop();
    let (alice, error) = answered_with(answer).await;
    assert!(matches!(error, NetworkError::Failed { .. }), "{error:?}");
    let counters = alice.handle.counters().await;
    assert_eq!((counters.violations, counters.failures), (0, 1));
}

/// Connects by TCP, and speaks no protocol by itself.
async fn bare_connection(to: &Multiaddr) -> StreamMuxerBox {
    let mut tcp = tcp::tokio::Transport::default()
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(&key(MALLORY)).unwrap())
        .multiplex(yamux::Config::default())
        .boxed();
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
    within(tcp.dial(to.clone(), options).unwrap()).await.unwrap().1
}

#[tokio::test]
async fn who_proposes_one_protocol_after_the_other_loses_the_connection() {
    let alice = Node::start(ALICE, local(), &[], Mute).await;
    for (count, is_welcome) in [(60, true), (65, false)] {
        let mut connection = bare_connection(&alice.address).await;
        let mut stream = poll_fn(|cx| connection.poll_outbound_unpin(cx)).await.unwrap();
        let talk = async {
            let nonsense = b"\x05/no!\n".repeat(count);
            let proposals =
                [&b"\x13/multistream/1.0.0\n"[..], &nonsense, b"\x11/ipfs/ping/1.0.0\n"].concat();
            stream.write_all(&proposals).await?;
            stream.flush().await?;
            let mut answers = vec![0; 20 + 4 * count + 18];
            stream.read_exact(&mut answers).await.map(|()| answers)
        };
        let ended = within(async {
            tokio::select! {
                answers = talk => answers,
                ended = poll_fn(|cx| connection.poll_unpin(cx)) => Err(ended.unwrap_err()),
            }
        });
        let answers = ended.await;
        assert_eq!(answers.is_ok(), is_welcome, "{count}: {answers:?}");
        if let Ok(answers) = answers {
            assert!(answers.ends_with(b"na\n\x11/ipfs/ping/1.0.0\n"));
        } else {
            // The whole connection, not the stream alone.
            let ended = within(poll_fn(|cx| connection.poll_unpin(cx))).await;
            assert!(ended.is_err(), "{ended:?}");
        }
    }
}
