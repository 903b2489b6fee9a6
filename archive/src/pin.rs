//! Pins: why an object is kept.

use libp2p_identity::PeerId;

/// The reason to keep an object; an object stays as long as one pin holds it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin(String);

impl Pin {
    /// Segments of `collection` that this node sealed.
    #[must_use]
    pub fn own(collection: &str) -> Self {
        Self(format!("own/{collection}"))
    }

    /// Segments of `collection` that were fetched from peers. They are never announced as our own.
    #[must_use]
    pub fn fetched(collection: &str) -> Self {
        Self(format!("fetched/{collection}"))
    }

    /// The templates of `collection` that `signer` released.
    #[must_use]
    pub fn templates(collection: &str, signer: &PeerId) -> Self {
        Self(format!("templates/{collection}/{signer}"))
    }

    /// Returns the pin's path, as it is stored.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn from_stored(path: &str) -> Self {
        Self(path.to_owned())
    }
}
