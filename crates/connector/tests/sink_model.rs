//! The sink as a whole, walked at random: a small job (2 splits, 2 subtasks at first, 3 checkpoints of which two may be under way at once)
//! on a modelled broker, with crashes between any two steps, other parallelisms after them, lost requests, answers and notices, transactions
//! that time out, late markers. What decides is the sink's own code: names, pending commits, the procedure, the clean-up.
//!
//! At the end of each walk readers of committed records see the input exactly, or the job has said which transaction was lost and the broker
//! did abort it; nothing of the job lingers; a foreign transaction is as it was; no two transactions shared a producer id and epoch.
//!
//! `MILENA_MODEL_WALKS` sets how many walks there are, `MILENA_MODEL_SEED` where they begin.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "sink_model/broker.rs"]
mod broker;
#[path = "sink_model/chance.rs"]
mod chance;
#[path = "sink_model/job.rs"]
mod job;

use chance::Defect;
use job::{Ended, Walk};

/// Walks in an ordinary run: a few seconds without optimisation.
const FEW: u64 = 20_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().unwrap())
}

// scenario: 5.8.11, D13
#[test]
fn no_walk_loses_doubles_or_leaves_anything() {
    let (walks, seed) = (setting("MILENA_MODEL_WALKS", FEW), setting("MILENA_MODEL_SEED", 1));
    let mut ends = [0_u64; 3];
    let mut steps = 0_u64;
    for number in seed..seed + walks {
        let mut walk = Walk::new(number, None);
        match walk.run() {
            Ok(Ended::Whole { crashes: 0 }) => ends[0] += 1,
            Ok(Ended::Whole { .. }) => ends[1] += 1,
            Ok(Ended::LossTold) => ends[2] += 1,
            Err(why) => panic!(
                "walk {number} (MILENA_MODEL_SEED={number} MILENA_MODEL_WALKS=1): {why}\n{}",
                walk.trace()
            ),
        }
        steps += walk.steps();
    }
    println!(
        "{walks} walks, {steps} steps: {} without a crash, {} with, {} told a loss",
        ends[0], ends[1], ends[2]
    );
    assert!(walks < 1000 || ends.iter().all(|&count| count > 0), "each kind of end was met: {ends:?}");
}

/// A check that can't fail is none.
#[test]
fn planted_defects_are_caught() {
    for defect in Defect::ALL {
        let caught = (1..=FEW).find_map(|number| {
            let mut walk = Walk::new(number, Some(defect));
            walk.run().err().map(|why| (number, why))
        });
        let (number, why) = caught.unwrap_or_else(|| panic!("{defect:?} was not caught in {FEW} walks"));
        println!("{defect:?}: walk {number}: {why}");
    }
}
