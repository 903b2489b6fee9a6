//! No value leaves a process that is killed without its entry in the ledger.
//!
//! Goal: `kill -9` at any moment between the reservation and the release, and at any other, leaves a ledger
//! that holds the cost of everything that got out. Method: this program starts itself as a child that
//! releases and writes what it releases to its standard output, which stands for the network; it kills the
//! child, reads all that got out, and compares.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use dunlin_privacy::{
    Bounds, Ceiling, Dataset, Epsilon, Intent, Ledger, Outcome, ReleaseConfig, Terms, Unit, release,
};

/// Releases that a child makes until it is killed. It never gets so far.
const RELEASES: u64 = 100_000;

/// Rounds of the second test, each with a kill after another number of releases.
const ROUNDS: u64 = 8;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "reserve-and-wait", path] => reserve_and_wait(Path::new(path)),
        [_, "release", path, first] => {
            release_on(Path::new(path), first.parse().expect("a number"))
        }
        _ => {
            killed_between_reservation_and_release();
            killed_at_any_moment();
        }
    }
}

fn killed_between_reservation_and_release() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("ledger");
    let (mut child, mut output) = start(&["reserve-and-wait", path.to_str().expect("UTF-8")]);
    let mut line = String::new();
    output.read_line(&mut line).expect("the child speaks");
    assert_eq!(line, "reserved\n");
    kill(&mut child);
    line.clear();
    output.read_to_string(&mut line).expect("the child's output ends");
    assert_eq!(line, "", "nothing got out");
    let ledger = open(&path);
    assert_eq!(
        ledger.spent("fleet-0", Unit::Observation),
        Some(eps(4.0)),
        "and all of it is spent"
    );
    assert_eq!(ledger.entries()[0].outcome, Outcome::Prevented);
}

fn killed_at_any_moment() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("ledger");
    let mut got_out: Vec<u64> = Vec::new();
    for round in 0..ROUNDS {
        let first = (round * RELEASES).to_string();
        let (mut child, output) = start(&["release", path.to_str().expect("UTF-8"), &first]);
        let mut lines = output.lines();
        // It is killed amid whatever it does after the last of these.
        for _ in 0..=round % 4 {
            got_out.push(number(lines.next().expect("the child goes on").expect("a line")));
        }
        kill(&mut child);
        // A line that was torn got out as well.
        got_out.extend(lines.map(|line| number(line.expect("a line"))));
        let ledger = open(&path);
        for &release in &got_out {
            let spent = ledger.spent(&format!("fleet-{release}"), Unit::Observation);
            assert_eq!(spent, Some(eps(4.0)), "release {release} got out and is not paid for");
        }
    }
    assert!(got_out.len() as u64 >= ROUNDS, "{got_out:?}");
}

fn start(arguments: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(program);
    let mut child =
        command.args(arguments).stdout(Stdio::piped()).spawn().expect("the child starts");
    let output = child.stdout.take().expect("it was piped");
    (child, BufReader::new(output))
}

fn kill(child: &mut Child) {
    child.kill().expect("it runs");
    child.wait().expect("it was started here");
}

/// The number of the release that a line, whole or torn, is of. It comes first, and a pipe takes so few
/// bytes at once.
fn number(line: String) -> u64 {
    let number = line.split(' ').next().expect("a first word");
    number.parse().expect("the number of a release")
}

/// The child of the first test: stops where a crash would be worst.
fn reserve_and_wait(path: &Path) {
    let mut ledger = open(path);
    let data = data(0);
    let receipt = ledger.reserve(&intent(&data, "fleet-0")).expect("within the ceiling");
    println!("reserved");
    std::io::stdout().flush().expect("the parent listens");
    // Until it is killed.
    std::thread::park();
    drop(receipt);
}

/// The child of the second test: releases on and on.
fn release_on(path: &Path, first: u64) {
    let mut ledger = open(path);
    for number in first..first + RELEASES {
        let (data, collection) = (data(number), format!("fleet-{number}"));
        let receipt = ledger.reserve(&intent(&data, &collection)).expect("within the ceiling");
        let released = release(&mut ledger, receipt, &data, &ReleaseConfig::default());
        let centroids = released.expect("there are enough").centroids;
        println!("{number} {centroids:?}");
    }
}

fn open(path: &Path) -> Ledger {
    Ledger::open(path, Ceiling::pure(eps(4.0))).expect("a crash bricks nothing")
}

fn data(seed: u64) -> Dataset {
    let row = |at: u64| if at.is_multiple_of(2) { 0.1 } else { 0.9 + seed as f32 * 1e-7 };
    let rows: Vec<f32> = (0..400).map(row).collect();
    Dataset::new(&rows, 1, Bounds::uniform(1, 0.0, 1.0).expect("a range")).expect("a dataset")
}

fn intent<'a>(data: &'a Dataset, collection: &'a str) -> Intent<'a> {
    Intent {
        collection,
        data,
        terms: Terms::observation(eps(4.0)).expect("valid terms"),
        now_unix_ms: 1,
        purpose: "templates",
    }
}

fn eps(value: f64) -> Epsilon {
    Epsilon::new(value).expect("a valid epsilon")
}
