//! The simulator: no seed breaks an invariant, the same seed is the same run, and every planted mistake is found.

use std::{
    io,
    sync::{Arc, Mutex},
    thread,
};

use dunlin_testnet::sim::{Adoption, Bug, Faults, Options, Report, run};

/// Seeds, and peers, of the runs that every change has to pass.
const SEEDS: u64 = 300;
const PEERS: usize = 50;

fn simulated(options: &Options) -> Report {
    run(options, None).expect("no trace is written")
}

#[test]
fn no_seed_breaks_an_invariant() {
    let halves = [0, 1].map(|half| {
        thread::spawn(move || {
            for seed in (half..SEEDS).step_by(2) {
                let report = simulated(&Options::of_seed(seed, PEERS));
                let holds = report.violations.is_empty();
                assert!(holds && report.converged_ms.is_some(), "SEED={seed}: {report:#?}");
                assert!(report.checks > 1_000, "SEED={seed}: only {} checks", report.checks);
            }
        })
    });
    for half in halves {
        half.join().expect("every seed holds");
    }
}

/// What a run writes, for its test to read.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nobody panicked").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_same_seed_is_the_same_run_byte_for_byte() {
    let traced = |seed| {
        let written = Written::default();
        let report = run(&Options::of_seed(seed, PEERS), Some(Box::new(written.clone())));
        let bytes = written.0.lock().expect("nobody panicked").clone();
        (report.expect("memory takes what is written"), bytes)
    };
    let (one, again, other) = (traced(7), traced(7), traced(8));
    assert_eq!(one, again);
    assert!(one.1.len() > 100_000, "{} bytes", one.1.len());
    assert_ne!(one.0.trace, other.0.trace);
    // Whoever does not write the trace down runs the same.
    assert_eq!(simulated(&Options::of_seed(7, PEERS)), one.0);
}

#[test]
fn without_faults_nothing_goes_wrong_and_everybody_learns() {
    let options = Options { faults: Faults::none(), ..Options::of_seed(1, PEERS) };
    let report = simulated(&options);
    assert!(report.violations.is_empty(), "{report:#?}");
    assert!(!report.revocations.is_empty());
    for spread in &report.revocations {
        assert_eq!(spread.reached, spread.nodes, "{report:#?}");
        assert!(spread.all_ms.is_some_and(|all_ms| all_ms < 3_000), "{report:#?}");
    }
    // Templates are used by all of whose life they tell.
    let Adoption { released, fitting, used } = report.templates;
    assert!(released > 0 && fitting > 0 && used == fitting, "{report:#?}");
}

/// Runs seeds until one finds the bug; returns which, and by what invariant.
fn found(bug: Bug, seeds: u64) -> Option<(u64, &'static str)> {
    (0..seeds).find_map(|seed| {
        let options = Options { bug: Some(bug), ..Options::of_seed(seed, PEERS) };
        let violation = simulated(&options).violations.into_iter().next();
        violation.map(|violation| (seed, violation.invariant))
    })
}

#[test]
fn every_planted_mistake_is_found() {
    let halves = [0, 1].map(|half| {
        thread::spawn(move || {
            let bugs = Bug::ALL.iter().skip(half).step_by(2);
            let found = bugs.map(|bug| (*bug, found(*bug, 1_000)));
            found.collect::<Vec<_>>()
        })
    });
    let found: Vec<_> = halves.into_iter().flat_map(|half| half.join().expect("it ran")).collect();
    for (bug, found) in &found {
        println!("{:<20} {found:?}", bug.as_str());
    }
    let missed: Vec<_> = found.iter().filter(|(_, found)| found.is_none()).collect();
    assert!(missed.is_empty(), "not found in 1,000 seeds: {missed:?}");
}
