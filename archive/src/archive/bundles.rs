//! Bundles in the store: what is staged and seen by nobody, what was sent, and from whom what came.
//!
//! A staged block is in the table of blocks like every other, under a pin that hides it: it is visible
//! while more pins reach it than those. So landing a bundle, however large, writes no block again; it moves
//! pins, in one transaction.

use std::collections::BTreeMap;

use dunlin_wire::{
    Cid,
    block::{Block, Codec},
};
use libp2p_identity::PeerId;
use redb::{
    ReadTransaction, ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition,
    WriteTransaction,
};

use super::{
    Archive, Object,
    tables::{stored_cid, stored_links},
    writer::{Writer, count_down, count_up},
};
use crate::{
    Pin, PutError, ReadError,
    bundle::{ChainError, Gaps, Index, Link, Manifest, Part, PartKind, follows},
    dag,
};

/// How many staging pins reach each block; none of the others are here.
const STAGED: TableDefinition<'_, &[u8], u64> = TableDefinition::new("staged");

/// Segments and templates that left in a bundle, and in which one first.
const SENT: TableDefinition<'_, &[u8], u64> = TableDefinition::new("sent");

/// Own bundles by number: the root and the signed manifest.
const BUNDLES: TableDefinition<'_, u64, (&[u8], &[u8])> = TableDefinition::new("bundles");

/// The last bundle of each peer that was taken in: its number and its manifest.
const RECEIVED: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("received");

/// Own bundles that can be written again: their indexes are kept, 41 bytes for each block.
const KEPT_MAX: u64 = 64;

/// Pins that are read at once.
const PAGE: usize = 4096;

/// An own bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its place in the chain.
    pub link: Link,
    /// The root of its file.
    pub root: Cid,
}

/// A bundle whose blocks are all staged, and what becomes of them.
#[derive(Debug)]
pub struct Landing<'a> {
    /// Who signed it.
    pub signer: &'a PeerId,
    /// The CID of its signed manifest.
    pub bundle: Cid,
    /// What it is.
    pub manifest: &'a Manifest,
    /// Whether bundles may be missing before it.
    pub gaps: Gaps,
    /// Its template sets that are to be kept, each in place of what its pin holds.
    pub templates: &'a [Object],
}

/// Why a bundle did not land. Nothing of it is visible, all of it is still staged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LandError {
    /// It is not the next one.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A staged block is gone or damaged on disk.
    #[error("the staged block {cid} is damaged; import the bundle again")]
    Damaged {
        /// Its CID.
        cid: Box<Cid>,
    },
    /// The store refused.
    #[error(transparent)]
    Put(#[from] PutError),
}

impl<E: Into<redb::Error>> From<E> for LandError {
    fn from(cause: E) -> Self {
        Self::Put(PutError::Database(Box::new(cause.into())))
    }
}

/// Makes the tables of a new file.
pub(super) fn prepare(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(STAGED)?;
    transaction.open_table(SENT)?;
    transaction.open_table(BUNDLES)?;
    transaction.open_table(RECEIVED)?;
    Ok(())
}

/// Returns whether no pin but staging ones reaches a block.
pub(super) fn is_hidden(transaction: &ReadTransaction, key: &[u8]) -> Result<bool, ReadError> {
    let Some(staged) = transaction.open_table(STAGED)?.get(key)? else { return Ok(false) };
    let references = transaction.open_table(super::tables::REFERENCES)?.get(key)?;
    Ok(references.is_none_or(|references| references.value() <= staged.value()))
}

impl Archive {
    /// Keeps blocks of a bundle in the staging area, durably: nothing that reads blocks sees them.
    ///
    /// # Errors
    ///
    /// As [`Self::put`].
    pub fn stage(&self, bundle: &Cid, blocks: &[Block]) -> Result<(), PutError> {
        let pin = Pin::staged(bundle);
        let transaction = self.database.begin_write()?;
        let changes = {
            let mut staged = transaction.open_table(STAGED)?;
            let mut writer = self.writer(&transaction)?;
            for block in blocks {
                let key = block.cid().to_bytes();
                if writer.pins.get((pin.as_str(), key.as_slice()))?.is_none() {
                    writer.put(&Object::leaf(pin.clone(), block.clone()))?;
                    count_up(&mut staged, &key)?;
                }
            }
            writer.finish()?
        };
        self.commit(transaction, changes)
    }

    /// Returns whether a block of a bundle is in the staging area.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn is_staged(&self, bundle: &Cid, cid: &Cid) -> Result<bool, ReadError> {
        self.is_pinned(&Pin::staged(bundle), cid)
    }

    /// Returns the bundles that are staged in part, with how many blocks of each are there.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn staged(&self) -> Result<Vec<(Cid, u64)>, ReadError> {
        let pins = self.pins(Pin::STAGED)?.into_iter();
        let bundles = pins.map(|(pin, count)| {
            let bundle = pin.as_str()[Pin::STAGED.len()..].parse();
            let damaged = |_| StorageError::Corrupted("a staging pin has no CID".to_owned());
            Ok((bundle.map_err(damaged)?, count))
        });
        bundles.collect()
    }

    /// Drops what is staged of all bundles but one.
    ///
    /// # Errors
    ///
    /// Fails when the store refuses; nothing was dropped then.
    pub fn drop_staged(&self, but: Option<&Cid>) -> Result<(), PutError> {
        let but = but.map(Pin::staged);
        let mut pins = match self.pins(Pin::STAGED) {
            Ok(pins) => pins,
            Err(ReadError::Database(cause)) => return Err(PutError::Database(cause)),
            // Pins are no blocks, which alone can be damaged so.
            Err(damaged) => return Err(StorageError::Corrupted(damaged.to_string()).into()),
        };
        pins.retain(|pin, _| Some(pin) != but.as_ref());
        if pins.is_empty() {
            return Ok(());
        }
        let transaction = self.database.begin_write()?;
        let changes = {
            let mut staged = transaction.open_table(STAGED)?;
            let mut writer = self.writer(&transaction)?;
            for pin in pins.keys() {
                writer.unstage(&mut staged, pin)?;
            }
            writer.finish()?
        };
        self.commit(transaction, changes)
    }

    /// Makes a staged bundle visible, all of it in one durable commit: its segments as fetched ones, the
    /// template sets that were chosen, and its place in the chain of its sender.
    ///
    /// # Durability
    ///
    /// When this returns, no crash loses any of it; when it does not, nothing is visible.
    ///
    /// # Errors
    ///
    /// Fails when the bundle is not the next one, a block is missing, or the store refuses.
    pub fn land(&self, landing: &Landing<'_>) -> Result<(), LandError> {
        let Landing { signer, bundle, manifest, gaps, templates } = landing;
        let transaction = self.database.begin_write()?;
        let changes = {
            let mut staged = transaction.open_table(STAGED)?;
            let mut received = transaction.open_table(RECEIVED)?;
            let mut writer = self.writer(&transaction)?;
            let signer = signer.to_string();
            let last = received.get(signer.as_str())?.map(|stored| stored_link(stored.value()));
            follows(last.transpose()?, bundle, manifest, *gaps)?;
            writer.land_segments(&manifest.content)?;
            for object in *templates {
                writer.replace(object)?;
            }
            writer.unstage(&mut staged, &Pin::staged(bundle))?;
            let key = bundle.to_bytes();
            received.insert(signer.as_str(), (manifest.sequence, key.as_slice()))?;
            writer.finish()?
        };
        Ok(self.commit(transaction, changes)?)
    }

    /// Returns the last bundle of each peer that was taken in.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn received(&self) -> Result<BTreeMap<PeerId, Link>, ReadError> {
        let received = self.database.begin_read()?.open_table(RECEIVED)?;
        let mut links = BTreeMap::new();
        for entry in received.iter()? {
            let (peer, link) = entry?;
            let damaged = |_| StorageError::Corrupted("a peer has no id".to_owned());
            let peer = peer.value().parse().map_err(damaged)?;
            links.insert(peer, stored_link(link.value())?);
        }
        Ok(links)
    }

    /// Returns the last bundle of a peer that was taken in.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn last_received(&self, peer: &PeerId) -> Result<Option<Link>, ReadError> {
        let received = self.database.begin_read()?.open_table(RECEIVED)?;
        let link = received.get(peer.to_string().as_str())?;
        Ok(link.map(|link| stored_link(link.value())).transpose()?)
    }

    /// Begins to make an own bundle: drops what one that was never finished has left.
    ///
    /// # Errors
    ///
    /// Fails when the store refuses.
    pub(crate) fn begin_bundle(&self, sequence: u64) -> Result<(), PutError> {
        self.unpin(&Pin::sent(sequence))
    }

    /// Keeps a part of the index of an own bundle.
    ///
    /// # Errors
    ///
    /// As [`Self::put`].
    pub(crate) fn keep_part(&self, sequence: u64, part: Block) -> Result<(), PutError> {
        self.put(&[Object::leaf(Pin::sent(sequence), part)], None)
    }

    /// Notes an own bundle: its place in the chain, what is in it, and what is needed to write it again.
    /// All parts of its index are kept already, or are among `frames`.
    ///
    /// # Durability
    ///
    /// When this returns, the number is taken and no crash gives it to another bundle.
    ///
    /// # Errors
    ///
    /// As [`Self::put`].
    pub(crate) fn finish_bundle(
        &self,
        sent: &Sent,
        content: &Cid,
        frames: &[Block],
    ) -> Result<(), PutError> {
        let sequence = sent.link.sequence;
        let transaction = self.database.begin_write()?;
        let changes = {
            let mut marks = transaction.open_table(SENT)?;
            let mut writer = self.writer(&transaction)?;
            for frame in frames {
                writer.put(&Object::leaf(Pin::sent(sequence), frame.clone()))?;
            }
            writer.for_each_part::<PutError>(content, |_, Part(.., entries)| {
                for cid in entries.iter().filter(|cid| Codec::of(cid) == Some(Codec::DagCbor)) {
                    let key = cid.to_bytes();
                    if marks.get(key.as_slice())?.is_none() {
                        marks.insert(key.as_slice(), sequence)?;
                    }
                }
                Ok(())
            })?;
            let (root, bundle) = (sent.root.to_bytes(), sent.link.bundle.to_bytes());
            let mut bundles = transaction.open_table(BUNDLES)?;
            bundles.insert(sequence, (root.as_slice(), bundle.as_slice()))?;
            if let Some(old) = sequence.checked_sub(KEPT_MAX) {
                let pin = Pin::sent(old);
                for root in writer.roots(&pin)? {
                    writer.unpin(&pin, &root)?;
                }
            }
            writer.finish()?
        };
        self.commit(transaction, changes)
    }

    /// Returns the own bundle of this number, or the last one.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn sent(&self, sequence: Option<u64>) -> Result<Option<Sent>, ReadError> {
        let bundles = self.database.begin_read()?.open_table(BUNDLES)?;
        let found = match sequence {
            Some(sequence) => bundles.get(sequence)?.map(|stored| (sequence, stored)),
            None => bundles.last()?.map(|(sequence, stored)| (sequence.value(), stored)),
        };
        let Some((sequence, stored)) = found else { return Ok(None) };
        let (root, bundle) = stored.value();
        let link = Link { sequence, bundle: stored_cid(bundle)? };
        Ok(Some(Sent { link, root: stored_cid(root)? }))
    }

    /// Returns whether a segment or a template set has left in an own bundle.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn was_sent(&self, cid: &Cid) -> Result<bool, ReadError> {
        let marks = self.database.begin_read()?.open_table(SENT)?;
        Ok(marks.get(cid.to_bytes().as_slice())?.is_some())
    }
}

fn stored_link((sequence, bundle): (u64, &[u8])) -> Result<Link, StorageError> {
    Ok(Link { sequence, bundle: stored_cid(bundle)? })
}

impl Writer<'_> {
    /// Pins every segment of a staged bundle as fetched, with its payload.
    fn land_segments(&mut self, content: &Cid) -> Result<(), LandError> {
        self.for_each_part(content, |writer, Part(_, kind, collection, entries)| {
            if kind != PartKind::Segments {
                return Ok(());
            }
            let pin = Pin::fetched(&collection);
            for cid in entries.iter().filter(|cid| Codec::of(cid) == Some(Codec::DagCbor)) {
                let block = writer.whole(cid)?.ok_or(LandError::Damaged { cid: Box::new(*cid) })?;
                let damaged = |_| LandError::Damaged { cid: Box::new(*cid) };
                let links = dag::links(cid, &block).map_err(damaged)?;
                for link in &links {
                    if !writer.blocks.has(&link.to_bytes())? {
                        return Err(LandError::Damaged { cid: Box::new(*link) });
                    }
                }
                writer.pin(&pin, cid, &links)?;
            }
            Ok(())
        })
    }

    /// Pins an object whose blocks are here.
    fn pin(&mut self, pin: &Pin, root: &Cid, links: &[Cid]) -> Result<(), PutError> {
        let key = root.to_bytes();
        let place = (pin.as_str(), key.as_slice());
        let held = self.pins.get(place)?.map(|links| stored_links(links.value())).transpose()?;
        if held.is_none() {
            self.count_held(pin, true)?;
            count_up(&mut self.references, &key)?;
        }
        let mut all = held.clone().unwrap_or_default();
        for link in links {
            if !all.contains(link) && link != root {
                count_up(&mut self.references, &link.to_bytes())?;
                all.push(*link);
            }
        }
        if held.as_ref() != Some(&all) {
            let all = dunlin_wire::cbor::encode(&all).expect("a list of CIDs has an encoding");
            self.pins.insert(place, all.as_slice())?;
        }
        Ok(())
    }

    /// Makes an object the only one under its pin.
    pub(super) fn replace(&mut self, object: &Object) -> Result<(), PutError> {
        for root in self.roots(&object.pin)? {
            if root != *object.root.cid() {
                self.unpin(&object.pin, &root)?;
            }
        }
        self.put(object)
    }

    /// Lets go of all that a staging pin holds.
    fn unstage(
        &mut self,
        staged: &mut Table<'_, &'static [u8], u64>,
        pin: &Pin,
    ) -> Result<(), PutError> {
        loop {
            let mut page = Vec::new();
            for entry in self.pins.range((pin.as_str(), &[][..])..)?.take(PAGE) {
                let (key, _) = entry?;
                let (name, root) = key.value();
                if name != pin.as_str() {
                    break;
                }
                page.push(stored_cid(root)?);
            }
            if page.is_empty() {
                return Ok(());
            }
            for root in page {
                self.unpin(pin, &root)?;
                count_down(staged, &root.to_bytes())?;
            }
        }
    }

    /// Hands out the parts of a bundle's index, one after the other.
    fn for_each_part<E: From<PutError>>(
        &mut self,
        content: &Cid,
        mut take: impl FnMut(&mut Self, Part) -> Result<(), E>,
    ) -> Result<(), E> {
        let missing = || {
            let what = "a part of a bundle's index is missing or damaged".to_owned();
            PutError::from(StorageError::Corrupted(what))
        };
        let index =
            self.whole(content).map_err(PutError::from)?.and_then(|bytes| Index::decode(&bytes));
        let Index(_, parts) = index.ok_or_else(missing)?;
        for cid in &parts {
            let part =
                self.whole(cid).map_err(PutError::from)?.and_then(|bytes| Part::decode(&bytes));
            take(self, part.ok_or_else(missing)?)?;
        }
        Ok(())
    }
}
