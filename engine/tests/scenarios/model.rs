//! Random operations against a plain model: whatever is done in whatever order, the engine holds what was
//! accepted, once, and seals the same segments however the observations were cut into batches.

pub(crate) mod play;
pub(crate) mod questions;

use dunlin_engine::storage::Simulated;
use proptest::prelude::*;

use self::play::{Life, Operation, Setup, Shape, id, name, open, play, spec};
use crate::support::cids;

fn operation() -> impl Strategy<Value = Operation> {
    let entities = 0_u8..3;
    let shape = prop_oneof![
        6 => Just(Shape::Plain),
        2 => Just(Shape::Backwards),
        2 => Just(Shape::Noted),
        1 => Just(Shape::Strange),
    ];
    let ingest = (entities.clone(), 0_i64..400, 0_u8..60, 0_u8..10, shape);
    let k = prop_oneof![Just(0), 1_usize..5, Just(usize::MAX)];
    prop_oneof![
        8 => ingest.prop_map(|(entity, from, count, level, shape)| {
            Operation::Ingest { entity, from, count, level, shape }
        }),
        1 => (entities.clone(), any::<u8>())
            .prop_map(|(entity, what)| Operation::Refused { entity, what }),
        1 => entities.clone().prop_map(|entity| Operation::Seal { entity }),
        1 => entities.clone().prop_map(|entity| Operation::Remove { entity }),
        1 => Just(Operation::Checkpoint),
        2 => Just(Operation::Maintain),
        2 => entities.clone().prop_map(|entity| Operation::Compact { entity }),
        1 => Just(Operation::Restart),
        1 => Just(Operation::Crash),
        2 => (entities, k, any::<u8>())
            .prop_map(|(entity, k, what)| Operation::Ask { entity, k, what }),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    any::<[u8; 2]>().prop_map(Setup::from_bytes)
}

/// Feeds a life to a fresh engine in batches of `size`, with the same ends of regimes.
fn replayed(setup: Setup, number: u8, life: &Life, size: usize) -> Vec<String> {
    let engine = open(&Simulated::new());
    engine.create_collection(spec(setup)).unwrap();
    let (observations, mut done): (Vec<_>, _) = (life.accepted.values().cloned().collect(), 0);
    for end in life.seals.iter().copied().chain([observations.len()]) {
        for batch in observations[done..end].chunks(size) {
            engine.ingest(&name(), batch.to_vec()).unwrap();
        }
        if end > 0 && life.seals.contains(&end) {
            engine.seal(&name(), &id(number)).unwrap();
        }
        done = end;
    }
    cids(&engine, id(number).as_str())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_engine_holds_what_a_plain_model_holds(
        setup in setup(),
        operations in prop::collection::vec(operation(), 1..60),
        size in 1_usize..50,
    ) {
        let (engine, model) = play(setup, &operations);
        for (number, life) in &model.lives {
            let all_at_once = replayed(setup, *number, life, usize::MAX);
            let held = cids(&engine, id(*number).as_str());
            prop_assert!(all_at_once.ends_with(&held), "{:?} of {:?}", held, all_at_once);
            let compacted = |one: &Operation| matches!(one, Operation::Compact { .. });
            let is_whole = held.len() == all_at_once.len();
            prop_assert!(is_whole || operations.iter().any(compacted));
            prop_assert_eq!(&all_at_once, &replayed(setup, *number, life, size));
        }
    }

    #[test]
    fn bytes_are_operations(
        setup in any::<[u8; 2]>(),
        bytes in prop::collection::vec(any::<[u8; 4]>(), 0..40),
    ) {
        let operations: Vec<Operation> = bytes.into_iter().map(Operation::from_bytes).collect();
        play(Setup::from_bytes(setup), &operations);
    }
}
