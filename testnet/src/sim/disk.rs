//! The disk of a simulated node: what was synced stays, and of what was only written a crash keeps a part. Bytes that are
//! the same on many disks are one allocation, and so is what a node also has in memory.

use std::{collections::BTreeMap, sync::Arc};

use dunlin_trust::{Record, Subject};
use dunlin_wire::{Cid, cbor};

use super::message::Item;

/// Most bytes of the record of a peer.
const RECORD_BYTES_MAX: usize = 1 << 16;

/// Something that is written.
#[derive(Clone, Debug)]
pub(super) enum Write {
    /// A record of a peer.
    Record(Subject, Record),
    /// A peer whose record may go.
    Forget(Subject),
    /// A revocation.
    Revocation(Arc<[u8]>),
    /// A segment.
    Segment(Cid, Arc<[u8]>),
    /// A segment that is to go. Only [`super::Bug::DeleteLoser`] writes it.
    Remove(Cid),
    /// An attestation, a decision or a proof.
    Statement(Arc<Item>),
    /// The newest template set of its own.
    Release(Arc<Item>),
    /// The newest template set of another node.
    Templates(usize, Arc<Item>),
    /// A node whose set may go.
    ForgetTemplates(usize),
    /// The record of a conflict or a decision, under its name.
    Conflict(Arc<[u8]>, Arc<[u8]>),
    /// The number of the newest announcement.
    Sequence(u64),
}

/// What is on disk for good.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    pub(super) records: BTreeMap<Subject, Record>,
    pub(super) revocations: Vec<Arc<[u8]>>,
    pub(super) segments: BTreeMap<Cid, Arc<[u8]>>,
    pub(super) statements: Vec<Arc<Item>>,
    pub(super) conflicts: BTreeMap<Arc<[u8]>, Arc<[u8]>>,
    pub(super) released: Option<Arc<Item>>,
    pub(super) templates: BTreeMap<usize, Arc<Item>>,
    pub(super) sequence: u64,
}

/// A disk with what waits to be synced.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    contents: Contents,
    written: Vec<Write>,
}

impl Disk {
    pub(super) fn write(&mut self, write: Write) {
        self.written.push(write);
    }

    /// Waits until everything that was written is there for good.
    pub(super) fn sync(&mut self) {
        for write in std::mem::take(&mut self.written) {
            self.contents.take(write);
        }
    }

    /// Loses what was not synced, but for the first `lucky` writes.
    pub(super) fn crash(&mut self, lucky: usize) {
        self.written.truncate(lucky);
        self.sync();
    }

    pub(super) fn unsynced(&self) -> usize {
        self.written.len()
    }

    pub(super) fn contents(&self) -> &Contents {
        &self.contents
    }
}

impl Contents {
    /// Returns the records of peers, as they are read from bytes.
    pub(super) fn read_records(&self) -> Vec<Record> {
        let read = |record| {
            let bytes = cbor::encode(record).expect("a record has an encoding");
            cbor::decode(&bytes, RECORD_BYTES_MAX).expect("what was written is whole")
        };
        self.records.values().map(read).collect()
    }

    fn take(&mut self, write: Write) {
        match write {
            Write::Record(peer, record) => drop(self.records.insert(peer, record)),
            Write::Forget(peer) => drop(self.records.remove(&peer)),
            Write::Revocation(record) => self.revocations.push(record),
            Write::Segment(cid, bytes) => drop(self.segments.insert(cid, bytes)),
            Write::Remove(cid) => drop(self.segments.remove(&cid)),
            Write::Statement(item) => self.statements.push(item),
            Write::Release(item) => self.released = Some(item),
            Write::Templates(author, item) => drop(self.templates.insert(author, item)),
            Write::ForgetTemplates(author) => drop(self.templates.remove(&author)),
            Write::Conflict(name, record) => drop(self.conflicts.insert(name, record)),
            Write::Sequence(number) => self.sequence = self.sequence.max(number),
        }
    }
}
