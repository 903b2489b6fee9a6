//! A bootstrap node under a crowd, as `dunlin bench bootstrap` measures it: their records are kept, and memory does not
//! grow with how many ever came.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use common::{dunlin, stdout};
use serde_json::Value;

/// What one client that has left may have cost, in bytes: its record, of less than 2 KiB, and what is remembered of a peer.
const CLIENT_BYTES_MAX: f64 = 16_384.0;

#[test]
fn a_crowd_leaves_its_records_and_takes_its_memory_with_it() {
    let mut bench = dunlin(&["bench", "bootstrap", "--clients", "600", "--live", "100", "--json"]);
    let rows: Vec<Value> = serde_json::from_str(&stdout(&mut bench)).unwrap();
    let mib = |row: &Value| row["resident_mib"].as_f64().unwrap();
    let of = |stage: &str| {
        let of_stage = |row: &&Value| row["stage"] == stage;
        rows.iter().filter(of_stage).collect::<Vec<_>>()
    };
    let (all, left) = (of("all came")[0], of("all left")[0]);
    assert_eq!(all["came"], 600, "{rows:?}");
    // On a busy machine a few are announced before the node has heard who their client is, and it takes none of those.
    assert!(all["records"].as_u64() >= Some(570), "{rows:?}");
    assert_eq!(all["connected"], 100, "{rows:?}");
    assert!(all["descriptors"].as_u64() >= Some(100), "{rows:?}");
    assert!(left["descriptors"].as_u64() < Some(60), "they are let go: {rows:?}");
    // The first hundred bring what connections cost, and the others what they leave behind.
    let first = of("coming and going")[0];
    let later = (600.0 - first["came"].as_f64().unwrap()) * CLIENT_BYTES_MAX / f64::from(1 << 20);
    assert!(mib(all) < mib(first) + later + 4.0, "{rows:?}");
}
