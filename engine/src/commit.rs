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
    batch::Entry,
    error::{PoisonCause, WriteError},
    state::Outcome,
};

/// A group takes no further entry once it weighs this much, in bytes: enough to make one sync cheap for
/// each, little enough that questions, which wait while a group is applied, do not wait long.
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
    weight: usize,
    slot: Slot,
}

/// Where a writer finds what its entry did.
type Slot = Arc<Mutex<Option<Outcome>>>;

impl Commit {
    /// Brings an entry, encoded in `bytes`, into the log and returns what it did. `weight` says how long it
    /// takes to apply: as long as so many bytes of the simplest entries.
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
        weight: usize,
        write: impl Fn(Vec<Entry>, &[u8]) -> Result<Vec<Outcome>, PoisonCause>,
    ) -> Result<Outcome, WriteError> {
        let slot = Slot::default();
        let mut queue = self.lock();
        let room = Config::QUEUE_BYTES_MAX.saturating_sub(bytes.len());
        while queue.end.is_none() && queue.waiting_bytes > room {
            queue.full += 1;
            queue = self.wait(queue);
        }
        queue.check()?;
        queue.waiting_bytes += bytes.len();
        queue.waiting.push_back(Waiting { entry, bytes, weight, slot: Arc::clone(&slot) });
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
        write: &impl Fn(Vec<Entry>, &[u8]) -> Result<Vec<Outcome>, PoisonCause>,
    ) -> MutexGuard<'a, Queue> {
        queue.leading = true;
        let (mut entries, mut slots, mut record) = (Vec::new(), Vec::new(), Vec::new());
        let mut heavy = 0;
        while heavy < GROUP_BYTES
            && let Some(Waiting { entry, bytes, weight, slot }) = queue.waiting.pop_front()
        {
            queue.waiting_bytes -= bytes.len();
            heavy += weight;
            entries.push(entry);
            slots.push(slot);
            match record.is_empty() {
                true => record = bytes,
                false => record.extend_from_slice(&bytes),
            }
        }
        drop(queue);
        let mut leading = Leading { commit: self, failure: Some(PoisonCause::Panicked) };
        leading.failure = match write(entries, &record) {
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
