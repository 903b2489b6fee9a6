//! Signed envelopes: who says this, and that nobody changed it.
//!
//! The signature covers a transcript of a domain, the payload's type and the payload, each with its
//! length in front, so a signature made for one type can never be shown as one for another. Keys and
//! signatures are Ed25519 (RFC 8032), verified strictly: small-order keys and other encodings of the
//! same signature are refused, because two valid byte strings for one statement would look like two
//! statements to everything that counts or compares them.

use libp2p_identity::{Keypair, PeerId, PublicKey, ed25519};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    cbor,
    limits::{ENVELOPE_OVERHEAD_BYTES_MAX, PAYLOAD_TYPE_BYTES_MAX},
};

/// Separates Dunlin's signatures from all others that the same key may make.
const DOMAIN: &[u8] = b"dunlin signed envelope";

/// The version of the envelope itself; payloads carry their own.
const VERSION: u8 = 1;

/// An object that is published under its author's signature.
pub trait Payload: Serialize + DeserializeOwned {
    /// The payload type that the signature covers: a path, at most [`PAYLOAD_TYPE_BYTES_MAX`] bytes.
    const TYPE: &'static str;
    /// Largest encoded payload, in bytes.
    const BYTES_MAX: usize;
}

/// A payload whose signature has been checked, with the envelope it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed<T> {
    /// The peer whose key signed it.
    pub signer: PeerId,
    /// What it says.
    pub value: T,
    /// The encoded envelope, to pass on unchanged.
    pub bytes: Vec<u8>,
}

/// Returns `value` signed by `keypair`.
///
/// # Errors
///
/// Fails when the key is not Ed25519, or the value has no encoding within [`Payload::BYTES_MAX`].
pub fn sign<T: Payload>(keypair: &Keypair, value: T) -> Result<Signed<T>, SignError> {
    const { assert!(T::TYPE.len() <= PAYLOAD_TYPE_BYTES_MAX) };
    let author = keypair.public().try_into_ed25519().map_err(|_| SignError::NotEd25519)?;
    let payload = cbor::encode(&value)?;
    if payload.len() > T::BYTES_MAX {
        return Err(SignError::TooLarge { bytes: payload.len(), bytes_max: T::BYTES_MAX });
    }
    let signature =
        keypair.sign(&transcript(T::TYPE, &payload)).map_err(|_| SignError::NotEd25519)?;
    let envelope = Envelope {
        key: author.to_bytes().to_vec(),
        payload,
        payload_type: T::TYPE.to_owned(),
        signature,
        version: VERSION,
    };
    let signer = keypair.public().to_peer_id();
    Ok(Signed { signer, value, bytes: cbor::encode(&envelope)? })
}

/// Returns the payload of an encoded envelope after checking everything about it but the payload's
/// own meaning.
///
/// # Errors
///
/// Fails when the envelope is too large, not canonical, of another type or version, or not signed by
/// the key it names.
pub fn open<T: Payload>(bytes: &[u8]) -> Result<Signed<T>, OpenError> {
    let envelope: Envelope = cbor::decode(bytes, T::BYTES_MAX + ENVELOPE_OVERHEAD_BYTES_MAX)?;
    if envelope.version != VERSION {
        return Err(OpenError::Version { version: envelope.version });
    }
    if envelope.payload_type != T::TYPE {
        return Err(OpenError::Type { expected: T::TYPE, found: envelope.payload_type });
    }
    let signer = envelope.verify().ok_or(OpenError::Signature)?;
    let value = cbor::decode(&envelope.payload, T::BYTES_MAX)?;
    Ok(Signed { signer, value, bytes: bytes.to_vec() })
}

/// Returns who signed an envelope of any type of at most `payload_bytes_max` bytes of payload, which is not looked
/// at. Whoever wants to know what is said asks [`open`].
///
/// # Errors
///
/// As [`open`], but for what it says of the type and the payload.
pub fn signer(bytes: &[u8], payload_bytes_max: usize) -> Result<PeerId, OpenError> {
    let envelope: Envelope = cbor::decode(bytes, payload_bytes_max + ENVELOPE_OVERHEAD_BYTES_MAX)?;
    if envelope.version != VERSION {
        return Err(OpenError::Version { version: envelope.version });
    }
    envelope.verify().ok_or(OpenError::Signature)
}

/// Why a value could not be signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The key pair is of a kind that Dunlin does not use.
    #[error("the signing key is not an Ed25519 key")]
    NotEd25519,
    /// The value has no DAG-CBOR encoding.
    #[error(transparent)]
    Encode(#[from] cbor::EncodeError),
    /// The encoded value is larger than anybody accepts.
    #[error("a payload of {bytes} bytes, but at most {bytes_max} are accepted")]
    TooLarge {
        /// How many bytes it has.
        bytes: usize,
        /// How many it may have.
        bytes_max: usize,
    },
}

/// Why an envelope was refused. Nothing in it may be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The envelope or its payload is not canonical DAG-CBOR of the expected type.
    #[error(transparent)]
    Decode(#[from] cbor::DecodeError),
    /// A version that this build does not know.
    #[error("envelope version {version}, but only {VERSION} is known")]
    Version {
        /// The version it claims.
        version: u8,
    },
    /// A valid envelope of something else.
    #[error("expected {expected}, found {found}")]
    Type {
        /// What was asked for.
        expected: &'static str,
        /// What it claims to hold.
        found: String,
    },
    /// The signature is not that of the key over this payload.
    #[error("the signature is not that of the key it names")]
    Signature,
}

/// The envelope as it travels.
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

impl Envelope {
    /// Returns the signer, when the signature is the key's over this payload and type.
    fn verify(&self) -> Option<PeerId> {
        let key: [u8; 32] = self.key.as_slice().try_into().ok()?;
        let signature = ed25519_dalek::Signature::from_slice(&self.signature).ok()?;
        ed25519_dalek::VerifyingKey::from_bytes(&key)
            .ok()?
            .verify_strict(&transcript(&self.payload_type, &self.payload), &signature)
            .ok()?;
        let key = ed25519::PublicKey::try_from_bytes(&key).ok()?;
        Some(PublicKey::from(key).to_peer_id())
    }
}

/// Returns the bytes that are signed: domain, type and payload, each behind its length.
fn transcript(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let parts = [DOMAIN, payload_type.as_bytes(), payload];
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len() + 8).sum());
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Note {
        text: String,
        version: u8,
    }

    impl Payload for Note {
        const TYPE: &'static str = "test/note/1";
        const BYTES_MAX: usize = 128;
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(transparent)]
    struct OtherNote(Note);

    impl Payload for OtherNote {
        const TYPE: &'static str = "test/other/1";
        const BYTES_MAX: usize = 128;
    }

    fn key(seed: u8) -> Keypair {
        Keypair::ed25519_from_bytes([seed; 32]).unwrap()
    }

    fn note(text: &str) -> Note {
        Note { text: text.to_owned(), version: 1 }
    }

    #[test]
    fn an_envelope_names_its_signer_and_returns_its_payload() {
        let signed = sign(&key(1), note("regime 7")).unwrap();
        assert_eq!(open::<Note>(&signed.bytes).unwrap(), signed);
        assert_eq!(signed.signer, key(1).public().to_peer_id());
    }

    #[test]
    fn the_signer_is_known_without_the_type() {
        let signed = sign(&key(1), note("x")).unwrap();
        assert_eq!(signer(&signed.bytes, Note::BYTES_MAX), Ok(signed.signer));
        let mut damaged: Envelope = cbor::decode(&signed.bytes, 1024).unwrap();
        damaged.signature[0] ^= 1;
        let damaged = cbor::encode(&damaged).unwrap();
        assert_eq!(signer(&damaged, Note::BYTES_MAX), Err(OpenError::Signature));
        assert!(matches!(signer(b"x", Note::BYTES_MAX), Err(OpenError::Decode(_))));
    }

    #[test]
    fn an_envelope_of_one_type_is_not_one_of_another() {
        let signed = sign(&key(1), note("x")).unwrap();
        assert!(matches!(open::<OtherNote>(&signed.bytes), Err(OpenError::Type { .. })));
        // Nor does renaming the type inside help: the signature covers it.
        let mut envelope: Envelope = cbor::decode(&signed.bytes, 1024).unwrap();
        envelope.payload_type = OtherNote::TYPE.to_owned();
        let renamed = cbor::encode(&envelope).unwrap();
        assert_eq!(open::<OtherNote>(&renamed), Err(OpenError::Signature));
    }

    #[test]
    fn another_key_cannot_claim_the_payload() {
        let signed = sign(&key(1), note("x")).unwrap();
        let mut envelope: Envelope = cbor::decode(&signed.bytes, 1024).unwrap();
        envelope.key = key(2).public().try_into_ed25519().unwrap().to_bytes().to_vec();
        let stolen = cbor::encode(&envelope).unwrap();
        assert_eq!(open::<Note>(&stolen), Err(OpenError::Signature));
    }

    #[test]
    fn a_small_order_key_signs_nothing() {
        // With the neutral element as key, (R = neutral, s = 0) passes the cofactored equation for
        // every message; strict verification refuses the key.
        let mut neutral = vec![0; 32];
        neutral[0] = 1;
        let mut signature = neutral.clone();
        signature.extend_from_slice(&[0; 32]);
        let envelope = Envelope {
            key: neutral,
            payload: cbor::encode(&note("x")).unwrap(),
            payload_type: Note::TYPE.to_owned(),
            signature,
            version: VERSION,
        };
        let forged = cbor::encode(&envelope).unwrap();
        assert_eq!(open::<Note>(&forged), Err(OpenError::Signature));
    }

    #[test]
    fn sizes_and_versions_are_checked() {
        let long = "x".repeat(Note::BYTES_MAX);
        assert!(matches!(sign(&key(1), note(&long)), Err(SignError::TooLarge { .. })));
        let signed = sign(&key(1), note("x")).unwrap();
        let mut envelope: Envelope = cbor::decode(&signed.bytes, 1024).unwrap();
        envelope.version = 2;
        let newer = cbor::encode(&envelope).unwrap();
        assert_eq!(open::<Note>(&newer), Err(OpenError::Version { version: 2 }));
    }

    proptest! {
        #[test]
        fn a_damaged_envelope_never_opens(text in "[a-z]{0,64}", at in any::<prop::sample::Index>(), flip in 1u8..) {
            let mut bytes = sign(&key(1), note(&text)).unwrap().bytes;
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(open::<Note>(&bytes).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>()) {
            prop_assert!(open::<Note>(&bytes).is_err());
        }
    }
}
