//! What a scenario may say, as TOML.

use std::fmt;

use dunlin_hostile::Attack;
use serde::Deserialize;

use crate::{links::Profile, network::Nat};

/// Peers when a scenario says nothing.
const PEERS: u32 = 4;

/// A scenario.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Script {
    /// What it is called.
    pub(super) name: String,
    /// What it shows, for people.
    #[serde(rename = "about")]
    _about: String,
    /// How many peers.
    #[serde(default = "peers")]
    pub(super) peers: u32,
    /// Whether nodes are in network namespaces, so that links can be broken.
    #[serde(default)]
    pub(super) netns: bool,
    /// Who is behind a NAT there.
    pub(super) nat: Option<Nat>,
    /// What links are like there.
    #[serde(default)]
    pub(super) profile: Profile,
    /// Decides which packets are lost there.
    #[serde(default)]
    pub(super) seed: u64,
    /// What happens, one after the other.
    #[serde(rename = "step")]
    pub(super) steps: Vec<Step>,
}

fn peers() -> u32 {
    PEERS
}

fn all() -> String {
    "all".to_owned()
}

fn half_a_minute() -> u32 {
    30
}

/// One step. `nodes` are named as `all`, `bootstrap`, `2`, `1-3` or `1,4`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Step {
    /// Check: each of the nodes is connected to all others of them, or to so many peers.
    Connected {
        #[serde(default = "all")]
        nodes: String,
        at_least: Option<u64>,
        #[serde(default = "half_a_minute")]
        within_s: u32,
    },
    /// Check: the nodes have found out whether strangers reach them; whom they do not has a place at the bootstrap node.
    Reach {
        nodes: String,
        is: Reach,
        #[serde(default = "half_a_minute")]
        within_s: u32,
    },
    /// Check: each of the nodes is connected to all others of them, in this way.
    Linked {
        nodes: String,
        by: Link,
        #[serde(default = "half_a_minute")]
        within_s: u32,
    },
    /// Have nodes release templates, and check that others hold and have judged them.
    Templates {
        from: String,
        to: String,
        #[serde(default = "half_a_minute")]
        within_s: u32,
    },
    /// Check: no node of one group is connected to one of another.
    Apart {
        groups: String,
        #[serde(default = "half_a_minute")]
        within_s: u32,
    },
    /// Have each of the nodes take in observations and seal so many segments.
    Ingest {
        #[serde(default = "all")]
        nodes: String,
        segments: u32,
    },
    /// Check: the nodes know the same segments, and all that running ones sealed.
    Agree {
        #[serde(default = "all")]
        nodes: String,
        #[serde(default = "half_a_minute")]
        within_s: u32,
    },
    /// Check: every node has what it acknowledged.
    Kept,
    /// Check: each of the nodes answers a question.
    Answer {
        #[serde(default = "all")]
        nodes: String,
        #[serde(default = "half_a_minute")]
        within_s: u32,
    },
    /// Cut groups off each other.
    Partition { groups: String },
    /// Cut one way.
    Cut { from: String, to: String },
    /// Take all cuts away.
    Heal,
    /// Stop nodes where they are.
    Pause { nodes: String },
    /// Let them go on.
    Resume { nodes: String },
    /// Kill nodes as a crash would.
    Kill { nodes: String },
    /// Ask nodes to end.
    Stop { nodes: String },
    /// Start nodes again.
    Start { nodes: String },
    /// End each of the nodes in turn and start it with the other build.
    Upgrade {
        #[serde(default = "all")]
        nodes: String,
    },
    /// Kill one peer after another, `every_s`, and start it again after half of that.
    Churn { every_s: f64, for_s: f64 },
    /// Set the clocks of nodes off.
    Clock { nodes: String, by_s: i64 },
    /// Do nothing.
    Sleep { seconds: f64 },
    /// Attack a node, and check what honest ones notice.
    Attack {
        name: Attack,
        victim: String,
        seconds: u32,
        /// How many times as long exchanges may take.
        slowdown_max: f64,
        /// What the victim may hold.
        resident_mib_max: u64,
    },
    /// Take in, ask and churn for a long time, and check that nothing grows.
    Soak(Soak),
}

/// Whether strangers reach a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Reach {
    Public,
    Private,
}

impl Reach {
    /// Returns what a node's status calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
        }
    }
}

/// How a connection is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Link {
    /// By the bootstrap node, within its limits.
    Relay,
    /// By nobody else.
    Direct,
    /// By nobody else any more: it took the place of a relayed one.
    Upgrade,
}

/// A long time.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Soak {
    pub(super) minutes: f64,
    /// How often a peer is killed and started again.
    pub(super) churn_every_s: f64,
    /// How much the memory of a node that runs all the time may grow in an hour.
    pub(super) resident_mib_per_hour_max: f64,
    /// How many descriptors it may gain in an hour.
    pub(super) descriptors_per_hour_max: f64,
}

impl Script {
    /// Returns whether clocks are set.
    pub(super) fn sets_clocks(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Clock { .. }))
    }

    /// Makes soaks take so many minutes.
    pub(super) fn shorten(&mut self, to: Option<f64>) {
        let Some(to) = to else { return };
        for step in &mut self.steps {
            if let Step::Soak(soak) = step {
                soak.minutes = to;
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected { nodes, at_least: None, .. } => write!(f, "{nodes} are connected"),
            Self::Connected { nodes, at_least: Some(least), .. } => {
                write!(f, "{nodes} are connected to {least} peers each")
            }
            Self::Reach { nodes, is, .. } => write!(f, "{nodes} are {}", is.name()),
            Self::Linked { nodes, by, .. } => match by {
                Link::Relay => write!(f, "{nodes} are connected through the relay"),
                Link::Direct => write!(f, "{nodes} are connected directly"),
                Link::Upgrade => {
                    write!(f, "{nodes} are connected directly, in place of the relay")
                }
            },
            Self::Templates { from, to, .. } => write!(f, "{to} have templates of {from}"),
            Self::Apart { groups, .. } => write!(f, "{groups} are apart"),
            Self::Ingest { nodes, segments } => write!(f, "{nodes} seal {segments} segments each"),
            Self::Agree { nodes, .. } => write!(f, "{nodes} know the same"),
            Self::Kept => f.write_str("nothing acknowledged is lost"),
            Self::Answer { nodes, .. } => write!(f, "{nodes} answer"),
            Self::Partition { groups } => write!(f, "partition {groups}"),
            Self::Cut { from, to } => write!(f, "cut {from} to {to}"),
            Self::Heal => f.write_str("heal"),
            Self::Pause { nodes } => write!(f, "pause {nodes}"),
            Self::Resume { nodes } => write!(f, "resume {nodes}"),
            Self::Kill { nodes } => write!(f, "kill {nodes}"),
            Self::Stop { nodes } => write!(f, "stop {nodes}"),
            Self::Start { nodes } => write!(f, "start {nodes}"),
            Self::Upgrade { nodes } => write!(f, "upgrade {nodes}"),
            Self::Churn { every_s, for_s } => write!(f, "churn every {every_s} s for {for_s} s"),
            Self::Clock { nodes, by_s } => write!(f, "set the clocks of {nodes} off by {by_s} s"),
            Self::Sleep { seconds } => write!(f, "wait {seconds} s"),
            Self::Attack { name, victim, seconds, .. } => {
                write!(f, "attack {victim} by {name} for {seconds} s")
            }
            Self::Soak(soak) => write!(f, "soak for {} minutes", soak.minutes),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn every_scenario_that_ships_is_one() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let script: Script =
                toml::from_str(&text).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()));
            assert!(!script.steps.is_empty());
            names.push(script.name);
        }
        assert!(names.len() >= 9, "{names:?}");
    }

    #[test]
    fn what_no_step_has_is_refused() {
        let with = |step: &str| {
            toml::from_str::<Script>(&format!("name = \"n\"\nabout = \"a\"\n[[step]]\n{step}"))
        };
        assert!(with("do = \"heal\"").is_ok());
        assert!(with("do = \"dance\"").is_err());
        assert!(with("do = \"kill\"\nnodes = \"1\"\nhow = \"softly\"").is_err());
        assert!(with("do = \"attack\"\nname = \"ddos\"").is_err());
    }
}
