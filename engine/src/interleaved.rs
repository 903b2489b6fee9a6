//! Rows of which the nearest to a point are looked for, eight side by side.
//!
//! Channel by channel, one vector holds what eight rows have there, so a comparison of eight rows needs neither a sum
//! across a vector nor room at the end of a row. It is a rough one, in single precision; the rows that may be the
//! nearest after it are compared exactly by who asks, so the answer is that of a plain comparison.

use crate::{
    distance::{LANES, in_units_into},
    simd::{self, Level, ROUGH, ROUGH_FLOOR},
};

/// Rows of one dimension, that of the first one, oldest first.
#[derive(Clone, Default)]
pub(crate) struct Interleaved {
    dim: usize,
    /// For each group of eight rows and each channel, what they have there.
    groups: Vec<[f32; LANES]>,
    /// Rows of the first group that were forgotten.
    forgotten: usize,
    count: usize,
}

/// A point as rows are compared with it, and room for what a comparison finds. One serves many points.
#[derive(Default)]
pub(crate) struct Point {
    /// In units.
    pub(crate) exact: Vec<f64>,
    /// As it was observed, and one over the units.
    values: Vec<f32>,
    inverse_unit: Vec<f32>,
    sums: Vec<[f32; LANES]>,
}

impl Interleaved {
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn push(&mut self, row: &[f32]) {
        debug_assert!(self.count == 0 || row.len() == self.dim);
        self.dim = row.len();
        let place = self.forgotten + self.count;
        if place.is_multiple_of(LANES) {
            self.groups.resize(self.groups.len() + self.dim, [0.0; LANES]);
        }
        let group = &mut self.groups[place / LANES * self.dim..];
        for (lanes, value) in group.iter_mut().zip(row) {
            lanes[place % LANES] = *value;
        }
        self.count += 1;
    }

    /// Forgets the oldest ones, all but `count`.
    pub(crate) fn forget_but(&mut self, count: usize) {
        let more = self.count.saturating_sub(count);
        self.count -= more;
        self.forgotten += more;
        let groups = self.forgotten / LANES;
        self.groups.drain(..groups * self.dim);
        self.forgotten %= LANES;
    }

    /// Returns what a row has in a channel.
    pub(crate) fn value(&self, row: usize, channel: usize) -> f32 {
        let place = self.forgotten + row;
        self.groups[place / LANES * self.dim + channel][place % LANES]
    }

    /// Returns a row.
    pub(crate) fn row(&self, row: usize) -> Vec<f32> {
        (0..self.dim).map(|channel| self.value(row, channel)).collect()
    }

    /// Returns the newest `count` rows, row-major.
    pub(crate) fn newest(&self, count: usize) -> Vec<f32> {
        let rows = self.count.saturating_sub(count)..self.count;
        rows.flat_map(|row| self.row(row)).collect()
    }

    /// Calls `offer` with those of the newest `newest` rows, in order, that may be among the `most` (1 or 2) that are
    /// nearest to a point.
    pub(crate) fn each_near(
        &self,
        newest: usize,
        most: usize,
        point: &mut Point,
        level: Level,
        mut offer: impl FnMut(usize, &[f64]),
    ) {
        let Point { exact, values, inverse_unit, sums } = point;
        let end = self.forgotten + self.count;
        let start = end - newest.min(self.count);
        let first = start / LANES;
        sums.clear();
        let groups = &self.groups[first * self.dim..];
        simd::rough_squares(level, groups, values, inverse_unit, sums);
        // Not compared: what is older, and what is not there yet.
        if let Some(sums) = sums.first_mut() {
            sums[..start % LANES].fill(f32::INFINITY);
        }
        if let Some(sums) = sums.last_mut() {
            sums[(end - 1) % LANES + 1..].fill(f32::INFINITY);
        }
        let (least, second) = simd::two_least(level, sums);
        let farthest = farthest_rough(if most == 1 { least } else { second });
        for (group, sums) in sums.iter().enumerate() {
            if !simd::any_within(level, sums, farthest) {
                continue;
            }
            for (lane, sum) in sums.iter().enumerate() {
                let place = (first + group) * LANES + lane;
                if (start..end).contains(&place) && (!sum.is_finite() || *sum <= farthest) {
                    offer(place - self.forgotten, exact);
                }
            }
        }
    }
}

impl Point {
    /// Takes another point.
    pub(crate) fn set(&mut self, values: &[f32], inverse_unit: &[f64]) {
        in_units_into(values, inverse_unit, &mut self.exact);
        self.values.clear();
        self.values.extend_from_slice(values);
        self.inverse_unit.clear();
        self.inverse_unit.extend(inverse_unit.iter().map(|inverse| narrowed(*inverse)));
    }
}

/// Returns the inverse of a unit in single precision; infinite, so that nothing rough is relied on, where that has
/// no such number.
fn narrowed(inverse: f64) -> f32 {
    let narrow = inverse as f32;
    let is_near = (f64::from(narrow) - inverse).abs() <= ROUGH / 100.0 * inverse;
    if is_near { narrow } else { f32::INFINITY }
}

/// Returns the largest rough sum of a row whose exact one is no more than that of another with this rough sum.
fn farthest_rough(sum: f32) -> f32 {
    let farthest = (f64::from(sum) + ROUGH_FLOOR) * (1.0 + ROUGH) / (1.0 - ROUGH) + ROUGH_FLOOR;
    (farthest as f32).next_up()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(range: std::ops::Range<u16>) -> Vec<f32> {
        range.flat_map(|row| [f32::from(row), -f32::from(row), 0.5]).collect()
    }

    #[test]
    fn rows_come_back_as_they_went_in_and_the_oldest_are_forgotten() {
        let mut kept = Interleaved::default();
        for row in rows(0..21).chunks(3) {
            kept.push(row);
        }
        assert_eq!((kept.len(), kept.newest(usize::MAX)), (21, rows(0..21)));
        for (left, first) in [(20, 1), (20, 1), (13, 8), (3, 18)] {
            kept.forget_but(left);
            assert_eq!((kept.len(), kept.newest(usize::MAX)), (left, rows(first..21)));
        }
        assert_eq!(kept.groups.len(), 3, "whole groups are given back");
        kept.push(&rows(21..22));
        assert_eq!((kept.newest(2), kept.value(3, 0)), (rows(20..22), 21.0));
        kept.forget_but(0);
        assert_eq!((kept.len(), kept.newest(9)), (0, Vec::new()));
        kept.push(&rows(22..23));
        assert_eq!(kept.newest(9), rows(22..23));
    }

    /// Only the newest are looked at, wherever in their group they stand.
    #[test]
    fn the_near_ones_are_of_the_newest() {
        let mut kept = Interleaved::default();
        let mut point = Point::default();
        for count in 1..40_u16 {
            kept.push(&rows(count..count + 1));
            for newest in 1..=kept.len() {
                for (most, target) in [(1, 0.0), (2, 0.0), (1, 99.0), (2, 99.0)] {
                    point.set(&[target, -target, 0.5], &[1.0; 3]);
                    let mut found = Vec::new();
                    let offer = |row, _: &[f64]| found.push(row);
                    kept.each_near(newest, most, &mut point, Level::detect(), offer);
                    let mut expected: Vec<_> = (kept.len() - newest..kept.len()).collect();
                    let most = if newest < most { newest } else { most };
                    if target > 0.0 {
                        expected.drain(..newest - most);
                    }
                    expected.truncate(most);
                    assert_eq!(found, expected, "{count} {newest} {most} {target}");
                }
            }
        }
    }
}
