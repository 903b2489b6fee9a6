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
    /// Writes refused, for whatever reason.
    pub writes_refused: u64,
    /// Entities removed, with all their segments.
    pub entities_removed: u64,
    /// Segments sealed.
    pub segments_sealed: u64,
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
    /// Times that the cached baselines were dropped because they took too much memory.
    pub baseline_cache_drops: u64,
}
