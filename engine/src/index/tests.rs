//! The index against brute force: every metric, ties, zeros, duplicates, filters, damaged bytes.

use proptest::prelude::*;

use super::{random::Random, *};

mod cells;

const METRICS: [Metric; 3] = [Metric::Cosine, Metric::Euclidean, Metric::Dot];

fn dim_of(dim: usize) -> Dim {
    Dim::new(dim as u16).unwrap()
}

const WAYS: [Wanted; 2] = [Wanted::Graph, Wanted::Cells];

/// An index with a graph or cells, however few the rows. Under the metric dot there is always a graph.
fn wanted(level: Level, way: Wanted, metric: Metric, dim: usize, values: &[f32]) -> GraphIndex {
    GraphIndex::build_with(level, (0, way), (metric, dim_of(dim)), values, &|| true)
        .unwrap()
        .unwrap()
}

/// An index with a graph, however few the rows.
fn walked(metric: Metric, dim: usize, values: &[f32]) -> GraphIndex {
    wanted(Level::detect(), Wanted::Graph, metric, dim, values)
}

fn has_cells(index: &GraphIndex) -> bool {
    matches!(index.way, Some(Way::Cells(_)))
}

/// The index with rows that are rounded, whether or not that pays.
fn with_rounded_rows(mut index: GraphIndex, values: &[f32]) -> GraphIndex {
    let (dim, count) = (index.exact.dim, index.groups.node_count());
    if count > 1 {
        let row = |node: usize| &values[index.groups.first(node as u32) as usize * dim..][..dim];
        index.exact.values = Values::Rounded(Rounded::new(index.metric, dim, count, row).into());
    }
    index
}

/// What the answer has to be, from the definition of the distance.
fn brute(
    metric: Metric,
    values: &[f32],
    vector: &[f32],
    k: usize,
    passes: impl Fn(u32) -> bool,
) -> Vec<Match> {
    let rows = values.chunks_exact(vector.len()).zip(0..);
    let mut all: Vec<Match> = rows
        .filter(|(_, row)| passes(*row))
        .map(|(values, row)| Match { row, distance: crate::distance(metric, vector, values) })
        .collect();
    all.sort_by(|a, b| (a.distance + 0.0).total_cmp(&(b.distance + 0.0)).then(a.row.cmp(&b.row)));
    all.truncate(k);
    all
}

/// Rows around some centers, as behavior has them: `spread` is that around a center.
fn clustered(seed: u64, rows: usize, dim: usize, centers: usize, spread: f32) -> Vec<f32> {
    let mut random = Random::new(seed);
    let mut value = |scale: f32| (0..4).map(|_| random.unit() - 0.5).sum::<f32>() * scale;
    let centers: Vec<f32> = (0..centers * dim).map(|_| value(1.0)).collect();
    let row = |row: usize| row % (centers.len() / dim) * dim;
    (0..rows * dim).map(|at| centers[row(at / dim) + at % dim] + value(spread)).collect()
}

/// Rows of few hidden dimensions seen through many, as sensors see a machine.
fn lifted(hidden: &[f32], from: usize, to: usize) -> Vec<f32> {
    let mut random = Random::new(15);
    let map: Vec<f32> = (0..from * to).map(|_| random.unit() - 0.5).collect();
    let seen = |row: &[f32], at: usize| {
        row.iter().zip(&map[at * from..]).map(|(value, weight)| value * weight).sum::<f32>()
    };
    hidden.chunks_exact(from).flat_map(|row| (0..to).map(move |at| seen(row, at))).collect()
}

fn recall(found: &[Match], expected: &[Match]) -> f64 {
    let hits = found.iter().filter(|found| expected.iter().any(|other| other.row == found.row));
    hits.count() as f64 / expected.len().max(1) as f64
}

fn values_with_ties() -> impl Strategy<Value = (usize, Vec<f32>, Vec<f32>)> {
    (1_usize..7).prop_flat_map(|dim| {
        let value = prop_oneof![4 => -2_i8..3, 1 => Just(0)].prop_map(f32::from);
        let odd = prop_oneof![8 => value, 1 => -1e3_f32..1e3];
        let row = prop_oneof![
            1 => Just(vec![0.0; dim]),
            9 => prop::collection::vec(odd, dim),
        ];
        let rows = prop::collection::vec(row.clone(), 0..120).prop_map(|rows| rows.concat());
        (Just(dim), rows, row)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn scans_agree_with_brute_force((dim, values, vector) in values_with_ties(), k in 0_usize..130) {
        for metric in METRICS {
            let expected = brute(metric, &values, &vector, k, |_| true);
            let search = Search { vector: &vector, k, effort: 0, filter: None };
            let exact = ExactIndex::new(metric, dim_of(dim), &values).unwrap();
            prop_assert_eq!(&exact.search(&search).unwrap(), &expected);
            let index = GraphIndex::build(metric, dim_of(dim), &values).unwrap();
            prop_assert_eq!(&index.search(&search).unwrap(), &expected);
        }
    }

    /// With enough effort a walk meets every node that can be reached: nothing may be missing then, which
    /// also proves that everything can be reached.
    #[test]
    fn walks_with_all_effort_agree_with_brute_force(
        (dim, values, vector) in values_with_ties(),
        k in 1_usize..130,
        one_of in 1_u32..5,
    ) {
        for (metric, way) in METRICS.into_iter().flat_map(|metric| WAYS.map(|way| (metric, way))) {
            let index = wanted(Level::detect(), way, metric, dim, &values);
            let effort = 2 * values.len();
            let expected = brute(metric, &values, &vector, k, |_| true);
            let search = Search { vector: &vector, k, effort, filter: None };
            prop_assert_eq!(&index.search(&search).unwrap(), &expected);
            let filter = RowSet::from_fn(index.count(), |row| row % one_of == 0);
            let expected = brute(metric, &values, &vector, k, |row| filter.contains(row));
            let search = Search { filter: Some(&filter), ..search };
            prop_assert_eq!(&index.search(&search).unwrap(), &expected);
        }
    }

    /// Whoever has the rows finds the nearest among the candidates, ties included, and none is off by more than it
    /// says.
    #[test]
    fn candidates_hold_the_nearest_of_rounded_rows(
        (dim, values, vector) in values_with_ties(),
        jitter in prop_oneof![Just(0.0_f32), Just(1e-4), Just(1e-2)],
        k in 1_usize..20,
        one_of in 1_u32..4,
    ) {
        let mut random = Random::new(k as u64);
        let values: Vec<f32> =
            values.into_iter().map(|value| value + jitter * random.unit()).collect();
        for (metric, way) in METRICS.into_iter().flat_map(|metric| WAYS.map(|way| (metric, way))) {
            let index = wanted(Level::detect(), way, metric, dim, &values);
            let index = with_rounded_rows(index, &values);
            let filter = RowSet::from_fn(index.count(), |row| row % one_of == 0);
            for (effort, filter) in [(EFFORT_EXACT, None), (2 * values.len(), None), (9, Some(&filter))] {
                let search = Search { vector: &vector, k, effort, filter };
                let mut found = Vec::new();
                for candidate in index.candidates(&search).unwrap() {
                    let row = &values[candidate.row as usize * dim..][..dim];
                    let distance = crate::distance(metric, &vector, row);
                    prop_assert!((distance - candidate.distance).abs() <= candidate.slack);
                    found.push(Match { row: candidate.row, distance });
                }
                found.sort_by(|a, b| {
                    (a.distance + 0.0).total_cmp(&(b.distance + 0.0)).then(a.row.cmp(&b.row))
                });
                found.truncate(k);
                let passes = |row| filter.is_none_or(|filter| filter.contains(row));
                prop_assert_eq!(found, brute(metric, &values, &vector, k, passes), "{:?}", metric);
            }
        }
    }

    #[test]
    fn bytes_come_back_and_damage_is_noticed(
        (dim, values, vector) in values_with_ties(),
        place in any::<prop::sample::Index>(),
        bit in 0_u32..8,
    ) {
        let kinds = WAYS.into_iter().flat_map(|way| [(way, false), (way, true)]);
        for (metric, (way, is_rounded)) in METRICS.into_iter().flat_map(|metric| kinds.clone().map(move |kind| (metric, kind))) {
            let mut index = wanted(Level::detect(), way, metric, dim, &values);
            if is_rounded {
                index = with_rounded_rows(index, &values);
            }
            let mut bytes = index.encode();
            let read = GraphIndex::decode(&bytes).unwrap();
            prop_assert!(read == index && read.encode() == bytes);
            let search = Search { vector: &vector, k: 5, effort: 9, filter: None };
            prop_assert_eq!(read.search(&search), index.search(&search));
            prop_assert!(GraphIndex::decode(&bytes[..place.index(bytes.len())]).is_err());
            bytes[place.index(index.encode().len())] ^= 1 << bit;
            prop_assert!(GraphIndex::decode(&bytes).is_err());
        }
    }

    /// A stranger can write a checksum: any bytes at all give an error or an index that answers.
    #[test]
    fn hostile_bytes_never_panic(
        (dim, values, vector) in values_with_ties(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let metric = METRICS[values.len() % 3];
        let index = wanted(Level::detect(), WAYS[values.len() / 3 % 2], metric, dim, &values);
        let index = if dim % 2 == 0 { with_rounded_rows(index, &values) } else { index };
        let mut bytes = index.encode();
        bytes.truncate(bytes.len() - 4);
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        if let Ok(index) = GraphIndex::decode(&bytes) {
            prop_assert!(index.encode() == bytes);
            index.search(&Search { vector: &vector, k: 3, effort: 9, filter: None }).ok();
            index.candidates(&Search { vector: &vector, k: 3, effort: 9, filter: None }).ok();
        }
    }
}

#[test]
fn every_level_builds_the_same_bytes() {
    for (dim, rows) in [(9, 700), (40, 300), (520, 300)] {
        let values = clustered(5, rows, dim, 20, 0.3);
        for (metric, way) in METRICS.into_iter().flat_map(|metric| WAYS.map(|way| (metric, way))) {
            let built = Level::available()
                .into_iter()
                .map(|level| wanted(level, way, metric, dim, &values).encode());
            assert!(built.collect::<Vec<_>>().windows(2).all(|pair| pair[0] == pair[1]));
        }
    }
}

#[test]
fn walks_find_nearly_all_in_every_metric() {
    for (dim, rows) in [(24, 6_000), (600, 5_200)] {
        let seen = |hidden: Vec<f32>| if dim == 24 { hidden } else { lifted(&hidden, 24, dim) };
        let values = seen(clustered(6, rows, 24, 60, 0.4));
        let queries = seen(clustered(7, 40, 24, 40, 1.0));
        for metric in METRICS {
            for way in WAYS {
                let index = wanted(Level::detect(), way, metric, dim, &values);
                assert!(index.is_approximate(), "{metric:?} {dim}");
                assert_eq!(
                    has_cells(&index),
                    way == Wanted::Cells && metric != Metric::Dot && dim == 24
                );
                let of = |vector: &[f32]| {
                    let search = Search { vector, k: 10, effort: 80, filter: None };
                    recall(
                        &index.search(&search).unwrap(),
                        &brute(metric, &values, vector, 10, |_| true),
                    )
                };
                let mean = queries.chunks_exact(dim).map(of).sum::<f64>() / 40.0;
                assert!(mean > 0.95, "{metric:?} {dim} {way:?}: {mean}");
            }
        }
    }
}

#[test]
fn rows_are_rounded_where_they_can_still_be_told_apart() {
    let (dim, rows) = (24, 6_000);
    let built = |values: &[f32], metric| {
        GraphIndex::build_while(metric, dim_of(dim), Form::Rounded, values, &|| true)
            .unwrap()
            .unwrap()
    };
    let is_rounded = |index: &GraphIndex| matches!(index.exact.values, Values::Rounded(_));
    let values = clustered(6, rows, dim, 60, 0.4);
    let queries = clustered(7, 40, dim, 40, 1.0);
    for metric in METRICS {
        let (index, whole) =
            (built(&values, metric), GraphIndex::build(metric, dim_of(dim), &values).unwrap());
        assert!(is_rounded(&index), "{metric:?}");
        assert!(index.byte_count() + rows * dim * 3 / 2 < whole.byte_count());
        for vector in queries.chunks_exact(dim) {
            let search = Search { vector, k: 10, effort: 80, filter: None };
            let (found, expected) =
                (index.search(&search).unwrap(), whole.search(&search).unwrap());
            let same = found.iter().filter(|found| expected.iter().any(|e| e.row == found.row));
            assert!(same.count() >= 9 && index.candidates(&search).unwrap().len() < 20);
        }
    }
    // Around thirty places, what tells rows apart is less than a step between the places.
    assert!(!is_rounded(&built(&clustered(11, rows, dim, 30, 1e-5), Metric::Euclidean)));
    let bytes: Vec<f32> =
        values.iter().map(|value| (value.abs() * 200.0).round().min(255.0)).collect();
    assert!(matches!(built(&bytes, Metric::Euclidean).exact.values, Values::Bytes(_)));
    assert!(!is_rounded(&built(&values[..100 * dim], Metric::Euclidean)));
}

#[test]
fn recall_is_kept_under_filters() {
    let (dim, rows) = (24, 20_000);
    let values = clustered(8, rows, dim, 200, 0.5);
    let queries = clustered(9, 30, dim, 30, 1.0);
    let mut random = Random::new(10);
    let indexes = WAYS.map(|way| wanted(Level::detect(), way, Metric::Euclidean, dim, &values));
    assert!(!has_cells(&indexes[0]) && has_cells(&indexes[1]));
    for (index, per_mille) in
        indexes.iter().flat_map(|index| [500, 100, 10, 1].map(|per_mille| (index, per_mille)))
    {
        let filter = RowSet::from_fn(rows, |_| random.below(1_000) < per_mille);
        // The filter that has nothing to do with the query, and the one that passes far rows alone.
        let far = RowSet::from_fn(rows, |row| {
            values[row as usize * dim] > 0.5 && row % 1_000 < per_mille
        });
        for filter in [filter, far] {
            let of = |vector: &[f32]| {
                let expected =
                    brute(Metric::Euclidean, &values, vector, 10, |r| filter.contains(r));
                let search = Search { vector, k: 10, effort: 60, filter: Some(&filter) };
                recall(&index.search(&search).unwrap(), &expected)
            };
            let mean = queries.chunks_exact(dim).map(of).sum::<f64>() / 30.0;
            assert!(mean > 0.95, "{per_mille} of 1,000: {mean}");
        }
    }
}

#[test]
fn vectors_unlike_any_row_find_near_ones() {
    // Clusters of very different sizes, so that the cell with the nearest centroid says little about where near rows are.
    let (dim, rows) = (24, 20_000);
    let mut values = clustered(16, rows / 2, dim, 40, 0.02);
    values.extend(clustered(17, rows / 2, dim, 10, 1.0));
    let index = wanted(Level::detect(), Wanted::Cells, Metric::Euclidean, dim, &values);
    assert!(has_cells(&index));
    let mut random = Random::new(18);
    let (mut found, count) = (0.0, 200);
    for _ in 0..count {
        let mut row = || &values[random.below(rows as u32) as usize * dim..][..dim];
        let (one, other) = (row(), row());
        let vector: Vec<f32> = one.iter().zip(other).map(|(a, b)| (a + b) / 2.0).collect();
        let search = Search { vector: &vector, k: 10, effort: 64, filter: None };
        let nearest = index.search(&search).unwrap();
        let expected = index.search(&Search { effort: EFFORT_EXACT, ..search }).unwrap();
        found += recall(&nearest, &expected) / f64::from(count);
    }
    assert!(found >= 0.8, "{found}");
}

#[test]
fn vectors_off_the_axes_find_near_ones() {
    // Of forty channels sixteen hold so little of the variance that no axis is along them.
    let (wide, dim, rows) = (24, 40, 20_000);
    let mut random = Random::new(21);
    let mut values = Vec::new();
    for row in clustered(20, rows, wide, 40, 0.3).chunks_exact(wide) {
        values.extend_from_slice(row);
        values.extend((wide..dim).map(|_| 0.03 * random.unit()));
    }
    let index = wanted(Level::detect(), Wanted::Cells, Metric::Euclidean, dim, &values);
    let Some(Way::Cells(cells)) = &index.way else { panic!("there are cells") };
    assert_eq!(cells.rows.width, wide);
    let (mut found, count) = (0.0, 200);
    for _ in 0..count {
        let mut vector = values[random.below(rows as u32) as usize * dim..][..dim].to_vec();
        vector[wide..].iter_mut().for_each(|value| *value += 6.0 * random.unit() - 3.0);
        let search = Search { vector: &vector, k: 10, effort: 30, filter: None };
        let nearest = index.search(&search).unwrap();
        let expected = index.search(&Search { effort: EFFORT_EXACT, ..search }).unwrap();
        found += recall(&nearest, &expected) / f64::from(count);
    }
    assert!(found >= 0.9, "{found}");
}

#[test]
fn near_duplicates_do_not_tear_the_graph() {
    let (dim, rows) = (8, 6_000);
    // Thirty places, far apart; around each, rows that codes can hardly tell apart, and copies.
    let mut values = clustered(11, rows, dim, 30, 1e-5);
    values.copy_within(..100 * dim, 3_000 * dim);
    let indexes = WAYS.map(|way| wanted(Level::detect(), way, Metric::Euclidean, dim, &values));
    assert_eq!(indexes[0].groups.node_count(), rows - 100);
    for (index, row) in
        indexes.iter().flat_map(|index| (0..rows).step_by(97).map(move |row| (index, row)))
    {
        let vector = &values[row * dim..][..dim];
        let search = Search { vector, k: 3, effort: 60, filter: None };
        let found = index.search(&search).unwrap();
        assert!(found.iter().all(|found| found.distance < 1e-3), "{row}: {found:?}");
    }
}

#[test]
fn extreme_values_are_answered() {
    let (dim, rows) = (3, 5_100);
    let mut values = clustered(12, rows, dim, 9, 0.5);
    values[7 * dim] = f32::MAX;
    values[9 * dim + 1] = -f32::MAX;
    values[11 * dim..][..dim].fill(f32::from_bits(1));
    for (metric, way) in METRICS.into_iter().flat_map(|metric| WAYS.map(|way| (metric, way))) {
        let index = wanted(Level::detect(), way, metric, dim, &values);
        for vector in [[f32::MAX; 3], [0.0; 3], [f32::from_bits(1); 3], [1.0, -1.0, 0.5]] {
            let search = Search { vector: &vector, k: 4, effort: 200, filter: None };
            let expected = brute(metric, &values, &vector, 4, |_| true);
            let found = index.search(&search).unwrap();
            assert_eq!(found[0].distance, expected[0].distance, "{metric:?} {vector:?}");
        }
    }
}

#[test]
fn bad_input_is_a_typed_error() {
    let dim = dim_of(2);
    let built = GraphIndex::build(Metric::Dot, dim, &[1.0, 2.0, 3.0]);
    assert_eq!(built, Err(VectorError::Length { found: 3, expected: 2 }));
    let built = GraphIndex::build(Metric::Dot, dim, &[1.0, f32::NAN]);
    assert_eq!(built, Err(VectorError::NotFinite { position: 1 }));
    let index = GraphIndex::build(Metric::Dot, dim, &[1.0, 2.0]).unwrap();
    let search = Search { vector: &[1.0], k: 1, effort: 1, filter: None };
    assert_eq!(index.search(&search), Err(VectorError::Length { found: 1, expected: 2 }));
    let infinite = Search { vector: &[f32::INFINITY, 0.0], ..search };
    assert_eq!(index.search(&infinite), Err(VectorError::NotFinite { position: 0 }));
    let all = Search { vector: &[0.0, 0.0], k: usize::MAX, effort: usize::MAX, filter: None };
    assert_eq!(index.search(&all).unwrap().len(), 1);
    let filter = RowSet::from_fn(1_000, |_| true);
    assert_eq!(index.search(&Search { filter: Some(&filter), ..all }).unwrap().len(), 1);
}

/// The bytes of three rows, two of them equal, as `docs/formats/index.md` has them.
#[test]
fn golden_bytes_of_a_small_index() {
    let index = GraphIndex::build(Metric::Euclidean, dim_of(2), &[1.0, 2.0, 1.0, 2.0, 7.0, 0.0]);
    let expected = [
        &b"DUNLINIX"[..],
        &[6, 0, 0, 0],             // version
        &[1, 1, 0, 0],             // euclidean, values as bytes, every row compared
        &[2, 0, 0, 0],             // dimension
        &[3, 0, 0, 0, 2, 0, 0, 0], // rows, nodes
        &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0],
        &[1, 2, 7, 0],
    ]
    .concat();
    let checksum = crc32fast::hash(&expected).to_le_bytes();
    assert_eq!(index.unwrap().encode(), [expected, checksum.to_vec()].concat());
}

/// The bytes of three rounded rows: one dimension varies, one does not.
#[test]
fn golden_bytes_of_rounded_rows() {
    let values = [0.0, 2.5, 65_535.0, 2.5, 258.0, 2.5];
    let index = GraphIndex::build(Metric::Dot, dim_of(2), &values).unwrap();
    let expected = [
        &b"DUNLINIX"[..],
        &[6, 0, 0, 0],                         // version
        &[2, 2, 0, 0],                         // dot, values rounded, every row compared
        &[2, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0], // dimension, rows, nodes
        &[0, 0, 0, 0, 0, 0, 0x20, 0x40],       // least values: 0, 2.5
        &[0, 0, 0x80, 0x3f, 0, 0, 0, 0],       // steps: 1, none
        &[0, 0, 0, 0, 0, 0, 0, 0],             // error: 0
        &[0, 0, 0xff, 0xff, 2, 1],
    ]
    .concat();
    let checksum = crc32fast::hash(&expected).to_le_bytes();
    assert_eq!(with_rounded_rows(index, &values).encode(), [expected, checksum.to_vec()].concat());
}

/// Graphs and cells are too long for hexadecimal; their checksums stand for them. A changed one is a new version.
#[test]
fn golden_checksums_of_graphs_and_cells() {
    let checksum = |index: &GraphIndex| {
        let bytes = index.encode();
        assert_eq!(GraphIndex::decode(&bytes).as_ref(), Ok(index));
        crc32fast::hash(&bytes[..bytes.len() - 4])
    };
    let mut checksums = Vec::new();
    for (dim, metric) in [(20, Metric::Cosine), (20, Metric::Dot), (600, Metric::Euclidean)] {
        let index = walked(metric, dim, &clustered(13, 400, dim, 12, 0.3));
        assert!(matches!(codes_of(&index), Codes::Bytes(_)));
        checksums.push(checksum(&index));
    }
    let near = clustered(13, 400, 20, 12, 1e-5);
    for metric in [Metric::Cosine, Metric::Euclidean] {
        let index = walked(metric, 20, &near);
        assert!(matches!(codes_of(&index), Codes::Grid(_)));
        checksums.push(checksum(&index));
    }
    checksums.push(checksum(&walked(Metric::Euclidean, 20, &near).with_shared_rows()));
    for metric in [Metric::Cosine, Metric::Euclidean] {
        let index =
            wanted(Level::detect(), Wanted::Cells, metric, 20, &clustered(13, 400, 20, 12, 0.3));
        assert!(has_cells(&index));
        checksums.push(checksum(&index));
    }
    assert_eq!(
        checksums,
        [
            2_348_445_573,
            4_060_004_748,
            2_961_735_036,
            1_157_937_695,
            2_283_573_501,
            20_305_888,
            1_681_547_922,
            132_359_341
        ]
    );
}

fn codes_of(index: &GraphIndex) -> &Codes {
    &index.walked().unwrap().codes
}

impl GraphIndex {
    /// The index with answers made of the very rows that are walked, whether or not that is right.
    fn with_shared_rows(mut self) -> Self {
        if let Codes::Grid(rows) = codes_of(&self) {
            self.exact.values = Values::Rounded(Arc::clone(rows));
        }
        self
    }
}

/// Telemetry has thousands of rows within the step of a byte. A walk must not have to keep all of them.
#[test]
fn rows_that_bytes_do_not_tell_apart_are_found_with_little_effort() {
    let (dim, rows, places) = (8, 6_000, 20);
    let mut values = clustered(16, rows, dim, places, 0.0);
    // From each of some places, far apart, a row of rows.
    for row in 0..rows {
        values[row * dim] += (row / places) as f32 * 1e-4;
    }
    for metric in [Metric::Cosine, Metric::Euclidean] {
        let index = walked(metric, dim, &values).rounded(&values);
        assert!(matches!(codes_of(&index), Codes::Grid(_)), "{metric:?}");
        let is_shared = metric == Metric::Euclidean;
        assert_eq!(index.has_codes_once(), is_shared, "the rows are there once where they can be");
        let recalls = (0..rows).step_by(150).map(|row| {
            let mut vector = values[row * dim..][..dim].to_vec();
            vector[0] += 3e-5;
            let search = Search { vector: &vector, k: 10, effort: 30, filter: None };
            let found = index.search(&search).unwrap();
            recall(&found, &brute(metric, &values, &vector, 10, |_| true))
        });
        let mean = recalls.sum::<f64>() / 40.0;
        assert!(mean > 0.95, "{metric:?}: {mean}");
        assert_eq!(GraphIndex::decode(&index.encode()).as_ref(), Ok(&index));
    }
}

#[test]
fn multiples_of_few_vectors_have_directions_that_no_grid_holds() {
    let values: Vec<f32> =
        (1..5_200).flat_map(|times| [times as f32, 2.0 * times as f32]).collect();
    let index = GraphIndex::build(Metric::Cosine, dim_of(2), &values).unwrap();
    let search = Search { vector: &[1.0, 2.0], k: 5, effort: 50, filter: None };
    let found = index.search(&search).unwrap();
    assert_eq!(found.len(), 5);
    assert!(found.iter().all(|found| found.distance.abs() < 1e-12), "{found:?}");
}

/// What says how rows are walked must agree with the metric and the form of the values.
#[test]
fn a_grid_where_none_can_be_is_refused() {
    let near = clustered(13, 400, 20, 12, 1e-5);
    let whole = walked(Metric::Euclidean, 20, &near);
    let shared = whole.clone().with_shared_rows().encode();
    // The number that says so stands behind the space: unit, peak, mean, blocks.
    let rows = 8 + 4 + 4 + 12 + 2 * 4 * 20 + 8 + 2 * 20 * 400;
    let place = rows + 8 + 8 + 4 * 20 + 4;
    assert_eq!(shared[place..][..4], [2, 0, 0, 0]);
    let changed = |at: usize, byte: u8| {
        let mut bytes = shared.clone();
        bytes[at] = byte;
        let end = bytes.len() - 4;
        let checksum = crc32fast::hash(&bytes[..end]).to_le_bytes();
        bytes[end..].copy_from_slice(&checksum);
        GraphIndex::decode(&bytes)
    };
    assert!(changed(place, 2).is_ok());
    for (at, byte) in [(place, 3), (place + 3, 1), (12, 0)] {
        assert_eq!(changed(at, byte), Err(IndexError::Impossible { part: "code" }), "{at}");
    }
}

#[derive(Clone, Debug)]
enum Change {
    Insert(u64, Vec<f32>),
    Remove(u64),
    Compact,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let vector = prop::collection::vec((-3_i8..4).prop_map(f32::from), 3);
    let change = prop_oneof![
        6 => (0_u64..30, vector).prop_map(|(key, vector)| Change::Insert(key, vector)),
        3 => (0_u64..30).prop_map(Change::Remove),
        1 => Just(Change::Compact),
    ];
    prop::collection::vec(change, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn changes_are_visible_at_once(changes in changes(), one_of in 1_u64..4) {
        for metric in METRICS {
            let mut index = LiveIndex::new(metric, dim_of(3));
            let mut model = std::collections::BTreeMap::<u64, Vec<f32>>::new();
            for change in &changes {
                match change {
                    Change::Insert(key, vector) => {
                        index.insert(*key, vector).unwrap();
                        model.insert(*key, vector.clone());
                    }
                    Change::Remove(key) => {
                        prop_assert_eq!(index.remove(*key), model.remove(key).is_some());
                    }
                    Change::Compact => index.compact().unwrap(),
                }
                prop_assert_eq!(index.count(), model.len());
                let vector = [1.0, -1.0, 0.5];
                let passes = |key: u64| key.is_multiple_of(one_of);
                let search = LiveSearch { vector: &vector, k: 4, effort: 8, filter: Some(&passes) };
                let found = index.search(&search).unwrap();
                let mut expected: Vec<LiveMatch> = model
                    .iter()
                    .filter(|(key, _)| passes(**key))
                    .map(|(key, values)| {
                        LiveMatch { key: *key, distance: crate::distance(metric, &vector, values) }
                    })
                    .collect();
                expected.sort_by(|a, b| {
                    (a.distance + 0.0).total_cmp(&(b.distance + 0.0)).then(a.key.cmp(&b.key))
                });
                expected.truncate(4);
                prop_assert_eq!(found, expected);
            }
        }
    }
}

#[test]
fn a_live_index_over_a_graph_forgets_what_is_removed() {
    let (dim, rows) = (6, 5_500);
    let values = clustered(14, rows, dim, 40, 0.4);
    let mut index = LiveIndex::new(Metric::Euclidean, dim_of(dim));
    for (row, key) in values.chunks_exact(dim).zip(0..) {
        index.insert(key, row).unwrap();
    }
    assert!(index.is_compaction_due());
    index.compact().unwrap();
    assert!(!index.is_compaction_due());
    let vector = &values[..dim];
    let search = LiveSearch { vector, k: 5, effort: 50, filter: None };
    let before = index.search(&search).unwrap();
    assert_eq!((before[0].key, before[0].distance), (0, 0.0));
    for found in &before {
        assert!(index.remove(found.key) && !index.contains(found.key));
    }
    index.insert(before[1].key, vector).unwrap();
    let after = index.search(&search).unwrap();
    assert_eq!((after[0].key, after[0].distance), (before[1].key, 0.0));
    assert!(after[1..].iter().all(|found| before.iter().all(|old| old.key != found.key)));
}
