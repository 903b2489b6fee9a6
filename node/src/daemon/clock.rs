//! The one place where this program reads the wall clock for the rooms below.

use std::time::{SystemTime, UNIX_EPOCH};

use dunlin_trust::UnixMillis;

/// Returns the time now; a clock before 1970 reads as 1970.
pub(crate) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
