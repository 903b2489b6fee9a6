//! Compaction of sealed regimes into outlines.

use dunlin_engine::{
    Budget, CollectionSpec, CompactError, Compaction, Fidelity, Observation, Outline, Segment,
    SegmentPolicy, Units, compact,
};
use proptest::prelude::*;

use crate::support::{course, engine_with, entity, name, observation, sealed, spec};

const WIDTHS: &[f32] = &[1.0, 1.0];

fn within(nrmse: f64) -> Compaction<'static> {
    Compaction { budget: Budget::Nrmse(nrmse), widths: WIDTHS, flag_drift_min: 0.16 }
}

/// Seals observations of two channels into summaries, early.
#[track_caller]
fn summaries(observations: &[Observation]) -> Vec<Segment> {
    let spec = CollectionSpec { fidelity: Fidelity::Summary, ..spec(2) };
    let policy = SegmentPolicy { threshold: 0.02, slow_threshold: 0.015, ..spec.policy };
    let engine = engine_with(&CollectionSpec { policy, ..spec });
    engine.ingest(&name(), observations.to_vec()).unwrap();
    engine.seal(&name(), &entity("a")).unwrap();
    sealed(&engine).into_iter().map(|stored| stored.segment).collect()
}

/// Returns the root mean square error of an outline's means against what was observed.
#[track_caller]
fn error_of(outline: &Outline, observations: &[Observation]) -> f64 {
    let mut squares = 0.0;
    for observation in observations {
        let covers = |piece: &&dunlin_engine::Piece| {
            (piece.start..=piece.end).contains(&observation.timestamp)
        };
        let piece = outline.pieces().iter().find(covers).unwrap();
        for (mean, value) in piece.mean.iter().zip(&observation.vector) {
            squares += (f64::from(*mean) - f64::from(*value)).powi(2);
        }
    }
    (squares / (observations.len() * 2) as f64).sqrt()
}

#[test]
fn an_outline_stays_within_its_error_and_shrinks_with_it() {
    let observed = course("a", 0..4000, 50);
    let segments = summaries(&observed);
    assert!(segments.len() > 70, "{}", segments.len());
    let mut sizes = Vec::new();
    for nrmse in [0.03, 0.06, 0.12, 0.2] {
        // No boundary is as far apart as this: flags would hide what the pieces cost.
        let how = Compaction { flag_drift_min: 2.0, ..within(nrmse) };
        let outline = compact(&segments, &how).unwrap();
        let error = error_of(&outline, &observed);
        assert!(error <= nrmse * 1.001, "{error} of {nrmse}");
        let bytes = outline.encode();
        assert_eq!(Outline::decode(&bytes).unwrap(), outline);
        sizes.push(bytes.len());
        let observations: u32 = outline.pieces().iter().map(|piece| piece.count).sum();
        assert_eq!(observations, 4000);
    }
    assert!(sizes[3] * 3 < sizes[0] * 2, "{sizes:?}");
}

#[test]
fn an_event_survives_the_regimes_around_it_as_flags() {
    let level = |s: i64| if (600..606).contains(&s) { 0.9 } else { 0.3 };
    let observed: Vec<_> = (0..1200).map(|s| observation("a", s, &[level(s), 0.5])).collect();
    let segments = summaries(&observed);
    assert_eq!(segments.len(), 3);
    let outline = compact(&segments, &within(0.1)).unwrap();
    assert_eq!(outline.pieces().len(), 1);
    let flags: Vec<(i64, f32)> =
        outline.flags().iter().map(|flag| (flag.time.0 / 1_000_000, flag.drift)).collect();
    // 0.6 in one of two channels; three bits of it are kept.
    assert_eq!(flags, [(600, 0.40625), (606, 0.40625)]);
    assert_eq!(Outline::decode(&outline.encode()).unwrap(), outline);
    let quiet = Compaction { flag_drift_min: 0.5, ..within(0.1) };
    assert!(compact(&segments, &quiet).unwrap().flags().is_empty());
}

#[test]
fn a_byte_budget_is_kept() {
    let observed = course("a", 0..4000, 50);
    let segments = summaries(&observed);
    let mut before = f64::INFINITY;
    for bytes in [60, 100, 140] {
        let how = Compaction { budget: Budget::Bytes(bytes), ..within(0.1) };
        let outline = compact(&segments, &how).unwrap();
        assert!(outline.encode().len() <= bytes, "{} of {bytes}", outline.encode().len());
        let error = error_of(&outline, &observed);
        assert!(error <= before, "{error} at {bytes}");
        before = error;
    }
}

#[test]
fn segments_that_are_not_one_course_are_refused() {
    let segments = summaries(&course("a", 0..400, 50));
    assert_eq!(compact(&[], &within(0.1)), Err(CompactError::Empty));
    let mut swapped = segments.clone();
    swapped.swap(1, 2);
    assert_eq!(compact(&swapped, &within(0.1)), Err(CompactError::NotOneCourse { index: 2 }));
    for widths in [&[1.0_f32][..], &[1.0, 0.0], &[1.0, f32::NAN]] {
        let how = Compaction { widths, ..within(0.1) };
        assert_eq!(compact(&segments, &how), Err(CompactError::Setting { what: "widths" }));
    }
    for budget in [Budget::Nrmse(0.0), Budget::Nrmse(f64::NAN), Budget::Bytes(0)] {
        let how = Compaction { budget, ..within(0.1) };
        assert_eq!(compact(&segments, &how), Err(CompactError::Setting { what: "budget" }));
    }
}

#[test]
fn means_of_any_size_keep_their_error() {
    for scale in [1e-30_f32, 1.0, 1e30] {
        let vector = |o: &Observation| o.vector.iter().map(|v| v * scale).collect();
        let scaled = |o: Observation| Observation { vector: vector(&o), ..o };
        let observed: Vec<_> = course("a", 0..600, 50).into_iter().map(scaled).collect();
        let units = Units::Range { lower: vec![0.0; 2], upper: vec![scale; 2] };
        let engine = engine_with(&CollectionSpec { units, ..spec(2) });
        engine.ingest(&name(), observed.clone()).unwrap();
        engine.seal(&name(), &entity("a")).unwrap();
        let segments: Vec<_> = sealed(&engine).into_iter().map(|stored| stored.segment).collect();
        let how = Compaction { widths: &[scale; 2], ..within(0.1) };
        let outline = compact(&segments, &how).unwrap();
        let error = error_of(&outline, &observed) / f64::from(scale);
        assert!(error <= 0.101, "{error} at {scale}");
        assert_eq!(Outline::decode(&outline.encode()).unwrap(), outline);
    }
}

/// The example of DESIGN 4: ten hours of a steady machine, one observation a second.
#[test]
fn a_steady_entity_is_one_segment_of_at_most_1_792_bytes() {
    let dim = dunlin_engine::Dim::new(128).unwrap();
    let units = Units::unit_range(dim);
    let engine = engine_with(&CollectionSpec::new(name(), dim, units));
    let value = |s: i64, channel: i64| 0.3 + ((s * 31 + channel * 7919) % 101) as f32 / 2000.0;
    let row = |s: i64| (0..128).map(|channel| value(s, channel)).collect::<Vec<_>>();
    for start in (0..36_000).step_by(6000) {
        let batch = (start..start + 6000).map(|s| observation("machine-1", s, &row(s)));
        engine.ingest(&name(), batch.collect()).unwrap();
    }
    engine.seal(&name(), &entity("machine-1")).unwrap();
    let stored = sealed(&engine);
    assert_eq!((stored.len(), stored[0].segment.count()), (1, 36_000));
    assert!(stored[0].segment.encode().len() <= 1792);
}

proptest! {
    #[test]
    fn damaged_outlines_never_panic(at in any::<prop::sample::Index>(), flip in 1_u8..) {
        let segments = summaries(&course("a", 0..300, 50));
        let mut bytes = compact(&segments, &within(0.05)).unwrap().encode();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(outline) = Outline::decode(&bytes) {
            let _reencoded = outline.encode();
        }
    }
}
