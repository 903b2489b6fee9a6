//! Cells: who gets them, and whether they find what is near.

use super::*;

/// Courses of few hidden values seen through many channels, as telemetry has them: each row is near the one before.
fn courses(seed: u64, rows: usize, dim: usize) -> Vec<f32> {
    let mut random = Random::new(seed);
    let mut state = [0.0_f32; 3];
    let hidden: Vec<f32> = (0..rows)
        .flat_map(|row| {
            if row % 500 == 0 {
                state = state.map(|_| random.unit() * 2.0);
            }
            state = state.map(|value| value + (random.unit() - 0.5) * 0.02);
            state
        })
        .collect();
    lifted(&hidden, 3, dim)
}

#[test]
fn telemetry_is_put_into_cells_and_what_has_no_place_is_not() {
    let (dim, rows) = (30, 8_000);
    let telemetry = courses(20, rows, dim);
    let mut random = Random::new(21);
    let noise: Vec<f32> = (0..rows * dim).map(|_| random.unit()).collect();
    let build =
        |metric, dim, values: &[f32]| GraphIndex::build(metric, dim_of(dim), values).unwrap();
    assert!(has_cells(&build(Metric::Euclidean, dim, &telemetry)));
    assert!(has_cells(&build(Metric::Cosine, dim, &telemetry)));
    assert!(!has_cells(&build(Metric::Dot, dim, &telemetry)));
    assert!(build(Metric::Euclidean, dim, &noise).walked().is_some());
    let wide = courses(22, 6_000, 200);
    assert!(!has_cells(&build(Metric::Euclidean, 200, &wide)));
}

#[test]
fn cells_give_as_many_rows_as_are_asked_for() {
    let (dim, rows) = (12, 6_000);
    let values = courses(23, rows, dim);
    let index = wanted(Level::detect(), Wanted::Cells, Metric::Euclidean, dim, &values);
    assert!(has_cells(&index));
    let vector = &values[..dim];
    let rare = RowSet::from_fn(rows, |row| row % 5 == 0);
    for k in [1, 100, 1_100, rows, rows + 1] {
        for (filter, all) in [(None, rows), (Some(&rare), rows / 5)] {
            let search = Search { vector, k, effort: 1, filter };
            let found = index.search(&search).unwrap();
            assert_eq!(found.len(), k.min(all), "{k}");
            assert!(found.windows(2).all(|pair| pair[0].distance <= pair[1].distance));
            let passes = |row| filter.is_none_or(|filter| filter.contains(row));
            let expected = brute(Metric::Euclidean, &values, vector, k, passes);
            assert!(recall(&found, &expected) > 0.9, "{k}");
        }
    }
}

/// Far from all rows nothing is told apart by codes; far in one channel is no reason to find nothing.
#[test]
fn vectors_unlike_all_rows_are_answered_from_cells() {
    let (dim, rows) = (30, 8_000);
    let values = courses(24, rows, dim);
    let index = wanted(Level::detect(), Wanted::Cells, Metric::Euclidean, dim, &values);
    for (channel, value) in [(3, 2.0), (7, -5.0), (9, 1e6), (29, -1e30)] {
        let mut vector = values[100 * dim..][..dim].to_vec();
        vector[channel] += value;
        let search = Search { vector: &vector, k: 10, effort: 200, filter: None };
        let found = index.search(&search).unwrap();
        let expected = brute(Metric::Euclidean, &values, &vector, 10, |_| true);
        let last = expected[9].distance;
        assert!(found.iter().all(|found| found.distance <= last * 1.02), "{channel} {value}");
        // Far outside every row is compared.
        if value.abs() > 1e3 {
            let distances =
                |hits: &[Match]| -> Vec<_> { hits.iter().map(|hit| hit.distance).collect() };
            assert_eq!(distances(&found), distances(&expected), "{channel} {value}");
        }
    }
}

/// Where codes, counts or nodes are no cells of the rows, they are refused.
#[test]
fn cells_that_cannot_be_are_refused() {
    let (dim, rows) = (3, 200);
    let values = courses(25, rows, dim);
    let index = wanted(Level::detect(), Wanted::Cells, Metric::Euclidean, dim, &values);
    let Some(Way::Cells(cells)) = &index.way else { panic!("cells were wanted") };
    let bytes = index.encode();
    let (width, count) = (16, cells.count());
    // Before the checksum stand codes, norms, nodes, counts, steps, centroids, counts of roots, and how many these are.
    let codes = bytes.len() - 4 - width * rows;
    let (norms, nodes) = (codes - 4 * rows, codes - 8 * rows);
    let counts = nodes - 4 * count;
    let steps = counts - 4 * count;
    let roots = cells.centroids.counts().len();
    let of_roots = steps - 4 * width * count - 4 * roots;
    let read = |at: usize| u32::from_le_bytes(bytes[at..][..4].try_into().unwrap());
    assert_eq!((read(of_roots - 8), read(of_roots - 4)), (count as u32, roots as u32));
    let width_at = of_roots - 8 - 4 * width * dim - 4;
    assert_eq!(read(width_at), 16);
    let changed = |at: usize, number: u32| {
        let mut bytes = bytes.clone();
        bytes[at..][..4].copy_from_slice(&number.to_le_bytes());
        let end = bytes.len() - 4;
        let checksum = crc32fast::hash(&bytes[..end]).to_le_bytes();
        bytes[end..].copy_from_slice(&checksum);
        GraphIndex::decode(&bytes)
    };
    let impossible = |part| Err(IndexError::Impossible { part });
    assert_eq!(changed(codes, read(codes)), Ok(index.clone()));
    assert_eq!(changed(codes, 0x0000_0080), impossible("code"));
    assert_eq!(changed(norms, (-1.0_f32).to_bits()), impossible("scale"));
    assert_eq!(changed(norms, f32::NAN.to_bits()), impossible("value"));
    assert_eq!(changed(nodes, read(nodes + 4)), impossible("node"));
    assert_eq!(changed(nodes, rows as u32), impossible("node"));
    assert_eq!(changed(counts, read(counts) + 1), impossible("count"));
    assert_eq!(changed(counts, 0), impossible("count"));
    assert_eq!(changed(steps, (-1.0_f32).to_bits()), impossible("scale"));
    assert_eq!(changed(of_roots, u32::MAX), impossible("count"));
    assert_eq!(changed(of_roots - 8, u32::MAX), impossible("count"));
    assert_eq!(changed(width_at, 8), impossible("width"));
    assert!(changed(width_at, 32).is_err());
    assert_eq!(changed(12, u32::from_le_bytes([2, 0, 2, 0])), impossible("metric"));
    assert_eq!(changed(12, u32::from_le_bytes([1, 0, 3, 0])), impossible("flag"));
}
