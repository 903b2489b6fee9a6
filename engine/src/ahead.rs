//! Payloads of regimes, packed before the entries that end them are applied.
//!
//! To code what a regime kept takes up to seconds, and while entries are applied every question waits. So
//! each writer first plays its entry on copies of the entities and packs what ends there; the leader of a
//! group does so once more, for what others changed meanwhile. A payload depends on nothing but the
//! observations and the error that they may have, and is found by a digest of these: one that was foreseen
//! wrongly is never used, and one that was not foreseen is packed when it is needed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use dunlin_wire::{block::Block, cbor};
use sha2::{Digest, Sha256};

use crate::{
    batch::Entry,
    codec::Tolerance,
    collection::{CollectionName, CollectionSpec},
    entity::Entity,
    observation::EntityId,
    payload::{self, REGIME_BYTES_MAX},
    regime::Sealed,
    rows::Rows,
    state::State,
};

/// Values that go into a digest at a time.
const DIGEST_VALUES: usize = 1024;

/// Room for the observations that are packed at once; coding takes some five times as much memory.
pub(crate) struct Room {
    free: AtomicUsize,
}

/// Room that is given back.
struct Taken<'a> {
    room: &'a Room,
    bytes: usize,
}

/// Payloads by the digest of what they were packed from.
#[derive(Default)]
pub(crate) struct Payloads {
    packed: HashMap<[u8; 32], Vec<Block>>,
}

/// What an entry does to one entity.
enum Step<'a> {
    Observe(&'a Rows),
    Seal,
    Remove,
}

/// What entries do to each entity, in their order.
type Course<'a> = BTreeMap<(&'a CollectionName, &'a EntityId), Vec<Step<'a>>>;

impl Payloads {
    /// Packs what `entries` will end, were they applied to the state as it is now. It is locked only while a copy
    /// is played, to read. What there is no room for is left to others.
    pub(crate) fn foresee(&mut self, entries: &[Entry], state: &RwLock<State>, room: &Room) {
        // After a panic the state is of no more use: whoever applies the entries says so.
        let Ok(view) = state.read() else { return };
        let course = course(entries, &view);
        drop(view);
        for ((collection, entity), steps) in course {
            let Ok(view) = state.read() else { return };
            let Some(collection) = view.collections.get(collection) else { continue };
            let spec = Arc::clone(&collection.spec);
            let ended = play(&spec, collection.entities.get(entity), &steps, room);
            drop(view);
            for (rows, _taken) in ended {
                let errors = spec.error_max();
                let digest = digest(&rows, errors.as_deref());
                self.packed.entry(digest).or_insert_with(|| pack(&rows, errors.as_deref()));
            }
        }
    }

    /// Takes over what others packed.
    pub(crate) fn extend(&mut self, others: Self) {
        self.packed.extend(others.packed);
    }

    /// Returns the payload of a regime with these observations.
    pub(crate) fn of(&self, rows: &Rows, spec: &CollectionSpec) -> Vec<Block> {
        let errors = spec.error_max();
        let packed = match self.packed.is_empty() {
            true => None,
            false => self.packed.get(&digest(rows, errors.as_deref())).cloned(),
        };
        packed.unwrap_or_else(|| pack(rows, errors.as_deref()))
    }
}

impl Room {
    /// Returns room for two regimes of the largest size.
    pub(crate) const fn new() -> Self {
        Self { free: AtomicUsize::new(2 * REGIME_BYTES_MAX) }
    }

    fn take(&self, bytes: usize) -> Option<Taken<'_>> {
        let less = |free: usize| free.checked_sub(bytes);
        let taken = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.ok().map(|_| Taken { room: self, bytes })
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.room.free.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// Returns what entries do to each entity, in collections that keep observations.
fn course<'a>(entries: &'a [Entry], state: &State) -> Course<'a> {
    let mut course = Course::new();
    let is_kept = |name: &CollectionName| {
        let found = state.collections.get(name);
        found.is_some_and(|found| found.spec.fidelity.keeps_observations())
    };
    let mut add = |collection, entity, step| {
        course.entry((collection, entity)).or_default().push(step);
    };
    for entry in entries {
        match entry {
            Entry::Observations { collection, groups } if is_kept(collection) => {
                groups.iter().for_each(|(id, rows)| add(collection, id, Step::Observe(rows)));
            }
            Entry::Seal { collection, entity } if is_kept(collection) => {
                add(collection, entity, Step::Seal);
            }
            Entry::Remove { collection, entity, .. } if is_kept(collection) => {
                add(collection, entity, Step::Remove);
            }
            Entry::Observations { .. }
            | Entry::Seal { .. }
            | Entry::Remove { .. }
            | Entry::Create(_) => {}
        }
    }
    course
}

/// Returns the observations of the regimes that steps end, as far as there is room for them.
fn play<'a>(
    spec: &CollectionSpec,
    known: Option<&Entity>,
    steps: &[Step<'_>],
    room: &'a Room,
) -> Vec<(Rows, Taken<'a>)> {
    let mut entity = known.map_or_else(|| Entity::new(spec), Entity::ahead);
    let mut kept = known.and_then(|known| known.regime.kept());
    let mut ended = Vec::new();
    for step in steps {
        let mut end = |sealed: Sealed| {
            let (before, Some(mut rows)) = (kept.take(), sealed.rows) else { return };
            let bytes = before.map_or(0, Rows::byte_count) + rows.byte_count();
            let Some(taken) = room.take(bytes) else { return };
            if let Some(before) = before {
                let after = std::mem::replace(&mut rows, before.clone());
                rows.append(&after);
            }
            ended.push((rows, taken));
        };
        match step {
            Step::Observe(rows) if rows.dim() == spec.dim.get() => {
                for (index, (time, values)) in rows.iter().enumerate() {
                    entity.observe(time.0, values, rows.metadata(index).cloned(), &mut end);
                }
            }
            Step::Observe(_) => {}
            Step::Seal => entity.seal(&mut end),
            Step::Remove => (entity, kept) = (Entity::new(spec), None),
        }
    }
    ended
}

fn pack(rows: &Rows, errors: Option<&[f32]>) -> Vec<Block> {
    payload::pack(rows, errors.map_or(Tolerance::Exact, Tolerance::Within))
}

/// Returns a digest of all that [`pack`] depends on.
fn digest(rows: &Rows, errors: Option<&[f32]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut bytes = Vec::with_capacity(8 * DIGEST_VALUES);
    let counts = [rows.dim(), rows.count(), errors.map_or(0, <[f32]>::len)];
    bytes.extend(counts.into_iter().flat_map(|count| (count as u64).to_le_bytes()));
    hash.update(&bytes);
    for times in rows.times().chunks(DIGEST_VALUES) {
        bytes.clear();
        bytes.extend(times.iter().flat_map(|time| time.to_le_bytes()));
        hash.update(&bytes);
    }
    for values in [rows.values(), errors.unwrap_or_default()] {
        for values in values.chunks(DIGEST_VALUES) {
            bytes.clear();
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            hash.update(&bytes);
        }
    }
    let metadata = rows.metadata_between(0, rows.count());
    hash.update(cbor::encode(&metadata).expect("metadata holds strings only"));
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use dunlin_wire::Cid;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        collection::{Dim, ErrorBound, Fidelity, SegmentPolicy, Units},
        observation::Metadata,
        state::{Group, Outcome},
        storage::{Simulated, Storage},
        store::{Checkpoint, NewSegment, Store},
    };

    /// A state with one collection, behind the lock, and what its changes go to.
    struct Bench {
        store: Store,
        state: RwLock<State>,
    }

    impl Bench {
        fn new(spec: &CollectionSpec) -> Self {
            let file = Simulated::new().open("store").unwrap();
            let mut state = State::new(Checkpoint { record: 0, next_segment: 0 }, 1 << 20);
            state.insert(0, spec.clone());
            Self { store: Store::open(file, 1 << 20).unwrap(), state: RwLock::new(state) }
        }

        /// Returns the segments that entries seal when these payloads are there already.
        fn apply(&self, entries: Vec<Entry>, payloads: Payloads) -> Vec<NewSegment> {
            let mut group = Group { store: &self.store, payloads, sealed: Vec::new() };
            let mut state = self.state.write().unwrap();
            for entry in entries {
                let outcome = state.apply(entry, &mut group).unwrap();
                assert!(!matches!(outcome, Outcome::Refused(_)));
            }
            self.store.insert(&group.sealed).unwrap();
            group.sealed
        }

        fn foresee(&self, entries: &[Entry]) -> Payloads {
            let mut payloads = Payloads::default();
            payloads.foresee(entries, &self.state, &Room::new());
            payloads
        }
    }

    impl Payloads {
        fn cids(&self) -> BTreeSet<Cid> {
            self.packed.values().flatten().map(|block| *block.cid()).collect()
        }
    }

    fn payload_cids(sealed: &[NewSegment]) -> BTreeSet<Cid> {
        sealed.iter().flat_map(|new| &new.payload).map(|block| *block.cid()).collect()
    }

    fn spec(fidelity: Fidelity) -> CollectionSpec {
        let dim = Dim::new(2).unwrap();
        let spec = CollectionSpec::new(name(), dim, Units::unit_range(dim));
        let policy = SegmentPolicy { observations_max: 40, ..spec.policy };
        let error_bound =
            (fidelity == Fidelity::Bounded).then(|| ErrorBound::Absolute(vec![0.01; 2]));
        CollectionSpec { fidelity, policy, error_bound, ..spec }
    }

    fn name() -> CollectionName {
        CollectionName::new("c").unwrap()
    }

    fn id(entity: u8) -> EntityId {
        EntityId::new(format!("e{entity}")).unwrap()
    }

    /// Observations at these seconds; each level lasts `dwell` of them.
    fn rows(seconds: impl IntoIterator<Item = i64>, dwell: i64) -> Rows {
        let mut rows = Rows::new(2);
        for second in seconds {
            let level = (second / dwell * 37 % 100) as f32 / 100.0;
            let note = Metadata::new(BTreeMap::from([("s".to_owned(), second.to_string())]));
            let note = (second % 5 == 0).then(|| note.unwrap());
            rows.push(second * 1_000_000, &[level, (second % 7) as f32 / 1e3], note);
        }
        rows
    }

    fn observed(entity: u8, rows: Rows) -> Entry {
        Entry::Observations { collection: name(), groups: vec![(id(entity), rows)] }
    }

    #[test]
    fn a_full_regime_is_packed_ahead_with_what_was_kept_before() {
        let bench = Bench::new(&spec(Fidelity::Lossless));
        assert!(bench.apply(vec![observed(0, rows(0..39, 1_000))], Payloads::default()).is_empty());
        let entries = || vec![observed(0, rows(39..41, 1_000))];
        let payloads = bench.foresee(&entries());
        assert_eq!(payloads.packed.len(), 1);
        let foreseen = payloads.cids();
        let sealed = bench.apply(entries(), payloads);
        assert_eq!((sealed.len(), sealed[0].segment.count()), (1, 40));
        assert_eq!(payload_cids(&sealed), foreseen);
    }

    #[test]
    fn what_was_foreseen_wrongly_is_not_used() {
        let (late, early) = (|| observed(0, rows(60..130, 50)), || observed(0, rows(0..60, 50)));
        let honest = Bench::new(&spec(Fidelity::Lossless));
        honest.apply(vec![early()], Payloads::default());
        let expected = honest.apply(vec![late()], Payloads::default());
        let surprised = Bench::new(&spec(Fidelity::Lossless));
        let stale = surprised.foresee(&[late()]);
        surprised.apply(vec![early()], Payloads::default());
        let foreseen = stale.cids();
        let sealed = surprised.apply(vec![late()], stale);
        let cids =
            |sealed: &[NewSegment]| sealed.iter().map(|new| *new.block.cid()).collect::<Vec<_>>();
        assert_eq!(cids(&sealed), cids(&expected));
        assert!(!foreseen.is_empty() && !foreseen.is_subset(&payload_cids(&sealed)));
    }

    #[test]
    fn what_there_is_no_room_for_is_left_to_others() {
        let bench = Bench::new(&spec(Fidelity::Lossless));
        let entry = || observed(0, rows(0..45, 50));
        for (free, packed) in [(40 * 16 - 1, 0), (usize::MAX / 2, 1)] {
            let (room, mut payloads) = (Room { free: AtomicUsize::new(free) }, Payloads::default());
            payloads.foresee(&[entry()], &bench.state, &room);
            assert_eq!((payloads.packed.len(), room.free.into_inner()), (packed, free));
        }
    }

    #[test]
    fn summaries_are_not_packed() {
        let bench = Bench::new(&spec(Fidelity::Summary));
        assert!(bench.foresee(&[observed(0, rows(0..400, 50))]).packed.is_empty());
    }

    #[test]
    fn whatever_changes_a_payload_changes_the_digest() {
        let base = rows(0..10, 50);
        let with = |time: i64, value: f32, note: Option<Metadata>| {
            let mut rows = base.clone();
            rows.push(time, &[value, 0.5], note);
            rows
        };
        let note = Metadata::new(BTreeMap::from([("k".to_owned(), "v".to_owned())])).unwrap();
        let mut wide = Rows::new(4);
        wide.push(0, &[0.0, 0.0, 0.0, 0.0], None);
        let mut narrow = Rows::new(2);
        narrow.push(0, &[0.0, 0.0], None);
        narrow.push(0, &[0.0, 0.0], None);
        let digests = [
            digest(&base, None),
            digest(&base, Some(&[0.0, 0.0])),
            digest(&base, Some(&[0.1, 0.0])),
            digest(&with(20_000_000, 0.0, None), None),
            digest(&with(20_000_000, -0.0, None), None),
            digest(&with(20_000_001, 0.0, None), None),
            digest(&with(20_000_000, 0.0, Some(note)), None),
            digest(&wide, None),
            digest(&narrow, None),
        ];
        assert_eq!(digests.iter().collect::<BTreeSet<_>>().len(), digests.len());
        assert_eq!(digest(&base, None), digest(&base.clone(), None));
    }

    proptest! {
        /// Played ahead, entries end the very regimes that they end when they are applied: with late observations, noise
        /// floors, entities that begin, end and are removed, and several entries of one entity in a group.
        #[test]
        fn what_is_foreseen_is_what_is_sealed(
            groups in prop::collection::vec(
                prop::collection::vec((0u8..3, 0u8..8, 1i64..90), 1..6),
                1..8,
            ),
            dwell in 5i64..60,
            fidelity in prop::sample::select(vec![Fidelity::Bounded, Fidelity::Lossless]),
            (learns_noise, is_late) in any::<(bool, bool)>(),
        ) {
            let units = if learns_noise { Units::NoiseFloor } else { spec(fidelity).units };
            let lateness_us = if is_late { 3_000_000 } else { 0 };
            let bench = Bench::new(&CollectionSpec { units, lateness_us, ..spec(fidelity) });
            let mut seconds = [0; 3];
            let mut known = [false; 3];
            for group in groups {
                let mut record = Vec::new();
                for (entity, kind, count) in group {
                    let at = usize::from(entity);
                    let entry = match kind {
                        0 if known[at] => Entry::Seal { collection: name(), entity: id(entity) },
                        1 if known[at] => {
                            (known[at], seconds[at]) = (false, 0);
                            let (collection, entity) = (name(), id(entity));
                            Entry::Remove { collection, entity, observations: None }
                        }
                        _ => {
                            let first = seconds[at];
                            (known[at], seconds[at]) = (true, first + count);
                            let mut order: Vec<i64> = (first..first + count).collect();
                            if is_late {
                                order.chunks_mut(3).for_each(<[i64]>::reverse);
                            }
                            observed(entity, rows(order, dwell))
                        }
                    };
                    record.extend(entry.encode());
                }
                let entries = || Entry::decode_all(&record).unwrap();
                let payloads = bench.foresee(&entries());
                let foreseen = payloads.cids();
                let sealed = bench.apply(entries(), payloads);
                // Of an entity that is removed at once, nothing is stored.
                prop_assert!(foreseen.is_superset(&payload_cids(&sealed)));
                let removes = entries().iter().any(|entry| matches!(entry, Entry::Remove { .. }));
                prop_assert!(removes || foreseen == payload_cids(&sealed));
            }
        }
    }
}
