//! All revocations that this node knows: checked, kept, told to others.
//!
//! What arrives is checked by [`Revocations::check_extension`] or [`Revocations::check_withdrawal`], which
//! change nothing; the shell writes [`Pending::record`] to disk, and then [`Revocations::apply`] makes it
//! count. So nothing is acted on that a crash could make this node forget. Nothing here removes a key.

use std::collections::BTreeMap;

use dunlin_wire::{
    cbor, envelope,
    envelope::{OpenError, Signed},
};
use libp2p_identity::{Keypair, PeerId};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256};

use crate::{
    authorities::{Authorities, EndorsementError, Endorsements},
    revocation::{
        Chain, Extension, Head, LOG_KEYS_MAX, Subject, Withdrawal,
        log::{Log, SignedHead},
        set::SubjectSet,
        sync::{LOGS_MAX, SyncAnswer, SyncRequest},
    },
    time::UnixMillis,
};

/// Most withdrawals that are kept, about 20 MiB.
pub const WITHDRAWALS_MAX: usize = 65_536;

/// Most withdrawals while they are of keys that this node has not met: anyone can make keys and withdraw them.
pub const UNKNOWN_WITHDRAWALS_MAX: usize = 4_096;

/// Largest record: a whole log.
const RECORD_BYTES_MAX: usize = 4 << 20;

/// Whether this node has dealt with a key before it was withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquaintance {
    /// It has a record that says more than that somebody came by, or a license.
    Known,
    /// It could have been made for this alone.
    Unknown,
}

/// Every key that is revoked, and the proof of it.
#[derive(Clone, Debug)]
pub struct Revocations {
    authorities: Option<Authorities>,
    logs: Vec<Log>,
    withdrawals: BTreeMap<Subject, Held>,
    set: SubjectSet,
    digest: [u8; 32],
}

#[derive(Clone, Debug)]
struct Held {
    bytes: Vec<u8>,
    stands_by: Option<Chain>,
}

/// A revocation that was checked and does not count yet.
#[derive(Clone, Debug)]
pub struct Pending(Change);

#[derive(Clone, Debug)]
enum Change {
    Log { log: Box<Log>, extension: Extension },
    Withdrawal { subject: Subject, held: Held },
}

/// A record on disk. Maps of one key tell them apart.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Record {
    Extension(Extension),
    Withdrawal(ByteBuf),
}

/// By what rules a statement is judged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Somebody says so now: who was revoked in the meantime counts no more.
    Told,
    /// It was accepted once: what stood then stands.
    Stored,
}

impl Revocations {
    /// Returns no revocations yet. Without authorities, keys can only revoke themselves.
    #[must_use]
    pub fn new(authorities: Option<Authorities>) -> Self {
        let mut revocations = Self {
            authorities,
            logs: Vec::new(),
            withdrawals: BTreeMap::new(),
            set: SubjectSet::default(),
            digest: [0; 32],
        };
        revocations.digest = revocations.current_digest();
        revocations
    }

    /// Takes in a record that [`Pending::record`] or [`Self::snapshot`] made.
    ///
    /// # Errors
    ///
    /// Fails when it is damaged, or was made under other authorities. The others stay valid.
    pub fn restore(&mut self, record: &[u8]) -> Result<(), RevocationError> {
        let pending = match cbor::decode(record, RECORD_BYTES_MAX)? {
            Record::Extension(extension) => {
                let opened = extension.head.open::<Head>()?;
                self.check_log(extension, opened, Origin::Stored)?
            }
            Record::Withdrawal(bytes) => {
                self.check_own(envelope::open::<Withdrawal>(&bytes)?, WITHDRAWALS_MAX)?
            }
        };
        if let Some(pending) = pending {
            self.apply(pending);
        }
        Ok(())
    }

    /// Returns records that make all of this again, shorter than the sum of what was applied.
    pub fn snapshot(&self) -> impl Iterator<Item = Vec<u8>> {
        let logs = self.logs.iter().filter_map(|log| log.extension_after(0)).map(Record::Extension);
        let withdrawals =
            self.withdrawals.values().map(|held| Record::Withdrawal(held.bytes.clone().into()));
        logs.chain(withdrawals).map(|record| record.encode())
    }

    /// Returns whether a peer is revoked.
    #[must_use]
    pub fn is_revoked(&self, peer: &PeerId) -> bool {
        self.set.len() > 0 && self.set.contains(&Subject::of(peer))
    }

    /// As [`Self::is_revoked`], of a key.
    pub(crate) fn holds(&self, subject: &Subject) -> bool {
        self.set.len() > 0 && self.set.contains(subject)
    }

    /// Returns the keys that are revoked, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = Subject> {
        self.set.iter()
    }

    /// Returns how many keys are revoked.
    #[must_use]
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Returns whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.len() == 0
    }

    /// Returns the authorities of the network, of which open ones have none.
    #[must_use]
    pub fn authorities(&self) -> Option<&Authorities> {
        self.authorities.as_ref()
    }

    /// Returns a short name for all that this node can prove to others. Who has the same has nothing to tell.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Checks keys that authorities revoked; `None` when all of it is known.
    ///
    /// # Errors
    ///
    /// Says what is wrong. At [`RevocationError::Gap`] a [sync](Self::sync_request) helps.
    pub fn check_extension(
        &self,
        extension: Extension,
    ) -> Result<Option<Pending>, RevocationError> {
        let opened = extension.head.open::<Head>()?;
        self.check_opened_extension(extension, opened)
    }

    /// As [`Self::check_extension`], with what [`Endorsements::open`] said of its [head](Extension::head).
    ///
    /// # Errors
    ///
    /// As [`Self::check_extension`].
    pub fn check_opened_extension(
        &self,
        extension: Extension,
        opened: (Head, Vec<PeerId>),
    ) -> Result<Option<Pending>, RevocationError> {
        self.check_log(extension, opened, Origin::Told)
    }

    /// Checks the envelope of a key's own [`Withdrawal`]; `None` when the key is withdrawn already.
    ///
    /// # Errors
    ///
    /// Says what is wrong, or that there is no room for it.
    pub fn check_withdrawal(
        &self,
        bytes: &[u8],
        acquaintance: Acquaintance,
    ) -> Result<Option<Pending>, RevocationError> {
        self.check_opened_withdrawal(envelope::open::<Withdrawal>(bytes)?, acquaintance)
    }

    /// As [`Self::check_withdrawal`], of an envelope that was opened.
    ///
    /// # Errors
    ///
    /// As [`Self::check_withdrawal`].
    pub fn check_opened_withdrawal(
        &self,
        signed: Signed<Withdrawal>,
        acquaintance: Acquaintance,
    ) -> Result<Option<Pending>, RevocationError> {
        let most = match acquaintance {
            Acquaintance::Known => WITHDRAWALS_MAX,
            Acquaintance::Unknown => UNKNOWN_WITHDRAWALS_MAX,
        };
        self.check_own(signed, most)
    }

    /// Makes a checked revocation count; returns the keys that were not revoked before.
    ///
    /// # Durability
    ///
    /// The shell has written [`Pending::record`], and waited until it is on disk.
    pub fn apply(&mut self, pending: Pending) -> Vec<Subject> {
        let new = match pending.0 {
            Change::Log { log, extension } => {
                let keys = log.keys();
                self.logs.retain(|other| !other.is_part_of(&keys));
                self.logs.push(*log);
                self.logs.sort_by_key(Log::chain);
                self.set.extend(&extension.subjects().unwrap_or_default())
            }
            Change::Withdrawal { subject, held } => {
                self.withdrawals.entry(subject).or_insert(held);
                self.set.extend(&[subject])
            }
        };
        self.digest = self.current_digest();
        new
    }

    /// Returns what to tell a peer whose digest is another.
    #[must_use]
    pub fn sync_request(&self) -> SyncRequest {
        SyncRequest::new(self.provable(), self.withdrawals.keys())
    }

    /// Returns what the asking peer lacks, in about `bytes_max` bytes, but at least one statement.
    #[must_use]
    pub fn sync_answer(&self, request: &SyncRequest, bytes_max: usize) -> SyncAnswer {
        let mut answer = SyncAnswer::default();
        let mut bytes = 0;
        let mut fits = |size: usize| {
            let is_first = bytes == 0;
            bytes += size;
            is_first || bytes <= bytes_max
        };
        let mut extensions: Vec<_> =
            self.provable().filter_map(|log| request.missing_of(log)).collect();
        // Whole logs last: one of them may take the place of what another continues.
        let start = self.authorities.as_ref().map(|all| Chain::start(all.network()));
        extensions.sort_by_key(|extension| Some(extension.after) == start);
        for extension in extensions {
            if !fits(extension.keys.len() + 4_096) {
                answer.is_partial = true;
                return answer;
            }
            answer.extensions.push(extension);
        }
        let lacks = request.lacks(self.withdrawals.keys());
        for (_, held) in self.withdrawals.iter().filter(|(subject, _)| lacks(subject)) {
            if !fits(held.bytes.len() + 8) {
                answer.is_partial = true;
                return answer;
            }
            answer.withdrawals.push(held.bytes.clone().into());
        }
        answer
    }

    /// Returns what authorities sign to revoke more keys: the longest log that has room for them, with all
    /// that other logs have, too, as far as there is room.
    ///
    /// # Errors
    ///
    /// Fails in a network without authorities, and with too many keys at once.
    pub fn draft(&self, peers: &[PeerId], issued: UnixMillis) -> Result<Draft, RevocationError> {
        let authorities = self.authorities.as_ref().ok_or(RevocationError::NoAuthorities)?;
        let network = authorities.network();
        let asked: Vec<_> = peers.iter().map(Subject::of).collect();
        if asked.len() > LOG_KEYS_MAX {
            return Err(RevocationError::TooMany { keys: asked.len() });
        }
        let log =
            self.logs.iter().filter(|log| log.room() >= asked.len()).max_by_key(|log| log.len());
        let base = log.map_or(&[][..], Log::subjects);
        let mut known = SubjectSet::default();
        known.extend(base);
        let mut keys = known.extend(&asked);
        for other in &self.logs {
            let more = known.extend(other.subjects());
            if base.len() + keys.len() + more.len() <= LOG_KEYS_MAX {
                keys.extend(more);
            }
        }
        let after = log.map_or_else(|| Chain::start(network), Log::chain);
        let chain = keys.iter().fold(after, Chain::then);
        let head = Head::new(network, (base.len() + keys.len()) as u64, chain, issued);
        Ok(Draft { after, keys: keys.iter().flat_map(|key| key.0).collect(), head })
    }

    /// Returns the newest log that an authority signed: what its [`Withdrawal`] stands by.
    #[must_use]
    pub fn signed_by(&self, authority: &PeerId) -> Option<Chain> {
        let signed = self.logs.iter().filter(|log| log.signers().contains(authority));
        signed.max_by_key(|log| log.len()).map(Log::chain)
    }

    fn check_log(
        &self,
        extension: Extension,
        (head, signers): (Head, Vec<PeerId>),
        origin: Origin,
    ) -> Result<Option<Pending>, RevocationError> {
        let authorities = self.authorities.as_ref().ok_or(RevocationError::NoAuthorities)?;
        let network = authorities.network();
        let subjects = extension.subjects().ok_or(RevocationError::Keys)?;
        if !head.is_of(network) {
            return Err(RevocationError::OtherNetwork);
        }
        let count = usize::try_from(head.count).ok().filter(|count| *count <= LOG_KEYS_MAX);
        let base = count.and_then(|count| count.checked_sub(subjects.len()));
        let (Some(count), Some(base)) = (count, base) else { return Err(RevocationError::Chain) };
        if self.logs.iter().any(|log| log.chain_at(count) == Some(head.chain)) {
            return Ok(None);
        }
        let signed = SignedHead { head: extension.head.clone(), signers: signers.clone() };
        let log = if base == 0 && extension.after == Chain::start(network) {
            Log::begin(network, &subjects, signed)
        } else {
            let known = self.logs.iter().find(|log| log.chain_at(base) == Some(extension.after));
            known.ok_or(RevocationError::Gap)?.fork(base, &subjects, signed)
        };
        if log.chain() != head.chain {
            return Err(RevocationError::Chain);
        }
        let counts = |signer: &PeerId| match origin {
            Origin::Told => self.counts_for(&log, signer),
            Origin::Stored => true,
        };
        authorities.agree(&signers, counts)?;
        let is_known = subjects.iter().all(|subject| self.set.contains(subject));
        if is_known && self.logs.iter().any(|other| log.is_part_of(&other.keys())) {
            return Ok(None);
        }
        let keys = log.keys();
        let kept = self.logs.iter().filter(|other| !other.is_part_of(&keys)).count();
        if kept >= LOGS_MAX {
            return Err(RevocationError::Logs);
        }
        Ok(Some(Pending(Change::Log { log: Box::new(log), extension })))
    }

    fn check_own(
        &self,
        signed: Signed<Withdrawal>,
        most: usize,
    ) -> Result<Option<Pending>, RevocationError> {
        if !signed.value.is_known() {
            return Err(RevocationError::Version);
        }
        let subject = Subject::of(&signed.signer);
        if self.withdrawals.contains_key(&subject) {
            return Ok(None);
        }
        if self.withdrawals.len() >= most {
            return Err(RevocationError::Full { kept: self.withdrawals.len() });
        }
        let held = Held { bytes: signed.bytes, stands_by: signed.value.stands_by };
        Ok(Some(Pending(Change::Withdrawal { subject, held })))
    }

    /// Returns whether an authority's signature under a log counts: it does not when the log itself revokes
    /// the authority, nor when it was revoked otherwise, unless it still stands by this very log.
    fn counts_for(&self, log: &Log, signer: &PeerId) -> bool {
        let subject = Subject::of(signer);
        let stands_by = self.withdrawals.get(&subject).and_then(|held| held.stands_by);
        let is_revoked = self.set.contains(&subject) && stands_by != Some(log.chain());
        !is_revoked && !log.subjects().contains(&subject)
    }

    /// Returns the logs that others can verify, too. One whose signers were revoked since stands here, and
    /// is told to nobody until authorities that count sign its keys again.
    fn provable(&self) -> impl Iterator<Item = &Log> {
        self.logs.iter().filter(|log| {
            let counts = |signer: &PeerId| self.counts_for(log, signer);
            self.authorities.as_ref().is_some_and(|all| all.agree(log.signers(), counts).is_ok())
        })
    }

    fn current_digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for log in self.provable() {
            hash.update(log.chain().as_bytes());
        }
        hash.update([0]);
        for subject in self.withdrawals.keys() {
            hash.update(subject.0);
        }
        hash.finalize().into()
    }
}

impl Pending {
    /// Returns the bytes that [`Revocations::restore`] takes.
    #[must_use]
    pub fn record(&self) -> Vec<u8> {
        let record = match &self.0 {
            Change::Log { extension, .. } => Record::Extension(extension.clone()),
            Change::Withdrawal { held, .. } => Record::Withdrawal(held.bytes.clone().into()),
        };
        record.encode()
    }

    /// Returns what to tell everybody at once, when it is one key's own withdrawal: its envelope.
    #[must_use]
    pub fn withdrawal(&self) -> Option<&[u8]> {
        match &self.0 {
            Change::Withdrawal { held, .. } => Some(&held.bytes),
            Change::Log { .. } => None,
        }
    }

    /// Returns what to tell everybody at once, when authorities revoked.
    #[must_use]
    pub fn extension(&self) -> Option<&Extension> {
        match &self.0 {
            Change::Log { extension, .. } => Some(extension),
            Change::Withdrawal { .. } => None,
        }
    }
}

impl Record {
    fn encode(&self) -> Vec<u8> {
        cbor::encode(self).expect("byte strings and lists have an encoding")
    }
}

/// Keys that are to be revoked, for authorities to sign one after another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    after: Chain,
    #[serde(with = "serde_bytes")]
    keys: Vec<u8>,
    head: Head,
}

impl Draft {
    /// Returns how many keys it adds to the log.
    #[must_use]
    pub fn added(&self) -> usize {
        self.keys.len() / 32
    }

    /// Returns whether a peer's key is one of those that it adds.
    #[must_use]
    pub fn adds(&self, peer: &PeerId) -> bool {
        let (keys, _) = self.keys.as_chunks::<32>();
        keys.contains(Subject::of(peer).as_bytes())
    }

    /// Returns what is signed.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Returns an authority's signature.
    ///
    /// # Errors
    ///
    /// Fails when the key is not Ed25519.
    pub fn sign(&self, authority: &Keypair) -> Result<Vec<u8>, envelope::SignError> {
        Ok(envelope::sign(authority, self.head.clone())?.bytes)
    }

    /// Returns the revocation with the signatures that were made.
    ///
    /// # Errors
    ///
    /// Fails when they are not of this draft. Whether they are enough is for each peer to check.
    pub fn signed(self, envelopes: Vec<Vec<u8>>) -> Result<Extension, EndorsementError> {
        let head = Endorsements::collect::<Head>(envelopes)?;
        if head.open::<Head>()?.0 != self.head {
            return Err(EndorsementError::Different);
        }
        Ok(Extension { after: self.after, keys: self.keys, head })
    }
}

/// Why a revocation does not count. Nothing was changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RevocationError {
    /// This network has no authorities.
    #[error("this network has no authorities")]
    NoAuthorities,
    /// It is about another network, or of a version that this build does not know.
    #[error("it is of another network or version")]
    OtherNetwork,
    /// A withdrawal of a version that this build does not know.
    #[error("a withdrawal of an unknown version")]
    Version,
    /// The signatures do not carry it.
    #[error(transparent)]
    Endorsement(#[from] EndorsementError),
    /// The envelope does not open.
    #[error(transparent)]
    Envelope(#[from] OpenError),
    /// The bytes are no record.
    #[error(transparent)]
    Decode(#[from] cbor::DecodeError),
    /// The keys are cut off or too many.
    #[error("the list of keys is cut off, or longer than {LOG_KEYS_MAX}")]
    Keys,
    /// The keys are not those that were signed.
    #[error("the keys are not those that the authorities signed")]
    Chain,
    /// Keys before these are missing here.
    #[error("keys before these are missing: ask for what was missed")]
    Gap,
    /// More logs than are kept.
    #[error("there are {LOGS_MAX} logs already: the authorities must put them together")]
    Logs,
    /// No room for more withdrawals.
    #[error("{kept} withdrawals are kept, and no more")]
    Full {
        /// How many.
        kept: usize,
    },
    /// More keys than a log takes.
    #[error("{keys} keys at once, but at most {LOG_KEYS_MAX}")]
    TooMany {
        /// How many.
        keys: usize,
    },
}
