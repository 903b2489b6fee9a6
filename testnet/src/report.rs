//! What the demo found: `report.json`, `report.html` and the table on stdout, all made from one value.

mod graph;
mod html;
pub(crate) mod markup;
mod scatter;
mod table;
mod timeline;

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use anyhow::Context as _;
use dunlin_client::Standing;
use serde::Serialize;

pub(crate) use self::{markup::count, table::table, timeline::Timeline};
use crate::vts1::Series;

/// Writes `report.json` and `report.html` into a folder.
pub(crate) fn write(report: &Report, out: &Path) -> anyhow::Result<()> {
    let files = [("report.json", json(report)? + "\n"), ("report.html", html::page(report))];
    for (name, content) in files {
        let path = out.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Returns the content of `report.json`.
pub(crate) fn json(report: &Report) -> serde_json::Result<String> {
    serde_json::to_string_pretty(report)
}

/// Everything that the demo found. The first block of fields is what other programs rely on.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Peers, the bootstrap node and the liar not among them.
    pub(crate) peers: u64,
    /// Acknowledged observations.
    pub(crate) observations: u64,
    /// Sealed segments.
    pub(crate) segments: u64,
    /// Bytes of all observations as 32-bit floats over bytes of all summary blocks.
    pub(crate) ratio: f64,
    /// Root mean square error of reading the summaries back, in fractions of a channel's range, over all
    /// peers' observations.
    pub(crate) nrmse: f64,
    /// Share of the variance that the summaries explain; errors and variances are added over the peers.
    pub(crate) r2: f64,
    /// The ratio that fixed windows of each peer's error would have; `null` when a peer cannot tell.
    pub(crate) window_ratio: Option<f64>,
    /// Own segments in the peers' archives.
    pub(crate) archived: u64,
    /// Foreign segments that the newcomer fetched, whose bytes hash to their CID, and whose content is
    /// their maker's.
    pub(crate) fetched_verified: u64,
    /// Blocks that the newcomer refused because they hash to something else.
    pub(crate) corrupt_refused: u64,
    /// Templates that peers 1 to 5 released.
    pub(crate) templates_published: u64,
    /// Templates in the sets that the newcomer's gate let in.
    pub(crate) templates_adopted: u64,
    /// Most privacy loss that any peer's ledger shows: each peer's protects other observations, so they
    /// do not add up.
    pub(crate) epsilon_spent: f64,
    /// Average precision of the newcomer's scores by its six hours alone.
    pub(crate) ap_alone: Option<f64>,
    /// The same with the adopted templates.
    pub(crate) ap_with_templates: Option<f64>,
    /// The same with templates whose channels are shuffled, mean of several shuffles.
    pub(crate) ap_control: Option<f64>,
    /// Acknowledged observations that were not there bit for bit when read back.
    pub(crate) acked_lost: u64,
    /// From the first process's start to the last one's end.
    pub(crate) elapsed_s: f64,

    /// Acknowledged observations that were there more than once.
    pub(crate) acked_repeated: u64,
    /// Segments that the newcomer asked for.
    pub(crate) fetched_asked: u64,
    /// Template sets released.
    pub(crate) template_sets_published: u64,
    /// Template sets adopted.
    pub(crate) template_sets_adopted: u64,
    /// Size of all released sets, signed.
    pub(crate) template_bytes: u64,
    /// Average precision of a random score: the share of labelled observations.
    pub(crate) ap_random: f64,
    /// The control's average precision, shuffle by shuffle.
    pub(crate) ap_control_runs: Vec<f64>,
    /// As `ap_alone`, when the newcomer goes on learning while it scores.
    pub(crate) ap_alone_online: Option<f64>,
    /// As `ap_with_templates`, when the newcomer goes on learning while it scores.
    pub(crate) ap_with_templates_online: Option<f64>,
    /// From the last peer's first answer until every peer had met every other.
    pub(crate) discovery_s: f64,
    /// Durable observations per second, all peers together, the kill and the restart included.
    pub(crate) ingest_per_s: f64,
    /// What was replayed.
    pub(crate) data: Telemetry,
    /// The same figures for each peer.
    pub(crate) per_peer: Vec<PeerReport>,
    /// What the newcomer's gate said of each set.
    pub(crate) gate: Vec<GateReport>,
    /// The kill, and what it cost.
    pub(crate) crash: Option<Crash>,
    /// The question over the fetched segments.
    pub(crate) knn: Option<Knn>,
    /// The liar's block.
    pub(crate) lie: Option<Lie>,
    /// Who took part.
    pub(crate) nodes: Vec<NodeReport>,
    /// Who was connected to whom at the end, as the peers say.
    pub(crate) connections: Vec<Connection>,
    /// Who fetched what from whom.
    pub(crate) edges: Vec<Edge>,
    /// The newcomer's scores over its test half.
    pub(crate) timeline: Timeline,
    /// How long each step took.
    pub(crate) steps: Vec<StepTime>,
    /// Promises that did not hold; none is expected.
    pub(crate) problems: Vec<String>,
    /// CIDs that the newcomer holds although it did not make them.
    #[serde(skip)]
    pub(crate) fetched_cids: BTreeSet<String>,
}

/// What was replayed.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Telemetry {
    /// Entities, in the order of the peers.
    pub(crate) entities: Vec<String>,
    /// Channels of each observation.
    pub(crate) dim: u64,
    /// Seconds between two observations of the newcomer.
    pub(crate) step_s: u64,
    /// How much of its own past the newcomer knew.
    pub(crate) newcomer_past_s: u64,
    /// In observations.
    pub(crate) newcomer_past_observations: u64,
    /// The newcomer's scored observations.
    pub(crate) test_observations: u64,
    /// Of these, how many are labelled as an incident.
    pub(crate) labelled_observations: u64,
}

/// One peer's figures.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct PeerReport {
    pub(crate) name: String,
    pub(crate) peer: String,
    pub(crate) entity: String,
    pub(crate) observations: u64,
    pub(crate) segments: u64,
    pub(crate) raw_bytes: u64,
    /// Summary blocks alone; `archive_bytes` has the observations too.
    pub(crate) stored_bytes: u64,
    pub(crate) ratio: f64,
    pub(crate) nrmse: f64,
    pub(crate) r2: f64,
    pub(crate) window_ratio: Option<f64>,
    pub(crate) window_observations: Option<f64>,
    pub(crate) archived: u64,
    pub(crate) archive_bytes: u64,
    pub(crate) epsilon_spent: f64,
    pub(crate) resident_bytes: Option<u64>,
}

/// What the newcomer's gate said of one peer's templates.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GateReport {
    pub(crate) from: String,
    pub(crate) templates: u64,
    pub(crate) adopted: bool,
    pub(crate) own_q90: Option<f64>,
    pub(crate) foreign_q90: Option<f64>,
    pub(crate) reason: String,
}

/// A SIGKILL in the middle of ingest.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Crash {
    pub(crate) peer: String,
    pub(crate) ended: String,
    /// Observations acknowledged before it died.
    pub(crate) acked: u64,
    /// Of these, how many were gone after the restart.
    pub(crate) lost: u64,
    /// Of these, how many were there twice.
    pub(crate) repeated: u64,
    /// From the restart to the first answer.
    pub(crate) restart_s: f64,
}

/// A question over fetched segments.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Knn {
    pub(crate) searched: u64,
    pub(crate) k: u64,
    pub(crate) found: u64,
    pub(crate) agrees_with_brute_force: bool,
    pub(crate) nearest_entity: Option<String>,
    pub(crate) nearest_distance: Option<f64>,
}

/// A block with a flipped byte.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Lie {
    pub(crate) cid: String,
    /// The newcomer saw that the bytes are others.
    pub(crate) refused: bool,
    /// And got the right ones from somebody else.
    pub(crate) then_verified: bool,
    /// What the newcomer thinks of the liar since, 0 to 1.
    pub(crate) trust: Option<f64>,
    /// And how it therefore treats it.
    pub(crate) standing: Option<Standing>,
}

/// What a process was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    Peer,
    Bootstrap,
    Liar,
}

/// One process that took part.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NodeReport {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) peer: String,
    pub(crate) entity: Option<String>,
}

/// An open connection, whoever dialed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Connection {
    pub(crate) a: String,
    pub(crate) b: String,
}

/// What was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EdgeKind {
    /// Segments whose bytes hash to their CID.
    Segments,
    /// Templates.
    Templates,
    /// Bytes that do not, and were refused.
    Refused,
}

/// How much one process fetched from another.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Edge {
    /// Who served.
    pub(crate) from: String,
    /// Who fetched.
    pub(crate) to: String,
    pub(crate) kind: EdgeKind,
    pub(crate) count: u64,
}

/// How long a step took.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StepTime {
    pub(crate) step: String,
    pub(crate) elapsed_s: f64,
}

impl Telemetry {
    /// Describes what is replayed; the last entity is the newcomer's.
    pub(crate) fn of(series: &[Series], past_rows: usize, past: Duration) -> Self {
        let newcomer = series.last();
        let labels = newcomer.map_or(&[][..], Series::labels);
        Self {
            entities: series.iter().map(|series| series.entity.clone()).collect(),
            dim: newcomer.map_or(0, |series| series.dims as u64),
            step_s: newcomer.map_or(0, |series| series.step_s),
            newcomer_past_s: past.as_secs(),
            newcomer_past_observations: past_rows as u64,
            test_observations: labels.len() as u64,
            labelled_observations: labels.iter().filter(|label| **label).count() as u64,
        }
    }
}

impl Report {
    /// Adds up what the peers reported one by one.
    pub(crate) fn pool(&mut self) {
        let sum = |of: fn(&PeerReport) -> u64| self.per_peer.iter().map(of).sum::<u64>();
        let (raw, stored) = (sum(|p| p.raw_bytes) as f64, sum(|p| p.stored_bytes) as f64);
        self.peers = self.per_peer.len() as u64;
        self.segments = sum(|p| p.segments);
        self.archived = sum(|p| p.archived);
        self.ratio = quotient(raw, stored);
        let windows = self.per_peer.iter().map(|p| p.window_ratio.map(|w| p.raw_bytes as f64 / w));
        self.window_ratio = windows.sum::<Option<f64>>().map(|bytes| quotient(raw, bytes));

        // All peers have the same channels and ranges, so squared errors weigh by observations.
        let observations = sum(|p| p.observations) as f64;
        let errors = |p: &PeerReport| p.observations as f64 * p.nrmse * p.nrmse;
        let error = self.per_peer.iter().map(errors).sum::<f64>();
        self.nrmse = quotient(error, observations).sqrt();
        // R2 = 1 - error / variance, so error / (1 - R2) is the variance. A constant has neither.
        let variances =
            self.per_peer.iter().map(|p| if p.r2 < 1.0 { errors(p) / (1.0 - p.r2) } else { 0.0 });
        self.r2 = 1.0 - quotient(error, variances.sum());
        self.epsilon_spent = self.per_peer.iter().map(|p| p.epsilon_spent).fold(0.0, f64::max);
    }

    /// Writes down which promises did not hold.
    pub(crate) fn check(&mut self) {
        let crash_lost = self.crash.as_ref().map_or(0, |crash| crash.lost + crash.repeated);
        let knn_wrong = self.knn.as_ref().is_none_or(|knn| !knn.agrees_with_brute_force);
        let lie_believed = self.lie.as_ref().is_none_or(|lie| !lie.refused || !lie.then_verified);
        let checks = [
            (
                self.acked_lost > 0 || crash_lost > 0,
                format!("{} acknowledged observations were lost", self.acked_lost.max(crash_lost)),
            ),
            (
                self.acked_repeated > 0,
                format!("{} observations were there more than once", self.acked_repeated),
            ),
            (
                self.archived != self.segments,
                format!("{} of {} segments were archived", self.archived, self.segments),
            ),
            (
                self.fetched_verified != self.fetched_asked,
                format!(
                    "{} of {} segments were fetched",
                    self.fetched_verified, self.fetched_asked
                ),
            ),
            (knn_wrong, "the nearest regimes are not those of brute force".to_owned()),
            (
                lie_believed || self.corrupt_refused == 0,
                "the corrupted block was not refused and replaced".to_owned(),
            ),
        ];
        self.problems
            .extend(checks.into_iter().filter_map(|(broken, what)| broken.then_some(what)));
    }

    /// Returns what a peer id is called here.
    pub(crate) fn node_name(&self, peer: &str) -> Option<&str> {
        self.nodes.iter().find(|node| node.peer == peer).map(|node| node.name.as_str())
    }

    /// Adds to what `to` has fetched from the peer with this id.
    pub(crate) fn add_edge(&mut self, from: &str, to: &str, kind: EdgeKind, count: u64) {
        let from = self.node_name(from).unwrap_or(from).to_owned();
        let same = |edge: &&mut Edge| {
            (edge.from.as_str(), edge.to.as_str(), edge.kind) == (&from, to, kind)
        };
        match self.edges.iter_mut().find(same) {
            Some(edge) => edge.count += count,
            None => self.edges.push(Edge { from, to: to.to_owned(), kind, count }),
        }
    }
}

/// Divides; nothing over nothing is nothing.
fn quotient(numerator: f64, denominator: f64) -> f64 {
    if denominator > 0.0 { numerator / denominator } else { 0.0 }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report as a run leaves it, small enough to check by hand.
    pub(crate) fn sample() -> Report {
        let peer = |name: &str, nrmse, r2, stored_bytes| PeerReport {
            name: name.to_owned(),
            peer: format!("12D3Koo{}", &name[5..]),
            entity: format!("<omi & {}>", &name[5..]),
            observations: 100,
            segments: 4,
            raw_bytes: 8_000,
            stored_bytes,
            ratio: 8_000.0 / stored_bytes as f64,
            nrmse,
            r2,
            window_ratio: Some(20.0),
            window_observations: Some(25.0),
            archived: 4,
            archive_bytes: 3_000,
            epsilon_spent: 1.0,
            resident_bytes: Some(30 << 20),
        };
        let node = |name: &str, role, peer: &str| NodeReport {
            name: name.to_owned(),
            role,
            peer: peer.to_owned(),
            entity: None,
        };
        let series = &crate::vts1::Dataset::embedded().unwrap().read_alike(6).unwrap();
        let labels = series[5].labels();
        let alone: Vec<f64> = (0..labels.len()).map(|row| (row % 97) as f64 / 97.0).collect();
        let with: Vec<f64> = labels.iter().map(|label| if *label { 0.9 } else { 0.2 }).collect();
        let mut report = Report {
            observations: 200,
            fetched_verified: 50,
            fetched_asked: 50,
            corrupt_refused: 1,
            templates_published: 80,
            templates_adopted: 48,
            ap_alone: Some(0.145),
            ap_with_templates: Some(0.51),
            ap_control: None,
            elapsed_s: 41.25,
            data: Telemetry::of(series, 72, Duration::from_secs(21_600)),
            per_peer: vec![peer("peer 1", 0.03, 0.9, 400), peer("peer 6", 0.05, 0.8, 200)],
            nodes: vec![
                node("peer 1", Role::Peer, "12D3Koo1"),
                node("peer 6", Role::Peer, "12D3Koo6"),
                node("bootstrap", Role::Bootstrap, "12D3KooB"),
                node("liar", Role::Liar, "12D3KooL"),
            ],
            connections: vec![Connection { a: "bootstrap".to_owned(), b: "peer 1".to_owned() }],
            timeline: Timeline::new(&series[5], &alone, &with),
            gate: vec![GateReport {
                from: "peer 1".to_owned(),
                templates: 16,
                adopted: true,
                own_q90: Some(0.1),
                foreign_q90: None,
                reason: "q90 0.11 <= 1.25 x 0.10".to_owned(),
            }],
            crash: Some(Crash {
                peer: "peer 1".to_owned(),
                ended: "by signal 9".to_owned(),
                acked: 60,
                lost: 0,
                repeated: 0,
                restart_s: 0.2,
            }),
            knn: Some(Knn {
                searched: 50,
                k: 5,
                found: 5,
                agrees_with_brute_force: true,
                nearest_entity: Some("omi-1".to_owned()),
                nearest_distance: Some(0.25),
            }),
            lie: Some(Lie {
                cid: "bafy".to_owned(),
                refused: true,
                then_verified: true,
                trust: Some(0.2),
                standing: Some(Standing::Quarantined),
            }),
            steps: vec![StepTime { step: "ingest".to_owned(), elapsed_s: 3.5 }],
            ..Report::default()
        };
        report.add_edge("12D3Koo1", "peer 6", EdgeKind::Segments, 10);
        report.add_edge("12D3Koo1", "peer 6", EdgeKind::Templates, 16);
        report.add_edge("12D3KooL", "peer 6", EdgeKind::Refused, 1);
        report.pool();
        report
    }

    #[test]
    fn figures_are_pooled_over_the_peers() {
        let report = sample();
        assert_eq!((report.peers, report.segments, report.archived), (2, 8, 8));
        assert!((report.ratio - 16_000.0 / 600.0).abs() < 1e-12);
        assert!((report.window_ratio.unwrap() - 20.0).abs() < 1e-12);
        assert!((report.nrmse - f64::sqrt((0.0009 + 0.0025) / 2.0)).abs() < 1e-12);
        // Errors .09 and .25 against variances .9 and 1.25.
        assert!((report.r2 - (1.0 - 0.34 / 2.15)).abs() < 1e-12);
        assert!((report.epsilon_spent - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_run_without_faults_has_no_problems() {
        let mut report = sample();
        report.check();
        assert_eq!(report.problems, Vec::<String>::new());
    }

    #[test]
    fn every_broken_promise_is_a_problem() {
        let breaks: [fn(&mut Report); 7] = [
            |r| r.acked_lost = 3,
            |r| r.acked_repeated = 3,
            |r| r.archived = 7,
            |r| r.fetched_verified = 49,
            |r| r.knn = None,
            |r| r.corrupt_refused = 0,
            |r| r.lie = None,
        ];
        for broken in breaks {
            let mut report = sample();
            broken(&mut report);
            report.check();
            assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
        }
    }

    #[test]
    fn the_keys_that_others_rely_on_are_there() {
        let json: serde_json::Value = serde_json::from_str(&json(&sample()).unwrap()).unwrap();
        for key in [
            "peers",
            "observations",
            "segments",
            "ratio",
            "nrmse",
            "r2",
            "window_ratio",
            "archived",
            "fetched_verified",
            "corrupt_refused",
            "templates_published",
            "templates_adopted",
            "epsilon_spent",
            "ap_alone",
            "ap_with_templates",
            "ap_control",
            "acked_lost",
            "elapsed_s",
            "per_peer",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert_eq!(json["peers"], 2);
    }
}
