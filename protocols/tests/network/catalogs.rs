//! Questions about catalogs between two nodes: own peers alone ask and answer them.

use dunlin_protocols::{
    NetworkError,
    messages::{CatalogRoot, Catalogs, CatalogsRequest, CatalogsResponse, RefusalReason},
};
use dunlin_trust::{Evidence, Standing};
use dunlin_wire::block::{Codec, cid_of};

use super::common::{CatalogsOf, Mute, Node, local, peer, within};

const ALICE: u8 = 1;
const BOB: u8 = 2;

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
    let CatalogsRequest::Compare { catalogs } = request;
    CatalogsResponse::Compared { catalogs }
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
