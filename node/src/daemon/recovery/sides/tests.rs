//! Scenes of two sides that meet again. Peers are numbered by the order of their ids, and catalogs by their contents.

use dunlin_wire::block::{Codec, cid_of};

use super::*;

const FLEET: &str = "fleet";

/// How long the second one waits first.
const FIRST: Duration = Duration::from_secs(HEAD_START.as_secs() + STEP.as_secs());

/// One node's view: it is one of `ids`, all of which are connected.
struct Scene {
    ids: Vec<PeerId>,
    sides: Sides,
    ours: CatalogRoot,
    now: Instant,
}

fn root(name: &str, count: u64) -> CatalogRoot {
    CatalogRoot { cid: cid_of(Codec::DagCbor, name.as_bytes()), count }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Scene {
    /// Begins with so many nodes that all have the same 1,000 segments, and know that of each other.
    fn begin(nodes: usize, me: usize) -> Self {
        let mut ids: Vec<_> = (0..nodes).map(|_| PeerId::random()).collect();
        ids.sort_unstable();
        let mut scene = Self {
            sides: Sides::new(ids[me]),
            ours: root("common", 1_000),
            now: Instant::now(),
            ids,
        };
        for peer in (0..nodes).filter(|peer| *peer != me) {
            assert_eq!(scene.said(peer, scene.ours), Verdict::Held);
        }
        scene.pass(secs(10));
        scene
    }

    fn said(&mut self, peer: usize, theirs: CatalogRoot) -> Verdict {
        let said = Said {
            peer: self.ids[peer],
            collection: FLEET,
            ours: Some(self.ours),
            theirs: Some(theirs),
            now: self.now,
        };
        let connected: Vec<_> =
            self.ids.iter().copied().filter(|id| *id != self.sides.me).collect();
        self.sides.judge(&said, &connected)
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Gets segments from whomever.
    fn gain(&mut self, now: CatalogRoot) {
        self.ours = now;
        self.sides.gained(FLEET, self.now);
    }

    /// Gets all that a peer has.
    fn catch_up(&mut self, peer: usize, with: CatalogRoot) {
        self.sides.caught_up(FLEET, &self.ids[peer], with);
    }

    fn follows(&self, peer: usize) -> bool {
        self.sides.follows(&self.ids[peer])
    }

    fn wait(&self, time: Duration) -> Verdict {
        Verdict::Wait(self.now + time)
    }

    /// The others of this node's side have what it has, and the other side shows up with 5,000 more; then everybody was asked.
    fn meet(&mut self, near: &[usize], far: &[usize]) {
        self.ours = root("left", 6_000);
        for peer in near {
            assert_eq!(self.said(*peer, self.ours), Verdict::Held);
        }
        for peer in far {
            assert_eq!(self.said(*peer, root("right", 6_000)), self.wait(GRACE));
        }
        for peer in near {
            self.said(*peer, self.ours);
        }
        self.pass(GRACE);
    }
}

#[test]
fn of_those_that_lack_the_same_the_least_fetches_at_once_and_the_others_wait_their_turn() {
    let mut least = Scene::begin(6, 0);
    least.meet(&[1, 2], &[3, 4, 5]);
    assert_eq!(least.said(3, root("right", 6_000)), Verdict::Fetch);
    let mut second = Scene::begin(6, 1);
    second.meet(&[0, 2], &[3, 4, 5]);
    assert_eq!(second.said(3, root("right", 6_000)), second.wait(FIRST));
    let mut third = Scene::begin(6, 2);
    third.meet(&[0, 1], &[3, 4, 5]);
    assert_eq!(third.said(3, root("right", 6_000)), third.wait(FIRST + STEP));
    // The order is that of the side: whoever is on the other one has nothing to do with it.
    let mut least = Scene::begin(6, 3);
    least.meet(&[4, 5], &[0, 1, 2]);
    assert_eq!(least.said(0, root("right", 6_000)), Verdict::Fetch);
}

#[test]
fn a_node_alone_and_a_small_difference_wait_for_nobody() {
    let mut pair = Scene::begin(2, 1);
    pair.ours = root("left", 6_000);
    assert_eq!(pair.said(0, root("right", 6_000)), Verdict::Fetch);
    let mut fresh = Scene { sides: Sides::new(PeerId::random()), ..Scene::begin(6, 0) };
    assert_eq!(fresh.said(3, root("right", 6_000)), Verdict::Fetch, "it knows nobody");
    let mut small = Scene::begin(6, 2);
    assert_eq!(small.said(3, root("news", 1_000 + LARGE)), Verdict::Fetch);
    assert_eq!(small.said(3, root("more news", 1_001 + LARGE)), small.wait(GRACE));
}

#[test]
fn what_was_asked_to_the_end_is_held_whoever_says_it_next() {
    let mut least = Scene::begin(6, 0);
    least.meet(&[1, 2], &[3, 4, 5]);
    let right = root("right", 6_000);
    assert_eq!(least.said(3, right), Verdict::Fetch);
    least.gain(root("both", 11_000));
    least.catch_up(3, right);
    assert_eq!(least.said(4, right), Verdict::Held);
    // A catalog by that name of another size is a lie, and not held.
    assert_ne!(least.said(4, root("right", 5_999)), Verdict::Held);
    // The others take in what they lacked: that is nothing new here, while it goes on.
    for parts in 1..6 {
        least.pass(secs(4));
        let part = root(&format!("right and {parts}"), 6_000 + parts * 500);
        assert_eq!(least.said(5, part), least.wait(STEP));
    }
    least.pass(STEP);
    let last = root("right and 5", 8_500);
    assert_eq!(least.said(5, last), Verdict::Fetch, "it has something of its own");
}

#[test]
fn what_was_lost_on_disk_is_fetched_again() {
    let mut pair = Scene::begin(2, 1);
    let more = root("more", 1_100);
    assert_eq!(pair.said(0, more), Verdict::Fetch);
    pair.gain(more);
    pair.catch_up(0, more);
    assert_eq!(pair.said(0, more), Verdict::Held);
    pair.sides.forget(FLEET);
    pair.ours = root("damaged", 1_050);
    assert_eq!(pair.said(0, more), Verdict::Fetch);
}

#[test]
fn who_waits_gets_what_the_first_one_has_and_goes_on_waiting_while_that_comes() {
    let mut third = Scene::begin(6, 2);
    third.meet(&[0, 1], &[3, 4, 5]);
    let right = root("right", 6_000);
    for (part, first) in [(1, HEAD_START), (2, Duration::ZERO)] {
        assert_eq!(third.said(4, right), third.wait(first + 2 * STEP), "{part}");
        third.pass(2 * STEP - secs(1));
        let ahead = root(&format!("left and {part}"), 6_000 + part * 1_000);
        assert_eq!(third.said(0, ahead), Verdict::Fetch, "it is near");
        third.gain(ahead);
        third.catch_up(0, ahead);
    }
    // Nothing more comes: the first one is gone, or has nothing.
    assert_eq!(third.said(4, right), third.wait(2 * STEP));
    third.pass(2 * STEP);
    assert_eq!(third.said(4, right), Verdict::Fetch);
    // From then on it goes on by itself.
    third.gain(root("left and more", 10_256));
    assert_eq!(third.said(4, right), Verdict::Fetch);
}

#[test]
fn whoever_gives_little_at_a_time_keeps_nobody_for_long() {
    let mut second = Scene::begin(6, 1);
    second.meet(&[0, 2], &[3, 4, 5]);
    let begun = second.now;
    let mut drop = 6_000;
    while second.said(3, root("right", 6_000)) != Verdict::Fetch {
        second.pass(secs(1));
        drop += 1;
        let drip = root(&format!("drip {drop}"), drop);
        second.said(0, drip);
        second.gain(drip);
        assert!(second.now <= begun + WAIT_MAX, "it waits for a liar");
    }
    assert_eq!(second.now, begun + WAIT_MAX);
    // Saying something else all the time is not even that.
    let mut second = Scene::begin(6, 1);
    second.meet(&[0, 2], &[3, 4, 5]);
    for word in 0..FIRST.as_secs() {
        assert_eq!(second.said(3, root("right", 6_000)), second.wait(FIRST - secs(word)));
        second.said(0, root(&format!("word {word}"), 7_000 + word));
        second.pass(secs(1));
    }
    assert_eq!(second.said(3, root("right", 6_000)), Verdict::Fetch);
}

#[test]
fn what_is_new_of_one_that_is_behind_is_read_when_it_has_caught_up() {
    let mut least = Scene::begin(6, 0);
    least.meet(&[1, 2], &[3, 4, 5]);
    assert_eq!(least.said(3, root("right", 6_000)), Verdict::Fetch);
    least.gain(root("both", 11_000));
    for part in 1..=3 {
        let part = root(&format!("left and {part}"), 6_000 + part * 1_000);
        assert_eq!(least.said(1, part), least.wait(FOLLOW));
        least.pass(FOLLOW);
    }
    assert_eq!(least.said(1, root("both, and its own", 11_001)), Verdict::Fetch);
    // Nor is it left waiting when it never catches up.
    least.pass(WAIT_MAX);
    assert_eq!(least.said(2, root("left, and its own", 6_001)), Verdict::Fetch);
}

#[test]
fn who_finds_another_one_of_its_side_ahead_follows_that_one() {
    let mut least = Scene::begin(6, 0);
    least.meet(&[1, 2], &[3, 4, 5]);
    // The second one was connected with the other side before.
    let ahead = root("left and much", 8_000);
    assert_eq!(least.said(1, ahead), Verdict::Fetch);
    assert_eq!(least.said(3, root("right", 6_000)), least.wait(FIRST));
    least.gain(ahead);
    least.catch_up(1, ahead);
    least.pass(FIRST - secs(1));
    assert_eq!(least.said(3, root("right", 6_000)), least.wait(secs(1)));
    // Nothing more comes from there.
    least.pass(secs(1));
    assert_eq!(least.said(3, root("right", 6_000)), Verdict::Fetch);
}

#[test]
fn the_side_that_was_idle_knows_who_shows_up_with_the_difference_and_who_does_not() {
    // Nobody on the left sealed anything: the far peers had the same, too, when they were last heard.
    let mut second = Scene::begin(6, 1);
    let right = root("right", 6_000);
    assert_eq!(second.said(3, right), second.wait(GRACE));
    for (peer, has) in [(0, second.ours), (2, second.ours), (4, right), (5, right)] {
        second.said(peer, has);
    }
    second.pass(GRACE);
    for far in [3, 4, 5] {
        assert_eq!(second.said(far, right), second.wait(FIRST));
    }
    // A peer that was not heard since is not counted on: it may be on the other side, too.
    let mut second = Scene::begin(6, 1);
    assert_eq!(second.said(3, right), second.wait(GRACE));
    second.said(2, second.ours);
    second.pass(GRACE);
    assert_eq!(second.said(3, right), Verdict::Fetch);
}

#[test]
fn a_heal_ends_when_all_have_the_same_and_the_next_one_begins_anew() {
    let mut second = Scene::begin(6, 1);
    second.meet(&[0, 2], &[3, 4, 5]);
    let right = root("right", 6_000);
    assert_eq!(second.said(3, right), second.wait(FIRST));
    assert!(second.follows(0) && second.follows(2) && !second.follows(3));
    let both = root("both", 11_000);
    second.gain(both);
    for peer in [0, 2, 3, 4, 5] {
        assert!(second.follows(0));
        assert_eq!(second.said(peer, both), Verdict::Held);
    }
    assert!(!second.follows(0));
    assert_eq!(second.said(4, root("news", 11_001)), Verdict::Fetch);
    assert_eq!(second.said(4, root("much", 13_000)), second.wait(GRACE));
    // One who is not connected any more is not waited for.
    second.pass(secs(1) / 2);
    for near in [0, 2] {
        second.said(near, both);
    }
    second.pass(GRACE);
    assert_eq!(
        second.said(3, root("some", 11_002)),
        Verdict::Fetch,
        "it has no more than the others"
    );
    assert!(second.follows(0));
    let gone = second.ids.remove(4);
    second.said(3, both);
    second.said(2, both);
    assert!(!second.follows(0), "{gone} is not here");
    // Nobody is followed for ever because one who is here never has the same.
    let mut second = Scene::begin(6, 1);
    second.meet(&[0, 2], &[3, 4, 5]);
    second.said(3, right);
    assert!(second.follows(0));
    second.pass(WAIT_MAX);
    assert_eq!(second.said(3, right), Verdict::Fetch);
    assert!(!second.follows(0));
    // Nor waited for again, unless it has much more by then: that is another difference.
    assert_eq!(second.said(3, root("right and news", 6_000 + LARGE)), Verdict::Fetch);
    assert_eq!(second.said(3, root("right and much", 9_000)), second.wait(GRACE));
}
