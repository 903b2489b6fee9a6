//! Taking the steps of a scenario.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use dunlin_client::{Client, KnnQuery, SegmentsQuery};

use super::{
    SoakReport,
    script::{Soak, Step},
    soak,
};
use crate::{
    exchange::{COLLECTION, collection, ingest, life},
    hostile::{Assault, AssaultReport, assault},
    network::{Network, START_TIMEOUT},
    process::POLL,
};

/// Below this, in milliseconds, one time is as good as another: a development build on a busy machine answers no more
/// evenly.
const FLOOR_MS: f64 = 20.0;

/// A network that a scenario is played on, and what came of it.
pub(super) struct Stage<'a> {
    network: &'a Mutex<Network>,
    /// The build that nodes are upgraded to.
    new: PathBuf,
    /// Regimes that each node took in, and observations that it acknowledged.
    pub(super) ledger: BTreeMap<usize, (u32, u64)>,
    attacks: Vec<AssaultReport>,
    soak: Option<SoakReport>,
}

impl<'a> Stage<'a> {
    /// Returns a stage on which nothing has happened, whose nodes are upgraded to a build.
    pub(super) fn new(network: &'a Mutex<Network>, new: PathBuf) -> Self {
        let ledger = BTreeMap::new();
        Self { network, new, ledger, attacks: Vec::new(), soak: None }
    }

    /// Returns how many observations were acknowledged, the attacks, and the soak.
    pub(super) fn into_findings(self) -> (u64, Vec<AssaultReport>, Option<SoakReport>) {
        let acknowledged = self.ledger.values().map(|(_, acknowledged)| acknowledged).sum();
        (acknowledged, self.attacks, self.soak)
    }

    pub(super) fn network(&self) -> MutexGuard<'a, Network> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a step.
    ///
    /// # Errors
    ///
    /// Fails when it does not hold.
    pub(super) fn take(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Connected { nodes, at_least, within_s } => {
                self.connected(nodes, *at_least, seconds(*within_s))
            }
            Step::Reach { nodes, is, within_s } => self.reach(nodes, *is, seconds(*within_s)),
            Step::Linked { nodes, by, within_s } => self.linked(nodes, *by, seconds(*within_s)),
            Step::Templates { from, to, within_s } => self.templates(from, to, seconds(*within_s)),
            Step::Apart { groups, within_s } => self.apart(groups, seconds(*within_s)),
            Step::Ingest { nodes, segments } => self.ingest(nodes, *segments),
            Step::Agree { nodes, within_s } => self.agree(nodes, seconds(*within_s)),
            Step::Kept => self.kept(),
            Step::Answer { nodes, within_s } => self.answer(nodes, seconds(*within_s)),
            Step::Partition { groups } => {
                let mut network = self.network();
                let groups = network.groups(groups)?;
                network.partition(&groups)
            }
            Step::Cut { from, to } => {
                let network = self.network();
                for from in network.select(from)? {
                    for to in network.select(to)? {
                        network.cut(from, to)?;
                    }
                }
                Ok(())
            }
            Step::Heal => self.network().heal(),
            Step::Pause { nodes } => self.each(nodes, |network, place| network.pause(place, true)),
            Step::Resume { nodes } => {
                self.each(nodes, |network, place| network.pause(place, false))
            }
            Step::Kill { nodes } => self.each(nodes, Network::kill),
            Step::Stop { nodes } => self.each(nodes, Network::end),
            Step::Start { nodes } => self.each(nodes, Network::start_node),
            Step::Upgrade { nodes } => self.upgrade(nodes),
            Step::Churn { every_s, for_s } => self.churn(*every_s, *for_s),
            Step::Clock { nodes, by_s } => {
                self.each(nodes, |network, place| network.set_clock(place, *by_s))
            }
            Step::Sleep { seconds } => self.sleep(Duration::from_secs_f64(*seconds)),
            Step::Attack { name, victim, seconds, slowdown_max, resident_mib_max } => {
                let wish = Assault { attack: *name, victim: victim.clone(), seconds: *seconds };
                self.attack(&wish, *slowdown_max, *resident_mib_max)
            }
            Step::Soak(script) => self.soak(script),
        }
    }

    fn each(
        &self,
        nodes: &str,
        act: impl Fn(&mut Network, usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut network = self.network();
        network.select(nodes)?.into_iter().try_for_each(|place| act(&mut network, place))
    }

    fn connected(
        &self,
        nodes: &str,
        at_least: Option<u64>,
        within: Duration,
    ) -> anyhow::Result<()> {
        let network = self.network();
        let places = network.select(nodes)?;
        let ids = peers_of(&network, &places)?;
        network.wait("connections", within, |network| {
            for place in &places {
                let connected = connected_to(&network.node(*place)?.client()?)?;
                let name = &network.node(*place)?.name;
                if let Some(least) = at_least {
                    if (connected.len() as u64) < least {
                        return Ok(Err(format!("{name} has {} peers", connected.len())));
                    }
                } else if let Some((missing, _)) =
                    ids.iter().find(|(other, id)| *other != place && !connected.contains(*id))
                {
                    return Ok(Err(format!("{name} is not connected to peer {missing}")));
                }
            }
            Ok(Ok(()))
        })
    }

    fn apart(&self, groups: &str, within: Duration) -> anyhow::Result<()> {
        let network = self.network();
        let groups = network.groups(groups)?;
        let all: Vec<_> = groups.iter().flatten().copied().filter(|place| *place > 0).collect();
        let ids = peers_of(&network, &all)?;
        network.wait("the groups' separation", within, |network| {
            for group in &groups {
                for place in group.iter().filter(|place| **place > 0) {
                    let connected = connected_to(&network.node(*place)?.client()?)?;
                    let is_other = |(other, id): &(&usize, &String)| {
                        !group.contains(other) && connected.contains(*id)
                    };
                    if let Some((other, _)) = ids.iter().find(is_other) {
                        return Ok(Err(format!("peer {place} is connected to peer {other}")));
                    }
                }
            }
            Ok(Ok(()))
        })
    }

    /// Has nodes take in more of the life of their own entity.
    pub(super) fn ingest(&mut self, nodes: &str, segments: u32) -> anyhow::Result<()> {
        let places = self.network().select(nodes)?;
        for place in places {
            self.ingest_one(place, segments)?;
        }
        Ok(())
    }

    pub(super) fn ingest_one(&mut self, place: usize, segments: u32) -> anyhow::Result<()> {
        let network = self.network();
        let client = network.node(place)?.client()?;
        // It may be there already.
        client.create_collection(&collection())?;
        let entity = format!("own-{place}");
        let (regimes, acknowledged) = self.ledger.entry(place).or_default();
        *acknowledged += ingest(&client, &life(&entity, *regimes, segments))?;
        *regimes += segments;
        client.seal(COLLECTION, &entity)?;
        Ok(())
    }

    fn agree(&self, nodes: &str, within: Duration) -> anyhow::Result<()> {
        let network = self.network();
        let places = network.select(nodes)?;
        network.wait("agreement", within, |network| {
            let mut same = None;
            let mut sealed = 0;
            for place in &places {
                let client = network.node(*place)?.client()?;
                sealed += sealed_by(&client)?;
                let status = client.archive()?;
                let mut known = status.recovery.known.into_iter();
                let known = known.rfind(|known| known.collection == COLLECTION);
                match (&same, known) {
                    (_, None) => return Ok(Err(format!("peer {place} knows nothing"))),
                    (None, known) => same = known,
                    (Some(same), Some(known)) if *same != known => {
                        let counts = (known.segments, same.segments);
                        return Ok(Err(format!(
                            "peer {place} knows {} and another {}",
                            counts.0, counts.1
                        )));
                    }
                    _ => {}
                }
            }
            let known = same.map_or(0, |known| known.segments);
            Ok(if known >= sealed { Ok(()) } else { Err(format!("{known} of {sealed} are known")) })
        })
    }

    /// Checks that nodes have what they acknowledged.
    pub(super) fn kept(&self) -> anyhow::Result<()> {
        let network = self.network();
        for (place, (_, acknowledged)) in &self.ledger {
            let node = network.node(*place)?;
            if !node.is_alive() || node.is_paused {
                continue;
            }
            let has = network.wait("the node's word", START_TIMEOUT, |network| {
                Ok(Ok(network.node(*place)?.client()?.status()?.observations))
            })?;
            // The exchanges of attacks come on top.
            ensure!(
                has >= *acknowledged,
                "{} acknowledged {acknowledged} observations and has {has}",
                node.name
            );
        }
        Ok(())
    }

    fn answer(&self, nodes: &str, within: Duration) -> anyhow::Result<()> {
        let network = self.network();
        for place in network.select(nodes)? {
            network.wait("an answer", within, |network| {
                ask(&network.node(place)?.client()?)?;
                Ok(Ok(()))
            })?;
        }
        Ok(())
    }

    /// Upgrades nodes one by one, with the data that they had. Whoever runs goes on to take in and to answer meanwhile,
    /// and afterwards nobody lacks what was acknowledged.
    fn upgrade(&mut self, nodes: &str) -> anyhow::Result<()> {
        let places = self.network().select(nodes)?;
        for place in places {
            self.network().end(place)?;
            self.go_on()?;
            {
                let mut network = self.network();
                network.set_program(place, &self.new)?;
                network.start_node(place)?;
            }
            self.kept()?;
            self.go_on()?;
        }
        Ok(())
    }

    /// Has every peer that runs take in a little and answer.
    fn go_on(&mut self) -> anyhow::Result<()> {
        let running: Vec<_> = {
            let network = self.network();
            let peers = network.nodes.iter().enumerate().skip(1);
            peers.filter(|(_, node)| node.is_alive()).map(|(place, _)| place).collect()
        };
        for place in running {
            self.ingest_one(place, 1)?;
            ask(&self.network().node(place)?.client()?)?;
        }
        Ok(())
    }

    fn churn(&self, every_s: f64, for_s: f64) -> anyhow::Result<()> {
        let end = Instant::now() + Duration::from_secs_f64(for_s);
        let half = Duration::from_secs_f64(every_s / 2.0);
        let peers = self.network().nodes.len().saturating_sub(1);
        ensure!(peers > 0, "there is no peer");
        for turn in 0.. {
            if Instant::now() >= end {
                break;
            }
            let place = turn % peers + 1;
            self.network().kill(place)?;
            self.sleep(half)?;
            self.network().start_node(place)?;
            self.sleep(half)?;
        }
        Ok(())
    }

    pub(super) fn sleep(&self, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.network().check()?;
            std::thread::sleep(POLL.min(end.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    fn attack(
        &mut self,
        wish: &Assault,
        slowdown_max: f64,
        resident_mib_max: u64,
    ) -> anyhow::Result<()> {
        let report = assault(self.network, wish)?;
        self.attacks.push(report.clone());
        let slowdown = report.slowdown(FLOOR_MS);
        let mib = report.attacked.resident_bytes_max >> 20;
        ensure!(report.survived, "the victim ended");
        ensure!(report.attacked.exchanges > 0, "honest peers exchanged nothing");
        let (tried, failed) =
            (report.attacked.exchanges + report.attacked.failed, report.attacked.failed);
        ensure!(failed * 20 <= tried, "{failed} of {tried} exchanges and questions failed");
        ensure!(
            slowdown <= slowdown_max,
            "exchanges took {slowdown:.1} times as long, of at most {slowdown_max}"
        );
        ensure!(
            mib <= resident_mib_max,
            "the victim held {mib} MiB, of at most {resident_mib_max}"
        );
        Ok(())
    }

    fn soak(&mut self, script: &Soak) -> anyhow::Result<()> {
        let report = soak::run(self, script)?;
        let verdict = report.verdict();
        self.soak = Some(report);
        match verdict {
            Some(why) => bail!(why),
            None => self.kept(),
        }
    }
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

/// Asks a node about the regimes nearest to a vector.
pub(super) fn ask(client: &Client) -> anyhow::Result<()> {
    let dim = collection().dim as usize;
    client.knn(&KnnQuery::new(COLLECTION, vec![0.5; dim], 10))?;
    Ok(())
}

fn connected_to(client: &Client) -> anyhow::Result<Vec<String>> {
    let peers = client.peers()?.peers.into_iter();
    Ok(peers.filter(|peer| peer.connected).map(|peer| peer.peer).collect())
}

/// Returns how many segments a node sealed itself.
fn sealed_by(client: &Client) -> anyhow::Result<u64> {
    let mut after = None;
    let mut count = 0;
    loop {
        let query = SegmentsQuery {
            collection: COLLECTION.to_owned(),
            after,
            limit: Some(1_000),
            ..Default::default()
        };
        let page = client.segments(&query)?;
        count += page.segments.len() as u64;
        after = page.next;
        if after.is_none() {
            return Ok(count);
        }
    }
}

/// Returns the ids of peers by their places.
pub(super) fn peers_of(
    network: &Network,
    places: &[usize],
) -> anyhow::Result<BTreeMap<usize, String>> {
    let id = |place: &usize| {
        let view = network.id(*place).with_context(|| format!("peer {place} has no id"))?;
        Ok((*place, view.to_owned()))
    };
    places.iter().map(id).collect()
}
