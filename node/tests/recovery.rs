//! Nodes of one operator that were apart: what one of them sealed comes to all, what conflicts is flagged and kept
//! twice, answers say so and use what is preferred, and a person decides.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use common::{
    Node, complaint, eventually,
    peers::{Net, set},
    stdout, two_channels,
};
use dunlin_client::{
    AnomaliesQuery, Anomaly, Change, ChangesQuery, Conflict, Course, HistoryPoint, HistoryQuery,
    KnnHit, KnnQuery, Match, Observation, PreferenceReason, RecoveryStatus, Scope, Score,
    ScoreUnits, ScoresQuery, SegmentsQuery, TemplateUse, TrajectoryQuery,
};

const ALONE: [&str; 2] = ["--listen", "/ip4/127.0.0.1/tcp/0"];

/// Makes the folder of a node that recovers so much.
fn init_recovering(net: &Net, name: &str, what: &str) -> String {
    let id = net.init(name);
    set(&net.dir(name), "recover = \"off\"", &format!("recover = \"{what}\""));
    id
}

/// Two hundred observations of an entity whose level changes every fifty.
fn life(entity: &str, shift: f32) -> Vec<Observation> {
    let observation = |index: u16| {
        let level = f32::from(index / 50 % 4) * 0.2 + shift;
        Observation {
            entity: entity.to_owned(),
            timestamp_us: i64::from(index) * 1_000_000,
            vector: vec![level, 1.0 - level],
            metadata: None,
        }
    };
    (0..200).map(observation).collect()
}

/// Has a node that nobody else can reach seal what it sees; returns the CIDs of all its segments.
#[track_caller]
fn seal_alone(net: &Net, name: &str, lives: &[(&str, f32)]) -> BTreeSet<String> {
    alone(net, name, lives, own)
}

/// Has a node that nobody else can reach seal what it sees, and looks at it.
#[track_caller]
fn alone<T>(net: &Net, name: &str, lives: &[(&str, f32)], look: impl Fn(&Node) -> T) -> T {
    let node = Node::start_with(&net.dir(name), &ALONE);
    let client = node.client();
    client.create_collection(&two_channels("fleet")).unwrap();
    for (entity, shift) in lives {
        node.fill(&two_channels("fleet"), life(entity, *shift));
        node.archive_all("fleet", entity);
    }
    let seen = look(&node);
    node.stop();
    seen
}

#[track_caller]
fn own(node: &Node) -> BTreeSet<String> {
    let query =
        SegmentsQuery { collection: "fleet".to_owned(), limit: Some(1_000), ..Default::default() };
    let page = node.client().segments(&query).unwrap();
    page.segments.into_iter().map(|segment| segment.cid).collect()
}

#[track_caller]
fn recovery(node: &Node) -> RecoveryStatus {
    node.client().archive().unwrap().recovery
}

/// Waits until all nodes know so many segments, and the same.
#[track_caller]
fn know_the_same(nodes: &[&Node], segments: usize) {
    eventually("all nodes know the same", || {
        let known = |node: &&Node| recovery(node).known;
        let first = known(nodes.first()?);
        let is_all = first.first()?.segments == segments as u64;
        (is_all && nodes.iter().all(|node| known(node) == first)).then_some(())
    });
}

/// Waits until all nodes list the same conflicts with a maker on each side; returns them.
#[track_caller]
fn agree(nodes: &[&Node]) -> Vec<Conflict> {
    eventually("all nodes say the same about conflicts", || {
        let of = |node: &&Node| {
            let mut page = node.client().review(None).unwrap();
            for conflict in &mut page.conflicts {
                // Who sealed one itself says so, and the others do not.
                conflict.first.own = false;
                conflict.second.own = false;
            }
            page.conflicts
        };
        let first = of(nodes.first()?);
        let is_attested =
            |one: &Conflict| !one.first.makers.is_empty() && !one.second.makers.is_empty();
        let is_same = nodes.iter().all(|node| of(node) == first);
        (is_same && !first.is_empty() && first.iter().all(is_attested)).then_some(first)
    })
}

#[test]
fn what_nodes_sealed_apart_comes_together_and_what_conflicts_is_kept_twice() {
    let net = Net::start("heal");
    let [a_id, b_id, c_id] = ["a", "b", "c"].map(|name| init_recovering(&net, name, "summaries"));
    let on_a = seal_alone(&net, "a", &[("shared", 0.0), ("only-a", 0.0)]);
    let on_b = seal_alone(&net, "b", &[("shared", 0.3), ("only-b", 0.0)]);
    let all: BTreeSet<_> = on_a.union(&on_b).cloned().collect();
    assert_eq!(all.len(), on_a.len() + on_b.len(), "nothing is the same on both");

    let a = net.node("a", &[&b_id, &c_id]);
    let b = net.node("b", &[&a_id, &c_id]);
    // A third node saw nothing itself.
    let c = net.node("c", &[&a_id, &b_id]);
    c.client().create_collection(&two_channels("fleet")).unwrap();
    let nodes = [&a, &b, &c];
    know_the_same(&nodes, all.len());
    for node in nodes {
        for cid in &all {
            let segment = node.client().segment(cid).unwrap();
            assert_eq!(&segment.cid, cid);
            let is_contested = segment.entity == "shared";
            assert_eq!(!segment.conflicts.is_empty(), is_contested, "{segment:?}");
        }
    }
    assert_eq!((own(&a), own(&b)), (on_a.clone(), on_b), "own segments stay what they are");
    assert_eq!(own(&c), BTreeSet::new(), "what others sealed is not its own");

    let conflicts = agree(&nodes);
    assert!(conflicts.iter().all(|conflict| conflict.entity == "shared"));
    for conflict in &conflicts {
        let makers: BTreeSet<_> =
            conflict.first.makers.iter().chain(&conflict.second.makers).collect();
        assert_eq!(makers, BTreeSet::from([&a_id, &b_id]), "each says what it sealed");
        // Nobody has more standing behind it: all nodes prefer the same one.
        let lesser = conflict.first.cid.clone();
        assert_eq!(conflict.preferred, lesser);
        assert_eq!(conflict.reason, PreferenceReason::Tie { points: 2 });
    }
    answers_say_so(&nodes, &conflicts, &on_a);
    histories_use_what_is_preferred([&a, &b], &conflicts);
    a_person_decides([&a, &b, &c], &conflicts[0]);

    // Nothing of it is forgotten by a crash.
    let before = agree(&[&b]);
    b.kill();
    let b = net.node("b", &[&a_id, &c_id]);
    know_the_same(&[&a, &b, &c], all.len());
    assert_eq!(agree(&[&b]), before);
    assert!(all.iter().all(|cid| b.client().segment(cid).is_ok()), "nothing is lost");
}

#[track_caller]
fn answers_say_so(nodes: &[&Node], conflicts: &[Conflict], on_a: &BTreeSet<String>) {
    let [a, _, c] = nodes else { panic!("three nodes") };
    let history = |entity: &str| HistoryQuery {
        collection: "fleet".to_owned(),
        entity: entity.to_owned(),
        from_us: None,
        to_us: None,
        limit: None,
        matches: None,
    };
    let shared = a.client().history(&history("shared")).unwrap().coverage;
    assert_eq!(shared.conflicts_total, conflicts.len() as u64);
    assert_eq!(shared.conflicts.len(), conflicts.len());
    let calm = a.client().history(&history("only-a")).unwrap().coverage;
    assert_eq!((calm.conflicts_total, calm.conflicts), (0, Vec::new()));

    // What another node sealed is used where it is preferred, and nothing that is not.
    let preferred: BTreeSet<_> = conflicts.iter().map(|one| one.preferred.clone()).collect();
    let mut query = KnnQuery::new("fleet", vec![0.3, 0.7], 1_000);
    query.entity = Some("shared".to_owned());
    let local = a.client().knn(&query).unwrap();
    let used: BTreeSet<_> = local.hits.iter().filter_map(|hit| hit.cid.clone()).collect();
    assert!(!used.is_empty() && local.coverage.conflicts_total > 0);
    for conflict in conflicts {
        let pair = [&conflict.first.cid, &conflict.second.cid];
        let both = pair.iter().all(|cid| used.contains(*cid));
        assert!(!both, "{} and its rival are both used", conflict.id);
    }
    let foreign: Vec<_> = used.iter().filter(|cid| !on_a.contains(*cid)).collect();
    assert!(foreign.iter().all(|cid| preferred.contains(*cid)), "{foreign:?}");
    // Who sealed nothing finds the same among what came from peers.
    query.scope = Scope::Fetched;
    let fetched = c.client().knn(&query).unwrap();
    let of_c: BTreeSet<_> = fetched.hits.iter().filter_map(|hit| hit.cid.clone()).collect();
    assert_eq!(of_c, used);
    assert!(fetched.coverage.conflicts_total > 0);

    let text = stdout(&mut a.command(&["history", "shared", "-c", "fleet"]));
    assert!(text.contains("contradict each other"), "{text}");
    let listed = stdout(&mut c.command(&["review", "ls"]));
    assert!(conflicts.iter().all(|conflict| listed.contains(&conflict.id)), "{listed}");
}

/// Both nodes tell the same past, each time with what is preferred in the place of what loses.
#[track_caller]
fn histories_use_what_is_preferred(nodes: [&Node; 2], conflicts: &[Conflict]) {
    let query = HistoryQuery {
        collection: "fleet".to_owned(),
        entity: "shared".to_owned(),
        from_us: None,
        to_us: None,
        limit: None,
        matches: None,
    };
    let [on_a, on_b] = nodes.map(|node| node.client().history(&query).unwrap().points);
    let preferred: BTreeSet<_> = conflicts.iter().map(|one| one.preferred.as_str()).collect();
    let mut foreign = 0;
    for points in [&on_a, &on_b] {
        assert!(points.is_sorted_by_key(|point| point.timestamp_us));
        for cid in points.iter().filter_map(|point| point.peer_segment.as_deref()) {
            assert!(preferred.contains(cid), "{cid} is not preferred");
            foreign += 1;
        }
    }
    assert!(foreign > 0, "one of both sealed what loses");
    // What both know to the end of the last sealed segment: payload is not here, so others' is told by its mean.
    let level = |points: &[dunlin_client::HistoryPoint], at_us: i64| {
        let before = points.iter().rfind(|point| point.timestamp_us <= at_us);
        before.map(|point| point.vector[0])
    };
    for conflict in conflicts {
        let versions = [&conflict.first, &conflict.second];
        let used = versions.into_iter().find(|one| one.cid == conflict.preferred).unwrap();
        let middle_us = used.start_us + (used.end_us - used.start_us) / 2;
        let (one, other) = (level(&on_a, middle_us).unwrap(), level(&on_b, middle_us).unwrap());
        assert!((one - other).abs() < 0.05, "{one} and {other} at {middle_us}: {conflict:?}");
    }
}

/// What a node answers to one question of each kind about `shared`, without what it says about its own looking.
#[derive(Debug, PartialEq)]
struct Answers {
    history: Vec<HistoryPoint>,
    scores: Vec<Score>,
    changes: Vec<Change>,
    trajectory: (f64, Vec<Match>),
    anomalies: Vec<Anomaly>,
    hits: Vec<KnnHit>,
}

/// Asks a node one question of each kind; each answer says that it touches so many conflicts.
#[track_caller]
fn ask(node: &Node, conflicts: u64) -> Answers {
    let client = node.client();
    let (collection, entity) = ("fleet".to_owned(), "shared".to_owned());
    let history = HistoryQuery {
        collection: collection.clone(),
        entity: entity.clone(),
        from_us: None,
        to_us: None,
        limit: None,
        matches: Some(TemplateUse::None),
    };
    let mut history = client.history(&history).unwrap();
    // Whose they are is another thing on each node.
    history.points.iter_mut().for_each(|point| point.peer_segment = None);
    let scores = ScoresQuery {
        collection: collection.clone(),
        entity: entity.clone(),
        from_us: 0,
        to_us: i64::MAX,
        known_until_us: None,
        templates: TemplateUse::None,
        seed: 0,
        units: ScoreUnits::Blended,
        known_after_us: 0,
    };
    let scores = client.scores(&scores).unwrap();
    let changes = ChangesQuery {
        collection: collection.clone(),
        entity: Some(entity.clone()),
        ..ChangesQuery::default()
    };
    let changes = client.changes(&changes).unwrap();
    let course = |entity: &str| Course { entity: entity.to_owned(), from_us: None, to_us: None };
    let trajectory = TrajectoryQuery {
        collection: collection.clone(),
        a: course("shared"),
        b: course("calm"),
        points: None,
    };
    let trajectory = client.trajectory(&trajectory).unwrap();
    let anomalies = AnomaliesQuery {
        collection,
        entity: Some(entity.clone()),
        from_us: None,
        to_us: None,
        k: 100,
        templates: TemplateUse::None,
        units: ScoreUnits::Blended,
        known_after_us: 0,
    };
    let anomalies = client.anomalies(&anomalies).unwrap();
    let knn = KnnQuery { entity: Some(entity), ..KnnQuery::new("fleet", vec![0.4, 0.6], 100) };
    let knn = client.knn(&knn).unwrap();
    let flagged = [
        &history.coverage,
        &scores.coverage,
        &changes.coverage,
        &trajectory.coverage,
        &anomalies.coverage,
        &knn.coverage,
    ];
    for coverage in flagged {
        assert_eq!(
            (coverage.conflicts_total, coverage.complete),
            (conflicts, true),
            "{coverage:?}"
        );
    }
    Answers {
        history: history.points,
        scores: scores.scores,
        changes: changes.changes,
        trajectory: (trajectory.distance, trajectory.matches),
        anomalies: anomalies.anomalies,
        hits: knn.hits,
    }
}

#[test]
fn every_answer_of_every_node_is_that_of_the_version_with_more_standing_until_a_person_decides() {
    let net = Net::start("answers");
    let [a_id, b_id, c_id] = ["a", "b", "c"].map(|name| init_recovering(&net, name, "all"));
    let (on_one, on_two) = ([("shared", 0.0), ("calm", 0.0)], [("shared", 0.3), ("calm", 0.0)]);
    let (of_a, answers_of_a) = alone(&net, "a", &on_one, |node| (own(node), ask(node, 0)));
    let (of_b, answers_of_b) = alone(&net, "b", &on_two, |node| (own(node), ask(node, 0)));
    // A second node saw the same as the second one.
    assert_eq!(seal_alone(&net, "c", &on_two), of_b);
    assert_ne!(answers_of_a, answers_of_b);

    let a = net.node("a", &[&b_id, &c_id]);
    let b = net.node("b", &[&a_id, &c_id]);
    let c = net.node("c", &[&a_id, &b_id]);
    let nodes = [&a, &b, &c];
    let all: BTreeSet<_> = of_a.union(&of_b).cloned().collect();
    know_the_same(&nodes, all.len());
    let conflicts = eventually("both makers of one version have said so", || {
        let found = agree(&nodes);
        let stands = PreferenceReason::Standing { points: 4, against: 2 };
        found.iter().all(|conflict| conflict.reason == stands).then_some(found)
    });
    assert!(conflicts.iter().all(|conflict| of_b.contains(&conflict.preferred)));
    let total = conflicts.len() as u64;
    for node in nodes {
        assert_eq!(ask(node, total), answers_of_b);
    }

    // A person knows better.
    for conflict in &conflicts {
        let versions = [&conflict.first.cid, &conflict.second.cid];
        let other = versions.into_iter().find(|cid| of_a.contains(*cid)).unwrap();
        stdout(&mut b.command(&["review", "resolve", &conflict.id, "--prefer", other]));
    }
    eventually("the decisions are known", || {
        let is_decided = |one: &Conflict| {
            matches!(one.reason, PreferenceReason::Decided { .. }) && of_a.contains(&one.preferred)
        };
        agree(&nodes).iter().all(is_decided).then_some(())
    });
    for node in nodes {
        assert_eq!(ask(node, total), answers_of_a);
    }
}

#[track_caller]
fn a_person_decides([a, b, c]: [&Node; 3], conflict: &Conflict) {
    let other = &conflict.second.cid;
    assert_ne!(&conflict.preferred, other);
    let refused = complaint(&mut a.command(&["review", "resolve", "0123", "--prefer", other]));
    assert!(refused.contains("there is no conflict 0123"), "{refused}");
    let foreign = "bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";
    let refused =
        complaint(&mut a.command(&["review", "resolve", &conflict.id, "--prefer", foreign]));
    assert!(refused.contains("is not one of the two segments"), "{refused}");

    stdout(&mut a.command(&["review", "resolve", &conflict.id, "--prefer", other]));
    let decided = |node: &Node, cid: &str| {
        eventually("the decision is known", || {
            let known = node.client().conflict(&conflict.id).unwrap();
            let is_decided = matches!(known.reason, PreferenceReason::Decided { .. });
            (is_decided && known.preferred == cid).then_some(known)
        })
    };
    for node in [a, b, c] {
        decided(node, other);
        for cid in [&conflict.first.cid, &conflict.second.cid] {
            assert!(node.client().segment(cid).is_ok(), "a decision removes neither");
        }
    }
    // Somebody else thinks better of it.
    stdout(&mut c.command(&["review", "resolve", &conflict.id, "--prefer", &conflict.first.cid]));
    for node in [a, b, c] {
        decided(node, &conflict.first.cid);
    }
    let shown = stdout(&mut b.command(&["review", "show", &conflict.id]));
    assert!(shown.contains("<- answers use this one") && shown.contains("decided on"), "{shown}");
}

#[test]
fn payload_comes_where_that_is_wished_for() {
    let net = Net::start("payload");
    let a_id = init_recovering(&net, "a", "all");
    let b_id = init_recovering(&net, "b", "all");
    let on_a = seal_alone(&net, "a", &[("web", 0.0)]);
    let a = net.node("a", &[&b_id]);
    let b = net.node("b", &[&a_id]);
    b.client().create_collection(&two_channels("fleet")).unwrap();
    know_the_same(&[&a, &b], on_a.len());
    for cid in &on_a {
        let segment = b.client().segment(cid).unwrap();
        assert!(!segment.payload.is_empty());
        for block in segment.payload.iter().chain([cid]) {
            assert_eq!(b.client().block(block).unwrap(), a.client().block(block).unwrap());
        }
    }
    // What is sealed while they are together comes, too.
    let more = b
        .client()
        .ingest("fleet", &dunlin_client::IngestRequest { observations: life("later", 0.1) });
    assert!(more.is_ok());
    b.archive_all("fleet", "later");
    let all = on_a.len() + own(&b).len();
    know_the_same(&[&a, &b], all);
    assert_eq!(recovery(&a).conflicts, 0);
}

#[test]
fn what_own_peers_know_is_told_to_no_stranger_and_to_no_node_without_the_collection() {
    let net = Net::start("strangers");
    let [a_id, b_id, other_id] = ["a", "b", "other"].map(|name| init_recovering(&net, name, "all"));
    let stranger_id = init_recovering(&net, "stranger", "all");
    let on_a = seal_alone(&net, "a", &[("web", 0.0)]);
    let a = net.node("a", &[&b_id, &other_id]);
    let b = net.node("b", &[&a_id]);
    let other = net.node("other", &[&a_id]);
    // Whom the stranger calls its own is nobody else's business.
    let stranger = net.node("stranger", &[&a_id, &b_id]);
    for node in [&b, &stranger] {
        node.client().create_collection(&two_channels("fleet")).unwrap();
    }
    know_the_same(&[&a, &b], on_a.len());
    stranger.wait_for_peer(&a_id);
    stranger.wait_for_peer(&b_id);
    other.wait_for_peer(&a_id);
    eventually("the stranger was refused", || (recovery(&stranger).failed >= 2).then_some(()));
    assert_eq!(recovery(&stranger).known, Vec::new());
    assert!(on_a.iter().all(|cid| stranger.client().segment(cid).is_err()));
    assert_eq!(recovery(&other).held, 0, "{other_id} has no such collection");
    let quarantined =
        a.peer(&stranger_id).unwrap().standing == dunlin_client::Standing::Quarantined;
    assert!(!quarantined, "asking is no misconduct");
}

/// Held by a test that counts on nodes having their turn in time: who comes next begins after a while.
static ALONE_HERE: Mutex<()> = Mutex::new(());

/// Segments that show up with the far node of a split: several batches of what is fetched at once.
const FAR: u16 = 1_600;

/// Seals so many segments of few observations each on a running node.
#[track_caller]
fn seal_many(node: &Node, segments: u16) {
    const ENTITIES: u16 = 10;
    const REGIME: u16 = 8;
    let client = node.client();
    client.create_collection(&two_channels("fleet")).unwrap();
    for entity in (0..ENTITIES).map(|number| format!("far-{number}")) {
        let observation = |index: u16| {
            let level = if (index / REGIME).is_multiple_of(2) { 0.1 } else { 0.7 };
            Observation {
                entity: entity.clone(),
                timestamp_us: i64::from(index) * 1_000_000,
                vector: vec![level, 1.0 - level],
                metadata: None,
            }
        };
        let observations = (0..segments / ENTITIES * REGIME).map(observation).collect();
        client.ingest("fleet", &dunlin_client::IngestRequest { observations }).unwrap();
        client.seal("fleet", &entity).unwrap();
    }
    eventually("all is archived", || (client.archive().unwrap().due == 0).then_some(()));
}

#[track_caller]
fn count_own(node: &Node) -> usize {
    let (mut count, mut after) = (0, None);
    loop {
        let limit = Some(1_000);
        let query =
            SegmentsQuery { collection: "fleet".to_owned(), after, limit, ..Default::default() };
        let page = node.client().segments(&query).unwrap();
        count += page.segments.len();
        after = page.next;
        if after.is_none() {
            return count;
        }
    }
}

/// One side of a split, three nodes that have the same, in the order of their ids; and the folder of a far node that has much
/// more, with its id and how many segments all of them have together.
struct Split {
    net: Net,
    near: [Node; 3],
    names: [&'static str; 3],
    ids: [String; 3],
    far_id: String,
    total: usize,
}

impl Split {
    #[track_caller]
    fn begin(test: &str) -> Self {
        let net = Net::start(test);
        let far_id = init_recovering(&net, "far", "all");
        let mut near = ["a", "b", "c"].map(|name| (init_recovering(&net, name, "all"), name));
        near.sort_unstable();
        let (ids, names) = (near.clone().map(|(id, _)| id), near.clone().map(|(_, name)| name));
        let on_first = seal_alone(&net, near[0].1, &[("near", 0.0)]);
        let far = Node::start_with(&net.dir("far"), &ALONE);
        seal_many(&far, FAR);
        let total = on_first.len() + count_own(&far);
        far.stop();
        let nodes = near.map(|(id, name)| {
            let own: Vec<_> =
                ids.iter().chain([&far_id]).filter(|own| **own != id).map(String::as_str).collect();
            let node = net.node(name, &own);
            node.client().create_collection(&two_channels("fleet")).unwrap();
            node
        });
        know_the_same(&nodes.each_ref(), on_first.len());
        // Without news each asks both others once in half a minute.
        let so_far = nodes.each_ref().map(|node| recovery(node).same);
        eventually("each knows that of the others", || {
            let mut nodes = nodes.iter().zip(so_far);
            nodes.all(|(node, so_far)| recovery(node).same >= so_far + 2).then_some(())
        });
        Self { net, near: nodes, names, ids, far_id, total }
    }

    /// Has the far node show up.
    #[track_caller]
    fn heal(&self) -> Node {
        let own: Vec<_> = self.ids.iter().map(String::as_str).collect();
        self.net.node("far", &own)
    }

    /// Returns how many bytes each node got from the far one.
    fn crossed(&self) -> [u64; 3] {
        self.near.each_ref().map(|node| {
            let far = node.peer(&self.far_id).unwrap();
            assert_eq!(far.connected_s.is_some(), far.connected, "{far:?}");
            far.bytes_down.unwrap()
        })
    }
}

#[test]
fn what_one_side_of_a_split_lacks_comes_to_it_once_and_goes_on_within_it() {
    let _alone = ALONE_HERE.lock().unwrap_or_else(PoisonError::into_inner);
    let split = Split::begin("once");
    let far = split.heal();
    let [a, b, c] = &split.near;
    know_the_same(&[a, b, c, &far], split.total);
    let crossed = split.crossed();
    let (all, once) = (crossed.iter().sum::<u64>(), *crossed.iter().max().unwrap());
    assert!(all < once * 3 / 2, "three nodes got {crossed:?} bytes over the link");
    assert_eq!(crossed[0], once, "the first one of them is the least: {crossed:?}");
    let got: Vec<_> = split.near.iter().map(|node| recovery(node).recovered).collect();
    assert!(got[1..].iter().all(|segments| *segments == split.total as u64), "{got:?}");
}

#[test]
fn the_others_get_all_when_the_one_that_fetches_dies_or_hangs_over_it() {
    let _alone = ALONE_HERE.lock().unwrap_or_else(PoisonError::into_inner);
    for is_killed in [true, false] {
        let split = Split::begin(if is_killed { "dies" } else { "hangs" });
        let far = split.heal();
        let before = recovery(&split.near[0]).recovered;
        let at_its_end = eventually("the first one fetches", || {
            let recovered = recovery(&split.near[0]).recovered;
            (recovered > before).then_some(recovered)
        });
        let Split { net, near: [first, b, c], names, ids, far_id, total } = split;
        let hung = if is_killed {
            first.kill();
            None
        } else {
            first.signal(rustix::process::Signal::STOP);
            Some(first)
        };
        let begun = std::time::Instant::now();
        assert!(at_its_end < total as u64 / 2, "it was as good as done: {at_its_end}");
        know_the_same(&[&b, &c, &far], total);
        let took = begun.elapsed();
        assert!(took.as_secs() < 30, "{took:?}");
        // It gets the rest when it is back.
        let first = match hung {
            Some(first) => {
                first.signal(rustix::process::Signal::CONT);
                first
            }
            None => net.node(names[0], &[&ids[1], &ids[2], &far_id]),
        };
        know_the_same(&[&first, &b, &c, &far], total);
    }
}
