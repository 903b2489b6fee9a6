//! Tells peers what is new, soon after it is, and again now and then for those who missed it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use dunlin_archive::Pin;
use dunlin_protocols::messages::{SegmentAnnouncement, TemplateAnnouncement};
use libp2p_identity::Keypair;
use tokio::{
    task::block_in_place,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{sequence::Sequence, shared::Shared};

/// How long news are collected before they are told.
const COLLECT: Duration = Duration::from_millis(300);

/// How often everything is told again.
const REPEAT: Duration = Duration::from_secs(600);

/// Pause for each announcement that was sent: peers hear one a second of each author, and drop what comes
/// faster for long.
const PAUSE: Duration = Duration::from_secs(1);

/// Announcements that are sent at once; peers hear 64.
const BURST: usize = 32;

/// Bytes of what stands for a collection's name: two of one node never have the same by chance.
const LABEL_BYTES: usize = 16;

/// Looking for news reads the list of all archived segments. It takes at most one part in so many of the
/// time.
const LOOKING_SHARE: u32 = 10;

/// What was told of each collection last: its segments' and its templates' digest.
#[derive(Debug, Default)]
struct Told {
    segments: BTreeMap<String, [u8; 32]>,
    templates: BTreeMap<String, [u8; 32]>,
}

/// Runs until `stop`.
pub(super) async fn run(
    shared: Arc<Shared>,
    sequence: Sequence,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    // What is under way may be dropped anywhere: the next start tells everything.
    stop.run_until_cancelled(announce(&shared, sequence)).await;
    Ok(())
}

async fn announce(shared: &Arc<Shared>, mut sequence: Sequence) {
    let mut told = Told::default();
    let mut repeat = interval(REPEAT);
    repeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.news.notified() => {}
            () = shared.newcomer.notified() => told = Told::default(),
            _ = repeat.tick() => told = Told::default(),
        }
        sleep(COLLECT).await;
        let began = Instant::now();
        let segments = match shared.blocking(archived).await {
            Ok(segments) => {
                shared.recovered("announcements");
                segments
            }
            Err(cause) => {
                shared.report("announcements", format!("{cause:#}"));
                Vec::new()
            }
        };
        let looking = began.elapsed();
        let mut sent = 0;
        for (collection, count, digest) in segments {
            if told.segments.get(&collection) != Some(&digest) {
                let Some(number) = numbered(shared, &mut sequence) else { break };
                told.segments.insert(collection.clone(), digest);
                let announcement = SegmentAnnouncement::new(collection, count, digest, number);
                shared.network.announce_segments(announcement).await;
                pace(&mut sent).await;
            }
        }
        for (collection, count, digest) in shared.sharing.own_sets() {
            if told.templates.get(&collection) != Some(&digest) {
                let Some(number) = numbered(shared, &mut sequence) else { break };
                told.templates.insert(collection.clone(), digest);
                let announcement = TemplateAnnouncement::new(collection, count, digest, number);
                shared.network.announce_templates(announcement).await;
                pace(&mut sent).await;
            }
        }
        // What was sent beyond the burst has had its pause.
        let pause = PAUSE * u32::try_from(sent.min(BURST)).unwrap_or(u32::MAX);
        sleep(pause.max(LOOKING_SHARE * looking)).await;
    }
}

/// Returns the number of an announcement. Without a disk to write it down on, nothing is announced: it is tried again with
/// the next news.
fn numbered(shared: &Shared, sequence: &mut Sequence) -> Option<u64> {
    // An fsync once in thousands: other tasks go on meanwhile.
    match block_in_place(|| sequence.next(&shared.dir)) {
        Ok(number) => {
            shared.recovered("announced");
            Some(number)
        }
        Err(cause) => {
            shared.report("announced", format!("{cause:#}"));
            None
        }
    }
}

/// Counts an announcement that was sent, and waits when the burst is used up.
async fn pace(sent: &mut usize) {
    *sent += 1;
    if *sent > BURST {
        sleep(PAUSE).await;
    }
}

/// Returns how many segments of each collection are archived here, with their digest. Only own peers could
/// fetch them, so without own peers there is nobody to tell.
fn archived(shared: &Shared) -> anyhow::Result<Vec<(String, u64, [u8; 32])>> {
    if shared.config.network.own_peers.is_empty() {
        return Ok(Vec::new());
    }
    let identity = shared.dir.identity()?;
    let mut collections = Vec::new();
    for spec in shared.engine.collections()? {
        let digest = shared.archive.digest(&Pin::own(spec.name.as_str()))?;
        if digest.count > 0 {
            let label = label(&identity, spec.name.as_str());
            collections.push((label, digest.count, digest.sha256));
        }
    }
    Ok(collections)
}

/// Returns what stands for a collection in announcements of its segments: always the same, and nothing that
/// somebody without this node's key could find the name by. All of the network hears it, and own peers only count.
fn label(identity: &Keypair, collection: &str) -> String {
    let domain = format!("dunlin announced collection {collection}");
    let secret = identity.derive_secret(domain.as_bytes()).expect("an Ed25519 key has a secret");
    secret.iter().take(LABEL_BYTES).map(|byte| format!("{byte:02x}")).collect()
}
