//! docs/testing.md says which test rules out which failure; the source says the
//! same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The numbers of the catalogue.
const NUMBERS: [std::ops::RangeInclusive<u32>; 7] = [1..=28, 30..=47, 50..=63, 70..=89, 90..=98, 100..=106, 110..=117];

/// The rows of the table: the tests named for each number.
fn rows() -> BTreeMap<u32, BTreeSet<String>> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/testing.md")).unwrap();
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let ["", number, _, tests, ""] = cells[..] else { continue };
        let Some(number) = number.strip_prefix('F').and_then(|n| n.parse().ok()) else { continue };
        let names: BTreeSet<_> = tests.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        assert!(!names.is_empty() || tests == "not yet", "F{number}: {tests}");
        assert!(rows.insert(number, names).is_none(), "F{number} has two rows");
    }
    rows
}

/// The functions of the source, each with the comment and the attributes above it.
fn functions() -> BTreeMap<String, Vec<(String, bool)>> {
    let (mut dirs, mut found) =
        (vec!["src", "tests/it"].into_iter().map(PathBuf::from).collect::<Vec<_>>(), BTreeMap::new());
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                functions_in(&std::fs::read_to_string(path).unwrap(), &mut found);
            }
        }
    }
    found
}

fn functions_in(text: &str, found: &mut BTreeMap<String, Vec<(String, bool)>>) {
    let (mut comment, mut is_test) = (String::new(), false);
    for line in text.lines().map(str::trim) {
        if let Some(words) = line.strip_prefix("///") {
            comment += words;
        } else if line.starts_with("#[") {
            is_test |= line.contains("test");
        } else {
            let words: Vec<_> = line.split([' ', '(', '<']).collect();
            if let Some(at) = words.iter().take(4).position(|word| *word == "fn") {
                let name = words[at + 1].to_owned();
                found.entry(name).or_default().push((std::mem::take(&mut comment), is_test));
            }
            comment.clear();
            is_test = false;
        }
    }
}

#[test]
fn every_failure_has_a_row() {
    let numbers: Vec<_> = NUMBERS.into_iter().flatten().collect();
    assert_eq!(rows().into_keys().collect::<Vec<_>>(), numbers);
}

#[test]
fn every_test_in_the_table_exists() {
    let functions = functions();
    for (number, tests) in rows() {
        for test in tests {
            assert!(functions.contains_key(&test), "F{number} names {test}, which does not exist");
        }
    }
}

#[test]
fn every_test_of_the_checklist_exists() {
    let functions = functions();
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/testing.md")).unwrap();
    let (_, rest) = text.split_once("## A drop-in for Litestream").unwrap();
    let rows = rest.lines().take_while(|line| !line.starts_with("## ")).filter_map(|line| line.rsplit_once(" | "));
    let rows: Vec<_> = rows.filter(|(row, _)| row.starts_with('|')).map(|(_, tests)| tests).collect();
    assert_eq!(rows.len(), 17, "a head, a rule, and fifteen points");
    for name in rows.iter().flat_map(|tests| tests.split('`').skip(1).step_by(2)) {
        assert!(functions.contains_key(name), "{name} does not exist");
    }
}

#[test]
fn every_test_that_names_a_failure_is_in_its_row() {
    let (rows, mut missing) = (rows(), Vec::new());
    for (name, places) in functions() {
        for (comment, _) in places.into_iter().filter(|(_, is_test)| *is_test) {
            for number in failures_named_in(&comment) {
                if !rows.get(&number).is_some_and(|tests| tests.contains(&name)) {
                    missing.push(format!("F{number}: `{name}`"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "add to docs/testing.md: {missing:#?}");
}

fn failures_named_in(comment: &str) -> Vec<u32> {
    let words = comment.split(|c: char| !c.is_alphanumeric());
    words.filter_map(|word| word.strip_prefix('F')?.parse().ok()).collect()
}

#[test]
fn a_comment_names_failures_in_plain_words() {
    assert_eq!(failures_named_in(" F1, F26: salts; see (F3). FULL, 0xF4 and F alone are none"), [1, 26, 3]);
}
