//! Log entries: validated batches and the other changes that replay must repeat.
//! `docs/formats/log.md` is the format.

use std::collections::BTreeMap;

use dunlin_wire::cbor;

use crate::{
    Config,
    collection::{CollectionName, CollectionSpec},
    error::{ObservationError, WriteError},
    observation::{EntityId, Metadata, Observation},
    rows::Rows,
};

/// One change, as the log holds it.
pub(crate) enum Entry {
    /// Observations of one collection, by entity.
    Observations { collection: CollectionName, groups: Vec<(EntityId, Rows)> },
    /// The open regime of an entity ends now.
    Seal { collection: CollectionName, entity: EntityId },
    /// A collection begins to exist.
    Create(Box<CollectionSpec>),
    /// An entity is forgotten, with all its segments; with a count, only if it has so many observations.
    Remove { collection: CollectionName, entity: EntityId, observations: Option<u64> },
}

/// Returns the observations of a batch by entity, each entity's in the order of the batch.
///
/// # Errors
///
/// Fails on the first observation that does not fit the collection.
pub(crate) fn group(
    spec: &CollectionSpec,
    batch: Vec<Observation>,
) -> Result<Vec<(EntityId, Rows)>, WriteError> {
    let dim = spec.dim.get();
    for (index, observation) in batch.iter().enumerate() {
        check(dim, observation).map_err(|cause| WriteError::BadObservation { index, cause })?;
    }
    let mut groups: BTreeMap<EntityId, Rows> = BTreeMap::new();
    let mut run: Option<(EntityId, Rows)> = None;
    for Observation { entity, timestamp, vector, metadata } in batch {
        // Batches mostly hold long runs of one entity: look it up once a run.
        if run.as_ref().is_none_or(|(current, _)| *current != entity) {
            groups.extend(run.take());
            let rows = groups.remove(&entity).unwrap_or_else(|| Rows::new(dim));
            run = Some((entity, rows));
        }
        if let Some((_, rows)) = &mut run {
            rows.push(timestamp.0, &vector, metadata);
        }
    }
    groups.extend(run);
    Ok(groups.into_iter().collect())
}

fn check(dim: usize, observation: &Observation) -> Result<(), ObservationError> {
    let found = observation.vector.len();
    if found != dim {
        return Err(ObservationError::Dim { expected: dim, found });
    }
    match observation.vector.iter().position(|value| !value.is_finite()) {
        Some(channel) => Err(ObservationError::NotFinite { channel }),
        None => Ok(()),
    }
}

impl Entry {
    /// Returns the bytes, behind their length.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        match self {
            Self::Observations { collection, groups } => {
                bytes.push(1);
                push_string(&mut bytes, collection.as_str());
                push_count(&mut bytes, groups.len());
                for (entity, rows) in groups {
                    push_string(&mut bytes, entity.as_str());
                    push_rows(&mut bytes, rows);
                }
            }
            Self::Seal { collection, entity } => {
                bytes.push(2);
                push_string(&mut bytes, collection.as_str());
                push_string(&mut bytes, entity.as_str());
            }
            Self::Create(spec) => {
                bytes.push(3);
                let spec = cbor::encode(spec).expect("a checked specification is finite");
                bytes.extend_from_slice(&spec);
            }
            Self::Remove { collection, entity, observations } => {
                bytes.push(4);
                push_string(&mut bytes, collection.as_str());
                push_string(&mut bytes, entity.as_str());
                bytes.extend_from_slice(&observations.unwrap_or(u64::MAX).to_le_bytes());
            }
        }
        let length = u32::try_from(bytes.len() - 4).expect("an entry is smaller than a record");
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    /// Returns how many observations the entry brings.
    pub(crate) fn observations(&self) -> usize {
        match self {
            Self::Observations { groups, .. } => groups.iter().map(|(_, rows)| rows.count()).sum(),
            Self::Seal { .. } | Self::Create(_) | Self::Remove { .. } => 0,
        }
    }

    /// Returns the entries of a record, or `None` when it is not what this version writes.
    pub(crate) fn decode_all(mut record: &[u8]) -> Option<Vec<Self>> {
        let mut entries = Vec::new();
        while !record.is_empty() {
            let (length, rest) = record.split_first_chunk::<4>()?;
            let (entry, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            entries.push(Self::decode(entry)?);
            record = rest;
        }
        Some(entries)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, mut bytes) = bytes.split_first()?;
        let input = &mut bytes;
        let entry = match kind {
            1 => {
                let collection = CollectionName::new(take_string(input)?).ok()?;
                let count = take_count(input)?;
                let mut groups = Vec::new();
                for _ in 0..count {
                    let entity = EntityId::new(take_string(input)?).ok()?;
                    groups.push((entity, take_rows(input)?));
                }
                Self::Observations { collection, groups }
            }
            2 => Self::Seal {
                collection: CollectionName::new(take_string(input)?).ok()?,
                entity: EntityId::new(take_string(input)?).ok()?,
            },
            3 => Self::Create(Box::new(CollectionSpec::decode(std::mem::take(input))?)),
            4 => Self::Remove {
                collection: CollectionName::new(take_string(input)?).ok()?,
                entity: EntityId::new(take_string(input)?).ok()?,
                observations: {
                    let count = take(input, 8)?.try_into().ok()?;
                    Some(u64::from_le_bytes(count)).filter(|count| *count != u64::MAX)
                },
            },
            _ => return None,
        };
        input.is_empty().then_some(entry)
    }
}

fn push_count(bytes: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("a batch is smaller than 4 GiB");
    bytes.extend_from_slice(&count.to_le_bytes());
}

fn push_string(bytes: &mut Vec<u8>, text: &str) {
    push_count(bytes, text.len());
    bytes.extend_from_slice(text.as_bytes());
}

fn push_rows(bytes: &mut Vec<u8>, rows: &Rows) {
    let metadata = rows.metadata_between(0, rows.count());
    let metadata = match metadata.as_slice() {
        [] => Vec::new(),
        some => cbor::encode(&some).expect("metadata holds strings only"),
    };
    push_count(bytes, rows.dim());
    push_count(bytes, rows.count());
    push_count(bytes, metadata.len());
    bytes.reserve(rows.byte_count() + metadata.len());
    bytes.extend(rows.times().iter().flat_map(|time| time.to_le_bytes()));
    bytes.extend(rows.values().iter().flat_map(|value| value.to_le_bytes()));
    bytes.extend_from_slice(&metadata);
}

fn take<'a>(input: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(bytes)?;
    *input = rest;
    Some(taken)
}

fn take_count(input: &mut &[u8]) -> Option<usize> {
    let (count, rest) = input.split_first_chunk::<4>()?;
    *input = rest;
    Some(u32::from_le_bytes(*count) as usize)
}

fn take_string(input: &mut &[u8]) -> Option<String> {
    let bytes = take_count(input)?;
    String::from_utf8(take(input, bytes)?.to_vec()).ok()
}

fn take_rows(input: &mut &[u8]) -> Option<Rows> {
    let (dim, count, metadata) = (take_count(input)?, take_count(input)?, take_count(input)?);
    if dim == 0 || count > Config::BATCH_OBSERVATIONS_MAX {
        return None;
    }
    let times = take(input, count.checked_mul(8)?)?;
    let values = take(input, count.checked_mul(dim)?.checked_mul(4)?)?;
    let metadata: Vec<(u32, Metadata)> = match take(input, metadata)? {
        [] => Vec::new(),
        some => cbor::decode(some, some.len()).ok()?,
    };
    let values: Vec<f32> =
        values.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    // No batch holds such a value; taken over, it would spoil the state of its entity for ever.
    if values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let mut metadata = metadata.into_iter().peekable();
    let mut rows = Rows::new(dim);
    for (index, time) in times.as_chunks::<8>().0.iter().enumerate() {
        let here = metadata.next_if(|(row, _)| *row as usize == index).map(|(_, carried)| carried);
        rows.push(i64::from_le_bytes(*time), &values[index * dim..(index + 1) * dim], here);
    }
    metadata.next().is_none().then_some(rows)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        collection::{Dim, Units},
        observation::Timestamp,
    };

    fn spec() -> CollectionSpec {
        let dim = Dim::new(2).unwrap();
        CollectionSpec::new(CollectionName::new("c").unwrap(), dim, Units::unit_range(dim))
    }

    fn observation(entity: &str, time: i64, vector: Vec<f32>) -> Observation {
        let timestamp = Timestamp(time);
        let note = Metadata::new(BTreeMap::from([("k".to_owned(), time.to_string())])).unwrap();
        let metadata = (time % 2 == 0).then_some(note);
        Observation { entity: EntityId::new(entity).unwrap(), timestamp, vector, metadata }
    }

    #[test]
    fn grouping_keeps_each_entitys_order() {
        let order = [("b", 3), ("a", 1), ("b", 1), ("b", 2), ("a", 5)];
        let batch = order.map(|(entity, time)| observation(entity, time, vec![0.0, 1.0]));
        let groups = group(&spec(), batch.to_vec()).unwrap();
        let times: Vec<_> = groups.iter().map(|(e, rows)| (e.as_str(), rows.times())).collect();
        assert_eq!(times, [("a", &[1, 5][..]), ("b", &[3, 1, 2])]);
    }

    #[test]
    fn the_first_bad_observation_is_named() {
        let good = observation("a", 1, vec![0.0, 1.0]);
        for (bad, expected) in [
            (vec![0.0], ObservationError::Dim { expected: 2, found: 1 }),
            (vec![0.0, f32::NAN], ObservationError::NotFinite { channel: 1 }),
            (vec![f32::INFINITY, 0.0], ObservationError::NotFinite { channel: 0 }),
        ] {
            let batch = vec![good.clone(), observation("a", 2, bad), observation("a", 3, vec![])];
            let error = group(&spec(), batch).unwrap_err();
            assert!(
                matches!(error, WriteError::BadObservation { index: 1, cause } if cause == expected)
            );
        }
    }

    #[test]
    fn entries_round_trip() {
        let batch = (0..5).map(|t| observation("é", t, vec![t as f32, -0.0])).collect();
        let groups = group(&spec(), batch).unwrap();
        let collection = spec().name;
        let entity = EntityId::new("x").unwrap();
        let mut record = Vec::new();
        for entry in [
            Entry::Create(Box::new(spec())),
            Entry::Observations { collection: collection.clone(), groups: groups.clone() },
            Entry::Seal { collection: collection.clone(), entity: entity.clone() },
            Entry::Remove { collection, entity, observations: Some(7) },
        ] {
            record.extend_from_slice(&entry.encode());
        }
        let entries = Entry::decode_all(&record).unwrap();
        assert!(matches!(&entries[0], Entry::Create(created) if **created == spec()));
        assert!(matches!(&entries[1], Entry::Observations { groups: g, .. } if *g == groups));
        assert!(matches!(&entries[2], Entry::Seal { entity, .. } if entity.as_str() == "x"));
        assert!(
            matches!(&entries[3], Entry::Remove { entity, observations: Some(7), .. } if entity.as_str() == "x")
        );
        for end in 1..record.len() {
            let part = Entry::decode_all(&record[..end]);
            assert!(part.is_none_or(|entries| entries.len() < 4));
        }
    }

    #[test]
    fn a_specification_that_nobody_could_have_made_is_refused() {
        let mut unusable = spec();
        unusable.policy.threshold = -0.08;
        for (spec, expected) in [(spec(), true), (unusable, false)] {
            let entry = Entry::Create(Box::new(spec));
            assert_eq!(Entry::decode_all(&entry.encode()).is_some(), expected);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_records_never_panic(bytes in any::<Vec<u8>>()) {
            let _decoded_or_refused = Entry::decode_all(&bytes);
        }
    }
}
