//! A token bucket: how often a peer may do something.

use std::time::{Duration, Instant};

/// How much is allowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// At once, after a rest.
    pub(crate) burst: u32,
    /// One more each time this much passes.
    pub(crate) every: Duration,
}

/// What is left for one peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    updated: Instant,
}

impl Bucket {
    /// Returns a full bucket.
    pub(crate) fn full(rate: Rate, now: Instant) -> Self {
        Self { tokens: rate.burst.into(), updated: now }
    }

    /// Takes one token, when there is one.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.updated);
        self.updated = self.updated.max(now);
        let gained = passed.as_secs_f64() / rate.every.as_secs_f64();
        self.tokens = (self.tokens + gained).min(rate.burst.into());
        let is_allowed = self.tokens >= 1.0;
        if is_allowed {
            self.tokens -= 1.0;
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_steady_rate() {
        let rate = Rate { burst: 3, every: Duration::from_secs(1) };
        let start = Instant::now();
        let mut bucket = Bucket::full(rate, start);
        let taken: Vec<_> = (0..4).map(|_| bucket.take(rate, start)).collect();
        assert_eq!(taken, [true, true, true, false]);
        assert!(!bucket.take(rate, start + Duration::from_millis(900)));
        assert!(bucket.take(rate, start + Duration::from_millis(1_100)));
        // A long rest gives no more than a burst, and a clock that stands still gives nothing.
        let late = start + Duration::from_secs(3_600);
        let taken: Vec<_> = (0..4).map(|_| bucket.take(rate, late)).collect();
        assert_eq!(taken, [true, true, true, false]);
    }
}
