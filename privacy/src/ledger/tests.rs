//! The ledger under crashes, damage and failing disks.

mod disk;

use proptest::prelude::*;

use self::disk::SharedDisk;
use super::format::{HEAD_BYTES, HEADER_BYTES};
use super::*;
use crate::bounds::Bounds;
use crate::dataset::{Dataset, Gather};
use crate::rho::Rho;

const CEILING: f64 = 3.0;

fn eps(value: f64) -> Epsilon {
    Epsilon::new(value).expect("a valid epsilon")
}

fn data(seed: u16) -> Dataset {
    let bounds = Bounds::uniform(1, 0.0, 70_000.0).expect("a range");
    Dataset::new(&[f32::from(seed)], 1, bounds).expect("a dataset")
}

fn intent<'a>(collection: &'a str, data: &'a Dataset, epsilon: f64) -> Intent<'a> {
    Intent {
        collection,
        data,
        terms: Terms::observation(eps(epsilon)).expect("valid terms"),
        now_unix_ms: 1_763_700_000_000,
        purpose: "templates",
    }
}

fn spent(ledger: &Ledger, collection: &str) -> Epsilon {
    ledger.spent(collection, Unit::Observation).expect("bounded")
}

fn reserve(ledger: &mut Ledger, collection: &str, seed: u16) -> Result<Receipt, ReserveError> {
    ledger.reserve(&intent(collection, &data(seed), 1.0))
}

/// A ledger of three releases in two collections, and its file.
fn three_releases() -> (SharedDisk, Vec<u8>) {
    let disk = SharedDisk::default();
    let mut ledger = disk.open().expect("a new ledger");
    for (collection, seed) in [("servers", 1), ("flights", 2), ("servers", 3)] {
        let receipt = reserve(&mut ledger, collection, seed).expect("within the ceiling");
        ledger.note_released(receipt).expect("a working disk");
    }
    let bytes = disk.lock().bytes.clone();
    (disk, bytes)
}

#[test]
fn spending_survives_a_restart() {
    let (disk, _) = three_releases();
    let ledger = disk.open().unwrap();
    assert_eq!(spent(&ledger, "servers"), eps(2.0));
    assert_eq!(spent(&ledger, "flights"), eps(1.0));
    assert_eq!(ledger.left("servers", Unit::Observation), eps(1.0));
    assert_eq!(ledger.left("never seen", Unit::Observation), eps(CEILING));
    let entries = ledger.entries();
    assert_eq!(entries.len(), 3);
    assert!(
        entries
            .iter()
            .all(|entry| entry.outcome == Outcome::Released && entry.purpose == "templates")
    );
    assert_eq!(entries[1].collection.as_deref(), Some("flights"));
    assert_eq!(entries[1].unit, Some(Unit::Observation));
}

#[test]
fn the_ceiling_is_exact_and_the_refusal_says_what_is_left() {
    let disk = SharedDisk::default();
    let mut ledger = disk.open().unwrap();
    for seed in 0..30 {
        drop(ledger.reserve(&intent("servers", &data(seed), 0.1)).unwrap());
    }
    let before = disk.lock().bytes.clone();
    let refused = ledger.reserve(&intent("servers", &data(99), 0.001)).unwrap_err();
    assert!(matches!(&refused, ReserveError::Exhausted { left, .. } if *left == Epsilon::ZERO));
    assert_eq!(refused.to_string(), "collection servers: epsilon 0.001 asked, but 0 of 3 is left");
    assert_eq!(disk.lock().bytes, before, "a refusal writes nothing");
    assert!(reserve(&mut ledger, "flights", 99).is_ok(), "ceilings are per collection");
}

#[test]
fn equal_data_are_paid_for_once() {
    let (disk, _) = three_releases();
    let mut ledger = disk.open().unwrap();
    assert!(matches!(reserve(&mut ledger, "servers", 1), Err(ReserveError::Unchanged { .. })));
    assert!(reserve(&mut ledger, "servers", 2).is_ok(), "another collection's data are not ours");
}

#[test]
fn data_whose_release_was_lost_may_be_paid_for_again() {
    let disk = SharedDisk::default();
    drop(reserve(&mut disk.open().unwrap(), "servers", 1).unwrap());
    let mut ledger = disk.open().unwrap();
    assert_eq!(ledger.entries()[0].outcome, Outcome::Prevented);
    assert!(reserve(&mut ledger, "servers", 1).is_ok());
    assert_eq!(spent(&ledger, "servers"), eps(2.0), "the lost one stays spent");
}

#[test]
fn odd_intents_are_refused() {
    let mut ledger = SharedDisk::default().open().unwrap();
    let data = data(1);
    let long = "x".repeat(TEXT_BYTES_MAX + 1);
    for collection in ["", &long] {
        let refused = ledger.reserve(&intent(collection, &data, 1.0));
        assert!(matches!(refused, Err(ReserveError::Text { .. })));
    }
    let per_entity = Terms::new(Unit::Entity, Mechanism::Laplace, eps(1.0), 0.0, 1).unwrap();
    let refused = ledger.reserve(&Intent { terms: per_entity, ..intent("servers", &data, 1.0) });
    assert!(matches!(refused, Err(ReserveError::OtherUnit { .. })));
    let name = "x".repeat(TEXT_BYTES_MAX);
    let longest = Intent { purpose: &name, ..intent(&name, &data, 1.0) };
    assert!(ledger.reserve(&longest).is_ok(), "the longest entry fits");
}

/// Goal: no crash un-spends what a receipt was given for, and none bricks the ledger.
///
/// Method: fail at every change of a run and at every length of the torn write; open what a crash of
/// the process leaves (everything written) and what a power cut leaves (everything synced).
#[test]
fn crash_at_any_point_keeps_every_receipt_spent() {
    let torn_lengths = [0, 1, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1, HEAD_BYTES + 90, 4096];
    for changes in 0..14 {
        for torn_bytes in torn_lengths {
            let disk = SharedDisk::default();
            disk.fail_after(changes, torn_bytes);
            let mut receipts = 0;
            if let Ok(mut ledger) = disk.open() {
                for seed in 0..3 {
                    let Ok(receipt) = reserve(&mut ledger, "servers", seed) else { break };
                    receipts += 1;
                    if ledger.note_released(receipt).is_err() {
                        break;
                    }
                }
            }
            let written = disk.lock().bytes.clone();
            let synced = disk.lock().synced.clone();
            for survived in [written, synced] {
                let disk = SharedDisk::with(&survived);
                let mut ledger = disk.open().expect("a crash bricks nothing");
                let found = spent(&ledger, "servers");
                assert!(found >= eps(f64::from(receipts)), "{changes} {torn_bytes}: {found}");
                assert!(found <= eps(f64::from(receipts + 1)), "at most the torn one besides");
                if found < eps(CEILING) {
                    assert!(reserve(&mut ledger, "servers", 77).is_ok());
                }
                let again = disk.open().expect("what was repaired stays so");
                assert_eq!(spent(&again, "servers"), spent(&ledger, "servers"));
            }
        }
    }
}

/// Goal: a torn entry counts from the byte on at which its cost can be read, and never less than what
/// stood before it.
#[test]
fn file_cut_anywhere_in_its_last_entry_counts_what_can_be_read() {
    let disk = SharedDisk::default();
    let mut ledger = disk.open().unwrap();
    drop(reserve(&mut ledger, "servers", 1).unwrap());
    let first = disk.lock().bytes.len();
    drop(reserve(&mut ledger, "servers", 2).unwrap());
    let whole = disk.lock().bytes.clone();
    for cut in first..=whole.len() {
        let disk = SharedDisk::with(&whole[..cut]);
        let expected = if cut >= first + HEAD_BYTES { 2.0 } else { 1.0 };
        assert_eq!(spent(&disk.open().unwrap(), "servers"), eps(expected), "cut at {cut}");
        // Crashing again while the torn entry is being sealed changes nothing.
        for torn_bytes in [0, 1, 20] {
            let disk = SharedDisk::with(&whole[..cut]);
            disk.fail_after(0, torn_bytes);
            disk.open().ok();
            let survived = disk.lock().bytes.clone();
            let ledger = SharedDisk::with(&survived).open().unwrap();
            assert_eq!(spent(&ledger, "servers"), eps(expected), "cut at {cut}, {torn_bytes}");
        }
    }
}

#[test]
fn file_grown_by_zeros_before_the_entry_was_written_opens() {
    let (_, mut bytes) = three_releases();
    bytes.resize(bytes.len() + 300, 0);
    let ledger = SharedDisk::with(&bytes).open().unwrap();
    assert_eq!(spent(&ledger, "servers"), eps(2.0));
}

#[test]
fn torn_entry_is_sealed_and_more_follow() {
    let disk = SharedDisk::default();
    drop(reserve(&mut disk.open().unwrap(), "servers", 1).unwrap());
    disk.lock().bytes.pop();
    drop(reserve(&mut disk.open().unwrap(), "servers", 1).unwrap());
    let ledger = disk.open().unwrap();
    assert_eq!(ledger.entries().len(), 2);
    assert_eq!(ledger.entries()[0].collection, None);
    assert_eq!(spent(&ledger, "servers"), eps(2.0));
}

#[test]
fn damage_before_the_end_is_refused() {
    let (_, whole) = three_releases();
    // Anything in the first two records, whose neighbours show that they were once whole.
    for at in HEADER_BYTES..HEADER_BYTES + 2 * HEAD_BYTES + 100 {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        let opened = SharedDisk::with(&bytes).open();
        assert!(matches!(opened, Err(OpenError::Damaged { .. })), "byte {at}: {opened:?}");
    }
}

#[test]
fn removing_an_entry_from_the_middle_is_refused() {
    let disk = SharedDisk::default();
    let mut ledger = disk.open().unwrap();
    let mut ends = vec![disk.lock().bytes.len()];
    for seed in 0..3 {
        drop(reserve(&mut ledger, "servers", seed).unwrap());
        ends.push(disk.lock().bytes.len());
    }
    let mut bytes = disk.lock().bytes.clone();
    bytes.drain(ends[0]..ends[1]);
    assert!(matches!(SharedDisk::with(&bytes).open(), Err(OpenError::Damaged { .. })));
}

#[test]
fn foreign_files_are_refused_and_left_alone() {
    for bytes in [&b"{\"budget\": 3}"[..], b"dunledgr\x02\0\0\0abcd rest of it"] {
        let disk = SharedDisk::with(bytes);
        assert!(matches!(disk.open(), Err(OpenError::Foreign)));
        assert_eq!(disk.lock().bytes, bytes);
    }
}

#[test]
fn failed_sync_gives_no_receipt_and_stops_the_ledger() {
    let disk = SharedDisk::default();
    let mut ledger = disk.open().unwrap();
    disk.fail_after(1, 0);
    assert!(matches!(reserve(&mut ledger, "servers", 1), Err(ReserveError::Io(_))));
    assert_eq!(spent(&ledger, "servers"), eps(1.0), "it may be on disk, so it counts");
    disk.lock().changes_left = None;
    assert!(matches!(reserve(&mut ledger, "servers", 2), Err(ReserveError::Poisoned)));
    assert!(reserve(&mut disk.open().unwrap(), "servers", 2).is_ok());
}

#[test]
fn an_entry_is_synced_before_its_receipt_exists() {
    let disk = SharedDisk::default();
    let mut ledger = disk.open().unwrap();
    let receipt = reserve(&mut ledger, "servers", 1).unwrap();
    let synced = disk.lock().synced.clone();
    assert_eq!(spent(&SharedDisk::with(&synced).open().unwrap(), "servers"), eps(1.0));
    drop(receipt);
}

fn golden(hex: &str) -> Vec<u8> {
    let digits: String =
        hex.lines().map(|line| line.split('#').next().unwrap_or("").replace(' ', "")).collect();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// The bytes of version 2: a changed vector is a format change.
#[test]
fn bytes_are_those_of_the_format_page() {
    let disk = SharedDisk::default();
    let mut ledger = disk.open_with(Ceiling { epsilon: eps(3.0), delta: 1e-6 }).unwrap();
    let data = fleet(&["web-1", "web-2"], Unit::Entity, 0..3);
    let receipt = ledger.reserve(&per_entity("servers", &data, Mechanism::Gaussian, 1.0)).unwrap();
    let paid = Paid { epsilon: eps(0.25), rho: Rho::from_picos(1_000_000) };
    ledger.note_stopped(receipt, Stopped { paid, units_noised: 2, units_needed: 600 }).unwrap();
    let receipt = ledger.reserve(&per_entity("servers", &data, Mechanism::Laplace, 0.5)).unwrap();
    ledger.note_released(receipt).unwrap();
    assert_eq!(disk.lock().bytes, golden(include_str!("../../tests/vectors/ledger-2.hex")));
}

/// A file of version 1 opens with all that it says, becomes one of version 2 at once, and goes on.
#[test]
fn file_of_version_1_is_read_and_written_anew() {
    let old = golden(include_str!("../../tests/vectors/ledger-1.hex"));
    let disk = SharedDisk::with(&old);
    let ledger = disk.open().unwrap();
    assert_eq!(spent(&ledger, "servers"), eps(1.0));
    assert_eq!(ledger.entries()[0].mechanism, Some(Mechanism::Laplace));
    assert_eq!(ledger.entries()[0].span, Span::ALL, "nobody knows what it was about, so it is all");
    assert_eq!(ledger.spent("servers", Unit::Entity), None);
    let new = disk.lock().bytes.clone();
    assert_eq!(new[..HEADER_BYTES], format::header());
    assert_eq!(new[HEADER_BYTES..], old[HEADER_BYTES..], "records are the same");
    drop(reserve(&mut disk.open().unwrap(), "servers", 9).unwrap());
    assert_eq!(spent(&disk.open().unwrap(), "servers"), eps(2.0));
}

#[test]
fn crash_while_a_file_is_written_anew_leaves_the_old_or_the_new_one() {
    let old = golden(include_str!("../../tests/vectors/ledger-1.hex"));
    // Whole, and with a torn entry at its end, which is sealed first.
    for torn in [0, 40] {
        let old = &[&old[..], &old[HEADER_BYTES..][..torn]].concat();
        for changes in 0..4 {
            let disk = SharedDisk::with(old);
            disk.fail_after(changes, 7);
            disk.open().ok();
            let written = disk.lock().bytes.clone();
            let synced = disk.lock().synced.clone();
            for survived in [written, synced] {
                let ledger = SharedDisk::with(&survived).open().expect("a crash bricks nothing");
                let expected = if torn == 0 { 1.0 } else { 2.0 };
                assert_eq!(spent(&ledger, "servers"), eps(expected), "{torn} {changes}");
            }
        }
    }
}

#[test]
fn real_file_of_version_1_is_replaced_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    std::fs::write(&path, golden(include_str!("../../tests/vectors/ledger-1.hex"))).unwrap();
    // What an earlier attempt left behind is in nobody's way.
    std::fs::write(path.with_extension("next"), b"half of it").unwrap();
    for _ in 0..2 {
        let ledger = Ledger::open(&path, Ceiling::pure(eps(CEILING))).unwrap();
        assert_eq!(spent(&ledger, "servers"), eps(1.0));
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    let mut ledger = Ledger::open(&path, Ceiling::pure(eps(CEILING))).unwrap();
    drop(reserve(&mut ledger, "servers", 9).unwrap());
    drop(ledger);
    let ledger = Ledger::open(&path, Ceiling::pure(eps(CEILING))).unwrap();
    assert_eq!(spent(&ledger, "servers"), eps(2.0), "what follows goes into the new file");
}

const DAY_US: i64 = 86_400_000_000;

/// Observations of these entities, one on each of these days.
fn fleet(entities: &[&str], unit: Unit, days: std::ops::Range<i64>) -> Dataset {
    let span = Span { first_us: days.start * DAY_US, last_us: days.end * DAY_US - 1 };
    let mut gather = Gather::new(Bounds::uniform(1, 0.0, 1.0).expect("a range"), unit, span);
    for entity in entities {
        gather.begin(EntityTag::of(entity)).expect("given once");
        for day in days.clone() {
            gather.push(day * DAY_US + 5, &[0.25]).expect("a row in order");
        }
    }
    gather.finish()
}

fn terms(unit: Unit, mechanism: Mechanism, epsilon: f64) -> Terms {
    let delta = if mechanism == Mechanism::Laplace { 0.0 } else { 1e-6 };
    Terms::new(unit, mechanism, eps(epsilon), delta, 4).expect("valid terms")
}

fn under<'a>(collection: &'a str, data: &'a Dataset, terms: Terms) -> Intent<'a> {
    Intent { collection, data, terms, now_unix_ms: 1_763_700_000_000, purpose: "templates" }
}

fn per_entity<'a>(
    collection: &'a str,
    data: &'a Dataset,
    mechanism: Mechanism,
    epsilon: f64,
) -> Intent<'a> {
    under(collection, data, terms(Unit::Entity, mechanism, epsilon))
}

#[track_caller]
fn spend(ledger: &mut Ledger, intent: &Intent<'_>) {
    drop(ledger.reserve(intent).expect("within the ceiling"));
}

#[test]
fn each_entity_pays_for_the_releases_it_was_in() {
    let disk = SharedDisk::default();
    let mut ledger = disk.open().unwrap();
    let old = fleet(&["a", "b"], Unit::Entity, 0..1);
    spend(&mut ledger, &per_entity("servers", &old, Mechanism::Laplace, 2.0));
    let grown = fleet(&["a", "b", "c"], Unit::Entity, 0..2);
    spend(&mut ledger, &per_entity("servers", &grown, Mechanism::Laplace, 1.0));
    for ledger in [ledger, disk.open().unwrap()] {
        let tags = ["a", "c", "d"].map(EntityTag::of);
        let expected = [eps(3.0), eps(1.0), eps(0.0)].map(Some);
        assert_eq!(ledger.spent_by("servers", &tags), expected);
        assert_eq!(ledger.spent_in("servers", &old), Some(eps(3.0)));
        assert_eq!(ledger.spent("servers", Unit::Entity), Some(eps(3.0)), "the worst off");
        assert_eq!(ledger.left("servers", Unit::Entity), eps(0.0));
        assert_eq!(ledger.entries()[1].entities, Some(3));
    }
}

#[test]
fn an_entity_that_has_nothing_left_stays_out_and_the_others_go_on() {
    let mut ledger = SharedDisk::default().open().unwrap();
    let old = fleet(&["a", "b"], Unit::Entity, 0..1);
    spend(&mut ledger, &per_entity("servers", &old, Mechanism::Laplace, 2.5));
    let terms = terms(Unit::Entity, Mechanism::Laplace, 1.0);
    let all = fleet(&["a", "c"], Unit::Entity, 0..2);
    let refused = ledger.reserve(&under("servers", &all, terms)).unwrap_err();
    assert!(matches!(refused, ReserveError::Exhausted { left, .. } if left == eps(0.5)));
    let eligible = ledger.eligible("servers", &terms);
    let tags = ["a", "b"].map(EntityTag::of);
    assert_eq!(eligible, Eligible { from_us: Some(i64::MIN), excluded: tags.into() });
    let new = fleet(&["c"], Unit::Entity, 0..2);
    spend(&mut ledger, &under("servers", &new, terms));
    assert_eq!(ledger.spent_by("servers", &tags), [Some(eps(2.5)); 2]);
}

#[test]
fn each_day_pays_for_the_releases_it_was_in() {
    let mut ledger = SharedDisk::default().open().unwrap();
    let terms = terms(Unit::EntityDay, Mechanism::Laplace, 2.0);
    let first = fleet(&["a"], Unit::EntityDay, 0..3);
    spend(&mut ledger, &under("servers", &first, terms));
    assert_eq!(ledger.eligible("servers", &terms).from_us, Some(3 * DAY_US));
    // Its last day has been released, whatever came of it later.
    let again = fleet(&["a"], Unit::EntityDay, 2..5);
    let refused = ledger.reserve(&under("servers", &again, terms));
    assert!(matches!(refused, Err(ReserveError::Exhausted { left, .. }) if left == eps(1.0)));
    let fresh = fleet(&["a"], Unit::EntityDay, 3..5);
    spend(&mut ledger, &under("servers", &fresh, terms));
    assert_eq!(ledger.spent("servers", Unit::EntityDay), Some(eps(2.0)), "no day paid twice");
}

#[test]
fn a_coarser_promise_covers_finer_units_as_a_group_of_two() {
    let mut ledger = SharedDisk::default().open().unwrap();
    let data = fleet(&["a"], Unit::Entity, 0..3);
    spend(&mut ledger, &per_entity("servers", &data, Mechanism::Laplace, 1.0));
    assert_eq!(ledger.spent("servers", Unit::Entity), Some(eps(1.0)));
    assert_eq!(ledger.spent("servers", Unit::EntityDay), Some(eps(2.0)));
    assert_eq!(ledger.spent("servers", Unit::Observation), Some(eps(2.0)));
    // Days that it did not cover have lost nothing.
    let terms = terms(Unit::EntityDay, Mechanism::Laplace, 3.0);
    let fresh = fleet(&["a"], Unit::EntityDay, 3..5);
    spend(&mut ledger, &under("servers", &fresh, terms));
}

#[test]
fn after_a_finer_promise_no_coarser_one_is_made() {
    let mut ledger = SharedDisk::default().open().unwrap();
    let terms_of = |unit| terms(unit, Mechanism::Laplace, 0.1);
    let days = fleet(&["a", "b"], Unit::EntityDay, 0..3);
    spend(&mut ledger, &under("servers", &days, terms_of(Unit::EntityDay)));
    let entities = fleet(&["b", "c"], Unit::Entity, 0..3);
    let refused = ledger.reserve(&under("servers", &entities, terms_of(Unit::Entity)));
    assert!(matches!(refused, Err(ReserveError::FinerBefore { unit: Unit::Entity, .. })));
    assert_eq!(ledger.spent("servers", Unit::Entity), None);
    let others = fleet(&["c"], Unit::Entity, 0..3);
    spend(&mut ledger, &under("servers", &others, terms_of(Unit::Entity)));
}

#[test]
fn gaussian_noise_needs_a_ceiling_with_a_delta() {
    let mut ledger = SharedDisk::default().open().unwrap();
    let data = fleet(&["a"], Unit::Entity, 0..3);
    let refused = ledger.reserve(&per_entity("servers", &data, Mechanism::Gaussian, 1.0));
    assert!(matches!(refused, Err(ReserveError::NoDelta)));
}

/// Goal: losses of Gaussian noise add up as rhos, which allows more releases than epsilons would.
#[test]
fn concentrated_losses_compose_by_rho() {
    let ceiling = Ceiling { epsilon: eps(3.0), delta: 1e-6 };
    let disk = SharedDisk::default();
    let mut ledger = disk.open_with(ceiling).unwrap();
    let rho = Rho::within(eps(1.0), 1e-6).as_picos();
    let allowed = Rho::within(eps(3.0), 1e-6).as_picos() / rho;
    let data = |day| fleet(&["a"], Unit::Entity, 0..day + 1);
    for day in 0..i64::try_from(allowed).unwrap() {
        spend(&mut ledger, &per_entity("servers", &data(day), Mechanism::Gaussian, 1.0));
    }
    assert!(allowed > 3, "{allowed}");
    let spent = ledger.spent("servers", Unit::Entity).unwrap();
    let expected = Rho::from_picos(rho * allowed).epsilon(1e-6).unwrap();
    assert_eq!(spent, expected);
    let refused = ledger.reserve(&per_entity("servers", &data(99), Mechanism::Gaussian, 1.0));
    assert!(matches!(refused, Err(ReserveError::Exhausted { .. })));
    // Nothing is forgotten when the ledger is opened with a ceiling that allows no delta.
    let mut pure = disk.open().unwrap();
    assert_eq!(pure.spent("servers", Unit::Entity), None);
    let refused = pure.reserve(&per_entity("servers", &data(98), Mechanism::Laplace, 0.1));
    assert!(matches!(refused, Err(ReserveError::Exhausted { left: Epsilon::ZERO, .. })));
}

/// Goal: of many small pure releases the ledger counts the smaller of the two bounds, where a delta is
/// allowed, and their plain sum where none is.
#[test]
fn many_small_pure_losses_compose_by_the_better_bound() {
    let spent_after = |releases: u16, delta| {
        let ceiling = Ceiling { epsilon: eps(20.0), delta };
        let mut ledger = SharedDisk::default().open_with(ceiling).unwrap();
        for seed in 0..releases {
            spend(&mut ledger, &intent("servers", &data(seed), 0.1));
        }
        spent(&ledger, "servers")
    };
    assert_eq!(spent_after(2, 1e-6), eps(0.2));
    assert_eq!(spent_after(150, 0.0), eps(15.0));
    let rho = Rho::from_picos(150 * Rho::of_pure(eps(0.1)).as_picos());
    assert_eq!(spent_after(150, 1e-6), rho.epsilon(1e-6).unwrap());
    assert!(spent_after(150, 1e-6) < eps(7.5));
}

#[test]
fn mixed_losses_compose() {
    let ceiling = Ceiling { epsilon: eps(20.0), delta: 1e-6 };
    let mut ledger = SharedDisk::default().open_with(ceiling).unwrap();
    let (one, two) = (fleet(&["a"], Unit::Entity, 0..1), fleet(&["a"], Unit::Entity, 0..2));
    spend(&mut ledger, &per_entity("servers", &one, Mechanism::Laplace, 1.0));
    spend(&mut ledger, &per_entity("servers", &two, Mechanism::Gaussian, 1.0));
    // The Gaussian alone is at most 1, and the pure one is exactly 1.
    let rho = Rho::within(eps(1.0), 1e-6);
    let sum = eps(1.0).compose(rho.epsilon(1e-6).unwrap());
    assert_eq!(ledger.spent("servers", Unit::Entity), Some(sum));
}

#[test]
fn release_that_was_given_up_costs_what_was_drawn_and_is_not_tried_again() {
    let disk = SharedDisk::default();
    let mut ledger = disk.open().unwrap();
    let data = fleet(&["a", "b"], Unit::Entity, 0..1);
    let intent = per_entity("servers", &data, Mechanism::Laplace, 1.0);
    let receipt = ledger.reserve(&intent).unwrap();
    let paid = Paid { epsilon: eps(0.05), rho: Rho::ZERO };
    ledger.note_stopped(receipt, Stopped { paid, units_noised: 2, units_needed: 700 }).unwrap();
    for mut ledger in [ledger, disk.open().unwrap()] {
        assert_eq!(ledger.spent("servers", Unit::Entity), Some(eps(0.05)));
        let refused = ledger.reserve(&intent).unwrap_err();
        assert!(matches!(refused, ReserveError::TooFewBefore { units_needed: 700, .. }));
        // With a weaker promise it may do.
        spend(&mut ledger, &per_entity("servers", &data, Mechanism::Laplace, 2.0));
    }
}

#[test]
fn fleet_is_written_down_once_and_however_large() {
    let disk = SharedDisk::default();
    let mut ledger = disk.open().unwrap();
    let names: Vec<String> = (0..1_500).map(|at| format!("server-{at}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    spend(
        &mut ledger,
        &under(
            "servers",
            &fleet(&names, Unit::Entity, 0..1),
            terms(Unit::Entity, Mechanism::Laplace, 1.0),
        ),
    );
    let first = disk.lock().bytes.len();
    assert!(first > 1_500 * TAG_BYTES);
    spend(
        &mut ledger,
        &under(
            "servers",
            &fleet(&names, Unit::Entity, 0..2),
            terms(Unit::Entity, Mechanism::Laplace, 1.0),
        ),
    );
    assert!(disk.lock().bytes.len() - first < 600, "the list is there already");
    let ledger = disk.open().unwrap();
    assert_eq!(ledger.entries()[1].entities, Some(1_500));
    assert_eq!(ledger.spent_by("servers", &[EntityTag::of(names[1_499])]), [Some(eps(2.0))]);
}

/// Goal, and method, as for [`crash_at_any_point_keeps_every_receipt_spent`], with lists of entities and
/// releases that are given up.
#[test]
fn crash_at_any_point_keeps_every_entity_spent() {
    let names: Vec<String> = (0..600).map(|at| format!("server-{at}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let large = |days| fleet(&names, Unit::Entity, days);
    let small = fleet(&names[..2], Unit::Entity, 0..1);
    let (one, two) = (large(0..1), large(0..2));
    for changes in 0..18 {
        for torn_bytes in [0, HEAD_BYTES, HEAD_BYTES + 90, 4_000] {
            let disk = SharedDisk::default();
            disk.fail_after(changes, torn_bytes);
            let mut floor = Epsilon::ZERO;
            if let Ok(mut ledger) = disk.open() {
                for (data, epsilon, is_stopped) in
                    [(&one, 1.0, false), (&small, 0.5, true), (&two, 1.0, false)]
                {
                    let intent = per_entity("servers", data, Mechanism::Laplace, epsilon);
                    let Ok(receipt) = ledger.reserve(&intent) else { break };
                    let paid = Paid { epsilon: eps(0.025), rho: Rho::ZERO };
                    let stopped = Stopped { paid, units_noised: 2, units_needed: 700 };
                    let noted = match is_stopped {
                        true => ledger.note_stopped(receipt, stopped),
                        false => ledger.note_released(receipt),
                    };
                    // Until the note is written, all of it counts; then, what it says.
                    floor = floor.compose(if is_stopped { eps(0.025) } else { eps(epsilon) });
                    if noted.is_err() {
                        break;
                    }
                }
            }
            let written = disk.lock().bytes.clone();
            let synced = disk.lock().synced.clone();
            for survived in [written, synced] {
                let ledger = SharedDisk::with(&survived).open().expect("a crash bricks nothing");
                let spent = ledger.spent_by("servers", &[EntityTag::of(names[1])])[0].unwrap();
                assert!(spent >= floor, "{changes} {torn_bytes}: {spent} {floor}");
                assert!(spent <= floor.compose(eps(1.0)), "at most the torn one besides");
            }
        }
    }
}

proptest! {
    #[test]
    fn damaged_files_never_panic_nor_show_more_left_than_there_was(
        at in any::<prop::sample::Index>(), flip in 1u8.., cut in any::<prop::sample::Index>(),
    ) {
        let (_, whole) = three_releases();
        let mut bytes = whole.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(ledger) = SharedDisk::with(&bytes).open() {
            // Only the very last record can be damaged unnoticed, and it is a note that costs nothing.
            prop_assert_eq!(spent(&ledger, "servers"), eps(2.0));
        }
        bytes.truncate(cut.index(bytes.len()));
        SharedDisk::with(&bytes).open().ok();
    }

    #[test]
    fn any_bytes_open_or_are_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..600), prefixed in any::<bool>()) {
        if prefixed {
            bytes = [&format::header()[..], &bytes].concat();
        }
        SharedDisk::with(&bytes).open().ok();
    }
}

#[test]
fn ledger_on_a_real_file_opens_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let mut ledger = Ledger::open(&path, Ceiling::pure(eps(CEILING))).unwrap();
    let receipt = reserve(&mut ledger, "servers", 1).unwrap();
    ledger.note_released(receipt).unwrap();
    drop(ledger);
    let ledger = Ledger::open(&path, Ceiling::pure(eps(CEILING))).unwrap();
    assert_eq!(spent(&ledger, "servers"), eps(1.0));
    assert_eq!(ledger.entries()[0].outcome, Outcome::Released);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "others must not read it");
    }
}
