use proptest::prelude::*;

use super::*;

const CLASSIC: Naming = Naming::Classic(ClassicNames { pool_size: 5, safe_scale_down_factor: 5 });

fn pool(naming: Naming) -> NamePool {
    NamePool::new(Grammar::new("job", naming, 4), 1)
}

fn next(pool: &NamePool, subtask: u32) -> u32 {
    pool.reserve(subtask, 1).name.number
}

proptest! {
    // scenario: 5.6.32
    #[test]
    fn a_name_is_found_in_its_id(prefix in "[a-z0-9.-]{1,12}", subtask: u32, number: u32) {
        let name = TransactionName { subtask, number };
        prop_assert_eq!(TransactionName::parse(&prefix, &name.id(&prefix)), Some(name));
    }

    #[test]
    fn only_what_is_written_is_read(id in "(job|jo|job-1)(-[0-9a+]{0,3}){0,4}") {
        if let Some(name) = TransactionName::parse("job", &id) {
            prop_assert_eq!(name.id("job"), id.clone());
        }
        let classic = Grammar::new("job", CLASSIC, 3);
        if let Some(name) = classic.parse(&id) {
            prop_assert_eq!(classic.id(name), id);
        }
    }

    /// Whatever the pool and the parallelism, no two subtasks share a counter.
    #[test]
    fn classic_names_go_both_ways(pool_size in 1..9_u32, parallelism in 1..9_u32, subtask in 0..9_u32, number in 0..90_u32) {
        let naming = Naming::Classic(ClassicNames { pool_size, ..ClassicNames::default() });
        let grammar = Grammar::new("a-b", naming, parallelism);
        let name = TransactionName { subtask: subtask % parallelism, number };
        prop_assert_eq!(grammar.parse(&grammar.id(name)), Some(name));
    }

    #[test]
    fn the_smallest_free_number_is_taken(busy: BTreeSet<u8>) {
        let pool = pool(Naming::Pooling);
        for &number in &busy {
            pool.hold(TransactionName { subtask: 3, number: u32::from(number) });
        }
        let number = next(&pool, 3);
        prop_assert!((0..number).all(|below| busy.contains(&(below as u8))));
        prop_assert!(u8::try_from(number).map_or(true, |number| !busy.contains(&number)));
    }
}

// scenario: 5.6.32, D5
#[test]
fn foreign_ids_are_not_ours() {
    for id in [
        "job",
        "job-",
        "job-1",
        "job-1-",
        "job--1",
        "job-1-2-3",
        "job-a-1",
        "job-1-b",
        "job-01-2",
        "job-1-02",
        "job-+1-2",
        "job-1--2",
        "jobs-1-2",
        "job-1-4294967296",
        "my-job-1-2",
        "job1-2",
        "job-1 -2",
        "job-١-2",
    ] {
        assert_eq!(TransactionName::parse("job", id), None, "{id}");
        assert_eq!(Grammar::new("job", CLASSIC, 1).parse(id).is_some(), id == "job-1", "{id}");
    }
    assert_eq!(TransactionName::parse("job-1", "job-1-2"), None);
    assert_eq!(TransactionName::parse("job-1", "job-1-2-3"), Some(TransactionName { subtask: 2, number: 3 }));
}

// scenario: 5.6.26, D5
#[test]
fn busy_names_are_skipped_and_freed_ones_come_back() {
    let pool = pool(Naming::Pooling);
    let at = |number| TransactionName { subtask: 0, number };
    pool.hold(at(2));
    pool.hold(at(4));
    let taken: Vec<u32> = (0..5).map(|_| next(&pool, 0)).collect();
    assert_eq!(taken, [0, 1, 3, 5, 6]);
    pool.release(at(2));
    assert_eq!(next(&pool, 0), 2);
    pool.release(at(4));
    assert_eq!(next(&pool, 0), 4);
    assert_eq!(next(&pool, 1), 0, "subtasks do not share numbers");
}

/// Flink: idsToUse(f) = f + subtask * pool + i, here with f = 0, and behind the whole pool when that is used up.
// scenario: D11
#[test]
fn classic_names_are_those_of_flinks_producer() {
    let pool = pool(CLASSIC);
    let ids: Vec<String> = (0..7).map(|_| pool.grammar().id(pool.reserve(2, 1).name)).collect();
    assert_eq!(ids, ["job-10", "job-11", "job-12", "job-13", "job-14", "job-30", "job-31"]);
    assert_eq!(pool.grammar().id(pool.reserve(3, 1).name), "job-15");
}

#[test]
fn incrementing_names_leave_no_gap() {
    let pool = NamePool::new(Grammar::new("job", Naming::Incrementing, 1), 8);
    let reserve = |checkpoint| {
        let reserved = pool.reserve(0, checkpoint);
        let passed: Vec<u32> = reserved.passed_over.iter().map(|name| name.number).collect();
        (reserved.name.number, passed)
    };
    assert_eq!(reserve(8), (8, vec![]));
    assert_eq!(reserve(9), (9, vec![]));
    assert_eq!(reserve(13), (13, vec![10, 11, 12]), "checkpoints without a record, or given up");
    assert_eq!(reserve(13), (14, vec![]), "never a name that is held");
    let fresh = NamePool::new(Grammar::new("job", Naming::Incrementing, 1), 3);
    assert_eq!(fresh.reserve(0, 5).passed_over.len(), 2);
}

#[test]
fn patterns_take_the_prefix_literally() {
    let matches = |naming, id: &str| {
        let pattern = Grammar::new("a.b+c", naming, 1).pattern();
        regex::Regex::new(&format!("^(?:{pattern})$")).unwrap().is_match(id)
    };
    assert!(matches(Naming::Pooling, "a.b+c-0-12") && !matches(Naming::Pooling, "axb+c-0-12"));
    assert!(!matches(Naming::Incrementing, "a.b+c-0-1-2") && !matches(Naming::Pooling, "a.b+c-7"));
    assert!(matches(CLASSIC, "a.b+c-7") && !matches(CLASSIC, "a.b+c-7-1"));
}

// scenario: 5.3.18, 5.6.17
#[test]
fn prefixes_are_checked() {
    assert_eq!(check_prefix("orders"), Ok(()));
    assert_eq!(check_prefix(""), Err(PrefixError::Empty));
    assert_eq!(check_prefix("a\nb"), Err(PrefixError::Control));
    assert!(matches!(check_prefix(&"x".repeat(MAX_PREFIX_BYTES + 1)), Err(PrefixError::TooLong(_))));
}
