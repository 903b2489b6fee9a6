//! What an engine has counted since it was opened; the shell exports it.

/// Counts since the engine was opened. They start again at zero with every opening, and replayed
/// records are not counted twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Observations accepted and durable.
    pub observations_accepted: u64,
    /// Observations that were known already.
    pub observations_duplicate: u64,
    /// Observations dropped because they came too late.
    pub observations_late: u64,
    /// Observations within the threshold of an own past regime, which was nearest. What was observed before
    /// anything was known, or while the entity's past was not in memory, is in none of these three.
    pub observations_like_own: u64,
    /// Observations within the threshold of a reference, which was nearest.
    pub observations_like_reference: u64,
    /// Observations farther than the threshold from everything known.
    pub observations_unlike: u64,
    /// Writes refused, for whatever reason.
    pub writes_refused: u64,
    /// Entities removed, with all their segments.
    pub entities_removed: u64,
    /// Segments sealed.
    pub segments_sealed: u64,
    /// Sealed segments within the threshold of an own past regime, which was nearest. The first of each entity
    /// is in none of these three, unless references are known.
    pub segments_like_own: u64,
    /// Sealed segments within the threshold of a reference, which was nearest.
    pub segments_like_reference: u64,
    /// Sealed segments farther than the threshold from everything known.
    pub segments_unlike: u64,
    /// Bytes of the sealed segments' own blocks.
    pub segment_bytes: u64,
    /// Bytes of the sealed segments' payload blocks.
    pub payload_bytes: u64,
    /// Records appended to the log: group commits.
    pub log_records: u64,
    /// Bytes appended to the log.
    pub log_bytes: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Times that a writer waited because too much waited for the log already.
    pub queue_full: u64,
    /// Times that the pasts in memory were dropped because they took too much memory.
    pub baseline_cache_drops: u64,
}
