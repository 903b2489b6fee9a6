//! The budget ledger: what was spent, written down durably before any noise is drawn.
//!
//! An append-only file (`docs/formats/ledger.md`). [`Ledger::reserve`] writes one entry, waits until
//! it is on disk, and gives a [`Receipt`]; [`crate::release()`] takes the receipt and nothing else
//! opens it. So there is no path to noised values that are not paid for, and a crash in between
//! wastes budget at worst.
//!
//! The file belongs to one process: the shell's lock on the data folder sees to that.

mod format;
mod storage;

use std::io;
use std::path::Path;

use crate::dataset::{DataDigest, Dataset};
use crate::epsilon::Epsilon;
use crate::release::{EPSILON_MIN, Unit};

use format::{Body, CollectionTag, Record, Reserved, Tail};
pub(crate) use storage::{FileStorage, Storage};

/// Longest collection name or purpose in an entry, in bytes.
pub const TEXT_BYTES_MAX: usize = 256;

/// Largest ledger file: more than 100,000 releases. When full, sharing stops.
pub const LEDGER_BYTES_MAX: u64 = 64 << 20;

/// What a release is going to cost, and for what.
#[derive(Clone, Debug)]
pub struct Intent<'a> {
    /// Whose observations: the ceiling is per collection.
    pub collection: &'a str,
    /// The observations to be released.
    pub data: &'a Dataset,
    /// What the epsilon protects.
    pub unit: Unit,
    /// What the release may cost, at least 0.001.
    pub epsilon: Epsilon,
    /// The wall clock, in milliseconds since the Unix epoch. For people; nothing is ordered by it.
    pub now_unix_ms: u64,
    /// For people: what the release is for.
    pub purpose: &'a str,
}

/// One line of the ledger.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Entry {
    /// The collection, or `None` if a crash tore the entry: its cost counts all the same.
    pub collection: Option<String>,
    /// What was spent.
    pub epsilon: Epsilon,
    /// What was spent of delta. Every mechanism here is pure, so 0.
    pub delta: f64,
    /// What the epsilon protects; `None` if the entry is torn.
    pub unit: Option<Unit>,
    /// When, in milliseconds since the Unix epoch; `None` if the entry is torn.
    pub unix_ms: Option<u64>,
    /// What for; empty if the entry is torn.
    pub purpose: String,
    /// Whether the release was made. `false` stands for one that a crash or an error prevented.
    pub is_released: bool,
    tag: CollectionTag,
    data: Option<DataDigest>,
    sequence: u64,
}

/// Proof that a cost is on disk. It is worth one release of the data it was made for; dropping it
/// wastes the budget.
#[derive(Debug)]
#[must_use = "dropping a receipt wastes its budget"]
pub struct Receipt {
    sequence: u64,
    data: DataDigest,
    epsilon: Epsilon,
    unit: Unit,
}

impl Receipt {
    pub(crate) fn data(&self) -> DataDigest {
        self.data
    }

    pub(crate) fn unit(&self) -> Unit {
        self.unit
    }

    /// Returns what was reserved.
    #[must_use]
    pub fn epsilon(&self) -> Epsilon {
        self.epsilon
    }
}

/// Why a ledger file was not opened. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file system failed. Opening again may help.
    #[error("the ledger file cannot be read or written")]
    Io(#[from] io::Error),
    /// The file is something else, or of a version this program does not know.
    #[error("the file is not a budget ledger of version {}", format::VERSION)]
    Foreign,
    /// The file is larger than a ledger gets.
    #[error("a ledger of {bytes} bytes, but at most {LEDGER_BYTES_MAX} are read")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// Something before the end is damaged. What was spent cannot be known, so nothing is shared
    /// until a person restores the file or accepts the loss.
    #[error("the ledger is damaged at byte {offset}")]
    Damaged {
        /// Where the damage begins.
        offset: u64,
    },
}

/// Why no budget was given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReserveError {
    /// The ceiling would be passed. Nothing was written.
    #[error("collection {collection}: epsilon {asked} asked, but {left} of {ceiling} is left")]
    Exhausted {
        /// Whose.
        collection: String,
        /// What was asked for.
        asked: Epsilon,
        /// What is left.
        left: Epsilon,
        /// The ceiling.
        ceiling: Epsilon,
    },
    /// These very observations were released before: the earlier release says all that a new one
    /// could, at no cost. Nothing was written.
    #[error("collection {collection}: nothing changed since the release of {unix_ms} ms")]
    Unchanged {
        /// Whose.
        collection: String,
        /// When they were released.
        unix_ms: u64,
    },
    /// The epsilon of one release is too small to release anything. Nothing was written.
    #[error("epsilon {asked} is below {EPSILON_MIN}")]
    TooSmall {
        /// What was asked for.
        asked: Epsilon,
    },
    /// A name or purpose is empty or too long. Nothing was written.
    #[error("a text of {bytes} bytes, expected 1 to {TEXT_BYTES_MAX}")]
    Text {
        /// Its length.
        bytes: usize,
    },
    /// The file is as large as a ledger gets. Nothing was written.
    #[error("the ledger is full at {LEDGER_BYTES_MAX} bytes")]
    Full,
    /// Writing failed. The entry counts as spent, and this ledger refuses everything until it is
    /// opened again, because what is on disk is not known.
    #[error("the ledger could not be written")]
    Io(#[from] io::Error),
    /// An earlier write failed; see there.
    #[error("the ledger refuses writes since one failed; restart to read what is on disk")]
    Poisoned,
}

/// The budget of a node's collections.
pub struct Ledger {
    storage: Box<dyn Storage + Send>,
    epsilon_max: Epsilon,
    entries: Vec<Entry>,
    /// Where the next record goes.
    end: u64,
    /// The number of the next record.
    sequence: u64,
    is_poisoned: bool,
}

impl Ledger {
    /// Opens the ledger at `path`, or starts one. `epsilon_max` is the ceiling of every collection,
    /// for the life of the file.
    ///
    /// An entry that a crash tore is kept as spent as soon as its cost can be read; shorter remains
    /// are removed, since no noise was drawn for them.
    ///
    /// # Errors
    ///
    /// If the file is foreign, damaged or unreadable.
    pub fn open(path: &Path, epsilon_max: Epsilon) -> Result<Self, OpenError> {
        Self::open_storage(Box::new(FileStorage::open(path)?), epsilon_max)
    }

    pub(crate) fn open_storage(
        mut storage: Box<dyn Storage + Send>,
        epsilon_max: Epsilon,
    ) -> Result<Self, OpenError> {
        let bytes = storage.len()?;
        if bytes > LEDGER_BYTES_MAX {
            return Err(OpenError::TooLarge { bytes });
        }
        let contents = format::parse(&storage.read()?)?;
        match contents.tail {
            Tail::Clean => {}
            // Truncating an entry whose head is torn removes nothing that was ever counted.
            Tail::Remove => storage.truncate(contents.end)?,
            Tail::Header => storage.write_at(0, &format::header())?,
            Tail::Seal { at, ref zeros } => storage.write_at(at, zeros)?,
        }
        if contents.tail != Tail::Clean {
            storage.sync()?;
        }
        let mut ledger = Self {
            storage,
            epsilon_max,
            entries: Vec::new(),
            end: contents.end,
            sequence: 0,
            is_poisoned: false,
        };
        contents.records.into_iter().for_each(|record| ledger.apply(record));
        Ok(ledger)
    }

    /// Writes down that a release is going to be made, and returns when that is on disk.
    ///
    /// # Errors
    ///
    /// If the ceiling would be passed, these observations were released before, or writing fails.
    ///
    /// # Durability
    ///
    /// The entry is synced when this returns.
    pub fn reserve(&mut self, intent: &Intent<'_>) -> Result<Receipt, ReserveError> {
        self.check(intent)?;
        let data = intent.data.digest();
        let sequence = self.sequence;
        let reserved = Reserved {
            collection: intent.collection.to_owned(),
            data: data.0.to_vec(),
            delta: 0.0,
            purpose: intent.purpose.to_owned(),
            sequence,
            unit: intent.unit,
            unix_ms: intent.now_unix_ms,
        };
        self.append(Record {
            epsilon: intent.epsilon,
            tag: CollectionTag::of(intent.collection),
            body: Some(Body::Reserved(reserved)),
        })?;
        Ok(Receipt { sequence, data, epsilon: intent.epsilon, unit: intent.unit })
    }

    /// Returns what `collection` has spent, torn entries included.
    #[must_use]
    pub fn spent(&self, collection: &str) -> Epsilon {
        let tag = CollectionTag::of(collection);
        let of_collection = self.entries.iter().filter(|entry| entry.tag == tag);
        of_collection.fold(Epsilon::ZERO, |sum, entry| sum.compose(entry.epsilon))
    }

    /// Returns what `collection` may still spend.
    #[must_use]
    pub fn left(&self, collection: &str) -> Epsilon {
        self.epsilon_max.left_after(self.spent(collection))
    }

    /// Returns the ceiling of every collection.
    #[must_use]
    pub fn epsilon_max(&self) -> Epsilon {
        self.epsilon_max
    }

    /// Returns every entry, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn has_issued(&self, receipt: &Receipt) -> bool {
        self.entries.iter().any(|entry| {
            entry.sequence == receipt.sequence
                && entry.data == Some(receipt.data)
                && entry.epsilon == receipt.epsilon
                && !entry.is_released
        })
    }

    /// Notes that the release of `receipt` was made, so that the same data are not paid for twice.
    pub(crate) fn note_released(&mut self, receipt: Receipt) -> Result<(), ReserveError> {
        if self.is_poisoned {
            return Err(ReserveError::Poisoned);
        }
        let tag = self
            .entries
            .iter()
            .find(|entry| entry.sequence == receipt.sequence)
            .map_or_else(CollectionTag::default, |entry| entry.tag);
        let body = Body::Released { of: receipt.sequence, sequence: self.sequence };
        self.append(Record { epsilon: Epsilon::ZERO, tag, body: Some(body) })
    }

    fn check(&self, intent: &Intent<'_>) -> Result<(), ReserveError> {
        if self.is_poisoned {
            return Err(ReserveError::Poisoned);
        }
        let texts = [intent.collection, intent.purpose];
        if let Some(text) = texts.iter().find(|text| !(1..=TEXT_BYTES_MAX).contains(&text.len())) {
            return Err(ReserveError::Text { bytes: text.len() });
        }
        if intent.epsilon < EPSILON_MIN {
            return Err(ReserveError::TooSmall { asked: intent.epsilon });
        }
        let (tag, data) = (CollectionTag::of(intent.collection), intent.data.digest());
        let earlier = self
            .entries
            .iter()
            .find(|entry| entry.is_released && entry.tag == tag && entry.data == Some(data));
        if let Some(earlier) = earlier {
            return Err(ReserveError::Unchanged {
                collection: intent.collection.to_owned(),
                unix_ms: earlier.unix_ms.unwrap_or_default(),
            });
        }
        let left = self.left(intent.collection);
        if intent.epsilon > left {
            return Err(ReserveError::Exhausted {
                collection: intent.collection.to_owned(),
                asked: intent.epsilon,
                left,
                ceiling: self.epsilon_max,
            });
        }
        if self.end + format::RECORD_BYTES_MAX as u64 > LEDGER_BYTES_MAX {
            return Err(ReserveError::Full);
        }
        Ok(())
    }

    fn append(&mut self, record: Record) -> Result<(), ReserveError> {
        let bytes = record.encode();
        let written = self.storage.write_at(self.end, &bytes).and_then(|()| self.storage.sync());
        // Counted even if writing failed: it may be on disk.
        self.apply(record);
        self.end += bytes.len() as u64;
        self.is_poisoned = written.is_err();
        Ok(written?)
    }

    fn apply(&mut self, record: Record) {
        let sequence = self.sequence;
        self.sequence += 1;
        let mut entry = Entry {
            collection: None,
            epsilon: record.epsilon,
            delta: 0.0,
            unit: None,
            unix_ms: None,
            purpose: String::new(),
            is_released: false,
            tag: record.tag,
            data: None,
            sequence,
        };
        match record.body {
            // A torn note of a release costs nothing and says nothing.
            None if record.epsilon == Epsilon::ZERO => return,
            None => {}
            Some(Body::Reserved(reserved)) => {
                entry.data = reserved.data.try_into().ok().map(DataDigest);
                entry.collection = Some(reserved.collection);
                entry.delta = reserved.delta;
                entry.unit = Some(reserved.unit);
                entry.unix_ms = Some(reserved.unix_ms);
                entry.purpose = reserved.purpose;
            }
            Some(Body::Released { of, .. }) => {
                let released = self.entries.iter_mut().find(|entry| entry.sequence == of);
                if let Some(released) = released {
                    released.is_released = true;
                }
                return;
            }
        }
        self.entries.push(entry);
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger")
            .field("entries", &self.entries.len())
            .field("epsilon_max", &self.epsilon_max)
            .field("is_poisoned", &self.is_poisoned)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
