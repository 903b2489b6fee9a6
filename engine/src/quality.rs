//! Size against error: what segments cost, what they lose, and what fixed windows would cost.
//!
//! The reconstruction of a summary holds each regime's mean. Its error is measured by reading the
//! observations again where they are kept, and comes from the stored spreads where they are not. The
//! fixed windows are of equal length, in the same format, and as long as gives the same error.

use crate::{
    collection::{CollectionName, Units},
    engine::Engine,
    error::{ReadError, StoreError},
    observation::EntityId,
    payload,
    preferred::OWN,
    question::{Asked, Detail, Question},
    rows::Rows,
    segment::Segment,
};

/// Window lengths that are tried, each a quarter longer than the one before.
const WINDOW_GROWTH: f64 = 1.25;

/// What the sealed segments of a collection or an entity cost and lose.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Quality {
    /// Observations in sealed segments.
    pub observations: u64,
    /// Sealed segments.
    pub segments: u64,
    /// Bytes of those observations as 32-bit floats, without times.
    pub raw_bytes: u64,
    /// Bytes of the segments as summaries: their blocks without links to payload.
    pub stored_bytes: u64,
    /// Bytes of the payload blocks.
    pub payload_bytes: u64,
    /// `raw_bytes / stored_bytes`; 0 without segments.
    pub ratio: f64,
    /// Root mean square error of the means over each channel's range: the declared one, else the
    /// observed one. Channels that never moved count with error 0.
    pub nrmse: f64,
    /// One minus the squared error over the squared deviation from each entity's mean, both in units of
    /// the range, over all channels.
    pub r2: f64,
    /// The ratio of fixed windows with the same `nrmse`.
    pub window: Result<Window, WindowMissing>,
}

/// Fixed windows as good as the segments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Their raw bytes over stored bytes.
    pub ratio: f64,
    /// Their length in observations, between the lengths that were tried.
    pub observations: f64,
}

/// Why there is no comparison with fixed windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WindowMissing {
    /// The collection keeps no observations to cut into windows.
    #[error("the collection keeps summaries only")]
    NotLossless,
    /// There are no segments, or no window length has an error as large.
    #[error("no window length has the same error")]
    OutOfReach,
}

impl Engine {
    /// Returns what the sealed segments of a collection, or of one entity, cost and lose.
    ///
    /// Reads every observation of a collection that keeps them: about a second for a million values.
    ///
    /// # Errors
    ///
    /// Fails when there is no such collection or entity.
    pub fn quality(
        &self,
        collection: &CollectionName,
        entity: Option<&EntityId>,
    ) -> Result<Quality, ReadError> {
        let question = self.question(collection, entity, Detail::Means, &OWN)?;
        let mut total = Total::new(&question);
        if total.kept {
            total.windows = windows_up_to(longest(&question)?, total.dim);
        }
        for asked in &question.entities {
            total.add(&question, asked)?;
        }
        Ok(total.quality(&question.spec.units))
    }
}

/// Sums over all entities, per channel.
struct Total {
    dim: usize,
    /// Whether observations are at hand.
    kept: bool,
    observations: u64,
    segments: u64,
    stored_bytes: u64,
    payload_bytes: u64,
    lower: Vec<f64>,
    upper: Vec<f64>,
    /// Squared error of the segments' means.
    error: Vec<f64>,
    /// Squared deviation from each entity's mean.
    deviation: Vec<f64>,
    /// Lengths of fixed windows, with how many there are and their squared errors.
    windows: Vec<Windows>,
}

struct Windows {
    length: usize,
    count: u64,
    error: Vec<f64>,
}

/// Count, mean and squared deviation of a run of observations, per channel.
struct Run {
    count: f64,
    mean: Vec<f64>,
    m2: Vec<f64>,
}

impl Total {
    fn new(question: &Question) -> Self {
        let dim = question.spec.dim.get();
        Self {
            dim,
            kept: question.spec.fidelity.keeps_observations(),
            observations: 0,
            segments: 0,
            stored_bytes: 0,
            payload_bytes: 0,
            lower: vec![f64::INFINITY; dim],
            upper: vec![f64::NEG_INFINITY; dim],
            error: vec![0.0; dim],
            deviation: vec![0.0; dim],
            windows: Vec::new(),
        }
    }

    fn add(&mut self, question: &Question, asked: &Asked) -> Result<(), ReadError> {
        let mut whole = Run::new(self.dim);
        let mut cuts: Vec<Run> = self.windows.iter().map(|_| Run::new(self.dim)).collect();
        let stored = question.reader.of_entity(question.number, &asked.id, i64::MIN, i64::MAX)?;
        for stored in stored {
            let stored = stored?;
            let segment = &stored.segment;
            self.count(segment);
            if self.kept {
                let blocks = question.reader.payload_of(&stored)?;
                self.payload_bytes += blocks.iter().map(|b| b.bytes().len() as u64).sum::<u64>();
                let rows = payload::decode(segment, &blocks).map_err(StoreError::from)?;
                self.measure(segment, &rows);
                self.extend_windows(&mut cuts, &rows);
                rows.iter().for_each(|(_, values)| whole.add(values));
            } else {
                self.estimate(segment);
                whole.add_segment(segment);
            }
        }
        for (window, run) in self.windows.iter_mut().zip(&mut cuts) {
            window.close(run);
        }
        add_all(&mut self.deviation, &whole.m2);
        Ok(())
    }

    fn count(&mut self, segment: &Segment) {
        self.observations += u64::from(segment.count());
        self.segments += 1;
        let summary = Segment { payload: Vec::new(), ..segment.clone() };
        self.stored_bytes += summary.encode().len() as u64;
    }

    /// Adds the error of a segment whose observations are at hand.
    fn measure(&mut self, segment: &Segment, rows: &Rows) {
        for (_, values) in rows.iter() {
            for (channel, value) in values.iter().map(|value| f64::from(*value)).enumerate() {
                self.lower[channel] = self.lower[channel].min(value);
                self.upper[channel] = self.upper[channel].max(value);
                let error = value - f64::from(segment.mean()[channel]);
                self.error[channel] += error * error;
            }
        }
    }

    /// Adds the error of a segment from what it says itself.
    fn estimate(&mut self, segment: &Segment) {
        let count = f64::from(segment.count());
        let ends = [segment.first(), segment.last()];
        for (channel, spread) in segment.spread().into_iter().map(f64::from).enumerate() {
            self.error[channel] += spread * spread * count;
            for value in ends.iter().map(|end| f64::from(end[channel])) {
                self.lower[channel] = self.lower[channel].min(value);
                self.upper[channel] = self.upper[channel].max(value);
            }
        }
    }

    /// Continues the fixed windows of an entity.
    fn extend_windows(&mut self, cuts: &mut [Run], rows: &Rows) {
        for (window, run) in self.windows.iter_mut().zip(cuts) {
            for (_, values) in rows.iter() {
                run.add(values);
                if run.count as usize >= window.length {
                    window.close(run);
                }
            }
        }
    }

    fn quality(&self, units: &Units) -> Quality {
        let raw_bytes = self.observations * (self.dim * size_of::<f32>()) as u64;
        let ranges = self.ranges(units);
        let (error, deviation) =
            (in_ranges(&self.error, &ranges), in_ranges(&self.deviation, &ranges));
        let values = (self.observations * self.dim as u64).max(1) as f64;
        // The sum of nothing is -0, and so would its root be.
        let nrmse = (error / values).sqrt().abs();
        Quality {
            observations: self.observations,
            segments: self.segments,
            raw_bytes,
            stored_bytes: self.stored_bytes,
            payload_bytes: self.payload_bytes,
            ratio: if self.segments == 0 {
                0.0
            } else {
                raw_bytes as f64 / self.stored_bytes as f64
            },
            nrmse,
            // Observations that never move are told completely by their mean.
            r2: if deviation > 0.0 { 1.0 - error / deviation } else { 1.0 },
            window: self.window(nrmse, &ranges, values),
        }
    }

    fn ranges(&self, units: &Units) -> Vec<f64> {
        let width = |(lower, upper): (f64, f64)| (upper - lower).max(0.0);
        match units {
            Units::Range { lower, upper } => {
                let lower = lower.iter().copied().map(f64::from);
                lower.zip(upper.iter().copied().map(f64::from)).map(width).collect()
            }
            Units::NoiseFloor => {
                self.lower.iter().copied().zip(self.upper.iter().copied()).map(width).collect()
            }
        }
    }

    /// Returns the windows whose error is that of the segments, between two lengths that were tried.
    fn window(&self, nrmse: f64, ranges: &[f64], values: f64) -> Result<Window, WindowMissing> {
        if !self.kept {
            return Err(WindowMissing::NotLossless);
        }
        let bytes_each = self.stored_bytes as f64 / self.segments.max(1) as f64;
        let raw_bytes = (self.observations * (self.dim * size_of::<f32>()) as u64) as f64;
        // Ratios grow over orders of magnitude, so lengths and ratios are interpolated by logarithm.
        let point = |windows: &Windows| {
            let ratio = raw_bytes / (windows.count as f64 * bytes_each);
            (
                (in_ranges(&windows.error, ranges) / values).sqrt(),
                ratio.ln(),
                (windows.length as f64).ln(),
            )
        };
        let points: Vec<_> = self.windows.iter().map(point).collect();
        let reach = |pair: &&[(f64, f64, f64)]| pair[0].0 <= nrmse && nrmse <= pair[1].0;
        let pair = points.windows(2).find(reach).ok_or(WindowMissing::OutOfReach)?;
        let width = pair[1].0 - pair[0].0;
        let share = if width > 0.0 { (nrmse - pair[0].0) / width } else { 0.0 };
        let between = |low: f64, high: f64| (low + share * (high - low)).exp();
        Ok(Window {
            ratio: between(pair[0].1, pair[1].1),
            observations: between(pair[0].2, pair[1].2),
        })
    }
}

/// Returns how many sealed observations the entity with the most of them has.
fn longest(question: &Question) -> Result<u64, ReadError> {
    let mut longest = 0;
    for asked in &question.entities {
        let stored = question.reader.of_entity(question.number, &asked.id, i64::MIN, i64::MAX)?;
        let counts = stored.map(|stored| Ok(u64::from(stored?.segment.count())));
        longest = longest.max(counts.sum::<Result<u64, ReadError>>()?);
    }
    Ok(longest)
}

/// Returns the lengths to try: a window longer than the longest entity changes nothing more.
fn windows_up_to(longest: u64, dim: usize) -> Vec<Windows> {
    let mut windows = Vec::new();
    let mut length = 1.0;
    while length <= longest as f64 * WINDOW_GROWTH {
        windows.push(Windows { length: length as usize, count: 0, error: vec![0.0; dim] });
        length = (length * WINDOW_GROWTH).ceil();
    }
    windows
}

impl Windows {
    /// Ends a window that has observations.
    fn close(&mut self, run: &mut Run) {
        if run.count > 0.0 {
            self.count += 1;
            add_all(&mut self.error, &run.m2);
            *run = Run::new(run.mean.len());
        }
    }
}

impl Run {
    fn new(dim: usize) -> Self {
        Self { count: 0.0, mean: vec![0.0; dim], m2: vec![0.0; dim] }
    }

    fn add(&mut self, values: &[f32]) {
        self.count += 1.0;
        let share = 1.0 / self.count;
        for ((value, mean), m2) in values.iter().zip(&mut self.mean).zip(&mut self.m2) {
            let before = f64::from(*value) - *mean;
            *mean += before * share;
            *m2 += before * (f64::from(*value) - *mean);
        }
    }

    /// Adds a whole segment by its mean and spread (Chan, Golub and LeVeque 1979).
    fn add_segment(&mut self, segment: &Segment) {
        let count = f64::from(segment.count());
        let total = self.count + count;
        for (channel, spread) in segment.spread().into_iter().map(f64::from).enumerate() {
            let apart = f64::from(segment.mean()[channel]) - self.mean[channel];
            self.mean[channel] += apart * count / total;
            self.m2[channel] +=
                spread * spread * count + apart * apart * self.count * count / total;
        }
        self.count = total;
    }
}

fn add_all(sums: &mut [f64], more: &[f64]) {
    sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

/// Returns the sum over channels of squares in units of the range; channels without one are left out.
fn in_ranges(squares: &[f64], ranges: &[f64]) -> f64 {
    let moved = squares.iter().zip(ranges).filter(|(_, range)| **range > 0.0);
    moved.map(|(square, range)| square / (range * range)).sum()
}
