//! Names in addresses: a bootstrap node that is known by `/dnsaddr` alone, and a DNS server that lies.
//!
//! The server is the test's own, on loopback; the node is told of it by `network.dns`.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use common::{
    Node, dunlin, eventually,
    peers::{self, Net},
};

const A: u16 = 1;
const CNAME: u16 = 5;
const TXT: u16 = 16;

/// What a server says to a question, or nothing.
enum Answer {
    /// These records, of the name that was asked for.
    Records(Vec<(u16, Vec<u8>)>),
    /// These bytes behind the number of the question.
    Bytes(Vec<u8>),
    Silence,
}

/// A DNS server on loopback, over UDP and TCP. It remembers what it was asked.
struct Dns {
    at: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Dns {
    /// Starts one that answers as it is told to: by a name and a kind of record.
    fn start(answer: impl Fn(&str, u16) -> Answer + Send + Sync + 'static) -> Self {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(at).unwrap();
        let asked = Arc::default();
        let server = Arc::new(Server { answer, asked: Arc::clone(&asked) });
        let by_udp = Arc::clone(&server);
        // Both end with the test's process.
        thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok((count, from)) = udp.recv_from(&mut bytes) {
                let Some(mut reply) = by_udp.reply(&bytes[..count]) else { continue };
                if reply.len() > 1_200 {
                    // Too long for a packet: "ask again by TCP".
                    reply.truncate(12);
                    reply[2] |= 2;
                    reply[4..12].fill(0);
                }
                udp.send_to(&reply, from).ok();
            }
        });
        thread::spawn(move || {
            for stream in tcp.incoming().map_while(Result::ok) {
                let server = Arc::clone(&server);
                thread::spawn(move || server.serve(stream));
            }
        });
        Self { at, asked }
    }

    fn was_asked(&self, name: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == name).count()
    }
}

struct Server<F> {
    answer: F,
    asked: Arc<Mutex<Vec<String>>>,
}

impl<F: Fn(&str, u16) -> Answer> Server<F> {
    /// Answers what comes over one connection, each message behind its length.
    fn serve(&self, mut stream: std::net::TcpStream) {
        loop {
            let mut length = [0; 2];
            if stream.read_exact(&mut length).is_err() {
                return;
            }
            let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
            if stream.read_exact(&mut question).is_err() {
                return;
            }
            let Some(reply) = self.reply(&question) else { return };
            let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
            if stream.write_all(&[&length[..], &reply].concat()).is_err() {
                return;
            }
        }
    }

    fn reply(&self, message: &[u8]) -> Option<Vec<u8>> {
        let mut name = String::new();
        let mut at = 12;
        while message[at] != 0 {
            let label = &message[at + 1..][..usize::from(message[at])];
            name += &(String::from_utf8_lossy(label).to_lowercase() + ".");
            at += 1 + label.len();
        }
        let kind = u16::from_be_bytes([message[at + 1], message[at + 2]]);
        self.asked.lock().unwrap().push(name.clone());
        let number = &message[..2];
        let records = match (self.answer)(&name, kind) {
            Answer::Silence => return None,
            Answer::Bytes(bytes) => return Some([number, &bytes].concat()),
            Answer::Records(records) => records,
        };
        let mut reply = number.to_vec();
        reply.extend([0x81, 0x80, 0, 1]);
        reply.extend(u16::try_from(records.len()).unwrap().to_be_bytes());
        reply.extend([0; 4]);
        reply.extend(&message[12..at + 5]);
        for (kind, data) in records {
            // The name is the one of the question; class IN, and a second to live.
            reply.extend([0xc0, 12]);
            reply.extend(kind.to_be_bytes());
            reply.extend([0, 1, 0, 0, 0, 1]);
            reply.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            reply.extend(data);
        }
        Some(reply)
    }
}

/// A record with a text.
fn text(text: &str) -> (u16, Vec<u8>) {
    let length = u8::try_from(text.len()).unwrap();
    (TXT, [&[length], text.as_bytes()].concat())
}

/// A name as DNS writes it.
fn name(text: &str) -> Vec<u8> {
    let labels = text
        .split('.')
        .flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat());
    labels.chain([0]).collect()
}

/// Has a node ask a server.
fn ask_of(dir: &Path, dns: &Dns) {
    peers::set(dir, "dns = []", &format!("dns = [\"{}\"]", dns.at));
}

#[test]
fn a_bootstrap_node_is_found_by_its_name_alone() {
    let net = Net::start("dnsaddr");
    let (at, id) = net.bootstrap.rsplit_once("/p2p/").unwrap();
    let port = at.rsplit_once('/').unwrap().1.to_owned();
    let (stranger, theirs) = (libp2p_identity::PeerId::random(), id.to_owned());
    let dns = Dns::start(move |name, kind| {
        Answer::Records(match (name, kind) {
            // One name for several nodes, as public networks have it, with what is of no use to us.
            ("_dnsaddr.boot.test.", TXT) => vec![
                text("v=spf1 -all"),
                text(&format!("dnsaddr=/ip4/127.0.0.1/tcp/1/p2p/{stranger}")),
                text("dnsaddr=/dnsaddr/nonsense"),
                text(&format!("dnsaddr=/dnsaddr/one.boot.test/p2p/{theirs}")),
            ],
            ("_dnsaddr.one.boot.test.", TXT) => {
                vec![text(&format!("dnsaddr=/dns4/host.test/tcp/{port}/p2p/{theirs}"))]
            }
            ("host.test.", A) => vec![(A, vec![127, 0, 0, 1])],
            _ => Vec::new(),
        })
    });
    net.init("a");
    let dir = net.dir("a");
    ask_of(&dir, &dns);
    let named = format!("/dnsaddr/boot.test/p2p/{id}");
    let node = net.node_with("a", &["--bootstrap", &named]);
    node.wait_for_peer(id);
    assert!(dns.was_asked("_dnsaddr.boot.test.") > 0 && dns.was_asked("host.test.") > 0);
    node.stop();
}

/// Names whose answers are no help.
const LIES: [&str; 9] =
    ["loop", "tree", "many", "more", "alias", "empty", "junk", "short", "silence"];

/// Returns who is said to be behind a lie, which is nobody.
fn nobody(lie: &str) -> Option<libp2p_identity::PeerId> {
    let number = u8::try_from(LIES.iter().position(|name| *name == lie)?).unwrap();
    let key = libp2p_identity::Keypair::ed25519_from_bytes([number; 32]).unwrap();
    Some(key.public().to_peer_id())
}

fn lie(asked: &str, kind: u16) -> Answer {
    let name_asked = asked.trim_start_matches("_dnsaddr.").trim_end_matches('.');
    let first = name_asked.split('.').next().unwrap_or_default();
    let Some(id) = nobody(first) else { return Answer::Silence };
    let to = |at: String| text(&format!("dnsaddr={at}/p2p/{id}"));
    match (first, kind) {
        ("loop", TXT) => Answer::Records(vec![to("/dnsaddr/loop.test".to_owned())]),
        // Each name leads to sixteen others, without an end.
        ("tree", TXT) => {
            let below: String = name_asked.chars().take(60).collect();
            let branch = |number| to(format!("/dnsaddr/tree.{number}.{below}x"));
            Answer::Records((0..16).map(branch).collect())
        }
        // Hundreds of places to dial, and as many records as a message holds.
        ("many", TXT) => {
            let place = |number| to(format!("/ip4/127.0.0.1/tcp/{}", 1 + number));
            Answer::Records((0..500).map(place).collect())
        }
        ("more", TXT) => Answer::Records(vec![text(""); 4_000]),
        ("alias", A) => Answer::Records(vec![(CNAME, name("alias.test"))]),
        ("alias", TXT) => Answer::Records(vec![to("/dns4/alias.test/tcp/1".to_owned())]),
        ("empty", TXT) => Answer::Records(vec![to("/dns4/empty.test/tcp/1".to_owned())]),
        // Ten thousand records are said to follow, and nothing sensible does.
        ("junk", _) => {
            let head = [0x81, 0x80, 0, 0, 0x27, 0x10, 0, 0, 0, 0];
            Answer::Bytes([&head[..], &[0xc0, 0x0c].repeat(500)].concat())
        }
        ("short", _) => Answer::Bytes(vec![0x81]),
        ("silence", _) => Answer::Silence,
        _ => Answer::Records(Vec::new()),
    }
}

/// Memory that it may cost to hear all of that, in bytes.
const COST_MAX: u64 = 24 << 20;

/// Questions that all of these names are worth in a minute: 32 of each dial at most, each asked again once or twice by
/// who gets no answer.
const QUESTIONS_MAX: usize = 2_000;

#[test]
fn a_dns_server_that_lies_keeps_nobody_from_their_peers() {
    let net = Net::start("dns-lies");
    let id = net.bootstrap.rsplit_once("/p2p/").unwrap().1.to_owned();
    let dns = Dns::start(lie);
    net.init("a");
    let dir = net.dir("a");
    ask_of(&dir, &dns);
    let lies = LIES.iter().map(|lie| format!("/dnsaddr/{lie}.test/p2p/{}", nobody(lie).unwrap()));
    let all: Vec<_> = lies.chain([net.bootstrap.clone()]).collect();
    let flags: Vec<_> = all.iter().flat_map(|address| ["--bootstrap", address]).collect();
    let node = net.node_with("a", &flags);
    let before = resident_bytes(&node);
    node.wait_for_peer(&id);
    for name in LIES {
        eventually(name, || (dns.was_asked(&format!("_dnsaddr.{name}.test.")) > 0).then_some(()));
    }
    // It goes on to try, and takes neither more memory nor more questions than it may.
    thread::sleep(Duration::from_secs(15));
    let asked = dns.asked.lock().unwrap().len();
    assert!(asked < QUESTIONS_MAX, "{asked} questions");
    let grown = resident_bytes(&node).saturating_sub(before);
    assert!(grown < COST_MAX, "{grown} bytes");
    assert!(node.is_connected_to(&id));
    assert!(!node.log().contains("panicked"), "{}", node.log());
    node.stop();
}

/// Returns a command of the program in a mount namespace of its own, in which something was done to the system's files.
fn with_other_files(change: &str, args: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("{change} && exec \"$0\" \"$@\"");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]).arg(script);
    let program = dunlin(args);
    command.arg(program.get_program()).args(program.get_args()).stdin(Stdio::null());
    command
}

#[test]
fn a_machine_whose_system_names_no_server_reaches_addresses_and_says_that_names_are_not_reached() {
    for (number, change) in
        ["mount --bind /dev/null /etc/resolv.conf", "mount -t tmpfs none /etc"].iter().enumerate()
    {
        if !with_other_files(change, &["--version"]).output().is_ok_and(|it| it.status.success()) {
            eprintln!("skipped: no mount namespaces here for `{change}`");
            continue;
        }
        let net = Net::start(&format!("dns-nobody-{number}"));
        let (at, id) = net.bootstrap.rsplit_once("/p2p/").unwrap();
        net.init("a");
        let dir = net.dir("a");
        let named = format!("/dns4/boot.test/tcp/1/p2p/{}", libp2p_identity::PeerId::random());
        let bootstrap = format!("bootstrap = [\"{named}\", \"{at}/p2p/{id}\"]");
        peers::set(&dir, "bootstrap = []", &bootstrap);
        let flags = ["run", "--listen", "/ip4/127.0.0.1/tcp/0", "--one-machine"];
        let command = &mut with_other_files(change, &flags);
        let node = Node::start_as(&dir, command.env("RUST_LOG", "info,dunlin_protocols=trace"));

        node.wait_for_peer(id);
        let log = eventually("it says that the name is not reached", || {
            let is_told = |line: &str| line.contains("not connected") && line.contains("boot.test");
            Some(node.log()).filter(|log| log.lines().any(is_told))
        });
        assert_eq!(log.matches("addresses with names are not reached").count(), 1, "{log}");
        let seen = with_other_files(change, &["doctor", "--json", "--data-dir"]).arg(&dir).output();
        let findings: Vec<serde_json::Value> =
            serde_json::from_slice(&seen.unwrap().stdout).unwrap();
        let names: Vec<_> = findings.iter().filter(|found| found["check"] == "names").collect();
        let [told] = names[..] else { panic!("{findings:?}") };
        assert!(told["advice"].as_str().unwrap().contains("network.dns"), "{told}");
        node.stop();
    }
}

/// Returns what a node holds in memory; nothing where the system does not tell.
fn resident_bytes(node: &Node) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1_024
}
