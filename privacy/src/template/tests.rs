//! The set's encoding: golden bytes, and everything that must be refused.

use dunlin_wire::cbor;
use dunlin_wire::envelope;
use libp2p_identity::Keypair;
use proptest::prelude::*;

use super::*;
use crate::release::ReleasedCentroid;
use crate::terms::Terms;

const ISSUED: u64 = 1_763_700_000_000;

fn about(expires_unix_ms: u64) -> About<'static> {
    About {
        collection: "servers",
        metric: Metric::Euclidean,
        channels: ChannelsDigest::of(&["cpu".to_owned(), "memory".to_owned()]),
        issued_unix_ms: ISSUED,
        expires_unix_ms,
    }
}

fn release(centroids: &[(&[f32], u64)]) -> Release {
    let dim = centroids.first().map_or(2, |(centroid, _)| centroid.len());
    Release {
        centroids: centroids
            .iter()
            .map(|&(centroid, noised_support)| ReleasedCentroid {
                centroid: centroid.to_vec(),
                noised_support,
            })
            .collect(),
        bounds: Bounds::uniform(dim, 0.0, 1.0).expect("a range"),
        terms: Terms::observation(Epsilon::new(1.0).expect("a valid epsilon")).expect("terms"),
    }
}

fn sample() -> TemplateSet {
    let release = release(&[(&[0.25, 0.75], 5_000), (&[0.0, 1.0], 1_200)]);
    TemplateSet::new(&release, &about(ISSUED + 86_400_000)).expect("a valid set")
}

fn golden(hex: &str) -> Vec<u8> {
    let digits: String =
        hex.lines().map(|line| line.split('#').next().unwrap_or("").replace(' ', "")).collect();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// The bytes of version 3: a changed vector is a format change.
#[test]
fn bytes_are_those_of_the_format_page() {
    let bytes = cbor::encode(&sample()).unwrap();
    assert_eq!(bytes, golden(include_str!("../../tests/vectors/template-3.hex")));
    assert_eq!(cbor::decode::<TemplateSet>(&bytes, TemplateSet::BYTES_MAX).unwrap(), sample());
}

/// A set of version 1 is read, and stays the bytes that were signed.
#[test]
fn set_of_version_1_is_read_and_written_as_it_was() {
    let bytes = golden(include_str!("../../tests/vectors/template-1.hex"));
    let set: TemplateSet = cbor::decode(&bytes, TemplateSet::BYTES_MAX).unwrap();
    assert_eq!(set.privacy().noise, None);
    assert_eq!(set.privacy().unit, Unit::Observation);
    let Privacy { unit, epsilon, delta, .. } = *sample().privacy();
    let privacy = Privacy { unit, epsilon, delta, noise: None };
    assert_eq!(set, TemplateSet { privacy, normalization: None, ..sample() });
    assert_eq!(cbor::encode(&set).unwrap(), bytes);
}

/// So is one of version 2, which knew one normalization.
#[test]
fn set_of_version_2_is_read_and_written_as_it_was() {
    let bytes = golden(include_str!("../../tests/vectors/template-2.hex"));
    let set: TemplateSet = cbor::decode(&bytes, TemplateSet::BYTES_MAX).unwrap();
    assert_eq!(set, TemplateSet { normalization: None, ..sample() });
    assert_eq!(set.normalization(), Normalization::Shared);
    assert_eq!(cbor::encode(&set).unwrap(), bytes);
}

#[test]
fn a_release_that_came_out_the_same_twice_is_said_once() {
    let release = release(&[(&[0.25, 0.75], 9), (&[0.25, 0.75], 8), (&[0.0, 1.0], 7)]);
    let set = TemplateSet::new(&release, &about(ISSUED + 1)).unwrap();
    let supports: Vec<u64> = set.templates().iter().map(Template::support).collect();
    assert_eq!(supports, [9, 7]);
}

#[test]
fn a_set_states_the_terms_of_its_release() {
    let epsilon = Epsilon::new(2.0).unwrap();
    let terms = Terms::new(Unit::EntityDay, Mechanism::Gaussian, epsilon, 1e-6, 3).unwrap();
    let release = Release { terms, ..release(&[(&[0.25, 0.75], 5_000)]) };
    let set = TemplateSet::new(&release, &about(ISSUED + 1)).unwrap();
    let bytes = cbor::encode(&set).unwrap();
    let back: TemplateSet = cbor::decode(&bytes, TemplateSet::BYTES_MAX).unwrap();
    let privacy = back.privacy();
    assert_eq!((privacy.unit, privacy.epsilon, privacy.delta), (Unit::EntityDay, epsilon, 1e-6));
    let noise = privacy.noise.as_ref().unwrap();
    assert_eq!((noise.mechanism, noise.cells_max), (Mechanism::Gaussian, 3));
    assert_eq!(noise.generator, GENERATOR);
}

#[test]
fn a_renewed_set_says_the_same_for_longer() {
    let renewed = sample().renewed(ISSUED + 5, ISSUED + 10).unwrap();
    assert_eq!(renewed.templates(), sample().templates());
    assert_eq!((renewed.issued_unix_ms(), renewed.expires_unix_ms()), (ISSUED + 5, ISSUED + 10));
    assert!(sample().renewed(ISSUED, ISSUED + LIFETIME_MS_MAX + 1).is_err());
}

#[test]
fn sixteen_templates_of_nineteen_channels_stay_under_two_kilobytes() {
    let rows: Vec<Vec<f32>> = (0..16).map(|i| vec![i as f32 / 16.0; 19]).collect();
    let centroids: Vec<(&[f32], u64)> = rows.iter().map(|row| (&row[..], 100_000)).collect();
    let set = TemplateSet::new(&release(&centroids), &about(ISSUED + 1)).unwrap();
    let keypair = Keypair::ed25519_from_bytes([7; 32]).unwrap();
    let signed = envelope::sign(&keypair, set.clone()).unwrap();
    assert!(signed.bytes.len() < 2_000, "{}", signed.bytes.len());
    let opened = envelope::open::<TemplateSet>(&signed.bytes).unwrap();
    assert_eq!(opened.value, set);
    let error = (opened.value.centroids().iter().zip(rows.iter().flatten()))
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(error <= 0.5 / 65_535.0 + 1e-7, "{error}");
}

#[test]
fn the_largest_set_fits_its_limit() {
    let rows: Vec<Vec<f32>> =
        (0..TEMPLATES_MAX).map(|at| vec![at as f32 / 16.0; DIM_MAX]).collect();
    let centroids: Vec<(&[f32], u64)> = rows.iter().map(|row| (&row[..], u64::MAX)).collect();
    let mut set = TemplateSet::new(&release(&centroids), &about(ISSUED + 1)).unwrap();
    set.collection = "x".repeat(COLLECTION_BYTES_MAX);
    for template in &mut set.templates {
        template.spread = Some(template.codes.clone());
        template.dwell_ms = Some(u64::MAX);
    }
    let bytes = cbor::encode(&set).unwrap();
    assert!(bytes.len() <= TemplateSet::BYTES_MAX, "{}", bytes.len());
    assert_eq!(cbor::decode::<TemplateSet>(&bytes, TemplateSet::BYTES_MAX).unwrap(), set);
}

#[test]
fn paid_for_spread_and_dwell_travel() {
    let mut set = sample();
    set.templates[0].spread = Some(vec![0, u16::MAX]);
    set.templates[0].dwell_ms = Some(3_600_000);
    let bytes = cbor::encode(&set).unwrap();
    let back: TemplateSet = cbor::decode(&bytes, TemplateSet::BYTES_MAX).unwrap();
    assert_eq!(back.templates()[0].spread(back.bounds()), Some(vec![0.0, 1.0]));
    assert_eq!(back.templates()[0].dwell_ms(), Some(3_600_000));
    assert_eq!(back.templates()[1].spread(back.bounds()), None);
}

/// Encodes the sample after `change`, and expects it to be refused.
#[track_caller]
fn refused(change: impl FnOnce(&mut Wire)) {
    let mut wire = Wire::from(sample());
    change(&mut wire);
    let bytes = cbor::encode(&wire).expect("it has an encoding");
    let decoded = cbor::decode::<TemplateSet>(&bytes, TemplateSet::BYTES_MAX);
    assert!(decoded.is_err(), "{decoded:?}");
}

#[test]
fn sets_with_anything_out_of_range_are_refused() {
    refused(|wire| wire.version = 4);
    refused(|wire| wire.version = 2);
    refused(|wire| wire.version = 1);
    refused(|wire| wire.normalization = None);
    refused(|wire| wire.templates[1].centroid = wire.templates[0].centroid.clone());
    refused(|wire| wire.privacy.mechanism = None);
    refused(|wire| wire.privacy.cells_max = Some(0));
    refused(|wire| wire.privacy.cells_max = Some(17));
    refused(|wire| wire.privacy.generator = Some(String::new()));
    refused(|wire| wire.privacy.generator = Some("x".repeat(GENERATOR_BYTES_MAX + 1)));
    refused(|wire| {
        // Version 1 knew observations alone.
        (wire.version, wire.normalization) = (1, None);
        (wire.privacy.mechanism, wire.privacy.cells_max, wire.privacy.generator) =
            (None, None, None);
        wire.privacy.unit = Unit::Entity;
    });
    refused(|wire| wire.collection.clear());
    refused(|wire| wire.collection = "x".repeat(COLLECTION_BYTES_MAX + 1));
    refused(|wire| wire.dim = 3);
    refused(|wire| wire.dim = u32::MAX);
    refused(|wire| wire.channels.truncate(31));
    refused(|wire| wire.lower = floats_to_bytes(&[0.0, f32::NAN]));
    refused(|wire| wire.upper = floats_to_bytes(&[0.0, 1.0]));
    refused(|wire| wire.templates.clear());
    refused(|wire| {
        let more = (0..16).map(|_| WireTemplate {
            centroid: codes_to_bytes(&[0, 0]),
            dwell_ms: None,
            spread: None,
            support: 1,
        });
        wire.templates.extend(more);
    });
    refused(|wire| wire.templates[1].support = 0);
    refused(|wire| wire.templates[1].support = 5_001);
    refused(|wire| wire.templates[0].centroid = codes_to_bytes(&[0]));
    refused(|wire| wire.templates[0].spread = Some(codes_to_bytes(&[0, 0, 0])));
    refused(|wire| wire.privacy.delta = 1.0);
    refused(|wire| wire.privacy.delta = -0.1);
    refused(|wire| wire.privacy.epsilon_nanos = Epsilon::ZERO);
    refused(|wire| wire.privacy.epsilon_nanos = Epsilon::from_nanos(u64::MAX));
    refused(|wire| wire.expires_unix_ms = wire.issued_unix_ms);
    refused(|wire| wire.expires_unix_ms = wire.issued_unix_ms + LIFETIME_MS_MAX + 1);
}

#[test]
fn unknown_fields_are_refused() {
    #[derive(Serialize)]
    struct Extended {
        #[serde(flatten)]
        wire: Wire,
        zebra: u8,
    }
    let extended = Extended { wire: Wire::from(sample()), zebra: 1 };
    let bytes = cbor::encode(&extended).unwrap();
    assert!(cbor::decode::<TemplateSet>(&bytes, TemplateSet::BYTES_MAX).is_err());
}

#[test]
fn nothing_released_makes_no_set() {
    let made = TemplateSet::new(&release(&[]), &about(ISSUED + 1));
    assert_eq!(made, Err(TemplateError::Count { templates: 0 }));
}

#[test]
fn a_set_ends_when_it_says() {
    let set = sample();
    assert!(set.is_current(ISSUED - 1_000), "clocks differ");
    assert!(set.is_current(set.expires_unix_ms() - 1));
    assert!(!set.is_current(set.expires_unix_ms()));
}

#[test]
fn channel_names_and_their_order_tell_sets_apart() {
    let of = |names: &[&str]| {
        ChannelsDigest::of(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    };
    assert_ne!(of(&["a", "b"]), of(&["b", "a"]));
    assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
    assert_ne!(of(&[]), of(&[""]));
}

proptest! {
    #[test]
    fn any_valid_set_comes_back_as_it_was(
        rows in prop::collection::vec(prop::collection::vec(0f32..=1.0, 5), 1..=16),
        support in 1u64.., life in 1..=LIFETIME_MS_MAX,
    ) {
        let centroids: Vec<(&[f32], u64)> = rows.iter().map(|row| (&row[..], support)).collect();
        let set = TemplateSet::new(&release(&centroids), &about(ISSUED + life)).unwrap();
        let bytes = cbor::encode(&set).unwrap();
        let back: TemplateSet = cbor::decode(&bytes, TemplateSet::BYTES_MAX).unwrap();
        prop_assert_eq!(back.centroids(), set.centroids());
        prop_assert_eq!(back, set);
    }

    #[test]
    fn damaged_sets_are_refused_or_canonical(at in any::<prop::sample::Index>(), flip in 1u8..) {
        let mut bytes = cbor::encode(&sample()).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(set) = cbor::decode::<TemplateSet>(&bytes, TemplateSet::BYTES_MAX) {
            prop_assert_eq!(cbor::encode(&set).unwrap(), bytes);
        }
    }
}
