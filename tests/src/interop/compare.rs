//! What is different, in words.

use std::collections::BTreeSet;

/// How much of a line is shown.
const SHOWN: usize = 300;

/// The first difference between what must be there and what was read, by partition; `None` if they are equal.
pub fn difference(expected: &[Vec<String>], found: &[Vec<String>]) -> Option<String> {
    if expected.len() != found.len() {
        return Some(format!("{} partitions instead of {}", found.len(), expected.len()));
    }
    let partitions = expected.iter().zip(found).enumerate();
    partitions.filter_map(|(partition, (expected, found))| lines(partition, expected, found)).next()
}

fn lines(partition: usize, expected: &[String], found: &[String]) -> Option<String> {
    if expected == found {
        return None;
    }
    let same = expected.iter().zip(found).take_while(|(expected, found)| expected == found).count();
    let known: BTreeSet<_> = expected.iter().collect();
    let read: BTreeSet<_> = found.iter().collect();
    let counts = format!(
        "partition {partition}: {} records instead of {}, {} missing or changed, {} unexpected",
        found.len(),
        expected.len(),
        known.difference(&read).count(),
        read.difference(&known).count()
    );
    Some(format!(
        "{counts}; after {same} equal ones {} instead of {}",
        shown(found.get(same)),
        shown(expected.get(same))
    ))
}

fn shown(line: Option<&String>) -> String {
    let Some(line) = line else { return "nothing".to_owned() };
    if line.len() <= SHOWN {
        return line.clone();
    }
    let start: String = line.chars().take(SHOWN).collect();
    format!("{start}.. ({} characters)", line.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn every_kind_of_difference_is_seen() {
        let expected = [owned(&["a", "b"]), owned(&["c"])];
        assert_eq!(difference(&expected, &expected), None);
        let missing = [owned(&["a"]), owned(&["c"])];
        assert!(difference(&expected, &missing).unwrap().contains("nothing instead of b"));
        let added = [owned(&["a", "b"]), owned(&["c", "c"])];
        assert!(difference(&expected, &added).unwrap().starts_with("partition 1: 2 records instead of 1"));
        let swapped = [owned(&["b", "a"]), owned(&["c"])];
        assert!(difference(&expected, &swapped).unwrap().contains("b instead of a"));
        assert!(difference(&expected, &expected[..1]).is_some());
    }
}
