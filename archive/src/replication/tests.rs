//! A world of keepers under virtual time: honest, lying, vanishing, full; and an origin that is killed.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_wire::{
    Cid,
    block::{Block, Codec},
};
use libp2p_identity::{Keypair, PeerId};

use super::*;

const CHECK: Duration = Duration::from_secs(3_600);
const AWAY: Duration = Duration::from_secs(24 * 3_600);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

fn peer(seed: u8) -> PeerId {
    Keypair::ed25519_from_bytes([seed; 32]).unwrap().public().to_peer_id()
}

fn root(number: u64) -> Cid {
    *Block::new(Codec::DagCbor, number.to_be_bytes().to_vec()).cid()
}

fn config(replicas: usize) -> Config {
    Config { replicas, check_every: CHECK, away_max: AWAY }
}

/// How a keeper answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Fetches for so many questions before it confirms.
    Slow(u8),
    /// Confirms and keeps nothing; asked for a proof, makes one up.
    Liar,
    /// Confirms and keeps nothing, and admits it.
    Dropper,
    Full,
    Denies,
    /// Is connected and answers nothing.
    Silent,
}

#[derive(Debug)]
struct Node {
    manner: Manner,
    fit: Fit,
    is_here: bool,
    holds: BTreeSet<Cid>,
    asked: BTreeMap<Cid, u8>,
}

/// The origin, its disk, and everybody else.
struct World {
    config: Config,
    origin: Replication,
    /// When the origin started, and the time now.
    started: Duration,
    now: Duration,
    disk: BTreeMap<(Cid, PeerId), Placed>,
    wanted: BTreeMap<Cid, bool>,
    nodes: BTreeMap<PeerId, Node>,
    judged: Vec<(PeerId, Conduct)>,
    /// Everything that was done, to compare two runs.
    log: Vec<String>,
    seed: [u8; 32],
    /// How many more actions are done before the origin is killed; nothing: all.
    budget: Option<usize>,
}

impl World {
    fn new(replicas: usize, peers: u8) -> Self {
        let nodes = (1..=peers).map(|seed| {
            let (holds, asked) = (BTreeSet::new(), BTreeMap::new());
            let node = Node { manner: Manner::Honest, fit: Fit::All, is_here: true, holds, asked };
            (peer(seed), node)
        });
        let config = config(replicas);
        let mut world = Self {
            origin: Replication::new(config.clone(), [], [0; 32]),
            config,
            started: Duration::ZERO,
            now: Duration::ZERO,
            disk: BTreeMap::new(),
            wanted: BTreeMap::new(),
            nodes: nodes.collect(),
            judged: Vec::new(),
            log: Vec::new(),
            seed: [0; 32],
            budget: None,
        };
        world.meet();
        world
    }

    fn node(&mut self, seed: u8) -> &mut Node {
        self.nodes.get_mut(&peer(seed)).unwrap()
    }

    fn input(&mut self, input: Input) {
        self.origin.handle(self.now - self.started, input);
        self.act();
    }

    /// Tells the origin who is there.
    fn meet(&mut self) {
        let candidates = self.nodes.iter().map(|(peer, node)| Candidate {
            peer: *peer,
            fit: node.fit,
            is_here: node.is_here,
        });
        let candidates = candidates.collect();
        self.input(Input::Peers(candidates));
    }

    /// Tells the origin all of its objects.
    fn tell(&mut self) {
        self.input(Input::Telling);
        let wanted: Vec<_> = self.wanted.iter().collect();
        let wanted = wanted
            .into_iter()
            .map(|(root, is_public)| Wanted { root: *root, is_public: *is_public });
        let wanted = wanted.collect();
        self.input(Input::Wanted(wanted));
        self.input(Input::Told);
    }

    fn store(&mut self, numbers: std::ops::Range<u64>, is_public: bool) {
        self.wanted.extend(numbers.map(|number| (root(number), is_public)));
        self.tell();
    }

    /// Kills the origin, and starts it again from its disk.
    fn restart(&mut self) {
        self.budget = None;
        self.seed[0] = self.seed[0].wrapping_add(1);
        let records = self.disk.iter().map(|((root, peer), state)| Record {
            root: *root,
            peer: *peer,
            state: Some(*state),
        });
        self.origin = Replication::new(self.config.clone(), records, self.seed);
        self.started = self.now;
        self.meet();
        self.tell();
    }

    /// Does what the origin says, until it says nothing more.
    fn act(&mut self) {
        while let Some(action) = self.origin.next_action() {
            if self.budget == Some(0) {
                continue;
            }
            self.budget = self.budget.map(|left| left - 1);
            self.log.push(format!("{:?} {action:?}", self.now));
            let now = self.now - self.started;
            match action {
                Action::Keep(Record { root, peer, state: Some(state) }) => {
                    self.disk.insert((root, peer), state);
                }
                Action::Keep(Record { root, peer, state: None }) => {
                    self.disk.remove(&(root, peer)).expect("what is removed was kept");
                }
                Action::Ask { request, peer, roots } => {
                    assert!(roots.len() <= ASK_MAX);
                    let answer = self.ask(&peer, &roots);
                    self.origin.handle(now, Input::Asked(request, answer));
                }
                Action::Release { request, peer, roots } => {
                    let node = self.nodes.get_mut(&peer).unwrap();
                    let is_heard = node.is_here && node.manner != Manner::Silent;
                    let answer = if is_heard { Ok(()) } else { Err(Failure::Unanswered) };
                    if is_heard {
                        node.holds.retain(|held| !roots.contains(held));
                    }
                    self.origin.handle(now, Input::Released(request, answer));
                }
                Action::Challenge { request, peer, samples, .. } => {
                    assert!(!samples.is_empty() && samples.len() <= SAMPLES);
                    let answer = self.challenge(&peer, &samples);
                    self.origin.handle(now, Input::Challenged(request, answer));
                }
                Action::Judge { peer, conduct } => self.judged.push((peer, conduct)),
            }
        }
        self.check();
    }

    fn ask(&mut self, peer: &PeerId, roots: &[Cid]) -> Result<Vec<AskOutcome>, Failure> {
        for root in roots {
            let state = self.disk.get(&(*root, *peer));
            assert_eq!(state, Some(&Placed::Asked), "what is asked was written down before");
            let node = &self.nodes[peer];
            assert!(node.fit == Fit::All || self.wanted[root], "private objects stay among us");
        }
        let node = self.nodes.get_mut(peer).unwrap();
        if !node.is_here || node.manner == Manner::Silent {
            return Err(Failure::Unanswered);
        }
        let outcomes = roots.iter().map(|root| {
            let asked = node.asked.entry(*root).or_default();
            *asked += 1;
            match node.manner {
                Manner::Slow(times) if *asked <= times => AskOutcome::Pending,
                Manner::Honest | Manner::Slow(_) => {
                    node.holds.insert(*root);
                    AskOutcome::Held
                }
                Manner::Liar | Manner::Dropper => AskOutcome::Held,
                Manner::Full => AskOutcome::Full,
                Manner::Denies => AskOutcome::Denied,
                Manner::Silent => unreachable!("it does not answer"),
            }
        });
        Ok(outcomes.collect())
    }

    fn challenge(&self, peer: &PeerId, samples: &[Sample]) -> Result<Vec<Verdict>, Failure> {
        let node = &self.nodes[peer];
        if !node.is_here || node.manner == Manner::Silent {
            return Err(Failure::Unanswered);
        }
        let verdicts = samples.iter().map(|sample| match node.manner {
            Manner::Liar => Verdict::Wrong,
            _ if node.holds.contains(&sample.root) => Verdict::Right,
            _ => Verdict::Missing,
        });
        Ok(verdicts.collect())
    }

    /// What must hold after everything.
    fn check(&self) {
        let mut live: BTreeMap<Cid, usize> = BTreeMap::new();
        for ((root, _), state) in &self.disk {
            *live.entry(*root).or_default() += usize::from(*state != Placed::Lost);
        }
        for (root, count) in live {
            assert!(count <= self.config.replicas, "{root}: {count} placements");
        }
        for (peer, node) in &self.nodes {
            for root in &node.holds {
                assert!(self.disk.contains_key(&(*root, *peer)), "a copy was forgotten");
            }
        }
    }

    /// Lets time pass.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = self.origin.next_wake().map(|at| (self.started + at).max(self.now));
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = next;
            self.origin.wake(self.now - self.started);
            self.act();
        }
        self.now = end;
    }

    /// Returns how many objects have how many replicas, as the origin sees it.
    fn objects(&self) -> Vec<u64> {
        self.origin.summary(self.now - self.started).objects
    }

    /// Returns how many copies of each object there really are at peers that are here.
    fn copies(&self) -> Vec<usize> {
        let here = || self.nodes.values().filter(|node| node.is_here);
        let copies = |root: &Cid| here().filter(|node| node.holds.contains(root)).count();
        self.wanted.keys().map(copies).collect()
    }
}

#[test]
fn objects_are_spread_evenly_and_nothing_moves_when_a_peer_joins() {
    let mut world = World::new(2, 5);
    world.store(0..2_000, false);
    world.pass(HOUR);
    assert_eq!(world.objects(), [0, 0, 2_000]);
    for node in world.nodes.values() {
        assert!((650..950).contains(&node.holds.len()), "{}", node.holds.len());
    }
    let before: Vec<_> = world.nodes.values().map(|node| node.holds.clone()).collect();
    let newcomer = Node {
        manner: Manner::Honest,
        fit: Fit::All,
        is_here: true,
        holds: BTreeSet::new(),
        asked: BTreeMap::new(),
    };
    world.nodes.insert(peer(9), newcomer);
    world.meet();
    world.pass(DAY);
    assert!(world.node(9).holds.is_empty());
    world.nodes.remove(&peer(9));
    assert!(world.nodes.values().map(|node| node.holds.clone()).eq(before));
    assert!(world.judged.is_empty());
    let counters = world.origin.counters();
    assert!(counters.challenges > 5 * 20 && counters.proofs_failed == 0, "{counters:?}");
}

#[test]
fn the_same_seed_does_the_same_byte_for_byte() {
    let run = |seed: u8| {
        let mut world = World::new(3, 6);
        world.origin = Replication::new(world.config.clone(), [], [seed; 32]);
        world.meet();
        world.node(2).manner = Manner::Dropper;
        world.node(3).manner = Manner::Slow(3);
        world.store(0..300, false);
        world.pass(DAY);
        world.node(4).is_here = false;
        world.meet();
        world.pass(3 * DAY);
        world.log
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2), "another seed challenges at other times");
}

#[test]
fn who_says_yes_and_keeps_nothing_is_found_out_and_replaced() {
    for (manner, conduct) in [(Manner::Liar, Conduct::WrongProof), (Manner::Dropper, Conduct::Lost)]
    {
        let mut world = World::new(2, 4);
        world.node(1).manner = manner;
        world.store(0..500, false);
        world.pass(4 * HOUR);
        assert_eq!(world.judged.first(), Some(&(peer(1), conduct)));
        assert!(world.judged.iter().all(|(judged, _)| *judged == peer(1)));
        // It is tried again now and then, and believed for less than the part of an hour until it is
        // asked for a proof.
        world.pass(HOUR / 2);
        let copies = world.copies();
        let whole = copies.iter().filter(|count| **count >= 2).count();
        assert!(whole >= 490, "{whole} of 500 are whole");
    }
}

#[test]
fn a_peer_that_lost_its_store_is_found_by_its_next_proof() {
    let mut world = World::new(2, 3);
    world.store(0..400, false);
    world.pass(HOUR);
    assert_eq!(world.objects(), [0, 0, 400]);
    world.node(2).holds.clear();
    world.pass(2 * HOUR);
    assert_eq!(world.judged, [(peer(2), Conduct::Lost)]);
    assert_eq!(world.objects(), [0, 0, 400]);
    assert!(world.copies().iter().all(|count| *count == 2));
}

#[test]
fn a_peer_that_lost_a_tenth_is_found_within_a_day() {
    let mut world = World::new(1, 2);
    world.store(0..1_000, false);
    world.pass(HOUR);
    let lost: Vec<Cid> = world.node(1).holds.iter().step_by(10).copied().collect();
    world.node(1).holds.retain(|held| !lost.contains(held));
    world.pass(DAY);
    assert_eq!(world.judged.first(), Some(&(peer(1), Conduct::Lost)));
}

#[test]
fn who_sleeps_a_night_loses_nothing_and_who_leaves_is_replaced_and_told_when_it_returns() {
    let mut world = World::new(2, 4);
    world.store(0..300, false);
    world.pass(HOUR);
    let before: Vec<_> = world.nodes.values().map(|node| node.holds.clone()).collect();
    world.node(1).is_here = false;
    world.meet();
    world.pass(AWAY / 2);
    world.node(1).is_here = true;
    world.meet();
    world.pass(HOUR);
    assert!(world.nodes.values().map(|node| node.holds.clone()).eq(before));

    world.node(1).is_here = false;
    world.meet();
    world.pass(AWAY + HOUR);
    assert!(world.copies().iter().all(|count| *count == 2), "they were made again elsewhere");
    assert_eq!(world.objects(), [0, 0, 300]);
    assert!(!world.node(1).holds.is_empty(), "nobody could tell it");
    world.node(1).is_here = true;
    world.meet();
    world.pass(HOUR);
    assert!(world.node(1).holds.is_empty(), "now it was told");
    assert!(world.disk.values().all(|state| *state == Placed::Held));
}

#[test]
fn who_returns_before_anybody_took_its_place_is_asked_again() {
    let mut world = World::new(2, 2);
    world.store(0..100, false);
    world.pass(HOUR);
    world.node(1).is_here = false;
    world.meet();
    world.pass(AWAY + HOUR);
    assert_eq!(world.objects(), [0, 100, 0]);
    world.node(1).is_here = true;
    world.meet();
    world.pass(HOUR);
    assert_eq!(world.objects(), [0, 0, 100]);
    assert_eq!(world.node(1).holds.len(), 100);
}

#[test]
fn who_loses_standing_loses_its_replicas_at_once() {
    let mut world = World::new(2, 4);
    world.store(0..200, false);
    world.pass(HOUR);
    world.node(3).fit = Fit::None;
    world.meet();
    world.pass(Duration::from_secs(60));
    assert_eq!(world.objects(), [0, 0, 200]);
    let others = world.nodes.iter().filter(|(id, _)| **id != peer(3));
    let copies: usize = others.map(|(_, node)| node.holds.len()).sum();
    assert_eq!(copies, 400);
    // It is told nothing while it has no standing, and is told when it has.
    assert!(!world.node(3).holds.is_empty());
    world.node(3).fit = Fit::All;
    world.meet();
    world.pass(HOUR);
    assert!(world.node(3).holds.is_empty());
}

#[test]
fn private_objects_go_to_own_peers_alone_and_public_ones_to_whom_is_trusted() {
    // `World::ask` checks every question.
    let mut world = World::new(2, 4);
    for stranger in [2, 3] {
        world.node(stranger).fit = Fit::Public;
    }
    world.node(4).fit = Fit::None;
    world.meet();
    world.store(0..100, false);
    world.store(100..200, true);
    world.pass(HOUR);
    assert_eq!(world.objects(), [0, 100, 100], "one own peer, and three for what is public");
    assert!(world.node(4).holds.is_empty());
    // What is no longer public is taken back from strangers.
    for number in 100..200 {
        world.wanted.insert(root(number), false);
    }
    world.tell();
    world.pass(HOUR);
    assert!(world.node(2).holds.is_empty() && world.node(3).holds.is_empty());
    assert_eq!(world.node(1).holds.len(), 200);
}

#[test]
fn who_is_full_denies_or_is_silent_is_passed_over() {
    let mut world = World::new(1, 4);
    world.node(1).manner = Manner::Full;
    world.node(2).manner = Manner::Denies;
    world.node(3).manner = Manner::Silent;
    world.store(0..200, false);
    world.pass(HOUR);
    assert_eq!(world.objects(), [0, 200]);
    assert_eq!(world.node(4).holds.len(), 200);
    // Room that there is later is used for what comes later.
    world.node(1).manner = Manner::Honest;
    world.node(4).manner = Manner::Full;
    world.pass(2 * HOUR);
    world.store(200..300, false);
    world.pass(2 * HOUR);
    assert_eq!(world.objects(), [0, 300]);
    assert!(world.judged.is_empty(), "to refuse is no offence");
}

#[test]
fn who_fetches_slowly_is_waited_for_and_who_never_ends_is_not() {
    let mut world = World::new(1, 2);
    world.node(1).manner = Manner::Slow(5);
    world.node(2).manner = Manner::Slow(u8::MAX);
    world.store(0..100, false);
    world.pass(Duration::from_secs(40));
    assert_eq!(world.objects()[1], world.node(1).holds.len() as u64);
    world.pass(2 * HOUR);
    assert_eq!(world.objects(), [0, 100]);
    assert_eq!(world.node(1).holds.len(), 100);
}

#[test]
fn a_connected_peer_that_answers_no_challenge_counts_no_more() {
    let mut world = World::new(1, 2);
    world.store(0..100, false);
    world.pass(HOUR);
    world.node(1).manner = Manner::Silent;
    world.pass(3 * HOUR);
    assert_eq!(world.objects(), [0, 100]);
    assert_eq!(world.node(2).holds.len(), 100);
}

#[test]
fn a_crash_at_any_moment_places_nothing_twice_and_forgets_nothing() {
    let mut world = World::new(2, 5);
    world.node(1).manner = Manner::Slow(2);
    world.node(5).manner = Manner::Full;
    world.store(0..300, false);
    // `World::check` looks after every action.
    for step in 0..60 {
        world.pass(Duration::from_millis(250 * step));
        world.restart();
    }
    world.pass(HOUR);
    assert_eq!(world.objects(), [0, 0, 300]);
    assert_eq!(world.nodes.values().map(|node| node.holds.len()).sum::<usize>(), 600);
    // Nothing is asked for again that was confirmed.
    world.log.clear();
    world.restart();
    world.pass(Duration::from_secs(60));
    assert!(!world.log.iter().any(|line| line.contains("Ask")), "{:?}", world.log.first());
}

#[test]
fn a_crash_behind_any_action_is_as_if_it_had_not_been() {
    for actions in 0..120 {
        let mut world = World::new(2, 3);
        world.node(2).manner = Manner::Slow(1);
        world.budget = Some(actions);
        world.store(0..20, false);
        world.pass(Duration::from_secs(10));
        world.restart();
        world.pass(HOUR);
        assert_eq!(world.objects(), [0, 0, 20], "killed behind {actions} actions");
        assert_eq!(world.nodes.values().map(|node| node.holds.len()).sum::<usize>(), 40);
    }
}

#[test]
fn an_ask_that_was_lost_by_the_crash_goes_to_the_same_peer() {
    let mut origin = Replication::new(config(1), [], [0; 32]);
    let candidates: Vec<_> =
        (1..=5).map(|seed| Candidate { peer: peer(seed), fit: Fit::All, is_here: true }).collect();
    origin.handle(Duration::ZERO, Input::Peers(candidates.clone()));
    let wanted = Wanted { root: root(1), is_public: false };
    origin.handle(Duration::ZERO, Input::Wanted(vec![wanted]));
    let Some(Action::Keep(record)) = origin.next_action() else { panic!("it is written first") };
    // The disk has it, and the node was killed before it asked.
    let mut origin = Replication::new(config(1), [record], [1; 32]);
    origin.handle(Duration::ZERO, Input::Peers(candidates));
    origin.handle(Duration::ZERO, Input::Wanted(vec![wanted]));
    let action = origin.next_action();
    let Some(Action::Ask { peer, roots, .. }) = action else { panic!("{action:?}") };
    assert_eq!((peer, roots), (record.peer, vec![record.root]));
}

#[test]
fn fewer_replicas_are_released_and_none_at_all_too() {
    let mut world = World::new(3, 4);
    world.store(0..100, false);
    world.pass(HOUR);
    world.wanted.retain(|root, _| root.hash().digest()[0] < 128);
    let kept = world.wanted.len();
    world.tell();
    world.pass(HOUR);
    assert_eq!(world.nodes.values().map(|node| node.holds.len()).sum::<usize>(), 3 * kept);
    assert_eq!(world.disk.len(), 3 * kept);
    world.wanted.clear();
    world.tell();
    world.pass(HOUR);
    assert_eq!(world.nodes.values().map(|node| node.holds.len()).sum::<usize>(), 0);
    assert!(world.disk.is_empty() && world.origin.objects.is_empty());
}

#[test]
fn an_operator_who_wants_fewer_gets_fewer_after_a_restart() {
    let mut world = World::new(3, 4);
    world.store(0..100, false);
    world.pass(HOUR);
    for replicas in [1, 0] {
        let records = world.disk.iter().map(|((root, peer), state)| Record {
            root: *root,
            peer: *peer,
            state: Some(*state),
        });
        world.origin = Replication::new(config(replicas), records, [3; 32]);
        world.started = world.now;
        // The invariant is that of the old number until all was settled.
        world.meet();
        world.tell();
        world.pass(HOUR);
        assert_eq!(world.nodes.values().map(|n| n.holds.len()).sum::<usize>(), 100 * replicas);
        assert_eq!(world.disk.len(), 100 * replicas);
    }
}

#[test]
fn what_this_node_cannot_read_is_said_and_tried_again_when_all_is_told() {
    let mut origin = Replication::new(config(1), [], [0; 32]);
    let candidates = vec![Candidate { peer: peer(1), fit: Fit::All, is_here: true }];
    origin.handle(Duration::ZERO, Input::Peers(candidates));
    let wanted = vec![Wanted { root: root(1), is_public: false }];
    let tell = |origin: &mut Replication| {
        origin.handle(Duration::ZERO, Input::Telling);
        origin.handle(Duration::ZERO, Input::Wanted(wanted.clone()));
        origin.handle(Duration::ZERO, Input::Told);
    };
    let ask = |origin: &mut Replication| {
        std::iter::from_fn(|| origin.next_action()).find_map(|action| match action {
            Action::Ask { request, .. } => Some(request),
            _ => None,
        })
    };
    tell(&mut origin);
    let request = ask(&mut origin).expect("it is asked for");
    let absent = Input::Asked(request, Ok(vec![AskOutcome::Absent]));
    origin.handle(Duration::ZERO, absent);
    let summary = origin.summary(Duration::ZERO);
    assert_eq!((summary.unfit, summary.objects), (1, vec![0, 0]));
    tell(&mut origin);
    // The release that follows is not answered yet; then it is asked for again.
    while let Some(action) = origin.next_action() {
        if let Action::Release { request, .. } = action {
            origin.handle(Duration::ZERO, Input::Released(request, Ok(())));
        }
    }
    origin.wake(Duration::from_secs(1));
    assert_eq!(origin.summary(Duration::ZERO).unfit, 0);
}

#[test]
fn what_is_open_at_once_is_bounded_however_much_there_is() {
    let mut world = World::new(1, 1);
    world.node(1).manner = Manner::Slow(20);
    world.store(0..20_000, false);
    let asked = world.disk.values().filter(|state| **state == Placed::Asked).count();
    assert!(asked <= OPEN_MAX, "{asked}");
    world.node(1).manner = Manner::Honest;
    world.pass(HOUR);
    assert_eq!(world.objects(), [0, 20_000]);
}
