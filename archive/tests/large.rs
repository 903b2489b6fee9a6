//! Large blocks, which stand in files: they are there, whole and counted, or said to be damaged; and no file is left
//! that no block has.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Seek, SeekFrom, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use dunlin_archive::{
    Archive, Config, LARGE_BYTES_MIN, Object, OpenError, Pin, PutError, ReadError, Retention,
    Stats, disk_bytes,
};
use dunlin_wire::block::{Block, Codec};

/// A block of so many bytes, which repeat nowhere.
fn block(number: u64, bytes: usize) -> Block {
    let words = (0..bytes as u64 / 8 + 1)
        .map(|word| ((number << 40) + word).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    let mut content: Vec<u8> = words.flatten().collect();
    content.truncate(bytes);
    Block::new(Codec::Raw, content)
}

/// A block that stands in a file.
fn large(number: u64) -> Block {
    block(number, LARGE_BYTES_MIN + 8)
}

fn leaf(pin: &Pin, block: &Block) -> Object {
    Object::leaf(pin.clone(), block.clone())
}

struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("blocks.redb")
    }

    fn open(&self) -> Archive {
        Archive::open(&self.path(), Config::default()).unwrap()
    }

    fn files(&self) -> Vec<PathBuf> {
        files(&self.path())
    }
}

/// Returns the files of blocks of the archive at `path`.
fn files(path: &Path) -> Vec<PathBuf> {
    let Ok(folders) = fs::read_dir(path.with_extension("files")) else { return Vec::new() };
    let mut found = Vec::new();
    for folder in folders {
        found
            .extend(fs::read_dir(folder.unwrap().path()).unwrap().map(|file| file.unwrap().path()));
    }
    found.sort();
    found
}

/// Returns the file with the bytes of a block.
#[track_caller]
fn file_of(path: &Path, block: &Block) -> PathBuf {
    let has = |file: &PathBuf| fs::read(file).is_ok_and(|bytes| bytes == block.bytes());
    let mut having = files(path).into_iter().filter(has);
    let found = having.next().unwrap();
    assert_eq!(having.next(), None, "it is there once");
    found
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn large_blocks_stand_in_files_come_back_are_counted_and_leave() {
    let fixture = Fixture::new();
    let archive = fixture.open();
    let pin = Pin::own("servers");
    let sizes = [LARGE_BYTES_MIN - 1, LARGE_BYTES_MIN, LARGE_BYTES_MIN + 1, 1 << 20, 2 << 20];
    let blocks = sizes.map(|bytes| block(1, bytes));
    let objects: Vec<_> = blocks.iter().map(|block| leaf(&pin, block)).collect();
    archive.put(&objects, None).unwrap();
    // Twice is once.
    archive.put(&objects, None).unwrap();
    archive.put(&[leaf(&Pin::fetched("servers"), &blocks[4])], None).unwrap();
    let bytes = sizes.iter().sum::<usize>() as u64;
    let full = Stats { blocks: 5, bytes };
    assert_eq!(archive.stats().unwrap(), full);
    drop(archive);
    let files = fixture.files();
    assert_eq!(files.len(), 4);
    for file in &files {
        assert_eq!((mode(file), mode(file.parent().unwrap())), (0o600, 0o700));
    }
    assert_eq!(mode(&fixture.path().with_extension("files")), 0o700);
    let in_files = bytes - sizes[0] as u64;
    let in_redb = fs::metadata(fixture.path()).unwrap().len();
    assert_eq!(disk_bytes(&fixture.path()), in_redb + in_files);
    assert!(in_redb < LARGE_BYTES_MIN as u64 * 8, "{in_redb}");

    let mut archive = fixture.open();
    archive.compact().unwrap();
    assert_eq!(archive.usage("own/").unwrap()[&pin].bytes, bytes);
    for block in &blocks {
        assert_eq!(archive.get(block.cid()).unwrap().as_deref(), Some(block.bytes()));
        let held = archive.held(&pin, block.cid()).unwrap().unwrap();
        assert_eq!(held.bytes, block.bytes().len() as u64);
    }
    assert_eq!(archive.unpin_roots(&pin, &[*blocks[3].cid()]).unwrap(), 1 << 20);
    assert_eq!((fixture.files().len(), archive.stats().unwrap().blocks), (3, 4));
    archive.unpin(&pin).unwrap();
    // Another pin has it.
    assert_eq!(archive.stats().unwrap(), Stats { blocks: 1, bytes: 2 << 20 });
    assert_eq!(fs::read(&fixture.files()[0]).unwrap(), blocks[4].bytes());
    archive.unpin(&Pin::fetched("servers")).unwrap();
    assert_eq!((archive.stats().unwrap(), fixture.files()), (Stats::default(), Vec::new()));
}

#[test]
fn a_file_that_was_damaged_is_never_returned_and_the_block_can_be_stored_again() {
    let fixture = Fixture::new();
    let (pin, bad, good) = (Pin::own("servers"), large(1), large(2));
    fixture.open().put(&[leaf(&pin, &bad), leaf(&pin, &good)], None).unwrap();
    let flip = |path: &Path| {
        let mut file = OpenOptions::new().write(true).open(path).unwrap();
        file.seek(SeekFrom::Start(77)).unwrap();
        file.write_all(&[bad.bytes()[77] ^ 4]).unwrap();
    };
    let resize = |path: &Path, bytes: usize| {
        OpenOptions::new().write(true).open(path).unwrap().set_len(bytes as u64).unwrap();
    };
    let damages: [&dyn Fn(&Path); 7] = [
        &flip,
        &|path| resize(path, bad.bytes().len() - 1),
        &|path| resize(path, bad.bytes().len() + 1),
        &|path| resize(path, 0),
        &|path| fs::write(path, good.bytes()).unwrap(),
        &|path| fs::remove_file(path).unwrap(),
        &|path| fs::remove_file(path).and_then(|()| fs::create_dir(path)).unwrap(),
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        // While it is open, as disks do it, and when it is opened.
        let (archive, path) = (fixture.open(), file_of(&fixture.path(), &bad));
        damage(&path);
        let is_damaged = |archive: &Archive| {
            let read = archive.get(bad.cid());
            assert!(matches!(read, Err(ReadError::Damaged { .. })), "{number}: {read:?}");
            assert_eq!(archive.get(good.cid()).unwrap().as_deref(), Some(good.bytes()));
        };
        is_damaged(&archive);
        drop(archive);
        let archive = fixture.open();
        is_damaged(&archive);
        let before = archive.stats().unwrap();
        match number % 2 {
            0 => archive.put(&[leaf(&pin, &bad)], None).unwrap(),
            _ => archive.mend(&bad).unwrap(),
        }
        assert_eq!(archive.get(bad.cid()).unwrap().as_deref(), Some(bad.bytes()), "{number}");
        assert_eq!(archive.stats().unwrap(), before);
        file_of(&fixture.path(), &bad);
    }
    // What took the place of a file and is none is left to whoever made it.
    assert_eq!(fixture.files().iter().filter(|path| path.is_file()).count(), 2);
}

#[test]
fn what_no_row_names_goes_when_the_archive_is_opened_and_nothing_else_does() {
    let fixture = Fixture::new();
    let (pin, block) = (Pin::own("servers"), large(1));
    fixture.open().put(&[leaf(&pin, &block)], None).unwrap();
    let folder = fixture.path().with_extension("files");
    let write = |name: &str| {
        fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        fs::write(folder.join(name), b"what a crash left").unwrap();
    };
    // Of these, the archive writes none: a padded number, one in another's folder, a name.
    let others = ["0/007", "0/1000", "7/notes.txt", "README"];
    others.into_iter().chain(["0/1", "0/999", "3/3777"]).for_each(write);
    let archive = fixture.open();
    for name in others {
        assert!(folder.join(name).exists(), "{name}");
    }
    for name in ["0/1", "0/999", "3"] {
        assert!(!folder.join(name).exists(), "{name}");
    }
    assert_eq!(archive.get(block.cid()).unwrap().as_deref(), Some(block.bytes()));
    archive.put(&[leaf(&pin, &large(2))], None).unwrap();
    assert_eq!(fs::read(folder.join("3/3778")).unwrap(), large(2).bytes());
    drop(archive);
    // Without its rows the whole folder would be what a crash left.
    let moved = fixture.path().with_extension("moved");
    fs::rename(fixture.path(), &moved).unwrap();
    let refused = Archive::open(&fixture.path(), Config::default()).unwrap_err();
    assert!(matches!(refused, OpenError::Missing { .. }), "{refused}");
    fs::rename(&moved, fixture.path()).unwrap();
    assert_eq!(fixture.open().get(block.cid()).unwrap().as_deref(), Some(block.bytes()));
    fs::remove_file(fixture.path()).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(fixture.open().stats().unwrap(), Stats::default());
}

#[test]
fn a_batch_beyond_the_quota_writes_no_file() {
    let fixture = Fixture::new();
    let config = Config { bytes_max: 3 * LARGE_BYTES_MIN as u64, ..Config::default() };
    let archive = Archive::open(&fixture.path(), config).unwrap();
    let pin = Pin::own("servers");
    archive.put(&[leaf(&pin, &large(1))], None).unwrap();
    let batch = [leaf(&pin, &large(2)), leaf(&pin, &large(3))];
    let refused = archive.put(&batch, Some(1)).unwrap_err();
    assert!(matches!(refused, PutError::Full { .. }), "{refused}");
    assert_eq!((fixture.files().len(), archive.position().unwrap()), (1, None));
    // Room that the same commit makes counts.
    archive.put(&[leaf(&Pin::fetched("servers"), &large(4))], None).unwrap();
    archive.replace(&leaf(&Pin::fetched("servers"), &large(5))).unwrap();
    assert_eq!((fixture.files().len(), archive.stats().unwrap().blocks), (2, 2));
}

#[test]
fn retention_takes_the_files_of_what_was_fetched_and_no_others() {
    let fixture = Fixture::new();
    let archive = fixture.open();
    let (own, fetched) = (Pin::own("servers"), Pin::fetched("servers"));
    let object = |pin: &Pin, root: u64, link: u64| Object {
        pin: pin.clone(),
        root: block(root, 100),
        links: vec![large(link)],
    };
    archive.put(&[object(&own, 1, 11)], None).unwrap();
    // One is only here, one was sealed here as well, and one has its payload in common with an own segment.
    let objects = [object(&fetched, 2, 12), object(&fetched, 1, 11), object(&fetched, 3, 11)];
    archive.put_fetched(&objects, 1_000).unwrap();
    archive.put_fetched(&[object(&fetched, 4, 14)], 9_000_000).unwrap();
    assert_eq!(fixture.files().len(), 3);
    let mut retention = Retention::new(Some(std::time::Duration::from_secs(60)));
    let mut left = 0;
    loop {
        let step = retention.step(&archive, 9_000_000).unwrap();
        left += step.objects;
        if !step.is_more {
            break;
        }
    }
    assert_eq!(left, 2);
    let whole = |number: u64| archive.get(large(number).cid()).unwrap().is_some();
    assert!(whole(11) && !whole(12) && whole(14));
    assert_eq!(fixture.files().len(), 2);
}

#[test]
fn readers_see_a_block_whole_or_not_at_all_while_it_leaves_and_comes_back() {
    let fixture = Fixture::new();
    let archive = fixture.open();
    let (pin, block) = (Pin::fetched("servers"), large(1));
    let (is_over, seen, missed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let read = || {
        while !is_over.load(Ordering::Relaxed) {
            match archive.get(block.cid()).unwrap() {
                Some(bytes) => {
                    assert_eq!(bytes, block.bytes());
                    seen.fetch_add(1, Ordering::Relaxed);
                }
                None => drop(missed.fetch_add(1, Ordering::Relaxed)),
            }
        }
    };
    thread::scope(|scope| {
        let readers = [(); 3].map(|()| scope.spawn(read));
        let enough = |count: &AtomicU64| count.load(Ordering::Relaxed) >= 50;
        let mut rounds = 0;
        // A machine that is busy with other things gives readers their turn at last. One that ends has failed.
        while (rounds < 200 || !enough(&seen) || !enough(&missed))
            && !readers.iter().any(|reader| reader.is_finished())
        {
            archive.put(&[leaf(&pin, &block)], None).unwrap();
            archive.unpin_root(&pin, block.cid()).unwrap();
            rounds += 1;
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!((archive.stats().unwrap(), fixture.files().len()), (Stats::default(), 0));
}

/// A disk of its own of 4 MiB, gone when the test ends.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one, as root; others are told that they cannot.
    fn mount(path: &Path) -> Option<Self> {
        fs::create_dir(path).unwrap();
        let disk = Self(path.into());
        disk.run(&["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).then_some(disk)
    }

    fn run(&self, args: &[&str]) -> bool {
        let mounted = Command::new("mount").args(args).arg(&self.0).stderr(Stdio::null()).status();
        mounted.is_ok_and(|status| status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).stderr(Stdio::null()).status().ok();
    }
}

#[test]
fn a_full_disk_refuses_the_batch_leaves_nothing_of_it_and_takes_it_when_there_is_room() {
    let temp = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&temp.path().join("disk")) else {
        // Only root may mount; `crash.rs` fills a disk in memory for everybody.
        return eprintln!("not run: mounting a small disk needs root");
    };
    let path = disk.0.join("blocks.redb");
    let archive = Archive::open(&path, Config::default()).unwrap();
    let pin = Pin::own("servers");
    archive.put(&[leaf(&pin, &large(0))], Some(0)).unwrap();
    let batch: Vec<_> = (1..20).map(|number| leaf(&pin, &large(number))).collect();
    let refused = archive.put(&batch, Some(1)).unwrap_err();
    let cause = std::error::Error::source(&refused).unwrap().to_string();
    assert!(cause.contains("No space left on device"), "{refused}: {cause}");
    assert_eq!(files(&path).len(), 1);
    assert_eq!(archive.stats().unwrap().blocks, 1);
    assert_eq!(archive.get(large(0).cid()).unwrap().as_deref(), Some(large(0).bytes()));
    assert!(disk.run(&["-o", "remount,size=64m"]));
    archive.put(&batch, Some(1)).unwrap();
    assert_eq!((files(&path).len(), archive.position().unwrap()), (20, Some(1)));
}

/// Tells the process of [`puts_until_it_is_killed`] where its archive is.
const FOLDER: &str = "DUNLIN_TEST_ARCHIVE";

/// Objects that the process to be killed keeps at once.
const KEPT: u64 = 3;

fn object(number: u64) -> Object {
    let links = vec![large(2 * number), large(2 * number + 1)];
    Object { pin: Pin::own("servers"), root: block(number, 64), links }
}

/// No test by itself: what [`killed_at_any_moment_it_has_what_was_acknowledged_and_no_other_file`] kills.
#[test]
fn puts_until_it_is_killed() {
    let Some(path) = std::env::var_os(FOLDER) else { return };
    let archive = Archive::open(Path::new(&path), Config::default()).unwrap();
    let first = archive.position().unwrap().map_or(0, |position| position + 1);
    for number in first.. {
        archive.put(&[object(number)], Some(number)).unwrap();
        println!("put {number}");
        if let Some(old) = number.checked_sub(KEPT) {
            archive.unpin_root(&Pin::own("servers"), object(old).root.cid()).unwrap();
        }
    }
}

#[test]
fn killed_at_any_moment_it_has_what_was_acknowledged_and_no_other_file() {
    let fixture = Fixture::new();
    let mut acknowledged = None;
    for round in 0..12_u32 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "puts_until_it_is_killed", "--nocapture"])
            .env(FOLDER, fixture.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut puts = lines.filter_map(|line| line.strip_prefix("put ")?.parse::<u64>().ok());
        for _ in 0..=round % 4 {
            acknowledged = puts.next().or(acknowledged);
        }
        // Somewhere in the next put, or in what leaves before it.
        thread::sleep(std::time::Duration::from_micros(u64::from(round) * 700));
        child.kill().unwrap();
        acknowledged = puts.last().or(acknowledged);
        child.wait().unwrap();

        let archive = fixture.open();
        let last = archive.position().unwrap().unwrap();
        assert!(Some(last) >= acknowledged, "{last} of {acknowledged:?}");
        let pinned = archive.roots(&Pin::own("servers"), None, 100).unwrap();
        let pinned: BTreeSet<_> = pinned.into_iter().collect();
        for number in last.saturating_sub(KEPT - 1)..=last {
            for block in object(number).links.iter().chain([&object(number).root]) {
                assert_eq!(archive.get(block.cid()).unwrap().as_deref(), Some(block.bytes()));
            }
            assert!(pinned.contains(object(number).root.cid()));
        }
        assert_eq!(fixture.files().len(), 2 * pinned.len(), "round {round}");
        // An unpin that was interrupted is not done again; the next life begins with what it should have.
        if let Some(old) = last.checked_sub(KEPT) {
            archive.unpin_root(&Pin::own("servers"), object(old).root.cid()).unwrap();
        }
    }
    assert!(acknowledged > Some(12), "{acknowledged:?}");
}
