//! Lets each channel hold its level over as many pieces as an error allows.
//!
//! The course of one channel is the one that costs least when every change costs a fixed squared error
//! (the Potts functional, by dynamic programming over levels). The price of a change is searched for
//! until the whole outline uses the error that it may have.

use super::{Outline, SEARCH_STEPS, stream};

/// Most levels of one channel; a channel that needs more gets coarser ones.
const LEVELS_MAX: f64 = 1024.0;

/// Smallest change of spread that is told, in octaves.
const SPREAD_OCTAVES: i32 = 2;

/// The course of one channel.
struct Channel {
    /// Distance of two levels.
    step: f32,
    /// The lowest level, a whole number.
    lowest: f64,
    /// Number of levels.
    count: usize,
    /// Exact means of the pieces.
    means: Vec<f64>,
    width: f64,
}

/// Returns the outline with means that change as rarely as the squared error `squares` allows, in levels
/// that are `step_share` of each channel's width apart.
pub(super) fn hold(mut outline: Outline, widths: &[f32], step_share: f64, squares: f64) -> Outline {
    let weights: Vec<f64> = outline.pieces.iter().map(|piece| f64::from(piece.count)).collect();
    let channels: Vec<Channel> = widths
        .iter()
        .enumerate()
        .map(|(at, width)| {
            let means = outline.pieces.iter().map(|piece| f64::from(piece.mean[at])).collect();
            Channel::new(means, f64::from(*width), step_share)
        })
        .collect();
    let course = |price: f64| -> (f64, Vec<Vec<usize>>) {
        let held = channels.iter().map(|channel| channel.cheapest(&weights, price));
        let (errors, levels): (Vec<f64>, Vec<_>) = held.unzip();
        (errors.iter().sum(), levels)
    };
    // Prices from one observation a hundredth of the width away, to all of them a whole one.
    let (mut low, mut high) = (1e-4_f64, weights.iter().sum::<f64>().max(1.0));
    let mut best = course(0.0).1;
    for _ in 0..SEARCH_STEPS {
        let middle = (low * high).sqrt();
        let (error, levels) = course(middle);
        if error <= squares {
            (best, low) = (levels, middle);
        } else {
            high = middle;
        }
    }
    outline.steps = channels.iter().map(|channel| channel.step).collect();
    for (at, (channel, levels)) in channels.iter().zip(&best).enumerate() {
        for (piece, level) in outline.pieces.iter_mut().zip(levels) {
            piece.mean[at] = channel.value(*level);
        }
    }
    hold_spreads(&mut outline);
    outline
}

impl Channel {
    fn new(means: Vec<f64>, width: f64, step_share: f64) -> Self {
        let lower = means.iter().copied().fold(f64::INFINITY, f64::min);
        let upper = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let largest = lower.abs().max(upper.abs());
        // Levels must be few, and a float must tell them apart.
        let step = (width * step_share)
            .max((upper - lower) / LEVELS_MAX)
            .max(largest / f64::from(stream::LEVEL_MAX / 2))
            .max(f64::from(f32::MIN_POSITIVE));
        let step = step.min(f64::from(f32::MAX)) as f32;
        let lowest = (lower / f64::from(step)).round();
        let count = ((upper / f64::from(step)).round() - lowest) as usize + 1;
        Self { step, lowest, count, means, width }
    }

    fn value(&self, level: usize) -> f32 {
        stream::mean_of(self.step, (self.lowest + level as f64) as i32)
    }

    /// Returns the squared error and the levels of the course in which a change costs `price`.
    fn cheapest(&self, weights: &[f64], price: f64) -> (f64, Vec<usize>) {
        let levels: Vec<f64> = (0..self.count).map(|level| f64::from(self.value(level))).collect();
        let square = |mean: f64, weight: f64, level: f64| {
            let error = (mean - level) / self.width;
            weight * error * error
        };
        let mut costs = vec![0.0; self.count];
        // For each piece the cheapest level before it, and at which levels a change to here pays.
        let mut trail: Vec<(usize, Vec<bool>)> = Vec::with_capacity(self.means.len());
        for (mean, weight) in self.means.iter().zip(weights) {
            let cheapest = cheapest_of(&costs);
            let changed = costs[cheapest] + if trail.is_empty() { 0.0 } else { price };
            let mut changes = vec![false; self.count];
            for ((cost, change), level) in costs.iter_mut().zip(&mut changes).zip(&levels) {
                *change = changed < *cost;
                *cost = cost.min(changed) + square(*mean, *weight, *level);
            }
            trail.push((cheapest, changes));
        }
        let mut level = cheapest_of(&costs);
        let mut course = vec![0; self.means.len()];
        let mut error = 0.0;
        for (at, (cheapest, changes)) in trail.iter().enumerate().rev() {
            course[at] = level;
            error += square(self.means[at], weights[at], levels[level]);
            if changes[level] {
                level = *cheapest;
            }
        }
        (error, course)
    }
}

/// Returns the first of the lowest costs.
fn cheapest_of(costs: &[f64]) -> usize {
    let mut best = 0;
    for (at, cost) in costs.iter().enumerate() {
        if *cost < costs[best] {
            best = at;
        }
    }
    best
}

/// Rounds spreads to powers of two that change only where they change much.
fn hold_spreads(outline: &mut Outline) {
    let dim = outline.steps.len();
    let mut held = vec![stream::OCTAVE_NONE; dim];
    for piece in &mut outline.pieces {
        for (held, spread) in held.iter_mut().zip(&mut piece.spread) {
            let octave = stream::octave_of(*spread);
            if octave.abs_diff(*held) >= SPREAD_OCTAVES.unsigned_abs() {
                *held = octave;
            }
            *spread = stream::spread_of(*held);
        }
    }
}
