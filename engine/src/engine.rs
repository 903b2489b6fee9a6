//! The engine: one data folder, opened once, used from many threads.

use std::{
    io,
    path::Path,
    slice,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use dunlin_wire::Cid;

use crate::{
    Config, Counters,
    ahead::{Payloads, Room},
    batch::{self, Entry},
    collection::{CollectionName, CollectionSpec},
    commit::{Commit, Pending},
    entity::Entity,
    error::{MaintainError, OpenError, PoisonCause, ReadError, StoreError, WriteError},
    log::{self, Log, Recovery},
    means::{self, IndexStatus, Kind, Limits, Means},
    observation::{EntityId, Observation},
    state::{Ack, Group, Outcome, Removed, State},
    storage::{Disk, Storage, StorageFile},
    store::{self, Checkpoint, NewOutline, Reader, Store},
};

/// The file that says that a folder is ours, and of which version.
const VERSION_FILE: &str = "VERSION";

/// What it says.
const VERSION: &str = "dunlin engine 3\n";

/// What the versions before said, which are brought up to date when they are opened: they have some tables
/// less.
const VERSIONS_BEFORE: [&str; 2] = ["dunlin engine 1\n", "dunlin engine 2\n"];

/// The file whose lock says that an engine has the folder.
const LOCK_FILE: &str = "lock";

/// Takes observations in, folds them into segments, and answers questions about them.
///
/// Every method takes `&self` and may be called from any thread; calls block while they wait for the
/// disk.
pub struct Engine {
    // Fields are dropped in this order: the lock goes last, when nothing is open any more.
    state: RwLock<State>,
    means: Means,
    store: Store,
    log: Mutex<Log>,
    commit: Commit,
    packing: Room,
    config: Config,
    recovery: Recovery,
    _lock: Box<dyn std::fmt::Debug + Send + Sync>,
}

impl Engine {
    /// Opens the data folder at `path`, making it when it is not there, and takes in what the log holds
    /// beyond the newest checkpoint.
    ///
    /// # Errors
    ///
    /// Fails when the folder is in use, foreign, newer than this version, or damaged.
    pub fn open(path: &Path, config: Config) -> Result<Self, OpenError> {
        Self::open_storage(Arc::new(Disk::open(path)?), config)
    }

    /// Opens a data folder of any kind.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_storage(storage: Arc<dyn Storage>, config: Config) -> Result<Self, OpenError> {
        // Before the lock too, which leaves a file behind: a foreign folder stays as it is.
        is_initialized(&*storage)?;
        let lock = storage.lock().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse,
            _ => OpenError::Io(error),
        })?;
        if !is_initialized(&*storage)? {
            initialize(&*storage, &config)?;
        }
        let store = Store::open(storage.open(store::FILE)?, config.store_cache_bytes)?;
        if read_text(&*storage.open(VERSION_FILE)?)? != VERSION {
            store.upgrade()?;
            write_version(&*storage)?;
        }
        let checkpoint = store.roll_back()?;
        let mut state = restore(&store, checkpoint, &config)?;
        let limits = Limits {
            tail_rows: config.index_tail_segments,
            part_rows: config.index_part_segments,
            memory_bytes: config.index_memory_bytes,
        };
        let means = Means::new(Arc::clone(&storage), limits);
        let (log, recovery) = Log::open(storage, checkpoint.record, |_, record| {
            let damaged = StoreError::Damaged { what: "a log record" };
            let entries = Entry::decode_all(record).ok_or(damaged)?;
            apply(&mut state, entries, Payloads::default(), &store)?;
            Ok(())
        })?;
        state.counters = Counters::default();
        state.is_matching = true;
        Ok(Self {
            state: RwLock::new(state),
            means,
            store,
            log: Mutex::new(log),
            commit: Commit::default(),
            packing: Room::new(),
            config,
            recovery,
            _lock: lock,
        })
    }

    /// Makes a collection, durably; does nothing when it exists with the same specification.
    ///
    /// # Errors
    ///
    /// Fails when the specification is not usable, the name is taken by another one, or nothing can be
    /// written.
    pub fn create_collection(&self, spec: CollectionSpec) -> Result<(), WriteError> {
        let checked = spec.check().map_err(WriteError::Spec);
        self.counted(checked.and_then(|()| self.submit(Entry::Create(Box::new(spec))))).map(drop)
    }

    /// Takes in a batch of observations, or none of it.
    ///
    /// Each entity's observations must come in the order of their times, but for the collection's
    /// lateness. What is known already is acknowledged and changes nothing, so a batch may be sent again
    /// when its acknowledgement got lost.
    ///
    /// # Durability
    ///
    /// When this returns, what was accepted survives a power loss.
    ///
    /// # Errors
    ///
    /// Fails, with nothing taken in, on the first observation that does not fit the collection, on a
    /// batch that is too large, and when nothing can be written.
    pub fn ingest(
        &self,
        collection: &CollectionName,
        batch: Vec<Observation>,
    ) -> Result<Ack, WriteError> {
        match self.counted(self.submit_batch(collection, batch))? {
            Outcome::Ingested(ack) => Ok(ack),
            _ => Ok(Ack::default()),
        }
    }

    /// Ends the open regime of an entity now, with all that waits in its lateness window; returns the
    /// segment's CID, or `None` when there was nothing to end.
    ///
    /// # Durability
    ///
    /// As [`Self::ingest`]: a restart ends the regime at the same observation.
    ///
    /// # Errors
    ///
    /// Fails when there is no such collection or entity, or nothing can be written.
    pub fn seal(
        &self,
        collection: &CollectionName,
        entity: &EntityId,
    ) -> Result<Option<Cid>, WriteError> {
        let entry = Entry::Seal { collection: collection.clone(), entity: entity.clone() };
        match self.counted(self.submit(entry))? {
            Outcome::Sealed(cid) => Ok(cid),
            _ => Ok(None),
        }
    }

    /// Forgets an entity: its open regime, and every segment of it that this node has. What was archived
    /// or given to peers stays where it is. Observations of the same name begin a new life.
    ///
    /// # Durability
    ///
    /// As [`Self::ingest`]: a restart does not bring the entity back.
    ///
    /// # Errors
    ///
    /// Fails when there is no such collection or entity, or nothing can be written.
    pub fn remove(
        &self,
        collection: &CollectionName,
        entity: &EntityId,
    ) -> Result<Removed, WriteError> {
        self.remove_if(collection, entity, None)
    }

    /// As [`Self::remove`], if the entity has been observed exactly so often: what was acknowledged since
    /// the caller looked is not lost.
    ///
    /// # Errors
    ///
    /// As [`Self::remove`], and when there were other observations.
    pub fn remove_if(
        &self,
        collection: &CollectionName,
        entity: &EntityId,
        observations: Option<u64>,
    ) -> Result<Removed, WriteError> {
        let (collection, entity) = (collection.clone(), entity.clone());
        let entry = Entry::Remove { collection, entity, observations };
        match self.counted(self.submit(entry))? {
            Outcome::Removed { removed, .. } => Ok(removed),
            _ => Ok(Removed::default()),
        }
    }

    /// Brings the index up to date by one step, and says whether there was something to do. Questions are
    /// answered meanwhile, and without it too, more slowly. A step takes up to some minutes of one
    /// processor; it ends early, with nothing lost, once `going` says no.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read or a file of the index cannot be written; nothing changed then.
    pub fn maintain_index(&self, going: &dyn Fn() -> bool) -> Result<bool, MaintainError> {
        let kinds: Vec<Kind> = {
            let view = self.view().map_err(|_| MaintainError::Unusable)?;
            view.collections.values().map(|collection| view.kind(collection)).collect()
        };
        let mut failed = None;
        for kind in kinds {
            if !going() {
                return Ok(false);
            }
            match self.means.maintain(kind, &self.store, going) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                // One collection's trouble is not that of the others.
                Err(cause) => failed = failed.or(Some(cause)),
            }
        }
        failed.map_or(Ok(false), Err)
    }

    /// Returns how far the index is.
    #[must_use]
    pub fn index_status(&self) -> IndexStatus {
        self.means.status()
    }

    /// Writes a checkpoint: everything so far is in the store, and a restart replays nothing.
    ///
    /// # Errors
    ///
    /// Fails when the engine is closed, or nothing can be written.
    pub fn checkpoint(&self) -> Result<(), WriteError> {
        self.commit.exclusively(|| self.write_checkpoint(&mut *self.log()?))
    }

    /// Refuses further writes, finishes those at work, and writes a checkpoint. Questions are still
    /// answered. The folder is free when the engine is dropped.
    ///
    /// # Errors
    ///
    /// Fails when a write failed earlier or the checkpoint fails; what was acknowledged is safe anyway.
    pub fn close(&self) -> Result<(), WriteError> {
        if self.commit.close()? {
            self.log()
                .and_then(|mut log| self.write_checkpoint(&mut log))
                .map_err(|cause| WriteError::Poisoned { cause: Arc::new(cause) })?;
        }
        Ok(())
    }

    /// Returns what opening the folder had to make up for.
    #[must_use]
    pub const fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// Returns the index, and the store that it stands for.
    pub(crate) const fn means(&self) -> (&Means, &Store) {
        (&self.means, &self.store)
    }

    /// Returns what was counted since the engine was opened.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let counters = self.state.read().unwrap_or_else(PoisonError::into_inner).counters;
        let (writes_refused, queue_full) = self.commit.counts();
        Counters { writes_refused, queue_full, ..counters }
    }

    /// Returns the specifications of all collections, by name.
    ///
    /// # Errors
    ///
    /// Fails when a writer panicked.
    pub fn collections(&self) -> Result<Vec<Arc<CollectionSpec>>, ReadError> {
        let view = self.view()?;
        Ok(view.collections.values().map(|collection| Arc::clone(&collection.spec)).collect())
    }

    /// Returns the specification of one collection.
    ///
    /// # Errors
    ///
    /// Fails when there is none of this name.
    pub fn collection(&self, name: &CollectionName) -> Result<Arc<CollectionSpec>, ReadError> {
        Ok(Arc::clone(&self.view()?.collection(name)?.spec))
    }

    /// Returns the state for a question.
    pub(crate) fn view(&self) -> Result<RwLockReadGuard<'_, State>, ReadError> {
        self.state.read().map_err(|_| ReadError::Unusable)
    }

    /// Returns the state, to change what no segment depends on.
    pub(crate) fn view_to_change(&self) -> Result<RwLockWriteGuard<'_, State>, ReadError> {
        self.state.write().map_err(|_| ReadError::Unusable)
    }

    /// Returns the segments for a question; call it while the view is held, so that both agree.
    pub(crate) fn reader(&self) -> Result<Reader, ReadError> {
        Ok(self.store.reader()?)
    }

    fn submit_batch(
        &self,
        name: &CollectionName,
        batch: Vec<Observation>,
    ) -> Result<Outcome, WriteError> {
        let view = self.view().map_err(|_| WriteError::panicked())?;
        let spec = view.collections.get(name).map(|collection| Arc::clone(&collection.spec));
        drop(view);
        let spec = spec.ok_or_else(|| WriteError::UnknownCollection { name: name.clone() })?;
        let observations = batch.len();
        let rough = observations.saturating_mul(spec.row_bytes() + size_of::<i64>());
        if observations > Config::BATCH_OBSERVATIONS_MAX || rough > Config::BATCH_BYTES_MAX {
            return Err(WriteError::BatchTooLarge { observations, bytes: rough });
        }
        let groups = batch::group(&spec, batch)?;
        if groups.is_empty() {
            return Ok(Outcome::Ingested(Ack::default()));
        }
        self.submit(Entry::Observations { collection: name.clone(), groups })
    }

    /// Brings an entry into the log, and applies it.
    fn submit(&self, entry: Entry) -> Result<Outcome, WriteError> {
        let bytes = entry.encode();
        if bytes.len() > Config::BATCH_BYTES_MAX {
            let observations = entry.observations();
            return Err(WriteError::BatchTooLarge { observations, bytes: bytes.len() });
        }
        let mut payloads = Payloads::default();
        payloads.foresee(slice::from_ref(&entry), &self.state, &self.packing);
        match self.commit.submit(entry, bytes, payloads, |group| self.write_group(group))? {
            Outcome::Refused(cause) => Err(cause),
            outcome => Ok(outcome),
        }
    }

    /// Counts a refused write.
    fn counted<T>(&self, result: Result<T, WriteError>) -> Result<T, WriteError> {
        if result.is_err() {
            self.commit.count_refused();
        }
        result
    }

    /// Writes, syncs and applies one group of entries. Only one thread does this at a time.
    fn write_group(&self, pending: Pending) -> Result<Vec<Outcome>, PoisonCause> {
        let Pending { entries, record, mut payloads } = pending;
        let mut log = self.log()?;
        log.append(&record)?;
        payloads.foresee(&entries, &self.state, &Room::new());
        let mut state = self.state.write().map_err(|_| PoisonCause::Panicked)?;
        state.counters.log_records += 1;
        state.counters.log_bytes += record.len() as u64;
        let outcomes = apply(&mut state, entries, payloads, &self.store)?;
        for outcome in &outcomes {
            if let Outcome::Removed { kind, numbers, .. } = outcome {
                self.means.forget(*kind, numbers);
            }
        }
        drop(state);
        if log.byte_count() >= self.config.checkpoint_log_bytes {
            self.write_checkpoint(&mut log)?;
        }
        Ok(outcomes)
    }

    /// Puts an outline in place of segments, by number and start, right behind a checkpoint; says whether they were all there.
    pub(crate) fn replace(
        &self,
        collection: u32,
        segments: &[(u64, i64)],
        outline: &NewOutline<'_>,
    ) -> Result<bool, WriteError> {
        let numbers: Vec<u64> = segments.iter().map(|(number, _)| *number).collect();
        let mut is_done = false;
        self.commit.exclusively(|| {
            let mut log = self.log()?;
            self.write_checkpoint(&mut log)?;
            let state = self.state.write().map_err(|_| PoisonCause::Panicked)?;
            is_done = self.store.compact(collection, segments, outline)?;
            let mut collections = state.collections.values();
            let found = collections.find(|found| found.number == collection);
            if let Some(kind) = found.filter(|_| is_done).map(|found| state.kind(found)) {
                self.means.forget(kind, &numbers);
            }
            Ok(())
        })?;
        Ok(is_done)
    }

    fn log(&self) -> Result<MutexGuard<'_, Log>, PoisonCause> {
        self.log.lock().map_err(|_| PoisonCause::Panicked)
    }

    /// Makes the store hold all that the log says, then forgets that part of the log. Nothing else writes
    /// meanwhile, and questions are answered.
    fn write_checkpoint(&self, log: &mut Log) -> Result<(), PoisonCause> {
        let view = self.state.read().map_err(|_| PoisonCause::Panicked)?;
        let checkpoint = Checkpoint { record: log.last(), next_segment: view.next_segment };
        if checkpoint.record == view.checkpointed {
            return Ok(());
        }
        // The new file comes first: were it missing after the old ones are gone, a lost log would look like
        // an empty one.
        log.rotate()?;
        let collections = view.collections.values();
        let changed = collections.clone().flat_map(|collection| {
            let changed = collection.entities.iter().filter(|(_, entity)| entity.changed);
            changed.map(|(id, entity)| (collection.number, id, entity.record()))
        });
        let specs = collections.map(|collection| (collection.number, &*collection.spec));
        let removed = view.removed.iter().map(|(number, id)| (*number, id));
        self.store.checkpoint(checkpoint, specs, changed, removed)?;
        drop(view);
        self.state.write().map_err(|_| PoisonCause::Panicked)?.was_checkpointed(checkpoint);
        log.remove_old()?;
        Ok(())
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Applies the entries of one record, live or in replay.
fn apply(
    state: &mut State,
    entries: Vec<Entry>,
    payloads: Payloads,
    store: &Store,
) -> Result<Vec<Outcome>, StoreError> {
    let mut group = Group { store, payloads, sealed: Vec::new() };
    let mut outcomes = Vec::with_capacity(entries.len());
    for entry in entries {
        outcomes.push(state.apply(entry, &mut group)?);
    }
    store.insert(&group.sealed)?;
    state.limit_baselines();
    Ok(outcomes)
}

/// Returns the state that a checkpoint kept.
fn restore(store: &Store, checkpoint: Checkpoint, config: &Config) -> Result<State, StoreError> {
    let mut state = State::new(checkpoint, config.baseline_cache_bytes);
    let mut names = Vec::new();
    for (number, spec) in store.collections()? {
        names.push(spec.name.clone());
        state.insert(number, spec);
    }
    store.entities(|number, id, record| {
        let damaged = || StoreError::Damaged { what: "an entity" };
        let name = names.get(number as usize).ok_or_else(damaged)?;
        let collection = state.collections.get_mut(name).ok_or_else(damaged)?;
        let mut entity = Entity::restore(&collection.spec, record).ok_or_else(damaged)?;
        collection.hot.update(&id, &mut entity);
        collection.entities.insert(id, entity);
        Ok(())
    })?;
    Ok(state)
}

/// Returns whether the folder is one of ours and complete, `false` when it is empty.
fn is_initialized(storage: &dyn Storage) -> Result<bool, OpenError> {
    let names = storage.list("")?;
    let version = match names.iter().any(|name| name == VERSION_FILE) {
        true => read_text(&*storage.open(VERSION_FILE)?)?,
        false => String::new(),
    };
    if version == VERSION || VERSIONS_BEFORE.contains(&version.as_str()) {
        return Ok(true);
    }
    // A shorter one was being written when the process ended: the folder was never in use.
    if !VERSION.starts_with(&version) {
        return Err(match version.starts_with("dunlin engine ") {
            true => OpenError::Version { found: version.trim().to_owned(), known: VERSION.trim() },
            false => OpenError::Foreign { name: VERSION_FILE.to_owned() },
        });
    }
    let ours = [VERSION_FILE, LOCK_FILE, store::FILE, log::FOLDER, means::FOLDER];
    if let Some(name) = names.iter().find(|name| !ours.contains(&name.as_str())) {
        return Err(OpenError::Foreign { name: name.clone() });
    }
    if log::has_records(storage)? { Err(OpenError::VersionMissing) } else { Ok(false) }
}

/// Makes an empty store and log; the version file comes last and says that they are whole.
fn initialize(storage: &dyn Storage, config: &Config) -> Result<(), OpenError> {
    storage.open(store::FILE)?.set_byte_count(0)?;
    drop(Store::open(storage.open(store::FILE)?, config.store_cache_bytes)?);
    Log::create(storage)?;
    storage.open(VERSION_FILE)?.set_byte_count(0)?;
    write_version(storage)?;
    Ok(())
}

fn write_version(storage: &dyn Storage) -> io::Result<()> {
    let version = storage.open(VERSION_FILE)?;
    version.write_at(0, VERSION.as_bytes())?;
    version.sync()?;
    storage.sync_folder("")
}

fn read_text(file: &dyn StorageFile) -> io::Result<String> {
    let bytes = file.byte_count()?.min(256);
    let mut content = vec![0; usize::try_from(bytes).unwrap_or_default()];
    file.read_at(0, &mut content)?;
    Ok(String::from_utf8_lossy(&content).into_owned())
}
