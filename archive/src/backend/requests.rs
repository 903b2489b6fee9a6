//! What a pinning service was asked for, on disk: a small redb file of its own, `pinning.redb`.
//!
//! A service takes minutes to days for a request, and both sides restart meanwhile. So each root has an
//! entry with its state and the moment at which to look at it again; `docs/formats/archive.md` has the
//! tables.

use std::path::Path;

use dunlin_wire::{Cid, cbor};
use redb::{
    Database, ReadableDatabase, ReadableTable, StorageError, TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};

use crate::{OpenError, PutError, ReadError};

/// Version of the table layout.
const FORMAT: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Root, to its entry.
const REQUESTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("requests");
/// When to look at an entry again, in milliseconds since the epoch, and its root.
const QUEUE: TableDefinition<'_, (u64, &[u8]), ()> = TableDefinition::new("queue");
/// State, to how many entries are in it.
const COUNTS: TableDefinition<'_, u8, u64> = TableDefinition::new("counts");

/// Longest entry: an id, a complaint and numbers.
const ENTRY_BYTES_MAX: usize = 4096;

/// Entries that are looked through for complaints, so that showing them takes no time.
const PROBLEMS_ROWS_MAX: usize = 10_000;

/// Memory for redb's cache, in bytes. Entries are small and read one by one.
const CACHE_BYTES: usize = 1 << 20;

/// How far a root is with the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    /// It will be asked for.
    Waiting,
    /// The service has not begun.
    Queued,
    /// The service fetches it.
    Pinning,
    /// The service keeps it.
    Pinned,
    /// The service gave up; it will be asked again.
    Failed,
    /// The request will be taken back.
    Leaving,
}

impl State {
    const ALL: [Self; 6] =
        [Self::Waiting, Self::Queued, Self::Pinning, Self::Pinned, Self::Failed, Self::Leaving];

    fn number(self) -> u8 {
        Self::ALL
            .iter()
            .position(|state| *state == self)
            .and_then(|at| at.try_into().ok())
            .unwrap_or(0)
    }
}

/// How many roots are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Not asked for yet.
    pub waiting: u64,
    /// The service has not begun.
    pub queued: u64,
    /// The service fetches.
    pub pinning: u64,
    /// The service keeps.
    pub pinned: u64,
    /// The service gave up on; asked for again later.
    pub failed: u64,
    /// To be taken back.
    pub leaving: u64,
}

/// A root and what the service said about it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestProblem {
    /// The root.
    pub root: Cid,
    /// The complaint, shortened.
    pub problem: String,
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// How often it failed since it was pinned last.
    pub(super) attempts: u32,
    /// What the service calls the request.
    pub(super) id: Option<String>,
    /// When to look at it again, in milliseconds since the epoch.
    pub(super) next_ms: u64,
    /// How often the service said that nothing has changed.
    pub(super) polls: u32,
    pub(super) problem: Option<String>,
    pub(super) state: State,
}

impl Entry {
    /// A root that will be asked for as soon as somebody looks.
    pub(super) fn new() -> Self {
        let state = State::Waiting;
        Self { attempts: 0, id: None, next_ms: 0, polls: 0, problem: None, state }
    }
}

/// The file of requests.
pub struct Requests {
    database: Database,
}

impl std::fmt::Debug for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Requests").finish_non_exhaustive()
    }
}

impl Requests {
    /// Opens the file at `path`, making it when it is missing.
    ///
    /// # Errors
    ///
    /// Fails when the file is none of requests, is of a newer format, or is open elsewhere.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let fail =
            |cause: redb::Error| OpenError::Database { path: path.into(), cause: Box::new(cause) };
        if !path.exists() {
            crate::files::create_whole(path, |database| prepare(database).map(drop))?;
        }
        let database = Database::builder().set_cache_size(CACHE_BYTES).open(path);
        let database = database.map_err(|cause| fail(cause.into()))?;
        let found = prepare(&database).map_err(fail)?;
        if found != FORMAT {
            return Err(OpenError::Format { path: path.into(), found, known: FORMAT });
        }
        Ok(Self { database })
    }

    /// Returns how many roots are in each state.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be read.
    pub fn counts(&self) -> Result<Counts, ReadError> {
        let counts = self.database.begin_read()?.open_table(COUNTS)?;
        let count = |state: State| {
            counts.get(state.number()).map(|count| count.map_or(0, |count| count.value()))
        };
        Ok(Counts {
            waiting: count(State::Waiting)?,
            queued: count(State::Queued)?,
            pinning: count(State::Pinning)?,
            pinned: count(State::Pinned)?,
            failed: count(State::Failed)?,
            leaving: count(State::Leaving)?,
        })
    }

    /// Returns up to `limit` roots about which the service complained, looking at the first ten thousand.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be read.
    pub fn problems(&self, limit: usize) -> Result<Vec<RequestProblem>, ReadError> {
        let requests = self.database.begin_read()?.open_table(REQUESTS)?;
        let mut problems = Vec::new();
        for row in requests.iter()?.take(PROBLEMS_ROWS_MAX) {
            let (root, entry) = row?;
            if problems.len() == limit {
                break;
            }
            if let Some(problem) = stored_entry(entry.value())?.problem {
                problems.push(RequestProblem { root: stored_root(root.value())?, problem });
            }
        }
        Ok(problems)
    }

    /// Returns the entry of a root.
    pub(super) fn entry(&self, root: &Cid) -> Result<Option<Entry>, ReadError> {
        let requests = self.database.begin_read()?.open_table(REQUESTS)?;
        let entry = requests.get(root.to_bytes().as_slice())?;
        Ok(entry.map(|entry| stored_entry(entry.value())).transpose()?)
    }

    /// Returns up to `limit` entries that are to be looked at by now, those that wait longest first.
    pub(super) fn due(&self, now_ms: u64, limit: usize) -> Result<Vec<(Cid, Entry)>, ReadError> {
        let transaction = self.database.begin_read()?;
        let requests = transaction.open_table(REQUESTS)?;
        let mut due = Vec::new();
        for row in transaction.open_table(QUEUE)?.iter()? {
            let (key, ()) = (row?.0, ());
            let (at, root) = key.value();
            if at > now_ms || due.len() == limit {
                break;
            }
            if let Some(entry) = requests.get(root)? {
                due.push((stored_root(root)?, stored_entry(entry.value())?));
            }
        }
        Ok(due)
    }

    /// Returns when the next entry is to be looked at, in milliseconds since the epoch.
    pub(super) fn next_ms(&self) -> Result<Option<u64>, ReadError> {
        let queue = self.database.begin_read()?.open_table(QUEUE)?;
        let first = queue.first()?;
        Ok(first.map(|(key, _)| key.value().0))
    }

    /// Writes the entry of a root, or removes it, if it is still `before`: durably when this returns.
    pub(super) fn change(
        &self,
        root: &Cid,
        before: Option<&Entry>,
        now: Option<&Entry>,
    ) -> Result<bool, PutError> {
        let transaction = self.database.begin_write()?;
        let is_changed = change(&transaction, root, before, now)?;
        transaction.commit()?;
        Ok(is_changed)
    }

    /// Returns how many roots there are.
    #[cfg(test)]
    fn len(&self) -> u64 {
        use redb::ReadableTableMetadata;
        let transaction = self.database.begin_read().unwrap();
        let requests = transaction.open_table(REQUESTS).unwrap();
        let queue = transaction.open_table(QUEUE).unwrap();
        assert_eq!(requests.len().unwrap(), queue.len().unwrap());
        requests.len().unwrap()
    }
}

fn change(
    transaction: &WriteTransaction,
    root: &Cid,
    before: Option<&Entry>,
    now: Option<&Entry>,
) -> Result<bool, PutError> {
    let key = root.to_bytes();
    let mut requests = transaction.open_table(REQUESTS)?;
    let found = requests.get(key.as_slice())?.map(|entry| stored_entry(entry.value()));
    if found.transpose()?.as_ref() != before {
        return Ok(false);
    }
    let mut queue = transaction.open_table(QUEUE)?;
    let mut counts = transaction.open_table(COUNTS)?;
    let mut count = |state: State, change: fn(u64) -> u64| -> Result<(), PutError> {
        let number = state.number();
        let count = counts.get(number)?.map_or(0, |count| count.value());
        counts.insert(number, change(count))?;
        Ok(())
    };
    if let Some(before) = before {
        queue.remove((before.next_ms, key.as_slice()))?;
        count(before.state, |count| count.saturating_sub(1))?;
    }
    match now {
        Some(now) => {
            let entry = cbor::encode(now).expect("numbers and strings have an encoding");
            requests.insert(key.as_slice(), entry.as_slice())?;
            queue.insert((now.next_ms, key.as_slice()), ())?;
            count(now.state, |count| count + 1)?;
        }
        None => drop(requests.remove(key.as_slice())?),
    }
    Ok(true)
}

/// Makes the tables of a new file, and returns the format of the file.
fn prepare(database: &Database) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    let format = {
        let mut meta = transaction.open_table(META)?;
        let format = meta.get("format")?.map(|format| format.value());
        if format.is_none() {
            meta.insert("format", FORMAT)?;
        }
        transaction.open_table(REQUESTS)?;
        transaction.open_table(QUEUE)?;
        transaction.open_table(COUNTS)?;
        format.unwrap_or(FORMAT)
    };
    if format == FORMAT {
        transaction.commit()?;
    }
    Ok(format)
}

fn stored_root(bytes: &[u8]) -> Result<Cid, StorageError> {
    Cid::try_from(bytes).map_err(|_| StorageError::Corrupted("a key is no CID".to_owned()))
}

fn stored_entry(bytes: &[u8]) -> Result<Entry, StorageError> {
    cbor::decode(bytes, ENTRY_BYTES_MAX)
        .map_err(|_| StorageError::Corrupted("an entry is no request".to_owned()))
}

#[cfg(test)]
mod tests {
    use dunlin_wire::block::{Codec, cid_of};

    use super::*;

    #[test]
    fn entries_stay_in_order_of_time_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pinning.redb");
        let requests = Requests::open(&path).unwrap();
        let (a, b) = (cid_of(Codec::Raw, b"a"), cid_of(Codec::Raw, b"b"));
        let at = |next_ms, state| Entry { next_ms, state, ..Entry::new() };
        let (first, second) = (at(20, State::Queued), at(10, State::Waiting));
        assert!(requests.change(&a, None, Some(&first)).unwrap());
        assert!(requests.change(&b, None, Some(&second)).unwrap());
        assert_eq!(requests.due(15, 10).unwrap(), [(b, second.clone())]);
        assert_eq!(requests.due(20, 10).unwrap(), [(b, second.clone()), (a, first.clone())]);
        assert_eq!(requests.due(20, 1).unwrap().len(), 1);
        // What changed meanwhile is not written over.
        assert!(!requests.change(&b, Some(&first), None).unwrap());
        drop(requests);
        let requests = Requests::open(&path).unwrap();
        let counts = Counts { waiting: 1, queued: 1, ..Counts::default() };
        assert_eq!(requests.counts().unwrap(), counts);
        assert!(requests.change(&b, Some(&second), None).unwrap());
        assert_eq!(requests.next_ms().unwrap(), Some(20));
        assert_eq!((requests.len(), requests.entry(&b).unwrap()), (1, None));
        assert!(requests.problems(10).unwrap().is_empty());
        let failed = Entry { problem: Some("no room".to_owned()), ..first.clone() };
        assert!(requests.change(&a, Some(&first), Some(&failed)).unwrap());
        let problem = RequestProblem { root: a, problem: "no room".to_owned() };
        assert_eq!(requests.problems(10).unwrap(), [problem]);
    }

    #[test]
    fn the_bytes_of_an_entry_stay_what_they_are() {
        let entry = Entry {
            attempts: 1,
            id: Some("r1".to_owned()),
            next_ms: 2,
            polls: 3,
            problem: None,
            state: State::Pinned,
        };
        // {"id": "r1", "polls": 3, "state": "Pinned", "next_ms": 2, "problem": null, "attempts": 1}
        let golden = [
            &b"\xa6\x62id\x62r1\x65polls\x03\x65state\x66Pinned"[..],
            b"\x67next_ms\x02\x67problem\xf6\x68attempts\x01",
        ];
        assert_eq!(cbor::encode(&entry).unwrap(), golden.concat());
        assert_eq!(stored_entry(&golden.concat()).unwrap(), entry);
    }
}
