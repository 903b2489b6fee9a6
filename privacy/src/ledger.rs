//! The budget ledger: what was spent, written down durably before any noise is drawn.
//!
//! An append-only file (`docs/formats/ledger.md`). [`Ledger::reserve`] writes one entry, waits until
//! it is on disk, and gives a [`Receipt`]; [`crate::release()`] takes the receipt and nothing else
//! opens it. So there is no path to noised values that are not paid for, and a crash in between
//! wastes budget at worst.
//!
//! The file belongs to one process: the shell's lock on the data folder sees to that.

mod account;
mod entry;
mod format;
mod storage;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::dataset::{DataDigest, Dataset, EntityTag, Span};
use crate::epsilon::Epsilon;
use crate::terms::{Mechanism, Terms, Unit};

use account::{Account, Among};
use format::{Body, CollectionTag, ENTITIES_PER_RECORD, Record, Reserved, Stop, TAG_BYTES, Tail};

pub use account::Ceiling;
pub use entry::{Entry, Intent, Outcome, Receipt};
pub(crate) use entry::{Paid, Stopped};
pub(crate) use storage::{FileStorage, Storage};

/// Longest collection name or purpose in an entry, in bytes.
pub const TEXT_BYTES_MAX: usize = 256;

/// Largest ledger file: more than 100,000 releases of one fleet. When full, sharing stops.
pub const LEDGER_BYTES_MAX: u64 = 64 << 20;

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
        /// What is left to the unit that has lost most.
        left: Epsilon,
        /// The ceiling.
        ceiling: Epsilon,
    },
    /// Some of these data were in a release that protects finer units, so nothing can be promised for
    /// coarser ones. Nothing was written.
    #[error(
        "collection {collection}: released before by a finer unit than {unit}, so nothing can be \
         promised per {unit}; use new data or a new collection"
    )]
    FinerBefore {
        /// Whose.
        collection: String,
        /// What was asked for.
        unit: Unit,
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
    /// These very observations were too few before, at the same terms. Nothing was written.
    #[error(
        "collection {collection}: about {units_noised} units of {unit}, but {units_needed} are needed; \
         nothing changed since that was found"
    )]
    TooFewBefore {
        /// Whose.
        collection: String,
        /// What was asked for.
        unit: Unit,
        /// How many units there are, noised.
        units_noised: u64,
        /// How many it takes.
        units_needed: u64,
    },
    /// The terms are for another unit than the data were gathered by. Nothing was written.
    #[error("the data are gathered by {data}, but the terms are per {terms}")]
    OtherUnit {
        /// The data's.
        data: Unit,
        /// The terms'.
        terms: Unit,
    },
    /// Gaussian noise needs a ceiling with a delta. Nothing was written.
    #[error("gaussian noise has a delta, but the ceiling allows none")]
    NoDelta,
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
    ceiling: Ceiling,
    entries: Vec<Entry>,
    /// Lists of entities by the number of their first record.
    cohorts: BTreeMap<u64, Arc<Vec<EntityTag>>>,
    /// Where the next record goes.
    end: u64,
    /// The number of the next record.
    sequence: u64,
    is_poisoned: bool,
}

/// Which units of a collection may still take part in a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eligible {
    /// Observations from this time on; `None` if there is no such time. For entities, all of time.
    pub from_us: Option<i64>,
    /// Entities that may not take part, whatever the time.
    pub excluded: HashSet<EntityTag>,
}

impl Ledger {
    /// Opens the ledger at `path`, or starts one. `ceiling` is what any unit of a collection may lose,
    /// for the life of the file.
    ///
    /// An entry that a crash tore is kept as spent as soon as its cost can be read; shorter remains
    /// are removed, since no noise was drawn for them. A file of version 1 is written anew as version 2.
    ///
    /// # Errors
    ///
    /// If the file is foreign, damaged or unreadable.
    pub fn open(path: &Path, ceiling: Ceiling) -> Result<Self, OpenError> {
        Self::open_storage(Box::new(FileStorage::open(path)?), ceiling)
    }

    pub(crate) fn open_storage(
        mut storage: Box<dyn Storage + Send>,
        ceiling: Ceiling,
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
        if contents.is_old {
            // The records are the same.
            let mut bytes = storage.read()?;
            bytes[..format::HEADER_BYTES].copy_from_slice(&format::header());
            storage.replace(&bytes)?;
        }
        let mut ledger = Self {
            storage,
            ceiling,
            entries: Vec::new(),
            cohorts: BTreeMap::new(),
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
    /// If the ceiling would be passed for any unit of the data, if these observations were released
    /// before, or writing fails.
    ///
    /// # Durability
    ///
    /// The entry is synced when this returns.
    pub fn reserve(&mut self, intent: &Intent<'_>) -> Result<Receipt, ReserveError> {
        self.check(intent)?;
        let (data, terms) = (intent.data.digest(), intent.terms);
        let paid = Paid::for_terms(&terms);
        let cohort = intent.data.entities().map(|tags| self.note_cohort(tags)).transpose()?;
        let (sequence, span) = (self.sequence, intent.data.span());
        let is_timed = span != Span::ALL;
        let reserved = Reserved {
            cells_max: Some(terms.cells_max()),
            cohort,
            collection: intent.collection.to_owned(),
            data: data.0.to_vec(),
            delta: terms.delta(),
            first_us: is_timed.then_some(span.first_us),
            last_us: is_timed.then_some(span.last_us),
            mechanism: Some(terms.mechanism()),
            purpose: intent.purpose.to_owned(),
            rho_picos: (terms.mechanism() == Mechanism::Gaussian).then_some(paid.rho),
            sequence,
            unit: terms.unit(),
            unix_ms: intent.now_unix_ms,
        };
        self.append(Record {
            epsilon: terms.epsilon(),
            tag: CollectionTag::of(intent.collection),
            body: Some(Body::Reserved(reserved)),
        })?;
        Ok(Receipt { sequence, data, terms, paid })
    }

    /// Returns what the unit of `collection` that has lost most has lost, torn entries included; `None`
    /// if that has no bound, as after a release that protects finer units.
    #[must_use]
    pub fn spent(&self, collection: &str, unit: Unit) -> Option<Epsilon> {
        self.account(collection, unit).worst(Among::ALL, self.ceiling.delta)
    }

    /// Returns what each of these entities of `collection` has lost, as [`Ledger::spent`].
    #[must_use]
    pub fn spent_by(&self, collection: &str, entities: &[EntityTag]) -> Vec<Option<Epsilon>> {
        let account = self.account(collection, Unit::Entity);
        let spent = |entity: &EntityTag| {
            let among = Among { entities: Some(std::slice::from_ref(entity)), ..Among::ALL };
            account.worst(among, self.ceiling.delta)
        };
        entities.iter().map(spent).collect()
    }

    /// Returns what the unit of these data that has lost most has lost, as [`Ledger::spent`].
    #[must_use]
    pub fn spent_in(&self, collection: &str, data: &Dataset) -> Option<Epsilon> {
        let among = Among { span: data.span(), entities: data.entities() };
        self.account(collection, data.unit()).worst(among, self.ceiling.delta)
    }

    /// Returns what the unit of `collection` that has lost most may still lose.
    #[must_use]
    pub fn left(&self, collection: &str, unit: Unit) -> Epsilon {
        let left = |spent| self.ceiling.epsilon.left_after(spent);
        self.spent(collection, unit).map_or(Epsilon::ZERO, left)
    }

    /// Returns which units may take part in a release under `terms`. Losses differ: an entity that joined
    /// later was in fewer releases, and so was a later day. [`Ledger::reserve`] refuses all others.
    #[must_use]
    pub fn eligible(&self, collection: &str, terms: &Terms) -> Eligible {
        let account = self.account(collection, terms.unit());
        let paid = Paid::for_terms(terms);
        match &account {
            Account::ByTime(_) => Eligible {
                from_us: account.affordable_from(paid, self.ceiling),
                excluded: HashSet::new(),
            },
            Account::ByEntity { entities, .. } => {
                let affords = |tags: &[EntityTag]| {
                    let among = Among { entities: Some(tags), ..Among::ALL };
                    account.affords(among, paid, self.ceiling)
                };
                let excluded = entities.keys().copied().filter(|tag| !affords(&[*tag])).collect();
                // A stranger to the ledger stands for everyone who is not named in it.
                Eligible { from_us: affords(&[EntityTag([0; 8])]).then_some(i64::MIN), excluded }
            }
        }
    }

    /// Returns the ceiling of every collection.
    #[must_use]
    pub fn ceiling(&self) -> Ceiling {
        self.ceiling
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
                && entry.is_under(&receipt.terms)
                && entry.outcome == Outcome::Prevented
        })
    }

    /// Notes that the release of `receipt` was made, so that the same data are not paid for twice.
    pub(crate) fn note_released(&mut self, receipt: Receipt) -> Result<(), ReserveError> {
        let body = Body::Released { of: receipt.sequence, sequence: self.sequence };
        self.append_note(&receipt, body)
    }

    /// Notes that the release of `receipt` was given up, and what it cost until then.
    pub(crate) fn note_stopped(
        &mut self,
        receipt: Receipt,
        stopped: Stopped,
    ) -> Result<(), ReserveError> {
        let Stopped { paid, units_noised, units_needed } = stopped;
        let is_gaussian = receipt.terms.mechanism() == Mechanism::Gaussian;
        let stop = Stop {
            epsilon_nanos: paid.epsilon,
            of: receipt.sequence,
            rho_picos: is_gaussian.then_some(paid.rho),
            sequence: self.sequence,
            units_needed,
            units_noised,
        };
        self.append_note(&receipt, Body::Stopped(stop))
    }

    fn account(&self, collection: &str, unit: Unit) -> Account {
        Account::of(self.entries_of(collection), unit)
    }

    fn entries_of(&self, collection: &str) -> impl Iterator<Item = &Entry> {
        let tag = CollectionTag::of(collection);
        self.entries.iter().filter(move |entry| entry.tag == tag)
    }

    fn check(&self, intent: &Intent<'_>) -> Result<(), ReserveError> {
        if self.is_poisoned {
            return Err(ReserveError::Poisoned);
        }
        let texts = [intent.collection, intent.purpose];
        if let Some(text) = texts.iter().find(|text| !(1..=TEXT_BYTES_MAX).contains(&text.len())) {
            return Err(ReserveError::Text { bytes: text.len() });
        }
        let (terms, data) = (&intent.terms, intent.data);
        if terms.unit() != data.unit() {
            return Err(ReserveError::OtherUnit { data: data.unit(), terms: terms.unit() });
        }
        if terms.mechanism() == Mechanism::Gaussian && self.ceiling.delta <= 0.0 {
            return Err(ReserveError::NoDelta);
        }
        self.check_unchanged(intent.collection, data.digest(), terms)?;
        self.check_ceiling(intent)?;
        let tags = data.entities().map_or(0, <[EntityTag]>::len);
        let records = 1 + tags.div_ceil(ENTITIES_PER_RECORD) as u64;
        if self.end + records * format::RECORD_BYTES_MAX as u64 > LEDGER_BYTES_MAX {
            return Err(ReserveError::Full);
        }
        Ok(())
    }

    fn check_unchanged(
        &self,
        collection: &str,
        data: DataDigest,
        terms: &Terms,
    ) -> Result<(), ReserveError> {
        let same = self.entries_of(collection).filter(|entry| entry.data == Some(data));
        for entry in same {
            let collection = collection.to_owned();
            match entry.outcome {
                Outcome::Released => {
                    let unix_ms = entry.unix_ms.unwrap_or_default();
                    return Err(ReserveError::Unchanged { collection, unix_ms });
                }
                Outcome::TooFew { units_noised, units_needed } if entry.is_under(terms) => {
                    let unit = terms.unit();
                    return Err(ReserveError::TooFewBefore {
                        collection,
                        unit,
                        units_noised,
                        units_needed,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check_ceiling(&self, intent: &Intent<'_>) -> Result<(), ReserveError> {
        let (terms, data) = (&intent.terms, intent.data);
        let account = self.account(intent.collection, terms.unit());
        let among = Among { span: data.span(), entities: data.entities() };
        if account.affords(among, Paid::for_terms(terms), self.ceiling) {
            return Ok(());
        }
        let collection = intent.collection.to_owned();
        if account.is_unbounded(among) {
            return Err(ReserveError::FinerBefore { collection, unit: terms.unit() });
        }
        let (asked, ceiling) = (terms.epsilon(), self.ceiling.epsilon);
        let left = |spent| ceiling.left_after(spent);
        let left = account.worst(among, self.ceiling.delta).map_or(Epsilon::ZERO, left);
        Err(ReserveError::Exhausted { collection, asked, left, ceiling })
    }

    /// Writes a list of entities down, unless it stands there already, and returns its number.
    fn note_cohort(&mut self, tags: &[EntityTag]) -> Result<u64, ReserveError> {
        if let Some((&first, _)) = self.cohorts.iter().find(|(_, known)| known.as_slice() == tags) {
            return Ok(first);
        }
        let first = self.sequence;
        for chunk in tags.chunks(ENTITIES_PER_RECORD) {
            let tags = chunk.iter().flat_map(|tag| tag.0).collect();
            let body = Body::Cohort { first, sequence: self.sequence, tags };
            let tag = CollectionTag::default();
            self.append(Record { epsilon: Epsilon::ZERO, tag, body: Some(body) })?;
        }
        Ok(first)
    }

    fn append_note(&mut self, receipt: &Receipt, body: Body) -> Result<(), ReserveError> {
        if self.is_poisoned {
            return Err(ReserveError::Poisoned);
        }
        let reservation = self.entries.iter().find(|entry| entry.sequence == receipt.sequence);
        let tag = reservation.map_or_else(CollectionTag::default, |entry| entry.tag);
        self.append(Record { epsilon: Epsilon::ZERO, tag, body: Some(body) })
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
        let mut entry = Entry::torn(&record, sequence);
        match record.body {
            // A torn note costs nothing and says nothing.
            None if record.epsilon == Epsilon::ZERO => {}
            None => self.entries.push(entry),
            Some(Body::Reserved(reserved)) => {
                // A list that is not whole is everyone: it cannot be told who is missing.
                let cohort = reserved.cohort.and_then(|first| self.cohorts.get(&first)).cloned();
                entry.fill(reserved, cohort);
                self.entries.push(entry);
            }
            Some(Body::Released { of, .. }) => {
                if let Some(released) = self.entry_mut(of) {
                    released.outcome = Outcome::Released;
                }
            }
            Some(Body::Stopped(stop)) => {
                let Stop { units_noised, units_needed, .. } = stop;
                if let Some(stopped) = self.entry_mut(stop.of) {
                    stopped.epsilon = stopped.epsilon.min(stop.epsilon_nanos);
                    stopped.rho = stopped.rho.min(stop.rho_picos.unwrap_or_default());
                    stopped.outcome = Outcome::TooFew { units_noised, units_needed };
                }
            }
            Some(Body::Cohort { first, tags, .. }) => {
                let (tags, _) = tags.as_chunks::<TAG_BYTES>();
                let cohort = self.cohorts.entry(first).or_default();
                Arc::make_mut(cohort).extend(tags.iter().copied().map(EntityTag));
            }
        }
    }

    /// The entry with this number, if its release has not ended yet.
    fn entry_mut(&mut self, sequence: u64) -> Option<&mut Entry> {
        let mut open = self.entries.iter_mut().filter(|it| it.outcome == Outcome::Prevented);
        open.find(|entry| entry.sequence == sequence)
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger")
            .field("entries", &self.entries.len())
            .field("ceiling", &self.ceiling)
            .field("is_poisoned", &self.is_poisoned)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
