//! Measures what the archive's format page says: blocks of many sizes put and read, what redb's file does when
//! blocks leave, and how long a writer waits while many do.
//!
//! `cargo run --release -p dunlin-archive --example store -- FOLDER`

#![expect(clippy::unwrap_used, reason = "a measurement stops at the first surprise")]

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use dunlin_archive::{Archive, Config, LARGE_BYTES_MIN, Object, Pin, Retention};
use dunlin_wire::{
    Cid,
    block::{Block, Codec},
};
use redb::backends::FileBackend;

const MIB: usize = 1 << 20;

/// Blocks in one durable batch at most, and their bytes: as a node commits what it fetches.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 16 * MIB;

/// Objects of the size of a summary.
const SMALL: u64 = 100_000;

fn main() {
    let folder = std::env::args().nth(1).expect("a folder to work in");
    let folder = tempfile::tempdir_in(folder).unwrap();
    for round in 1..=3 {
        println!("round {round}");
        let sizes = [4, 32, 64, 128, 256, 512, 1_024].map(|kib| kib * 1_024);
        for bytes in sizes {
            let count = if bytes == 4_096 { 2_000 } else { 64 * MIB / bytes };
            let folder = folder.path().join(format!("transfer-{bytes}-{round}"));
            transfer("redb", &in_redb(&folder.join("redb")), count, bytes);
            if bytes >= LARGE_BYTES_MIN {
                transfer("files", &open(&folder.join("files")), count, bytes);
            }
        }
    }
    leaving(&folder.path().join("leaving"));
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

fn open(folder: &Path) -> Archive {
    fs::create_dir_all(folder).unwrap();
    Archive::open(&folder.join("blocks.redb"), Config::default()).unwrap()
}

/// Opens an archive whose large blocks stand in pieces in redb's file.
fn in_redb(folder: &Path) -> Archive {
    fs::create_dir_all(folder).unwrap();
    let file = fs::File::create_new(folder.join("blocks.redb")).unwrap();
    let storage = FileBackend::new(file).unwrap();
    Archive::open_on(storage, None, Config::default()).unwrap()
}

fn file_mib(folder: &Path) -> f64 {
    fs::metadata(folder.join("blocks.redb")).unwrap().len() as f64 / MIB as f64
}

fn objects(numbers: std::ops::Range<u64>, bytes: usize, pin: &Pin) -> Vec<Object> {
    numbers.map(|number| Object::leaf(pin.clone(), block(number, bytes))).collect()
}

fn put(archive: &Archive, objects: &[Object], bytes: usize) {
    let batch = BATCH.min(BATCH_BYTES / bytes);
    objects.chunks(batch).for_each(|batch| archive.put(batch, None).unwrap());
}

/// How fast blocks of a size are put, in durable batches, and read, verified. redb's file and those of blocks take
/// turns, for a disk is not equally fast all the time.
fn transfer(place: &str, archive: &Archive, count: usize, bytes: usize) {
    let objects = objects(0..count as u64, bytes, &Pin::fetched("bench"));
    let mib = (count * bytes) as f64 / MIB as f64;
    let began = Instant::now();
    put(archive, &objects, bytes);
    let put = began.elapsed().as_secs_f64();
    let began = Instant::now();
    for object in &objects {
        let read = archive.get(object.root.cid()).unwrap();
        assert_eq!(read.map(|read| read.len()), Some(bytes));
    }
    let get = began.elapsed().as_secs_f64();
    let kib = bytes / 1_024;
    println!(
        "  {count:>5} x {kib:>5} KiB, {place:<5}: put {put:.3} s, {:>4.0} MiB/s; get {get:.3} s, {:>5.0} MiB/s",
        mib / put,
        mib / get
    );
}

/// What redb's file does when blocks leave that stand in it.
fn leaving(folder: &Path) {
    const BYTES: usize = MIB / 8;
    const COUNT: u64 = 2_048;
    let mut archive = open(folder);
    let pin = Pin::own("bench");
    let blocks = objects(0..COUNT, BYTES, &pin);
    let cids: Vec<Cid> = blocks.iter().map(|object| *object.root.cid()).collect();
    put(&archive, &blocks, BYTES);
    print!("redb's file: {:.0} MiB", file_mib(folder));
    cids.chunks(BATCH).step_by(2).for_each(|batch| {
        archive.unpin_roots(&pin, batch).unwrap();
    });
    print!(", half removed: {:.0}", file_mib(folder));
    let more = Pin::own("more");
    put(&archive, &objects(COUNT..COUNT + COUNT / 2, BYTES, &more), BYTES);
    print!(", as many put: {:.0}", file_mib(folder));
    archive.unpin(&more).unwrap();
    let began = Instant::now();
    while archive.compact().unwrap() {}
    let seconds = began.elapsed().as_secs_f64();
    println!(", removed and compacted: {:.0}, in {seconds:.1} s", file_mib(folder));
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
