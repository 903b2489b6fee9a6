//! Sizes that every decoder enforces, in bytes unless the name says otherwise.
//!
//! They are part of the protocol: a peer that raises one locally writes bytes that the others refuse.

/// Largest request or response of a Dunlin protocol. What does not fit is asked for again.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Largest block that is accepted from anybody: what IPFS nodes exchange over bitswap.
pub const BLOCK_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Largest payload block that a Dunlin node makes, half of what others must accept.
pub const PAYLOAD_BLOCK_BYTES_MAX: usize = 1024 * 1024;

/// Deepest nesting of arrays, maps and tags in DAG-CBOR. Our own objects need five levels; the limit
/// keeps a recursive decoder's stack bounded against a message made of nothing but opening brackets.
pub const NESTING_MAX: usize = 32;

/// Longest payload type name in a signed envelope.
pub const PAYLOAD_TYPE_BYTES_MAX: usize = 64;

/// What an envelope adds to its payload at most: type name, key, signature and CBOR framing.
pub const ENVELOPE_OVERHEAD_BYTES_MAX: usize = 256;
