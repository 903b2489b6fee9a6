//! What a full table of peers takes in memory and on disk, and how long a newcomer takes that finds it full.
//!
//!     cargo run --release -p dunlin-trust --example table

use std::{ops::Range, time::Instant};

use dunlin_trust::{Config, Evidence, Operation, PEERS_MAX, Trust, UnixMillis};
use dunlin_wire::cbor;
use libp2p_identity::PeerId;

const NOW: u64 = 1_763_700_000_000;

/// A peer id that no key need exist for.
fn peer(number: u64) -> PeerId {
    let mut bytes = vec![0x12, 0x20];
    bytes.extend(number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes().repeat(4));
    PeerId::from_bytes(&bytes).expect("a sha2-256 multihash")
}

/// Returns resident memory, in MiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// Returns how long one call takes, of the median hundred of them: most are not interrupted by other work.
fn median_ns(numbers: Range<u64>, mut call: impl FnMut(u64)) -> f64 {
    const TOGETHER: usize = 100;
    let mut times = Vec::new();
    for from in numbers.step_by(TOGETHER) {
        let begun = Instant::now();
        (from..from + TOGETHER as u64).for_each(&mut call);
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2].as_nanos() as f64 / TOGETHER as f64
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let peers = PEERS_MAX as u64;
    let before = resident();
    let mut trust = Trust::new(Config::default(), Vec::new());
    let judge = |trust: &mut Trust, number: u64| {
        let evidence = match number % 10 {
            0 => Evidence::WrongCid,
            1..5 => Evidence::Timeout,
            _ => Evidence::Served { blocks: (number % 300) as u32 },
        };
        trust.observe(UnixMillis(NOW + number), peer(number), evidence);
    };
    (0..peers).for_each(|number| judge(&mut trust, number));
    let records: Vec<_> = std::iter::from_fn(|| trust.next_dirty()).collect();
    let bytes = cbor::encode(&records)?.len();
    drop(records);
    let taken = resident() - before;
    println!(
        "{peers} peers: {taken:.1} MiB resident, with their copy for the disk just before; {bytes} bytes encoded"
    );
    let each = median_ns(peers..2 * peers, |number| judge(&mut trust, number));
    println!("evidence about a newcomer, with the table full: {each:.0} ns");
    let mut heard = 0;
    let each = median_ns(3 * peers..4 * peers, |number| {
        let now = UnixMillis(NOW + 2 * peers);
        heard += usize::from(trust.may(now, &peer(number), Operation::FetchTemplates).is_ok());
    });
    println!("the gate about a stranger, with the table full: {each:.0} ns ({heard} heard)");
    Ok(())
}
