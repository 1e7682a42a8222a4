//! The whole job, walked at random: a small one (2 partitions, 2 subtasks at first, 3 checkpoints of which some are under way at once, another
//! partition that comes later) on a modelled broker, with crashes between any two steps, other parallelisms after them, lost requests,
//! answers and notices, readers that fail alone, transactions that time out, late markers, checkpoints that take too long.
//!
//! ```text
//!  input ── answers ──▶ reader ─▶ function ─▶ transaction ──▶ broker ──▶ judge
//!            (walk)    cursor, watermarks            ▲             ▲
//!                          ▲   │ messages            │ names       │ settlements
//!  walk ── lookups ──▶ enumerator, schedule, cuts, states, pending commits ──▶ bytes of a checkpoint
//! ```
//!
//! What decides is the crate's own code: enumerator, assigners, cursors, pieces, watermarks, idleness, alignment, offset commits, the
//! function's host, the checkpoint schedule, cuts, states, the codec of checkpoints and of documents, names, pending commits, the procedure that
//! settles a commit, the clean-up. The walk has what is done with tasks and sockets elsewhere, in single steps: who is next, what arrives
//! and what is lost.
//!
//! # What must hold
//! * Readers of committed records see the input exactly, each partition in its order, and the count at its end once; or the job has
//!   said that a transaction is lost, and one did time out.
//! * Nothing of the job lingers; a foreign transaction is as it was; no two transactions share a producer id and epoch.
//! * No partition is with two readers; "no more splits" is told when each partition is assigned or read, and nothing is assigned after it.
//! * Watermarks rise, of each reader, of each function over restores, and of the job in its checkpoints; none is ahead of a partition
//!   that counts, none is behind all of them; without idleness no record is late.
//! * A checkpoint's positions, event times and counts equal a recomputation from the input.
//! * The group's offsets never go back, are never beyond what a durable checkpoint promises, and are there at the end.
//!
//! `MILENA_MODEL_WALKS` sets how many walks there are, `MILENA_MODEL_SEED` where they begin. `cargo xtask model` walks a million.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod broker;
mod chance;
mod check;
mod failing;
mod input;
mod life;
mod lookups;
mod sink;
mod subtask;
mod walk;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use chance::{Defect, Met};
use walk::{Ended, Walk};

/// Walks in an ordinary run: a few seconds without optimisation.
const FEW: u64 = 4_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().unwrap())
}

/// One walk. A panic of the code is as wrong as a wrong result.
fn walk(seed: u64, defect: Option<Defect>) -> (Result<Ended, String>, Walk) {
    let mut walk = Walk::new(seed, defect, false);
    let ended = catch_unwind(AssertUnwindSafe(|| walk.run()));
    (ended.unwrap_or_else(|panic| Err(message(&*panic))), walk)
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
}

/// The story of a walk, step by step.
fn story(seed: u64) -> String {
    let mut walk = Walk::new(seed, None, true);
    let _ = catch_unwind(AssertUnwindSafe(|| walk.run()));
    walk.trace()
}

// scenario: 5.8.11, D13
#[test]
fn no_walk_loses_doubles_or_leaves_anything() {
    let (walks, seed) = (setting("MILENA_MODEL_WALKS", FEW), setting("MILENA_MODEL_SEED", 1));
    let mut ends = [0_u64; 3];
    let mut total = 0_u64;
    let mut met: BTreeMap<Met, u64> = BTreeMap::new();
    for number in seed..seed + walks {
        let (ended, walk) = walk(number, None);
        match ended {
            Ok(Ended::Whole { crashes: 0 }) => ends[0] += 1,
            Ok(Ended::Whole { .. }) => ends[1] += 1,
            Ok(Ended::LossTold) => ends[2] += 1,
            Err(why) => panic!(
                "walk {number} (MILENA_MODEL_SEED={number} MILENA_MODEL_WALKS=1): {why}\n{}",
                story(number)
            ),
        }
        total += walk.steps();
        for it in walk.met {
            *met.entry(it).or_default() += 1;
        }
    }
    println!(
        "{walks} walks, {total} steps: {} without a crash, {} with, {} told a loss",
        ends[0], ends[1], ends[2]
    );
    println!("walks with: {met:?}");
    let all = ends.iter().all(|&count| count > 0) && met.len() == Met::COUNT;
    assert!(walks < FEW || all, "some kind of end, or something that happens, was never met");
    if walks == 1 {
        println!("{}", story(seed));
    }
}

/// A check that can't fail is none.
#[test]
fn planted_defects_are_caught() {
    for defect in Defect::ALL {
        let caught = (1..=FEW * 4).find_map(|number| {
            let (ended, _) = walk(number, Some(defect));
            ended.err().map(|why| (number, why))
        });
        let (number, why) =
            caught.unwrap_or_else(|| panic!("{defect:?} was not caught in {} walks", FEW * 4));
        println!("{defect:?}: walk {number}: {why}");
    }
}
