//! What honest peers do with each other while something else goes on, and how long it takes.
//!
//! Before it begins, every node seals lossless segments of an entity of its own. An exchange is one peer that fetches the
//! payload of one of them from another, over the network, which it never did before; a question is one about nearest
//! regimes. Both are asked through the nodes' own API.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use dunlin_client::{
    Client, CollectionSpec, FetchRequest, Fidelity, IngestRequest, KnnQuery, Metric, Observation,
    SegmentsQuery, Units,
};
use serde::{Deserialize, Serialize};

use crate::network::{Load, Network};

/// The collection that all nodes have.
pub(crate) const COLLECTION: &str = "exchange";

/// Channels of an observation.
const CHANNELS: usize = 8;

/// Observations of one regime.
const REGIME: u32 = 20;

/// Observations in one request.
const BATCH: usize = 2_000;

/// How many exchanges there are in a second at most, with the pauses between them.
const EXCHANGES_PER_S_MAX: u32 = 40;

/// Who exchanges: peers with the victim, the victim with peers, and peers with each other.
const KINDS: usize = 3;

/// Segments that one answer lists, and so how many are prepared at most.
const PAGE: u32 = 1_000;

/// A pause between two exchanges: peers that trade, and not a load test.
const PAUSE: Duration = Duration::from_millis(25);

/// Returns the collection.
pub(crate) fn collection() -> CollectionSpec {
    CollectionSpec {
        name: COLLECTION.to_owned(),
        dim: u32::try_from(CHANNELS).unwrap_or(u32::MAX),
        metric: Metric::Euclidean,
        fidelity: Fidelity::Lossless,
        units: Units::Range { lower: vec![0.0; CHANNELS], upper: vec![1.0; CHANNELS] },
        threshold: None,
        error_bound: None,
        lateness_us: 0,
        channels: None,
    }
}

/// Returns `count` regimes of an entity from number `from` on, one second between observations.
pub(crate) fn life(entity: &str, from: u32, count: u32) -> Vec<Observation> {
    // Entities differ, so that no two segments are one block.
    let own = entity.bytes().fold(0_u32, |sum, byte| sum * 31 % 997 + u32::from(byte));
    let observation = |index: u32| {
        let regime = index / REGIME;
        let level = if regime.is_multiple_of(2) { 0.1 } else { 0.6 };
        let shade = 0.3 * hash01(own.wrapping_mul(7919).wrapping_add(regime));
        let value = |channel: usize| {
            let channel = u32::try_from(channel).unwrap_or(0);
            let tremble = 0.01 * hash01(index.wrapping_mul(31).wrapping_add(channel));
            level + shade + tremble
        };
        Observation {
            entity: entity.to_owned(),
            timestamp_us: i64::from(index) * 1_000_000,
            vector: (0..CHANNELS).map(value).collect(),
            metadata: None,
        }
    };
    (from * REGIME..(from + count) * REGIME).map(observation).collect()
}

/// Returns a number from 0 to 1 that depends on another and looks like chance.
fn hash01(number: u32) -> f32 {
    let mixed = number.wrapping_mul(0x9e37_79b9) ^ (number >> 7).wrapping_mul(0x85eb_ca6b);
    (mixed >> 8) as f32 / (1 << 24) as f32
}

/// Gives observations to a node; returns how many it acknowledged.
pub(crate) fn ingest(client: &Client, observations: &[Observation]) -> anyhow::Result<u64> {
    for batch in observations.chunks(BATCH) {
        client.ingest(COLLECTION, &IngestRequest { observations: batch.to_vec() })?;
    }
    Ok(observations.len() as u64)
}

/// Honest peers around one that something may be done to.
#[derive(Debug)]
pub(crate) struct Exchange {
    victim: Member,
    others: Vec<Member>,
    turn: usize,
}

#[derive(Debug)]
struct Member {
    client: Client,
    peer: String,
    pid: u32,
    cids: Vec<String>,
}

/// What was measured for some time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Exchanges that succeeded.
    pub exchanges: u64,
    /// Exchanges and questions that did not.
    pub failed: u64,
    /// How long half of the exchanges took at most, in milliseconds.
    pub exchange_p50_ms: f64,
    /// How long 95 of 100 took at most.
    pub exchange_p95_ms: f64,
    /// How long half of the questions to the victim took at most.
    pub question_p50_ms: f64,
    /// How long 95 of 100 took at most.
    pub question_p95_ms: f64,
    /// The victim's resident memory at its peak, in bytes.
    pub resident_bytes_max: u64,
}

impl Exchange {
    /// Has all running peers seal enough segments for `seconds`, and waits until they are archived. Their entities are
    /// named after the `round`.
    ///
    /// # Errors
    ///
    /// Fails when a node refuses, or takes too long.
    pub(crate) fn prepare(
        network: &Network,
        victim: usize,
        seconds: u32,
        round: u32,
    ) -> anyhow::Result<Self> {
        ensure!(victim > 0, "the bootstrap node exchanges nothing; name a peer");
        let pairs = network.nodes.len().saturating_sub(2).max(1) * KINDS;
        let exchanges = EXCHANGES_PER_S_MAX as usize * seconds as usize;
        let segments = u32::try_from(exchanges / pairs + 2).unwrap_or(PAGE).min(PAGE);
        let mut members = Vec::new();
        for (place, node) in network.nodes.iter().enumerate().skip(1) {
            if node.is_paused || !node.is_alive() {
                continue;
            }
            let client = node.client()?;
            client.create_collection(&collection())?;
            let entity = format!("exchange-{}-{round}", node.name);
            ingest(&client, &life(&entity, 0, segments))?;
            client.seal(COLLECTION, &entity)?;
            let status = client.status()?;
            let member = Member { client, peer: status.peer, pid: status.pid, cids: Vec::new() };
            members.push((place, entity, member));
        }
        for (_, entity, member) in &mut members {
            network.wait("archived segments", crate::network::START_TIMEOUT, |_| {
                let due = member.client.archive()?.due;
                Ok(if due == 0 { Ok(()) } else { Err(format!("{due} wait")) })
            })?;
            let query = SegmentsQuery {
                collection: COLLECTION.to_owned(),
                entity: Some(entity.clone()),
                limit: Some(PAGE),
                ..Default::default()
            };
            let page = member.client.segments(&query)?;
            member.cids = page.segments.into_iter().map(|segment| segment.cid).collect();
            // Every exchange takes another one.
            member.cids.reverse();
        }
        let at = members.iter().position(|(place, ..)| *place == victim);
        let victim = members.remove(at.context("the victim does not run")?).2;
        let others: Vec<_> = members.into_iter().map(|(_, _, member)| member).collect();
        ensure!(others.len() > 1, "exchanges take three peers");
        Ok(Self { victim, others, turn: 0 })
    }

    /// Exchanges until `is_over`, and returns how it went.
    ///
    /// # Errors
    ///
    /// Fails when there is nothing left to exchange.
    pub(crate) fn measure(
        &mut self,
        mut is_over: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<Measured> {
        let (mut exchanges, mut questions) = (Vec::new(), Vec::new());
        let mut measured = Measured::default();
        while !is_over()? {
            let began = Instant::now();
            if self.exchange().is_ok() {
                exchanges.push(began.elapsed());
            } else {
                measured.failed += 1;
            }
            let began = Instant::now();
            if self.ask().is_ok() {
                questions.push(began.elapsed());
            } else {
                measured.failed += 1;
            }
            let load = Load::of(self.victim.pid).map_or(0, |load| load.resident_bytes);
            measured.resident_bytes_max = measured.resident_bytes_max.max(load);
            std::thread::sleep(PAUSE);
        }
        measured.exchanges = exchanges.len() as u64;
        (measured.exchange_p50_ms, measured.exchange_p95_ms) = percentiles(exchanges);
        (measured.question_p50_ms, measured.question_p95_ms) = percentiles(questions);
        Ok(measured)
    }

    /// Has one peer fetch from the victim, the victim from one, or one from another, in turn.
    fn exchange(&mut self) -> anyhow::Result<()> {
        let count = self.others.len();
        let (kind, one) = (self.turn % KINDS, self.turn / KINDS % count);
        let (asks, gives) = match kind {
            0 => (&self.victim, &self.others[one]),
            1 => (&self.others[one], &self.victim),
            _ => (&self.others[one], &self.others[(one + 1) % count]),
        };
        // Each round of all pairs takes the next segment, which who asks has not had.
        let next = gives.cids.get(self.turn / (KINDS * count));
        let cid = next.context("nothing is left to exchange")?.clone();
        self.turn += 1;
        let request = FetchRequest {
            cids: vec![cid],
            peers: vec![gives.peer.clone()],
            gateways: Vec::new(),
            payload: true,
            dht: false,
        };
        let fetched = asks.client.fetch(&request)?;
        let segment = fetched.segments.first().context("no answer about the segment")?;
        let is_whole = segment.segment.is_some() && segment.missing_payload.is_empty();
        ensure!(is_whole, "the segment did not come");
        Ok(())
    }

    fn ask(&self) -> anyhow::Result<()> {
        let query = KnnQuery::new(COLLECTION, vec![0.5; CHANNELS], 10);
        self.victim.client.knn(&query)?;
        Ok(())
    }
}

/// Returns the median and the 95th percentile, in milliseconds.
fn percentiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    let at = |share: f64| {
        let index = (times.len() as f64 * share) as usize;
        times.get(index.min(times.len().saturating_sub(1))).map_or(0.0, |t| t.as_secs_f64() * 1e3)
    };
    (at(0.5), at(0.95))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_times() {
        let times = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentiles(times), (51.0, 96.0));
        assert_eq!(percentiles(Vec::new()), (0.0, 0.0));
    }

    #[test]
    fn lives_stay_within_the_range_and_differ() {
        let (one, other) = (life("a", 0, 6), life("b", 0, 6));
        assert!(one.iter().flat_map(|o| &o.vector).all(|value| (0.0..=1.1).contains(value)));
        assert_ne!(one[0].vector, other[0].vector);
        assert_eq!(life("a", 2, 1), one[40..60]);
    }
}
