//! What is signed about segments that conflict: by nodes that sealed one, and by people who decided.
//!
//! Each statement is a block of its own in a catalog, so that peers exchange statements as they do segments. Only
//! what this node's own key and its own peers' say is taken in, and only about conflicts that are known here: nobody
//! else may know which private segments there are.

use std::sync::Arc;

use dunlin_archive::{NamedRecord, Object, Pin};
use dunlin_protocols::{PeerId, messages::CatalogsResponse};
use dunlin_trust::{
    CLOCK_SLACK_MS, Passed, Standing, UnixMillis,
    recovery::{Attestation, ConflictError, Conflicts, Decision},
};
use dunlin_wire::{
    Cid,
    block::{Block, Codec},
    envelope::{self, OpenError, Payload, SignError, Signed},
};
use serde_bytes::ByteBuf;

use super::{
    super::{clock, shared::Shared},
    restored,
};

/// Most statements that are kept about one collection, about 64 MiB: two makers of both sides of every conflict that a
/// node holds. More are refused, and this node says so.
const STATEMENTS_MAX: u64 = 262_144;

/// What became of statements of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Kept.
    pub(super) new: usize,
    /// Signed by nobody.
    pub(super) forged: usize,
}

/// A statement whose signature holds.
enum Statement {
    Attestation(Signed<Attestation>),
    Decision(Signed<Decision>),
}

/// Why a person's decision was not taken. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    /// The segment is in no such conflict.
    #[error("{preferred} is not one of the two segments of this conflict")]
    NotOfConflict {
        /// What was to be preferred.
        preferred: Box<Cid>,
    },
    /// It cannot be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// It does not count.
    #[error(transparent)]
    Conflict(#[from] ConflictError),
    /// It cannot be kept.
    #[error("the decision cannot be kept: {0:#}")]
    Store(anyhow::Error),
}

impl Shared {
    /// Decides which of two segments in a conflict answers use, in the name of this node; the decision is on disk
    /// when this returns, and own peers get it.
    pub(crate) async fn resolve(
        self: &Arc<Self>,
        pair: (Cid, Cid),
        preferred: Cid,
    ) -> Result<(), ResolveError> {
        let other = match pair {
            (first, second) if preferred == first => second,
            (first, second) if preferred == second => first,
            _ => {
                return Err(ResolveError::NotOfConflict { preferred: Box::new(preferred) });
            }
        };
        self.blocking(move |shared| shared.decide(pair, preferred, other)).await?;
        // Whoever is connected compares, finds that a statement is missing there, and asks for it.
        for peer in &self.config.network.own_peers {
            self.recovery.wish(*peer);
        }
        Ok(())
    }

    fn decide(&self, pair: (Cid, Cid), preferred: Cid, other: Cid) -> Result<(), ResolveError> {
        let recovery = &self.recovery;
        let (collection, statement) = {
            let mut conflicts = recovery.conflicts();
            let not_there = || ResolveError::NotOfConflict { preferred: Box::new(preferred) };
            let collection = conflicts.get(&pair).ok_or_else(not_there)?.series.collection.clone();
            // A clock that was ahead must not keep a person from changing their mind.
            let earliest = conflicts.decided(&pair).map_or(0, |known| known.0.saturating_add(1));
            let issued = UnixMillis(clock::now().0.max(earliest));
            let signed =
                envelope::sign(&recovery.identity, Decision::new(preferred, other, issued))?;
            let statement = Block::new(Codec::DagCbor, signed.bytes.clone());
            conflicts.decide(signed, |_| true)?;
            (collection, statement)
        };
        self.keep_statements(&collection, vec![statement]).map_err(ResolveError::Store)
    }

    /// Attests to those of these segments that this node sealed and that are in a conflict.
    pub(super) fn attest(&self, collection: &str, contested: &[Cid]) -> anyhow::Result<()> {
        let own = Pin::own(collection);
        let kept = Pin::statements(collection);
        let mut statements = Vec::new();
        for cid in contested {
            if !self.archive.is_pinned(&own, cid)? {
                continue;
            }
            // One for each segment: who knows the same of one has the same bytes.
            let attestation = Attestation::new(vec![*cid]);
            let signed = envelope::sign(&self.recovery.identity, attestation)?;
            let block = Block::new(Codec::DagCbor, signed.bytes.clone());
            if self.archive.is_pinned(&kept, block.cid())? || statements.contains(&block) {
                continue;
            }
            self.recovery.conflicts().attest(&signed, |_| Standing::Trusted);
            statements.push(block);
        }
        self.keep_statements(collection, statements)
    }

    /// Attests to all own segments in a conflict: a crash may have come between.
    pub(super) fn attest_all(&self) -> anyhow::Result<()> {
        let contested: Vec<_> = {
            let conflicts = self.recovery.conflicts();
            let pairs = conflicts.iter().map(|conflict| {
                let (first, second) = conflict.pair();
                (conflict.series.collection.clone(), [first, second])
            });
            pairs.collect()
        };
        for (collection, pair) in contested {
            self.attest(&collection, &pair)?;
        }
        Ok(())
    }

    /// Takes in statements about a collection that came from a peer. Those that bear on nothing here are not kept.
    pub(super) fn take_statements(
        &self,
        collection: &str,
        blocks: Vec<Block>,
    ) -> anyhow::Result<Taken> {
        let mut taken = Taken::default();
        let kept = Pin::statements(collection);
        let known = self.archive.catalog(&kept)?.map_or(0, |root| root.count);
        let mut room = STATEMENTS_MAX.saturating_sub(known);
        let (mut new, mut refused) = (Vec::new(), 0);
        for block in blocks {
            if self.archive.is_pinned(&kept, block.cid())? {
                continue;
            }
            let statement = match Statement::open(block.bytes()) {
                Ok(statement) => statement,
                Err(cause) => {
                    refused += 1;
                    taken.forged += usize::from(cause == OpenError::Signature);
                    continue;
                }
            };
            if !self.may_state(statement.signer()) {
                refused += 1;
                continue;
            }
            if room == 0 {
                self.report(
                    "statements",
                    format!("there are {STATEMENTS_MAX} statements about {collection}, and no more are taken"),
                );
                break;
            }
            let mut conflicts = self.recovery.conflicts();
            if statement.bears_on(&conflicts, collection) {
                match statement.count(&mut conflicts) {
                    Ok(()) => {
                        room -= 1;
                        new.push(block);
                    }
                    Err(cause) => {
                        tracing::debug!(%cause, "a statement does not count");
                        refused += 1;
                    }
                }
            }
        }
        taken.new = new.len();
        self.keep_statements(collection, new)?;
        self.recovery.count(|counts| {
            counts.statements += taken.new as u64;
            counts.statements_refused += refused;
        });
        Ok(taken)
    }

    /// Returns those of these statements that are in a catalog of this node, with its word that they were checked. They were before
    /// they got there, and are again before this node says so: what is in an archive by other ways binds nobody.
    pub(super) fn vouched_statements(&self, cids: &[Cid]) -> anyhow::Result<CatalogsResponse> {
        let collections = self.engine.collections()?;
        let pins: Vec<_> =
            collections.iter().map(|spec| Pin::statements(spec.name.as_str())).collect();
        let mut kept = Vec::new();
        for cid in cids {
            for pin in &pins {
                if self.archive.is_pinned(pin, cid)? {
                    kept.extend(self.stored_block(cid)?.map(Block::into_bytes));
                    break;
                }
            }
        }
        let network = self.config.network.name.as_str();
        let (statements, passed) = match Passed::new(network, kept) {
            Some((statements, passed)) => {
                let signed = envelope::sign(&self.recovery.identity, passed)?;
                (statements, Some(ByteBuf::from(signed.bytes)))
            }
            None => (Vec::new(), None),
        };
        let statements = statements.into_iter().map(ByteBuf::from).collect();
        Ok(CatalogsResponse::Statements { statements, passed })
    }

    /// Returns whether what a peer says about private segments is heard.
    fn may_state(&self, peer: &PeerId) -> bool {
        *peer == self.network.local_peer() || self.config.network.own_peers.contains(peer)
    }

    /// Keeps statements and what they changed, durably.
    fn keep_statements(&self, collection: &str, statements: Vec<Block>) -> anyhow::Result<()> {
        let pin = Pin::statements(collection);
        let objects: Vec<_> =
            statements.into_iter().map(|block| Object::leaf(pin.clone(), block)).collect();
        // Held over the write, so that no record is older than what is on disk.
        let mut conflicts = self.recovery.conflicts();
        let records: Vec<NamedRecord> = std::iter::from_fn(|| conflicts.next_changed())
            .map(|changed| (changed.name, changed.record))
            .collect();
        if objects.is_empty() && records.is_empty() {
            return Ok(());
        }
        let stored = self.archive.put_statements(collection, &objects, &records);
        if stored.is_err()
            && let Ok(kept) = restored(&self.archive)
        {
            *conflicts = kept;
        }
        Ok(stored?)
    }
}

impl Statement {
    fn open(bytes: &[u8]) -> Result<Self, OpenError> {
        match envelope::open::<Attestation>(bytes) {
            Err(OpenError::Type { found, .. }) if found == Decision::TYPE => {
                envelope::open(bytes).map(Self::Decision)
            }
            attestation => attestation.map(Self::Attestation),
        }
    }

    fn signer(&self) -> &PeerId {
        match self {
            Self::Attestation(signed) => &signed.signer,
            Self::Decision(signed) => &signed.signer,
        }
    }

    /// Returns whether it is about a conflict of this collection that is known here.
    fn bears_on(&self, conflicts: &Conflicts, collection: &str) -> bool {
        match self {
            Self::Attestation(signed) => signed.value.segments().iter().any(|cid| {
                conflicts.of(cid).any(|conflict| conflict.series.collection == collection)
            }),
            Self::Decision(signed) => conflicts
                .get(&signed.value.pair())
                .is_some_and(|conflict| conflict.series.collection == collection),
        }
    }

    /// Has it count, as far as nothing newer was said.
    fn count(self, conflicts: &mut Conflicts) -> Result<(), StatementError> {
        match self {
            // Whoever is quarantined now counts nothing in answers, and counts again when that ends.
            Self::Attestation(signed) => {
                conflicts.attest(&signed, |_| Standing::Trusted);
            }
            Self::Decision(signed) => {
                // The latest one counts, so that none may be dated further ahead than clocks are off.
                let issued = signed.value.issued();
                if issued.0 > clock::now().0.saturating_add(CLOCK_SLACK_MS) {
                    return Err(StatementError::Future { issued });
                }
                conflicts.decide(signed, |_| true)?;
            }
        }
        Ok(())
    }
}

/// Why a statement does not count.
#[derive(Debug, thiserror::Error)]
enum StatementError {
    #[error("a decision of {issued}, which has not come yet")]
    Future { issued: UnixMillis },
    #[error(transparent)]
    Conflict(#[from] ConflictError),
}
