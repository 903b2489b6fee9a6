//! Our index, `instant-distance` and `hnsw_rs` behind one C interface, which `run.py` drives.
//!
//! All squared euclidean or euclidean, all `f32`, all on the thread that calls. A search takes all
//! queries at once, as the Python libraries do, and answers them one after the other.

use dunlin_engine::{
    Dim, Metric,
    index::{Form, GraphIndex, Index, Search},
};

/// Neighbors of a node in `hnsw_rs`; twice as many on the lowest level.
const M: usize = 16;

/// Candidates while an index is built, for those that take it.
const EF_CONSTRUCTION: usize = 200;

/// An index that is measured.
pub trait Measured {
    /// Puts the rows nearest to a query into `found`.
    fn search(&self, query: &[f32], effort: usize, found: &mut [u32]);

    /// Returns the bytes that the index takes by its own count, 0 where it does not know.
    fn byte_count(&self) -> usize {
        0
    }
}

impl Measured for GraphIndex {
    fn search(&self, vector: &[f32], effort: usize, found: &mut [u32]) {
        let search = Search { vector, k: found.len(), effort, filter: None };
        let nearest = Index::search(self, &search).expect("queries are like the rows");
        for (found, nearest) in found.iter_mut().zip(nearest) {
            *found = nearest.row;
        }
    }

    fn byte_count(&self) -> usize {
        Self::byte_count(self)
    }
}

/// A row of `instant-distance`.
#[derive(Clone)]
struct Point(Vec<f32>);

impl instant_distance::Point for Point {
    fn distance(&self, other: &Self) -> f32 {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has the instructions.
            unsafe { squares_wide(&self.0, &other.0) }
        } else {
            squares(&self.0, &other.0)
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn squares_wide(a: &[f32], b: &[f32]) -> f32 {
    squares(a, b)
}

#[inline(always)]
fn squares(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<32>();
    let (b, b_rest) = b.as_chunks::<32>();
    let mut lanes = [0.0_f32; 32];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..32 {
            lanes[lane] += (a[lane] - b[lane]) * (a[lane] - b[lane]);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| (a - b) * (a - b)).sum();
    lanes.iter().sum::<f32>() + rest
}

/// `instant-distance`, whose search effort is fixed when it is built.
struct InstantDistance {
    graph: instant_distance::Hnsw<Point>,
    rows: Vec<u32>,
}

impl InstantDistance {
    fn build(effort: usize, rows: impl Iterator<Item = Vec<f32>>) -> Self {
        let builder = instant_distance::Builder::default().ef_search(effort).seed(1);
        let (graph, ids) = builder.build_hnsw(rows.map(Point).collect());
        let mut rows = vec![0; ids.len()];
        for (row, id) in ids.iter().enumerate() {
            rows[id.into_inner() as usize] = row as u32;
        }
        Self { graph, rows }
    }
}

impl Measured for InstantDistance {
    fn search(&self, query: &[f32], _effort: usize, found: &mut [u32]) {
        let mut search = instant_distance::Search::default();
        let nearest = self.graph.search(&Point(query.to_vec()), &mut search);
        for (found, nearest) in found.iter_mut().zip(nearest) {
            *found = self.rows[nearest.pid.into_inner() as usize];
        }
    }
}

impl Measured for hnsw_rs::prelude::Hnsw<'static, f32, hnsw_rs::prelude::DistL2> {
    fn search(&self, query: &[f32], effort: usize, found: &mut [u32]) {
        let nearest = hnsw_rs::prelude::Hnsw::search(self, query, found.len(), effort);
        for (found, nearest) in found.iter_mut().zip(nearest) {
            *found = nearest.d_id as u32;
        }
    }
}

/// Returns a new index, to be given back to [`ann_free`]; null when there is no such kind or dimension.
///
/// Kinds: 0 ours, 1 `instant-distance`, 2 `hnsw_rs`.
///
/// # Safety
///
/// `values` points to `rows * dim` finite floats.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ann_build(
    kind: u32,
    values: *const f32,
    rows: usize,
    dim: usize,
    effort: usize,
) -> *mut Box<dyn Measured> {
    // SAFETY: the caller promises as many.
    let values = unsafe { std::slice::from_raw_parts(values, rows * dim) };
    let each = values.chunks_exact(dim);
    let index: Box<dyn Measured> = match kind {
        0 => {
            let Some(dim) = u16::try_from(dim).ok().and_then(|dim| Dim::new(dim).ok()) else {
                return std::ptr::null_mut();
            };
            let built =
                GraphIndex::build_while(Metric::Euclidean, dim, Form::Rounded, values, &|| true);
            Box::new(built.ok().flatten().expect("the caller promises finite rows"))
        }
        1 => Box::new(InstantDistance::build(effort, each.map(<[f32]>::to_vec))),
        2 => {
            let distance = hnsw_rs::prelude::DistL2 {};
            let graph = hnsw_rs::prelude::Hnsw::new(M, rows, 16, EF_CONSTRUCTION, distance);
            for (id, row) in each.enumerate() {
                graph.insert((row, id));
            }
            Box::new(graph)
        }
        _ => return std::ptr::null_mut(),
    };
    Box::into_raw(Box::new(index))
}

/// Puts the `k` rows nearest to each of `count` queries into `found`, the maximum where there are fewer.
///
/// # Safety
///
/// `index` is from [`ann_build`], `queries` points to `count * dim` finite floats, `found` to room for
/// `count * k` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ann_search(
    index: *const Box<dyn Measured>,
    queries: *const f32,
    count: usize,
    dim: usize,
    k: usize,
    effort: usize,
    found: *mut u32,
) {
    // SAFETY: the caller promises all three.
    let (index, queries, found) = unsafe {
        (
            &**index,
            std::slice::from_raw_parts(queries, count * dim),
            std::slice::from_raw_parts_mut(found, count * k),
        )
    };
    found.fill(u32::MAX);
    for (query, found) in queries.chunks_exact(dim).zip(found.chunks_exact_mut(k)) {
        index.search(query, effort, found);
    }
}

/// Returns the bytes that an index takes by its own count, 0 where it does not know.
///
/// # Safety
///
/// `index` is from [`ann_build`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ann_bytes(index: *const Box<dyn Measured>) -> usize {
    // SAFETY: the caller promises it.
    unsafe { (*index).byte_count() }
}

/// Ends an index.
///
/// # Safety
///
/// `index` is from [`ann_build`], and nothing uses it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ann_free(index: *mut Box<dyn Measured>) {
    // SAFETY: the caller promises it.
    drop(unsafe { Box::from_raw(index) });
}
