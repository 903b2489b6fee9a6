//! A node with a Kubo and a pinning service: what goes there, what does not, and what happens when they are
//! not there.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;
#[path = "../../archive/tests/doubles/mod.rs"]
mod doubles;

use std::{
    fs::{self, Permissions},
    io::{Seek, SeekFrom, Write},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
};

use common::{Node, complaint, dunlin, eventually, observation, stdout, two_channels};
use doubles::{
    kubo::Double,
    service::{self, TOKEN},
};
use dunlin_archive::car;
use dunlin_client::BackendStatus;
use dunlin_wire::{
    Cid,
    block::{Block, Codec},
};
use tempfile::TempDir;

const LISTEN: [&str; 2] = ["--listen", "/ip4/127.0.0.1/tcp/0"];

struct Fixture {
    temp: TempDir,
}

impl Fixture {
    /// A data folder with this configuration.
    fn new(config: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let fixture = Self { temp };
        stdout(dunlin(&["init", "--data-dir"]).arg(fixture.dir()));
        let config = format!("[network]\nmdns = false\n{config}");
        fs::write(fixture.dir().join("config.toml"), config).unwrap();
        fixture
    }

    fn with_kubo(kubo: &Double, more: &str) -> Self {
        let url = kubo.url();
        Self::new(&format!("[archive]\nbackend = 'kubo'\n[kubo]\nurl = '{url}'\n{more}"))
    }

    fn dir(&self) -> PathBuf {
        self.temp.path().join("node")
    }

    fn start(&self) -> Node {
        Node::start_with(&self.dir(), &LISTEN)
    }

    /// Imports a CAR of one block for everybody; returns the block.
    fn import_public(&self, node: &Node, content: &str) -> Block {
        let block = Block::new(Codec::Raw, content.as_bytes().to_vec());
        let mut bytes = car::header(&[*block.cid()]);
        car::section(&mut bytes, block.cid(), block.bytes());
        let file = self.temp.path().join("import.car");
        fs::write(&file, bytes).unwrap();
        let file = file.to_str().unwrap();
        stdout(&mut node.command(&["archive", "import", "--public", file]));
        block
    }
}

/// Seals segments and waits until they are in the node's own archive; returns their CIDs.
fn archive_segments(node: &Node) -> Vec<String> {
    let lives = (0..3).flat_map(|n| (0..100).map(move |i| observation(&format!("db{n}"), i)));
    node.fill(&two_channels("pairs"), lives.collect());
    let cids = node.archive_all("pairs", "db0");
    assert!(cids.len() > 3, "{} segments", cids.len());
    cids
}

fn backend(node: &Node) -> BackendStatus {
    node.client().archive().unwrap().backend
}

/// Waits until nothing waits for the backend any more.
#[track_caller]
fn settled(node: &Node, placed: u64) -> BackendStatus {
    eventually("everything is where it belongs", || {
        let status = backend(node);
        (status.reachable && status.due == 0 && status.placed == placed).then_some(status)
    })
}

fn has(kubo: &Double, cid: &str) -> bool {
    let cid: Cid = cid.parse().unwrap();
    kubo.state(|state| state.blocks.contains_key(&cid.hash().to_bytes()))
}

#[test]
fn a_kubo_gets_what_strangers_may_have_and_no_private_segment() {
    let kubo = Double::start();
    let fixture = Fixture::with_kubo(&kubo, "");
    let node = fixture.start();
    let segments = archive_segments(&node);
    let public = fixture.import_public(&node, "for everybody");
    let status = settled(&node, 1);
    assert_eq!(status.described.unwrap(), format!("kubo/0.41.0 at {}", kubo.url()));
    assert!(has(&kubo, &public.cid().to_string()));
    assert_eq!(kubo.state(|state| state.blocks.len()), 1, "and nothing else");
    assert!(segments.iter().all(|cid| !has(&kubo, cid)));
    let name = kubo.state(|state| state.pins[public.cid()].1.clone());
    let me = node.client().status().unwrap().peer;
    assert_eq!(name, format!("dunlin/{me}/public/{}", public.cid()));
    let text = stdout(&mut node.command(&["archive", "status"]));
    assert!(text.contains("reachable; 1 roots there, 0 due"), "{text}");
    let text = stdout(&mut node.command(&["status"]));
    assert!(text.contains(&format!("kubo/0.41.0 at {}", kubo.url())), "{text}");
}

#[test]
fn all_of_it_goes_to_a_kubo_whose_operator_says_so() {
    let kubo = Double::start();
    let fixture = Fixture::with_kubo(&kubo, "holds = 'all'\n");
    let node = fixture.start();
    let segments = archive_segments(&node);
    settled(&node, segments.len() as u64);
    for cid in &segments {
        let segment = node.client().segment(cid).unwrap();
        for cid in segment.payload.iter().chain([cid]) {
            let parsed: Cid = cid.parse().unwrap();
            let there = kubo.state(|state| state.blocks[&parsed.hash().to_bytes()].clone());
            assert_eq!(there, node.client().block(cid).unwrap());
        }
    }
    node.stop();
    // It is taken back when the operator thinks better of it.
    let url = kubo.url();
    let config = format!("[archive]\nbackend = 'kubo'\n[kubo]\nurl = '{url}'\n");
    fs::write(fixture.dir().join("config.toml"), config).unwrap();
    let node = fixture.start();
    settled(&node, 0);
    assert!(kubo.state(|state| state.pins.is_empty()));
    assert_eq!(node.client().archive().unwrap().archived, segments.len() as u64);
}

#[test]
fn a_kubo_that_is_down_keeps_nobody_waiting_and_gets_everything_later() {
    let kubo = Double::start();
    let fixture = Fixture::with_kubo(&kubo, "holds = 'all'\n");
    let start_again = kubo.stop();
    let node = fixture.start();
    // Ingest, archiving here, and questions go on.
    let segments = archive_segments(&node);
    let status = eventually("the node noticed", || {
        Some(backend(&node))
            .filter(|status| status.problem.as_ref().is_some_and(|text| text.contains("wait")))
    });
    assert!(!status.reachable);
    assert_eq!((status.placed, status.due), (0, segments.len() as u64));
    let text = stdout(&mut node.command(&["archive", "status"]));
    assert!(text.contains("NOT REACHABLE") && text.contains("roots wait: "), "{text}");
    let text = stdout(&mut node.command(&["status"]));
    assert!(text.contains("kubo, which cannot be reached"), "{text}");
    assert_eq!(node.client().segment(&segments[0]).unwrap().cid, segments[0]);
    // What waits survives a crash.
    node.kill();
    let node = fixture.start();
    let kubo = start_again();
    settled(&node, segments.len() as u64);
    assert!(segments.iter().all(|cid| has(&kubo, cid)));
    eventually("the problem is gone", || backend(&node).problem.is_none().then_some(()));
}

#[test]
fn a_block_that_was_damaged_here_comes_back_from_kubo() {
    let kubo = Double::start();
    let fixture = Fixture::with_kubo(&kubo, "");
    let node = fixture.start();
    let content = "a block that will be damaged on the disk ".repeat(8);
    let block = fixture.import_public(&node, &content);
    settled(&node, 1);
    node.stop();
    let path = fixture.dir().join("archive/blocks.redb");
    let bytes = fs::read(&path).unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let at = bytes.windows(content.len()).enumerate().filter(|(_, at)| *at == content.as_bytes());
    let places: Vec<_> = at.map(|(at, _)| at as u64).collect();
    assert!(!places.is_empty(), "the block stands in the file as it is");
    for at in places {
        file.seek(SeekFrom::Start(at + 100)).unwrap();
        file.write_all(b"X").unwrap();
    }
    drop(file);
    let node = fixture.start();
    settled(&node, 1);
    let cid = block.cid().to_string();
    assert_eq!(node.client().block(&cid).unwrap(), block.bytes());
    // It is whole again here, too.
    drop(kubo);
    assert_eq!(node.client().block(&cid).unwrap(), block.bytes());
    assert!(!node.log().contains("damaged on disk, "), "{}", node.log());
}

#[test]
fn a_pinning_service_keeps_what_is_public_and_the_operator_sees_how_far_it_is() {
    let service = service::Double::start();
    let url = service.client(TOKEN, doubles::patient()).to_string();
    let fixture = Fixture::new(&format!("[pinning]\nurl = '{url}'\ntoken_file = 'token'\n"));
    let token = fixture.dir().join("token");
    fs::write(&token, format!("{TOKEN}\n")).unwrap();
    fs::set_permissions(&token, Permissions::from_mode(0o644)).unwrap();
    let refused = complaint(
        dunlin(&["run", "--api", "127.0.0.1:0", "--data-dir"]).arg(fixture.dir()).args(LISTEN),
    );
    assert!(
        refused.contains("others may read the credential") && !refused.contains(TOKEN),
        "{refused}"
    );
    fs::set_permissions(&token, Permissions::from_mode(0o600)).unwrap();
    let node = fixture.start();
    archive_segments(&node);
    let public = fixture.import_public(&node, "for everybody");
    eventually("the service is asked", || (!service.pins().is_empty()).then_some(()));
    let [pin] = &service.pins()[..] else { panic!("{:?}", service.pins()) };
    assert_eq!(pin.cid, public.cid().to_string());
    let me = node.client().status().unwrap().peer;
    assert!(pin.origins.iter().any(|origin| origin.ends_with(&format!("/p2p/{me}"))), "{pin:?}");
    let pinning = |node: &Node| backend(node).pinning.unwrap();
    eventually("it is queued", || (pinning(&node).queued == 1).then_some(()));
    node.kill();
    service.bring_all_to("pinned");
    let node = fixture.start();
    eventually("it is pinned", || (pinning(&node).pinned == 1).then_some(()));
    assert_eq!(service.pins().len(), 1);
    let text = stdout(&mut node.command(&["archive", "status"]));
    assert!(text.contains(&format!("pinning service: {url}; 1 pinned")), "{text}");
    assert!(!node.log().contains(TOKEN));
}
