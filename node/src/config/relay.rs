//! `[relay]`: whom the node helps to be reached, and how much.

use std::time::Duration;

use dunlin_protocols::RelayLimits;

use super::{DAY, reader::Section};

/// Whom the node helps to be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RelayConfig {
    /// Whether it does.
    pub(crate) serve: Helping,
    /// How much.
    pub(crate) limits: RelayLimits,
}

/// Whether a node helps others to be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Helping {
    /// A bootstrap node does, others do not.
    Auto,
    /// It does.
    On,
    /// It does not.
    Off,
}

impl RelayConfig {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let helping = [("auto", Helping::Auto), ("on", Helping::On), ("off", Helping::Off)];
        let count = |number| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            serve: section.choice("serve", &helping),
            limits: RelayLimits {
                reservations: count(section.integer("reservations_max", 256, 1..=4096)),
                circuits: count(section.integer("circuits_max", 64, 1..=1024)),
                circuit_bytes: section.integer("circuit_kib_max", 4096, 1..=1 << 30) << 10,
                circuit_duration: Duration::from_secs(section.integer(
                    "circuit_secs_max",
                    600,
                    1..=DAY,
                )),
            },
        }
    }

    /// Returns what a node carries for others, if anything.
    pub(crate) fn of_node(&self, is_bootstrap: bool) -> Option<RelayLimits> {
        let helps = match self.serve {
            Helping::Auto => is_bootstrap,
            Helping::On => true,
            Helping::Off => false,
        };
        helps.then_some(self.limits)
    }
}
