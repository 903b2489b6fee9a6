//! Systems whose kernel is not asked for NAT.

use serde::Deserialize;

/// How a router would choose the port that the world sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mapping {
    /// The same one for all destinations.
    PerSource,
    /// Another one for each destination, by chance.
    PerDestination,
}
