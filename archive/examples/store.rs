//! Measures what the archive's format page says of redb and of files: large blocks put and read, what the
//! file does when blocks leave, and how long a writer waits while many do.
//!
//! `cargo run --release -p dunlin-archive --example store -- FOLDER`

#![expect(clippy::unwrap_used, reason = "a measurement stops at the first surprise")]

use std::{
    fs,
    io::Write,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use dunlin_archive::{Archive, Config, Object, Pin, Retention};
use dunlin_wire::{
    Cid,
    block::{Block, Codec, verify},
};

const MIB: usize = 1 << 20;

/// Blocks of 1 MiB.
const BLOCKS: u64 = 256;

/// Blocks in one durable batch.
const BATCH: usize = 16;

/// Objects of the size of a summary.
const SMALL: u64 = 100_000;

fn main() {
    let folder = std::env::args().nth(1).expect("a folder to work in");
    let folder = tempfile::tempdir_in(folder).unwrap();
    for bytes in [MIB / 2, MIB - 4_096, MIB] {
        room(&folder.path().join(format!("room-{bytes}")), bytes);
    }
    for round in 1..=3 {
        println!("round {round}");
        redb(&folder.path().join(format!("redb-{round}")));
        files(&folder.path().join(format!("files-{round}")));
    }
    removal(&folder.path().join("removal"));
}

/// Bytes that no disk packs: a counter in SplitMix64.
fn block(number: u64, bytes: usize) -> Block {
    let words = (0..bytes / 8).map(|word| {
        let mut mixed = ((number << 20) + word as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).to_le_bytes()
    });
    Block::new(Codec::Raw, words.flatten().collect())
}

fn rate(what: &str, began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    println!("  {what:<24}{:>8.0} MiB/s", BLOCKS as f64 / seconds);
}

fn open(folder: &Path) -> Archive {
    fs::create_dir_all(folder).unwrap();
    Archive::open(&folder.join("blocks.redb"), Config::default()).unwrap()
}

fn file_mib(folder: &Path) -> f64 {
    fs::metadata(folder.join("blocks.redb")).unwrap().len() as f64 / MIB as f64
}

/// How much room blocks of a size take.
fn room(folder: &Path, bytes: usize) {
    let archive = open(folder);
    for batch in 0..4 {
        let numbers = batch * BATCH as u64..(batch + 1) * BATCH as u64;
        let objects: Vec<_> =
            numbers.map(|number| Object::leaf(Pin::own("bench"), block(number, bytes))).collect();
        archive.put(&objects, None).unwrap();
    }
    let mut archive = archive;
    while archive.compact().unwrap() {}
    let (blocks, file) = ((4 * BATCH * bytes) as f64 / MIB as f64, file_mib(folder));
    println!("{} blocks of {bytes} bytes, {blocks:.1} MiB: a file of {file:.1} MiB", 4 * BATCH);
}

fn redb(folder: &Path) {
    let blocks: Vec<_> = (0..BLOCKS).map(|number| block(number, MIB)).collect();
    let cids: Vec<Cid> = blocks.iter().map(|block| *block.cid()).collect();
    let objects: Vec<_> =
        blocks.into_iter().map(|block| Object::leaf(Pin::own("bench"), block)).collect();
    let mut archive = open(folder);
    let began = Instant::now();
    objects.chunks(BATCH).for_each(|batch| archive.put(batch, None).unwrap());
    rate("redb, put", began);
    let began = Instant::now();
    cids.iter().for_each(|cid| drop(archive.get(cid).unwrap().unwrap()));
    rate("redb, get, verified", began);
    print!("  redb's file: {:.0} MiB", file_mib(folder));
    cids.chunks(BATCH).step_by(2).for_each(|batch| {
        archive.unpin_roots(&Pin::own("bench"), batch).unwrap();
    });
    print!(", half removed: {:.0}", file_mib(folder));
    let more: Vec<_> = (BLOCKS..BLOCKS + BLOCKS / 2)
        .map(|number| Object::leaf(Pin::own("more"), block(number, MIB)))
        .collect();
    more.chunks(BATCH).for_each(|batch| archive.put(batch, None).unwrap());
    print!(", as many put: {:.0}", file_mib(folder));
    archive.unpin(&Pin::own("more")).unwrap();
    let began = Instant::now();
    while archive.compact().unwrap() {}
    let seconds = began.elapsed().as_secs_f64();
    println!(", removed and compacted: {:.0}, in {seconds:.1} s", file_mib(folder));
}

/// Blocks as files, in folders by two letters, each written aside, synced and renamed; folders are synced
/// with the batch. So a put is as durable as one of redb, though not all or nothing.
fn files(folder: &Path) {
    let blocks: Vec<_> = (0..BLOCKS).map(|number| block(number, MIB)).collect();
    let path = |cid: &Cid| {
        let name = cid.to_string();
        folder.join(&name[name.len() - 2..]).join(&name)
    };
    let began = Instant::now();
    for batch in blocks.chunks(BATCH) {
        for block in batch {
            let path = path(block.cid());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let aside = path.with_extension("new");
            let mut file = fs::File::create(&aside).unwrap();
            file.write_all(block.bytes()).unwrap();
            file.sync_data().unwrap();
            fs::rename(&aside, &path).unwrap();
        }
        for block in batch {
            fs::File::open(path(block.cid()).parent().unwrap()).unwrap().sync_all().unwrap();
        }
    }
    rate("files, put", began);
    let began = Instant::now();
    for block in &blocks {
        verify(block.cid(), &fs::read(path(block.cid())).unwrap()).unwrap();
    }
    rate("files, get, verified", began);
}

/// How long a writer waits: alone, while many objects leave in steps, and while they leave all at once.
fn removal(folder: &Path) {
    let archive = open(folder);
    let fetched = |number| {
        let root = block((1 << 30) + number, 1_792);
        Object { pin: Pin::fetched("bench"), root, links: Vec::new() }
    };
    let objects: Vec<_> = (0..SMALL).map(fetched).collect();
    objects.chunks(4_096).for_each(|batch| archive.put_fetched(batch, 1).unwrap());
    println!("{SMALL} objects of 1,792 bytes, and a writer of one more at a time");
    beside(&archive, "nobody else writes", 0, || thread::sleep(Duration::from_secs(5)));
    beside(&archive, "while they leave", 1 << 20, || in_steps(&archive));
    objects.chunks(4_096).for_each(|batch| archive.put_fetched(batch, 1).unwrap());
    beside(&archive, "while they leave at once", 2 << 20, || {
        archive.unpin(&Pin::fetched("bench")).unwrap();
    });
}

/// Has all fetched objects leave, as the node does it.
fn in_steps(archive: &Archive) {
    let began = Instant::now();
    let mut retention = Retention::new(Some(Duration::from_secs(1)));
    let (mut objects, mut longest) = (0, Duration::ZERO);
    loop {
        let step_began = Instant::now();
        let step = retention.step(archive, u64::from(u32::MAX)).unwrap();
        objects += step.objects;
        longest = longest.max(step_began.elapsed());
        if !step.is_more {
            break;
        }
        thread::sleep(step_began.elapsed().max(Duration::from_millis(2)));
    }
    assert_eq!(objects, SMALL);
    let seconds = began.elapsed().as_secs_f64();
    println!("  {objects} objects left in {seconds:.1} s; the longest step took {longest:?}");
}

/// Does `work`, and says how long a writer beside it waited.
fn beside(archive: &Archive, what: &str, from: u64, work: impl FnOnce() + Send) {
    let done = AtomicBool::new(false);
    let mut waits = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            work();
            done.store(true, Ordering::Relaxed);
        });
        for number in from.. {
            let object = Object::leaf(Pin::own("writer"), block((2 << 30) + number, 1_792));
            let began = Instant::now();
            archive.put(&[object], None).unwrap();
            waits.push(began.elapsed());
            if done.load(Ordering::Relaxed) {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
    });
    waits.sort_unstable();
    let (median, longest) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    println!("  {what}: {} puts, median {median:?}, longest {longest:?}", waits.len());
}
