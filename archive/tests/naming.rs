//! Scenarios: when a node says what its name stands for, on a clock of the test's own.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::{Duration, SystemTime};

use dunlin_archive::{
    Archive,
    ipns::{Name, Record, Terms},
    naming::{Action, Config, Input, Naming, Statement},
};
use dunlin_wire::{
    Cid,
    block::{Codec, cid_of},
};
use libp2p_identity::Keypair;

const START_MS: u64 = 1_800_000_000_000;
const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;

fn root(number: u64) -> Cid {
    cid_of(Codec::DagCbor, &number.to_be_bytes())
}

/// A node whose signatures and questions take no time.
struct Node {
    naming: Naming,
    now_ms: u64,
    root: Option<Cid>,
    /// How many peers keep what is put.
    peers: usize,
    can_sign: bool,
    /// What is on disk.
    disk: Option<Statement>,
    signed: Vec<(u64, Statement)>,
    /// When the DHT was told, and of which number.
    puts: Vec<(u64, u64)>,
}

impl Node {
    fn start(disk: Option<Statement>, now_ms: u64) -> Self {
        let mut naming = Naming::new(Config::default(), disk, now_ms);
        naming.handle(now_ms, Input::Met);
        Self {
            naming,
            now_ms,
            root: None,
            peers: 20,
            can_sign: true,
            disk,
            signed: Vec::new(),
            puts: Vec::new(),
        }
    }

    fn new() -> Self {
        Self::start(None, START_MS)
    }

    fn handle(&mut self, input: Input) {
        if let Input::Root(root) = input {
            self.root = root;
        }
        self.naming.handle(self.now_ms, input);
        self.act();
    }

    fn act(&mut self) {
        while let Some(action) = self.naming.next_action() {
            let answer = match action {
                Action::Sign { .. } if !self.can_sign => Input::NotSigned,
                Action::Sign { sequence, eol_ms } => {
                    let root = self.root.unwrap();
                    let statement = Statement { root: Some(root), sequence, eol_ms };
                    self.disk = Some(statement);
                    self.signed.push((self.now_ms, statement));
                    Input::Signed { root }
                }
                Action::Put => {
                    let sequence = self.disk.unwrap().sequence;
                    self.puts.push((self.now_ms, sequence));
                    Input::Put { peers: self.peers }
                }
            };
            self.naming.handle(self.now_ms, answer);
        }
    }

    fn pass(&mut self, ms: u64) {
        let end_ms = self.now_ms + ms;
        while let Some(at_ms) = self.naming.next_wake().filter(|at_ms| *at_ms <= end_ms) {
            self.now_ms = self.now_ms.max(at_ms);
            self.naming.wake(self.now_ms);
            self.act();
        }
        self.now_ms = end_ms;
    }

    fn sequences(&self) -> Vec<u64> {
        self.signed.iter().map(|(_, statement)| statement.sequence).collect()
    }
}

#[test]
fn nothing_public_is_nothing_to_say() {
    let mut node = Node::new();
    node.handle(Input::Root(None));
    node.handle(Input::Now);
    assert_eq!(node.naming.next_wake(), None);
    node.pass(1_000 * HOUR_MS);
    assert!(node.signed.is_empty() && node.puts.is_empty());
}

#[test]
fn a_root_is_published_when_it_has_settled_and_then_rests() {
    let mut node = Node::new();
    node.handle(Input::Root(Some(root(0))));
    assert!(node.naming.standing().is_due);
    node.pass(9 * SECOND_MS);
    assert!(node.signed.is_empty());
    node.pass(SECOND_MS);
    assert_eq!((node.sequences(), node.puts.len()), (vec![1], 1));
    // A busy hour: a new root every second.
    for number in 1..=3600 {
        node.handle(Input::Root(Some(root(number))));
        node.pass(SECOND_MS);
    }
    assert!((5..=7).contains(&node.signed.len()), "{} records", node.signed.len());
    node.pass(HOUR_MS);
    let last = node.signed.last().unwrap().1;
    assert_eq!(last.root, Some(root(3600)), "the last one is never left out");
    assert!(node.sequences().is_sorted_by(|a, b| a < b));
}

#[test]
fn a_root_that_is_back_to_what_was_said_is_not_said_again() {
    let mut node = Node::new();
    node.handle(Input::Root(Some(root(0))));
    node.pass(HOUR_MS);
    node.handle(Input::Root(Some(root(1))));
    node.handle(Input::Root(Some(root(0))));
    node.pass(HOUR_MS);
    assert_eq!(node.signed.len(), 1);
    assert!(!node.naming.standing().is_due);
}

#[test]
fn a_record_is_renewed_at_half_of_its_life_and_told_again_between() {
    let mut node = Node::new();
    node.handle(Input::Root(Some(root(0))));
    node.pass(10 * 24 * HOUR_MS);
    assert_eq!(node.sequences(), (1..=10).collect::<Vec<_>>());
    for pair in node.signed.windows(2) {
        let (at_ms, before) = (pair[1].0, pair[0].1);
        assert_eq!(before.eol_ms - at_ms, 24 * HOUR_MS, "half of it is left");
    }
    let gaps: Vec<_> = node.puts.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(gaps.iter().all(|gap| *gap <= 4 * HOUR_MS), "{gaps:?}");
    assert!(node.puts.len() < 70, "{} times", node.puts.len());
}

#[test]
fn a_restart_keeps_the_sequence_rising() {
    let mut node = Node::new();
    let mut last = 0;
    for life in 0..5 {
        node.handle(Input::Root(Some(root(life))));
        node.pass(MINUTE_MS);
        let sequence = node.disk.unwrap().sequence;
        assert!(sequence > last, "{sequence} after {last}");
        last = sequence;
        node = Node::start(node.disk, node.now_ms + HOUR_MS);
    }
    // Nothing changed: the same record is put again at once, and none is signed.
    node.handle(Input::Root(Some(root(4))));
    assert_eq!((node.signed.len(), node.puts.as_slice()), (0, &[(node.now_ms, last)][..]));
    // It was off for so long that the record has ended.
    let mut node = Node::start(node.disk, node.now_ms + 100 * HOUR_MS);
    node.handle(Input::Root(Some(root(4))));
    assert_eq!(node.sequences(), [last + 1]);
}

#[test]
fn what_is_not_on_disk_is_told_to_nobody_and_tried_again() {
    let mut node = Node::new();
    node.can_sign = false;
    node.handle(Input::Root(Some(root(0))));
    node.pass(HOUR_MS);
    assert!(node.puts.is_empty());
    node.can_sign = true;
    node.pass(MINUTE_MS);
    assert_eq!((node.sequences(), node.puts.len()), (vec![1], 1));
    // A renewal that fails does not spin.
    node.can_sign = false;
    node.pass(24 * HOUR_MS);
    let mut wakes = 0;
    let end_ms = node.now_ms + HOUR_MS;
    while let Some(at_ms) = node.naming.next_wake().filter(|at_ms| *at_ms <= end_ms) {
        node.now_ms = node.now_ms.max(at_ms);
        node.naming.wake(node.now_ms);
        node.act();
        wakes += 1;
    }
    assert!(wakes < 70, "{wakes} times in an hour");
}

#[test]
fn numbers_go_on_behind_what_the_dht_knows() {
    let mut node = Node::new();
    node.peers = 0;
    node.handle(Input::Root(Some(root(0))));
    node.pass(10 * SECOND_MS);
    // A data folder was restored from a copy: before it tells anybody, the node hears of its later record.
    let mut node = Node::start(node.disk, node.now_ms);
    node.naming.handle(node.now_ms, Input::Root(Some(root(0))));
    node.root = Some(root(0));
    assert_eq!(node.naming.next_action(), Some(Action::Put));
    node.handle(Input::Overtaken { sequence: 41 });
    assert_eq!(node.sequences(), [42]);
    assert_eq!(node.puts, [(node.now_ms, 42)]);
}

#[test]
fn what_nobody_keeps_is_put_again_less_and_less_often() {
    let mut node = Node::new();
    node.peers = 0;
    node.handle(Input::Root(Some(root(0))));
    node.pass(12 * HOUR_MS);
    assert!((16..=19).contains(&node.puts.len()), "{} times", node.puts.len());
    assert!(node.naming.standing().failures > 9 && node.naming.standing().put_ms.is_none());
    // Whoever comes makes it try again soon.
    node.peers = 3;
    node.handle(Input::Met);
    node.pass(MINUTE_MS);
    assert_eq!(node.naming.standing().failures, 0);
    assert!(node.naming.standing().put_ms.is_some());
}

#[test]
fn alone_a_record_is_signed_and_waits() {
    let mut node = Node::new();
    node.handle(Input::Alone);
    node.handle(Input::Root(Some(root(0))));
    node.handle(Input::Now);
    node.pass(HOUR_MS);
    assert_eq!((node.signed.len(), node.puts.len()), (1, 0));
    node.handle(Input::Met);
    assert_eq!(node.puts.len(), 1);
}

#[test]
fn the_operator_need_not_wait() {
    let mut node = Node::new();
    node.handle(Input::Root(Some(root(0))));
    node.handle(Input::Now);
    assert_eq!((node.signed.len(), node.puts.len()), (1, 1));
    node.handle(Input::Root(Some(root(1))));
    node.handle(Input::Now);
    assert_eq!((node.signed.len(), node.puts.len()), (2, 2));
    // Nothing changed: the same record is put again.
    node.handle(Input::Now);
    assert_eq!((node.signed.len(), node.puts.len()), (2, 3));
}

#[test]
fn what_is_public_no_more_is_not_said_again() {
    let mut node = Node::new();
    node.handle(Input::Root(Some(root(0))));
    node.pass(MINUTE_MS);
    let (signed, puts) = (node.signed.len(), node.puts.len());
    node.handle(Input::Root(None));
    node.pass(1_000 * HOUR_MS);
    assert_eq!((node.signed.len(), node.puts.len()), (signed, puts));
}

#[test]
fn a_clock_that_was_ahead_does_not_silence_the_node() {
    let mut node = Node::new();
    node.now_ms += 1_000 * HOUR_MS;
    node.handle(Input::Root(Some(root(0))));
    node.pass(MINUTE_MS);
    node.now_ms = START_MS;
    node.naming.wake(node.now_ms);
    node.handle(Input::Root(Some(root(1))));
    node.pass(HOUR_MS);
    assert_eq!(node.sequences(), [1, 2]);
    assert!(node.puts.last().unwrap().0 <= START_MS + HOUR_MS);
}

#[test]
fn the_newest_record_survives_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blocks.redb");
    let open = || Archive::open(&path, dunlin_archive::Config::default()).unwrap();
    assert_eq!(open().name_record().unwrap(), None);
    let key = Keypair::generate_ed25519();
    for sequence in [1, 2] {
        let terms = Terms {
            value: format!("/ipfs/{}", root(sequence)),
            sequence,
            eol: SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000),
            ttl: Duration::from_secs(60),
        };
        open().keep_name_record(Record::sign(&key, &terms).unwrap().bytes()).unwrap();
    }
    let name = Name::of(&key.public().to_peer_id()).unwrap();
    let kept = Record::read(&name, &open().name_record().unwrap().unwrap()).unwrap();
    assert_eq!((kept.sequence(), kept.cid()), (2, Some(root(2))));
}
