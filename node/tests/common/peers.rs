//! A network of real processes on loopback: one bootstrap node, and peers that know nobody else.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use dunlin_client::{CollectionSpec, IngestRequest, Observation, Peer, SegmentsQuery};
use tempfile::TempDir;

use super::{Node, dunlin, eventually, stdout};

/// Everybody listens here, on whatever port is free.
const LISTEN: &str = "/ip4/127.0.0.1/tcp/0";

/// A folder for all data, and a bootstrap node.
pub(crate) struct Net {
    pub(crate) name: String,
    pub(crate) temp: TempDir,
    /// The bootstrap node's full address.
    pub(crate) bootstrap: String,
    _process: KillOnDrop,
}

impl Net {
    /// Starts the bootstrap node of a network that no other test has.
    #[track_caller]
    pub(crate) fn start(test: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let name = format!("{test}-{}", std::process::id());
        let dir = temp.path().join("bootstrap");
        init(&dir, &name);
        let command = &["bootstrap", "--one-machine", "--listen", LISTEN, "--data-dir"];
        let process = KillOnDrop::spawn(dunlin(command).arg(&dir));
        let bootstrap = eventually("the bootstrap node listens", || address_in(&dir));
        Self { name, temp, bootstrap, _process: process }
    }

    pub(crate) fn dir(&self, node: &str) -> PathBuf {
        self.temp.path().join(node)
    }

    /// Makes the data folder of a node of this network, and returns its peer id.
    #[track_caller]
    pub(crate) fn init(&self, node: &str) -> String {
        init(&self.dir(node), &self.name)
    }

    /// Starts a node that knows the bootstrap node and its own peers.
    #[track_caller]
    pub(crate) fn node(&self, node: &str, own_peers: &[&str]) -> Node {
        let own = own_peers.iter().flat_map(|peer| ["--own-peer", peer]);
        let flags: Vec<_> = ["--bootstrap", &self.bootstrap].into_iter().chain(own).collect();
        self.node_with(node, &flags)
    }

    /// Starts a node with these flags besides where to listen.
    #[track_caller]
    pub(crate) fn node_with(&self, node: &str, flags: &[&str]) -> Node {
        let base = ["--listen", LISTEN, "--one-machine"];
        Node::start_with(&self.dir(node), &[&base, flags].concat())
    }

    /// Starts a stranger that lies to `victim` about one block; returns its peer id with it.
    #[track_caller]
    pub(crate) fn liar(&self, victim: &str, block: &[u8], cid: &str) -> (String, KillOnDrop) {
        let (dir, file) = (self.dir("liar"), self.dir("block"));
        fs::write(&file, block).unwrap();
        let mut command = dunlin(&["testnet", "liar", "--one-machine", "--listen", LISTEN]);
        command.args(["--network", &self.name, "--bootstrap", &self.bootstrap]);
        command.args(["--victim", victim, "--cid", cid, "--block"]).arg(file);
        let process = KillOnDrop::spawn(command.arg("--data-dir").arg(&dir));
        let address = eventually("the liar listens", || address_in(&dir));
        (address.rsplit_once("/p2p/").unwrap().1.to_owned(), process)
    }
}

/// A process that does not outlive its test.
pub(crate) struct KillOnDrop(Child);

impl KillOnDrop {
    #[track_caller]
    pub(crate) fn spawn(command: &mut std::process::Command) -> Self {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.expect("the program runs"))
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Makes a data folder for a network, without mDNS, and returns the new peer's id. What own peers have comes only when
/// it is fetched, which is what most tests are about; `recovery.rs` turns that on.
#[track_caller]
pub(crate) fn init(dir: &Path, network: &str) -> String {
    let made = stdout(dunlin(&["init", "--json", "--network", network, "--data-dir"]).arg(dir));
    set(dir, "mdns = true", "mdns = false");
    set(dir, "recover = \"summaries\"", "recover = \"off\"");
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    made["peer"].as_str().unwrap().to_owned()
}

/// Changes a line of a node's configuration.
#[track_caller]
pub(crate) fn set(dir: &Path, from: &str, to: &str) {
    let path = dir.join("config.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from} is not in:\n{text}");
    fs::write(&path, text.replace(from, to)).unwrap();
}

/// Returns the address that a process wrote down, once the line is whole.
pub(crate) fn address_in(dir: &Path) -> Option<String> {
    let text = fs::read_to_string(dir.join("network.address")).ok()?;
    text.split_inclusive('\n').find_map(|line| line.strip_suffix('\n')).map(str::to_owned)
}

impl Node {
    /// What this node knows of a peer.
    pub(crate) fn peer(&self, id: &str) -> Option<Peer> {
        self.client().peers().unwrap().peers.into_iter().find(|peer| peer.peer == id)
    }

    pub(crate) fn is_connected_to(&self, id: &str) -> bool {
        self.peer(id).is_some_and(|peer| peer.connected)
    }

    #[track_caller]
    pub(crate) fn wait_for_peer(&self, id: &str) {
        eventually("the peers meet", || self.is_connected_to(id).then_some(()));
    }

    /// Makes a collection and gives it observations.
    #[track_caller]
    pub(crate) fn fill(&self, spec: &CollectionSpec, observations: Vec<Observation>) {
        let client = self.client();
        client.create_collection(spec).unwrap();
        client.ingest(&spec.name, &IngestRequest { observations }).unwrap();
    }

    /// Seals what is open of an entity, waits until all is archived, and returns the CIDs.
    #[track_caller]
    pub(crate) fn archive_all(&self, collection: &str, entity: &str) -> Vec<String> {
        let client = self.client();
        client.seal(collection, entity).unwrap();
        eventually("all segments are archived", || {
            (client.archive().unwrap().due == 0).then_some(())
        });
        let query = SegmentsQuery {
            collection: collection.to_owned(),
            limit: Some(1_000),
            ..Default::default()
        };
        let page = client.segments(&query).unwrap();
        assert!(page.segments.iter().all(|segment| segment.archived));
        page.segments.into_iter().map(|segment| segment.cid).collect()
    }

    /// Returns a metric's value.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let metrics = super::http::metrics(self);
        *metrics.get(name).unwrap_or_else(|| panic!("no metric {name} in {metrics:?}"))
    }
}
