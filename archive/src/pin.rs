//! Pins: why an object is kept.

use dunlin_wire::Cid;
use libp2p_identity::PeerId;

/// How public pins begin.
const PUBLIC: &str = "public/";

/// How pins of private imports begin.
const IMPORTED: &str = "imported/";

/// How pins of noised segments of others begin.
const FETCHED_NOISED: &str = "noised/";

/// The reason to keep an object; an object stays as long as one pin holds it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin(String);

impl Pin {
    /// What the pins of a node's own segments begin with.
    pub const OWN: &str = "own/";

    /// What the pins of fetched segments begin with.
    pub const FETCHED: &str = "fetched/";

    /// What the pins of segments begin with that recovery brought from peers.
    pub const RECOVERED: &str = "recovered/";

    /// What public pins begin with.
    pub const PUBLIC: &str = PUBLIC;

    /// What the pins of objects begin with that are held for peers.
    pub const REPLICA: &str = "replica/";
    /// What the pins of sealed copies begin with. They are public ones.
    pub const SEALED: &str = "public/sealed/";

    /// What the pins of noised segments begin with. They are public ones.
    pub const NOISED: &str = "public/noised/";

    /// What the pins begin with of what was published and is kept for those who still have its root.
    pub(crate) const RETIRED: &str = "public/retired/";

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
        Self(format!("{}{collection}", Self::FETCHED))
    }

    /// Segments of `collection` that recovery brought. They never leave by themselves. The catalog of this pin
    /// names all that is known of the collection, what this node sealed as well.
    #[must_use]
    pub fn recovered(collection: &str) -> Self {
        Self(format!("{}{collection}", Self::RECOVERED))
    }

    /// What was signed about segments of `collection` that conflict.
    #[must_use]
    pub fn statements(collection: &str) -> Self {
        Self(format!("statements/{collection}"))
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
        Self(format!("{IMPORTED}{name}"))
    }

    /// Sealed copies of own segments of `collection`, for everybody.
    #[must_use]
    pub fn sealed(collection: &str) -> Self {
        Self(format!("{}{collection}", Self::SEALED))
    }

    /// Noised segments of `collection` that this node released, for everybody.
    #[must_use]
    pub fn noised(collection: &str) -> Self {
        Self(format!("{}{collection}", Self::NOISED))
    }

    /// Noised segments of `collection` that others released, and that were fetched.
    #[must_use]
    pub fn fetched_noised(collection: &str) -> Self {
        Self(format!("{FETCHED_NOISED}{collection}"))
    }

    /// Blocks under `name` that strangers may have. Pins that begin so are the only ones that say so.
    #[must_use]
    pub fn public(name: &str) -> Self {
        Self(format!("{PUBLIC}{name}"))
    }

    /// What is held for a peer, because it asked for it.
    #[must_use]
    pub fn replica(of: &PeerId) -> Self {
        Self(format!("{}{of}", Self::REPLICA))
    }

    /// What the operator pinned under a name.
    #[must_use]
    pub fn named(name: &PinName) -> Self {
        Self(format!("named/{}", name.0))
    }

    /// Returns the pin of this path, when the operator may let go of what it holds as a whole: imports, copies,
    /// and what is held for others. Own segments and templates are none of these.
    #[must_use]
    pub fn removable(path: &str) -> Option<Self> {
        let prefixes = [PUBLIC, Self::FETCHED, Self::REPLICA, IMPORTED, FETCHED_NOISED];
        let is_one =
            prefixes.iter().any(|prefix| path.len() > prefix.len() && path.starts_with(prefix));
        is_one.then(|| Self(path.to_owned()))
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

    /// Returns whether the pin holds nodes of a catalog, or a root over catalogs: they change with every batch,
    /// and can be made again.
    #[must_use]
    pub(crate) fn is_catalog(&self) -> bool {
        let is_node = self.0.strip_prefix(PUBLIC).unwrap_or(&self.0).starts_with("catalog/");
        is_node
            || [Self::own_root(), Self::published()].contains(self)
            || self.0.starts_with(Self::RETIRED)
    }

    /// Returns the root of the file whose blocks this pin holds, each by itself, if it is such a pin.
    #[must_use]
    pub(crate) fn imported_root(&self) -> Option<Cid> {
        let name = self.0.strip_prefix(PUBLIC).or_else(|| self.0.strip_prefix(IMPORTED))?;
        name.parse().ok()
    }

    /// Returns whether the pin holds what was sealed or imported here: nobody else may have it.
    #[must_use]
    pub(crate) fn is_own_work(&self) -> bool {
        self.0.starts_with(Self::OWN) || self.0.starts_with(IMPORTED)
    }

    /// Returns the pin's path, as it is stored.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the collection whose segments this pin holds: own, fetched, recovered, sealed or noised ones.
    #[must_use]
    pub fn collection(&self) -> Option<&str> {
        let prefixes = [Self::OWN, Self::FETCHED, Self::RECOVERED, Self::SEALED, Self::NOISED];
        prefixes.into_iter().find_map(|prefix| self.0.strip_prefix(prefix))
    }

    pub(crate) fn from_stored(path: &str) -> Self {
        Self(path.to_owned())
    }
}

/// Longest name of a pin, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// What an operator calls a pin: letters, digits, `-`, `_` and `.`, at most 64.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PinName(String);

impl PinName {
    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn from_stored(name: &str) -> Self {
        Self(name.to_owned())
    }
}

impl std::str::FromStr for PinName {
    type Err = PinNameError;

    fn from_str(name: &str) -> Result<Self, PinNameError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain) {
            Ok(Self(name.to_owned()))
        } else {
            Err(PinNameError { name: name.to_owned() })
        }
    }
}

impl std::fmt::Display for PinName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name that no pin can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pin name {name:?}; it must have 1 to 64 letters, digits, `-`, `_` or `.`")]
pub struct PinNameError {
    name: String,
}
