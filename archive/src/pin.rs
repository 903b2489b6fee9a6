//! Pins: why an object is kept.

use libp2p_identity::PeerId;

/// How public pins begin.
const PUBLIC: &str = "public/";

/// The reason to keep an object; an object stays as long as one pin holds it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin(String);

impl Pin {
    /// What the pins of a node's own segments begin with.
    pub const OWN: &str = "own/";

    /// What the pins begin with of what strangers may have.
    pub const PUBLIC: &str = PUBLIC;

    /// What the pins begin with of what was published and is kept for those who still have its root.
    pub(crate) const RETIRED: &str = "public/retired/";

    /// Segments of `collection` that this node sealed.
    #[must_use]
    pub fn own(collection: &str) -> Self {
        Self(format!("{}{collection}", Self::OWN))
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

    /// The nodes of the catalog of what another pin holds. Strangers may have it where they may have that.
    #[must_use]
    pub fn catalog(of: &Self) -> Self {
        match of.0.strip_prefix(PUBLIC) {
            Some(name) => Self::public(&format!("catalog/{name}")),
            None => Self(format!("catalog/{}", of.0)),
        }
    }

    /// The root over the catalogs of own segments.
    #[must_use]
    pub fn own_root() -> Self {
        Self("root/own".to_owned())
    }

    /// The root over everything public, as it was published last.
    #[must_use]
    pub fn published() -> Self {
        Self::public("root")
    }

    /// What left the public root with this publication: strangers may be about to fetch it.
    pub(crate) fn retired(publication: u64) -> Self {
        Self(format!("{}{publication}", Self::RETIRED))
    }

    /// Blocks that were imported under `name` and are the operator's own business.
    #[must_use]
    pub fn imported(name: &str) -> Self {
        Self(format!("imported/{name}"))
    }

    /// Blocks that were imported under `name` and that strangers may have. It is the one pin that says so.
    #[must_use]
    pub fn public(name: &str) -> Self {
        Self(format!("{PUBLIC}{name}"))
    }

    /// Returns whether strangers may have what this pin holds.
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.0.starts_with(PUBLIC)
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
