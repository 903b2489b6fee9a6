//! Lists of points by code: what each differs from the origin of its list, a byte a value in steps of the list's own.
//!
//! Points stand eight side by side, so that a list is compared in the order in which it lies. Nothing is sorted: what is
//! among the nearest is found by counting how many are within a bound.

use crate::{
    distance::LANES,
    simd::{self, CODE_MAX, CodeFours, CodeScale, Eight, Level, QueryCodes, Taken},
};

/// The code of the origin, and the largest from there.
const ZERO: u8 = 64;
const STEPS: f32 = (CODE_MAX - ZERO) as f32;

/// No member: fills up the last eight of a list.
const NONE: u32 = u32::MAX;

/// Lists, flat.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lists {
    /// How many values a point has, one of [`simd::WIDTHS`].
    pub(super) width: usize,
    /// The origin of each list, one after the other, and its step.
    pub(super) origins: Vec<f32>,
    pub(super) steps: Vec<f32>,
    /// Where each list begins in eights, and the end.
    starts: Vec<u32>,
    codes: Vec<CodeFours>,
    points: Vec<Eight>,
}

/// A list or a member of one, with about the square of its distance, which is not asked about where it is a list.
pub(super) type Near = (u32, f32);

/// What narrowing works on; kept between searches.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    /// The query as each list is compared with it.
    queries: Vec<(QueryCodes, CodeScale)>,
    squares: Vec<[f32; LANES]>,
    /// Which eight members each eight squares are of.
    eights: Vec<u32>,
    taken: Taken,
}

impl Lists {
    /// Returns lists with these origins: `members` has the list of each member, which are numbered from 0.
    pub(super) fn new<P: AsRef<[f32]>>(
        width: usize,
        origins: Vec<f32>,
        members: &[u32],
        point: impl Fn(usize) -> P,
    ) -> Self {
        let count = origins.len() / width;
        let mut order: Vec<(u32, u32)> = members.iter().copied().zip(0..).collect();
        order.sort_unstable();
        let (mut counts, mut steps) = (vec![0_u32; count], vec![f32::MIN_POSITIVE; count]);
        let mut bytes = simd::roomy(members.len() * width);
        let (mut norms, mut differences) = (Vec::with_capacity(members.len()), Vec::new());
        for run in order.chunk_by(|a, b| a.0 == b.0) {
            let list = run[0].0 as usize;
            let origin = &origins[list * width..][..width];
            differences.clear();
            for (_, member) in run {
                let point = point(*member as usize);
                let values = point.as_ref().iter().zip(origin);
                differences.extend(values.map(|(value, origin)| value - origin));
            }
            let largest = differences.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
            let step = (largest / STEPS).max(f32::MIN_POSITIVE);
            // Cut off above zero, which rounds to the nearest and needs no function call.
            bytes.extend(
                differences.iter().map(|value| (value / step + (f32::from(ZERO) + 0.5)) as u8),
            );
            let points = differences.chunks_exact(width);
            norms.extend(points.map(|point| point.iter().map(|value| value * value).sum::<f32>()));
            (steps[list], counts[list]) = (step, run.len() as u32);
        }
        let members: Vec<u32> = order.into_iter().map(|(_, member)| member).collect();
        Self::from_parts(width, (origins, steps), &counts, (&members, &bytes, &norms))
    }

    /// Returns the lists with these parts: how many members each has, and list by list which they are, their codes, member
    /// by member, and the squares of their distances from the origins.
    pub(super) fn from_parts(
        width: usize,
        (origins, steps): (Vec<f32>, Vec<f32>),
        counts: &[u32],
        (mut members, mut bytes, mut norms): (&[u32], &[u8], &[f32]),
    ) -> Self {
        let eights = counts.iter().map(|count| (*count as usize).div_ceil(LANES)).sum::<usize>();
        let mut codes = simd::roomy(eights * width / 4);
        let (mut starts, mut points) = (vec![0], simd::roomy(eights));
        for count in counts {
            let (listed, codes_listed, norms_listed);
            (listed, members) = members.split_at(*count as usize);
            (codes_listed, bytes) = bytes.split_at(*count as usize * width);
            (norms_listed, norms) = norms.split_at(*count as usize);
            for (members, norms) in listed.chunks(LANES).zip(norms_listed.chunks(LANES)) {
                points.push(Eight {
                    // What fills up is infinitely far.
                    norms: std::array::from_fn(|lane| *norms.get(lane).unwrap_or(&f32::INFINITY)),
                    members: std::array::from_fn(|lane| *members.get(lane).unwrap_or(&NONE)),
                });
            }
            for bytes in codes_listed.chunks(LANES * width) {
                let byte = |lane: usize, at: usize| *bytes.get(lane * width + at).unwrap_or(&0);
                codes.extend((0..width).step_by(4).map(|first| -> CodeFours {
                    std::array::from_fn(|at| byte(at / 4, first + at % 4))
                }));
            }
            starts.push(points.len() as u32);
        }
        Self { width, origins, steps, starts, codes, points }
    }

    /// Returns how many members each list has, and list by list the members, their codes and the squares of their distances
    /// from the origins, as [`Self::from_parts`] takes them.
    pub(super) fn parts(&self) -> (Vec<u32>, Vec<u32>, Vec<u8>, Vec<f32>) {
        let (mut counts, mut members) = (Vec::new(), Vec::new());
        let (mut bytes, mut norms) = (Vec::new(), Vec::new());
        let fours = self.width / 4;
        for list in 0..self.count() {
            let before = members.len();
            for eight in self.eights(list) {
                let codes = &self.codes[eight * fours..][..fours];
                let listed =
                    self.points[eight].members.iter().take_while(|member| **member != NONE);
                for (lane, member) in listed.enumerate() {
                    members.push(*member);
                    norms.push(self.points[eight].norms[lane]);
                    bytes.extend(codes.iter().flat_map(|fours| &fours[4 * lane..][..4]));
                }
            }
            counts.push((members.len() - before) as u32);
        }
        (counts, members, bytes, norms)
    }

    /// Returns how many lists there are.
    pub(super) const fn count(&self) -> usize {
        self.steps.len()
    }

    /// Returns how many members all lists have, or up to seven more each.
    pub(super) const fn member_count(&self) -> usize {
        LANES * self.points.len()
    }

    /// Returns how many bytes of memory the lists take.
    pub(super) const fn byte_count(&self) -> usize {
        let each_list = 4 * (self.width + 2);
        let each_eight = size_of::<Eight>() + LANES * self.width;
        each_list * self.count() + each_eight * self.points.len()
    }

    /// Returns how far the farthest member may be from zero.
    pub(super) fn reach(&self, level: Level) -> f64 {
        let origins = self.origins.chunks_exact(self.width);
        let reach = origins.zip(&self.steps).map(|(origin, step)| {
            let radius = f64::from(*step) * f64::from(STEPS) * (self.width as f64).sqrt();
            simd::norm(level, origin).sqrt() + radius
        });
        reach.fold(0.0, f64::max)
    }

    /// Returns how far the members of each list are from its origin, a root mean square.
    pub(super) fn radii(&self) -> Vec<f32> {
        let radius = |list: usize| {
            let norms = self.points[self.eights(list)].iter().flat_map(|point| point.norms);
            let (mut sum, mut count) = (0.0_f64, 0.0_f64);
            for norm in norms.filter(|norm| norm.is_finite()) {
                (sum, count) = (sum + f64::from(norm), count + 1.0);
            }
            (sum / count.max(1.0)).sqrt() as f32
        };
        (0..self.count()).map(radius).collect()
    }

    /// Asks for lists to be brought near, what is needed first before the rest.
    pub(super) fn prefetch(&self, lists: &[Near]) {
        for (list, _) in lists {
            simd::prefetch_all(&self.origins[*list as usize * self.width..][..self.width]);
        }
        for (list, _) in lists {
            let (eights, fours) = (self.eights(*list as usize), self.width / 4);
            // The rest lies behind these, and is brought near without being asked for.
            simd::prefetch_all(&self.codes[eights.start * fours..][..fours]);
            simd::prefetch(&self.points[eights.start]);
        }
    }

    /// Fills `nearest` with at least the `wanted` members of some lists that are nearest to a point, and not many more, in
    /// no order. Of members that do not pass there are none; returns how many did.
    pub(super) fn narrow<P: Fn(u32) -> bool>(
        &self,
        level: Level,
        point: &[f32],
        (lists, wanted): (&[Near], usize),
        passes: Option<P>,
        (scratch, nearest): (&mut Scratch, &mut Vec<Near>),
    ) -> usize {
        let Scratch { queries, squares, eights, taken } = scratch;
        // All queries first: those of several lists are made at the same time then.
        queries.resize_with(queries.len().max(lists.len()), Default::default);
        for (query, (list, _)) in queries.iter_mut().zip(lists) {
            self.set_query(level, &point[..self.width], *list as usize, query);
        }
        self.set_eights(lists, eights);
        squares.resize(squares.len().max(eights.len()), [0.0; LANES]);
        let squares = &mut squares[..eights.len()];
        let mut free = &mut *squares;
        for (query, (list, _)) in queries.iter().zip(lists) {
            let here;
            (here, free) = free.split_at_mut(self.eights(*list as usize).len());
            self.compare(level, query, *list as usize, here);
        }
        let mut count = LANES * squares.len();
        if let Some(passes) = passes {
            count = 0;
            for (squares, eight) in squares.iter_mut().zip(&*eights) {
                for (square, member) in squares.iter_mut().zip(self.points[*eight as usize].members)
                {
                    let is_passing = member != NONE && passes(member);
                    count += usize::from(is_passing);
                    *square = if is_passing { *square } else { f32::INFINITY };
                }
            }
        }
        take_nearest(level, squares, wanted, taken);
        nearest.clear();
        nearest.extend(taken.iter().map(|(place, square)| {
            let (eight, lane) = (place as usize / LANES, place as usize % LANES);
            (self.points[eights[eight] as usize].members[lane], square)
        }));
        count
    }

    /// Sets `eights` to those of some lists, one after the other.
    fn set_eights(&self, lists: &[Near], eights: &mut Vec<u32>) {
        // More at a time than most lists have, because how many one has cannot be foreseen.
        const AT_A_TIME: usize = 16;
        let count = |list: &Near| self.eights(list.0 as usize).len();
        let all = lists.iter().map(count).sum::<usize>();
        eights.resize(all + AT_A_TIME, 0);
        let mut filled = 0;
        for list in lists {
            let start = self.starts[list.0 as usize];
            for at in (0..count(list)).step_by(AT_A_TIME) {
                let here: [u32; AT_A_TIME] = std::array::from_fn(|more| start + (at + more) as u32);
                eights[filled + at..][..AT_A_TIME].copy_from_slice(&here);
            }
            filled += count(list);
        }
        eights.truncate(all);
    }

    /// Sets `query` to what the members of a list are compared with.
    fn set_query(
        &self,
        level: Level,
        point: &[f32],
        list: usize,
        (codes, scale): &mut (QueryCodes, CodeScale),
    ) {
        let origin = &self.origins[list * self.width..][..self.width];
        let (step, sum, base) = simd::query_codes(level, point, origin, codes);
        let unit = 2.0 * step * self.steps[list];
        *scale = CodeScale { base, unit, offset: i32::from(ZERO) * sum };
    }

    /// Sets `squares` to those of the distances of the members of a list.
    fn compare(
        &self,
        level: Level,
        (query, scale): &(QueryCodes, CodeScale),
        list: usize,
        squares: &mut [[f32; LANES]],
    ) {
        let (eights, fours) = (self.eights(list), self.width / 4);
        let codes = &self.codes[eights.start * fours..eights.end * fours];
        simd::code_squares(
            level,
            (codes, &self.points[eights]),
            &query.0[..fours],
            *scale,
            squares,
        );
    }

    fn eights(&self, list: usize) -> std::ops::Range<usize> {
        self.starts[list] as usize..self.starts[list + 1] as usize
    }
}

/// Takes out the `wanted` least finite squares, and those that are as small as the largest of them.
fn take_nearest(level: Level, squares: &[[f32; LANES]], wanted: usize, taken: &mut Taken) {
    // What is more than enough is cheaper than what has to be looked for again.
    let mut bound = likely(level, squares, wanted.saturating_add(wanted / 2));
    let mut more = 1.5;
    loop {
        simd::take_within(level, squares, bound, taken);
        if taken.count() >= wanted || bound == f32::MAX {
            break;
        }
        bound = (bound.max(f32::MIN_POSITIVE) * more).min(f32::MAX);
        more *= more;
    }
    if taken.count() > wanted {
        let most = bound_of(level, taken, wanted);
        taken.keep_within(level, most);
    }
}

/// Returns the largest of the `wanted` least sums.
fn bound_of(level: Level, taken: &mut Taken, wanted: usize) -> f32 {
    // Ranks are counted, each against all.
    const COUNTED_MAX: usize = 8 * LANES;
    if taken.count() > COUNTED_MAX {
        return *taken.sums().to_vec().select_nth_unstable_by(wanted - 1, f32::total_cmp).1;
    }
    taken.at_rank(level, wanted as u32 - 1)
}

/// Returns about the square that `wanted` of all are within. Of groups of squares so many have one that is: `1 - e^-x`, with
/// so many wanted of each group.
fn likely(level: Level, squares: &[[f32; LANES]], wanted: usize) -> f32 {
    const EIGHTS_MAX: usize = 8;
    let eights = wanted.div_ceil(LANES).min(EIGHTS_MAX);
    let each = wanted as f32 / (LANES * eights) as f32;
    if each > 3.0 || wanted / 4 > squares.len() {
        return f32::MAX;
    }
    // About that, within 3 %.
    let share = each / (1.0 + each * (0.5 + each / 12.0));
    let rank = (share * (LANES * eights) as f32) as u32;
    simd::least_at_rank(level, squares, eights, rank).min(f32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::random::Random;

    #[test]
    fn so_many_as_are_wanted_are_taken_however_they_lie() {
        let mut random = Random::new(1);
        for round in 0..2_000_usize {
            let spread = [1.0, 1e-30, 1e30][round % 3];
            let eights = 1 + random.below(60) as usize;
            let mut squares: Vec<[f32; LANES]> = (0..eights)
                .map(|_| {
                    std::array::from_fn(|_| random.unit().powi(1 + (round % 9) as i32) * spread)
                })
                .collect();
            match round % 7 {
                0 => squares.fill([0.0; LANES]),
                1 => squares[..eights / 2].fill([0.0; LANES]),
                2 => squares[..eights / 2].fill([f32::INFINITY; LANES]),
                _ => {}
            }
            let wanted = 1 + random.below(150) as usize;
            let mut sorted = squares.as_flattened().to_vec();
            sorted.retain(|square| square.is_finite());
            sorted.sort_by(f32::total_cmp);
            let last = sorted.get(wanted - 1).or(sorted.last());
            let expected: Vec<(u32, f32)> = (0..)
                .zip(squares.as_flattened().iter().copied())
                .filter(|(_, square)| last.is_some_and(|last| square <= last))
                .collect();
            let mut taken = Taken::default();
            take_nearest(Level::detect(), &squares, wanted, &mut taken);
            assert_eq!(taken.iter().collect::<Vec<_>>(), expected, "{round} {wanted}");
        }
    }

    #[test]
    fn parts_come_back_and_lists_may_be_empty() {
        for width in simd::WIDTHS {
            parts_come_back(width);
        }
    }

    fn parts_come_back(width: usize) {
        let mut random = Random::new(2);
        let points: Vec<f32> = (0..90 * width).map(|_| random.unit()).collect();
        let members: Vec<u32> = (0..90).map(|_| [0, 2, 3][random.below(3) as usize]).collect();
        let point = |member: usize| &points[member * width..][..width];
        let origins: Vec<f32> = (0..5 * width).map(|_| random.unit()).collect();
        let lists = Lists::new(width, origins, &members, point);
        let (counts, nodes, codes, norms) = lists.parts();
        assert_eq!((counts[1], counts[4], counts.iter().sum::<u32>()), (0, 0, 90));
        let parts = (&nodes[..], &codes[..], &norms[..]);
        let steps = lists.steps.clone();
        assert_eq!(Lists::from_parts(width, (lists.origins.clone(), steps), &counts, parts), lists);
        let (mut scratch, mut near) = (Scratch::default(), Vec::new());
        let all: Vec<Near> = (0..5).map(|list| (list, 0.0)).collect();
        let even = |member: u32| member.is_multiple_of(2);
        let count = lists.narrow(
            Level::detect(),
            point(7),
            (&all, 200),
            Some(even),
            (&mut scratch, &mut near),
        );
        assert_eq!((count, near.len()), (45, 45));
        lists.narrow(
            Level::detect(),
            point(7),
            (&all, 1),
            None::<fn(u32) -> bool>,
            (&mut scratch, &mut near),
        );
        assert_eq!(near.iter().map(|(member, _)| *member).collect::<Vec<_>>(), [7]);
    }
}
