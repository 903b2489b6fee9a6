//! Metrics for Prometheus, made from the rooms' plain counters when they are asked for.

use std::sync::{Arc, atomic::Ordering};

use axum::{extract::State, http::header::CONTENT_TYPE, response::IntoResponse};
use dunlin_protocols::Handle;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::{
    error::ApiError,
    segments::archive_if_readable,
    status::{Totals, resident_bytes},
};
use crate::{
    daemon::{BundleCounters, Kept, RecoveryCounts, Shared},
    gateway,
};

/// What Prometheus is told that it gets.
pub(crate) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn metrics(
    State(shared): State<Arc<Shared>>,
) -> Result<impl IntoResponse, ApiError> {
    let text = Sample::take(&shared).await?.encode().map_err(ApiError::internal)?;
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], text))
}

/// Meanings of gauges that every kind of node has.
const CONNECTED: &str = "Connected peers";
const RESIDENT: &str = "Resident memory";

/// Name, meaning and place of a room's counter.
type Row<T> = (&'static str, &'static str, fn(&T) -> u64);

const RECOVERY: [Row<RecoveryCounts>; 8] = [
    ("recovery_same", "Comparisons that found an own peer to know the same", |counts| counts.same),
    ("recovery_different", "Comparisons that found it to know something else", |counts| {
        counts.different
    }),
    ("recovery_failed", "Comparisons that failed", |counts| counts.failed),
    ("recovery_segments", "Segments that came from own peers", |counts| counts.recovered),
    ("recovery_bytes", "Bytes of blocks that came for it", |counts| counts.bytes),
    ("recovery_statements", "Statements about conflicts that were kept", |counts| {
        counts.statements
    }),
    ("recovery_statements_refused", "Statements that were refused", |counts| {
        counts.statements_refused
    }),
    (
        "recovery_unseen",
        "Segments of which not all was looked at that may contradict them",
        |counts| counts.unseen,
    ),
];

const ENGINE: [Row<dunlin_engine::Counters>; 19] = [
    ("engine_observations_accepted", "Observations taken in and durable", |engine| {
        engine.observations_accepted
    }),
    ("engine_observations_duplicate", "Observations that were known already", |engine| {
        engine.observations_duplicate
    }),
    ("engine_observations_late", "Observations that came too late", |engine| {
        engine.observations_late
    }),
    (
        "engine_observations_like_own",
        "Observations within the threshold of a past regime of their entity",
        |engine| engine.observations_like_own,
    ),
    (
        "engine_observations_like_template",
        "Observations within the threshold of an adopted template, which was nearest",
        |engine| engine.observations_like_reference,
    ),
    (
        "engine_observations_unlike",
        "Observations farther than the threshold from everything known",
        |engine| engine.observations_unlike,
    ),
    ("engine_writes_refused", "Writes refused for whatever reason", |engine| engine.writes_refused),
    ("engine_entities_removed", "Entities removed", |engine| engine.entities_removed),
    ("engine_segments_sealed", "Segments sealed", |engine| engine.segments_sealed),
    (
        "engine_segments_like_own",
        "Sealed segments within the threshold of a past regime of their entity",
        |engine| engine.segments_like_own,
    ),
    (
        "engine_segments_like_template",
        "Sealed segments within the threshold of an adopted template, which was nearest",
        |engine| engine.segments_like_reference,
    ),
    (
        "engine_segments_unlike",
        "Sealed segments farther than the threshold from everything known",
        |engine| engine.segments_unlike,
    ),
    ("engine_segment_bytes", "Bytes of sealed segments' own blocks", |engine| engine.segment_bytes),
    ("engine_payload_bytes", "Bytes of sealed segments' payload blocks", |engine| {
        engine.payload_bytes
    }),
    ("engine_log_records", "Records appended to the log", |engine| engine.log_records),
    ("engine_log_bytes", "Bytes appended to the log", |engine| engine.log_bytes),
    ("engine_checkpoints", "Checkpoints written", |engine| engine.checkpoints),
    ("engine_queue_full", "Waits because too much waited for the log", |engine| engine.queue_full),
    ("engine_baseline_cache_drops", "Times the baseline cache was dropped", |engine| {
        engine.baseline_cache_drops
    }),
];

const NETWORK: [Row<dunlin_protocols::Counters>; 41] = [
    ("protocols_requests_served", "Requests of peers answered", |network| network.requests_served),
    ("protocols_requests_denied", "Requests of peers that the gate refused", |network| {
        network.requests_denied
    }),
    ("protocols_requests_busy", "Requests of peers refused by rate or room", |network| {
        network.requests_busy
    }),
    ("protocols_requests_failed", "Requests of peers that this node failed to answer", |network| {
        network.requests_failed
    }),
    ("protocols_answers_received", "Own requests answered", |network| network.answers_received),
    ("protocols_timeouts", "Own requests that timed out", |network| network.timeouts),
    ("protocols_failures", "Own requests that failed otherwise", |network| network.failures),
    ("protocols_asks_denied", "Own requests that the gate did not allow", |network| {
        network.asks_denied
    }),
    ("protocols_violations", "Streams that broke a protocol", |network| network.violations),
    ("protocols_wrong_cids", "Blocks that did not hash to their CID", |network| network.wrong_cids),
    (
        "protocols_blocks_unasked",
        "Bitswap messages with a block that was not asked for, or with other bytes than were",
        |network| network.blocks_unasked,
    ),
    ("protocols_wants_refused", "Bitswap wants of peers that found no room", |network| {
        network.wants_refused
    }),
    ("protocols_sent_bytes", "Bytes of streams that went to peers", |network| network.bytes_sent),
    ("protocols_received_bytes", "Bytes of streams that came from peers", |network| {
        network.bytes_received
    }),
    ("protocols_probes_served", "Peers that were dialed back, as they asked", |network| {
        network.probes_served
    }),
    ("protocols_relay_reservations", "Places at this relay, given or renewed", |network| {
        network.relay_reservations
    }),
    ("protocols_relay_circuits", "Connections that this relay began to carry", |network| {
        network.relay_circuits
    }),
    ("protocols_relay_refused", "Places and connections that this relay refused", |network| {
        network.relay_refused
    }),
    ("protocols_upgrades", "Relayed connections that direct ones replaced", |network| {
        network.upgrades
    }),
    ("protocols_upgrades_failed", "Tries to replace a relayed connection that failed", |network| {
        network.upgrades_failed
    }),
    (
        "protocols_told_dials_refused",
        "Dials refused because of the addresses that a peer named, or how many",
        |network| network.told_dials_refused,
    ),
    ("protocols_block_received_bytes", "Bytes of blocks received and verified", |network| {
        network.block_bytes_received
    }),
    ("protocols_block_served_bytes", "Bytes of blocks served", |network| {
        network.block_bytes_served
    }),
    ("protocols_announcements_accepted", "Announcements heard and passed on", |network| {
        network.announcements_accepted
    }),
    (
        "protocols_announcements_ignored",
        "Announcements that were old, too frequent, or of a peer that is not heard",
        |network| network.announcements_ignored,
    ),
    (
        "protocols_announcements_rejected",
        "Announcements that were malformed or forged",
        |network| network.announcements_rejected,
    ),
    ("protocols_events_dropped", "Events dropped because the node did not keep up", |network| {
        network.events_dropped
    }),
    (
        "protocols_connections_refused",
        "Connections refused because there are too many",
        |network| network.connections_refused,
    ),
    (
        "protocols_connections_refused_by_address",
        "Connections refused because their address holds or opens too many",
        |network| network.connections_refused_by_address,
    ),
    (
        "protocols_quic_asked",
        "Senders of first QUIC packets that were asked to prove their address",
        |network| network.quic_asked,
    ),
    ("protocols_quic_refused", "QUIC connections refused before they began", |network| {
        network.quic_refused
    }),
    ("protocols_quic_ignored", "First QUIC packets that came too fast for any answer", |network| {
        network.quic_ignored
    }),
    (
        "protocols_connections_closed",
        "Connections closed: revoked, or of another network",
        |network| network.connections_closed,
    ),
    ("protocols_licenses_refused", "Licenses of peers that do not open this network", |network| {
        network.licenses_refused
    }),
    ("trust_keys_revoked", "Keys revoked since the start", |network| network.keys_revoked),
    ("trust_reports_heard", "Reports of trusted peers about others that counted", |network| {
        network.reports_heard
    }),
    ("trust_proofs_taken", "Proofs of misconduct that counted", |network| network.proofs_taken),
    ("protocols_revocations_rejected", "Revocations that were forged or malformed", |network| {
        network.revocations_rejected
    }),
    (
        "protocols_revocations_passed_over",
        "Revocations passed over for want of room, to be asked for again",
        |network| network.revocations_passed_over,
    ),
    ("protocols_records_stored", "DHT records of others taken", |network| network.records_stored),
    ("protocols_records_refused", "DHT records refused", |network| network.records_refused),
];

const GATEWAY: [Row<gateway::Counters>; 4] = [
    ("gateway_requests", "Requests to the gateway answered, whatever the answer", |gateway| {
        gateway.answered.load(Ordering::Relaxed)
    }),
    ("gateway_requests_served", "Requests to the gateway answered with content", |gateway| {
        gateway.served.load(Ordering::Relaxed)
    }),
    ("gateway_requests_busy", "Requests to the gateway refused for want of room", |gateway| {
        gateway.busy.load(Ordering::Relaxed)
    }),
    ("gateway_cars_cut", "CARs cut off: a block was missing, or a limit was reached", |gateway| {
        gateway.cut.load(Ordering::Relaxed)
    }),
];

const BUNDLES: [Row<BundleCounters>; 4] = [
    ("bundles_made", "Bundles made", |bundles| bundles.made.load(Ordering::Relaxed)),
    ("bundles_cut", "Bundles that were not written to their end", |bundles| {
        bundles.cut.load(Ordering::Relaxed)
    }),
    ("bundles_imported", "Bundles of peers taken in", |bundles| {
        bundles.imported.load(Ordering::Relaxed)
    }),
    ("bundles_refused", "Bundles of peers refused, or cut off on their way", |bundles| {
        bundles.refused.load(Ordering::Relaxed)
    }),
];

const REPLICATION: [Row<dunlin_archive::replication::Counters>; 8] = [
    ("archive_replicas_placed", "Copies that peers confirmed", |replicas| replicas.placed),
    ("archive_replicas_refused", "Copies that peers refused", |replicas| replicas.refused),
    (
        "archive_replicas_lost",
        "Copies lost: the peer left, lost standing, or failed a proof",
        |replicas| replicas.lost,
    ),
    ("archive_replicas_released", "Copies that peers let go of when told", |replicas| {
        replicas.released
    }),
    ("archive_replica_challenges", "Challenges sent to peers", |replicas| replicas.challenges),
    ("archive_replica_challenges_unanswered", "Challenges without an answer", |replicas| {
        replicas.challenges_unanswered
    }),
    ("archive_replica_proofs_right", "Blocks that peers proved to hold", |replicas| {
        replicas.proofs_right
    }),
    ("archive_replica_proofs_failed", "Blocks that peers failed to prove", |replicas| {
        replicas.proofs_failed
    }),
];

const KEPT: [Row<Kept>; 4] = [
    ("archive_kept_objects_stored", "Objects of peers stored because they asked", |kept| {
        kept.stored.load(Ordering::Relaxed)
    }),
    (
        "archive_kept_objects_refused",
        "Objects of peers refused: no room, or not for them",
        |kept| kept.refused.load(Ordering::Relaxed),
    ),
    ("archive_kept_objects_released", "Objects of peers let go of when told", |kept| {
        kept.released.load(Ordering::Relaxed)
    }),
    ("archive_kept_proofs", "Blocks proved to peers", |kept| kept.proofs.load(Ordering::Relaxed)),
];

/// All numbers at one moment.
#[derive(Debug)]
pub(crate) struct Sample {
    counters: Vec<(&'static str, &'static str, u64)>,
    gauges: Vec<(&'static str, &'static str, f64)>,
}

impl Sample {
    async fn take(shared: &Arc<Shared>) -> Result<Self, ApiError> {
        let network = shared.network.counters().await;
        let connected = shared.network.connected().await.len();
        let engine = shared.engine.counters();
        // It waits while a part is put in its place.
        let index = shared.blocking(|shared| shared.engine.index_status()).await;
        let totals = shared.blocking(Totals::of).await?;
        let archive = archive_if_readable(shared).await;
        // A release holds the ledger for as long as it takes, so this may have to wait.
        let epsilon_spent = shared
            .blocking(|shared| {
                let ledger = shared.sharing.ledger();
                ledger.entries().iter().map(|entry| entry.epsilon.as_f64()).sum()
            })
            .await;
        #[expect(clippy::cast_precision_loss, reason = "gauges are for graphs")]
        let gauge = |count: u64| count as f64;
        Ok(Self {
            counters: rows(&ENGINE, &engine)
                .chain(rows(&NETWORK, &network))
                .chain(rows(&GATEWAY, &shared.gateway))
                .chain(rows(&BUNDLES, &shared.bundle_counters))
                .chain(rows(&REPLICATION, &shared.replicas.status().counters))
                .chain(rows(&KEPT, shared.replicas.kept()))
                .chain(rows(&RECOVERY, &shared.recovery.counts()))
                .collect(),
            gauges: vec![
                ("node_uptime_seconds", "Seconds since the start", shared.uptime().as_secs_f64()),
                ("node_resident_bytes", RESIDENT, gauge(resident_bytes().unwrap_or(0))),
                (
                    "node_problems",
                    "Parts that are degraded",
                    gauge(shared.observed().problems.len() as u64),
                ),
                ("engine_collections", "Collections", gauge(totals.collections)),
                ("engine_entities", "Entities", gauge(totals.entities)),
                ("engine_observations", "Acknowledged observations", gauge(totals.observations)),
                ("engine_segments", "Sealed segments", gauge(totals.segments)),
                ("engine_index_parts", "Parts of the index in memory", gauge(index.parts)),
                ("engine_index_bytes", "Bytes of memory they take", gauge(index.bytes)),
                (
                    "engine_index_tail_segments",
                    "Sealed segments that the index has not taken in yet",
                    gauge(index.tail),
                ),
                ("archive_segments", "Archived segments", gauge(archive.archived)),
                (
                    "archive_due_segments",
                    "Sealed segments that are not archived yet",
                    gauge(archive.due),
                ),
                ("archive_fetched_segments", "Segments fetched from peers", gauge(archive.fetched)),
                (
                    "archive_replicated_objects",
                    "Objects that have all the copies they shall have",
                    gauge(archive.replicated),
                ),
                (
                    "archive_under_replicated_objects",
                    "Objects that have fewer copies than they shall have",
                    gauge(archive.under_replicated),
                ),
                ("archive_blocks", "Blocks in the store", gauge(archive.blocks)),
                ("archive_bytes", "Bytes in the store", gauge(archive.bytes)),
                (
                    "archive_backend_reachable",
                    "Whether the archive's backend answers",
                    gauge(archive.backend.reachable.into()),
                ),
                (
                    "archive_backend_placed_roots",
                    "Roots that a backend keeps beside the store",
                    gauge(archive.backend.placed),
                ),
                (
                    "archive_backend_due_roots",
                    "Roots that wait for that backend",
                    gauge(archive.backend.due),
                ),
                (
                    "archive_roots_provided",
                    "Roots and objects that the DHT was told of",
                    gauge(archive.providing.provided),
                ),
                (
                    "archive_roots_due",
                    "Roots and objects that the DHT is to be told of",
                    gauge(archive.providing.due),
                ),
                (
                    "archive_roots_failed",
                    "Roots and objects of which nobody heard when that was last tried",
                    gauge(archive.providing.failed),
                ),
                (
                    "archive_name_sequence",
                    "Number of the newest record of the node's name",
                    gauge(archive.published.as_ref().map_or(0, |published| published.sequence)),
                ),
                (
                    "archive_name_failures",
                    "How often that record was put on the DHT in vain since it last was not",
                    gauge(archive.published.map_or(0, |published| published.failures.into())),
                ),
                (
                    "recovery_conflicts",
                    "Conflicts between segments of own peers",
                    gauge(archive.recovery.conflicts),
                ),
                ("protocols_peers_connected", CONNECTED, gauge(connected as u64)),
                (
                    "privacy_epsilon_spent",
                    "Privacy loss of all releases, summed over collections",
                    epsilon_spent,
                ),
            ],
        })
    }
}

impl Sample {
    /// Takes what a node tells that has nothing but a network.
    pub(crate) async fn of_network(network: &Handle) -> Self {
        let connected = network.connected().await.len();
        Self {
            counters: rows(&NETWORK, &network.counters().await).collect(),
            gauges: vec![
                ("protocols_peers_connected", CONNECTED, connected as u64 as f64),
                ("node_resident_bytes", RESIDENT, resident_bytes().unwrap_or(0) as f64),
            ],
        }
    }

    /// Returns all counters: name, meaning and value.
    pub(crate) fn counters(&self) -> &[(&'static str, &'static str, u64)] {
        &self.counters
    }

    /// Returns all gauges likewise.
    pub(crate) fn gauges(&self) -> &[(&'static str, &'static str, f64)] {
        &self.gauges
    }

    /// Returns it as Prometheus reads it.
    pub(crate) fn encode(self) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// Reads the counters of a room.
fn rows<T>(
    table: &'static [Row<T>],
    counters: &T,
) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
    table.iter().map(|(name, help, read)| (*name, *help, read(counters)))
}

impl Collector for Sample {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, help, value) in &self.counters {
            let counter = ConstCounter::new(*value);
            let name = format!("dunlin_{name}");
            counter.encode(encoder.encode_descriptor(
                &name,
                help,
                None,
                counter.metric_type(),
            )?)?;
        }
        for (name, help, value) in &self.gauges {
            let gauge = ConstGauge::new(*value);
            let name = format!("dunlin_{name}");
            gauge.encode(encoder.encode_descriptor(&name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
