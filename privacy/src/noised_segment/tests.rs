//! The object's encoding: golden bytes, and everything that must be refused.

use dunlin_wire::cbor;
use dunlin_wire::envelope;
use libp2p_identity::Keypair;
use proptest::prelude::*;

use super::*;
use crate::dataset::EntityTag;
use crate::epsilon::Epsilon;
use crate::terms::Mechanism;

const HOUR_US: u64 = 3_600_000_000;

fn about(bounds: &Bounds) -> AboutSegment<'_> {
    AboutSegment {
        collection: "servers",
        metric: Metric::Euclidean,
        channels: ChannelsDigest::of(&["cpu".to_owned(), "memory".to_owned()]),
        bounds,
        terms: Terms::observation(Epsilon::new(1.0).expect("a valid epsilon")).expect("terms"),
        entity: Pseudonym::of(&[7; 32], "servers", "web-1"),
        window: Window::at_or_after(1_763_700_000_000_000, HOUR_US).expect("a window"),
    }
}

fn released(centroid: &[f32], noised_count: u64) -> ReleasedSegment {
    ReleasedSegment { entity: EntityTag::of("web-1"), centroid: centroid.to_vec(), noised_count }
}

fn sample() -> NoisedSegment {
    let bounds = Bounds::uniform(2, 0.0, 1.0).expect("a range");
    NoisedSegment::new(&released(&[0.25, 0.75], 3_590), &about(&bounds)).expect("a segment")
}

/// The bytes of version 1: a changed vector is a format change.
#[test]
fn bytes_are_those_of_the_format_page() {
    let bytes = cbor::encode(&sample()).unwrap();
    let golden = include_str!("../../tests/vectors/noised-segment-1.hex");
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digits, golden.split_whitespace().collect::<String>());
    assert_eq!(cbor::decode::<NoisedSegment>(&bytes, NoisedSegment::BYTES_MAX).unwrap(), sample());
}

#[test]
fn a_signed_one_comes_back_and_says_what_was_released() {
    let keypair = Keypair::generate_ed25519();
    let signed = envelope::sign(&keypair, sample()).unwrap();
    let opened = envelope::open::<NoisedSegment>(&signed.bytes).unwrap();
    let segment = opened.value;
    assert_eq!(opened.signer, keypair.public().to_peer_id());
    assert_eq!((segment.collection(), segment.count()), ("servers", 3_590));
    assert_eq!(segment.window().start_us(), 1_763_701_200_000_000);
    assert_eq!(segment.window().last_us(), 1_763_704_799_999_999);
    for (found, expected) in segment.mean().iter().zip([0.25, 0.75]) {
        assert!((found - expected).abs() < 1e-5);
    }
}

#[test]
fn the_largest_fits() {
    let bounds = Bounds::uniform(DIM_MAX, -1e9, 1e9).unwrap();
    let mut about = about(&bounds);
    let name = "n".repeat(COLLECTION_BYTES_MAX);
    about.collection = &name;
    let segment = NoisedSegment::new(&released(&vec![0.0; DIM_MAX], u64::MAX), &about).unwrap();
    let signed = envelope::sign(&Keypair::generate_ed25519(), segment).unwrap();
    assert!(envelope::open::<NoisedSegment>(&signed.bytes).is_ok());
}

#[test]
fn pseudonyms_follow_from_key_collection_and_entity_alone() {
    let of =
        |key: u8, collection: &str, entity: &str| Pseudonym::of(&[key; 32], collection, entity);
    assert_eq!(of(1, "a", "b"), of(1, "a", "b"));
    let others =
        [of(2, "a", "b"), of(1, "b", "b"), of(1, "a", "c"), of(1, "ab", ""), of(1, "", "ab")];
    for (at, other) in others.iter().enumerate() {
        assert_ne!(*other, of(1, "a", "b"));
        assert!(!others[..at].contains(other));
    }
}

#[test]
fn windows_lie_on_their_grid() {
    let hour = HOUR_US as i64;
    let start = |from| Window::at_or_after(from, HOUR_US).map(|window| window.start_us());
    assert_eq!([0, 1, hour, hour + 1].map(start), [0, hour, hour, 2 * hour].map(Some));
    assert_eq!([-1, -hour, -hour - 1].map(start), [0, -hour, -hour].map(Some));
    assert_eq!([i64::MIN, i64::MAX].map(start), [None, None]);
    for length in [0, WINDOW_US_MIN - 1, WINDOW_US_MAX + 1, u64::MAX] {
        assert_eq!(Window::at_or_after(0, length), None);
    }
}

#[test]
fn what_is_out_of_range_is_refused() {
    let refused = |change: fn(&mut Wire)| {
        let mut wire = Wire::from(sample());
        change(&mut wire);
        let bytes = cbor::encode(&wire).unwrap();
        cbor::decode::<NoisedSegment>(&bytes, NoisedSegment::BYTES_MAX).is_err()
    };
    assert!(!refused(|_| {}));
    assert!(refused(|wire| wire.version = 2));
    assert!(refused(|wire| wire.collection.clear()));
    assert!(refused(|wire| wire.collection = "n".repeat(257)));
    assert!(refused(|wire| wire.dim = 3));
    assert!(refused(|wire| wire.dim = u32::MAX));
    assert!(refused(|wire| {
        wire.channels.pop();
    }));
    assert!(refused(|wire| {
        wire.mean.pop();
    }));
    assert!(refused(|wire| wire.entity.push(0)));
    assert!(refused(|wire| wire.start_us += 1));
    assert!(refused(|wire| wire.window_us += 1));
    assert!(refused(|wire| wire.window_us = 0));
    assert!(refused(|wire| wire.count = 0));
    assert!(refused(|wire| wire.upper = wire.lower.clone()));
    assert!(refused(|wire| wire.privacy = privacy(Unit::Entity, 1.0)));
    assert!(refused(|wire| wire.privacy = privacy(Unit::Observation, 1.5e2)));
}

fn privacy(unit: Unit, epsilon: f64) -> WirePrivacy {
    let mechanism = Mechanism::Laplace;
    let noise = NoiseStatement { mechanism, cells_max: 1, generator: GENERATOR.to_owned() };
    let epsilon = Epsilon::from_nanos((epsilon * 1e9) as u64);
    Privacy { unit, epsilon, delta: 0.0, noise: Some(noise) }.into()
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        drop(cbor::decode::<NoisedSegment>(&bytes, NoisedSegment::BYTES_MAX));
    }
}
