//! The index over the means of sealed segments: one shelf for each collection.
//!
//! A [`Part`] is an immutable [`GraphIndex`] over the segments of a range of numbers, in a file of its own.
//! The segments behind the last part are the [`Tail`]: in memory, compared one by one, and caught up with
//! the store by every question, so what was sealed is found at once. When the tail has grown,
//! [`Means::maintain`] makes a part of it, and one part of several that are alike in size, as
//! log-structured merge trees do: few parts to ask, and every row is moved a few times only. Parts are made of the
//! store alone: what they keep of a mean is rounded, and a second rounding would take more away.
//!
//! Everything here can be made again from the store. So parts are read when the first question comes, a
//! file that is not whole is thrown away, and what a part says is checked against the segments it names
//! before anybody hears of it.

mod part;
mod tail;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use self::{part::Part, tail::Tail};
use crate::{
    collection::{CollectionSpec, Dim, Metric},
    distance::distance,
    error::{MaintainError, StoreError},
    index::{EFFORT_EXACT, RowSet, Search},
    observation::EntityId,
    question::SLACK,
    storage::Storage,
    store::{Reader, Store},
};

/// The folder of the parts' files.
pub(crate) const FOLDER: &str = "index";

/// Most bytes of values in one part, whatever its rows.
const PART_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Most bytes of values in a tail, whatever its rows.
const TAIL_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A part joins the newer ones behind it when it has at most this many times their rows.
const MERGED_TIMES: usize = 2;

/// A part is made again when one row of this many is gone.
const GONE_ONE_OF: usize = 4;

/// How many candidates a walk keeps for each neighbor that is asked for, and at least.
const EFFORT_TIMES: usize = 8;
const EFFORT_MIN: usize = 384;

/// From this effort on comparing every row costs less than a walk.
const EFFORT_MAX: usize = 10_000;

/// The shelves of all collections.
#[derive(Debug)]
pub(crate) struct Means {
    storage: Arc<dyn Storage>,
    limits: Limits,
    shelves: Mutex<BTreeMap<u32, Arc<Mutex<Shelf>>>>,
    /// Parts are made one at a time.
    at_work: Mutex<()>,
    /// And read one shelf at a time.
    reading: Mutex<()>,
}

/// How many rows tails and parts have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// A tail of so many becomes a part.
    pub(crate) tail_rows: usize,
    /// No part has more.
    pub(crate) part_rows: usize,
    /// No part is read or made when parts take as much.
    pub(crate) memory_bytes: u64,
}

/// A collection as its shelf needs to know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) number: u32,
    pub(crate) metric: Metric,
    pub(crate) dim: Dim,
    /// Segments have smaller numbers than this.
    pub(crate) next_segment: u64,
}

impl Kind {
    pub(crate) const fn new(number: u32, spec: &CollectionSpec, next_segment: u64) -> Self {
        Self { number, metric: spec.metric, dim: spec.dim, next_segment }
    }
}

/// Which segments are looked for.
pub(crate) struct Wanted<'a> {
    pub(crate) vector: &'a [f32],
    pub(crate) k: usize,
    /// Whether every segment is compared.
    pub(crate) is_exact: bool,
    /// First and last microsecond.
    pub(crate) range: (i64, i64),
    /// Only those of entities that pass.
    pub(crate) of: Option<&'a dyn Fn(&EntityId) -> bool>,
}

/// What was found, and how.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The segments that may be the nearest, by distance and number.
    pub(crate) nearest: Vec<Claim>,
    /// Segments that were compared one by one.
    pub(crate) compared: u64,
    /// Segments that a graph stood for.
    pub(crate) indexed: u64,
    /// From how many claims on those are dropped that cannot be among the nearest.
    tidied_at: usize,
}

/// What is said of a segment before anybody compared it with the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) distance: f64,
    /// By how much the true distance may differ.
    pub(crate) slack: f64,
    pub(crate) number: u64,
}

/// How far the index is, for who watches the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IndexStatus {
    /// Parts of all collections that were read so far.
    pub parts: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes of memory that they take.
    pub bytes: u64,
    /// Segments that no part has yet, and that questions compare one by one.
    pub tail: u64,
}

/// The index of one collection.
#[derive(Debug)]
struct Shelf {
    /// By rising numbers, without a gap between them.
    parts: Vec<Placed>,
    tail: Tail,
    is_read: bool,
    /// Segments that were removed while a part is made that may have them.
    removed_meanwhile: Option<Vec<u64>>,
}

/// A part, and its rows that are there no more.
#[derive(Clone, Debug)]
struct Placed {
    part: Arc<Part>,
    gone: Arc<RowSet>,
}

impl Means {
    pub(crate) fn new(storage: Arc<dyn Storage>, limits: Limits) -> Self {
        Self {
            storage,
            limits,
            shelves: Mutex::default(),
            at_work: Mutex::default(),
            reading: Mutex::default(),
        }
    }

    /// Returns the segments of a collection that are nearest to a vector.
    ///
    /// `reader` sees at least the segments below `kind.next_segment`.
    pub(crate) fn nearest(
        &self,
        kind: Kind,
        (store, reader): (&Store, &Reader),
        wanted: &Wanted<'_>,
    ) -> Result<Found, StoreError> {
        let mut found = Found::default();
        let (parts, until) = {
            let shelf = self.shelf(kind);
            self.read(&shelf, kind, store)?;
            let mut shelf = lock(&shelf);
            // A reader of its own, taken under the lock: what is removed later is taken out later too.
            shelf.tail.catch_up(&store.reader()?, kind.number, self.tail_rows(kind.dim))?;
            shelf.tail.search(kind, wanted, &mut found)?;
            // A walk takes its time: others may ask, and parts be made, meanwhile.
            (shelf.parts.clone(), shelf.tail.until())
        };
        for placed in &parts {
            placed.search(kind, wanted, &mut found)?;
        }
        for stored in reader.of_collection(kind.number, until)? {
            let stored = stored?;
            if stored.number >= kind.next_segment {
                break;
            }
            found.compared += 1;
            let segment = &stored.segment;
            if wanted.passes((segment.start().0, segment.end().0), segment.entity()) {
                let distance = distance(kind.metric, wanted.vector, segment.mean());
                found.offer(wanted.k, Claim::exact(distance, stored.number));
            }
        }
        found.keep_nearest(wanted.k);
        Ok(found)
    }

    /// Throws the parts of a collection away: one of them was wrong. They are made again.
    pub(crate) fn discard(&self, kind: Kind) {
        let shelf = self.shelf(kind);
        let mut shelf = lock(&shelf);
        for Placed { part, .. } in &shelf.parts {
            self.remove_file(&part.file_name(kind.number));
        }
        *shelf = Shelf { is_read: true, ..Shelf::new(kind) };
    }

    /// Takes segments out that were removed from the store.
    pub(crate) fn forget(&self, kind: Kind, numbers: &[u64]) {
        let shelf = self.shelf(kind);
        let mut shelf = lock(&shelf);
        for number in numbers {
            shelf.tail.remove(*number);
            for placed in &mut shelf.parts {
                if let Some(row) = placed.part.row_of(*number) {
                    Arc::make_mut(&mut placed.gone).insert(row);
                }
            }
        }
        if let Some(meanwhile) = &mut shelf.removed_meanwhile {
            meanwhile.extend_from_slice(numbers);
        }
    }

    /// Makes one part, if one is due, and says whether it did. Stops early when `going` says no.
    pub(crate) fn maintain(
        &self,
        kind: Kind,
        store: &Store,
        going: &dyn Fn() -> bool,
    ) -> Result<bool, MaintainError> {
        let _at_work = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        let shelf = self.shelf(kind);
        let work = {
            self.read(&shelf, kind, store)?;
            let mut shelf = lock(&shelf);
            let reader = store.reader()?;
            shelf.tail.catch_up(&reader, kind.number, self.tail_rows(kind.dim))?;
            let Some(work) = self.next_work(&shelf, kind.dim, reader) else { return Ok(false) };
            shelf.removed_meanwhile = Some(Vec::new());
            work
        };
        let made = work.make(kind, self.part_rows(kind.dim), going);
        let written = made.and_then(|part| match part {
            Some(part) => self.write(kind.number, &part).map(|()| Some(part)),
            None => Ok(None),
        });
        let mut shelf = lock(&shelf);
        let removed = shelf.removed_meanwhile.take();
        let Some(part) = written? else { return Ok(false) };
        let name = part.file_name(kind.number);
        // Somebody found a part that was wrong, and threw all of them away.
        let Some(removed) = removed else {
            self.remove_file(&name);
            return Ok(true);
        };
        let mut gone = RowSet::default();
        removed.iter().filter_map(|number| part.row_of(*number)).for_each(|row| gone.insert(row));
        let part = Arc::new(part);
        let placed = Placed { part: Arc::clone(&part), gone: Arc::new(gone) };
        let replaced = shelf.replace(placed);
        drop(shelf);
        for replaced in &replaced {
            self.remove_file(&replaced.part.file_name(kind.number));
        }
        let mut settled = store.removed(kind.number)?;
        let range = part.after + 1..=part.last;
        settled.retain(|number| range.contains(number) && part.row_of(*number).is_none());
        store.forget_removed(kind.number, &settled)?;
        Ok(true)
    }

    /// Returns how far the index is.
    pub(crate) fn status(&self) -> IndexStatus {
        let shelves: Vec<_> = self.lock().values().cloned().collect();
        let mut status = IndexStatus::default();
        for shelf in shelves {
            let shelf = lock(&shelf);
            status.tail += shelf.tail.count() as u64;
            for Placed { part, .. } in &shelf.parts {
                status.parts += 1;
                status.rows += part.row_count() as u64;
                status.bytes += part.byte_count() as u64;
            }
        }
        status
    }

    /// Returns the memory that all parts take, those of a shelf whose lock is held among them.
    fn bytes(&self, held: &Shelf) -> u64 {
        let shelves: Vec<_> = self.lock().values().cloned().collect();
        let others = shelves.iter().filter_map(|shelf| shelf.try_lock().ok());
        others.map(|shelf| shelf.byte_count()).sum::<u64>() + held.byte_count()
    }

    /// Returns what is to be made next.
    fn next_work(&self, shelf: &Shelf, dim: Dim, reader: Reader) -> Option<Work> {
        let has_room = self.bytes(shelf) < self.limits.memory_bytes;
        if has_room && shelf.tail.count() >= self.tail_rows(dim) {
            let after = shelf.tail.after();
            return Some(Work { after, last: None, generation: 0, reader: Box::new(reader) });
        }
        let is_worn =
            |placed: &&Placed| placed.gone.count() * GONE_ONE_OF > placed.part.row_count();
        if let Some(worn) = shelf.parts.iter().find(is_worn) {
            return Some(Work::merge(std::slice::from_ref(worn), reader));
        }
        // From the newest part on back, those that are alike in size.
        let (mut rows, mut first) = (0, shelf.parts.len());
        for (index, placed) in shelf.parts.iter().enumerate().rev() {
            let more = placed.part.row_count() - placed.gone.count();
            let is_alike = rows == 0 || more <= MERGED_TIMES * rows;
            if !is_alike || rows + more > self.part_rows(dim) {
                break;
            }
            (rows, first) = (rows + more, index);
        }
        let merged = &shelf.parts[first..];
        (merged.len() > 1).then(|| Work::merge(merged, reader))
    }

    /// Reads the parts of a shelf, once. Files that are not whole, or that do not fit, are removed.
    fn read(&self, shelf: &Mutex<Shelf>, kind: Kind, store: &Store) -> Result<(), StoreError> {
        if lock(shelf).is_read {
            return Ok(());
        }
        // Reading may take seconds. Removals, which wait for the shelf while all writers wait for them, must
        // not wait for that.
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if lock(shelf).is_read {
            return Ok(());
        }
        let parts = self.read_parts(kind);
        let mut shelf = lock(shelf);
        // What is removed from now on finds the parts here.
        let removed = store.removed(kind.number)?;
        let end = parts.last().map_or(0, |part| part.last);
        for part in parts {
            let rows = removed.iter().filter_map(|number| part.row_of(*number));
            let mut gone = RowSet::default();
            rows.for_each(|row| gone.insert(row));
            shelf.parts.push(Placed { part: Arc::new(part), gone: Arc::new(gone) });
        }
        shelf.tail = Tail::new(kind.metric, kind.dim, end);
        shelf.is_read = true;
        Ok(())
    }

    fn read_parts(&self, kind: Kind) -> Vec<Part> {
        let names = self.storage.list(FOLDER).unwrap_or_default();
        let mut found: Vec<part::Name> =
            names.iter().filter_map(|name| part::Name::parse(name, kind.number)).collect();
        // Of two that begin together the longer one was made of the shorter, or the later one of the
        // earlier.
        found.sort_by_key(|name| (name.after, std::cmp::Reverse((name.last, name.generation))));
        let (mut parts, mut end, mut bytes) = (Vec::new(), 0, self.status().bytes);
        for name in found {
            let file = name.file(kind.number);
            let fits = name.after == end && name.last < kind.next_segment;
            if fits && bytes >= self.limits.memory_bytes {
                // The segments behind are read from the store, until there is more memory for them.
                break;
            }
            let part = if fits { self.read_part(&file, name, kind) } else { None };
            match part {
                Some(part) => {
                    end = part.last;
                    bytes += part.byte_count() as u64;
                    parts.push(part);
                }
                None => self.remove_file(&file),
            }
        }
        parts
    }

    fn read_part(&self, file: &str, name: part::Name, kind: Kind) -> Option<Part> {
        let file = self.storage.open(file).ok()?;
        let mut bytes = vec![0; usize::try_from(file.byte_count().ok()?).ok()?];
        file.read_at(0, &mut bytes).ok()?;
        let mut part = Part::decode(&bytes, kind.metric, kind.dim)?;
        part.generation = name.generation;
        ((part.after, part.last) == (name.after, name.last)).then_some(part)
    }

    fn write(&self, collection: u32, part: &Part) -> Result<(), MaintainError> {
        let name = part.file_name(collection);
        let written = self.storage.open(&name).and_then(|file| {
            // A file of this name was never read to its end: it was being written when a process ended.
            file.set_byte_count(0)?;
            file.write_at(0, &part.encode())?;
            file.sync()?;
            self.storage.sync_folder(FOLDER)
        });
        if written.is_err() {
            self.remove_file(&name);
        }
        Ok(written?)
    }

    /// Removes a file that is not needed. One that stays is found and removed by the next start.
    fn remove_file(&self, name: &str) {
        self.storage.remove(name).ok();
    }

    fn tail_rows(&self, dim: Dim) -> usize {
        self.limits.tail_rows.min(TAIL_BYTES_MAX / (size_of::<f32>() * dim.get())).max(1)
    }

    fn part_rows(&self, dim: Dim) -> usize {
        let fitting = PART_BYTES_MAX / (size_of::<f32>() * dim.get());
        self.limits.part_rows.min(fitting).max(self.tail_rows(dim))
    }

    fn shelf(&self, kind: Kind) -> Arc<Mutex<Shelf>> {
        let shelf = || Arc::new(Mutex::new(Shelf::new(kind)));
        Arc::clone(self.lock().entry(kind.number).or_insert_with(shelf))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Mutex<Shelf>>>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    // What a shelf says is checked against the store in the end.
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shelf {
    fn byte_count(&self) -> u64 {
        self.parts.iter().map(|placed| placed.part.byte_count() as u64).sum()
    }

    fn new(kind: Kind) -> Self {
        Self {
            parts: Vec::new(),
            tail: Tail::new(kind.metric, kind.dim, 0),
            is_read: false,
            removed_meanwhile: None,
        }
    }

    /// Puts a part in place of those whose segments it has, and returns them.
    fn replace(&mut self, placed: Placed) -> Vec<Placed> {
        let covers = |other: &Placed| {
            other.part.after >= placed.part.after && other.part.last <= placed.part.last
        };
        let first = self.parts.iter().position(covers).unwrap_or(self.parts.len());
        let count = self.parts[first..].iter().take_while(|other| covers(other)).count();
        self.tail.cut(placed.part.last);
        self.parts.splice(first..first + count, [placed]).collect()
    }
}

impl Placed {
    fn search(&self, kind: Kind, wanted: &Wanted<'_>, found: &mut Found) -> Result<(), StoreError> {
        let Self { part, gone } = self;
        let filter = part.rows_of(kind.next_segment, wanted, gone);
        let passing = filter.as_ref().map_or(part.row_count(), RowSet::count);
        let effort = match wanted.k.saturating_mul(EFFORT_TIMES).max(EFFORT_MIN) {
            effort if effort <= EFFORT_MAX && !wanted.is_exact => effort,
            _ => EFFORT_EXACT,
        };
        let search = Search { vector: wanted.vector, k: wanted.k, effort, filter: filter.as_ref() };
        let rows = part.search(&search).map_err(|_| StoreError::Damaged { what: "an index" })?;
        let is_walked = effort != EFFORT_EXACT && part.is_approximate();
        let looked_at = if is_walked { &mut found.indexed } else { &mut found.compared };
        *looked_at += passing as u64;
        rows.into_iter().for_each(|claim| found.offer(wanted.k, claim));
        Ok(())
    }
}

impl Wanted<'_> {
    /// Returns whether a segment of these times and this entity may be in the answer.
    fn passes(&self, (start, end): (i64, i64), entity: &EntityId) -> bool {
        start <= self.range.1 && end >= self.range.0 && self.of.is_none_or(|of| of(entity))
    }
}

impl Claim {
    /// Returns what is known for certain.
    pub(crate) const fn exact(distance: f64, number: u64) -> Self {
        Self { distance, slack: 0.0, number }
    }
}

impl Found {
    fn offer(&mut self, k: usize, claim: Claim) {
        self.nearest.push(claim);
        if self.nearest.len() >= self.tidied_at.max(2 * k + SLACK) {
            self.keep_nearest(k);
            // What may be among the nearest can be more than these.
            self.tidied_at = 2 * self.nearest.len();
        }
    }

    /// Keeps the segments that may be among the `k` nearest: those that are certain by distance and number, and
    /// the others as long as they may be as near as the last of `k`.
    fn keep_nearest(&mut self, k: usize) {
        let by_distance =
            |a: &Claim, b: &Claim| a.distance.total_cmp(&b.distance).then(a.number.cmp(&b.number));
        self.nearest.sort_by(by_distance);
        if self.nearest.iter().all(|claim| claim.slack == 0.0) {
            return self.nearest.truncate(k);
        }
        let mut farthest: Vec<f64> =
            self.nearest.iter().map(|claim| claim.distance + claim.slack).collect();
        farthest.sort_by(f64::total_cmp);
        if let Some(last) = k.checked_sub(1).and_then(|last| farthest.get(last)) {
            self.nearest.retain(|claim| claim.distance - claim.slack <= *last);
        }
    }
}

/// A part that is to be made of segments in the store. Parts that it replaces are not asked for their rows: those may
/// be rounded.
struct Work {
    /// Only segments behind this number.
    after: u64,
    /// Only segments up to this number, where parts are replaced.
    last: Option<u64>,
    generation: u64,
    reader: Box<Reader>,
}

impl Work {
    /// Returns that one part is to be made of these, which follow each other.
    fn merge(parts: &[Placed], reader: Reader) -> Self {
        // A file of another name, so that the old one stays whole until this one is.
        let generations = parts.iter().map(|placed| placed.part.generation);
        Self {
            after: parts.first().map_or(0, |first| first.part.after),
            last: parts.last().map(|last| last.part.last),
            generation: generations.max().unwrap_or(0) + 1,
            reader: Box::new(reader),
        }
    }

    fn make(
        self,
        kind: Kind,
        rows_max: usize,
        going: &dyn Fn() -> bool,
    ) -> Result<Option<Part>, MaintainError> {
        let mut rows = part::Rows::new(self.after);
        rows.generation = self.generation;
        for stored in self.reader.of_collection(kind.number, self.after)? {
            let stored = stored?;
            let is_behind = self.last.is_some_and(|last| stored.number > last);
            let is_full = self.last.is_none() && rows.count() == rows_max;
            if is_behind || is_full || stored.number >= kind.next_segment {
                break;
            }
            if !going() {
                return Ok(None);
            }
            rows.push(&stored);
        }
        match self.last {
            Some(last) => rows.reach(last),
            None if rows.count() == 0 => return Ok(None),
            None => {}
        }
        Ok(rows.build(kind.metric, kind.dim, going))
    }
}
