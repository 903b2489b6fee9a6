//! Micro-clusters: many segments in counts and sums.

use super::Stay;

/// Entities that one micro-cluster remembers; of more it is said that there are more.
const ENTITIES_MAX: usize = 256;

const HOUR_US: i128 = 3_600_000_000;
const HOURS: usize = 24;

/// Segments whose means are near one another.
#[derive(Clone)]
pub(super) struct Micro {
    pub(super) segments: u64,
    pub(super) observations: u64,
    /// Mean of the segments' means, in parts of the ranges.
    pub(super) center: Vec<f64>,
    /// Sum over segments and channels of squared differences from it.
    squares: f64,
    /// Time that the segments last, in microseconds.
    dwell_us: u128,
    /// In hours, by hour of the day.
    hours: [f64; HOURS],
    pub(super) first_us: i64,
    pub(super) last_us: i64,
    /// The segment that ended last, and whose it is.
    pub(super) segment: u64,
    pub(super) entity: u64,
    /// Sorted.
    entities: Vec<u64>,
    is_entities_cut: bool,
}

/// Several micro-clusters together.
pub(super) struct Sum {
    pub(super) micro: Micro,
    /// Standard deviation of the micro-clusters' centers, each channel for itself.
    pub(super) deviation: Vec<f64>,
}

impl Micro {
    /// Returns that of one segment, whose mean in parts of the ranges is `center`.
    pub(super) fn of(stay: &Stay<'_>, center: Vec<f64>) -> Self {
        Self {
            segments: 1,
            observations: stay.observations,
            center,
            squares: 0.0,
            dwell_us: stay.end_us.abs_diff(stay.start_us).into(),
            hours: hours(stay.start_us, stay.end_us),
            first_us: stay.start_us,
            last_us: stay.end_us,
            segment: stay.segment,
            entity: stay.entity,
            entities: vec![stay.entity],
            is_entities_cut: false,
        }
    }

    /// Takes in another one.
    pub(super) fn join(&mut self, other: &Self) {
        let (a, b) = (self.segments as f64, other.segments as f64);
        let apart = squares_within(&self.center, &other.center, f64::INFINITY).unwrap_or(0.0);
        self.squares += other.squares + apart * a * b / (a + b);
        let share = b / (a + b);
        for (center, more) in self.center.iter_mut().zip(&other.center) {
            *center += (more - *center) * share;
        }
        self.segments += other.segments;
        self.observations = self.observations.saturating_add(other.observations);
        self.dwell_us += other.dwell_us;
        self.hours.iter_mut().zip(other.hours).for_each(|(hours, more)| *hours += more);
        if (other.last_us, other.segment) > (self.last_us, self.segment) {
            (self.segment, self.entity) = (other.segment, other.entity);
        }
        self.first_us = self.first_us.min(other.first_us);
        self.last_us = self.last_us.max(other.last_us);
        self.is_entities_cut |= other.is_entities_cut;
        for entity in &other.entities {
            if let Err(place) = self.entities.binary_search(entity) {
                self.entities.insert(place, *entity);
            }
        }
    }

    /// Forgets entities beyond what is remembered.
    pub(super) fn cut(&mut self) {
        self.is_entities_cut |= self.entities.len() > ENTITIES_MAX;
        self.entities.truncate(ENTITIES_MAX);
    }

    /// Returns how many entities were seen in it, and whether there may be more.
    pub(super) const fn entities(&self) -> (usize, bool) {
        (self.entities.len(), self.is_entities_cut)
    }

    /// Returns the root mean square distance of its segments from its center.
    pub(super) fn spread(&self) -> f64 {
        (self.squares / (self.segments as f64 * self.center.len() as f64)).sqrt()
    }

    /// Returns how long a segment lasts, in microseconds.
    pub(super) fn dwell_us(&self) -> u64 {
        u64::try_from(self.dwell_us / u128::from(self.segments)).unwrap_or(u64::MAX)
    }

    /// Returns which part of the time falls into each hour of the day.
    pub(super) fn hours(&self) -> [f64; HOURS] {
        let all: f64 = self.hours.iter().sum();
        self.hours.map(|hours| if all > 0.0 { hours / all } else { 0.0 })
    }
}

impl Sum {
    /// Returns what micro-clusters are together; `None` for none.
    pub(super) fn of<'a>(micros: impl Iterator<Item = &'a Micro> + Clone) -> Option<Self> {
        let mut all = micros.clone();
        let mut sum = all.next()?.clone();
        all.for_each(|micro| sum.join(micro));
        let mut squares = vec![0.0; sum.center.len()];
        for micro in micros {
            let pairs = micro.center.iter().zip(&sum.center);
            for (total, (value, mean)) in squares.iter_mut().zip(pairs) {
                *total += micro.segments as f64 * (value - mean) * (value - mean);
            }
        }
        let segments = sum.segments as f64;
        let deviation = squares.into_iter().map(|total| (total / segments).sqrt()).collect();
        Some(Self { micro: sum, deviation })
    }
}

/// Returns the sum of the squared differences of two points, when it is at most `bound`.
pub(super) fn squares_within(a: &[f64], b: &[f64], bound: f64) -> Option<f64> {
    /// Values between two looks whether it is too much already.
    const LOOK_EVERY: usize = 8;
    let mut sum = 0.0;
    for (a, b) in a.chunks(LOOK_EVERY).zip(b.chunks(LOOK_EVERY)) {
        sum += a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
        if sum > bound {
            return None;
        }
    }
    Some(sum)
}

/// Returns the hours from one time to another that fall into each hour of the day.
fn hours(start_us: i64, end_us: i64) -> [f64; HOURS] {
    let (start, end) = (i128::from(start_us), i128::from(end_us.max(start_us)));
    let days = (end - start) / (HOUR_US * HOURS as i128);
    let mut hours = [days as f64; HOURS];
    let mut at = start + days * HOUR_US * HOURS as i128;
    // At most as many steps as a day has hours, and one.
    while at < end {
        let hour = at.div_euclid(HOUR_US);
        let until = end.min((hour + 1) * HOUR_US);
        hours[hour.rem_euclid(HOURS as i128) as usize] += (until - at) as f64 / HOUR_US as f64;
        at = until;
    }
    hours
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stay(entity: u64, segment: u64, mean: &[f32]) -> Stay<'_> {
        Stay { segment, entity, start_us: 0, end_us: 10, observations: 4, mean }
    }

    #[test]
    fn what_is_joined_counts_as_if_it_had_been_seen_together() {
        let rows: Vec<[f32; 2]> = (0_u8..20).map(|i| [f32::from(i) / 20.0, 0.5]).collect();
        let of = |row: &[f32; 2], i: usize| {
            Micro::of(&stay(i as u64 % 3, i as u64, row), row.map(f64::from).to_vec())
        };
        let one = |range: std::ops::Range<usize>| {
            let mut all = range.map(|i| of(&rows[i], i));
            let mut first = all.next().unwrap();
            all.for_each(|micro| first.join(&micro));
            first
        };
        let (mut a, b) = (one(0..7), one(7..20));
        a.join(&b);
        let mean = rows.iter().map(|row| f64::from(row[0])).sum::<f64>() / 20.0;
        let squares: f64 = rows.iter().map(|row| (f64::from(row[0]) - mean).powi(2)).sum();
        assert!(
            (a.center[0] - mean).abs() < 1e-9 && (a.spread().powi(2) * 40.0 - squares).abs() < 1e-9
        );
        assert_eq!((a.segments, a.observations, a.segment, a.entities()), (20, 80, 19, (3, false)));
    }

    #[test]
    fn time_is_counted_by_hour_however_long_it_is() {
        let hour = HOUR_US as i64;
        // From 23:30 to 01:00, and a day more.
        let spent = hours(23 * hour + hour / 2, 49 * hour);
        assert_eq!((spent[23], spent[0], spent[1]), (1.5, 2.0, 1.0));
        assert!(hours(i64::MIN, i64::MAX).iter().all(|hours| *hours > 1e8));
        assert_eq!(hours(5, 5), [0.0; 24]);
    }

    #[test]
    fn a_crowd_of_entities_is_cut_and_it_is_said() {
        let mean = [0.5, 0.5];
        let mut micro = Micro::of(&stay(0, 0, &mean), vec![0.5; 2]);
        for entity in 1..1_000 {
            micro.join(&Micro::of(&stay(entity, entity, &mean), vec![0.5; 2]));
            micro.cut();
        }
        assert_eq!(micro.entities(), (ENTITIES_MAX, true));
    }
}
