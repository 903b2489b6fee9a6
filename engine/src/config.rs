//! What an operator may choose about one engine, and what nobody may.

/// How one engine uses memory and disk. None of it changes which segments are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// A checkpoint follows after this many bytes of log. Default 32 MiB. Higher values checkpoint less
    /// often and make a restart after a crash replay more. Safe range: 1 MiB to 1 GiB.
    pub checkpoint_log_bytes: u64,
    /// Cache of the segment store, in bytes. Default 8 MiB. Higher values answer repeated questions
    /// faster and use that much more memory. Safe range: 1 MiB to as much as the machine can spare.
    pub store_cache_bytes: usize,
    /// Past regimes kept in memory for novelty and for matching what comes in, in bytes over all entities.
    /// Default 64 MiB. When it is full they are dropped and read again when an entity seals, and up to half of
    /// it when one is observed; until then nothing is said of what that entity is like. Safe range: 1 MiB up.
    pub baseline_cache_bytes: usize,
    /// Newest segments of a collection that questions compare one by one, before the index takes them in.
    /// Default 5,000, from where a graph pays. Safe range: 100 to 50,000.
    pub index_tail_segments: usize,
    /// Most segments in one part of the index. Default 250,000, of which one part of 38 channels takes
    /// about 90 MB of memory. Larger parts answer faster and take more memory and time to make. Safe
    /// range: 10,000 to 10,000,000.
    pub index_part_segments: usize,
    /// Memory that the index takes, in bytes, from which on no more of it is read or made: the segments that
    /// it lacks are read from the store by every question. Default 2 GiB; about 380 MiB hold 1,000,000
    /// segments of 38 channels. Safe range: 16 MiB to as much as the machine can spare.
    pub index_memory_bytes: u64,
}

impl Config {
    /// Most collections in one engine; one more is refused.
    pub const COLLECTIONS_MAX: usize = 256;

    /// Most entities that a collection may be specified for.
    pub const ENTITIES_MAX: u32 = 1_000_000;

    /// Most observations in one batch; a larger one is refused.
    pub const BATCH_OBSERVATIONS_MAX: usize = 65_536;

    /// Most encoded bytes in one batch; a larger one is refused.
    pub const BATCH_BYTES_MAX: usize = 32 * 1024 * 1024;

    /// Encoded bytes that may wait for the log before further writers wait too.
    pub const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

    /// Observations that one entity's lateness window holds; the oldest is released early beyond that.
    pub const REORDER_OBSERVATIONS_MAX: usize = 4096;

    /// Most segments, entities or points that one answer holds; a larger limit is lowered to it.
    pub const ANSWER_ROWS_MAX: usize = 100_000;
}

impl Default for Config {
    fn default() -> Self {
        Self {
            checkpoint_log_bytes: 32 * 1024 * 1024,
            store_cache_bytes: 8 * 1024 * 1024,
            baseline_cache_bytes: 64 * 1024 * 1024,
            index_tail_segments: 5_000,
            index_part_segments: 250_000,
            index_memory_bytes: 2 * 1024 * 1024 * 1024,
        }
    }
}
