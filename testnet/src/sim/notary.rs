//! Keys and signatures of a simulated network.
//!
//! Signatures are real, and take most of the time of a run. So each signed object is verified once, by the code
//! that a node verifies it with, and what that said is remembered under the sha2-256 of its bytes: verifying is a
//! function of the bytes alone, and the same bytes come to every node. Whether a signature then counts, every node
//! decides for itself, by what it knows.
//!
//! The notary also remembers what was truly signed, so that an invariant can tell what was forged without
//! asking the code under test.

use std::{
    any::Any,
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use dunlin_protocols::{
    Keypair, PeerId, messages::SegmentAnnouncement, messages::TemplateAnnouncement,
};
use dunlin_trust::{EndorsementError, Endorsements, Extension, Head, Kind, License, Proof, Proven};
use dunlin_wire::{
    cbor,
    envelope::{self, OpenError, Payload, Signed},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The sha2-256 of some bytes.
pub(super) type Hash = [u8; 32];

/// Statements that nodes know to contradict each other.
const KINDS: [Kind; 2] = [Kind::of::<SegmentAnnouncement>(), Kind::of::<TemplateAnnouncement>()];

/// The network that answers are signed in.
pub(super) const NETWORK: &str = "sim";

/// Keys that were made, for all runs in this process: a key depends on its number alone.
static KEYS: Mutex<Vec<Keypair>> = Mutex::new(Vec::new());

/// Returns the first `count` keys.
pub(super) fn keys(count: usize) -> Vec<Keypair> {
    let mut keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner);
    while keys.len() < count {
        let number = keys.len();
        keys.push(key(&format!("peer {number}")));
    }
    keys[..count].to_vec()
}

/// Licenses that were made, for all runs in this process: they depend on the key and on when runs begin.
static LICENSES: Mutex<Vec<Endorsements>> = Mutex::new(Vec::new());

/// Returns the first `count` licenses; `make` makes the one of a number.
pub(super) fn licenses(count: usize, make: impl Fn(usize) -> Endorsements) -> Vec<Endorsements> {
    let mut licenses = LICENSES.lock().unwrap_or_else(PoisonError::into_inner);
    while licenses.len() < count {
        let number = licenses.len();
        licenses.push(make(number));
    }
    licenses[..count].to_vec()
}

/// Returns the key of a name.
pub(super) fn key(name: &str) -> Keypair {
    let secret: [u8; 32] = Sha256::digest(format!("dunlin simulator {name}")).into();
    Keypair::ed25519_from_bytes(secret).expect("any 32 bytes are an Ed25519 key")
}

pub(super) fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

type Verdicts = HashMap<(&'static str, Hash), Arc<dyn Any + Send + Sync>>;

/// Who signs, verifies and remembers.
#[derive(Default)]
pub(super) struct Notary {
    genuine: BTreeSet<Hash>,
    /// Envelopes whose signature does not verify.
    bad: BTreeSet<Hash>,
    verdicts: Verdicts,
    /// What licenses say, by the number of their peer.
    licenses: HashMap<usize, Option<(License, Vec<PeerId>)>>,
    /// What disks of many nodes hold.
    shared: HashMap<Hash, Weak<[u8]>>,
    /// When what nobody holds any more is dropped from `shared`.
    shared_max: usize,
}

impl std::fmt::Debug for Notary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notary").field("genuine", &self.genuine.len()).finish_non_exhaustive()
    }
}

impl Notary {
    /// Signs a statement.
    pub(super) fn sign<T: Payload>(&mut self, keypair: &Keypair, value: T) -> Arc<[u8]> {
        let signed = envelope::sign(keypair, value).expect("statements of the simulator fit");
        self.genuine.insert(hash(&signed.bytes));
        signed.bytes.into()
    }

    /// Remembers bytes as made by those who may.
    pub(super) fn vouch(&mut self, bytes: &[u8]) {
        self.genuine.insert(hash(bytes));
    }

    /// Returns whether bytes were made by those who may.
    pub(super) fn is_genuine(&self, hash: &Hash) -> bool {
        self.genuine.contains(hash)
    }

    /// As [`envelope::open`].
    pub(super) fn open<T>(&mut self, hash: &Hash, bytes: &[u8]) -> Result<Signed<T>, OpenError>
    where
        T: Payload + Clone + Send + Sync + 'static,
    {
        let key = (T::TYPE, *hash);
        if let Some(known) =
            self.verdicts.get(&key).and_then(|known| known.downcast_ref::<Signed<T>>())
        {
            return Ok(known.clone());
        }
        if self.bad.contains(hash) {
            return Err(OpenError::Signature);
        }
        let opened = envelope::open::<T>(bytes);
        match &opened {
            Ok(signed) => drop(self.verdicts.insert(key, Arc::new(signed.clone()))),
            Err(OpenError::Signature) => {
                self.bad.insert(*hash);
            }
            Err(_) => {}
        }
        opened
    }

    /// As [`Proof::verify`], of its bytes.
    pub(super) fn prove(&mut self, hash: &Hash, bytes: &[u8]) -> Option<Proven> {
        let key = ("proof", *hash);
        if let Some(known) =
            self.verdicts.get(&key).and_then(|known| known.downcast_ref::<Proven>())
        {
            return Some(*known);
        }
        let proven = Proof::decode(bytes).ok()?.verify(NETWORK, &KINDS).ok()?;
        self.verdicts.insert(key, Arc::new(proven));
        Some(proven)
    }

    /// As [`Endorsements::open`], of the head of a log.
    pub(super) fn head(
        &mut self,
        extension: &Extension,
    ) -> Result<(Head, Vec<PeerId>), EndorsementError> {
        let envelopes: Vec<_> = extension.head().envelopes().collect();
        let key = ("head", hash(&envelopes.concat()));
        let known = self.verdicts.get(&key).and_then(|known| known.downcast_ref());
        if let Some(known) = known {
            return Ok(Clone::clone(known));
        }
        let opened = extension.head().open::<Head>()?;
        self.verdicts.insert(key, Arc::new(opened.clone()));
        Ok(opened)
    }

    /// As [`Endorsements::open`], of the license of a peer.
    pub(super) fn license(
        &mut self,
        peer: usize,
        signed: &Endorsements,
    ) -> Option<(&License, &[PeerId])> {
        let opened = self.licenses.entry(peer).or_insert_with(|| signed.open::<License>().ok());
        opened.as_ref().map(|(license, signers)| (license, signers.as_slice()))
    }

    /// Returns the bytes in the one allocation of all who hold the same.
    pub(super) fn shared(&mut self, bytes: Vec<u8>) -> Arc<[u8]> {
        let name = hash(&bytes);
        if let Some(known) = self.shared.get(&name).and_then(Weak::upgrade) {
            return known;
        }
        if self.shared.len() > self.shared_max {
            self.shared.retain(|_, held| held.strong_count() > 0);
            self.shared_max = 2 * self.shared.len() + 1_024;
        }
        let bytes: Arc<[u8]> = bytes.into();
        self.shared.insert(name, Arc::downgrade(&bytes));
        bytes
    }
}

/// Returns what an envelope says and whom it names, without looking at the signature: what a node with
/// [`super::Bug::SkipSignature`] believes.
pub(super) fn open_blindly<T: Payload>(bytes: &[u8]) -> Option<Signed<T>> {
    let envelope: Envelope = cbor::decode(bytes, 1 << 16).ok()?;
    let key: [u8; 32] = envelope.key.try_into().ok()?;
    // An Ed25519 key is a peer id in full, behind six bytes that say so.
    let id = [&[0x00, 0x24, 0x08, 0x01, 0x12, 0x20][..], &key].concat();
    let value = cbor::decode(&envelope.payload, T::BYTES_MAX).ok()?;
    Some(Signed { signer: PeerId::from_bytes(&id).ok()?, value, bytes: bytes.to_vec() })
}

/// Returns an envelope with another signature than the one that was made.
pub(super) fn forge(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut envelope: Envelope = cbor::decode(bytes, 1 << 16).ok()?;
    *envelope.signature.first_mut()? ^= 1;
    cbor::encode(&envelope).ok()
}

/// An envelope, as `docs/formats/messages.md` describes it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    #[serde(with = "serde_bytes")]
    key: Vec<u8>,
    #[serde(with = "serde_bytes")]
    payload: Vec<u8>,
    payload_type: String,
    #[serde(with = "serde_bytes")]
    signature: Vec<u8>,
    version: u8,
}
