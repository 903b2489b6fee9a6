//! How unusual a behavior is at its hour and on its weekday, from the entity's own past.
//!
//! With n hours seen of the whole past in a slot (an hour of the day, or a weekday), b of them in this
//! behavior, and the behavior's share p of the whole past, its share in the slot is estimated as
//! (b + p) / (n + 1): one hour, or for weekdays one day, of what is usual smooths it. The factor is one
//! minus that share over p, and never below 0: 0 where the behavior is as frequent as ever or more so,
//! n / (n + 1) where it was never seen. Slots are in UTC.

use serde::{Deserialize, Serialize};

const HOUR_US: i128 = 3_600_000_000;
const HOURS_A_DAY: usize = 24;
const DAYS_A_WEEK: usize = 7;
const WEEK_US: i128 = HOUR_US * (HOURS_A_DAY * DAYS_A_WEEK) as i128;

/// 1970-01-01 was a Thursday, the fourth day from Monday.
const EPOCH_WEEKDAY: i128 = 3;

/// How unusual a behavior is at a time, each 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// At this hour of the day.
    pub hour: f64,
    /// On this weekday.
    pub weekday: f64,
}

/// Time spent in each slot.
#[derive(Clone)]
pub(crate) struct Presence {
    /// In hours.
    hours: [f64; HOURS_A_DAY],
    /// In days.
    weekdays: [f64; DAYS_A_WEEK],
}

impl Presence {
    /// Returns the time from `start` to `end`, in microseconds since the epoch; at least one of them.
    pub(crate) fn between(start: i64, end: i64) -> Self {
        let (mut at, end) = (i128::from(start), i128::from(end.max(start.saturating_add(1))));
        let weeks = ((end - at) / WEEK_US) as f64;
        let mut presence = Self {
            hours: [weeks * DAYS_A_WEEK as f64; HOURS_A_DAY],
            weekdays: [weeks; DAYS_A_WEEK],
        };
        at = end - (end - at) % WEEK_US;
        // At most as many steps as a week has hours, and one.
        while at < end {
            let hour = at.div_euclid(HOUR_US);
            let until = end.min((hour + 1) * HOUR_US);
            let spent = (until - at) as f64 / HOUR_US as f64;
            let day = hour.div_euclid(HOURS_A_DAY as i128) + EPOCH_WEEKDAY;
            presence.hours[hour.rem_euclid(HOURS_A_DAY as i128) as usize] += spent;
            presence.weekdays[day.rem_euclid(DAYS_A_WEEK as i128) as usize] +=
                spent / HOURS_A_DAY as f64;
            at = until;
        }
        presence
    }
}

/// Returns how unusual the slots of `when` are for the known regimes that are alike; `None` when nothing
/// is known.
pub(crate) fn timing<'a>(
    when: &Presence,
    known: impl Iterator<Item = (&'a Presence, bool)>,
) -> Option<Timing> {
    let mut all = ([0.0; HOURS_A_DAY], [0.0; DAYS_A_WEEK]);
    let mut alike = all;
    for (presence, is_alike) in known {
        add(&mut all.0, &presence.hours);
        add(&mut all.1, &presence.weekdays);
        if is_alike {
            add(&mut alike.0, &presence.hours);
            add(&mut alike.1, &presence.weekdays);
        }
    }
    Some(Timing {
        hour: rarity(&when.hours, &all.0, &alike.0)?,
        weekday: rarity(&when.weekdays, &all.1, &alike.1)?,
    })
}

fn add(sums: &mut [f64], more: &[f64]) {
    sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

/// Returns the mean over the slots of `when` of how much rarer the behavior is there than overall.
fn rarity(when: &[f64], all: &[f64], alike: &[f64]) -> Option<f64> {
    let share = alike.iter().sum::<f64>() / all.iter().sum::<f64>();
    if share.is_nan() || share == 0.0 {
        return None;
    }
    let of_slot = |all: f64, alike: f64| (1.0 - (alike + share) / (all + 1.0) / share).max(0.0);
    let slots = when.iter().zip(all.iter().zip(alike));
    let sum: f64 = slots.map(|(spent, (all, alike))| spent * of_slot(*all, *alike)).sum();
    Some(sum / when.iter().sum::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = HOUR_US as i64;

    #[test]
    fn time_is_counted_by_hour_and_weekday() {
        // From Thursday 23:30 to Friday 01:00, 1970.
        let presence = Presence::between(23 * HOUR + HOUR / 2, 25 * HOUR);
        assert_eq!((presence.hours[23], presence.hours[0], presence.hours[1]), (0.5, 1.0, 0.0));
        assert_eq!((presence.weekdays[3], presence.weekdays[4]), (0.5 / 24.0, 1.0 / 24.0));
        // Two weeks and an hour, before the epoch.
        let long = Presence::between(-15 * 24 * HOUR, -24 * HOUR + HOUR);
        assert_eq!((long.hours[0], long.hours[1]), (15.0, 14.0));
        assert_eq!(
            Presence::between(i64::MIN, i64::MAX).hours.iter().filter(|h| **h > 1e8).count(),
            24
        );
    }

    #[test]
    fn what_was_never_at_an_hour_is_unusual_there() {
        // Ten days: at night one behavior, at daytime another.
        let day = |from: i64, to: i64| {
            (0..10).map(move |d| Presence::between((d * 24 + from) * HOUR, (d * 24 + to) * HOUR))
        };
        let (nights, days): (Vec<_>, Vec<_>) = (day(0, 8).collect(), day(8, 24).collect());
        let known = || nights.iter().map(|p| (p, true)).chain(days.iter().map(|p| (p, false)));
        let at = |hour: i64| timing(&Presence::between(hour * HOUR, hour * HOUR), known()).unwrap();
        assert_eq!(at(3).hour, 0.0);
        assert!((at(12).hour - 10.0 / 11.0).abs() < 1e-9);
        assert!(at(12).weekday < 0.2);
        assert!(timing(&nights[0], std::iter::empty()).is_none());
    }
}
