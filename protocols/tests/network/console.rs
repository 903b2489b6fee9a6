//! The console: who has a ticket is shown what the node knows, and nobody else is.

use dunlin_protocols::{
    NetworkError,
    messages::{
        CONSOLE_REQUEST_BYTES_MAX, ConsoleRequest, ConsoleResponse, ConsoleView, Message,
        RefusalReason, Ticket,
    },
};
use dunlin_trust::{Authorities, Config, Operation, Refusal, Standing, Trust};

use super::common::{Mute, Node, Shows, key, local, peer, stranger::Stranger};

const ALICE: u8 = 1;
const PAGE: u8 = 40;
const OTHER_PAGE: u8 = 41;
const MALLORY: u8 = 66;

const TICKET: [u8; 32] = [0x7c; 32];

fn view() -> ConsoleView {
    ConsoleView { peer: "alice".to_owned(), ..ConsoleView::default() }
}

async fn alice() -> Node {
    Node::start(ALICE, local(), &[], Shows(view())).await
}

async fn asked(stranger: &mut Stranger, request: ConsoleRequest) -> ConsoleResponse {
    let answer = stranger.answer_to(peer(ALICE), request.encode().unwrap()).await;
    ConsoleResponse::decode(&answer.expect("an answer")).unwrap()
}

async fn enters(stranger: &mut Stranger, ticket: [u8; 32]) -> ConsoleResponse {
    asked(stranger, ConsoleRequest::Enter { ticket: Ticket::new(ticket) }).await
}

async fn looks(stranger: &mut Stranger) -> ConsoleResponse {
    asked(stranger, ConsoleRequest::Look {}).await
}

fn denied() -> ConsoleResponse {
    ConsoleResponse::Refused { reason: RefusalReason::Denied }
}

async fn expect(node: &Node, page: u8) {
    node.handle.expect_console(peer(page), Ticket::new(TICKET)).await.unwrap();
}

#[tokio::test]
async fn a_page_with_a_ticket_is_shown_what_the_node_knows_and_is_no_peer() {
    let alice = alice().await;
    expect(&alice, PAGE).await;
    let mut page = Stranger::page(key(PAGE));
    page.meet(&alice.address).await;
    page.until_identified().await;

    assert_eq!(looks(&mut page).await, denied(), "before it entered");
    assert_eq!(enters(&mut page, TICKET).await, ConsoleResponse::Entered {});
    for _ in 0..3 {
        assert_eq!(looks(&mut page).await, ConsoleResponse::Shown { view: view() });
    }

    assert!(alice.handle.connected().await.is_empty());
    assert!(alice.handle.peers().await.is_empty());
    assert!(alice.handle.peers_after(None, 10).await.is_empty());
    assert_eq!(alice.handle.counters().await.connections_closed, 0);
}

#[tokio::test]
async fn whoever_entered_is_known_by_its_key_when_it_comes_back() {
    let alice = alice().await;
    expect(&alice, PAGE).await;
    let mut page = Stranger::page(key(PAGE));
    page.meet(&alice.address).await;
    assert_eq!(enters(&mut page, TICKET).await, ConsoleResponse::Entered {});
    drop(page);

    let mut again = Stranger::page(key(PAGE));
    again.meet(&alice.address).await;
    assert_eq!(looks(&mut again).await, ConsoleResponse::Shown { view: view() });
}

#[tokio::test]
async fn a_ticket_is_for_one_peer_and_one_time() {
    let alice = alice().await;
    expect(&alice, PAGE).await;
    let mut mallory = Stranger::console(key(MALLORY));
    mallory.meet(&alice.address).await;
    assert_eq!(enters(&mut mallory, TICKET).await, denied(), "it is another's");
    assert_eq!(looks(&mut mallory).await, denied());

    let mut page = Stranger::page(key(PAGE));
    page.meet(&alice.address).await;
    assert_eq!(enters(&mut page, TICKET).await, ConsoleResponse::Entered {});
    assert_eq!(enters(&mut page, TICKET).await, denied(), "it is used up");

    expect(&alice, OTHER_PAGE).await;
    let mut wrong = Stranger::page(key(OTHER_PAGE));
    wrong.meet(&alice.address).await;
    for ticket in [[0; 32], TICKET] {
        // The first try uses it up, and whoever has none is sent away, perhaps before it has the answer.
        let enter = ConsoleRequest::Enter { ticket: Ticket::new(ticket) }.encode().unwrap();
        let answer = wrong.answer_to(peer(ALICE), enter).await;
        assert!(answer.is_none_or(|answer| ConsoleResponse::decode(&answer).unwrap() == denied()));
    }
}

#[tokio::test]
async fn own_peers_need_a_ticket_too() {
    let alice = Node::start(ALICE, local(), &[MALLORY], Shows(view())).await;
    let mut own = Stranger::console(key(MALLORY));
    own.meet(&alice.address).await;
    assert_eq!(looks(&mut own).await, denied());
}

#[tokio::test]
async fn a_page_without_a_ticket_is_sent_away_as_anybody_of_no_network() {
    let alice = alice().await;
    let mut page = Stranger::page(key(PAGE));
    page.meet(&alice.address).await;
    page.until_sent_away().await;
}

#[tokio::test]
async fn the_gate_is_asked_about_consoles_too() {
    let alice = alice().await;
    expect(&alice, PAGE).await;
    let mut page = Stranger::page(key(PAGE));
    page.meet(&alice.address).await;
    assert_eq!(enters(&mut page, TICKET).await, ConsoleResponse::Entered {});

    alice.handle.quarantine(peer(PAGE), true).await.unwrap();

    assert_eq!(looks(&mut page).await, denied());
    let gate = alice.handle.may(peer(PAGE), Operation::ShowConsole).await;
    let standing = Standing::Quarantined;
    let refusal =
        Refusal::Standing { peer: peer(PAGE), operation: Operation::ShowConsole, standing };
    assert_eq!(gate, Err(NetworkError::Gate(refusal)));
}

#[tokio::test]
async fn a_closed_network_lets_the_console_in_without_a_license() {
    let authorities = Some(Authorities::new("test", [peer(9)], 1).unwrap());
    let trust = Trust::new(Config { authorities, ..Config::default() }, Vec::new());
    let alice = Node::start_trusting(ALICE, local(), trust, Shows(view())).await;
    expect(&alice, PAGE).await;
    let mut page = Stranger::page(key(PAGE));
    page.meet(&alice.address).await;
    page.until_identified().await;
    assert_eq!(enters(&mut page, TICKET).await, ConsoleResponse::Entered {});
    assert_eq!(looks(&mut page).await, ConsoleResponse::Shown { view: view() });

    let mut mallory = Stranger::console(key(MALLORY));
    mallory.meet(&alice.address).await;
    assert_eq!(looks(&mut mallory).await, denied());
}

#[tokio::test]
async fn what_is_no_request_is_a_violation_and_an_oversize_one_is_not_read() {
    let alice = Node::start(ALICE, local(), &[], Mute).await;
    let mut mallory = Stranger::console(key(MALLORY));
    mallory.meet(&alice.address).await;
    let mut trailing = ConsoleRequest::Look {}.encode().unwrap();
    trailing.push(0);
    let oversize = vec![0x40; CONSOLE_REQUEST_BYTES_MAX + 1];
    for (count, bytes) in (1..).zip([trailing, oversize]) {
        assert!(!mallory.ask(peer(ALICE), bytes).await, "nothing is answered");
        assert_eq!(alice.handle.counters().await.violations, count);
    }
    assert!(alice.opinion_of(MALLORY).await.score < 0.5);
}

#[tokio::test]
async fn a_strangers_flood_is_refused_and_the_console_goes_on() {
    let alice = alice().await;
    expect(&alice, PAGE).await;
    let mut page = Stranger::page(key(PAGE));
    page.meet(&alice.address).await;
    assert_eq!(enters(&mut page, TICKET).await, ConsoleResponse::Entered {});
    let mut mallory = Stranger::console(key(MALLORY));
    mallory.meet(&alice.address).await;

    let request = ConsoleRequest::Enter { ticket: Ticket::new([1; 32]) }.encode().unwrap();
    for _ in 0..500 {
        mallory.send(peer(ALICE), request.clone());
    }
    for _ in 0..500 {
        if let Some(answer) = mallory.next_answer().await {
            let answer = ConsoleResponse::decode(&answer).unwrap();
            assert!(matches!(answer, ConsoleResponse::Refused { .. }), "{answer:?}");
        }
    }

    assert_eq!(looks(&mut page).await, ConsoleResponse::Shown { view: view() });
}

#[tokio::test]
async fn a_node_that_shows_nothing_says_that_it_failed() {
    let alice = Node::start(ALICE, local(), &[], Mute).await;
    expect(&alice, PAGE).await;
    let mut page = Stranger::page(key(PAGE));
    page.meet(&alice.address).await;
    assert_eq!(enters(&mut page, TICKET).await, ConsoleResponse::Entered {});
    let failed = ConsoleResponse::Refused { reason: RefusalReason::Failed };
    assert_eq!(looks(&mut page).await, failed);
}
