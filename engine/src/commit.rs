//! Group commit: many writers, one log.
//!
//! Writers put encoded entries into a queue. The first one that finds nobody at work becomes the
//! leader: it takes what waits, writes and syncs it as one record, applies it in order, and wakes the
//! rest. While it works the next group gathers, so the slower the disk, the larger the groups. A
//! failure anywhere poisons the queue: nobody knows what the disk holds, so nothing more is written.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use crate::{
    Config,
    ahead::Payloads,
    batch::Entry,
    error::{PoisonCause, WriteError},
    state::Outcome,
};

/// A group takes no further entry once it has this many bytes: enough to make one sync cheap for each,
/// little enough that questions, which wait while a group is applied, do not wait long.
const GROUP_BYTES: usize = 8 * 1024 * 1024;

const _: () = assert!(GROUP_BYTES + Config::BATCH_BYTES_MAX + 5 <= crate::log::RECORD_BYTES_MAX);

/// The queue of entries that wait for the log.
#[derive(Default)]
pub(crate) struct Commit {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Writers that wait until there is room for theirs.
    outside: usize,
    /// Whether somebody writes a group or works exclusively.
    leading: bool,
    end: Option<End>,
    refused: u64,
    full: u64,
}

/// Why nothing more is written.
#[derive(Clone)]
enum End {
    Closed,
    Poisoned(Arc<PoisonCause>),
}

struct Waiting {
    entry: Entry,
    bytes: Vec<u8>,
    payloads: Payloads,
    slot: Slot,
}

/// Entries that were taken from the queue together.
#[derive(Default)]
pub(crate) struct Pending {
    pub(crate) entries: Vec<Entry>,
    /// All of them, encoded.
    pub(crate) record: Vec<u8>,
    /// What was packed for them ahead.
    pub(crate) payloads: Payloads,
}

/// Where a writer finds what its entry did.
type Slot = Arc<Mutex<Option<Outcome>>>;

impl Commit {
    /// Brings an entry, encoded in `bytes`, into the log and returns what it did.
    ///
    /// `write` writes, syncs and applies one group; it returns one outcome per entry.
    ///
    /// # Errors
    ///
    /// Fails when the engine is closed or poisoned.
    pub(crate) fn submit(
        &self,
        entry: Entry,
        bytes: Vec<u8>,
        payloads: Payloads,
        write: impl Fn(Pending) -> Result<Vec<Outcome>, PoisonCause>,
    ) -> Result<Outcome, WriteError> {
        let slot = Slot::default();
        let mut queue = self.lock();
        let room = Config::QUEUE_BYTES_MAX.saturating_sub(bytes.len());
        while queue.end.is_none() && queue.waiting_bytes > room {
            queue.full += 1;
            queue.outside += 1;
            queue = self.wait(queue);
            queue.outside -= 1;
        }
        queue.check()?;
        queue.waiting_bytes += bytes.len();
        queue.waiting.push_back(Waiting { entry, bytes, payloads, slot: Arc::clone(&slot) });
        loop {
            if let Some(outcome) = slot.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return Ok(outcome);
            }
            if let Some(End::Poisoned(cause)) = &queue.end {
                return Err(WriteError::Poisoned { cause: Arc::clone(cause) });
            }
            queue = if queue.leading { self.wait(queue) } else { self.lead(queue, &write) };
        }
    }

    /// Runs `work` while no group is written; a failure poisons the queue.
    ///
    /// # Errors
    ///
    /// Fails when the engine is closed or poisoned, or the work fails.
    pub(crate) fn exclusively(
        &self,
        work: impl FnOnce() -> Result<(), PoisonCause>,
    ) -> Result<(), WriteError> {
        let mut queue = self.lock();
        while queue.leading && queue.end.is_none() {
            queue = self.wait(queue);
        }
        queue.check()?;
        queue.leading = true;
        drop(queue);
        let mut leading = Leading { commit: self, failure: Some(PoisonCause::Panicked) };
        leading.failure = work().err();
        drop(leading);
        match &self.lock().end {
            Some(End::Poisoned(cause)) => Err(WriteError::Poisoned { cause: Arc::clone(cause) }),
            _ => Ok(()),
        }
    }

    /// Refuses all further writes and waits until those that wait are done; returns whether this is the
    /// first call.
    ///
    /// # Errors
    ///
    /// Fails when an earlier write failed.
    pub(crate) fn close(&self) -> Result<bool, WriteError> {
        let mut queue = self.lock();
        match &queue.end {
            Some(End::Closed) => return Ok(false),
            Some(End::Poisoned(_)) => queue.check()?,
            None => queue.end = Some(End::Closed),
        }
        self.changed.notify_all();
        while queue.leading || !queue.waiting.is_empty() {
            queue = self.wait(queue);
            if matches!(queue.end, Some(End::Poisoned(_))) {
                queue.check()?;
            }
        }
        Ok(true)
    }

    /// Counts a write that was refused before or after it came here.
    pub(crate) fn count_refused(&self) {
        self.lock().refused += 1;
    }

    /// Returns how many writes were refused, and how often a writer waited for room.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let queue = self.lock();
        (queue.refused, queue.full)
    }

    /// Writes one group.
    fn lead<'a>(
        &'a self,
        mut queue: MutexGuard<'a, Queue>,
        write: &impl Fn(Pending) -> Result<Vec<Outcome>, PoisonCause>,
    ) -> MutexGuard<'a, Queue> {
        queue.leading = true;
        let (mut pending, mut slots) = (Pending::default(), Vec::new());
        while pending.record.len() < GROUP_BYTES
            && let Some(Waiting { entry, bytes, payloads, slot }) = queue.waiting.pop_front()
        {
            queue.waiting_bytes -= bytes.len();
            pending.entries.push(entry);
            pending.payloads.extend(payloads);
            slots.push(slot);
            match pending.record.is_empty() {
                true => pending.record = bytes,
                false => pending.record.extend_from_slice(&bytes),
            }
        }
        if queue.outside > 0 {
            // There is room now, and what comes while this group is written is in the next one.
            self.changed.notify_all();
        }
        drop(queue);
        let mut leading = Leading { commit: self, failure: Some(PoisonCause::Panicked) };
        leading.failure = match write(pending) {
            Ok(outcomes) => {
                for (slot, outcome) in slots.iter().zip(outcomes) {
                    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
                }
                None
            }
            Err(cause) => Some(cause),
        };
        drop(leading);
        self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // The queue is changed in single steps, so a panic elsewhere leaves it whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn check(&self) -> Result<(), WriteError> {
        match &self.end {
            None => Ok(()),
            Some(End::Closed) => Err(WriteError::Closed),
            Some(End::Poisoned(cause)) => Err(WriteError::Poisoned { cause: Arc::clone(cause) }),
        }
    }
}

/// Somebody at work. Whatever way the work ends, the others are woken, and a failure is theirs too.
struct Leading<'a> {
    commit: &'a Commit,
    failure: Option<PoisonCause>,
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        let mut queue = self.commit.lock();
        queue.leading = false;
        if let Some(cause) = self.failure.take() {
            queue.end = Some(End::Poisoned(Arc::new(cause)));
        }
        self.commit.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::{Receiver, SyncSender, sync_channel},
        thread::{Scope, ScopedJoinHandle},
    };

    use super::*;
    use crate::{collection::CollectionName, observation::EntityId};

    /// A commit whose groups are written when the test says so, and fail when it says that.
    struct Bench {
        commit: Commit,
        /// Tells how many entries each group has, as soon as it is about to be written.
        begun: SyncSender<usize>,
        /// Each group waits for a verdict.
        verdicts: Mutex<Receiver<bool>>,
    }

    impl Bench {
        fn new() -> (Self, Receiver<usize>, SyncSender<bool>) {
            let ((begun, groups), (decide, verdicts)) = (sync_channel(64), sync_channel(64));
            (
                Self { commit: Commit::default(), begun, verdicts: Mutex::new(verdicts) },
                groups,
                decide,
            )
        }

        fn submit(&self, bytes: usize) -> Result<Outcome, WriteError> {
            let collection = CollectionName::new("c").unwrap();
            let entry = Entry::Seal { collection, entity: EntityId::new("e").unwrap() };
            self.commit.submit(entry, vec![0; bytes], Payloads::default(), |pending| {
                let Pending { entries, record, .. } = pending;
                assert!(!record.is_empty());
                self.begun.send(entries.len()).unwrap();
                match self.verdicts.lock().unwrap().recv().unwrap() {
                    true => Ok(entries.iter().map(|_| Outcome::Created).collect()),
                    false => Err(PoisonCause::Panicked),
                }
            })
        }

        /// Begins to write `bytes` in a thread of its own, and returns once `is_there` says so of the queue.
        fn spawn<'scope>(
            &'scope self,
            scope: &'scope Scope<'scope, '_>,
            bytes: usize,
            is_there: impl Fn(&Queue) -> bool,
        ) -> ScopedJoinHandle<'scope, Result<Outcome, WriteError>> {
            let writer = scope.spawn(move || self.submit(bytes));
            while !is_there(&self.commit.lock()) {
                std::thread::yield_now();
            }
            writer
        }
    }

    #[test]
    fn all_who_come_while_a_group_is_written_are_the_next_group() {
        let (bench, groups, decide) = Bench::new();
        std::thread::scope(|scope| {
            let mut writers = vec![bench.spawn(scope, 10, |queue| queue.leading)];
            assert_eq!(groups.recv().unwrap(), 1);
            for waiting in 1..8 {
                writers.push(bench.spawn(scope, 10, |queue| queue.waiting.len() == waiting));
            }
            decide.send(true).unwrap();
            decide.send(true).unwrap();
            assert_eq!(groups.recv().unwrap(), 7);
            assert!(writers.into_iter().all(|writer| writer.join().unwrap().is_ok()));
        });
        assert_eq!((groups.try_recv().ok(), bench.commit.counts()), (None, (0, 0)));
    }

    #[test]
    fn whoever_finds_the_queue_full_waits_until_there_is_room() {
        const HALF: usize = Config::QUEUE_BYTES_MAX / 2;
        let (bench, groups, decide) = Bench::new();
        std::thread::scope(|scope| {
            let mut writers = vec![bench.spawn(scope, HALF, |queue| queue.leading)];
            assert_eq!(groups.recv().unwrap(), 1);
            writers.push(bench.spawn(scope, HALF, |queue| queue.waiting.len() == 1));
            writers.push(bench.spawn(scope, HALF, |queue| queue.waiting.len() == 2));
            // One byte is too much for a queue that is full.
            writers.push(bench.spawn(scope, 1, |queue| queue.full > 0));
            let queue = bench.commit.lock();
            assert_eq!((queue.waiting.len(), queue.waiting_bytes), (2, Config::QUEUE_BYTES_MAX));
            drop(queue);
            decide.send(true).unwrap();
            // The first of both is on its way to the disk, all of a group; there is room again.
            assert_eq!(groups.recv().unwrap(), 1);
            while bench.commit.lock().waiting.len() != 2 {
                std::thread::yield_now();
            }
            for _ in 0..3 {
                decide.send(true).unwrap();
            }
            assert_eq!((groups.recv().unwrap(), groups.recv().unwrap()), (1, 1));
            assert!(writers.into_iter().all(|writer| writer.join().unwrap().is_ok()));
        });
        assert_eq!(bench.commit.lock().waiting_bytes, 0);
    }

    #[test]
    fn a_failure_and_an_end_reach_those_who_wait_for_room() {
        for is_closed in [false, true] {
            let (bench, groups, decide) = Bench::new();
            std::thread::scope(|scope| {
                let first = bench.spawn(scope, 1, |queue| queue.leading);
                groups.recv().unwrap();
                let full = Config::QUEUE_BYTES_MAX;
                let second = bench.spawn(scope, full, |queue| queue.waiting.len() == 1);
                let third = bench.spawn(scope, 1, |queue| queue.full > 0);
                if is_closed {
                    let closing = scope.spawn(|| bench.commit.close());
                    // It is refused although nothing was written meanwhile.
                    assert!(matches!(third.join().unwrap(), Err(WriteError::Closed)));
                    decide.send(true).unwrap();
                    decide.send(true).unwrap();
                    assert!(first.join().unwrap().is_ok() && second.join().unwrap().is_ok());
                    assert!(closing.join().unwrap().unwrap());
                } else {
                    decide.send(false).unwrap();
                    for writer in [first, second, third] {
                        assert!(matches!(writer.join().unwrap(), Err(WriteError::Poisoned { .. })));
                    }
                    assert!(bench.commit.close().is_err());
                }
                assert!(bench.submit(1).is_err());
            });
        }
    }
}
