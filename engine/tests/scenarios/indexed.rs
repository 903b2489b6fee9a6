//! The index over segments: what it answers is what comparing every segment answers, whatever became of
//! its files.

use std::sync::Arc;

use dunlin_engine::{
    CollectionSpec, Config, Engine, Exactness, Fidelity, Include, KnnAnswer, KnnQuery,
    MaintainError, Metadata, Metric, Observation, Source, TimeRange, Timestamp, distance,
    index::INDEX_VERSION,
    storage::{Simulated, Storage},
};

use crate::support::{entity, name, observation, sealed, spec};

const DIM: u16 = 8;

/// Seconds that each regime lasts.
const DWELL: i64 = 4;

/// An engine whose index begins with few segments.
fn try_open(disk: &Simulated) -> Result<Engine, dunlin_engine::OpenError> {
    let config = Config { index_tail_segments: 40, index_part_segments: 400, ..Config::default() };
    Engine::open_storage(Arc::new(disk.clone()), config)
}

fn open(disk: &Simulated) -> Engine {
    let engine = try_open(disk).unwrap();
    engine.create_collection(summaries(Metric::Euclidean)).unwrap();
    engine
}

fn summaries(metric: Metric) -> CollectionSpec {
    CollectionSpec { metric, fidelity: Fidelity::Summary, ..spec(DIM) }
}

/// A vector that stays the same for one regime, and is another one in the next.
fn level(id: u64, regime: i64) -> Vec<f32> {
    let mixed = |channel: u64| {
        let seed = (id * 1_000_003 + regime as u64) * 64 + channel;
        let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40
    };
    (0..u64::from(DIM)).map(|channel| mixed(channel) as f32 / (1 << 24) as f32).collect()
}

fn id(number: u64) -> String {
    format!("entity-{number}")
}

/// The observations of some regimes of an entity; each regime but the last will be sealed.
fn regimes(number: u64, regimes: std::ops::Range<i64>) -> Vec<Observation> {
    (regimes.start * DWELL..regimes.end * DWELL)
        .map(|second| observation(&id(number), second, &level(number, second / DWELL)))
        .collect()
}

fn ingest(engine: &Engine, entities: std::ops::Range<u64>, count: std::ops::Range<i64>) {
    for number in entities {
        for part in regimes(number, count.clone()).chunks(20_000) {
            engine.ingest(&name(), part.to_vec()).unwrap();
        }
    }
}

/// Makes parts until none is due; returns how many.
fn maintain(engine: &Engine) -> usize {
    (0..1_000).take_while(|_| engine.maintain_index(&|| true).unwrap()).count()
}

fn question(vector: Vec<f32>, k: usize) -> KnnQuery {
    KnnQuery { include: Include::Sealed, ..KnnQuery::new(name(), vector, k) }
}

/// The nearest segments by comparing all that the engine lists.
fn brute(engine: &Engine, query: &KnnQuery) -> Vec<(f64, String)> {
    let metric = engine.collection(&name()).unwrap().metric;
    let (from, to) = (query.range.from.unwrap_or(Timestamp(i64::MIN)), query.range.to);
    let mut all: Vec<_> = sealed(engine)
        .into_iter()
        .filter(|stored| {
            let segment = &stored.segment;
            let is_of = query.entity.as_ref().is_none_or(|entity| entity == segment.entity());
            is_of && segment.end() >= from && to.is_none_or(|to| segment.start() <= to)
        })
        .map(|stored| {
            let distance = distance(metric, &query.vector, stored.segment.mean());
            (distance, stored.cid.to_string())
        })
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all.truncate(query.k);
    all
}

fn hits(answer: &KnnAnswer) -> Vec<(f64, String)> {
    let cid = |source: Source| match source {
        Source::Sealed(cid) | Source::Outlined(cid) => cid.to_string(),
        Source::Open => "open".to_owned(),
    };
    answer.neighbors.iter().map(|near| (near.distance, cid(near.source))).collect()
}

/// Checks that the engine answers as comparing everything does, for all kinds of questions.
#[track_caller]
fn check(engine: &Engine, what: &str) {
    for seed in 0..6 {
        let base = question(level(900 + seed, 3), 7);
        let of = KnnQuery { entity: Some(entity(&id(seed % 3))), ..base.clone() };
        let range = TimeRange::between(Timestamp(20_000_000), Timestamp(61_000_000));
        let known: Vec<String> = engine
            .entities(&name(), None, usize::MAX)
            .unwrap()
            .iter()
            .map(|view| view.entity.to_string())
            .collect();
        let mut queries =
            vec![base.clone(), KnnQuery { range, ..base.clone() }, question(base.vector, 0)];
        if known.contains(&id(seed % 3)) {
            queries.extend([KnnQuery { range, ..of.clone() }, of]);
        }
        for query in queries {
            let answer = engine.knn(&query).unwrap();
            assert_eq!(hits(&answer), brute(engine, &query), "{what}: {query:?}");
            assert!(answer.coverage.complete);
        }
    }
}

#[test]
fn parts_answer_as_a_scan_does_before_and_after_restarts() {
    let disk = Simulated::new();
    let engine = open(&disk);
    for round in 0..6_i64 {
        ingest(&engine, 0..5, round * 25..round * 25 + 25);
        check(&engine, "before");
        assert!(maintain(&engine) > 0, "a part is due in round {round}");
        check(&engine, "after");
    }
    let status = engine.index_status();
    assert!(status.rows > 700 && status.tail < 40, "{status:?}");
    assert!((2..8).contains(&status.parts), "parts are merged: {status:?}");
    assert_eq!(status.rows + status.tail, sealed(&engine).len() as u64);
    engine.close().unwrap();
    drop(engine);
    let files = disk.list("index").unwrap();
    assert_eq!(files.len() as u64, status.parts, "what was merged is gone: {files:?}");
    let engine = open(&disk);
    check(&engine, "after a restart");
    assert_eq!(engine.index_status(), status);
    assert_eq!(maintain(&engine), 0);
}

#[test]
fn a_graph_finds_the_nearest_under_filters_of_every_width() {
    let engine = Engine::open_storage(Arc::new(Simulated::new()), Config::default()).unwrap();
    engine.create_collection(summaries(Metric::Euclidean)).unwrap();
    let site = |number: u64| match number % 1_000 {
        0 => "one in a thousand",
        number if number % 100 == 1 => "one in a hundred",
        number if number % 10 == 2 => "one in ten",
        number if number % 2 == 1 => "every other",
        _ => "none",
    };
    for number in 0..2_000 {
        let note = Metadata::new([("site".to_owned(), site(number).to_owned())].into()).unwrap();
        let mut batch = regimes(number, 0..5);
        batch.iter_mut().for_each(|observation| observation.metadata = Some(note.clone()));
        engine.ingest(&name(), batch).unwrap();
    }
    assert!(maintain(&engine) > 0);
    let all = sealed(&engine).len() as u64;
    assert_eq!((all, engine.index_status().rows), (8_000, 8_000));
    for wanted in ["", "every other", "one in ten", "one in a hundred", "one in a thousand"] {
        let pairs = [("site".to_owned(), wanted.to_owned())];
        let metadata = match wanted {
            "" => Metadata::default(),
            _ => Metadata::new(pairs.into()).unwrap(),
        };
        let (mut found, mut asked) = (0, 0);
        for seed in 0..50 {
            let query =
                KnnQuery { metadata: metadata.clone(), ..question(level(5_000 + seed, 0), 10) };
            let exact = KnnQuery { search: Exactness::Exact, ..query.clone() };
            let (near, exact) = (engine.knn(&query).unwrap(), engine.knn(&exact).unwrap());
            assert_eq!(exact.coverage.segments_indexed, 0);
            assert_eq!(near.neighbors.len(), exact.neighbors.len(), "{wanted}");
            let truth = hits(&exact);
            asked += truth.len();
            found += hits(&near).iter().filter(|hit| truth.contains(hit)).count();
            if wanted.is_empty() {
                assert_eq!(near.coverage.segments_indexed, all, "a walk says that it was one");
            }
            for hit in &exact.neighbors {
                let number: u64 = hit.entity.as_str()[7..].parse().unwrap();
                assert!(wanted.is_empty() || site(number) == wanted);
            }
        }
        assert!(asked >= 50 * 8, "{wanted}: {asked}");
        assert!(found * 100 >= asked * 97, "{wanted}: {found} of {asked}");
    }
}

#[test]
fn the_newest_metadata_of_an_entity_speak_for_all_of_its_life() {
    let disk = Simulated::new();
    let engine = open(&disk);
    let says = |site: &str| Metadata::new([("site".to_owned(), site.to_owned())].into()).unwrap();
    let live = |engine: &Engine, number: u64, count: std::ops::Range<i64>, site: Option<&str>| {
        let mut batch = regimes(number, count);
        batch.iter_mut().for_each(|observation| observation.metadata = site.map(says));
        engine.ingest(&name(), batch).unwrap();
    };
    for number in 0..4 {
        live(&engine, number, 0..60, Some("attic"));
    }
    assert!(maintain(&engine) > 0);
    // Entity 1 moves; entity 2 says nothing of where it is, which changes nothing.
    live(&engine, 1, 60..63, Some("cellar"));
    live(&engine, 2, 60..63, None);
    for engine in [&engine, &try_open(&disk.crash()).unwrap()] {
        for search in [Exactness::Approximate, Exactness::Exact] {
            let of = |site: &str| {
                let query = KnnQuery { metadata: says(site), search, ..question(level(1, 7), 999) };
                let near = engine.knn(&query).unwrap().neighbors;
                let mut counts = [0; 4];
                for neighbor in &near {
                    counts[neighbor.entity.as_str()[7..].parse::<usize>().unwrap()] += 1;
                }
                (near[0].distance, counts)
            };
            // Of a regime that an index holds the nearest is itself, whatever its entity said at that time.
            let (nearest, counts) = of("cellar");
            assert!(nearest < 1e-3 && counts == [0, 62, 0, 0], "{nearest}: {counts:?}");
            let (nearest, counts) = of("attic");
            assert!(nearest > 0.05 && counts == [59, 0, 62, 59], "{nearest}: {counts:?}");
        }
    }
}

#[test]
fn what_is_removed_is_gone_at_once_and_may_come_again() {
    let disk = Simulated::new();
    let engine = open(&disk);
    ingest(&engine, 0..4, 0..40);
    maintain(&engine);
    ingest(&engine, 0..4, 40..45);
    let before = sealed(&engine);
    let removed = engine.remove(&name(), &entity(&id(1))).unwrap();
    assert_eq!((removed.observations, removed.segments), (45 * DWELL as u64, 44));
    check(&engine, "removed");
    let nearest = engine.knn(&question(level(1, 7), 3)).unwrap();
    assert!(nearest.neighbors.iter().all(|near| near.entity != entity(&id(1))));
    assert!(engine.entity(&name(), &entity(&id(1))).is_err());
    assert!(engine.remove(&name(), &entity(&id(1))).is_err(), "there is nothing to remove");
    let kept: Vec<_> =
        before.iter().filter(|stored| *stored.segment.entity() != entity(&id(1))).collect();
    assert!(sealed(&engine).iter().eq(kept.iter().copied()), "nothing else is gone");

    // The same observations again are the same segments, under new numbers.
    ingest(&engine, 1..2, 0..45);
    check(&engine, "back");
    let back = |engine: &Engine| {
        let all = sealed(engine).into_iter();
        all.filter(|s| *s.segment.entity() == entity(&id(1))).collect::<Vec<_>>()
    };
    let cids = |stored: &[dunlin_engine::Stored]| stored.iter().map(|s| s.cid).collect::<Vec<_>>();
    let first: Vec<_> =
        before.into_iter().filter(|s| *s.segment.entity() == entity(&id(1))).collect();
    assert_eq!(cids(&back(&engine)), cids(&first));
    assert_eq!(engine.knn(&question(level(1, 7), 1)).unwrap().neighbors[0].distance, 0.0);
    let nearest = engine.knn(&question(level(1, 7), 1)).unwrap();
    let Source::Sealed(cid) = nearest.neighbors[0].source else { panic!("not sealed") };
    assert!(engine.segment(&cid).unwrap().is_some());

    // Another life under the same name.
    engine.remove(&name(), &entity(&id(1))).unwrap();
    ingest(&engine, 1..2, 100..110);
    check(&engine, "another life");
    let lived = back(&engine);
    drop(engine);
    let engine = open(&disk.crash());
    check(&engine, "after a crash");
    assert_eq!(back(&engine), lived);
    maintain(&engine);
    check(&engine, "after the parts were made again");
    let status = engine.index_status();
    assert!(status.rows + status.tail <= sealed(&engine).len() as u64 + 44, "{status:?}");
}

#[test]
fn blocks_that_two_entities_share_outlive_one_of_them() {
    let disk = Simulated::new();
    let engine = Engine::open_storage(Arc::new(disk.clone()), Config::default()).unwrap();
    engine.create_collection(spec(DIM)).unwrap();
    let copy = |id: &str| {
        let of_id = |observation| Observation { entity: entity(id), ..observation };
        regimes(0, 0..3).into_iter().map(of_id).collect()
    };
    for id in ["a", "b", "c"] {
        engine.ingest(&name(), copy(id)).unwrap();
    }
    let payload = *sealed(&engine)[0].segment.payload().first().unwrap();
    for id in ["a", "c"] {
        engine.remove(&name(), &entity(id)).unwrap();
        assert!(engine.block(&payload).unwrap().is_some(), "b has it");
    }
    engine.remove(&name(), &entity("b")).unwrap();
    assert!(engine.block(&payload).unwrap().is_none());
}

/// Makes a folder with parts, a removed entity and a tail; returns it.
fn furnished() -> Simulated {
    let disk = Simulated::new();
    let engine = open(&disk);
    ingest(&engine, 0..4, 0..40);
    maintain(&engine);
    engine.remove(&name(), &entity(&id(2))).unwrap();
    ingest(&engine, 0..2, 40..61);
    maintain(&engine);
    engine.close().unwrap();
    drop(engine);
    assert!(disk.list("index").unwrap().len() > 1);
    disk
}

#[test]
fn a_damaged_file_is_made_again_and_no_segment_is_missed() {
    let disk = furnished();
    let names: Vec<String> =
        disk.list("index").unwrap().iter().map(|name| format!("index/{name}")).collect();
    let expected = sealed(&open(&disk.crash()));
    for name in &names {
        let whole = disk.content(name).unwrap();
        let flips = (0..40).map(|index| (index * 7919) % whole.len());
        let mut damaged: Vec<Vec<u8>> = flips
            .map(|at| {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << (at % 8);
                bytes
            })
            .collect();
        damaged.extend([
            Vec::new(),
            whole[..whole.len() / 2].to_vec(),
            [&whole[..], b"x"].concat(),
        ]);
        for bytes in damaged {
            let left = disk.crash();
            left.put(name, bytes);
            let engine = open(&left);
            check(&engine, name);
            assert!(maintain(&engine) > 0, "it is made again");
            check(&engine, name);
            assert_eq!(sealed(&engine), expected);
        }
    }
}

#[test]
fn a_file_of_another_version_is_made_again() {
    let magic = b"DUNLINIX";
    let index_in = |part: &[u8]| part.windows(8).position(|bytes| bytes == magic).unwrap();
    let disk = furnished();
    let expected = sealed(&open(&disk.crash()));
    for file in disk.list("index").unwrap() {
        let name = format!("index/{file}");
        let whole = disk.content(&name).unwrap();
        let version = index_in(&whole) + magic.len();
        for other in [1_u32, 2, INDEX_VERSION + 1] {
            let mut bytes = whole.clone();
            bytes[version..][..4].copy_from_slice(&other.to_le_bytes());
            let left = disk.crash();
            left.put(&name, bytes);
            let engine = open(&left);
            check(&engine, &name);
            assert!(maintain(&engine) > 0, "it is made again");
            check(&engine, &name);
            assert_eq!(sealed(&engine), expected);
            for file in left.list("index").unwrap() {
                let made = left.content(&format!("index/{file}")).unwrap();
                let number = made[index_in(&made) + magic.len()..].first_chunk::<4>().unwrap();
                assert_eq!(u32::from_le_bytes(*number), INDEX_VERSION, "{file}");
            }
        }
    }
}

#[test]
fn a_file_of_another_folder_is_found_out() {
    let disk = furnished();
    // The same numbers and shapes, but other vectors.
    let other = Simulated::new();
    let engine = open(&other);
    ingest(&engine, 10..14, 0..40);
    maintain(&engine);
    drop(engine);
    for file in disk.list("index").unwrap() {
        disk.remove(&format!("index/{file}")).unwrap();
    }
    for file in other.list("index").unwrap() {
        let file = format!("index/{file}");
        disk.put(&file, other.content(&file).unwrap());
    }
    let engine = open(&disk.crash());
    check(&engine, "foreign");
    maintain(&engine);
    check(&engine, "made again");
    // Who compares every segment meets it, too.
    let engine = open(&disk);
    let query = KnnQuery { search: Exactness::Exact, ..question(level(900, 3), 7) };
    assert_eq!(hits(&engine.knn(&query).unwrap()), brute(&engine, &query));
}

#[test]
fn without_memory_for_parts_answers_are_the_same() {
    let furnished = furnished();
    for memory in [0, 6_000] {
        let disk = furnished.crash();
        let config =
            Config { index_tail_segments: 40, index_memory_bytes: memory, ..Config::default() };
        let engine = Engine::open_storage(Arc::new(disk.clone()), config).unwrap();
        check(&engine, "little memory");
        ingest(&engine, 0..2, 61..90);
        while engine.maintain_index(&|| true).unwrap() {}
        check(&engine, "still little");
        let status = engine.index_status();
        assert!(status.parts < 2 && status.rows < sealed(&engine).len() as u64, "{status:?}");
        drop(engine);
        // With more of it, what was left alone is of use again.
        check(&open(&disk), "more memory");
    }
}

#[test]
fn an_entity_that_woke_up_is_not_removed() {
    let disk = Simulated::new();
    let engine = open(&disk);
    ingest(&engine, 0..1, 0..5);
    let seen = engine.lives(&name(), None, 10).unwrap()[0].observations;
    ingest(&engine, 0..1, 5..6);
    let refused = engine.remove_if(&name(), &entity(&id(0)), Some(seen));
    assert!(matches!(refused, Err(dunlin_engine::WriteError::Changed { .. })), "{refused:?}");
    let left = disk.crash();
    let engine = open(&left);
    let lives = engine.lives(&name(), None, 10).unwrap();
    assert_eq!((lives.len(), lives[0].observations), (1, 6 * DWELL as u64));
    engine.remove_if(&name(), &entity(&id(0)), Some(6 * DWELL as u64)).unwrap();
    assert!(open(&left.crash()).lives(&name(), None, 10).unwrap().is_empty());
}

#[test]
fn a_crash_at_any_write_leaves_a_folder_that_answers() {
    let run = |disk: &Simulated| -> Option<()> {
        let engine = try_open(disk).ok()?;
        engine.create_collection(summaries(Metric::Euclidean)).ok()?;
        for round in 0..4_i64 {
            for number in 0..3 {
                let batch = regimes(number, round * 20..round * 20 + 20);
                engine.ingest(&name(), batch).ok()?;
            }
            while engine.maintain_index(&|| true).ok()? {}
            if round == 1 {
                engine.checkpoint().ok()?;
            }
            if round == 2 {
                engine.remove(&name(), &entity(&id(1))).ok()?;
            }
        }
        engine.close().ok()
    };
    let undisturbed = Simulated::new();
    run(&undisturbed).unwrap();
    let expected = sealed(&open(&undisturbed));
    let steps = undisturbed.steps();
    assert!(steps > 50, "{steps}");
    for step in (0..steps).step_by(3) {
        let disk = Simulated::new();
        disk.fail_after(step);
        let finished = run(&disk).is_some();
        let left = disk.crash_keeping(|| step % 2 == 0);
        let engine = open(&left);
        check(&engine, &format!("step {step}"));
        maintain(&engine);
        check(&engine, &format!("step {step}, made again"));
        if finished {
            assert_eq!(sealed(&engine), expected);
        }
    }
}

#[test]
fn a_full_disk_stops_the_index_and_nothing_else() {
    let disk = Simulated::new();
    let engine = open(&disk);
    ingest(&engine, 0..4, 0..40);
    disk.fail_after(1);
    assert!(matches!(engine.maintain_index(&|| true), Err(MaintainError::Io(_))));
    check(&engine, "full");
    disk.heal();
    ingest(&engine, 0..4, 40..45);
    assert!(maintain(&engine) > 0);
    check(&engine, "there is room again");
}

#[test]
fn maintenance_that_must_end_ends_with_nothing_changed() {
    let disk = Simulated::new();
    let engine = open(&disk);
    ingest(&engine, 0..4, 0..40);
    assert!(!engine.maintain_index(&|| false).unwrap());
    assert_eq!((engine.index_status().parts, disk.list("index").unwrap().len()), (0, 0));
    check(&engine, "not begun");
}

#[test]
fn questions_writes_removals_and_maintenance_go_on_together() {
    let disk = Simulated::new();
    let engine = open(&disk);
    ingest(&engine, 0..2, 0..60);
    let done = std::sync::atomic::AtomicBool::new(false);
    let is_done = || done.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done() {
                engine.maintain_index(&|| true).unwrap();
            }
        });
        scope.spawn(|| {
            while !is_done() {
                // What no thread removes is found, every time.
                let nearest = engine.knn(&question(level(0, 7), 1)).unwrap();
                assert_eq!((nearest.neighbors.len(), nearest.neighbors[0].distance), (1, 0.0));
            }
        });
        for round in 0..12 {
            ingest(&engine, 3..6, 0..30);
            for number in 3..6 {
                engine.remove(&name(), &entity(&id(number))).unwrap();
            }
            ingest(&engine, 1..2, 60 + round * 5..65 + round * 5);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    check(&engine, "together");
    // What was removed while a part was made that had it stays removed.
    let query = KnnQuery { search: Exactness::Exact, ..question(level(4, 7), 20) };
    for engine in [open(&disk.crash()), engine] {
        assert_eq!(hits(&engine.knn(&query).unwrap()), brute(&engine, &query));
        maintain(&engine);
        check(&engine, "calm");
    }
}
