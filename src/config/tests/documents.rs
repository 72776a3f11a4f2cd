//! The example and the reference say what the program does: no key is missing
//! from either, and neither has one that does not exist.

use super::environment;
use crate::config::keys::{self, Effect, KEYS, Place};
use crate::config::{Config, WarningKind, check, yaml};

const EXAMPLE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/litestream.yml.example"));

const REFERENCE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/config.md"));

#[test]
fn the_example_runs_as_it_is() {
    let config = Config::parse(&environment().expand(EXAMPLE), &environment()).unwrap();
    assert_eq!(config.warnings, []);
    assert_eq!(config.runnable().unwrap().len(), 1);
}

#[test]
fn the_example_shows_every_key_and_no_other() {
    fn collect(node: &yaml::Node, place: Place, seen: &mut Vec<(Place, String)>) {
        use keys::Kind::{Map, MapOrMaps, Maps};
        use yaml::Value;
        let entries = match &node.value {
            Value::List(items) => return items.iter().for_each(|item| collect(item, place, seen)),
            Value::Map(entries) => entries,
            _ => return,
        };
        for entry in entries {
            let key = keys::keys_in(place).find(|key| key.name == entry.key).unwrap_or_else(|| panic!("{}", entry.key));
            seen.push((key.place, entry.key.clone()));
            if let Map(inner) | Maps(inner) | MapOrMaps(inner) = key.kind {
                collect(&entry.node, inner, seen);
            }
        }
    }
    let text = example_in_use(EXAMPLE);
    let root = yaml::read(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let found = check::check(&root);
    assert_eq!(found.problems, [""; 0], "{text}");
    let odd: Vec<_> = found.warnings.iter().filter(|warning| warning.kind != WarningKind::NoEffect).collect();
    assert!(odd.is_empty(), "{odd:#?}");
    let mut seen = Vec::new();
    collect(&root, Place::Top, &mut seen);
    for key in KEYS {
        assert!(seen.contains(&(key.place, key.name.to_owned())), "{:?} {} is missing", key.place, key.name);
    }
}

/// The example with every setting that is commented out put to use. Prose has a
/// space behind the `#`, settings have none.
fn example_in_use(text: &str) -> String {
    let uncommented = text.lines().map(|line| {
        let content = line.trim_start();
        let indent = &line[..line.len() - content.len()];
        match content.strip_prefix('#') {
            Some(prose) if prose.is_empty() || prose.starts_with(' ') => "\n".to_owned(),
            Some(setting) => format!("{indent}{setting}\n"),
            None => format!("{line}\n"),
        }
    });
    uncommented.collect()
}

#[test]
fn the_reference_tells_every_key_and_what_comes_of_it() {
    let titles = [
        ("Top level", Place::Top),
        ("drill", Place::Drill),
        ("logging", Place::Logging),
        ("snapshot", Place::Snapshot),
        ("retention", Place::Retention),
        ("validation", Place::Validation),
        ("levels[]", Place::Level),
        ("socket", Place::Socket),
        ("dbs[]", Place::Database),
        ("dbs[].replica, dbs[].replicas[]", Place::Replica),
        ("Replica defaults", Place::Shared),
        ("keep", Place::Keep),
        ("age", Place::Age),
        ("webhook", Place::Webhook),
    ];
    let mut told = Vec::new();
    let mut place = None;
    for line in REFERENCE.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            place = titles.iter().find(|(name, _)| *name == title).map(|(_, place)| *place);
        }
        if let (Some(place), Some(row)) = (place, line.strip_prefix("| `")) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            told.push((place, cells[0].trim_end_matches('`').to_owned(), cells[3].to_owned()));
        }
    }
    let works = |effect| match effect {
        Effect::Now => "yes",
        Effect::Always => "always",
        Effect::Later => "not yet",
        Effect::Gone(_) => "never",
    };
    let known: Vec<_> = KEYS.iter().map(|key| (key.place, key.name.to_owned(), works(key.effect).to_owned())).collect();
    for row in &known {
        assert!(told.contains(row), "docs/config.md lacks {row:?}");
    }
    assert_eq!(told.len(), known.len(), "docs/config.md has rows for keys that do not exist");
}
