//! Levels of bounded error that change as rarely as possible.
//!
//! Every value may be replaced by any level within its allowed error. With levels closer together than
//! twice that error there is a choice, and the cheapest course through the choices is found by dynamic
//! programming (Viterbi 1967), where staying costs nothing and a change costs more the farther it goes.
//! No value is taken on trust: each level is decoded and compared before it becomes a candidate.

/// Most levels per doubled error.
pub(super) const DIVISOR_MAX: u32 = 2;

/// Share by which levels are closer together than they might be, so that a value halfway between two of
/// them is within the error of both, however they round.
const OVERLAP: f64 = 1.0 / 1024.0;

/// What a change costs besides its distance, in sixteenths of a bit. 2 to 4 bits measured alike.
const CHANGE_COST: u64 = 3 * 16;

/// Levels that may stand for one value.
const CANDIDATES_MAX: usize = 4;

/// Levels are integers of at most this size, so that their differences fit 32 bits.
const LEVEL_MAX: f64 = (1 << 29) as f64;

/// Where the levels of a channel are: at multiples of twice the error, divided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    /// Largest difference between a value and its level; not negative.
    pub(super) error_max: f32,
    /// Levels per doubled error, 1 to [`DIVISOR_MAX`].
    pub(super) divisor: u32,
}

impl Scale {
    pub(super) const NONE: Self = Self { error_max: 0.0, divisor: 1 };

    /// Returns the value of a level.
    pub(super) fn value(self, level: i32) -> f32 {
        (f64::from(level) * self.step()) as f32
    }

    fn step(self) -> f64 {
        f64::from(self.error_max) * 2.0 * (1.0 - OVERLAP) / f64::from(self.divisor)
    }

    /// Returns the level that is exactly this value.
    fn level_of(self, value: f32) -> Option<i32> {
        let nearest = (f64::from(value) / self.step()).round();
        let level = nearest as i32;
        let is_level = nearest.abs() <= LEVEL_MAX && self.value(level).to_bits() == value.to_bits();
        is_level.then_some(level)
    }

    /// Returns the levels within the error of a value, rising.
    fn candidates(self, value: f32) -> Candidates {
        let mut found = Candidates { lowest: 0, count: 0 };
        let value = f64::from(value);
        let nearest = (value / self.step()).round();
        if nearest.abs() > LEVEL_MAX {
            return found;
        }
        let nearest = nearest as i32;
        let reach = self.divisor.cast_signed();
        for level in nearest - reach..=nearest + reach {
            let error = (f64::from(self.value(level)) - value).abs();
            if error <= f64::from(self.error_max) && found.count < CANDIDATES_MAX {
                if found.count == 0 {
                    found.lowest = level;
                }
                found.count += 1;
            }
        }
        found
    }
}

/// Neighboring levels.
#[derive(Clone, Copy)]
struct Candidates {
    lowest: i32,
    count: usize,
}

/// Returns the scale and the levels that cost least; `None` when an error of zero is asked for, or some
/// value has no level within its error: it is too large for the error, or too small for a float to tell.
pub(super) fn choose(column: &[f32], error_max: f32) -> Option<(Scale, Vec<i32>)> {
    cheapest_scale(error_max, |scale| cheapest(column, |value| scale.candidates(value)))
}

/// As [`choose`] for values that it was once asked for already: those that are levels stay where they are.
/// The rest were kept as they came, for being the same all along or without a level, and may become levels.
pub(super) fn keep(column: &[f32], error_max: f32) -> Option<(Scale, Vec<i32>)> {
    let levels_of = |scale: Scale, value: f32| {
        // A scale's levels are among those of the finest one.
        let finest = Scale { divisor: DIVISOR_MAX, ..scale };
        match (scale.level_of(value), finest.level_of(value)) {
            (Some(level), _) => Candidates { lowest: level, count: 1 },
            (None, Some(_)) => Candidates { lowest: 0, count: 0 },
            (None, None) => scale.candidates(value),
        }
    };
    cheapest_scale(error_max, |scale| cheapest(column, |value| levels_of(scale, value)))
}

/// Returns the scale whose course costs least, and its levels.
fn cheapest_scale(
    error_max: f32,
    course: impl Fn(Scale) -> Option<(u64, Vec<i32>)>,
) -> Option<(Scale, Vec<i32>)> {
    if error_max <= 0.0 {
        return None;
    }
    let course = |divisor| {
        let scale = Scale { error_max, divisor };
        course(scale).map(|(cost, levels)| (cost, scale, levels))
    };
    let courses = (1..=DIVISOR_MAX).filter_map(course);
    let (_, scale, levels) = courses.min_by_key(|(cost, ..)| *cost)?;
    Some((scale, levels))
}

/// Returns the cheapest course through the candidates of each value, and its cost.
fn cheapest(column: &[f32], candidates: impl Fn(f32) -> Candidates) -> Option<(u64, Vec<i32>)> {
    let mut costs = [0_u64; CANDIDATES_MAX];
    let mut before = Candidates { lowest: 0, count: 0 };
    // For each row its lowest candidate, and where the best course to each candidate comes from.
    let mut trail: Vec<(i32, [u8; CANDIDATES_MAX])> = Vec::with_capacity(column.len());
    for value in column {
        let here = candidates(*value);
        if here.count == 0 {
            return None;
        }
        let (mut costs_here, mut from) = ([0; CANDIDATES_MAX], [0; CANDIDATES_MAX]);
        for at in 0..here.count {
            let level = here.lowest + at as i32;
            let reached = (0..before.count).map(|was| {
                let distance = level.abs_diff(before.lowest + was as i32);
                (costs[was] + change_cost(distance), was as u8)
            });
            (costs_here[at], from[at]) = reached.min().unwrap_or((0, 0));
        }
        trail.push((here.lowest, from));
        (costs, before) = (costs_here, here);
    }
    let (cost, mut at) = (0..before.count).map(|at| (costs[at], at)).min()?;
    let mut levels = vec![0; column.len()];
    for (level, (lowest, from)) in levels.iter_mut().zip(&trail).rev() {
        *level = lowest + at as i32;
        at = usize::from(from[at]);
    }
    Some((cost, levels))
}

/// Returns what a change over a distance costs, in sixteenths of a bit.
fn change_cost(distance: u32) -> u64 {
    if distance == 0 {
        return 0;
    }
    let whole = distance.ilog2();
    // The logarithm between two powers is nearly straight.
    let part = (u64::from(distance) << 4 >> whole) & 0xf;
    CHANGE_COST + u64::from(whole) * 16 + part
}
