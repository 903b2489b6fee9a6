//! A peer id as its multihash bytes, canonical in DAG-CBOR, for `#[serde(with)]`.

use libp2p_identity::PeerId;
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserializer, Serializer};

pub(crate) fn serialize<S: Serializer>(peer: &PeerId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(&(*peer).to_bytes())
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PeerId, D::Error> {
    deserializer.deserialize_bytes(PeerBytes)
}

struct PeerBytes;

impl Visitor<'_> for PeerBytes {
    type Value = PeerId;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the bytes of a peer id")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<PeerId, E> {
        PeerId::from_bytes(bytes).map_err(|_| E::invalid_value(Unexpected::Bytes(bytes), &self))
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<PeerId, E> {
        self.visit_bytes(&bytes)
    }
}
