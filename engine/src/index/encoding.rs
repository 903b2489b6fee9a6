//! Bytes of a [`GraphIndex`]; the page is `docs/formats/index.md`.
//!
//! Decoding trusts nothing: a checksum stands over all, and what it cannot vouch for, because a stranger
//! can compute one too, is checked value by value before anything is looked up with it.

use std::sync::Arc;

use super::{
    GraphIndex, ROWS_MAX, Walked, Way,
    build::DEGREE,
    byte_codes::{ByteCodes, lines_for},
    cells::{Cells, Centroids},
    codes::Codes,
    exact::{Exact, Values},
    graph::{Graph, LINE_NEIGHBORS},
    groups::Groups,
    lists::Lists,
    rounded::Rounded,
    space::{Axes, Space},
};
use crate::{
    collection::{DIM_MAX, Metric},
    distance::LANES,
    simd::{BLOCK, CODE_MAX, LINE_BYTES, Level, Line, WIDTHS, roomy},
};

/// The version that is written, and the only one that is read.
pub const INDEX_VERSION: u32 = 6;

const MAGIC: &[u8; 8] = b"DUNLINIX";

/// Forms of values.
const FLOATS: u8 = 0;
const BYTES: u8 = 1;
const ROUNDED: u8 = 2;

/// What walks compare.
const IN_BYTES: u32 = 0;
const ON_A_GRID: u32 = 1;
const AS_ROUNDED: u32 = 2;

/// Ways.
const NO_WAY: u8 = 0;
const A_GRAPH: u8 = 1;
const IN_CELLS: u8 = 2;

/// Most blocks of a projection.
const BLOCKS_MAX: usize = 4;

/// Why bytes are no index. The rows are elsewhere too: build it again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The bytes begin in another way: they are something else.
    #[error("the bytes are no index")]
    Foreign,
    /// Another version wrote them.
    #[error("the index has version {found}; this build knows {INDEX_VERSION}")]
    Version {
        /// What the bytes say.
        found: u32,
    },
    /// The bytes are not what was written.
    #[error("the checksum of the index is not right")]
    Checksum,
    /// The bytes end early, or go on behind the end.
    #[error("the index has another length than its parts")]
    Length,
    /// A value is not one that an index has.
    #[error("the index has an impossible {part}")]
    Impossible {
        /// Where it is.
        part: &'static str,
    },
}

const fn impossible(part: &'static str) -> IndexError {
    IndexError::Impossible { part }
}

impl GraphIndex {
    /// Returns the bytes of the index. The same rows give the same bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.byte_count() + 1_024);
        bytes.extend_from_slice(MAGIC);
        put_numbers(&mut bytes, &[INDEX_VERSION]);
        let form = match self.exact.values {
            Values::Floats(_) => FLOATS,
            Values::Bytes(_) => BYTES,
            Values::Rounded(_) => ROUNDED,
        };
        let way = match self.way {
            None => NO_WAY,
            Some(Way::Graph(_)) => A_GRAPH,
            Some(Way::Cells(_)) => IN_CELLS,
        };
        bytes.extend_from_slice(&[code_of(self.metric), form, way, 0]);
        let (rows, nodes) = (self.groups.row_count(), self.groups.node_count());
        put_numbers(&mut bytes, &[self.exact.dim as u32, rows as u32, nodes as u32]);
        put_numbers(&mut bytes, self.groups.nodes());
        match &self.exact.values {
            Values::Bytes(values) => bytes.extend_from_slice(values),
            Values::Floats(values) => put_floats(&mut bytes, values),
            Values::Rounded(values) => put_grid(&mut bytes, values),
        }
        match &self.way {
            None => {}
            Some(Way::Graph(walked)) => walked.encode(&mut bytes, self.has_codes_once()),
            Some(Way::Cells(cells)) => cells.encode(&mut bytes),
        }
        let checksum = crc32fast::hash(&bytes);
        put_numbers(&mut bytes, &[checksum]);
        bytes
    }

    /// Returns the index that the bytes hold.
    ///
    /// # Errors
    ///
    /// Fails on bytes that [`GraphIndex::encode`] did not return.
    pub fn decode(bytes: &[u8]) -> Result<Self, IndexError> {
        if !bytes.starts_with(MAGIC) {
            return Err(IndexError::Foreign);
        }
        let mut reader = Reader(&bytes[MAGIC.len()..]);
        let version = reader.number()?;
        if version != INDEX_VERSION {
            return Err(IndexError::Version { found: version });
        }
        let (body, checksum) = bytes.split_last_chunk::<4>().ok_or(IndexError::Length)?;
        if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
            return Err(IndexError::Checksum);
        }
        // The checksum is not a part; there is enough, or it would not have been right.
        reader.0 = reader.0.strip_suffix(checksum).ok_or(IndexError::Length)?;
        let [metric, form, way, zero] = reader.array()?;
        let metric = metric_of(metric).ok_or(impossible("metric"))?;
        if form > ROUNDED || way > IN_CELLS || zero != 0 {
            return Err(impossible("flag"));
        }
        let [dim, row_count, node_count] =
            [reader.number()? as usize, reader.number()? as usize, reader.number()? as usize];
        if dim == 0 || dim > usize::from(DIM_MAX) {
            return Err(impossible("dimension"));
        }
        if row_count > ROWS_MAX || node_count > row_count || (node_count == 0) != (row_count == 0) {
            return Err(impossible("count"));
        }
        let groups = decode_groups(&mut reader, row_count, node_count)?;
        let exact = decode_exact(&mut reader, form, dim, node_count)?;
        let level = Level::detect();
        let way = match way {
            A_GRAPH => {
                let walked = Walked::decode(&mut reader, level, metric, &exact)?;
                Some(Way::Graph(Box::new(walked)))
            }
            IN_CELLS => {
                let cells = Cells::decode(&mut reader, level, metric, &exact)?;
                Some(Way::Cells(Box::new(cells)))
            }
            _ => None,
        };
        if !reader.0.is_empty() {
            return Err(IndexError::Length);
        }
        Ok(Self { level, metric, exact, groups, way })
    }
}

impl Walked {
    fn encode(&self, bytes: &mut Vec<u8>, has_codes_once: bool) {
        let Self { space, codes, graph, .. } = self;
        put_scales(bytes, space);
        put_numbers(bytes, &[(space.matrix.len() / space.dim_in()) as u32]);
        put_floats(bytes, space.matrix.as_flattened());
        match codes {
            Codes::Bytes(codes) => {
                put_numbers(bytes, &[IN_BYTES]);
                codes.lines().iter().for_each(|line| bytes.extend_from_slice(&line.0));
            }
            Codes::Grid(_) if has_codes_once => put_numbers(bytes, &[AS_ROUNDED]),
            Codes::Grid(rows) => {
                put_numbers(bytes, &[ON_A_GRID]);
                put_grid(bytes, rows);
            }
        }
        put_numbers(bytes, &[graph.hubs.nodes.len() as u32]);
        put_numbers(bytes, &graph.hubs.nodes);
        for slots in graph.slots() {
            put_numbers(bytes, slots);
        }
    }

    fn decode(
        reader: &mut Reader<'_>,
        level: Level,
        metric: Metric,
        exact: &Exact,
    ) -> Result<Self, IndexError> {
        let (dim, count) = (exact.dim, exact.count());
        let dim_in = dim + usize::from(metric == Metric::Dot);
        let (scales, mean) = decode_scales(reader, dim_in)?;
        let blocks = reader.number()? as usize;
        if blocks > BLOCKS_MAX {
            return Err(impossible("projection"));
        }
        let matrix = reader.floats(blocks * dim_in * BLOCK)?.as_chunks::<BLOCK>().0.to_vec();
        let space = Space::from_parts(level, (metric, dim), scales, mean, matrix);
        let codes = decode_codes(reader, &space, exact)?;
        let hub_count = reader.number()? as usize;
        let hubs = reader.numbers(hub_count)?;
        let slots = reader.take(count, DEGREE * 4)?.as_chunks::<{ 4 * LINE_NEIGHBORS }>().0;
        let slots = slots.iter().map(|bytes| {
            let (numbers, _) = bytes.as_chunks::<4>();
            std::array::from_fn(|index| u32::from_le_bytes(numbers[index]))
        });
        let graph = Graph::from_slots(&codes, slots, hubs).ok_or(impossible("neighbor"))?;
        Ok(Self::new(space, codes, graph))
    }
}

impl Cells {
    fn encode(&self, bytes: &mut Vec<u8>) {
        let Self { space, axes, centroids, rows, .. } = self;
        put_scales(bytes, space);
        put_numbers(bytes, &[rows.width as u32]);
        put_floats(bytes, axes.values.as_flattened());
        let counts = centroids.counts();
        put_numbers(bytes, &[rows.count() as u32, counts.len() as u32]);
        put_numbers(bytes, &counts);
        put_floats(bytes, &rows.origins);
        put_floats(bytes, &rows.steps);
        let (counts, nodes, codes, norms) = rows.parts();
        put_numbers(bytes, &counts);
        put_numbers(bytes, &nodes);
        put_floats(bytes, &norms);
        bytes.extend_from_slice(&codes);
    }

    fn decode(
        reader: &mut Reader<'_>,
        level: Level,
        metric: Metric,
        exact: &Exact,
    ) -> Result<Self, IndexError> {
        if metric == Metric::Dot {
            return Err(impossible("metric"));
        }
        let (dim, count) = (exact.dim, exact.count());
        let (scales, mean) = decode_scales(reader, dim)?;
        let space = Space::from_parts(level, (metric, dim), scales, mean, Vec::new());
        let width = reader.number()? as usize;
        if !WIDTHS.contains(&width) {
            return Err(impossible("width"));
        }
        let values = reader.floats(width * dim)?.as_chunks::<LANES>().0.to_vec();
        let (cell_count, root_count) = (reader.number()? as usize, reader.number()? as usize);
        let cells_of_roots = decode_counts(reader, root_count, cell_count)?;
        let origins = reader.floats(cell_count.checked_mul(width).ok_or(IndexError::Length)?)?;
        let steps = reader.floats(cell_count)?;
        let counts = decode_counts(reader, cell_count, count)?;
        let nodes = reader.numbers(count)?;
        let norms = reader.floats(count)?;
        let codes = reader.take(count, width)?;
        if steps.iter().any(|step| *step < 0.0) || norms.iter().any(|norm| *norm < 0.0) {
            return Err(impossible("scale"));
        }
        if codes.iter().any(|code| *code > CODE_MAX) {
            return Err(impossible("code"));
        }
        let mut is_in_a_cell = vec![false; count];
        for node in &nodes {
            match is_in_a_cell.get_mut(*node as usize) {
                Some(seen) if !*seen => *seen = true,
                _ => return Err(impossible("node")),
            }
        }
        let centroids = Centroids::new(width, &cells_of_roots, &origins);
        let rows = Lists::from_parts(width, (origins, steps), &counts, (&nodes, codes, &norms));
        Ok(Self::new(level, (space, Axes { values }), centroids, rows))
    }
}

/// Returns so many counts, each at least one, that add up to `sum`, which is not zero.
fn decode_counts(
    reader: &mut Reader<'_>,
    count: usize,
    sum: usize,
) -> Result<Vec<u32>, IndexError> {
    let counts = reader.numbers(count)?;
    let all = counts.iter().map(|count| *count as usize).sum::<usize>();
    if sum > 0 && all == sum && counts.iter().all(|count| *count > 0) {
        Ok(counts)
    } else {
        Err(impossible("count"))
    }
}

/// Returns the unit and the peak, and the mean, of a space of `dim` dimensions.
fn decode_scales(
    reader: &mut Reader<'_>,
    dim: usize,
) -> Result<((f64, f64), Vec<f32>), IndexError> {
    let scales = (f64::from_le_bytes(reader.array()?), f64::from_le_bytes(reader.array()?));
    if !(scales.0.is_finite() && scales.0 > 0.0 && scales.1.is_finite()) {
        return Err(impossible("scale"));
    }
    Ok((scales, reader.floats(dim)?))
}

fn decode_codes(
    reader: &mut Reader<'_>,
    space: &Space,
    exact: &Exact,
) -> Result<Codes, IndexError> {
    match (reader.number()?, space.metric, &exact.values) {
        (IN_BYTES, ..) => {
            let (count, lines) = (exact.count(), lines_for(space.dim_out()));
            let stored = reader.take(count, lines * LINE_BYTES)?;
            let mut store = roomy(count * lines);
            store.extend(stored.as_chunks::<LINE_BYTES>().0.iter().map(|line| Line(*line)));
            let codes = ByteCodes::from_lines(lines, store);
            let is_finite = |(scale, bias): (f32, f32)| scale.is_finite() && bias.is_finite();
            if !(0..count as u32).all(|row| is_finite(codes.tail(row))) {
                return Err(impossible("code"));
            }
            Ok(Codes::Bytes(codes))
        }
        (ON_A_GRID, Metric::Euclidean | Metric::Cosine, _) => {
            Ok(Codes::Grid(decode_grid(reader, exact.dim, exact.count())?.into()))
        }
        (AS_ROUNDED, Metric::Euclidean, Values::Rounded(rows)) => Ok(Codes::Grid(Arc::clone(rows))),
        _ => Err(impossible("code")),
    }
}

/// Returns rounded rows; a grid that does not vary in any dimension is none.
fn decode_grid(reader: &mut Reader<'_>, dim: usize, count: usize) -> Result<Rounded, IndexError> {
    let (lower, step) = (reader.floats(dim)?, reader.floats(dim)?);
    let error = f64::from_le_bytes(reader.array()?);
    let width = step.iter().filter(|step| **step > 0.0).count();
    if step.iter().any(|step| *step < 0.0) || width == 0 || error.is_nan() || error < 0.0 {
        return Err(impossible("grid"));
    }
    let length = count.checked_mul(width).ok_or(IndexError::Length)?;
    let (stored, _) = reader.take(length, 2)?.as_chunks::<2>();
    let mut codes = roomy(length);
    codes.extend(stored.iter().map(|code| u16::from_le_bytes(*code)));
    Ok(Rounded::from_parts(lower, step, error, codes))
}

fn decode_groups(
    reader: &mut Reader<'_>,
    row_count: usize,
    node_count: usize,
) -> Result<Groups, IndexError> {
    if node_count == row_count {
        return Ok(Groups::of_distinct_rows(row_count));
    }
    let nodes = reader.numbers(row_count)?;
    let mut seen = 0;
    for node in &nodes {
        if *node > seen {
            return Err(impossible("node"));
        }
        seen += u32::from(*node == seen);
    }
    if seen as usize != node_count {
        return Err(impossible("node"));
    }
    Ok(Groups::from_nodes(nodes, node_count))
}

fn decode_exact(
    reader: &mut Reader<'_>,
    form: u8,
    dim: usize,
    count: usize,
) -> Result<Exact, IndexError> {
    if form == BYTES {
        let stored = reader.take(count, dim)?;
        let mut values = roomy(stored.len());
        values.extend_from_slice(stored);
        return Ok(Exact { dim, values: Values::Bytes(values) });
    }
    if form == ROUNDED {
        let rows = decode_grid(reader, dim, count)?;
        return Ok(Exact { dim, values: Values::Rounded(rows.into()) });
    }
    let length = count.checked_mul(dim).ok_or(IndexError::Length)?;
    Ok(Exact { dim, values: Values::Floats(reader.floats(length)?) })
}

const fn code_of(metric: Metric) -> u8 {
    match metric {
        Metric::Cosine => 0,
        Metric::Euclidean => 1,
        Metric::Dot => 2,
    }
}

const fn metric_of(code: u8) -> Option<Metric> {
    match code {
        0 => Some(Metric::Cosine),
        1 => Some(Metric::Euclidean),
        2 => Some(Metric::Dot),
        _ => None,
    }
}

fn put_scales(bytes: &mut Vec<u8>, space: &Space) {
    bytes.extend_from_slice(&space.unit.to_le_bytes());
    bytes.extend_from_slice(&space.peak.to_le_bytes());
    put_floats(bytes, &space.mean);
}

fn put_grid(bytes: &mut Vec<u8>, rows: &Rounded) {
    put_floats(bytes, &rows.lower);
    put_floats(bytes, &rows.step);
    bytes.extend_from_slice(&rows.error.to_le_bytes());
    bytes.extend(rows.codes.iter().flat_map(|code| code.to_le_bytes()));
}

fn put_numbers(bytes: &mut Vec<u8>, numbers: &[u32]) {
    for number in numbers {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
}

fn put_floats(bytes: &mut Vec<u8>, floats: &[f32]) {
    for float in floats {
        bytes.extend_from_slice(&float.to_le_bytes());
    }
}

/// What is still to be read. Lengths are checked against it before anything is allocated.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, each: usize) -> Result<&'a [u8], IndexError> {
        let length = count.checked_mul(each).ok_or(IndexError::Length)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(IndexError::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], IndexError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(IndexError::Length)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Result<u32, IndexError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn numbers(&mut self, count: usize) -> Result<Vec<u32>, IndexError> {
        let (chunks, _) = self.take(count, 4)?.as_chunks::<4>();
        Ok(chunks.iter().map(|chunk| u32::from_le_bytes(*chunk)).collect())
    }

    fn floats(&mut self, count: usize) -> Result<Vec<f32>, IndexError> {
        let (chunks, _) = self.take(count, 4)?.as_chunks::<4>();
        let mut floats = roomy(count);
        floats.extend(chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)));
        if floats.iter().all(|float: &f32| float.is_finite()) {
            Ok(floats)
        } else {
            Err(impossible("value"))
        }
    }
}
