//! Bundles: files for where no network goes.

use serde::{Deserialize, Serialize};

/// What goes into the next bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BundleRequest {
    /// Segments that end at this time or later; what no bundle carried yet, when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_us: Option<i64>,
    /// Of these collections alone; of all when empty.
    pub collections: Vec<String>,
}

/// A bundle, as its signed manifest says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bundle {
    /// Who signed it.
    pub peer: String,
    /// Its number among the bundles of that peer, from 1.
    pub sequence: u64,
    /// The CID of its signed manifest, by which it is known.
    pub bundle: String,
    /// The CID of that peer's bundle before it.
    pub previous: Option<String>,
    /// When it was made, by the sender's clock.
    pub created_ms: u64,
    /// The form in which segments are in it: `private` is as they are in the store.
    pub form: String,
    /// It holds segments that end at this time or later; what no bundle carried before, when absent.
    pub since_us: Option<i64>,
    /// It holds these collections alone; all when empty.
    pub collections: Vec<String>,
    /// The time of the first observation of its segments.
    pub from_us: Option<i64>,
    /// The time of the last one.
    pub to_us: Option<i64>,
    /// Segments.
    pub segments: u64,
    /// Template sets, signed by who released them.
    pub templates: u64,
    /// Blocks of segments, payload and templates.
    pub blocks: u64,
    /// Their size.
    pub bytes: u64,
}

/// A bundle that was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BundleMade {
    /// What it is.
    pub bundle: Bundle,
    /// Whether there is more than a bundle holds: make another one.
    pub more: bool,
    /// Segments that are sealed and not archived yet: they go with the next one.
    pub due: u64,
}

/// A bundle that was taken in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BundleImported {
    /// What it is.
    pub bundle: Bundle,
    /// Blocks that an interrupted import had brought already.
    pub resumed: u64,
    /// Template sets that are of use here; the adoption gate judges them next.
    pub templates_kept: u64,
}

/// Where a node stands in the chains of bundles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bundles {
    /// The last bundle that the node made.
    pub sent: Option<Bundle>,
    /// The last bundle of each peer that was taken in.
    pub received: Vec<BundleLink>,
    /// Bundles of which a part has arrived, which nobody sees.
    pub unfinished: Vec<UnfinishedBundle>,
}

/// A place in the chain of a peer's bundles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleLink {
    /// The peer.
    pub peer: String,
    /// The number of the bundle.
    pub sequence: u64,
    /// The CID of its signed manifest.
    pub bundle: String,
}

/// What has arrived of a bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnfinishedBundle {
    /// The CID of its signed manifest.
    pub bundle: String,
    /// Blocks that are here, those of its index among them.
    pub blocks: u64,
}
