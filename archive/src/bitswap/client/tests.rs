//! Fetches with peers that answer, that do not, that lie, that go and that come back.

use dunlin_wire::block::Codec;
use libp2p_identity::Keypair;

use super::*;

fn peer(seed: u8) -> PeerId {
    Keypair::ed25519_from_bytes([seed + 1; 32]).unwrap().public().to_peer_id()
}

fn block(number: u32) -> Block {
    Block::new(Codec::Raw, number.to_be_bytes().to_vec())
}

fn cids(count: u32) -> Vec<Cid> {
    (0..count).map(|number| *block(number).cid()).collect()
}

/// A peer of the tests' network.
#[derive(Clone, Debug, Default)]
struct Stranger {
    /// The numbers of the blocks it has.
    has: BTreeSet<u32>,
    is_there: bool,
    /// Whether it answers at all.
    is_mute: bool,
    /// Whether it sends other bytes than it is asked for.
    is_liar: bool,
    wantlist: BTreeMap<Cid, Ask>,
    blocks_sent: usize,
    messages: usize,
}

impl Stranger {
    fn with(has: impl IntoIterator<Item = u32>) -> Self {
        Self { has: has.into_iter().collect(), is_there: true, ..Self::default() }
    }
}

/// The client and its peers under one clock.
struct World {
    client: Client,
    now: Instant,
    peers: BTreeMap<PeerId, Stranger>,
    delivered: BTreeMap<FetchId, Vec<(PeerId, Block)>>,
    settled: BTreeSet<FetchId>,
    searches: Vec<Cid>,
    reports: Vec<(PeerId, Conduct)>,
    /// Whether the caller takes what is delivered.
    takes: bool,
}

impl World {
    fn new(peers: impl IntoIterator<Item = Stranger>) -> Self {
        Self {
            client: Client::default(),
            now: Instant::default(),
            peers: (0..).map(peer).zip(peers).collect(),
            delivered: BTreeMap::new(),
            settled: BTreeSet::new(),
            searches: Vec::new(),
            reports: Vec::new(),
            takes: true,
        }
    }

    fn stranger(&mut self, number: u8) -> &mut Stranger {
        self.peers.get_mut(&peer(number)).unwrap()
    }

    fn fetch(&mut self, count: u32, candidates: &[u8]) -> FetchId {
        let candidates: Vec<_> = candidates.iter().map(|number| peer(*number)).collect();
        self.client.fetch(self.now, &cids(count), &candidates, Search::Never).unwrap()
    }

    /// Performs all actions until there are none.
    fn settle(&mut self) {
        while let Some(action) = self.client.next_action() {
            match action {
                Action::Connect(peer) => match self.peers.get(&peer) {
                    Some(stranger) if stranger.is_there => self.client.on_connected(self.now, peer),
                    _ => self.client.on_unreachable(self.now, &peer),
                },
                Action::Send { peer, wants, is_full } => {
                    self.client.on_sent(&peer);
                    self.receive(peer, wants, is_full);
                }
                Action::Deliver { fetch, from, blocks } => {
                    let count = blocks.len();
                    let blocks = blocks.into_iter().map(|block| (from, block));
                    self.delivered.entry(fetch).or_default().extend(blocks);
                    if self.takes {
                        self.client.on_taken(self.now, fetch, count);
                    }
                }
                Action::Search { cid, .. } => self.searches.push(cid),
                Action::Settled { fetch, .. } => drop(self.settled.insert(fetch)),
                Action::Report { peer, conduct } => self.reports.push((peer, conduct)),
            }
        }
    }

    /// A stranger gets a message and answers it.
    fn receive(&mut self, id: PeerId, wants: Vec<Want>, is_full: bool) {
        let Some(stranger) = self.peers.get_mut(&id).filter(|stranger| stranger.is_there) else {
            return;
        };
        stranger.messages += 1;
        if is_full {
            stranger.wantlist.clear();
        }
        let (mut blocks, mut presences) = (Vec::new(), Vec::new());
        for Want { cid, ask, .. } in wants {
            if ask == Ask::Cancel {
                stranger.wantlist.remove(&cid);
                continue;
            }
            stranger.wantlist.insert(cid, ask);
            if stranger.is_mute {
                continue;
            }
            let here = stranger.has.iter().map(|number| block(*number)).find(|b| *b.cid() == cid);
            match here {
                _ if stranger.is_liar => blocks.push(Named::Block(block(u32::MAX))),
                Some(block) if ask == Ask::Block => blocks.push(Named::Block(block)),
                here => presences.push(Presence { cid, is_here: here.is_some() }),
            }
        }
        stranger.blocks_sent += blocks.len();
        if !blocks.is_empty() || !presences.is_empty() {
            self.client.on_message(self.now, id, blocks, &presences);
        }
    }

    /// Lets time pass, with every deadline on the way.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(wake) = self.client.next_wake().filter(|wake| *wake <= end) {
            self.now = self.now.max(wake);
            self.client.wake(self.now);
            self.settle();
        }
        self.now = end;
    }

    fn got(&self, fetch: FetchId) -> usize {
        self.delivered.get(&fetch).map_or(0, Vec::len)
    }

    fn outcomes(&mut self, fetch: FetchId) -> Vec<Outcome> {
        let outcomes = self.client.finish(self.now, fetch);
        self.settle();
        outcomes
    }
}

fn misconduct(world: &World) -> Vec<(PeerId, Conduct)> {
    let is_bad = |conduct: &Conduct| !matches!(conduct, Conduct::Served { .. });
    world.reports.iter().filter(|(_, conduct)| is_bad(conduct)).copied().collect()
}

#[test]
fn everything_comes_from_one_peer_in_few_messages() {
    let mut world = World::new([Stranger::with(0..200)]);
    let fetch = world.fetch(200, &[0]);
    world.settle();
    assert_eq!(world.got(fetch), 200);
    assert!(world.settled.contains(&fetch));
    assert!(world.stranger(0).messages <= 200 / 16 + 1, "{}", world.stranger(0).messages);
    assert!(world.stranger(0).wantlist.values().all(|ask| *ask == Ask::Block));
    let outcomes = world.outcomes(fetch);
    let order: Vec<_> = outcomes.iter().map(|outcome| outcome.cid).collect();
    assert_eq!(order, cids(200));
    assert!(outcomes.iter().all(|outcome| outcome.is_found && outcome.attempts.len() == 1));
    assert_eq!(misconduct(&world), []);
}

#[test]
fn work_is_spread_and_what_one_lacks_another_gives() {
    let halves = [Stranger::with((0..100).filter(|n| n % 2 == 0)), Stranger::with(0..100)];
    let mut world = World::new(halves);
    let fetch = world.fetch(100, &[0, 1]);
    world.settle();
    assert_eq!(world.got(fetch), 100);
    assert!(world.stranger(0).blocks_sent >= 16 && world.stranger(1).blocks_sent >= 50);
    // Nothing was sent twice.
    let sent: usize = world.peers.values().map(|stranger| stranger.blocks_sent).sum();
    assert_eq!(sent, 100);
}

#[test]
fn the_root_is_asked_for_everywhere_and_its_holder_preferred() {
    let peers = [Stranger::with([]), Stranger::with([]), Stranger::with(0..40)];
    let mut world = World::new(peers);
    let fetch = world.fetch(1, &[0, 1, 2]);
    world.settle();
    assert_eq!(world.got(fetch), 1);
    let asked_first: usize = world.stranger(1).messages;
    world.client.want(world.now, fetch, &cids(40)).unwrap();
    world.settle();
    assert_eq!(world.got(fetch), 40);
    assert!(world.stranger(1).messages <= asked_first + 2);
}

#[test]
fn a_peer_that_stalls_is_passed_over_in_time() {
    let mut world = World::new([Stranger::with(0..64), Stranger::with(0..64)]);
    world.stranger(0).is_mute = true;
    let fetch = world.fetch(64, &[0, 1]);
    world.settle();
    assert!(world.got(fetch) < 64);
    world.pass(STALL);
    assert_eq!(world.got(fetch), 64);
    assert_eq!(misconduct(&world), [(peer(0), Conduct::Stalled)]);
    // It is told that nothing is wanted any more.
    assert!(world.stranger(0).wantlist.is_empty());
    let outcomes = world.outcomes(fetch);
    let first: Vec<_> = outcomes[0].attempts.iter().map(|attempt| attempt.outcome).collect();
    assert_eq!(first, [AttemptOutcome::Failed, AttemptOutcome::Verified]);
}

#[test]
fn a_slow_peer_that_gives_something_is_waited_for() {
    let mut world = World::new([Stranger::with([])]);
    world.stranger(0).is_mute = true;
    let fetch = world.fetch(8, &[0]);
    world.settle();
    for number in 0..8 {
        world.pass(STALL - Duration::from_secs(1));
        let block = vec![Named::Block(block(number))];
        world.client.on_message(world.now, peer(0), block, &[]);
        world.settle();
    }
    assert_eq!(world.got(fetch), 8);
    assert_eq!(misconduct(&world), []);
}

#[test]
fn a_liar_is_found_out_at_once_and_nothing_of_it_is_delivered() {
    let mut world = World::new([Stranger::with([]), Stranger::with(0..64)]);
    world.stranger(0).is_liar = true;
    let fetch = world.fetch(64, &[0, 1]);
    world.settle();
    assert_eq!(world.got(fetch), 64);
    assert!(world.delivered[&fetch].iter().all(|(from, _)| *from == peer(1)));
    assert_eq!(misconduct(&world), [(peer(0), Conduct::Unasked)]);
    let outcomes = world.outcomes(fetch);
    assert_eq!(outcomes[0].attempts[0].outcome, AttemptOutcome::Wrong);
}

#[test]
fn a_block_that_nobody_asked_for_is_reported_and_dropped() {
    let mut world = World::new([Stranger::with([])]);
    for named in [Named::Block(block(7)), Named::Foreign] {
        world.client.on_message(world.now, peer(0), vec![named], &[]);
    }
    world.settle();
    assert_eq!(world.reports, [(peer(0), Conduct::Unasked); 2]);
    assert!(world.delivered.is_empty());
}

#[test]
fn a_block_that_comes_late_or_twice_is_no_misconduct() {
    let mut world = World::new([Stranger::with([]), Stranger::with(0..4)]);
    world.stranger(0).is_mute = true;
    let fetch = world.fetch(4, &[0, 1]);
    world.settle();
    world.pass(STALL);
    assert_eq!(world.got(fetch), 4);
    let before = misconduct(&world);
    for from in [0, 1] {
        let again = (0..4).map(|number| Named::Block(block(number))).collect();
        world.client.on_message(world.now, peer(from), again, &[]);
    }
    world.settle();
    assert_eq!(misconduct(&world), before);
    assert_eq!(world.got(fetch), 4);
}

#[test]
fn bytes_without_a_prefix_are_what_was_asked_for() {
    let object = Block::new(Codec::DagCbor, vec![0xa0]);
    let mut world = World::new([Stranger::with([])]);
    world.stranger(0).is_mute = true;
    let fetch = world.client.fetch(world.now, &[*object.cid()], &[peer(0)], Search::Never).unwrap();
    world.settle();
    let raw = Block::new(Codec::Raw, vec![0xa0]);
    let bare = Named::Either { raw, dag_cbor: object.clone() };
    world.client.on_message(world.now, peer(0), vec![bare], &[]);
    world.settle();
    assert_eq!(world.delivered[&fetch], [(peer(0), object)]);
}

#[test]
fn a_fetch_goes_on_when_its_only_peer_restarts() {
    let mut world = World::new([Stranger::with(0..100)]);
    world.takes = false;
    let fetch = world.fetch(100, &[0]);
    world.settle();
    let before = world.got(fetch);
    assert!(before < 100);
    world.stranger(0).is_there = false;
    world.client.on_disconnected(world.now, &peer(0));
    world.takes = true;
    world.client.on_taken(world.now, fetch, before);
    world.settle();
    world.pass(Duration::from_secs(3));
    assert_eq!(world.got(fetch), before);
    world.stranger(0).is_there = true;
    world.pass(Duration::from_secs(10));
    assert_eq!(world.got(fetch), 100);
    assert_eq!(misconduct(&world), []);
}

#[test]
fn a_fetch_from_nobody_settles() {
    let mut world = World::new([Stranger::default()]);
    for candidates in [&[][..], &[0], &[9]] {
        let fetch = world.fetch(3, candidates);
        world.settle();
        assert!(world.settled.contains(&fetch), "{candidates:?}");
        assert!(world.outcomes(fetch).iter().all(|outcome| !outcome.is_found));
    }
    // A peer that goes for good is waited for, and then no longer.
    let mut world = World::new([Stranger::with([])]);
    world.stranger(0).is_mute = true;
    let fetch = world.fetch(3, &[0]);
    world.settle();
    world.stranger(0).is_there = false;
    world.client.on_disconnected(world.now, &peer(0));
    world.settle();
    assert!(!world.settled.contains(&fetch));
    world.pass(Duration::from_secs(30));
    assert!(world.settled.contains(&fetch));
    assert_eq!(world.client.next_wake(), None);
}

#[test]
fn providers_are_searched_for_once_when_nobody_else_is_left() {
    let mut world = World::new([Stranger::with([]), Stranger::with(0..10)]);
    let wanted = cids(10);
    let fetch = world.client.fetch(world.now, &wanted, &[peer(0)], Search::Once).unwrap();
    world.settle();
    assert_eq!(world.searches, wanted[..1]);
    assert!(!world.settled.contains(&fetch));
    world.client.on_providers(world.now, fetch, &[peer(0)]);
    world.settle();
    assert!(!world.settled.contains(&fetch), "there may be more");
    world.client.on_providers(world.now, fetch, &[peer(1)]);
    world.client.on_search_done(world.now, fetch);
    world.settle();
    assert_eq!((world.got(fetch), world.searches.len()), (10, 1));
    assert!(world.settled.contains(&fetch));
}

#[test]
fn a_caller_that_does_not_take_gets_no_more_than_its_room() {
    let mut world = World::new([Stranger::with(0..200), Stranger::with(0..200)]);
    world.takes = false;
    let fetch = world.fetch(200, &[0, 1]);
    world.settle();
    assert_eq!(world.got(fetch), 64);
    world.takes = true;
    world.client.on_taken(world.now, fetch, 64);
    world.settle();
    assert_eq!(world.got(fetch), 200);
}

#[test]
fn two_fetches_of_the_same_block_get_it_once_each() {
    let mut world = World::new([Stranger::with([])]);
    world.stranger(0).is_mute = true;
    let (one, other) = (world.fetch(3, &[0]), world.fetch(3, &[0]));
    world.settle();
    let blocks = (0..3).map(|number| Named::Block(block(number))).collect();
    world.client.on_message(world.now, peer(0), blocks, &[]);
    world.settle();
    assert_eq!((world.got(one), world.got(other)), (3, 3));
    assert!(world.settled.is_superset(&[one, other].into()));
}

#[test]
fn a_fetch_that_is_given_up_takes_its_wants_back() {
    let mut world = World::new([Stranger::with([])]);
    world.stranger(0).is_mute = true;
    let fetch = world.fetch(20, &[0]);
    world.settle();
    assert_eq!(world.stranger(0).wantlist.len(), 20);
    world.outcomes(fetch);
    assert!(world.stranger(0).wantlist.is_empty());
    assert!(world.client.wanted.is_empty() && world.client.fetches.is_empty());
    assert_eq!(world.client.next_wake(), None);
}

#[test]
fn many_candidates_that_have_nothing_hide_no_one() {
    let mut peers = vec![Stranger::with([]); 20];
    peers.push(Stranger::with(0..5));
    let mut world = World::new(peers);
    let fetch = world.fetch(5, &(0..21).collect::<Vec<_>>());
    world.settle();
    assert_eq!(world.got(fetch), 5);
}

#[test]
fn limits_are_kept() {
    let mut world = World::new([]);
    let many = cids(WANTS_PER_FETCH_MAX as u32 + 1);
    let refused = world.client.fetch(world.now, &many, &[], Search::Never);
    assert_eq!(refused, Err(Refusal::TooManyWants));
    let fetch = world.fetch(1, &[]);
    assert_eq!(world.client.want(world.now, fetch, &many), Err(Refusal::TooManyWants));
    for _ in 1..FETCHES_MAX {
        world.fetch(1, &[]);
    }
    let refused = world.client.fetch(world.now, &cids(1), &[], Search::Never);
    assert_eq!(refused, Err(Refusal::TooManyFetches));
}

/// The same facts in the same order lead to the same actions.
#[test]
fn it_depends_on_nothing_but_its_input() {
    let run = || {
        let mut world = World::new([Stranger::with(0..50), Stranger::with(20..90)]);
        world.stranger(1).is_mute = true;
        let fetch = world.fetch(90, &[1, 0]);
        world.settle();
        world.pass(STALL * 2);
        (world.delivered.remove(&fetch), world.reports)
    };
    assert_eq!(run(), run());
}
