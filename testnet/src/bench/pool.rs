//! As many threads as the machine has processors, for jobs that do not depend on one another.

use std::{
    num::NonZero,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::interrupt::Interrupt;

/// Most threads: each holds an engine with one entity in memory.
const THREADS_MAX: usize = 16;

/// Does `work` for the numbers below `count` and returns the results in order. Once the user wants it to
/// end, or a job fails, no further job begins.
pub(super) fn pooled<T: Send>(
    count: usize,
    interrupt: &Interrupt,
    work: impl Fn(usize) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, anyhow::Result<T>)>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..threads.min(count) {
            scope.spawn(|| {
                loop {
                    let job = next.fetch_add(1, Ordering::Relaxed);
                    if job >= count {
                        return;
                    }
                    let result = interrupt.check().map_err(Into::into).and_then(|()| work(job));
                    if result.is_err() {
                        next.store(count, Ordering::Relaxed);
                    }
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((job, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(job, _)| *job);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_a_failure_ends_it() {
        let interrupt = Interrupt::default();
        assert_eq!(
            pooled(40, &interrupt, |job| Ok(job * 2)).unwrap(),
            (0..40).map(|n| n * 2).collect::<Vec<_>>()
        );
        let begun = AtomicUsize::new(0);
        let failed = pooled(10_000, &interrupt, |job| {
            begun.fetch_add(1, Ordering::Relaxed);
            anyhow::ensure!(job < 3, "job {job}");
            Ok(())
        });
        assert!(failed.is_err() && begun.into_inner() < 10_000);
    }

    #[test]
    fn nothing_begins_after_an_interrupt() {
        let interrupt = Interrupt::default();
        interrupt.raise();
        assert!(crate::is_interrupt(&pooled(3, &interrupt, Ok).unwrap_err()));
    }
}
