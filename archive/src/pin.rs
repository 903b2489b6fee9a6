//! Pins: why an object is kept.

use dunlin_wire::Cid;
use libp2p_identity::PeerId;

/// How public pins begin.
const PUBLIC: &str = "public/";

/// The reason to keep an object; an object stays as long as one pin holds it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin(String);

impl Pin {
    /// What the pins of a node's own segments begin with.
    pub const OWN: &str = "own/";

    /// What the pins of bundles begin with that are not visible yet.
    pub(crate) const STAGED: &str = "staged/";

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

    /// The nodes of the catalog of what another pin holds.
    #[must_use]
    pub fn catalog(of: &Self) -> Self {
        Self(format!("catalog/{}", of.0))
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

    /// Blocks of a bundle that is not here as a whole: this pin hides what it alone holds.
    #[must_use]
    pub fn staged(bundle: &Cid) -> Self {
        Self(format!("{}{bundle}", Self::STAGED))
    }

    /// The index of the own bundle of this number, its manifest and its template sets.
    #[must_use]
    pub fn sent(sequence: u64) -> Self {
        Self(format!("sent/{sequence}"))
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
