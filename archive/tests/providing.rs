//! Scenarios: what a node tells the DHT, when, and how little of it there is, on a clock of the test's own.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use dunlin_archive::{
    Archive, catalog,
    providing::{Action, Change, Config, Input, Progress, Providing, ROOTS_MAX, Row},
    roots::{Listed, Roots},
};
use dunlin_wire::{
    Cid,
    block::{Codec, cid_of},
};
use sha2::{Digest, Sha256};

const START_MS: u64 = 1_800_000_000_000;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

fn cid(number: u64) -> Cid {
    cid_of(Codec::DagCbor, &number.to_be_bytes())
}

fn cids(numbers: std::ops::Range<u64>) -> BTreeSet<Cid> {
    numbers.map(cid).collect()
}

/// A node with a DHT that always takes half a second, and a clock that only moves when the test says so.
struct Node {
    providing: Providing,
    now_ms: u64,
    /// Whether there are peers that hear.
    is_heard: bool,
    under_way: Vec<(u64, Cid)>,
    told: Vec<(u64, Cid)>,
    withdrawn: Vec<Cid>,
    disk: BTreeMap<Cid, Row>,
    under_way_most: usize,
}

impl Node {
    fn start(config: Config, disk: BTreeMap<Cid, Row>, now_ms: u64) -> Self {
        let mut providing = Providing::new(config, disk.values().copied().collect(), now_ms);
        providing.handle(now_ms, Input::Met);
        Self {
            providing,
            now_ms,
            is_heard: true,
            under_way: Vec::new(),
            told: Vec::new(),
            withdrawn: Vec::new(),
            disk,
            under_way_most: 0,
        }
    }

    fn new() -> Self {
        Self::start(Config::default(), BTreeMap::new(), START_MS)
    }

    fn handle(&mut self, input: Input) {
        self.providing.handle(self.now_ms, input);
        self.act();
    }

    fn act(&mut self) {
        while let Some(action) = self.providing.next_action() {
            match action {
                Action::Provide(cid) => self.under_way.push((self.now_ms + 500, cid)),
                Action::Withdraw(cid) => self.withdrawn.push(cid),
            }
        }
        self.under_way_most = self.under_way_most.max(self.under_way.len());
        for change in self.providing.take_changes() {
            match change {
                Change::Keep(row) => drop(self.disk.insert(row.cid, row)),
                Change::Forget(cid) => drop(self.disk.remove(&cid)),
            }
        }
    }

    /// Lets time pass, doing everything at its moment.
    fn pass(&mut self, ms: u64) {
        let end_ms = self.now_ms + ms;
        loop {
            let answer = self.under_way.iter().map(|(at_ms, _)| *at_ms).min();
            let wake = self.providing.next_wake().map(|at_ms| at_ms.max(self.now_ms));
            let Some(next) = answer.into_iter().chain(wake).min().filter(|at| *at <= end_ms) else {
                break;
            };
            self.now_ms = next;
            let is_done = |(at_ms, _): &mut (u64, Cid)| *at_ms <= next;
            for (_, cid) in self.under_way.extract_if(.., is_done).collect::<Vec<_>>() {
                if self.is_heard {
                    self.told.push((next, cid));
                }
                self.providing.handle(next, Input::Told { cid, is_heard: self.is_heard });
            }
            self.providing.wake(next);
            self.act();
        }
        self.now_ms = end_ms;
    }

    fn told_of(&self, cid: &Cid) -> Vec<u64> {
        self.told.iter().filter(|(_, told)| told == cid).map(|(at_ms, _)| *at_ms).collect()
    }
}

#[test]
fn what_was_told_is_told_again_before_it_fades() {
    let mut node = Node::new();
    node.handle(Input::Roots(cids(0..3)));
    assert_eq!(node.providing.progress(), Progress { due: 3, ..Progress::default() });
    node.pass(MINUTE_MS);
    assert_eq!(node.providing.progress(), Progress { provided: 3, ..Progress::default() });
    node.pass(10 * 24 * HOUR_MS);
    for number in 0..3 {
        let times = node.told_of(&cid(number));
        assert!(times.len() >= 10, "{} times in ten days", times.len());
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(gaps.into_iter().all(|gap| (19 * HOUR_MS..=23 * HOUR_MS).contains(&gap)));
    }
}

#[test]
fn nothing_to_provide_is_nothing_to_do() {
    let mut node = Node::new();
    node.handle(Input::Roots(BTreeSet::new()));
    node.handle(Input::Again);
    assert_eq!(node.providing.next_wake(), None);
    node.pass(365 * 24 * HOUR_MS);
    assert!(node.told.is_empty() && node.disk.is_empty());
}

#[test]
fn a_sweep_goes_by_place_a_few_at_once_and_not_too_fast() {
    let mut node = Node::new();
    node.handle(Input::Roots(cids(0..500)));
    node.pass(HOUR_MS);
    assert_eq!(node.told.len(), 500);
    assert!(node.under_way_most <= 8, "{} at once", node.under_way_most);
    // Ten a second at most, as the pause says.
    assert!(node.told.last().unwrap().0 - START_MS >= 49_900);
    let place = |cid: &Cid| -> [u8; 32] { Sha256::digest(cid.hash().to_bytes()).into() };
    let places: Vec<_> = node.told.iter().map(|(_, cid)| place(cid)).collect();
    assert!(places.is_sorted(), "neighbors follow each other");
}

#[test]
fn what_began_at_different_times_ends_up_in_one_sweep() {
    let mut node = Node::new();
    node.handle(Input::Roots(cids(0..10)));
    node.pass(2 * HOUR_MS);
    node.handle(Input::Roots(cids(0..20)));
    node.pass(5 * 24 * HOUR_MS);
    let last = |number| *node.told_of(&cid(number)).last().unwrap();
    let times: Vec<_> = (0..20).map(last).collect();
    let spread = times.iter().max().unwrap() - times.iter().min().unwrap();
    assert!(spread < MINUTE_MS, "{spread} ms");
}

#[test]
fn a_restart_goes_on_where_it_stopped() {
    let mut node = Node::new();
    node.handle(Input::Roots(cids(0..100)));
    node.pass(5_000);
    let told: BTreeSet<_> = node.told.iter().map(|(_, cid)| *cid).collect();
    assert!((30..70).contains(&told.len()), "it is in the middle: {}", told.len());
    // The process ends; what was under way is lost.
    let mut again = Node::start(Config::default(), node.disk, node.now_ms + MINUTE_MS);
    again.handle(Input::Roots(cids(0..100)));
    let left = 100 - told.len() as u64;
    assert_eq!(again.providing.progress().due, left);
    again.pass(MINUTE_MS);
    let more: BTreeSet<_> = again.told.iter().map(|(_, cid)| *cid).collect();
    assert_eq!(more.len() as u64, left);
    assert!(more.is_disjoint(&told), "nothing is told twice");
}

#[test]
fn the_schedule_survives_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blocks.redb");
    let mut providing = Providing::new(Config::default(), Vec::new(), START_MS);
    providing.handle(START_MS, Input::Met);
    providing.handle(START_MS, Input::Roots(cids(0..2)));
    providing.handle(START_MS, Input::Objects(vec![cid(1), cid(2)]));
    let Some(Action::Provide(told)) = providing.next_action() else { panic!("something is due") };
    providing.handle(START_MS + 7, Input::Told { cid: told, is_heard: true });
    let archive = Archive::open(&path, dunlin_archive::Config::default()).unwrap();
    assert_eq!(archive.provided().unwrap(), []);
    archive.keep_provided(&providing.take_changes()).unwrap();
    drop(archive);
    let archive = Archive::open(&path, dunlin_archive::Config::default()).unwrap();
    let rows: BTreeMap<_, _> =
        archive.provided().unwrap().into_iter().map(|row| (row.cid, row)).collect();
    assert_eq!(rows.len(), 3);
    assert_eq!((rows[&told].told_ms, rows[&told].tried_ms), (Some(START_MS + 7), START_MS + 7));
    let kind = |number| (rows[&cid(number)].is_root, rows[&cid(number)].is_object);
    assert_eq!([kind(0), kind(1), kind(2)], [(true, false), (true, true), (false, true)]);
    archive.keep_provided(&[Change::Forget(told)]).unwrap();
    assert_eq!(archive.provided().unwrap().len(), 2);
}

#[test]
fn what_nobody_heard_is_tried_less_and_less_often_until_somebody_is_met() {
    let mut node = Node::new();
    node.is_heard = false;
    node.handle(Input::Roots(cids(0..1)));
    let tries = |node: &mut Node, hours: u64| {
        let mut count = 0;
        for _ in 0..hours * 60 {
            let before = node.disk[&cid(0)].failures;
            node.pass(MINUTE_MS);
            count += node.disk[&cid(0)].failures - before;
        }
        count
    };
    let first = tries(&mut node, 3);
    assert!((6..12).contains(&first), "{first} in three hours");
    let later = tries(&mut node, 12);
    assert!((11..=13).contains(&later), "{later} in twelve hours");
    assert_eq!(node.providing.progress().failed, 1);
    // Peers that come and go do not make it hurry more than once a minute.
    let before = node.disk[&cid(0)].failures;
    for _ in 0..600 {
        node.handle(Input::Met);
        node.pass(1_000);
    }
    let hurried = node.disk[&cid(0)].failures - before;
    assert!((8..=11).contains(&hurried), "{hurried} in ten minutes");
    node.is_heard = true;
    node.pass(HOUR_MS);
    assert_eq!(node.providing.progress(), Progress { provided: 1, ..Progress::default() });
}

#[test]
fn alone_nothing_is_tried_and_all_is_told_as_soon_as_somebody_is_there() {
    let mut node = Node::new();
    node.handle(Input::Alone);
    node.handle(Input::Roots(cids(0..5)));
    node.pass(48 * HOUR_MS);
    assert_eq!(node.providing.progress(), Progress { due: 5, ..Progress::default() });
    node.handle(Input::Met);
    node.pass(MINUTE_MS);
    assert_eq!(node.told.len(), 5);
}

#[test]
fn what_is_no_root_any_more_is_withdrawn_unless_the_operator_named_it() {
    let mut node = Node::new();
    node.handle(Input::Roots(cids(0..3)));
    node.handle(Input::Objects(vec![cid(0)]));
    node.pass(MINUTE_MS);
    node.handle(Input::Roots(cids(2..3)));
    assert_eq!(node.withdrawn, [cid(1)]);
    assert_eq!(node.disk.keys().copied().collect::<BTreeSet<_>>(), [cid(0), cid(2)].into());
    node.handle(Input::Forget(cid(0)));
    assert_eq!(node.withdrawn, [cid(1), cid(0)]);
    node.told.clear();
    node.pass(48 * HOUR_MS);
    assert!(node.told.iter().all(|(_, told)| *told == cid(2)));
}

#[test]
fn what_goes_while_it_is_being_told_stays_gone() {
    let mut node = Node::new();
    node.handle(Input::Roots(cids(0..1)));
    assert_eq!(node.under_way.len(), 1);
    node.handle(Input::Roots(BTreeSet::new()));
    node.pass(48 * HOUR_MS);
    assert!(node.disk.is_empty());
    assert_eq!(node.providing.next_wake(), None);
}

#[test]
fn objects_and_roots_have_limits() {
    let config = Config { objects_max: 3, ..Config::default() };
    let mut node = Node::start(config, BTreeMap::new(), START_MS);
    assert!(node.providing.has_room(&[cid(0), cid(1), cid(2)]).is_ok());
    assert!(node.providing.has_room(&[cid(0), cid(1), cid(2), cid(3)]).is_err());
    node.handle(Input::Objects((0..9).map(cid).collect()));
    assert_eq!(node.disk.len(), 3);
    assert!(node.providing.has_room(&[cid(0)]).is_ok(), "it is there already");
    assert!(node.providing.has_room(&[cid(9)]).is_err());
    node.handle(Input::Roots(cids(100..100 + ROOTS_MAX as u64 + 5)));
    let progress = node.providing.progress();
    assert_eq!((progress.left_out, node.disk.len()), (5, ROOTS_MAX + 3));
}

#[test]
fn a_clock_that_was_ahead_makes_nothing_late() {
    let mut node = Node::new();
    let year_ms = 365 * 24 * HOUR_MS;
    node.now_ms += year_ms;
    node.handle(Input::Roots(cids(0..2)));
    node.pass(MINUTE_MS);
    node.now_ms -= year_ms;
    node.told.clear();
    // While it runs, and after a restart.
    let mut again = Node::start(Config::default(), node.disk.clone(), node.now_ms);
    again.handle(Input::Roots(cids(0..2)));
    node.providing.wake(node.now_ms);
    for mut node in [node, again] {
        node.pass(24 * HOUR_MS);
        assert_eq!(node.told.len(), 2, "{:?}", node.told);
    }
}

#[test]
fn the_same_facts_at_the_same_times_give_the_same_actions() {
    let run = || {
        let mut node = Node::new();
        node.handle(Input::Roots(cids(0..50)));
        node.pass(2_000);
        node.is_heard = false;
        node.handle(Input::Objects((40..60).map(cid).collect()));
        node.pass(HOUR_MS);
        node.is_heard = true;
        node.handle(Input::Roots(cids(10..55)));
        node.pass(72 * HOUR_MS);
        (node.told, node.withdrawn, node.disk)
    };
    assert_eq!(run(), run());
}

/// A day in which a million segments are archived, with a publication every ten minutes.
#[test]
fn a_million_segments_are_two_keys_to_provide() {
    const SEGMENTS: u64 = 1_000_000;
    const PUBLICATIONS: u64 = 24 * 6;
    let mut blocks: HashMap<Cid, Vec<u8>> = HashMap::new();
    let mut root: Option<catalog::Root> = None;
    let mut node = Node::new();
    let mut rows_most = 0;
    for publication in 0..PUBLICATIONS {
        let first = publication * SEGMENTS / PUBLICATIONS;
        let behind = (publication + 1) * SEGMENTS / PUBLICATIONS;
        let entries = (first..behind)
            .map(|number| catalog::Entry::new(number as i64 * 86_400, &cid(number)).unwrap());
        let get = |cid: &Cid| Ok::<_, std::convert::Infallible>(blocks.get(cid).cloned());
        let update = catalog::insert(get, root.as_ref(), &entries.collect::<Vec<_>>());
        let update = update.unwrap().unwrap();
        update.removed.iter().for_each(|cid| drop(blocks.remove(cid)));
        blocks.extend(update.added.into_iter().map(|block| (*block.cid(), block.into_bytes())));
        root = Some(update.root);
        let listed = Listed(String::new(), update.root.cid, update.root.count);
        let roots = Roots::new(vec![listed], Vec::new());
        let all = roots.links().copied().chain([*roots.to_block().cid()]);
        node.handle(Input::Roots(all.collect()));
        rows_most = rows_most.max(node.disk.len());
        node.pass(10 * MINUTE_MS);
    }
    assert_eq!(root.unwrap().count, SEGMENTS);
    assert_eq!(rows_most, 2, "never more than the roots of the moment");
    assert_eq!(node.told.len() as u64, 2 * PUBLICATIONS);
    node.told.clear();
    node.pass(Duration::from_secs(7 * 24 * 3600).as_millis() as u64);
    assert!(node.told.len() <= 18, "{} in a week of rest", node.told.len());
}
