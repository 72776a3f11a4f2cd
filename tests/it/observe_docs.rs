//! The reference of metrics, the dashboard and the alert rules name what the
//! program shows, and nothing else.

use std::collections::BTreeSet;
use std::path::Path;

use brooklet::observe::{FAMILIES, Family, Kind, Merge};

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn the_reference_tells_every_metric_as_it_is() {
    let told: Vec<String> =
        file("docs/metrics.md").lines().filter(|line| line.starts_with("| `")).map(str::to_owned).collect();
    let row = |Family { name, kind, labels, merge, help }: &Family| {
        let kind = format!("{kind:?}").to_lowercase();
        let together = match merge {
            _ if labels.first() != Some(&"db") => "",
            Merge::Sum => "sum",
            Merge::Max => "largest",
            Merge::Min => "smallest",
            Merge::Skip => "–",
        };
        format!("| `{name}` | {kind} | {} | {together} | {help} |", labels.join(", "))
    };
    assert_eq!(told, FAMILIES.iter().map(row).collect::<Vec<_>>());
}

/// The names of metrics in an expression, as far as they can be ours, with the labels in the braces behind them.
fn named(expression: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for (at, _) in expression.char_indices() {
        let rest = &expression[at..];
        let begins = expression[..at].chars().next_back().is_none_or(|before| !is_name(before));
        let ours = ["brooklet_", "litestream_", "process_"].iter().any(|prefix| rest.starts_with(prefix));
        if begins && ours {
            let name: String = rest.chars().take_while(|c| is_name(*c)).collect();
            let behind = &rest[name.len()..];
            let braces = behind.strip_prefix('{').and_then(|inside| inside.split_once('}'));
            let labels = braces.map_or(Vec::new(), |(inside, _)| {
                inside.split(',').map(|pair| pair.chars().take_while(|c| is_name(*c)).collect()).collect()
            });
            found.push((name, labels));
        }
    }
    found
}

fn family(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| match family.kind {
        Kind::Histogram => ["_bucket", "_sum", "_count"].iter().any(|end| name == format!("{}{end}", family.name)),
        Kind::Counter | Kind::Gauge => name == family.name,
    })
}

/// What Prometheus itself adds.
const ADDED: [&str; 3] = ["job", "instance", "le"];

fn check(expression: &str, known: &mut BTreeSet<&'static str>) {
    let named = named(expression);
    assert!(!named.is_empty() || expression.starts_with("up{"), "{expression} names no metric");
    let mut labels: BTreeSet<&str> = ADDED.into_iter().collect();
    for (name, used) in &named {
        let family = family(name).unwrap_or_else(|| panic!("{name} does not exist: {expression}"));
        known.insert(family.name);
        labels.extend(family.labels);
        for label in used {
            assert!(labels.contains(label.as_str()), "{name} has no label {label}: {expression}");
        }
    }
    for by in expression.split("by (").skip(1) {
        for label in by.split(')').next().unwrap().split(',').map(str::trim) {
            assert!(labels.contains(label), "no label {label}: {expression}");
        }
    }
}

#[test]
fn the_dashboard_shows_metrics_that_exist() {
    let dashboard: serde_json::Value = serde_json::from_str(&file("etc/grafana.json")).unwrap();
    let (mut known, mut ids, mut queries) = (BTreeSet::new(), BTreeSet::new(), 0);
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have one number");
        for target in panel["targets"].as_array().unwrap() {
            check(target["expr"].as_str().unwrap(), &mut known);
            queries += 1;
        }
    }
    assert!(queries > 15 && known.len() > 12, "{queries} {known:?}");
}

#[test]
fn the_alerts_are_about_metrics_that_exist() {
    let rules: serde_yaml::Value = serde_yaml::from_str(&file("etc/alerts.yml")).unwrap();
    let mut known = BTreeSet::new();
    let rules = rules["groups"][0]["rules"].as_sequence().unwrap().clone();
    assert!(rules.len() > 8);
    for rule in rules {
        check(rule["expr"].as_str().unwrap(), &mut known);
        assert!(rule["annotations"]["summary"].is_string() && rule["labels"]["severity"].is_string());
    }
    for needed in ["brooklet_health", "brooklet_lag_seconds", "brooklet_fenced", "brooklet_drill_failed"] {
        assert!(known.contains(needed), "{needed}");
    }
}

#[test]
fn a_misspelt_metric_is_noticed() {
    let names = |text| named(text).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names("rate(brooklet_x_total{db=\"a\"}[5m]) / process_y"), ["brooklet_x_total", "process_y"]);
    assert!(family("brooklet_writer_lock_seconds").is_none(), "a histogram has no series of its own name");
    assert!(family("brooklet_writer_lock_seconds_bucket").is_some());
    assert!(family("brooklet_lag_second").is_none());
}
