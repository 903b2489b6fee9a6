//! Keys: one secret of 32 bytes, and what is derived from it for each purpose.

use std::{fmt, str::FromStr};

use chacha20poly1305::{
    AeadInPlace, KeyInit, Tag, XChaCha20Poly1305, XNonce, aead::generic_array::typenum::Unsigned,
};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Bytes of a key's secret.
pub const KEY_BYTES: usize = 32;

/// Bytes of a nonce.
pub(super) const NONCE_BYTES: usize = 24;

/// Bytes of the authentication tag behind what is encrypted.
pub(super) const TAG_BYTES: usize =
    <<XChaCha20Poly1305 as chacha20poly1305::AeadCore>::TagSize as Unsigned>::USIZE;

/// Bytes of a key's id.
pub(super) const ID_BYTES: usize = 16;

/// What each derived key is for. None of them tells anything about another, or about the secret.
const FOR_NONCES: &[u8] = b"dunlin sealed 1 nonce";
const FOR_BLOCKS: &[u8] = b"dunlin sealed 1 block";
const FOR_ID: &[u8] = b"dunlin sealed 1 key id";

/// The key that seals the segments of a collection, and opens them.
///
/// Memory is wiped when it is dropped, and `Debug` prints the id alone.
#[derive(Clone)]
pub struct SealingKey {
    secret: Zeroizing<[u8; KEY_BYTES]>,
    for_nonces: Zeroizing<[u8; KEY_BYTES]>,
    for_blocks: Zeroizing<[u8; KEY_BYTES]>,
    id: KeyId,
}

/// The public name of a key. It stands in every sealed root.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; ID_BYTES]);

impl SealingKey {
    /// Returns the key with this secret, which must be uniformly random.
    #[must_use]
    pub fn new(secret: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        // Uniform already, so there is nothing to extract with a salt.
        let source = Hkdf::<Sha256>::new(None, secret.as_slice());
        let mut id = [0; ID_BYTES];
        expand(&source, FOR_ID, &mut id);
        let (for_nonces, for_blocks) = (derive(&source, FOR_NONCES), derive(&source, FOR_BLOCKS));
        Self { secret, for_nonces, for_blocks, id: KeyId(id) }
    }

    /// Returns the key's public name.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// Returns the secret, to keep it or to hand it to another node of the operator's.
    #[must_use]
    pub fn secret(&self) -> &[u8; KEY_BYTES] {
        &self.secret
    }

    /// Returns the nonce of content in its context.
    pub(super) fn nonce(&self, context: &[u8], content: &[u8]) -> [u8; NONCE_BYTES] {
        let tag = self.mac(context, content).finalize().into_bytes();
        *tag.first_chunk().expect("a tag of SHA-256 has 32 bytes")
    }

    /// Returns whether that is the nonce of content in its context, in a time that does not tell how much of it.
    pub(super) fn has_nonce(&self, context: &[u8], content: &[u8], nonce: &[u8]) -> bool {
        self.mac(context, content).verify_truncated_left(nonce).is_ok()
    }

    fn mac(&self, context: &[u8], content: &[u8]) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(self.for_nonces.as_slice())
            .expect("HMAC takes a key of any length");
        // The length keeps context and content apart.
        mac.update(&(context.len() as u64).to_be_bytes());
        mac.update(context);
        mac.update(content);
        mac
    }

    pub(super) fn cipher(&self) -> Cipher {
        Cipher(XChaCha20Poly1305::new(self.for_blocks.as_slice().into()))
    }
}

/// The AEAD under a key.
pub(super) struct Cipher(XChaCha20Poly1305);

impl Cipher {
    /// Encrypts in place; the tag follows.
    pub(super) fn encrypt(
        &self,
        nonce: &[u8; NONCE_BYTES],
        context: &[u8],
        mut content: Vec<u8>,
    ) -> Vec<u8> {
        let tag = self
            .0
            .encrypt_in_place_detached(XNonce::from_slice(nonce), context, &mut content)
            .expect("a block is far shorter than what one nonce encrypts");
        content.extend_from_slice(&tag);
        content
    }

    /// Returns what was encrypted, when nothing of it was changed.
    pub(super) fn decrypt(
        &self,
        nonce: &[u8; NONCE_BYTES],
        context: &[u8],
        sealed: &[u8],
    ) -> Option<Vec<u8>> {
        let (content, tag) = sealed.split_at_checked(sealed.len().checked_sub(TAG_BYTES)?)?;
        let (mut content, tag) = (content.to_vec(), Tag::from_slice(tag));
        self.0
            .decrypt_in_place_detached(XNonce::from_slice(nonce), context, &mut content, tag)
            .ok()
            .map(|()| content)
    }
}

fn derive(source: &Hkdf<Sha256>, purpose: &[u8]) -> Zeroizing<[u8; KEY_BYTES]> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    expand(source, purpose, key.as_mut_slice());
    key
}

fn expand(source: &Hkdf<Sha256>, purpose: &[u8], key: &mut [u8]) {
    source.expand(purpose, key).expect("HKDF gives up to 8,160 bytes");
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealingKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl KeyId {
    pub(super) const fn as_bytes(&self) -> &[u8; ID_BYTES] {
        &self.0
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is no key's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key's id has {digits} hexadecimal digits", digits = 2 * ID_BYTES)]
pub struct KeyIdError;

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let mut id = [0; ID_BYTES];
        let is_hex =
            text.len() == 2 * ID_BYTES && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        if !is_hex {
            return Err(KeyIdError);
        }
        for (index, byte) in id.iter_mut().enumerate() {
            let pair = text.get(2 * index..2 * index + 2).ok_or(KeyIdError)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| KeyIdError)?;
        }
        Ok(Self(id))
    }
}
