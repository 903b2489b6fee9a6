//! A disk that refuses a step loses and leaks nothing: what was acknowledged stays, what was refused is there whole or
//! not at all, and no file is left that no block has.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[expect(dead_code, reason = "a disk without power is for `crash.rs`")]
mod disk;

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    time::Duration,
};

use disk::{Asked, Powerless, REFUSED, Recorder, with_files};
use dunlin_archive::{Archive, Object, Pin, PutError, ReadError, Retention, Stats};
use dunlin_wire::block::{Block, Codec};

/// When the newer of the fetched objects came, and retention looks for old ones.
const NOW_MS: u64 = 9_000_000;

fn servers() -> Pin {
    Pin::own("servers")
}

/// An object of another node, with files.
fn fetched(number: u64) -> Object {
    Object { pin: Pin::fetched("servers"), ..with_files(number) }
}

fn small(number: u64) -> Object {
    let root = Block::new(Codec::Raw, format!("small {number}").into_bytes());
    Object::leaf(servers(), root)
}

/// All objects of the scenario, by number.
fn object(number: u64) -> Object {
    match number {
        0 | 1 | 4 | 9 => with_files(number),
        2 | 3 => fetched(number),
        _ => small(number),
    }
}

type Step = fn(&Archive) -> Result<(), Box<dyn Error>>;

/// What is done, and the objects that are held afterwards.
const SCENARIO: [(Step, &[u64]); 6] = [
    (|archive| Ok(archive.put(&[object(0), object(1), object(5)], Some(0))?), &[0, 1, 5]),
    (|archive| Ok(archive.put_fetched(&[object(2)], 1_000)?), &[0, 1, 2, 5]),
    (|archive| Ok(archive.unpin_root(&servers(), object(0).root.cid()).map(drop)?), &[1, 2, 5]),
    (|archive| Ok(archive.put_fetched(&[object(3)], NOW_MS)?), &[1, 2, 3, 5]),
    (retain, &[1, 3, 5]),
    (|archive| Ok(archive.put(&[object(4)], Some(1))?), &[1, 3, 4, 5]),
];

/// Has the old one of the fetched objects leave.
fn retain(archive: &Archive) -> Result<(), Box<dyn Error>> {
    let mut retention = Retention::new(Some(Duration::from_secs(60)));
    while retention.step(archive, NOW_MS)?.is_more {}
    Ok(())
}

fn set(numbers: &[u64]) -> BTreeSet<u64> {
    numbers.iter().copied().collect()
}

/// Returns which objects an archive holds: whole, counted, and nothing else.
#[track_caller]
fn held(archive: &Archive, disk: &Recorder) -> BTreeSet<u64> {
    let mut roots = archive.roots(&servers(), None, 100).unwrap();
    roots.extend(archive.roots(&Pin::fetched("servers"), None, 100).unwrap());
    let held: BTreeSet<u64> =
        (0..10).filter(|number| roots.contains(object(*number).root.cid())).collect();
    assert_eq!(held.len(), roots.len());
    let (mut stats, mut files) = (Stats::default(), 0);
    for object in held.iter().copied().map(object) {
        for block in object.links.iter().chain([&object.root]) {
            assert_eq!(archive.get(block.cid()).unwrap().as_deref(), Some(block.bytes()));
            stats.blocks += 1;
            stats.bytes += block.bytes().len() as u64;
        }
        files += object.links.len();
    }
    assert_eq!((archive.stats().unwrap(), disk.files()), (stats, files));
    held
}

/// Returns the innermost cause of an error.
fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// A store that has failed once says so, whatever is asked of it, and touches no file.
#[track_caller]
fn refuses_everything(archive: &Archive, disk: &Recorder, acknowledged: &BTreeSet<u64>) {
    let before = disk.recorded().disk.files.clone();
    for (step, _) in SCENARIO {
        let refused = step(archive).unwrap_err();
        let said = root_cause(refused.as_ref());
        assert!(said.contains("Previous I/O error"), "{refused}: {said}");
    }
    let refused = archive.put(&[object(9)], None).unwrap_err();
    assert!(matches!(refused, PutError::Database(_)), "{refused}");
    for object in acknowledged.iter().copied().map(object) {
        for block in object.links.iter().chain([&object.root]) {
            // What redb has in memory is read as before.
            match archive.get(block.cid()) {
                Ok(read) => assert_eq!(read.as_deref(), Some(block.bytes())),
                Err(refused) => assert!(matches!(refused, ReadError::Database(_)), "{refused}"),
            }
        }
    }
    let after = disk.recorded().disk.files.clone();
    assert!(before.keys().eq(after.keys()), "{before:?}, {after:?}");
}

/// How often a disk refused something, and what came of it.
#[derive(Debug, Default)]
struct Seen {
    refused: BTreeMap<Asked, usize>,
    /// Restarts that had the batch that was refused.
    landed: usize,
    /// Restarts that had not.
    lost: usize,
    /// Files that a restart found, and no block had.
    swept: usize,
}

/// Opens what is left in the end, which has the objects of one of these states, and takes more.
#[track_caller]
fn reopen(left: Powerless, states: &[BTreeSet<u64>], seen: &mut Seen) {
    let files = left.files.len();
    let disk = Recorder::of(left);
    let archive = disk.open();
    seen.swept += files - disk.files();
    let found = held(&archive, &disk);
    assert!(states.contains(&found), "{found:?} is none of {states:?}");
    if let [before, after] = states {
        *(if found == *before { &mut seen.lost } else { &mut seen.landed }) +=
            usize::from(before != after);
    }
    archive.put(&[object(9)], None).unwrap();
    assert_eq!(held(&archive, &disk), &found | &set(&[9]));
}

/// Goes through the scenario on a disk that refuses what it is asked for after so many times; returns whether it
/// was asked that often.
fn refusing_after(count: usize, seen: &mut Seen) -> bool {
    let disk = Recorder::default();
    let archive = disk.open();
    disk.recorded().refuses_after = Some(count);
    let mut acknowledged = BTreeSet::new();
    // What a restart may find.
    let mut states = Vec::new();
    for (step, after) in SCENARIO {
        let after = set(after);
        if let Err(refused) = step(&archive) {
            assert!(root_cause(refused.as_ref()).contains(REFUSED), "{refused:?}");
            if disk.recorded().refused.unwrap().is_of_store() {
                refuses_everything(&archive, &disk, &acknowledged);
                states = vec![acknowledged, after];
                break;
            }
            step(&archive).unwrap();
        }
        acknowledged = after.clone();
        states = vec![after];
    }
    drop(archive);
    let (refused, lefts) = {
        let recorded = disk.recorded();
        (recorded.refused, recorded.after_a_restart())
    };
    for left in lefts {
        reopen(left, &states, seen);
    }
    refused.is_some_and(|refused| {
        *seen.refused.entry(refused).or_default() += 1;
        true
    })
}

#[test]
fn a_disk_that_refuses_any_step_once_loses_nothing_acknowledged_and_leaves_no_stray_file() {
    let mut seen = Seen::default();
    let mut count = 0;
    while refusing_after(count, &mut seen) {
        count += 1;
    }
    // Each kind of step was refused, and a commit that was refused was found done and not done.
    assert_eq!(seen.refused.len(), 7, "{seen:?}");
    assert!(seen.landed > 0 && seen.lost > 10 && seen.swept > 10, "{seen:?}");
}
