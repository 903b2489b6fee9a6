//! Names: what a node publishes, who resolves it, and what is never told to anybody.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{collections::BTreeSet, io::Read};

use common::{
    Node, complaint, eventually, observation,
    peers::{Net, set},
    stdout, two_channels,
};
use dunlin_archive::{catalog, roots::Roots};
use dunlin_client::{ProvideRequest, PublishedName};
use dunlin_protocols::{Config, Event, Handle, Keypair, Multiaddr, Network, PeerId};
use dunlin_trust::Trust;
use dunlin_wire::{
    Cid,
    block::{Block, Codec},
    cbor,
};
use tokio::runtime::Runtime;

/// A peer of the DHT in this process, whose store can be read.
struct Hub {
    runtime: Runtime,
    handle: Handle,
    address: Multiaddr,
    _network: Network,
}

impl Hub {
    fn start(net: &Net) -> Self {
        let runtime = Runtime::new().unwrap();
        let mut config = Config::new(net.name.parse().unwrap());
        config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        (config.mdns, config.one_machine) = (false, true);
        let trust = Trust::new(dunlin_trust::Config::default(), Vec::new());
        let (handle, address, network) = runtime.block_on(async {
            let started = Network::start(config, Keypair::generate_ed25519(), trust).await;
            let (handle, mut events, network) = started.unwrap();
            let address = loop {
                if let Some(Event::Listening(address)) = events.recv().await {
                    break address;
                }
            };
            tokio::spawn(async move { while events.recv().await.is_some() {} });
            (handle, address, network)
        });
        Self { runtime, handle, address, _network: network }
    }

    /// Starts a node that knows the hub alone.
    fn node(&self, net: &Net, name: &str) -> Node {
        net.node_with(name, &["--bootstrap", &self.address.to_string()])
    }

    /// Whether a peer has said that it provides something.
    fn knows(&self, peer: &str) -> bool {
        let records = self.runtime.block_on(self.handle.records());
        records.providers.iter().any(|(_, provider)| provider.to_string() == peer)
    }

    /// The keys that others say to provide, and the names of which it keeps a record.
    fn records(&self) -> (BTreeSet<Vec<u8>>, BTreeSet<String>) {
        let me = self.handle.local_peer();
        let records = self.runtime.block_on(self.handle.records());
        let of_others = |(key, provider): (Vec<u8>, PeerId)| (provider != me).then_some(key);
        let names = records.names.iter().map(ToString::to_string).collect();
        (records.providers.into_iter().filter_map(of_others).collect(), names)
    }
}

/// A CAR file of a root that links to a leaf, as another program would write it.
fn car(number: u64) -> (Vec<u8>, Block, Block) {
    let leaf = Block::new(Codec::Raw, format!("leaf {number}").into_bytes());
    let root = Block::new(Codec::DagCbor, cbor::encode(&[*leaf.cid()]).unwrap());
    #[derive(serde::Serialize)]
    struct Header {
        roots: Vec<Cid>,
        version: u8,
    }
    let header = cbor::encode(&Header { roots: vec![*root.cid()], version: 1 }).unwrap();
    let section = |parts: &[&[u8]]| {
        let bytes = parts.concat();
        assert!(bytes.len() < 128, "its length is one byte");
        [&[bytes.len() as u8][..], &bytes].concat()
    };
    let blocks = [&root, &leaf].map(|block| section(&[&block.cid().to_bytes(), block.bytes()]));
    let bytes = [section(&[&header]), blocks.concat()].concat();
    (bytes, root, leaf)
}

/// Fetches a block as a stranger does: from the node's public gateway.
fn from_gateway(dir: &std::path::Path, cid: &Cid) -> Option<Vec<u8>> {
    let address = std::fs::read_to_string(dir.join("gateway.address")).unwrap();
    let url = format!("http://{}/ipfs/{cid}?format=raw", address.trim());
    let mut bytes = Vec::new();
    let mut answer = ureq::get(&url).call().ok()?;
    answer.body_mut().as_reader().read_to_end(&mut bytes).unwrap();
    Block::verified(*cid, bytes).ok().map(Block::into_bytes)
}

/// Publishes until peers took it: a node that has just started may have to meet them first.
#[track_caller]
fn publish(node: &Node) -> PublishedName {
    eventually("the DHT takes the record", || {
        node.client().publish_name().ok().filter(|published| published.peers > 0)
    })
}

#[test]
fn a_third_node_resolves_the_name_and_fetches_what_it_stands_for() {
    let net = Net::start("names");
    let hub = Hub::start(&net);
    net.init("publisher");
    net.init("third");
    let address = hub.address.to_string();
    let gateway = ["--bootstrap", &address, "--gateway", "127.0.0.1:0"];
    let publisher = net.node_with("publisher", &gateway);
    let third = hub.node(&net, "third");

    // What is private, first: nothing of it may ever be heard of.
    publisher.fill(&two_channels("pairs"), (0..400).map(|i| observation("web", i)).collect());
    let private = publisher.archive_all("pairs", "web");
    let refusal = publisher.client().publish_name().unwrap_err();
    assert!(refusal.is_refusal("nothing_public"), "{refusal}");
    let provide = ProvideRequest { cids: vec![private[0].clone()] };
    let refusal = publisher.client().provide(&provide).unwrap_err();
    assert!(refusal.is_refusal("private"), "{refusal}");

    let (file, root, leaf) = car(1);
    publisher.client().import(&mut file.as_slice(), true).unwrap();
    let published = publish(&publisher);
    assert_eq!(published.sequence, 1);
    let resolved = eventually("the third node resolves the name", || {
        third.client().resolve(&published.name).ok()
    });
    assert_eq!((resolved.sequence, &resolved.root), (1, &published.root));
    assert_eq!(resolved.peer, publisher.client().status().unwrap().peer);

    // From the name to a public block.
    let of_name: Cid = resolved.root.unwrap().parse().unwrap();
    let list = from_gateway(&net.dir("publisher"), &of_name).expect("the root is public");
    let roots = Roots::decode(&list).unwrap();
    assert_eq!((roots.graphs, roots.catalogs.len()), (vec![*root.cid()], 0));
    for block in [&root, &leaf] {
        let bytes = from_gateway(&net.dir("publisher"), block.cid());
        assert_eq!(bytes.as_deref(), Some(block.bytes()));
    }

    // What the peer of the DHT was told: roots, and nothing that is private.
    let (keys, names) = eventually("the DHT is told of both roots", || {
        let (keys, names) = hub.records();
        let roots = [&of_name, root.cid()].map(|cid| cid.hash().to_bytes());
        roots.iter().all(|root| keys.contains(root)).then_some((keys, names))
    });
    assert_eq!(names, [published.name.clone()].into());
    assert!(!keys.contains(&leaf.cid().hash().to_bytes()), "a leaf is told of");
    let status = publisher.client().archive().unwrap();
    let catalogs = status.catalogs.iter().map(|catalog| &catalog.root);
    let own_root = status.root.as_ref().expect("something is archived");
    let secrets: Vec<&String> = private.iter().chain(catalogs).chain([own_root]).collect();
    assert!(secrets.len() > 5);
    for secret in secrets {
        let cid: Cid = secret.parse().unwrap();
        assert!(!keys.contains(&cid.hash().to_bytes()), "{cid} is private");
        assert_eq!(from_gateway(&net.dir("publisher"), &cid), None);
    }
    eventually("the schedule says so", || {
        let providing = publisher.client().archive().unwrap().providing;
        (providing.provided == 2 && providing.due + providing.failed == 0).then_some(())
    });
    assert_eq!(publisher.metric("dunlin_archive_roots_provided"), 2.0);

    // The root over what is private names all of it, for those who may have it.
    let own_root: Cid = own_root.parse().unwrap();
    let block = |cid: &Cid| publisher.client().block(&cid.to_string()).ok();
    let listed = Roots::decode(&block(&own_root).unwrap()).unwrap().catalogs;
    assert_eq!((listed.len(), listed[0].0.as_str()), (1, "pairs"));
    let mut named = BTreeSet::new();
    let of_pairs = catalog::Root { cid: listed[0].1, count: listed[0].2 };
    let get = |cid: &Cid| Ok::<_, std::convert::Infallible>(block(cid));
    catalog::entries(get, &of_pairs, (i64::MIN, i64::MAX), |entry| {
        named.insert(entry.cid().to_string());
    })
    .unwrap();
    assert_eq!(named, private.into_iter().collect());
}

#[test]
fn numbers_rise_over_restarts_and_restored_copies() {
    let net = Net::start("numbers");
    let hub = Hub::start(&net);
    net.init("publisher");
    net.init("third");
    let third = hub.node(&net, "third");
    let resolves_to = |name: &str, sequence: u64| {
        eventually("the newest record is found", || {
            let found = third.client().resolve(name).ok()?;
            (found.sequence >= sequence).then_some(found)
        })
    };
    let mut publisher = hub.node(&net, "publisher");
    let mut last = 0;
    let copy = net.temp.path().join("copy.redb");
    let store = net.dir("publisher").join("archive/blocks.redb");
    for life in 0..3 {
        let (file, ..) = car(life);
        publisher.client().import(&mut file.as_slice(), true).unwrap();
        let published = publish(&publisher);
        assert!(published.sequence > last, "{} after {last}", published.sequence);
        last = published.sequence;
        assert_eq!(resolves_to(&published.name, last).root, published.root);
        publisher.kill();
        if life == 0 {
            std::fs::copy(&store, &copy).unwrap();
        }
        publisher = hub.node(&net, "publisher");
    }
    // What was published is known after a restart, and so is what the DHT was told.
    let status = publisher.client().archive().unwrap();
    assert_eq!(status.published.as_ref().map(|published| published.sequence), Some(last));
    publisher.stop();

    // The archive comes from an old copy: the DHT knows better which number is next.
    std::fs::copy(&copy, &store).unwrap();
    let publisher = hub.node(&net, "publisher");
    let (file, ..) = car(9);
    publisher.client().import(&mut file.as_slice(), true).unwrap();
    let name = status.published.unwrap().name;
    let again = eventually("the number goes on behind the newest", || {
        let published = publisher.client().publish_name().ok()?;
        (published.sequence > last && published.peers > 0).then_some(published)
    });
    assert_eq!(resolves_to(&name, again.sequence).root, again.root);
}

#[test]
fn a_node_without_anything_public_says_nothing_and_one_that_may_not_neither() {
    let net = Net::start("silent");
    let hub = Hub::start(&net);
    let [silent_id, off_id] = ["silent", "off"].map(|name| net.init(name));
    set(&net.dir("off"), "publish = true", "publish = false");
    let silent = hub.node(&net, "silent");
    let off = hub.node(&net, "off");
    for node in [&silent, &off] {
        node.fill(&two_channels("pairs"), (0..400).map(|i| observation("web", i)).collect());
        node.archive_all("pairs", "web");
    }
    let (file, root, leaf) = car(1);
    off.client().import(&mut file.as_slice(), true).unwrap();
    let refusal = off.client().publish_name().unwrap_err();
    assert!(refusal.is_refusal("publishing_off"), "{refusal}");
    assert!(
        complaint(&mut silent.command(&["archive", "publish"])).contains("nothing here is public")
    );
    // Each announces itself, and that is all.
    let (keys, names) = eventually("both have announced themselves", || {
        [&silent_id, &off_id].iter().all(|id| hub.knows(id)).then(|| hub.records())
    });
    assert_eq!(names, BTreeSet::new());
    assert_eq!(keys.len(), 1, "the rendezvous of the network: {keys:?}");
    for node in [&silent, &off] {
        let status = node.client().archive().unwrap();
        assert_eq!(status.providing, dunlin_client::Providing::default());
        assert_eq!(status.published, None);
    }

    // What the operator names is told all the same, now and after a restart.
    let provide = ProvideRequest { cids: vec![leaf.cid().to_string()] };
    off.client().provide(&provide).unwrap();
    eventually("the DHT is told", || {
        hub.records().0.contains(&leaf.cid().hash().to_bytes()).then_some(())
    });
    off.stop();
    let off = hub.node(&net, "off");
    let providing = off.client().archive().unwrap().providing;
    assert_eq!((providing.provided + providing.due, providing.failed), (1, 0));
    assert!(!hub.records().0.contains(&root.cid().hash().to_bytes()));
}

#[test]
fn the_command_line_publishes_and_resolves() {
    let net = Net::start("lines");
    let hub = Hub::start(&net);
    net.init("publisher");
    net.init("third");
    let publisher = hub.node(&net, "publisher");
    let third = hub.node(&net, "third");
    let (file, ..) = car(1);
    publisher.client().import(&mut file.as_slice(), true).unwrap();
    let published = publish(&publisher);
    let line = stdout(&mut publisher.command(&["archive", "publish"]));
    let root = published.root.unwrap();
    assert!(line.contains(&format!("/ipns/{} stands for {root}", published.name)), "{line}");
    let resolved = eventually("the name is resolved", || {
        third.client().resolve(&published.name).ok()?;
        Some(stdout(&mut third.command(&["archive", "resolve", &published.name])))
    });
    assert!(resolved.starts_with(&format!("/ipfs/{root} (number 1, ")), "{resolved}");
    eventually("the DHT is told of both roots", || {
        (publisher.client().archive().unwrap().providing.provided == 2).then_some(())
    });
    let status = stdout(&mut publisher.command(&["archive", "status"]));
    assert!(status.contains("on the DHT 2 provided, 0 due, 0 failed"), "{status}");
    let refused = complaint(&mut third.command(&["archive", "resolve", "nonsense"]));
    assert!(refused.contains("it is no name"), "{refused}");
    let me = third.client().status().unwrap().peer;
    let unknown = complaint(&mut third.command(&["archive", "resolve", &me]));
    assert!(unknown.contains("nobody on the DHT"), "{unknown}");
}
