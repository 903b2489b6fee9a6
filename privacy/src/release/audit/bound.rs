//! From how often an attack was right to the epsilon that it proves.

/// How often a test said `with`, in as many releases of each of the two data sets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    pub(super) releases: u64,
    pub(super) false_alarms: u64,
    pub(super) hits: u64,
}

impl Counts {
    /// The two error events, each as (how often where it should be rare, how often where not): saying
    /// `with`, and saying `without`.
    fn events(self) -> [(u64, u64); 2] {
        let not = |count| self.releases - count;
        [(self.false_alarms, self.hits), (not(self.hits), not(self.false_alarms))]
    }

    /// An estimate of what [`Counts::proves`], for choosing a test: frequencies five deviations to the
    /// cautious side.
    pub(super) fn suggests(self, measure: Measure) -> f64 {
        let releases = self.releases as f64;
        let deviation = |count: u64| 5.0 * (count as f64 + 4.0).sqrt();
        measure.of(self.events().map(|(rare, often)| {
            let often = (often as f64 - deviation(often)) / releases;
            ((rare as f64 + deviation(rare)) / releases, often)
        }))
    }

    /// Returns what holds at least, but with probability `lost`.
    ///
    /// Four bounds are used, two for each event, so each may be wrong with a quarter of it (Bonferroni).
    pub(super) fn proves(self, measure: Measure, lost: f64) -> f64 {
        let bounds = |(rare, often)| {
            let rare = at_most(rare, self.releases, lost / 4.0);
            (rare, at_least(often, self.releases, lost / 4.0))
        };
        measure.of(self.events().map(bounds)).max(0.0)
    }
}

/// In what a loss is measured.
#[derive(Clone, Copy, Debug)]
pub(super) enum Measure {
    /// Epsilon at this delta: `often <= e^epsilon rare + delta`.
    Epsilon(f64),
    /// Rho, of noise that is Gaussian: a test between two normal distributions `mu` apart has `often =
    /// P(Z > z - mu)` where `rare = P(Z > z)`, and composed Gaussian mechanisms of `rho` are as hard to tell
    /// apart as these with `mu^2 / 2 = rho` (Dong, Roth and Su, "Gaussian Differential Privacy", 2022).
    Rho,
}

impl Measure {
    /// The larger of what two events prove, each given as how probable where rare, and where not.
    fn of(self, events: [(f64, f64); 2]) -> f64 {
        let [one, other] = events.map(|(rare, often)| match self {
            Self::Epsilon(delta) if often > delta => ((often - delta) / rare).ln(),
            Self::Rho if often > rare && rare < 1.0 => {
                let apart = quantile(often) - quantile(rare);
                apart * apart / 2.0
            }
            _ => f64::NEG_INFINITY,
        });
        one.max(other)
    }
}

/// The value below which a standard normal number lies with probability `p`.
fn quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-8.0, 8.0);
    for _ in 0..50 {
        let middle = f64::midpoint(low, high);
        if normal(middle) < p { low = middle } else { high = middle }
    }
    low
}

/// The normal distribution function, by its power series around 0 (Marsaglia, 2004).
fn normal(x: f64) -> f64 {
    let (mut term, mut sum, mut divisor) = (x, x, 1.0);
    while sum + term != sum {
        divisor += 2.0;
        term *= x * x / divisor;
        sum += term;
    }
    0.5 + sum * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// The one-sided lower bound of Clopper and Pearson ("The Use of Confidence or Fiducial Limits", 1934) on a
/// probability of which `count` of `trials` were seen; wrong with probability `lost`.
fn at_least(count: u64, trials: u64, lost: f64) -> f64 {
    1.0 - at_most(trials - count, trials, lost)
}

/// The upper bound: the largest probability at which so few are seen with probability `lost`.
fn at_most(count: u64, trials: u64, lost: f64) -> f64 {
    if count >= trials {
        return 1.0;
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if chance_of_at_most(count, trials, middle) > lost { low = middle } else { high = middle }
    }
    high
}

/// `P(X <= count)` for a binomial X.
fn chance_of_at_most(count: u64, trials: u64, p: f64) -> f64 {
    let (odds, n) = ((p / (1.0 - p)).ln(), trials as f64);
    let mut log_term = n * (1.0 - p).ln();
    let mut sum = log_term.exp();
    for k in 0..count {
        log_term += odds + ((n - k as f64) / (k as f64 + 1.0)).ln();
        sum += log_term.exp();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_agree_with_closed_forms() {
        // Of nothing seen in n trials the bound is 1 - lost^(1/n).
        assert!((at_most(0, 10, 0.05) - (1.0 - 0.05f64.powf(0.1))).abs() < 1e-9);
        assert!((at_least(10, 10, 0.05) - 0.05f64.powf(0.1)).abs() < 1e-9);
        assert_eq!(at_most(10, 10, 0.05), 1.0);
        assert!(at_least(0, 10, 0.05).abs() < 1e-9);
        // The textbook interval for 4 of 10 at 95 %: 0.1216 to 0.7376.
        assert!((at_least(4, 10, 0.025) - 0.1216).abs() < 1e-4);
        assert!((at_most(4, 10, 0.025) - 0.7376).abs() < 1e-4);
    }

    #[test]
    fn an_attack_that_guesses_proves_nothing_and_one_that_knows_proves_much() {
        let counts = |false_alarms, hits| Counts { releases: 5_000, false_alarms, hits };
        let epsilon = |counts: Counts| counts.proves(Measure::Epsilon(0.0), 1e-6);
        assert_eq!(epsilon(counts(2_500, 2_500)), 0.0);
        assert!(epsilon(counts(0, 5_000)) > 5.0);
        // Half the hits at a twentieth of false alarms: a ratio of ten, less the doubt.
        let found = epsilon(counts(250, 2_500));
        assert!(found > 1.8 && found < 10f64.ln(), "{found}");
    }

    #[test]
    fn normal_distribution_agrees_with_tables() {
        for (x, p) in
            [(0.0, 0.5), (1.0, 0.841_344_746), (-1.96, 0.024_997_895), (3.0, 0.998_650_102)]
        {
            assert!((normal(x) - p).abs() < 1e-9, "{x}");
            assert!((quantile(p) - x).abs() < 1e-6, "{x}");
        }
        // 16 % false alarms and half the hits: one deviation apart.
        let counts = Counts { releases: 100_000, false_alarms: 15_866, hits: 50_000 };
        let found = counts.proves(Measure::Rho, 1e-6);
        assert!(found < 0.5 && found > 0.44, "{found}");
    }
}
