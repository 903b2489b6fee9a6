//! What the store promises: whole objects, verified reads, counted blocks, nothing half done.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    path::PathBuf,
};

use dunlin_archive::{
    Archive, Config, Object, OpenError, Pin, PutError, ReadError, Stats,
    catalog::{self, Entry},
};
use dunlin_wire::block::{Block, Codec};
use libp2p_identity::Keypair;

fn block(content: &str) -> Block {
    Block::new(Codec::Raw, content.as_bytes().to_vec())
}

fn object(pin: &Pin, root: &str, links: &[&str]) -> Object {
    let links = links.iter().map(|content| block(content)).collect();
    Object { pin: pin.clone(), root: block(root), links }
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

    /// Makes an archive whose large blocks stand in pieces, as they did in the second format.
    fn open_without_folder(&self) -> Archive {
        let file = fs::File::options().read(true).write(true).create_new(true).open(self.path());
        let storage = redb::backends::FileBackend::new(file.unwrap()).unwrap();
        Archive::open_on(storage, None, Config::default()).unwrap()
    }
}

#[test]
fn objects_are_there_after_a_restart_with_pin_and_position() {
    let fixture = Fixture::new();
    let own = Pin::own("servers");
    let archive = fixture.open();
    archive.put(&[object(&own, "a", &["a1", "a2"]), object(&own, "b", &[])], Some(7)).unwrap();
    drop(archive);
    let archive = fixture.open();
    for content in ["a", "a1", "a2", "b"] {
        let stored = archive.get(block(content).cid()).unwrap().unwrap();
        assert_eq!(stored, content.as_bytes());
    }
    assert_eq!(archive.position().unwrap(), Some(7));
    assert_eq!(archive.stats().unwrap(), Stats { blocks: 4, bytes: 6 });
    assert!(archive.is_pinned(&own, block("a").cid()).unwrap());
    assert!(!archive.is_pinned(&own, block("a1").cid()).unwrap());
    assert_eq!(archive.get(block("c").cid()).unwrap(), None);
}

#[test]
fn a_block_is_stored_once_and_stays_until_its_last_pin_goes() {
    let archive = Fixture::new();
    let archive = archive.open();
    let signer = Keypair::ed25519_from_bytes([1; 32]).unwrap().public().to_peer_id();
    let (own, templates) = (Pin::own("servers"), Pin::templates("servers", &signer));
    archive.put(&[object(&own, "a", &["shared"])], None).unwrap();
    archive.put(&[object(&own, "a", &["shared"])], None).unwrap();
    archive.replace(&object(&templates, "set 1", &["shared"])).unwrap();
    assert_eq!(archive.stats().unwrap(), Stats { blocks: 3, bytes: 12 });
    archive.replace(&object(&templates, "set 2", &[])).unwrap();
    assert_eq!(archive.stats().unwrap(), Stats { blocks: 3, bytes: 12 });
    assert!(!archive.has(block("set 1").cid()).unwrap());
    assert!(archive.has(block("shared").cid()).unwrap());
    assert_eq!(archive.roots(&templates, None, 10).unwrap(), [*block("set 2").cid()]);
    // The same set again changes nothing.
    archive.replace(&object(&templates, "set 2", &[])).unwrap();
    assert_eq!(archive.stats().unwrap(), Stats { blocks: 3, bytes: 12 });
    archive.unpin(&templates).unwrap();
    assert_eq!(archive.stats().unwrap(), Stats { blocks: 2, bytes: 7 });
    assert_eq!(archive.pins("").unwrap().len(), 1);
}

#[test]
fn roots_come_in_pages_and_pins_do_not_mix() {
    let fixture = Fixture::new();
    let archive = fixture.open();
    let own = Pin::own("servers");
    let names: Vec<String> = (0..25).map(|index| format!("segment {index}")).collect();
    let objects: Vec<_> = names.iter().map(|name| object(&own, name, &[])).collect();
    archive.put(&objects, None).unwrap();
    archive
        .put(
            &[object(&Pin::own("servers2"), "x", &[]), object(&Pin::fetched("servers"), "y", &[])],
            None,
        )
        .unwrap();
    let mut paged = Vec::new();
    loop {
        let page = archive.roots(&own, paged.last(), 10).unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged.len(), 25);
    assert!(paged.windows(2).all(|pair| pair[0].to_bytes() < pair[1].to_bytes()));
    assert_eq!(archive.digest(&own).unwrap().count, 25);
    assert_eq!(archive.pins("own/").unwrap().values().sum::<u64>(), 26);
    assert_eq!(archive.pins("fetched/").unwrap()[&Pin::fetched("servers")], 1);
}

#[test]
fn equal_sets_have_equal_digests_whatever_the_order() {
    let (one, other) = (Fixture::new(), Fixture::new());
    let (one, other) = (one.open(), other.open());
    let own = Pin::own("servers");
    one.put(&[object(&own, "a", &[]), object(&own, "b", &[])], None).unwrap();
    other.put(&[object(&own, "b", &[])], None).unwrap();
    assert_ne!(one.digest(&own).unwrap(), other.digest(&own).unwrap());
    other.put(&[object(&own, "a", &[])], None).unwrap();
    assert_eq!(one.digest(&own).unwrap(), other.digest(&own).unwrap());
}

#[test]
fn a_full_archive_refuses_whole_batches_and_keeps_what_it_has() {
    let fixture = Fixture::new();
    let config = Config { bytes_max: 10, ..Config::default() };
    let archive = Archive::open(&fixture.path(), config).unwrap();
    let own = Pin::own("servers");
    archive.put(&[object(&own, "12345678", &[])], Some(1)).unwrap();
    let batch = [object(&own, "9", &[]), object(&own, "0", &["much too long"])];
    let error = archive.put(&batch, Some(2)).unwrap_err();
    assert!(matches!(error, PutError::Full { bytes: 8, more: 15, bytes_max: 10 }), "{error}");
    assert!(!archive.has(block("9").cid()).unwrap());
    assert_eq!(archive.position().unwrap(), Some(1));
    // What is there already takes no room.
    archive.put(&[object(&Pin::fetched("servers"), "12345678", &[])], None).unwrap();
}

#[test]
fn a_block_that_was_damaged_on_disk_is_never_returned_and_can_be_stored_again() {
    let fixture = Fixture::new();
    let content = "a regime that will be damaged on the disk ".repeat(8);
    let archive = fixture.open();
    archive.put(&[object(&Pin::own("servers"), &content, &[])], None).unwrap();
    drop(archive);
    let bytes = fs::read(fixture.path()).unwrap();
    let places: Vec<_> = bytes
        .windows(content.len())
        .enumerate()
        .filter(|(_, window)| *window == content.as_bytes())
        .map(|(at, _)| at as u64)
        .collect();
    assert!(!places.is_empty(), "the block stands in the file as it is");
    let mut file = fs::OpenOptions::new().write(true).open(fixture.path()).unwrap();
    for at in places {
        file.seek(SeekFrom::Start(at + 100)).unwrap();
        file.write_all(b"X").unwrap();
    }
    drop(file);
    let archive = fixture.open();
    let before = archive.stats().unwrap();
    let read = archive.get(block(&content).cid());
    assert!(matches!(read, Err(ReadError::Damaged { .. })), "{read:?}");
    // A block that nobody keeps is not kept by mending.
    archive.mend(&block("stray")).unwrap();
    archive.put(&[object(&Pin::own("servers"), &content, &[])], None).unwrap();
    assert_eq!(archive.get(block(&content).cid()).unwrap().unwrap(), content.as_bytes());
    assert_eq!(archive.stats().unwrap(), before);
}

#[test]
fn a_pin_gains_the_links_that_it_did_not_have() {
    let archive = Fixture::new();
    let archive = archive.open();
    let fetched = Pin::fetched("servers");
    archive.put(&[object(&fetched, "root", &[])], None).unwrap();
    archive.put(&[object(&fetched, "root", &["payload 1", "payload 2"])], None).unwrap();
    assert_eq!(archive.stats().unwrap(), Stats { blocks: 3, bytes: 22 });
    // Fewer links take none away, and the same ones again change nothing.
    archive.put(&[object(&fetched, "root", &["payload 2"])], None).unwrap();
    archive.put(&[object(&fetched, "other", &["payload 1"])], None).unwrap();
    assert_eq!(archive.stats().unwrap(), Stats { blocks: 4, bytes: 27 });
    archive.replace(&object(&fetched, "other", &["payload 1"])).unwrap();
    // Each block is counted once for each root that reaches it, so only the unreached ones left.
    assert_eq!(archive.stats().unwrap(), Stats { blocks: 2, bytes: 14 });
    assert!(archive.has(block("payload 1").cid()).unwrap());
}

#[test]
fn replacing_keeps_to_the_quota() {
    let fixture = Fixture::new();
    let config = Config { bytes_max: 10, ..Config::default() };
    let archive = Archive::open(&fixture.path(), config).unwrap();
    let own = Pin::own("servers");
    archive.replace(&object(&own, "12345678", &[])).unwrap();
    let error = archive.replace(&object(&own, "123456789 and more", &[])).unwrap_err();
    assert!(matches!(error, PutError::Full { .. }), "{error}");
    assert_eq!(archive.roots(&own, None, 9).unwrap(), [*block("12345678").cid()]);
    archive.replace(&object(&own, "1234567890", &[])).unwrap();
}

#[test]
fn a_foreign_file_is_left_alone() {
    let fixture = Fixture::new();
    fs::write(fixture.path(), b"not an archive, but somebody's thesis").unwrap();
    let error = Archive::open(&fixture.path(), Config::default()).unwrap_err();
    assert!(matches!(error, OpenError::Database { .. }), "{error}");
    assert_eq!(fs::read(fixture.path()).unwrap(), b"not an archive, but somebody's thesis");
}

#[test]
fn a_crash_while_the_file_is_made_is_no_obstacle() {
    let fixture = Fixture::new();
    fs::write(fixture.path().with_extension("new"), b"half a file").unwrap();
    fixture.open();
}

#[test]
fn an_archive_is_open_once() {
    let fixture = Fixture::new();
    let _archive = fixture.open();
    assert!(matches!(
        Archive::open(&fixture.path(), Config::default()),
        Err(OpenError::Database { .. })
    ));
}

#[test]
fn only_what_a_public_pin_reaches_is_public() {
    let fixture = Fixture::new();
    let archive = fixture.open();
    let (own, public, other) = (Pin::own("servers"), Pin::public("a"), Pin::public("b"));
    let is_public = |content| archive.is_public(block(content).cid()).unwrap();
    archive.put(&[object(&own, "root", &["link"])], None).unwrap();
    archive.put(&[object(&Pin::imported("a"), "imported", &[])], None).unwrap();
    assert!(!is_public("root") && !is_public("link") && !is_public("imported"));
    let twice = object(&public, "root", &["link"]);
    archive.put(&[twice.clone(), twice, object(&other, "root", &[])], None).unwrap();
    assert!(is_public("root") && is_public("link"));
    archive.unpin(&public).unwrap();
    assert!(is_public("root") && !is_public("link"));
    archive.unpin(&other).unwrap();
    // No longer public, and still here.
    assert!(!is_public("root"));
    assert!(archive.has(block("root").cid()).unwrap());
}

/// A segment's block, as far as the archive looks at it.
fn segment(number: u64) -> (i64, Object) {
    let root = Block::new(Codec::DagCbor, number.to_be_bytes().to_vec());
    let start = i64::try_from(number).unwrap() * 60_000_000;
    (start, Object { pin: Pin::own("servers"), root, links: Vec::new() })
}

/// Returns the entries of a pin's catalog, read out of the archive's own blocks.
fn cataloged(archive: &Archive, pin: &Pin) -> Vec<(i64, dunlin_wire::Cid)> {
    let mut found = Vec::new();
    if let Some(root) = archive.catalog(pin).unwrap() {
        let get = |cid: &dunlin_wire::Cid| archive.get(cid);
        let on_entry = |entry: Entry| found.push((entry.start, entry.cid()));
        catalog::entries(get, &root, (i64::MIN, i64::MAX), on_entry).unwrap();
    }
    found
}

#[test]
fn a_catalog_grows_with_what_is_put_and_leaves_no_old_nodes() {
    let fixture = Fixture::new();
    let (archive, own) = (fixture.open(), Pin::own("servers"));
    assert_eq!(archive.catalog(&own).unwrap(), None);
    let segments: Vec<(i64, Object)> = (0..1_000).map(segment).collect();
    for (batch, position) in segments.chunks(64).zip(1..) {
        archive.put_cataloged(batch, Some(position)).unwrap();
    }
    drop(archive);
    let archive = fixture.open();
    let expected: Vec<_> =
        segments.iter().map(|(start, object)| (*start, *object.root.cid())).collect();
    assert_eq!(cataloged(&archive, &own), expected);
    let root = archive.catalog(&own).unwrap().unwrap();
    assert_eq!((root.count, archive.position().unwrap()), (1_000, Some(16)));
    let nodes = archive.pins(Pin::catalog(&own).as_str()).unwrap().into_values().sum::<u64>();
    assert!((4..20).contains(&nodes), "{nodes}");
    // The segments, the catalog, and the one root over all catalogs.
    assert_eq!(archive.stats().unwrap().blocks, 1_000 + nodes + 1);

    // Another archive with the same segments has the same root, however it came to them.
    let other = Fixture::new().open();
    other
        .put(&segments.iter().map(|(_, object)| object.clone()).collect::<Vec<_>>(), None)
        .unwrap();
    let entries: Vec<Entry> =
        segments.iter().rev().map(|(start, o)| Entry::new(*start, o.root.cid()).unwrap()).collect();
    other.enter(&own, &entries).unwrap();
    assert_eq!(other.catalog(&own).unwrap(), Some(root));
    other.drop_catalog(&own).unwrap();
    assert_eq!((other.catalog(&own).unwrap(), other.stats().unwrap().blocks), (None, 1_000));
}

#[test]
fn a_batch_that_does_not_fit_is_not_in_the_catalog_either() {
    let fixture = Fixture::new();
    let config = Config { bytes_max: 400, ..Config::default() };
    let archive = Archive::open(&fixture.path(), config).unwrap();
    let own = Pin::own("servers");
    archive.put_cataloged(&[segment(1)], Some(1)).unwrap();
    let before = (archive.catalog(&own).unwrap(), archive.stats().unwrap());
    let many: Vec<(i64, Object)> = (2..40).map(segment).collect();
    let refused = archive.put_cataloged(&many, Some(2));
    assert!(matches!(refused, Err(PutError::Full { .. })), "{refused:?}");
    assert_eq!((archive.catalog(&own).unwrap(), archive.stats().unwrap()), before);
    assert_eq!(archive.position().unwrap(), Some(1));
}

/// A block of so many bytes, which repeat nowhere.
fn large(number: u64, bytes: usize) -> Block {
    let words = (0..bytes as u64 / 8 + 1)
        .map(|word| ((number << 40) + word).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    let mut content: Vec<u8> = words.flatten().collect();
    content.truncate(bytes);
    Block::new(Codec::Raw, content)
}

#[test]
fn blocks_of_every_size_come_back_leave_and_are_counted() {
    let fixture = Fixture::new();
    let archive = fixture.open();
    let pin = Pin::own("servers");
    let piece = 32 * 1024 - 128;
    let around = |bytes: usize| [bytes - 1, bytes, bytes + 1];
    let sizes: Vec<usize> = [0, 1]
        .into_iter()
        .chain([1, 2, 3, 8].into_iter().flat_map(|n| around(n * piece)))
        .collect();
    let blocks: Vec<Block> = sizes.iter().map(|bytes| large(1, *bytes)).collect();
    for block in &blocks {
        archive.put(&[Object::leaf(pin.clone(), block.clone())], None).unwrap();
    }
    let bytes = sizes.iter().sum::<usize>() as u64;
    let full = Stats { blocks: sizes.len() as u64, bytes };
    assert_eq!(archive.stats().unwrap(), full);
    drop(archive);
    let archive = fixture.open();
    assert_eq!(archive.usage("own/").unwrap()[&pin].bytes, bytes);
    for (block, size) in blocks.iter().zip(&sizes) {
        assert_eq!(archive.get(block.cid()).unwrap().as_deref(), Some(block.bytes()));
        assert_eq!(archive.held(&pin, block.cid()).unwrap().unwrap().bytes, *size as u64);
    }
    for (gone, block) in (1..).zip(&blocks) {
        archive.unpin_root(&pin, block.cid()).unwrap();
        assert_eq!(archive.get(block.cid()).unwrap(), None);
        assert_eq!(archive.stats().unwrap().blocks, full.blocks - gone);
    }
    assert_eq!(archive.stats().unwrap(), Stats::default());
}

#[test]
fn a_block_of_a_mebibyte_in_pieces_takes_little_more_room_than_that() {
    let fixture = Fixture::new();
    let archive = fixture.open_without_folder();
    let blocks = (0..32).map(|number| Object::leaf(Pin::own("servers"), large(number, 1 << 20)));
    archive.put(&blocks.collect::<Vec<_>>(), None).unwrap();
    drop(archive);
    let mib = fs::metadata(fixture.path()).unwrap().len() >> 20;
    assert!((32..=40).contains(&mib), "{mib} MiB");
}

#[test]
fn a_file_of_the_first_format_opens_and_one_of_a_newer_format_is_refused() {
    const META: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("meta");
    const BLOCKS: redb::TableDefinition<'_, &[u8], &[u8]> = redb::TableDefinition::new("blocks");
    const PIECES: redb::TableDefinition<'_, (&[u8], u16), &[u8]> =
        redb::TableDefinition::new("pieces");
    let fixture = Fixture::new();
    let block = large(1, 100_000);
    let object = Object::leaf(Pin::own("servers"), block.clone());
    fixture.open().put(std::slice::from_ref(&object), Some(1)).unwrap();
    let rewrite = |format: u64| {
        let database = redb::Database::open(fixture.path()).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert("format", format).unwrap();
        // In the first format the row has all of it, and there are no pieces.
        let key = block.cid().to_bytes();
        transaction.open_table(BLOCKS).unwrap().insert(key.as_slice(), block.bytes()).unwrap();
        transaction.delete_table(PIECES).unwrap();
        transaction.commit().unwrap();
    };
    rewrite(1);
    let archive = fixture.open();
    assert_eq!(archive.get(block.cid()).unwrap().as_deref(), Some(block.bytes()));
    assert_eq!(archive.stats().unwrap(), Stats { blocks: 1, bytes: 100_000 });
    // Putting it again changes nothing, and it leaves as a whole.
    archive.put(&[object], None).unwrap();
    assert_eq!(archive.stats().unwrap(), Stats { blocks: 1, bytes: 100_000 });
    archive.unpin(&Pin::own("servers")).unwrap();
    assert_eq!(archive.stats().unwrap(), Stats::default());
    drop(archive);
    rewrite(5);
    let refused = Archive::open(&fixture.path(), Config::default()).unwrap_err();
    assert!(matches!(refused, OpenError::Format { found: 5, known: 4, .. }), "{refused}");
}

#[test]
fn a_file_of_the_second_format_is_read_as_it_stands_and_new_large_blocks_go_to_files() {
    const META: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("meta");
    const LARGE: redb::TableDefinition<'_, &[u8], (u64, u64)> = redb::TableDefinition::new("large");
    let fixture = Fixture::new();
    let (old, new) = (large(1, 1 << 20), large(2, 1 << 20));
    let leaf = |block: &Block| Object::leaf(Pin::own("servers"), block.clone());
    let files = || {
        let folder = fs::read_dir(fixture.path().with_extension("files").join("0"));
        folder.map_or(0, |folder| folder.count())
    };
    let archive = fixture.open_without_folder();
    archive.put(&[leaf(&old)], Some(1)).unwrap();
    drop(archive);
    let database = redb::Database::open(fixture.path()).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("format", 2).unwrap();
    assert!(transaction.delete_table(LARGE).unwrap());
    transaction.commit().unwrap();
    drop(database);

    let archive = fixture.open();
    assert_eq!(archive.get(old.cid()).unwrap().as_deref(), Some(old.bytes()));
    archive.put(&[leaf(&old), leaf(&new)], Some(2)).unwrap();
    drop(archive);
    assert_eq!(files(), 1, "what is in pieces stays there");
    let archive = fixture.open();
    for block in [&old, &new] {
        assert_eq!(archive.get(block.cid()).unwrap().as_deref(), Some(block.bytes()));
        let held = archive.held(&Pin::own("servers"), block.cid()).unwrap().unwrap();
        assert_eq!(held.bytes, 1 << 20);
    }
    assert_eq!(archive.stats().unwrap(), Stats { blocks: 2, bytes: 2 << 20 });
    archive.unpin(&Pin::own("servers")).unwrap();
    assert_eq!((archive.stats().unwrap(), files()), (Stats::default(), 0));
}

#[test]
fn a_block_that_lost_a_piece_is_never_returned_and_can_be_stored_again() {
    const PIECES: redb::TableDefinition<'_, (&[u8], u16), &[u8]> =
        redb::TableDefinition::new("pieces");
    let fixture = Fixture::new();
    let block = large(1, 200_000);
    let object = Object::leaf(Pin::own("servers"), block.clone());
    fixture.open().put(std::slice::from_ref(&object), None).unwrap();
    let key = block.cid().to_bytes();
    // Gone, short, changed, and one too many.
    let damages: [(u16, Option<Vec<u8>>); 4] =
        [(3, None), (6, Some(vec![7])), (1, Some(vec![0; 32_640])), (7, Some(vec![1]))];
    for (piece, left) in damages {
        let database = redb::Database::open(fixture.path()).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut pieces = transaction.open_table(PIECES).unwrap();
            pieces.remove((key.as_slice(), piece)).unwrap();
            if let Some(left) = &left {
                pieces.insert((key.as_slice(), piece), left.as_slice()).unwrap();
            }
        }
        transaction.commit().unwrap();
        drop(database);
        let archive = fixture.open();
        let read = archive.get(block.cid());
        assert!(matches!(read, Err(ReadError::Damaged { .. })), "piece {piece}: {read:?}");
        archive.put(std::slice::from_ref(&object), None).unwrap();
        assert_eq!(archive.get(block.cid()).unwrap().as_deref(), Some(block.bytes()));
        assert_eq!(archive.stats().unwrap(), Stats { blocks: 1, bytes: 200_000 });
    }
}
