//! Pins: why an object is kept.

use libp2p_identity::PeerId;

/// How public pins begin.
const PUBLIC: &str = "public/";

/// How the pins of segments begin that were fetched.
const FETCHED: &str = "fetched/";

/// The reason to keep an object; an object stays as long as one pin holds it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin(String);

impl Pin {
    /// What the pins of a node's own segments begin with.
    pub const OWN: &str = "own/";

    /// What the pins of sealed copies begin with. They are public ones.
    pub const SEALED: &str = "public/sealed/";

    /// Segments of `collection` that this node sealed.
    #[must_use]
    pub fn own(collection: &str) -> Self {
        Self(format!("{}{collection}", Self::OWN))
    }

    /// Segments of `collection` that were fetched from peers. They are never announced as our own.
    #[must_use]
    pub fn fetched(collection: &str) -> Self {
        Self(format!("{FETCHED}{collection}"))
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

    /// Blocks that were imported under `name` and are the operator's own business.
    #[must_use]
    pub fn imported(name: &str) -> Self {
        Self(format!("imported/{name}"))
    }

    /// Sealed copies of own segments of `collection`, for everybody.
    #[must_use]
    pub fn sealed(collection: &str) -> Self {
        Self(format!("{}{collection}", Self::SEALED))
    }

    /// Blocks under `name` that strangers may have. Pins that begin so are the only ones that say so.
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

    /// Returns the collection whose segments this pin holds: own, fetched, or sealed copies.
    #[must_use]
    pub fn collection(&self) -> Option<&str> {
        let prefixes = [Self::OWN, FETCHED, Self::SEALED];
        prefixes.into_iter().find_map(|prefix| self.0.strip_prefix(prefix))
    }

    pub(crate) fn from_stored(path: &str) -> Self {
        Self(path.to_owned())
    }
}
