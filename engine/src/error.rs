//! Why an engine does not open, write or answer.

use std::{io, sync::Arc};

use dunlin_wire::Cid;

use crate::{
    Config,
    collection::{CollectionName, SpecError},
    compact::CompactError,
    observation::{EntityId, Timestamp},
    payload::PayloadError,
    segment,
};

/// Why an engine did not open. The folder is as it was, but for a log tail that was never acknowledged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process, or another engine of this one, has the folder. Stop it and try again.
    #[error("another process uses this data folder")]
    InUse,
    /// The folder holds something else. Choose an empty or new one.
    #[error("the folder is not a data folder of the engine: it holds {name:?}")]
    Foreign {
        /// A name that does not belong there.
        name: String,
    },
    /// The folder was written by a newer version. Use that one.
    #[error(
        "the data folder has the format {found:?}, and this version of dunlin reads {known:?}; use a newer one"
    )]
    Version {
        /// What the version file, or a log file, says.
        found: String,
        /// The newest format that this version reads.
        known: &'static str,
    },
    /// The version file is gone, but the rest is there. Put it back from a backup.
    #[error("the data folder holds data but no version file")]
    VersionMissing,
    /// The log is damaged in the middle of what was acknowledged, so data would be lost by going on.
    /// Restore the file from a backup.
    #[error("log file {file} is damaged at byte {offset}, before records that are whole: {what}")]
    LogDamaged {
        /// Its name.
        file: String,
        /// Where the damage begins.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// A log file that the checkpoint needs is not there. Restore it from a backup.
    #[error("the log does not reach back to record {expected}")]
    LogMissing {
        /// The first record after the checkpoint.
        expected: u64,
    },
    /// The store could not be read, or contradicts itself.
    #[error("the store cannot be opened")]
    Store(#[from] StoreError),
    /// A file could not be read or written. Trying again may help.
    #[error("a file of the data folder cannot be used")]
    Io(#[from] io::Error),
}

/// Why a write was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// There is no such collection. Nothing was written.
    #[error("no collection {name}")]
    UnknownCollection {
        /// What was asked for.
        name: CollectionName,
    },
    /// There is no such entity in the collection. Nothing was written.
    #[error("no entity {entity} in {collection}")]
    UnknownEntity {
        /// The collection.
        collection: CollectionName,
        /// What was asked for.
        entity: EntityId,
    },
    /// The entity was observed since the caller looked. Nothing was removed; look again.
    #[error("{entity} in {collection} was observed meanwhile")]
    Changed {
        /// The collection.
        collection: CollectionName,
        /// The entity.
        entity: EntityId,
    },
    /// An observation is not acceptable. Nothing of its batch was written; the same batch fails again.
    #[error("observation {index} of the batch: {cause}")]
    BadObservation {
        /// Its index in the batch.
        index: usize,
        /// What is wrong with it.
        #[source]
        cause: ObservationError,
    },
    /// The batch is too large. Nothing was written; send it in parts.
    #[error(
        "a batch of {observations} observations and {bytes} bytes; at most {} and {} are accepted",
        Config::BATCH_OBSERVATIONS_MAX,
        Config::BATCH_BYTES_MAX
    )]
    BatchTooLarge {
        /// How many observations it has.
        observations: usize,
        /// How many bytes it would have in the log.
        bytes: usize,
    },
    /// The batch names more new entities than the collection has room for. None of it took effect.
    #[error("collection {collection} has room for {entities_max} entities")]
    TooManyEntities {
        /// The collection.
        collection: CollectionName,
        /// Its limit.
        entities_max: u32,
    },
    /// The specification is not usable. Nothing was written.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The collection exists with another specification, which never changes. Nothing was written.
    #[error("collection {name} exists with another specification")]
    OtherSpec {
        /// The collection.
        name: CollectionName,
    },
    /// There is no room for another collection. Nothing was written.
    #[error("there are {} collections already, and room for no more", Config::COLLECTIONS_MAX)]
    TooManyCollections,
    /// An earlier write failed, so what the disk holds is unknown. Whether this one took effect is
    /// unknown too; restart, which finds out, and send it again: what is known already is not doubled.
    #[error("a write to the data folder failed; restart to go on: {cause}")]
    Poisoned {
        /// The failure.
        #[source]
        cause: Arc<PoisonCause>,
    },
    /// The engine was closed. Nothing was written.
    #[error("the engine is closed")]
    Closed,
}

impl WriteError {
    /// Returns the refusal of a write after a writer died.
    pub(crate) fn panicked() -> Self {
        Self::Poisoned { cause: Arc::new(PoisonCause::Panicked) }
    }
}

/// What made an engine refuse all writes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoisonCause {
    /// The log could not be written or synced.
    #[error("the log cannot be written")]
    Log(#[from] io::Error),
    /// The store could not be written.
    #[error("the store cannot be written")]
    Store(#[from] StoreError),
    /// A writer died in the middle of its work.
    #[error("a writer panicked")]
    Panicked,
}

/// What is wrong with one observation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObservationError {
    /// The vector has another length than the collection's dimension.
    #[error("{found} values where the collection has {expected} channels")]
    Dim {
        /// The collection's dimension.
        expected: usize,
        /// The vector's length.
        found: usize,
    },
    /// A value is infinite or not a number.
    #[error("the value of channel {channel} is not finite")]
    NotFinite {
        /// Index of the channel.
        channel: usize,
    },
}

/// Why a question has no answer. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// There is no such collection.
    #[error("no collection {name}")]
    UnknownCollection {
        /// What was asked for.
        name: CollectionName,
    },
    /// There is no such entity in the collection.
    #[error("no entity {entity} in {collection}")]
    UnknownEntity {
        /// The collection.
        collection: CollectionName,
        /// What was asked for.
        entity: EntityId,
    },
    /// A vector in the question has another length than the collection's dimension.
    #[error("{found} values where the collection has {expected} channels")]
    Dim {
        /// The collection's dimension.
        expected: usize,
        /// The vector's length.
        found: usize,
    },
    /// A vector in the question holds a value that is infinite or not a number.
    #[error("the value of channel {channel} is not finite")]
    NotFinite {
        /// Index of the channel.
        channel: usize,
    },
    /// The question's time range ends before it begins.
    #[error("the range ends at {to}, before it begins at {from}")]
    Range {
        /// Where it begins.
        from: Timestamp,
        /// Where it ends.
        to: Timestamp,
    },
    /// The answer needs observations, and the collection does not keep them.
    #[error("collection {name} keeps summaries only; this question needs a lossless one")]
    NotLossless {
        /// The collection.
        name: CollectionName,
    },
    /// The answer would be too large. Ask for a shorter range or a coarser resolution.
    #[error("an answer of more than {rows_max} rows")]
    TooManyRows {
        /// The limit.
        rows_max: usize,
    },
    /// The entity has no observation in the range that was asked about.
    #[error("nothing is known of {entity} in that time")]
    NothingKnown {
        /// The entity.
        entity: EntityId,
    },
    /// A writer died in the middle of its work. Restart to go on.
    #[error("a writer panicked; restart to go on")]
    Unusable,
    /// The store could not be read, or contradicts itself.
    #[error("the store cannot be read")]
    Store(#[from] StoreError),
}

/// Why the index was not brought up to date. Questions are answered all the same, more slowly; nothing is
/// lost, and it is tried again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MaintainError {
    /// A file of the index cannot be written.
    #[error("a file of the index cannot be written")]
    Io(#[from] io::Error),
    /// A writer died in the middle of its work. Restart to go on.
    #[error("a writer panicked; restart to go on")]
    Unusable,
    /// The store could not be read, or contradicts itself.
    #[error("the store cannot be read")]
    Store(#[from] StoreError),
}

/// Why a past was not compacted. Nothing changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompactionError {
    /// A setting makes no sense.
    #[error(transparent)]
    Setting(#[from] CompactError),
    /// The segments could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The outline could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database below failed.
    #[error("database failure")]
    Database(#[source] Box<redb::Error>),
    /// A record is not what this version writes.
    #[error("the record of {what} is damaged")]
    Damaged {
        /// What the record is about.
        what: &'static str,
    },
    /// A stored segment cannot be decoded.
    #[error("a stored segment is damaged")]
    Segment(#[from] segment::DecodeError),
    /// The observations of a stored segment cannot be decoded.
    #[error("the observations of a stored segment are damaged")]
    Payload(#[from] PayloadError),
    /// A payload block that a stored segment links to is not there.
    #[error("payload block {cid} is missing")]
    BlockMissing {
        /// Its CID.
        cid: Box<Cid>,
    },
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}
