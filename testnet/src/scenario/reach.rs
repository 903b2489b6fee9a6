//! The steps about who reaches whom, and how: what peers behind NATs have to find out and to get around.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use dunlin_client::{Client, PublishRequest, TemplateSource};

use super::{
    script::{Link, Reach},
    steps::{Stage, peers_of},
};
use crate::{exchange::COLLECTION, network::BOOTSTRAP, peer::peer_of};

/// How many relayed connections of a node direct ones took the place of.
const UPGRADES: &str = "dunlin_protocols_upgrades_total";

/// What one connection may carry beyond its relay's limit, in bytes: a relay looks at it now and again.
const SLACK_BYTES: u64 = 64 << 10;

impl Stage<'_> {
    /// Checks what nodes have found out about their own reach.
    pub(super) fn reach(&self, nodes: &str, is: Reach, within: Duration) -> anyhow::Result<()> {
        let network = self.network();
        let address = network.node(0)?.home.network_address();
        let relay = address.as_deref().and_then(peer_of).map(str::to_owned);
        let relay = relay.with_context(|| format!("{BOOTSTRAP} does not listen"))?;
        for place in network.select(nodes)? {
            network.wait("its own reach", within, |network| {
                let status = network.node(place)?.client()?.status()?;
                let is_placed = is == Reach::Public || status.relays.contains(&relay);
                Ok(if status.reachability != is.name() {
                    Err(format!("peer {place} takes itself for {}", status.reachability))
                } else if !is_placed {
                    Err(format!("peer {place} has no place at the relay"))
                } else {
                    Ok(())
                })
            })?;
        }
        Ok(())
    }

    /// Checks how nodes are connected.
    pub(super) fn linked(&self, nodes: &str, by: Link, within: Duration) -> anyhow::Result<()> {
        let network = self.network();
        let places = network.select(nodes)?;
        ensure!(places.len() > 1, "a link has two ends; {nodes:?} names one node");
        let ids = peers_of(&network, &places)?;
        let nat = network.plan.nat.as_ref();
        let carried_max = nat.and_then(|nat| nat.circuit_kib_max).map(|kib| u64::from(kib) << 10);
        network.wait("these connections", within, |network| {
            let mut upgrades = 0;
            for place in &places {
                let client = network.node(*place)?.client()?;
                upgrades += upgrades_of(&client)?;
                let known = client.peers()?.peers;
                for (other, id) in ids.iter().filter(|(other, _)| *other != place) {
                    let link = known.iter().find(|peer| peer.connected && peer.peer == *id);
                    let Some(link) = link else {
                        return Ok(Err(format!("peer {place} is not connected to peer {other}")));
                    };
                    if link.relay.is_some() != (by == Link::Relay) {
                        let way = link.relay.as_ref().map_or("directly", |_| "through a relay");
                        return Ok(Err(format!("peer {place} reaches peer {other} {way}")));
                    }
                    // Each end counts what one relayed connection carried; beyond the limit it is a new one.
                    let carried = link.bytes_up.max(link.bytes_down).unwrap_or(0);
                    if link.relay.is_some()
                        && let Some(most) = carried_max
                    {
                        ensure!(
                            carried <= most + SLACK_BYTES,
                            "a relayed connection carried {carried} bytes, of at most {most}"
                        );
                    }
                }
            }
            let is_so = by != Link::Upgrade || upgrades > 0;
            Ok(if is_so { Ok(()) } else { Err("no relayed connection came before".to_owned()) })
        })
    }

    /// Has nodes release templates, and waits until others hold and have judged them.
    pub(super) fn templates(&self, from: &str, to: &str, within: Duration) -> anyhow::Result<()> {
        let network = self.network();
        let (from, to) = (network.select(from)?, network.select(to)?);
        let makers = peers_of(&network, &from)?;
        for place in &from {
            let request = PublishRequest {
                collection: COLLECTION.to_owned(),
                unit: Some("observation".to_owned()),
                ..PublishRequest::default()
            };
            let made = network.node(*place)?.client()?.publish_templates(&request)?;
            ensure!(made.set.templates > 0, "peer {place} has nothing to release");
        }
        network.wait("the templates", within, |network| {
            for place in &to {
                let held = network.node(*place)?.client()?.templates()?.sets;
                for (maker, id) in makers.iter().filter(|(maker, _)| *maker != place) {
                    let is_here = held.iter().any(|set| {
                        set.source == TemplateSource::Peer
                            && set.signer == *id
                            && set.verdict.is_some()
                    });
                    if !is_here {
                        return Ok(Err(format!("peer {place} has none of peer {maker}")));
                    }
                }
            }
            Ok(Ok(()))
        })
    }
}

/// Returns how many relayed connections of a node direct ones took the place of.
fn upgrades_of(client: &Client) -> anyhow::Result<u64> {
    let metrics = client.metrics()?;
    let line = metrics.lines().find_map(|line| line.strip_prefix(UPGRADES));
    let count = line.context("the node does not count its upgrades")?.trim();
    count.parse().with_context(|| format!("{UPGRADES} is {count:?}"))
}
