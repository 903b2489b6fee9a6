//! A part: the segments of a range of numbers, their times and entities, and the index over their means.
//! `docs/formats/index.md` has the bytes of its file.

use std::collections::BTreeMap;

use super::{Claim, Wanted};
use crate::{
    collection::{Dim, Metric},
    index::{Candidate, Form, GraphIndex, Index, RowSet, Search, VectorError},
    observation::EntityId,
    store::Stored,
};

const MAGIC: &[u8; 8] = b"DUNLINPT";

const VERSION: u32 = 1;

/// The immutable index over the segments with numbers above `after`, up to `last`.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) after: u64,
    pub(super) last: u64,
    /// How often parts were made into others until this one; in the name of its file alone.
    pub(super) generation: u64,
    facts: Facts,
    index: GraphIndex,
}

/// What the name of a file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) after: u64,
    pub(super) last: u64,
    pub(super) generation: u64,
}

/// What is known of each row, by row; rows are in the order of their numbers.
#[derive(Debug, Default, PartialEq)]
struct Facts {
    numbers: Vec<u64>,
    starts: Vec<i64>,
    ends: Vec<i64>,
    /// Which of the entities each row is of.
    owners: Vec<u32>,
    entities: Vec<EntityId>,
}

impl Part {
    /// Returns the rows that may be the nearest.
    pub(super) fn search(&self, search: &Search<'_>) -> Result<Vec<Claim>, VectorError> {
        let claim = |Candidate { row, distance, slack }| Claim {
            distance,
            slack,
            number: self.facts.numbers[row as usize],
        };
        Ok(self.index.candidates(search)?.into_iter().map(claim).collect())
    }

    pub(super) const fn is_approximate(&self) -> bool {
        self.index.is_approximate()
    }

    /// Returns the row of a segment.
    pub(super) fn row_of(&self, number: u64) -> Option<u32> {
        let row = self.facts.numbers.binary_search(&number).ok()?;
        u32::try_from(row).ok()
    }

    pub(super) fn row_count(&self) -> usize {
        self.facts.numbers.len()
    }

    /// Returns how many bytes of memory the part takes, roughly.
    pub(super) fn byte_count(&self) -> usize {
        let row_bytes = 2 * size_of::<i64>() + size_of::<u64>() + size_of::<u32>();
        let names: usize = self.facts.entities.iter().map(|entity| entity.as_str().len()).sum();
        let names = names + size_of::<EntityId>() * self.facts.entities.len();
        self.index.byte_count() + row_bytes * self.row_count() + names
    }

    /// Returns the rows that are wanted, not gone, and not newer than the question, or `None` when that is
    /// all of them.
    pub(super) fn rows_of(
        &self,
        next_segment: u64,
        wanted: &Wanted<'_>,
        gone: &RowSet,
    ) -> Option<RowSet> {
        let Facts { numbers, starts, ends, owners, entities } = &self.facts;
        let of: Option<Vec<bool>> = wanted.of.map(|of| entities.iter().map(of).collect());
        let (from, to) = wanted.range;
        let is_all = of.is_none() && (from, to) == (i64::MIN, i64::MAX);
        if is_all && gone.count() == 0 && self.last < next_segment {
            return None;
        }
        Some(RowSet::from_fn(numbers.len(), |row| {
            let at = row as usize;
            starts[at] <= to
                && ends[at] >= from
                && of.as_ref().is_none_or(|of| of[owners[at] as usize])
                && !gone.contains(row)
                && numbers[at] < next_segment
        }))
    }

    pub(super) fn file_name(&self, collection: u32) -> String {
        let Self { after, last, generation, .. } = *self;
        Name { after, last, generation }.file(collection)
    }

    /// Returns the bytes of the file.
    pub(super) fn encode(&self) -> Vec<u8> {
        let Facts { numbers, starts, ends, owners, entities } = &self.facts;
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.after.to_le_bytes());
        bytes.extend_from_slice(&self.last.to_le_bytes());
        bytes.extend_from_slice(&(numbers.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(entities.len() as u32).to_le_bytes());
        for entity in entities {
            bytes.extend_from_slice(&(entity.as_str().len() as u16).to_le_bytes());
            bytes.extend_from_slice(entity.as_str().as_bytes());
        }
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        bytes.extend(starts.iter().flat_map(|start| start.to_le_bytes()));
        bytes.extend(ends.iter().flat_map(|end| end.to_le_bytes()));
        bytes.extend(owners.iter().flat_map(|owner| owner.to_le_bytes()));
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(&self.index.encode());
        bytes
    }

    /// Returns the part that the bytes hold, when they are whole and of this kind.
    pub(super) fn decode(bytes: &[u8], metric: Metric, dim: Dim) -> Option<Self> {
        let mut input = bytes.strip_prefix(MAGIC)?;
        let rest = &mut input;
        if u32::from_le_bytes(take(rest)?) != VERSION {
            return None;
        }
        let (after, last) = (u64::from_le_bytes(take(rest)?), u64::from_le_bytes(take(rest)?));
        let count = u32::from_le_bytes(take(rest)?) as usize;
        let entity_count = u32::from_le_bytes(take(rest)?) as usize;
        let mut entities = Vec::new();
        for _ in 0..entity_count {
            let length = usize::from(u16::from_le_bytes(take(rest)?));
            let (name, after_name) = rest.split_at_checked(length)?;
            entities.push(EntityId::new(str::from_utf8(name).ok()?).ok()?);
            *rest = after_name;
        }
        let facts = Facts {
            numbers: numbers(rest, count, u64::from_le_bytes)?,
            starts: numbers(rest, count, i64::from_le_bytes)?,
            ends: numbers(rest, count, i64::from_le_bytes)?,
            owners: numbers(rest, count, u32::from_le_bytes)?,
            entities,
        };
        let head = &bytes[..bytes.len() - rest.len()];
        if u32::from_le_bytes(take(rest)?) != crc32fast::hash(head) {
            return None;
        }
        let index = GraphIndex::decode(rest).ok()?;
        let fits = index.is_over(metric, dim) && index.count() == count;
        let part = Self { after, last, generation: 0, facts, index };
        (fits && part.is_in_order()).then_some(part)
    }

    fn is_in_order(&self) -> bool {
        let Facts { numbers, owners, entities, .. } = &self.facts;
        numbers.is_sorted_by(|a, b| a < b)
            && numbers.first().is_none_or(|first| *first > self.after)
            && numbers.last().is_none_or(|last| *last <= self.last)
            && self.after <= self.last
            && owners.iter().all(|owner| (*owner as usize) < entities.len())
    }
}

impl Name {
    /// Returns the path of the file.
    pub(super) fn file(self, collection: u32) -> String {
        let Self { after, last, generation } = self;
        format!("{}/{collection:010}-{after:020}-{last:020}-{generation:010}.part", super::FOLDER)
    }

    /// Returns what the name of a file says, when it is of this collection.
    pub(super) fn parse(name: &str, collection: u32) -> Option<Self> {
        let mut fields = name.strip_suffix(".part")?.split('-').map(str::parse::<u64>);
        let mut next = || fields.next()?.ok();
        let of = next()?;
        let name = Self { after: next()?, last: next()?, generation: next()? };
        (of == u64::from(collection) && next().is_none()).then_some(name)
    }
}

/// The rows of a part that is being made.
pub(super) struct Rows {
    after: u64,
    last: u64,
    pub(super) generation: u64,
    facts: Facts,
    owner_of: BTreeMap<EntityId, u32>,
    values: Vec<f32>,
}

impl Rows {
    pub(super) const fn new(after: u64) -> Self {
        let facts = Facts {
            numbers: Vec::new(),
            starts: Vec::new(),
            ends: Vec::new(),
            owners: Vec::new(),
            entities: Vec::new(),
        };
        Self {
            after,
            last: after,
            generation: 0,
            facts,
            owner_of: BTreeMap::new(),
            values: Vec::new(),
        }
    }

    /// Says that the part goes up to this number, whether or not a segment has it.
    pub(super) fn reach(&mut self, last: u64) {
        self.last = self.last.max(last);
    }

    pub(super) const fn count(&self) -> usize {
        self.facts.numbers.len()
    }

    /// Adds a segment; each has a larger number than the one before.
    pub(super) fn push(&mut self, stored: &Stored) {
        let segment = &stored.segment;
        self.push_fact(stored.number, (segment.start().0, segment.end().0), segment.entity());
        self.values.extend_from_slice(segment.mean());
        self.last = stored.number;
    }

    fn push_fact(&mut self, number: u64, (start, end): (i64, i64), entity: &EntityId) {
        let owner = match self.owner_of.get(entity) {
            Some(owner) => *owner,
            None => {
                let owner = self.facts.entities.len() as u32;
                self.facts.entities.push(entity.clone());
                self.owner_of.insert(entity.clone(), owner);
                owner
            }
        };
        self.facts.numbers.push(number);
        self.facts.starts.push(start);
        self.facts.ends.push(end);
        self.facts.owners.push(owner);
    }

    /// Returns the part, unless `going` said no.
    pub(super) fn build(self, metric: Metric, dim: Dim, going: &dyn Fn() -> bool) -> Option<Part> {
        let Self { after, last, generation, facts, values, .. } = self;
        // Means of segments are finite, and as long as the collection's dimension.
        // Every answer is compared with the store, so rows need not be whole.
        let index = GraphIndex::build_while(metric, dim, Form::Rounded, &values, going).ok()??;
        Some(Part { after, last, generation, facts, index })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*taken)
}

fn numbers<T, const N: usize>(
    rest: &mut &[u8],
    count: usize,
    number: impl Fn([u8; N]) -> T,
) -> Option<Vec<T>> {
    let (bytes, after) = rest.split_at_checked(count.checked_mul(N)?)?;
    *rest = after;
    Some(bytes.as_chunks::<N>().0.iter().map(|bytes| number(*bytes)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collection::Metric;

    fn part() -> Part {
        let mut rows = Rows::new(3);
        for (number, entity, value) in [(4_u64, "é", 0.5_f32), (6, "b", 2.0), (7, "é", 0.5)] {
            let start = number as i64 * 10;
            rows.push_fact(number, (start, start + 5), &EntityId::new(entity).unwrap());
            rows.values.push(value);
            rows.last = number;
        }
        rows.build(Metric::Euclidean, Dim::new(1).unwrap(), &|| true).unwrap()
    }

    #[test]
    fn a_part_is_these_bytes() {
        let bytes = part().encode();
        let mut expected = b"DUNLINPT\x01\0\0\0".to_vec();
        for number in [3_u64, 7] {
            expected.extend(number.to_le_bytes());
        }
        expected.extend([3, 0, 0, 0, 2, 0, 0, 0]);
        expected.extend(b"\x02\0\xc3\xa9\x01\0b");
        for number in [4_u64, 6, 7, 40, 60, 70, 45, 65, 75] {
            expected.extend(number.to_le_bytes());
        }
        for owner in [0_u32, 1, 0] {
            expected.extend(owner.to_le_bytes());
        }
        expected.extend(crc32fast::hash(&expected).to_le_bytes());
        assert_eq!(bytes[..expected.len()], expected);
        assert!(GraphIndex::decode(&bytes[expected.len()..]).is_ok());
    }

    #[test]
    fn only_what_was_encoded_for_this_collection_is_decoded() {
        let (part, dim) = (part(), Dim::new(1).unwrap());
        let bytes = part.encode();
        let back = Part::decode(&bytes, Metric::Euclidean, dim).unwrap();
        assert_eq!((back.after, back.last, &back.facts), (3, 7, &part.facts));
        assert_eq!((back.row_of(6), back.row_of(5)), (Some(1), None));
        assert!(Part::decode(&bytes, Metric::Cosine, dim).is_none());
        assert!(Part::decode(&bytes, Metric::Euclidean, Dim::new(2).unwrap()).is_none());
        for at in 0..bytes.len() {
            assert!(Part::decode(&bytes[..at], Metric::Euclidean, dim).is_none());
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            assert!(Part::decode(&flipped, Metric::Euclidean, dim).is_none(), "byte {at}");
        }
    }

    #[test]
    fn files_are_found_by_their_names() {
        let known = Name { after: 3, last: 90, generation: 2 };
        let path = known.file(7);
        let (folder, file) = path.split_once('/').unwrap();
        assert_eq!(
            (folder, Name::parse(file, 7), Name::parse(file, 8)),
            ("index", Some(known), None)
        );
        for other in ["", "x.part", "1-2-3-4-5.part", "0000000007-a-b-c.part", "7-3-90-2"] {
            assert_eq!(Name::parse(other, 7), None);
        }
    }
}
