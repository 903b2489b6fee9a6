//! Random operations against a plain model: whatever is done in whatever order, the engine holds what was
//! accepted, once, and seals the same segments however the observations were cut into batches.

pub(crate) mod play;

use dunlin_engine::{Fidelity, storage::Simulated};
use proptest::prelude::*;

use self::play::{Life, Operation, id, name, open, play, spec};
use crate::support::cids;

fn operation() -> impl Strategy<Value = Operation> {
    let entities = 0_u8..3;
    prop_oneof![
        8 => (entities.clone(), 0_i64..400, 0_u8..60, 0_u8..10)
            .prop_map(|(entity, from, count, level)| Operation::Ingest { entity, from, count, level }),
        1 => entities.clone().prop_map(|entity| Operation::Seal { entity }),
        1 => entities.clone().prop_map(|entity| Operation::Remove { entity }),
        1 => Just(Operation::Checkpoint),
        2 => Just(Operation::Maintain),
        2 => entities.clone().prop_map(|entity| Operation::Compact { entity }),
        1 => Just(Operation::Restart),
        1 => Just(Operation::Crash),
        2 => (entities, prop_oneof![Just(0), 1_usize..5, Just(usize::MAX)])
            .prop_map(|(entity, k)| Operation::Ask { entity, k }),
    ]
}

/// Feeds a life to a fresh engine in batches of `size`, with the same ends of regimes.
fn replayed(fidelity: Fidelity, number: u8, life: &Life, size: usize) -> Vec<String> {
    let engine = open(&Simulated::new());
    engine.create_collection(spec(fidelity)).unwrap();
    let mut done = 0;
    for end in life.seals.iter().copied().chain([life.observations.len()]) {
        for batch in life.observations[done..end].chunks(size) {
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
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_engine_holds_what_a_plain_model_holds(
        operations in prop::collection::vec(operation(), 1..60),
        size in 1_usize..50,
        fidelity in prop_oneof![Just(Fidelity::Summary), Just(Fidelity::Lossless)],
    ) {
        let (engine, model) = play(fidelity, &operations);
        for (number, life) in &model.lives {
            let all_at_once = replayed(fidelity, *number, life, usize::MAX);
            let held = cids(&engine, id(*number).as_str());
            prop_assert!(all_at_once.ends_with(&held), "{:?} of {:?}", held, all_at_once);
            let compacted = |one: &Operation| matches!(one, Operation::Compact { .. });
            let is_whole = held.len() == all_at_once.len();
            prop_assert!(is_whole || operations.iter().any(compacted));
            prop_assert_eq!(&all_at_once, &replayed(fidelity, *number, life, size));
        }
    }

    #[test]
    fn bytes_are_operations(bytes in prop::collection::vec(any::<[u8; 4]>(), 0..40)) {
        let operations: Vec<Operation> = bytes.into_iter().map(Operation::from_bytes).collect();
        play(Fidelity::Summary, &operations);
    }
}
