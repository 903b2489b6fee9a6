//! What goes wrong in a simulated network, and how often it did.

use std::{collections::BTreeMap, fmt, str::FromStr};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Messages take up to two seconds, and overtake each other.
    Delay,
    /// Messages are lost.
    Loss,
    /// Messages arrive twice.
    Duplication,
    /// The network falls into parts: two that do not hear each other, one that does not hear the other, or in turns.
    Partition,
    /// Nodes end at any moment, and come back with what was on disk.
    Crash,
    /// Clocks are off by up to a day.
    Skew,
    /// Nodes leave for minutes and come again.
    Churn,
    /// Up to a third of the peers lie: see `adversary.rs`.
    Malice,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Delay,
        Self::Loss,
        Self::Duplication,
        Self::Partition,
        Self::Crash,
        Self::Skew,
        Self::Churn,
        Self::Malice,
    ];

    /// Returns its name on the command line and in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Loss => "loss",
            Self::Duplication => "duplication",
            Self::Partition => "partition",
            Self::Crash => "crash",
            Self::Skew => "skew",
            Self::Churn => "churn",
            Self::Malice => "malice",
        }
    }
}

/// Which kinds happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Returns every kind.
    #[must_use]
    pub fn all() -> Self {
        Self(Fault::ALL.to_vec())
    }

    /// Returns none.
    #[must_use]
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// Returns whether one happens.
    #[must_use]
    pub fn has(&self, fault: Fault) -> bool {
        self.0.contains(&fault)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|fault| fault.as_str()).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(","))
    }
}

impl FromStr for Faults {
    type Err = String;

    /// `all`, `none`, or names with commas between them.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => return Ok(Self::all()),
            "none" => return Ok(Self::none()),
            _ => {}
        }
        let kind = |name: &str| {
            let found = Fault::ALL.into_iter().find(|fault| fault.as_str() == name);
            found.ok_or_else(|| {
                let names = Fault::ALL.map(Fault::as_str).join(", ");
                format!("no fault {name:?}; there are {names}, and all or none of them")
            })
        };
        text.split(',').map(kind).collect::<Result<_, _>>().map(Self)
    }
}

/// How often what went wrong, by name.
pub type Injected = BTreeMap<&'static str, u64>;
