//! How long the gate takes with many revocations loaded, and what they take in memory.
//!
//!     cargo run --release -p dunlin-trust --example gate -- 1000000

use std::{hint::black_box, time::Instant};

use dunlin_trust::{Authorities, Config, LOG_KEYS_MAX, Operation, Trust, UnixMillis};
use libp2p_identity::{Keypair, PeerId};

const NOW: UnixMillis = UnixMillis(1_763_700_000_000);

/// Questions that are timed together: less than a millisecond, so that most of such times are not interrupted by other work.
const TOGETHER: usize = 1_000;

/// How often; the median is told.
const TIMES: usize = 2_000;

/// Revocations that are loaded one by one.
const SINGLE: usize = 20;

/// A peer id that no key need exist for, spread as hashes are.
fn peer(seed: u64) -> PeerId {
    let mut bytes = vec![0x12, 0x20];
    let mut state = seed;
    for _ in 0..4 {
        // splitmix64 (Steele, Lea, Flood 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend((word ^ word >> 31).to_le_bytes());
    }
    PeerId::from_bytes(&bytes).expect("a sha2-256 multihash")
}

/// Returns resident memory, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: u64 = std::env::args().nth(1).map_or(Ok(1_000_000), |text| text.parse())?;
    let authority = Keypair::generate_ed25519();
    let authorities = Authorities::new("bench", [authority.public().to_peer_id()], 1)?;
    let config = Config { authorities: Some(authorities), ..Config::default() };
    let before = resident();
    let mut trust = Trust::new(config, Vec::new());
    let loading = Instant::now();
    let seeds: Vec<_> = (0..count).collect();
    // The last ones come one at a time, as they do in a network.
    let (bulk, single) = seeds.split_at(seeds.len().saturating_sub(SINGLE));
    for chunk in bulk.chunks(LOG_KEYS_MAX).chain(single.chunks(1)) {
        let peers: Vec<_> = chunk.iter().map(|seed| peer(*seed)).collect();
        let draft = trust.revocations().draft(&peers, NOW)?;
        let signature = draft.sign(&authority)?;
        let extension = draft.signed(vec![signature])?;
        if let Some(pending) = trust.revocations().check_extension(extension)? {
            trust.apply_revocation(pending);
        }
    }
    let loading = loading.elapsed();
    let bytes = resident().saturating_sub(before);
    println!(
        "{} revocations, {:.1} MiB, loaded in {loading:.2?}",
        trust.revocations().len(),
        bytes as f64 / 1048576.0
    );
    // Making an id must not be timed. Whom to ask about next depends on the answer, so that no two are asked about
    // at once.
    for (name, first) in [("revoked", 0), ("not revoked", count)] {
        let peers: Vec<_> = (0..100_000).map(|at| peer(first + at * 7 % count.max(1))).collect();
        let mut at = 0;
        let mut times: Vec<_> = (0..TIMES)
            .map(|_| {
                let asking = Instant::now();
                for _ in 0..TOGETHER {
                    let may = trust.may(NOW, black_box(&peers[at]), Operation::Connect);
                    at = (at + 1 + usize::from(black_box(may).is_ok())) % peers.len();
                }
                asking.elapsed()
            })
            .collect();
        times.sort_unstable();
        println!("{name}: {:.0} ns", times[TIMES / 2].as_nanos() as f64 / TOGETHER as f64);
    }
    Ok(())
}
