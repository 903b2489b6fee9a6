//! The console: a page for everybody that holds nothing, and a node that shows itself to who has a ticket.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{fs, time::Duration};

use common::{
    Node,
    http::{Answer, authorization, send_as},
    observation,
    peers::Net,
    stdout, two_channels,
};
use dunlin_client::ConsoleTicketRequest;
use dunlin_protocols::messages::{
    CONSOLE_PROTOCOL, ConsoleRequest, ConsoleResponse, ConsoleView, Message, RefusalReason, Ticket,
};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, SwarmBuilder, Transport,
    core::upgrade::Version,
    identify,
    identity::Keypair,
    multiaddr::Protocol,
    noise,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, websocket, yamux,
};
use libp2p_stream::Control;
use tokio::{runtime::Runtime, time::timeout};

/// Where browsers are listened for, in these tests.
const WEBSOCKET: [&str; 2] = ["--listen", "/ip4/127.0.0.1/tcp/0/ws"];

/// Everything of the page.
const FILES: [(&str, &str); 5] = [
    ("/", "text/html"),
    ("/console.js", "text/javascript"),
    ("/console.css", "text/css"),
    ("/console.svg", "image/svg+xml"),
    ("/console-licenses.txt", "text/plain"),
];

fn start(flags: &[&str]) -> (tempfile::TempDir, Node) {
    let temp = tempfile::tempdir().unwrap();
    let node = Node::start_with(&temp.path().join("node"), flags);
    (temp, node)
}

fn api(node: &Node) -> String {
    fs::read_to_string(node.dir.join("api.address")).unwrap().trim().to_owned()
}

/// Sends a request as a browser does that was told this machine's address.
fn browse(node: &Node, request: &str, headers: &str, body: &str) -> Answer {
    send_as(&api(node), node, request, headers, body)
}

fn ask_for_ticket(node: &Node, headers: &str) -> Answer {
    let body = format!("{{\"peer\": \"{}\"}}", PeerId::random());
    let headers = format!("{headers}Content-Type: application/json\r\n");
    browse(node, "POST /v1/console/tickets", &headers, &body)
}

#[test]
fn the_page_is_for_everybody_and_holds_nothing() {
    let (_temp, node) = start(&WEBSOCKET);
    let token = fs::read_to_string(node.dir.join("api.token")).unwrap();
    let peer = node.client().status().unwrap().peer;
    for (path, kind) in FILES {
        let answer = browse(&node, &format!("GET {path}"), "", "");
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.header("content-type").starts_with(kind), "{path}: {}", answer.head);
        for secret in [token.trim(), &peer] {
            assert!(!answer.body.contains(secret) && !answer.head.contains(secret), "{path}");
        }
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
}

#[test]
fn the_page_may_run_its_own_script_and_dial_its_own_node_and_nothing_else() {
    let (_temp, node) = start(&WEBSOCKET);
    let listen: Vec<Multiaddr> =
        node.client().status().unwrap().listen.iter().map(|at| at.parse().unwrap()).collect();
    let is_web = |at: &&Multiaddr| at.iter().any(|part| matches!(part, Protocol::Ws(_)));
    let web = listen.iter().find(is_web).unwrap();
    let port = web.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    let answer = browse(&node, "GET /", "", "");
    let policy: Vec<_> = answer.header("content-security-policy").split("; ").collect();
    let connect = format!("connect-src 'self' ws://127.0.0.1:{}", port.unwrap());
    for directive in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "frame-ancestors 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        &connect,
    ] {
        assert!(policy.contains(&directive), "{directive} is not in {policy:?}");
    }
    assert!(!answer.head.contains("unsafe"), "{}", answer.head);
}

#[test]
fn a_strangers_page_gets_neither_the_page_nor_a_ticket() {
    let (_temp, node) = start(&WEBSOCKET);
    let token = authorization(&node);
    // Its own name points here.
    for host in ["evil.example:4600", "localhost.evil.example", "127.0.0.1.evil.example"] {
        for request in ["GET /", "GET /console.js", "POST /v1/console/tickets"] {
            send_as(host, &node, request, &token, "").assert_refused(403, "foreign_origin");
        }
    }
    // It asks across origins.
    for origin in ["http://evil.example", "null", "http://127.0.0.1:1"] {
        let headers = format!("{token}Origin: {origin}\r\n");
        ask_for_ticket(&node, &headers).assert_refused(403, "foreign_origin");
    }
    let own = format!("{token}Origin: http://{}\r\n", api(&node));
    assert_eq!(ask_for_ticket(&node, &own).status, 200);
}

#[test]
fn a_ticket_takes_the_token_or_a_pass_that_is_good_once() {
    let (_temp, node) = start(&WEBSOCKET);
    for headers in ["", "Authorization: Bearer \r\n", "Authorization: Bearer 0123456789abcdef\r\n"]
    {
        ask_for_ticket(&node, headers).assert_refused(401, "unauthorized");
    }
    let printed = stdout(&mut node.command(&["console"]));
    let url = printed.lines().next().unwrap();
    let (page, pass) = url.split_once('#').unwrap();
    assert_eq!(page, format!("http://{}/", api(&node)));
    let with_pass = format!("Authorization: Bearer {pass}\r\n");
    // It opens nothing else.
    browse(&node, "GET /v1/status", &with_pass, "").assert_refused(401, "unauthorized");
    let answer = ask_for_ticket(&node, &with_pass);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["ticket"].as_str().unwrap().len(), 64);
    ask_for_ticket(&node, &with_pass).assert_refused(401, "unauthorized");
    assert_eq!(ask_for_ticket(&node, &authorization(&node)).status, 200);
}

#[test]
fn a_ticket_is_for_a_peer_id() {
    let (_temp, node) = start(&WEBSOCKET);
    let ask = |body: &str| {
        let headers = format!("{}Content-Type: application/json\r\n", authorization(&node));
        browse(&node, "POST /v1/console/tickets", &headers, body)
    };
    ask("{\"peer\": \"nobody\"}").assert_refused(400, "bad_query");
    ask("{}").assert_refused(400, "bad_json");
}

#[test]
fn a_node_that_does_not_listen_for_browsers_says_what_to_turn_on() {
    let (_temp, node) = start(&["--listen", "/ip4/127.0.0.1/tcp/0"]);
    let answer = ask_for_ticket(&node, &authorization(&node));
    answer.assert_refused(409, "no_websocket");
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("network.listen") && message.contains("/ws"), "{message}");
}

#[test]
fn the_page_is_shown_peers_and_segments_and_sees_them_change() {
    let net = Net::start("console");
    let other_id = net.init("other");
    net.init("ours");
    let other = net.node("other", &[]);
    let ours = net.node_with("ours", &["--bootstrap", &net.bootstrap, WEBSOCKET[0], WEBSOCKET[1]]);
    ours.wait_for_peer(&other_id);
    let life = (0..200).map(|index| observation("engine-7", index)).collect();
    ours.fill(&two_channels("fleet"), life);
    let cids = ours.archive_all("fleet", "engine-7");

    let mut page = Page::dial(&ours);
    let view = page.look_until(|view| view.peers.iter().any(|peer| peer.peer == other_id));

    let shown = view.peers.iter().find(|peer| peer.peer == other_id).unwrap();
    assert_eq!(shown.standing, "probation");
    // Whichever of the addresses was dialled first.
    assert!(matches!(shown.transport.as_deref(), Some("tcp" | "websocket")), "{shown:?}");
    assert_eq!(shown.relay, None);
    assert!(shown.protocols.iter().any(|protocol| protocol == CONSOLE_PROTOCOL), "{shown:?}");
    assert!(shown.bytes_up > 0 && shown.bytes_down > 0, "{shown:?}");
    let mut segments: Vec<_> = view.segments.iter().map(|shown| shown.cid.clone()).collect();
    let first = &view.segments[0];
    assert_eq!((first.collection.as_str(), first.entity.as_str()), ("fleet", "engine-7"));
    assert!(view.segments.is_sorted_by(|newer, older| newer.start_us > older.end_us));
    segments.reverse();
    assert_eq!(segments, cids);

    other.kill();
    page.look_until(|view| {
        view.peers.iter().all(|peer| peer.peer != other_id || peer.transport.is_none())
    });

    // The page is in no list of peers.
    let me = page.peer.to_string();
    assert!(ours.peer(&me).is_none());
    assert!(ours.client().cluster_status().unwrap().members.iter().all(|peer| peer.peer_id != me));
}

#[test]
fn nobody_without_a_ticket_is_shown_anything() {
    let (_temp, node) = start(&WEBSOCKET);
    let mut page = Page::dial(&node);
    assert!(matches!(page.ask(&ConsoleRequest::Look {}), ConsoleResponse::Shown { .. }));

    let ticket = page.ticket;
    let mut thief = Page::alone();
    thief.connect(&page.address);
    for request in [ConsoleRequest::Enter { ticket }, ConsoleRequest::Look {}] {
        let denied = ConsoleResponse::Refused { reason: RefusalReason::Denied };
        assert!(thief.try_ask(&request).is_none_or(|answer| answer == denied));
    }
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    streams: libp2p_stream::Behaviour,
}

/// What the page is to a node: a peer with a key of its own that dials over WebSocket, with Noise and Yamux.
struct Page {
    runtime: Runtime,
    peer: PeerId,
    control: Control,
    dial: tokio::sync::mpsc::Sender<Multiaddr>,
    node: PeerId,
    address: Multiaddr,
    ticket: Ticket,
}

impl Page {
    fn alone() -> Self {
        let runtime = Runtime::new().unwrap();
        let keypair = Keypair::generate_ed25519();
        let peer = keypair.public().to_peer_id();
        let (dial, mut dials) = tokio::sync::mpsc::channel::<Multiaddr>(1);
        let _in_runtime = runtime.enter();
        let mut swarm = SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_other_transport(|keypair| {
                websocket::Config::new(tcp::tokio::Transport::new(tcp::Config::default()))
                    .upgrade(Version::V1)
                    .authenticate(noise::Config::new(keypair).unwrap())
                    .multiplex(yamux::Config::default())
            })
            .unwrap()
            .with_behaviour(|keypair| Behaviour {
                identify: identify::Behaviour::new(identify::Config::new(
                    "ipfs/0.1.0".to_owned(),
                    keypair.public(),
                )),
                streams: libp2p_stream::Behaviour::new(),
            })
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(common::PATIENCE))
            .build();
        let control = swarm.behaviour().streams.new_control();
        runtime.spawn(async move {
            loop {
                tokio::select! {
                    Some(address) = dials.recv() => swarm.dial(address).unwrap(),
                    event = swarm.select_next_some() => {
                        if let SwarmEvent::OutgoingConnectionError { error, .. } = event {
                            panic!("not connected: {error}");
                        }
                    }
                }
            }
        });
        let ticket = Ticket::new([0; 32]);
        drop(_in_runtime);
        Self { runtime, peer, control, dial, node: peer, address: Multiaddr::empty(), ticket }
    }

    /// Does as the page does when its reader gives it the token.
    #[track_caller]
    fn dial(node: &Node) -> Self {
        let mut page = Self::alone();
        let request = ConsoleTicketRequest { peer: page.peer.to_string() };
        let answer = node.client().console_ticket(&request).unwrap();
        let digit_pairs = answer.ticket.as_bytes().chunks(2);
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let bytes: Vec<u8> = digit_pairs.map(byte).collect();
        page.ticket = Ticket::new(bytes.try_into().unwrap());
        page.connect(&answer.addresses[0].parse().unwrap());
        let enter = ConsoleRequest::Enter { ticket: page.ticket };
        assert_eq!(page.ask(&enter), ConsoleResponse::Entered {});
        page
    }

    fn connect(&mut self, address: &Multiaddr) {
        let Some(Protocol::P2p(node)) = address.iter().last() else { panic!("{address}") };
        self.node = node;
        self.address = address.clone();
        self.dial.try_send(address.clone()).unwrap();
    }

    #[track_caller]
    fn ask(&mut self, request: &ConsoleRequest) -> ConsoleResponse {
        self.try_ask(request).expect("an answer")
    }

    /// Asks; nothing comes back of a node that has sent this peer away.
    fn try_ask(&mut self, request: &ConsoleRequest) -> Option<ConsoleResponse> {
        let bytes = request.encode().unwrap();
        let (control, node) = (&mut self.control, self.node);
        let asking = async {
            // A connection that is being made is no reason to fail.
            let mut tries = 0;
            let mut stream = loop {
                match control.open_stream(node, StreamProtocol::new(CONSOLE_PROTOCOL)).await {
                    Ok(stream) => break stream,
                    Err(_) if tries < 50 => tokio::time::sleep(Duration::from_millis(100)).await,
                    Err(_) => return None,
                }
                tries += 1;
            };
            stream.write_all(&bytes).await.ok()?;
            stream.close().await.ok()?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.ok()?;
            ConsoleResponse::decode(&answer).ok()
        };
        self.runtime.block_on(async { timeout(common::PATIENCE, asking).await.unwrap() })
    }

    #[track_caller]
    fn look_until(&mut self, is_so: impl Fn(&ConsoleView) -> bool) -> ConsoleView {
        common::eventually("the console is shown it", || {
            match self.ask(&ConsoleRequest::Look {}) {
                ConsoleResponse::Shown { view } if is_so(&view) => Some(view),
                ConsoleResponse::Shown { .. }
                // Who looks as fast as a test does is told to wait.
                | ConsoleResponse::Refused { reason: RefusalReason::Busy } => None,
                other => panic!("{other:?}"),
            }
        })
    }
}
