//! `dunlin doctor`: what is wrong with a node or its surroundings, and what to do about it.
//!
//! Each check looks at one thing and finds it fine, doubtful or broken. They need no running node, change
//! nothing, and wait a few seconds at most. What a running node knows better is asked of it.

mod addresses;
mod folder;
mod multicast;
mod surroundings;

use std::path::Path;

use dunlin_client::Client;
use serde::Serialize;

use self::folder::Folder;
use crate::config::{Config, Mode};

/// How something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// As it should be.
    Fine,
    /// It works, and may not do what is wanted.
    Doubtful,
    /// It does not work.
    Broken,
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Doubtful => "doubtful",
            Self::Broken => "broken",
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) check: &'static str,
    /// How it was found.
    pub(crate) state: State,
    /// What was seen.
    pub(crate) found: String,
    /// What to do, unless all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advice: Option<String>,
}

impl Finding {
    fn fine(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, state: State::Fine, found: found.into(), advice: None }
    }

    fn doubtful(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        let (found, advice) = (found.into(), Some(advice.into()));
        Self { check, state: State::Doubtful, found, advice }
    }

    fn broken(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { state: State::Broken, ..Self::doubtful(check, found, advice) }
    }
}

/// Examines the node of a data folder, whether it runs or not, and the machine that it is on.
pub(crate) fn examine(path: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let folder = Folder::at(path);
    findings.extend(folder.findings());
    let (config, finding) = configuration(&folder);
    findings.extend(finding);
    findings.push(surroundings::clock(&folder));
    findings.push(surroundings::disk(&folder, &config));
    findings.push(surroundings::files());
    let node = Client::for_data_dir(path).and_then(|client| {
        let status = client.status()?;
        Ok((status, client.peers()?))
    });
    match (&node, folder.holder()) {
        (Ok((status, peers)), _) => findings.extend(running(status, peers)),
        // The ports are its own.
        (Err(_), Some(pid)) => {
            let found = format!("running (pid {pid}) without an API, as a bootstrap node does");
            findings.push(Finding::fine("node", found));
        }
        (Err(_), None) => {
            findings.push(Finding::fine("node", "not running"));
            findings.extend(addresses::free(&config));
        }
    }
    if config.network.mode == Mode::AirGapped {
        let found = "air-gapped: it meets nobody, and opens no socket but that of its API";
        findings.retain(|finding| !["peers", "reach"].contains(&finding.check));
        findings.push(Finding::fine("mode", found));
        return findings;
    }
    let connected = node.as_ref().map_or(0, |(status, _)| status.peers);
    findings.extend(addresses::names(&config.network));
    findings.extend(addresses::bootstrap(&config.network, connected));
    if config.network.mdns {
        findings.push(multicast::finding());
    }
    findings
}

fn configuration(folder: &Folder) -> (Config, Option<Finding>) {
    if !folder.is_made() {
        return (Config::default(), None);
    }
    let path = folder.config_path();
    match Config::load(&path) {
        Ok(config) => {
            (config, Some(Finding::fine("config", format!("{} is right", path.display()))))
        }
        Err(mistakes) => {
            let advice = format!("correct {}; what follows assumes defaults", path.display());
            let found = mistakes.to_string();
            (Config::default(), Some(Finding::broken("config", found.trim_end(), advice)))
        }
    }
}

/// What a running node says of itself.
fn running(status: &dunlin_client::NodeStatus, peers: &dunlin_client::Peers) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.push(if status.problems.is_empty() {
        Finding::fine("node", format!("running as {} (pid {})", status.peer, status.pid))
    } else {
        let found = status.problems.join("; ");
        Finding::broken("node", found, "see its log; `dunlin status` says when it is over")
    });
    let known = peers.peers.len();
    findings.push(if status.peers > 0 {
        Finding::fine("peers", format!("{} connected of {known} known", status.peers))
    } else {
        Finding::doubtful(
            "peers",
            format!("none connected, {known} known"),
            "a node works alone; to meet others, name a bootstrap node in `network.bootstrap`, and see \
             that all of them have the same `network.name`",
        )
    });
    findings.extend(reach(status, peers));
    findings
}

/// Whether strangers reach it: as peers found that tried, or else as the connections say.
fn reach(status: &dunlin_client::NodeStatus, peers: &dunlin_client::Peers) -> Option<Finding> {
    let open = "open the ports of `network.listen`, and name the address that others see in `network.external`";
    let connected = || peers.peers.iter().filter(|peer| peer.connected);
    let dialed_us = connected().find(|peer| peer.direction.as_deref() == Some("inbound"));
    Some(match (status.reachability.as_str(), dialed_us) {
        ("public", _) => Finding::fine(
            "reach",
            format!("public: strangers reach it at {}", status.external.join(", ")),
        ),
        ("private", _) if !status.relays.is_empty() => Finding::fine(
            "reach",
            format!(
                "private: behind a NAT or a firewall, reachable through {} relays",
                status.relays.len()
            ),
        ),
        ("private", _) => Finding::doubtful(
            "reach",
            "private: peers dialed this node back and did not come through, and no relay has a place for it",
            format!("{open}; or name a bootstrap node that relays in `network.bootstrap`"),
        ),
        (_, Some(peer)) => {
            Finding::fine("reach", format!("unknown: peers reach it, {} did", peer.peer))
        }
        _ if status.peers > 0 => Finding::doubtful(
            "reach",
            "unknown: no connected peer has dialed this node, and none was there to try",
            format!("it may be behind a NAT or a firewall, or nobody has tried: {open}"),
        ),
        _ => return None,
    })
}
