//! A template travels: from observations on one node to a verdict on another.

use dunlin_privacy::adoption::{self, History, Reason};
use dunlin_privacy::{
    About, Bounds, Ceiling, ChannelsDigest, Dataset, Epsilon, Intent, Ledger, Metric,
    ReleaseConfig, ReserveError, TemplateSet, Terms, Unit, release,
};
use dunlin_wire::envelope;
use libp2p_identity::Keypair;

const DIM: usize = 6;
const NOW: u64 = 1_763_700_000_000;

/// A fleet that is busy by day and idle by night; `shift` makes one node a little different.
fn observations(count: usize, shift: f32) -> Vec<f32> {
    let value = |row: usize, channel: usize| {
        let is_busy = row % 24 < 10;
        let level = if is_busy == (channel < 4) { 0.7 } else { 0.2 };
        level + shift + ((row * 13 + channel * 5) % 9) as f32 * 0.01
    };
    (0..count).flat_map(|row| (0..DIM).map(move |channel| value(row, channel))).collect()
}

fn eps(value: f64) -> Epsilon {
    Epsilon::new(value).expect("a valid epsilon")
}

fn bounds() -> Bounds {
    Bounds::uniform(DIM, 0.0, 1.0).expect("a range")
}

fn intent(data: &Dataset, now_unix_ms: u64) -> Intent<'_> {
    Intent {
        collection: "fleet",
        data,
        terms: Terms::observation(eps(1.0)).expect("valid terms"),
        now_unix_ms,
        purpose: "templates",
    }
}

fn publish(ledger: &mut Ledger, rows: &[f32]) -> Vec<u8> {
    let data = Dataset::new(rows, DIM, bounds()).expect("whole, finite rows");
    let receipt = ledger.reserve(&intent(&data, NOW)).expect("within the ceiling");
    let config = ReleaseConfig::default();
    let release = release(ledger, receipt, &data, &config).expect("a fresh receipt");
    let about = About {
        collection: "fleet",
        metric: Metric::Euclidean,
        channels: ChannelsDigest::of(&[]),
        issued_unix_ms: NOW,
        expires_unix_ms: NOW + 7 * 86_400_000,
    };
    let set = TemplateSet::new(&release, &about).expect("thousands of rows pass the threshold");
    let keypair = Keypair::ed25519_from_bytes([1; 32]).expect("32 bytes are a key");
    envelope::sign(&keypair, set).expect("a set fits its envelope").bytes
}

#[test]
fn released_templates_explain_a_similar_node_and_not_a_different_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(&folder.path().join("ledger"), Ceiling::pure(eps(10.0))).unwrap();
    let bytes = publish(&mut ledger, &observations(100_000, 0.0));
    let set = envelope::open::<TemplateSet>(&bytes).unwrap().value;
    assert_eq!(set.privacy().epsilon, eps(1.0));

    let judge = |shift: f32, centroids: &[f32]| {
        let regimes = observations(24, shift);
        let second_half = observations(48, shift);
        let history = History { regimes: &regimes, second_half: &second_half };
        adoption::judge(history, centroids, set.bounds(), &adoption::Config::default())
    };
    let similar = judge(0.02, &set.centroids());
    assert_eq!(similar.reason, Reason::Explains, "{similar:?}");
    let different = judge(-0.15, &set.centroids());
    assert_eq!(different.reason, Reason::TooFar, "{different:?}");
    let shuffled = (0..20)
        .filter(|&seed| {
            let control = adoption::permuted(&set.centroids(), DIM, 500 + seed);
            judge(0.02, &control).is_adopted()
        })
        .count();
    // One shuffle in fifteen maps the four busy channels onto themselves.
    assert!(shuffled <= 5, "{shuffled}");
}

#[test]
fn publishing_goes_on_until_the_budget_ends_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let mut ledger = Ledger::open(&path, Ceiling::pure(eps(2.0))).unwrap();
    publish(&mut ledger, &observations(3_000, 0.0));
    let same = Dataset::new(&observations(3_000, 0.0), DIM, bounds()).unwrap();
    let refused = ledger.reserve(&intent(&same, NOW + 1));
    assert!(matches!(refused, Err(ReserveError::Unchanged { unix_ms: NOW, .. })));
    publish(&mut ledger, &observations(3_100, 0.0));
    drop(ledger);

    let mut ledger = Ledger::open(&path, Ceiling::pure(eps(2.0))).unwrap();
    let more = Dataset::new(&observations(3_200, 0.0), DIM, bounds()).unwrap();
    let refused = ledger.reserve(&intent(&more, NOW + 2)).unwrap_err();
    assert_eq!(refused.to_string(), "collection fleet: epsilon 1 asked, but 0 of 2 is left");
    let ledger = Ledger::open(&path, Ceiling::pure(eps(5.0))).unwrap();
    assert_eq!(
        ledger.left("fleet", Unit::Observation),
        eps(3.0),
        "the operator raised the ceiling"
    );
}
