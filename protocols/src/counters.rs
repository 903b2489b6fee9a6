//! What the network did, as plain numbers.

/// Counts since the start. The shell exports them as metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Requests of peers for segments, blocks, templates and replicas that were answered.
    pub requests_served: u64,
    /// Requests of peers that the gate refused.
    pub requests_denied: u64,
    /// Requests of peers that were refused because they came too fast or too many were under way.
    pub requests_busy: u64,
    /// Requests of peers that the node failed to answer.
    pub requests_failed: u64,
    /// Own requests of these kinds that were answered.
    pub answers_received: u64,
    /// Own requests that timed out.
    pub timeouts: u64,
    /// Own requests that failed for another reason.
    pub failures: u64,
    /// Own requests that were not sent, because the gate refused.
    pub asks_denied: u64,
    /// Streams that carried something other than a message of ours.
    pub violations: u64,
    /// Blocks that did not hash to their CID.
    pub wrong_cids: u64,
    /// Bitswap messages with a block that was not asked for, or with bytes that are not what was.
    pub blocks_unasked: u64,
    /// Bitswap wants of peers that were passed over: beyond a limit, or for what nobody here can name.
    pub wants_refused: u64,
    /// Bitswap wants of peers that stand now.
    pub wants_standing: u64,
    /// Bytes of blocks received and verified.
    pub block_bytes_received: u64,
    /// Bytes of blocks served.
    pub block_bytes_served: u64,
    /// Announcements heard and passed on.
    pub announcements_accepted: u64,
    /// Announcements that were old news, came too fast, or were of a peer that is not heard.
    pub announcements_ignored: u64,
    /// Announcements that were malformed or badly signed.
    pub announcements_rejected: u64,
    /// Reports of trusted peers about others that counted.
    pub reports_heard: u64,
    /// Proofs of misconduct that counted.
    pub proofs_taken: u64,
    /// Licenses of peers that do not open this network.
    pub licenses_refused: u64,
    /// Keys that were revoked since the start.
    pub keys_revoked: u64,
    /// Revocations that were forged or malformed.
    pub revocations_rejected: u64,
    /// Revocations that were passed over for want of room, to be asked for again.
    pub revocations_passed_over: u64,
    /// Events that were dropped because the shell did not keep up.
    pub events_dropped: u64,
    /// Connections refused because there are too many.
    pub connections_refused: u64,
    /// Connections refused because their address holds or opens too many.
    pub connections_refused_by_address: u64,
    /// Senders of first packets of QUIC connections that were asked to prove their address.
    pub quic_asked: u64,
    /// QUIC connections that were refused before they began: too many, of one address or in all.
    pub quic_refused: u64,
    /// First packets of QUIC connections that came too fast for any answer.
    pub quic_ignored: u64,
    /// Connections closed because the peer is revoked, or of another network.
    pub connections_closed: u64,
    /// Bytes of streams that went to peers.
    pub bytes_sent: u64,
    /// Bytes of streams that came from peers.
    pub bytes_received: u64,
    /// Peers that this node dialled back, as they asked.
    pub probes_served: u64,
    /// Places at this relay that were given or renewed.
    pub relay_reservations: u64,
    /// Connections that this relay began to carry.
    pub relay_circuits: u64,
    /// Places and connections that this relay refused.
    pub relay_refused: u64,
    /// Relayed connections that direct ones took the place of.
    pub upgrades: u64,
    /// Tries to do so that failed.
    pub upgrades_failed: u64,
    /// Dials that were refused because a peer named an address that it has no business to name, or too many.
    pub told_dials_refused: u64,
    /// Records of others that were taken into the DHT store.
    pub records_stored: u64,
    /// Records that peers wanted to put into the DHT store and that were not taken.
    pub records_refused: u64,
}
