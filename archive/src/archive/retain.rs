//! What leaves by itself: copies of what others have, when they are old or room is needed.
//!
//! Everything that this node promised to keep stays: its own segments, what was imported or pinned, what it
//! holds for others. What was fetched is a copy, and can be fetched again: it leaves when it is older than
//! the operator wishes, and the oldest of it when the archive is nearly full, so that there is room for what
//! is sealed. An object whose root another pin holds, too, stays whole. The work is done in small steps, and
//! writers come between.

use std::{collections::BinaryHeap, time::Duration};

use dunlin_wire::Cid;
use redb::ReadableDatabase;

use super::{
    Archive, Stats,
    tables::{PINS, REFERENCES, TAKEN, stored_cid},
};
use crate::{Object, Pin, PutError, ReadError};

/// Objects that one step removes or dates, in one transaction of a few milliseconds.
const STEP: usize = 64;

/// Objects that are chosen at once, oldest first; looking for them reads all that was fetched.
const CHOSEN_MAX: usize = 16_384;

/// The archive counts as nearly full at this part of its quota, in percent, and has room again below that.
const FULL_PERCENT: u64 = 90;
const ROOM_PERCENT: u64 = 80;

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// Objects that left.
    pub objects: u64,
    /// Bytes that left with them.
    pub bytes: u64,
    /// Whether there may be more to do.
    pub is_more: bool,
}

/// Removes what may leave, step by step.
#[derive(Debug)]
pub struct Retention {
    keep: Option<Duration>,
    /// The next one to leave is the last.
    chosen: Vec<Fetched>,
    /// Whether the archive was nearly full, and room is being made.
    is_making_room: bool,
}

/// A fetched object: older ones are less.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fetched {
    taken_ms: u64,
    pin: String,
    root: Vec<u8>,
}

/// What one transaction removed.
struct Removed {
    /// Objects that were looked at, and need not be again.
    passed: usize,
    objects: u64,
    bytes: u64,
}

/// What was found out about all that was fetched.
#[derive(Debug, Default)]
struct Look {
    /// The oldest, any order.
    oldest: BinaryHeap<Fetched>,
    /// Fetched by an older version, which did not write down when.
    undated: Vec<(String, Vec<u8>)>,
}

impl Retention {
    /// Returns a retention that keeps what was fetched for so long; `None`: as long as there is room.
    #[must_use]
    pub fn new(keep: Option<Duration>) -> Self {
        Self { keep, chosen: Vec::new(), is_making_room: false }
    }

    /// Takes one step at `now_ms`, in milliseconds since the epoch. A clock that is behind keeps things for
    /// longer; one that jumped ahead takes what was fetched, and nothing else.
    ///
    /// # Errors
    ///
    /// Fails when the archive cannot be read or written.
    pub fn step(&mut self, archive: &Archive, now_ms: u64) -> Result<Retained, RetainError> {
        let stats = archive.stats()?;
        let is_nearly_full = stats.bytes > percent(archive.bytes_max, FULL_PERCENT);
        self.is_making_room |= is_nearly_full;
        self.is_making_room &= stats.bytes > percent(archive.bytes_max, ROOM_PERCENT);
        if !self.is_making_room && self.keep.is_none() {
            self.chosen.clear();
            return Ok(Retained::default());
        }
        if self.chosen.is_empty() {
            let look = archive.look_at_fetched()?;
            if !look.undated.is_empty() {
                archive.date(&look.undated, now_ms)?;
                return Ok(Retained { is_more: true, ..Retained::default() });
            }
            self.chosen = look.oldest.into_sorted_vec();
            self.chosen.reverse();
        }
        let keep = self.keep.map(|keep| u64::try_from(keep.as_millis()).unwrap_or(u64::MAX));
        let is_old = |fetched: &Fetched| {
            keep.is_some_and(|keep| fetched.taken_ms.saturating_add(keep) <= now_ms)
        };
        let room = self.is_making_room.then(|| percent(archive.bytes_max, ROOM_PERCENT));
        let may_leave = |fetched: &Fetched, stats: Stats| {
            room.is_some_and(|room| stats.bytes > room) || is_old(fetched)
        };
        let done = archive.remove_fetched(&self.chosen, may_leave)?;
        self.chosen.truncate(self.chosen.len() - done.passed);
        let is_more = done.passed == STEP;
        if !is_more {
            // There is room, and the next one is not old yet; or there is none.
            self.chosen.clear();
            self.is_making_room = false;
        }
        Ok(Retained { objects: done.objects, bytes: done.bytes, is_more })
    }
}

fn percent(bytes: u64, percent: u64) -> u64 {
    bytes / 100 * percent
}

/// Why retention stopped. What left before is gone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RetainError {
    /// The archive cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The archive cannot be written.
    #[error(transparent)]
    Put(#[from] PutError),
}

impl Archive {
    /// As [`Self::put`] for objects that came from others at `now_ms`, in milliseconds since the epoch: they
    /// may leave by and by. One that is here already keeps its time.
    ///
    /// # Errors
    ///
    /// As [`Self::put`].
    pub fn put_fetched(&self, objects: &[Object], now_ms: u64) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        let changes = {
            let mut writer = self.writer(&transaction)?;
            for object in objects {
                writer.put(object)?;
                writer.date(object.pin.as_str(), &object.root.cid().to_bytes(), now_ms)?;
            }
            writer.finish()?
        };
        self.commit(transaction, changes)
    }

    fn look_at_fetched(&self) -> Result<Look, ReadError> {
        let transaction = self.database.begin_read()?;
        let (pins, taken) = (transaction.open_table(PINS)?, transaction.open_table(TAKEN)?);
        let references = transaction.open_table(REFERENCES)?;
        let mut look = Look::default();
        for entry in pins.range((Pin::FETCHED, &[][..])..)? {
            let (key, _) = entry?;
            let (pin, root) = key.value();
            if !pin.starts_with(Pin::FETCHED) || look.undated.len() == STEP {
                break;
            }
            let Some(taken_ms) = taken.get((pin, root))?.map(|at| at.value()) else {
                look.undated.push((pin.to_owned(), root.to_vec()));
                continue;
            };
            let is_newer = look.oldest.len() == CHOSEN_MAX
                && look.oldest.peek().is_some_and(|newest| newest.taken_ms <= taken_ms);
            if is_newer || references.get(root)?.is_none_or(|count| count.value() > 1) {
                continue;
            }
            look.oldest.push(Fetched { taken_ms, pin: pin.to_owned(), root: root.to_vec() });
            if look.oldest.len() > CHOSEN_MAX {
                look.oldest.pop();
            }
        }
        Ok(look)
    }

    fn date(&self, undated: &[(String, Vec<u8>)], now_ms: u64) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        let changes = {
            let mut writer = self.writer(&transaction)?;
            for (pin, root) in undated {
                writer.date(pin, root, now_ms)?;
            }
            writer.finish()?
        };
        self.commit(transaction, changes)
    }

    /// Removes fetched objects from the end of the list, as long as the next one may leave; but none whose root
    /// another pin has come to hold.
    fn remove_fetched(
        &self,
        chosen: &[Fetched],
        may_leave: impl Fn(&Fetched, Stats) -> bool,
    ) -> Result<Removed, PutError> {
        let transaction = self.database.begin_write()?;
        let (mut objects, mut passed) = (0, 0);
        let changes = {
            let mut writer = self.writer(&transaction)?;
            for fetched in chosen.iter().rev().take(STEP) {
                if !may_leave(fetched, writer.stats()) {
                    break;
                }
                passed += 1;
                let root: Cid = stored_cid(&fetched.root)?;
                if writer.is_held_once(&fetched.root)? {
                    let pin = Pin::from_stored(&fetched.pin);
                    objects += u64::from(writer.unpin(&pin, &root)?);
                }
            }
            writer.finish()?
        };
        let bytes = changes.freed_bytes();
        self.commit(transaction, changes)?;
        Ok(Removed { passed, objects, bytes })
    }
}
