//! An air-gapped node has no socket but that of its API: looked up in what the kernel lists of its process, while it
//! works.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{collections::BTreeMap, fs};

use common::{Node, complaint, dunlin, observation, peers, stdout, two_channels};
use dunlin_client::FetchRequest;

/// Lists of sockets that reach beyond this machine, or listen to it, by the kernel's names for them, each with the column
/// of its inode. Sockets of the kind `unix` reach nothing but this machine, and the runtime wakes itself with a pair of
/// them.
const KINDS: [(&str, usize); 10] = [
    ("tcp", 9),
    ("tcp6", 9),
    ("udp", 9),
    ("udp6", 9),
    ("udplite", 9),
    ("udplite6", 9),
    ("raw", 9),
    ("raw6", 9),
    ("packet", 8),
    ("netlink", 9),
];

/// Returns the sockets of a process: the kind, and the kernel's line about it.
fn sockets(pid: u32) -> Vec<(&'static str, String)> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = links.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    let inodes: Vec<_> = links
        .filter_map(|link| {
            let name = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned();
            Some(name)
        })
        .collect();
    let mut known = BTreeMap::new();
    for (kind, column) in KINDS {
        // A kernel that does not know a kind has none of it.
        let list = fs::read_to_string(format!("/proc/{pid}/net/{kind}")).unwrap_or_default();
        for line in list.lines().skip(1) {
            let inode = line.split_whitespace().nth(column).unwrap().to_owned();
            known.insert(inode, (kind, line.to_owned()));
        }
    }
    inodes.iter().filter_map(|inode| known.get(inode).cloned()).collect()
}

/// Returns whether a line of the kernel's list of TCP sockets is about the API: its port on 127.0.0.1.
fn is_api(kind: &str, line: &str, port: u16) -> bool {
    let local = format!("0100007F:{port:04X}");
    kind == "tcp" && line.split_whitespace().nth(1) == Some(&local)
}

#[test]
fn an_air_gapped_node_opens_no_socket_but_that_of_its_api() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("node");
    stdout(dunlin(&["init", "--data-dir"]).arg(&dir));

    // What the test would see if it were not so.
    let open = Node::start_with(&dir, &["--listen", "/ip4/127.0.0.1/udp/0/quic-v1"]);
    let port = open.client().status().unwrap().api.rsplit(':').next().unwrap().parse().unwrap();
    let others = |node: &Node, port| {
        let all = sockets(node.pid());
        all.into_iter().filter(|(kind, line)| !is_api(kind, line, port)).collect::<Vec<_>>()
    };
    assert!(others(&open, port).iter().any(|(kind, _)| *kind == "udp"), "QUIC has a socket");
    drop(open);

    peers::set(&dir, "mode = \"federated\"", "mode = \"air-gapped\"");
    let node = Node::start_with(&dir, &[]);
    let client = node.client();
    let port = client.status().unwrap().api.rsplit(':').next().unwrap().parse().unwrap();
    assert_eq!(others(&node, port), []);

    // It works.
    node.fill(&two_channels("pairs"), (0..100).map(|index| observation("web", index)).collect());
    let status = client.status().unwrap();
    assert_eq!((status.observations, status.peers), (100, 0));
    assert_eq!(status.listen, Vec::<String>::new());
    // It asks nobody, whoever wants it to.
    let cid = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";
    let wish = FetchRequest {
        cids: vec![cid.to_owned()],
        gateways: vec!["http://127.0.0.1:9".to_owned()],
        ..FetchRequest::default()
    };
    let refused = client.fetch(&wish).unwrap_err();
    assert!(refused.to_string().contains("air-gapped"), "{refused}");
    let from_dht =
        FetchRequest { cids: vec![cid.to_owned()], dht: true, ..FetchRequest::default() };
    let nothing = client.fetch(&from_dht).unwrap();
    assert!(nothing.segments.iter().all(|found| found.segment.is_none()), "{nothing:?}");
    assert_eq!(others(&node, port), []);
    drop(node);

    let refused = complaint(dunlin(&["run", "--gateway", "127.0.0.1:0", "--data-dir"]).arg(&dir));
    assert!(refused.contains("gateway.listen"), "{refused}");
    assert!(complaint(dunlin(&["bootstrap", "--data-dir"]).arg(&dir)).contains("meets nobody"));
}
