//! What a peer signs with statements of others that it hands on: that somebody signed each of them.
//!
//! A block by its CID may be anything, and whoever serves it promises nothing about it ([`Served`]). Whoever hands on statements as
//! such promises more: it has checked them. So it signs for them under another type, by which no answer of the one kind can be shown
//! as one of the other; and [`Passed`] cannot be made of a statement that nobody signed. What convicts is a signature that is not
//! that of the key it names, which everybody finds with the same few lines of code (`dunlin_wire::envelope`), and nothing that takes
//! knowing what a statement says.

use dunlin_wire::{
    block::{Codec, cid_of},
    envelope::{self, OpenError, Payload},
};
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};

use crate::{
    proof::STATEMENT_BYTES_MAX,
    served::{Place, SentObject, Served, path_to},
};

/// What a peer signs with statements that it hands on in a network: which, and that it has checked them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Passed(Served);

impl Passed {
    /// Returns those of these envelopes that are signed by the keys they name, in their order, with the statement about them. Nobody
    /// has signed that yet. There is none about no envelope, nor about more than [`crate::SERVED_OBJECTS_MAX`].
    #[must_use]
    pub fn new(network: &str, mut envelopes: Vec<Vec<u8>>) -> Option<(Vec<Vec<u8>>, Self)> {
        envelopes.retain(|one| envelope::signer(one, STATEMENT_BYTES_MAX).is_ok());
        let passed = Self(Served::new(network, &sent(&envelopes))?);
        Some((envelopes, passed))
    }

    /// Returns whether it is about these envelopes, in this order and network.
    #[must_use]
    pub fn is_about(&self, network: &str, envelopes: &[impl AsRef<[u8]>]) -> bool {
        self.0.is_about(network, &sent(envelopes))
    }

    /// Returns whether it says that an envelope was checked that nobody signed.
    pub(crate) fn convicts(&self, network: &str, forged: &ForgedStatement) -> bool {
        let place = Place { at: forged.at, path: &forged.path };
        is_forged(&forged.envelope) && self.0.has(network, &one_sent(&forged.envelope), &place)
    }
}

impl Payload for Passed {
    const TYPE: &'static str = "dunlin/passed/1";
    const BYTES_MAX: usize = Served::BYTES_MAX;
}

/// An envelope that nobody signed, and what shows that it was among those that a peer signed for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgedStatement {
    at: u16,
    envelope: ByteBuf,
    /// The hashes beside it, from its leaf up.
    path: Vec<ByteArray<32>>,
}

impl ForgedStatement {
    /// Returns the first of these envelopes that nobody signed, if there is one.
    #[must_use]
    pub fn first_of(envelopes: &[impl AsRef<[u8]>]) -> Option<Self> {
        let at = envelopes.iter().position(|one| is_forged(one.as_ref()))?;
        let path = path_to(&sent(envelopes), at);
        let envelope = ByteBuf::from(envelopes[at].as_ref());
        Some(Self { at: u16::try_from(at).ok()?, envelope, path })
    }
}

/// Returns whether this is an envelope with a signature that is not that of the key it names. Other bytes are none, and may be an
/// envelope to nodes of another version.
#[must_use]
pub fn is_forged(envelope: &[u8]) -> bool {
    envelope::signer(envelope, STATEMENT_BYTES_MAX) == Err(OpenError::Signature)
}

fn sent(envelopes: &[impl AsRef<[u8]>]) -> Vec<SentObject> {
    envelopes.iter().map(|one| one_sent(one.as_ref())).collect()
}

/// Returns an envelope as the block that it is.
fn one_sent(envelope: &[u8]) -> SentObject {
    SentObject::whole(cid_of(Codec::DagCbor, envelope), envelope)
}
