//! Holds a config's tree against the table of keys: wrong types are problems,
//! all of them reported at once; unknown, repeated and idle keys are warnings.
//! Pure.
//!
//! After a check without problems every value can be read as its type, which
//! is what [`Section`](super::section::Section) relies on.

use super::duration;
use super::keys::{self, Effect, Key, Kind, Place};
use super::scalar::{self, Meaning};
use super::size;
use super::spelling::nearest;
use super::yaml::{Entry, Node, Value};

/// Something in the config that will not do what its author expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The line in the config file.
    pub line: usize,
    /// What kind of surprise it is.
    pub kind: WarningKind,
    /// The whole sentence.
    pub text: String,
}

/// Kinds of surprise in a config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarningKind {
    /// A key that nobody knows; probably misspelt.
    UnknownKey,
    /// A key given twice; the last one counts.
    RepeatedKey,
    /// A key that nothing comes of in this version.
    NoEffect,
    /// A value that probably means something else than it says.
    Suspicious,
}

#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Lines of the error message, in the order of the text.
    pub(crate) problems: Vec<String>,
    pub(crate) warnings: Vec<Warning>,
}

/// Checks the whole tree.
pub(crate) fn check(root: &Node) -> Findings {
    let mut check = Check { found: Findings::default(), quiet: false };
    check.map(root, Place::Top, "");
    check.found
}

struct Check {
    found: Findings,
    /// Inside something that has been warned about as a whole.
    quiet: bool,
}

impl Check {
    fn map(&mut self, node: &Node, place: Place, path: &str) {
        let entries = match &node.value {
            Value::Null => return,
            Value::Map(entries) => entries,
            _ => return self.mismatch(node, "map", path),
        };
        for (at, entry) in entries.iter().enumerate() {
            if let Some(last) = entries[at + 1..].iter().rev().find(|later| later.key == entry.key) {
                // Overriding what a merge key brought in is what merge keys are for.
                if !entry.merged {
                    let text = format!("key {:?} (line {}) is repeated in line {}", entry.key, entry.line, last.line);
                    self.warn(entry, WarningKind::RepeatedKey, format!("{text}: the last one counts"));
                }
                continue;
            }
            let full = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
            match keys::keys_in(place).find(|key| key.name == entry.key) {
                Some(key) => self.known(entry, key, &full),
                // A place to hang anchors on, by a convention of other programs.
                None if place == Place::Top && entry.key.starts_with("x-") => {}
                None => self.unknown(entry, place, &full),
            }
        }
    }

    fn unknown(&mut self, entry: &Entry, place: Place, full: &str) {
        // Without a space behind the colon the value is part of the key, and may be a secret.
        let (key, full) = match entry.key.split_once(':') {
            Some((key, value)) => (key, format!("{}...", &full[..full.len() - value.len()])),
            None => (entry.key.as_str(), full.to_owned()),
        };
        let known = keys::keys_in(place).map(|key| key.name);
        let hint = nearest(key, known).map(|name| format!(": did you mean {name:?}?"));
        let text = format!("unknown key {full:?} (line {}) is ignored{}", entry.line, hint.unwrap_or_default());
        self.warn(entry, WarningKind::UnknownKey, text);
    }

    fn known(&mut self, entry: &Entry, key: &Key, full: &str) {
        let was_quiet = self.quiet;
        if entry.node.value != Value::Null {
            let subject = format!("key {full:?} (line {})", entry.line);
            match key.effect {
                Effect::Now | Effect::Always => {}
                Effect::Later => {
                    self.warn(entry, WarningKind::NoEffect, format!("{subject} has no effect in this version"));
                    self.quiet = true;
                }
                Effect::Gone(instead) => {
                    self.warn(entry, WarningKind::NoEffect, format!("{subject} has no effect: {instead}"));
                }
            }
        }
        self.value(&entry.node, key.kind, full);
        self.quiet = was_quiet;
    }

    fn value(&mut self, node: &Node, kind: Kind, path: &str) {
        match (kind, &node.value) {
            (_, Value::Null) | (Kind::Text, Value::Scalar { .. }) => {}
            (Kind::Size, Value::Scalar { text, .. }) if text.is_empty() || size::parse(text).is_some() => {}
            (Kind::Size, _) => self.mismatch(node, "size", path),
            (Kind::Map(place), _) => self.map(node, place, path),
            (Kind::Maps(place) | Kind::MapOrMaps(place), Value::List(items)) => {
                for (index, item) in items.iter().enumerate() {
                    self.map(item, place, &format!("{path}[{index}]"));
                }
            }
            (Kind::MapOrMaps(place), _) => self.map(node, place, path),
            (Kind::Maps(_), _) => self.mismatch(node, "list of maps", path),
            (Kind::Texts, Value::List(items)) => {
                for item in items {
                    self.value(item, Kind::Text, path);
                }
            }
            (Kind::Texts, _) => self.mismatch(node, "list of strings", path),
            (Kind::Pairs, Value::Map(entries)) => {
                for entry in entries {
                    self.value(&entry.node, Kind::Text, &format!("{path}.{}", entry.key));
                }
            }
            // Its text may be the value of a header, which may be a secret.
            (Kind::Pairs, _) => self.mismatch(&Node { value: hidden(&node.value), ..*node }, "map", path),
            (Kind::Text, _) => self.mismatch(node, "string", path),
            (Kind::Bool, _) => {
                if boolean(node).is_none() {
                    self.mismatch(node, "bool", path);
                }
            }
            (Kind::Int, _) => {
                if integer(node).is_none() {
                    self.mismatch(node, "int", path);
                }
            }
            (Kind::Mode, _) => {
                if integer(node).and_then(|n| u32::try_from(n).ok()).is_none() {
                    self.mismatch(node, "uint32", path);
                }
            }
            (Kind::Duration, _) => match nanoseconds(node) {
                None => self.mismatch(node, "time.Duration", path),
                Some(nanos) if nanos != 0 && integer(node).is_some() => {
                    let line = node.line;
                    let text =
                        format!("{path:?} (line {line}) is {nanos} nanoseconds: durations need a unit, as in \"10s\"");
                    self.found.warnings.push(Warning { line, kind: WarningKind::Suspicious, text });
                }
                Some(_) => {}
            },
        }
    }

    fn warn(&mut self, entry: &Entry, kind: WarningKind, text: String) {
        if !self.quiet {
            self.found.warnings.push(Warning { line: entry.line, kind, text });
        }
    }

    /// Starts as Go's message does; the key's name is our addition.
    fn mismatch(&mut self, node: &Node, wanted: &str, path: &str) {
        let key = if path.is_empty() { String::new() } else { format!(" (key {path:?})") };
        self.found.problems.push(format!("line {}: cannot unmarshal {} into {wanted}{key}", node.line, describe(node)));
    }
}

/// The same kind of value without its text.
fn hidden(value: &Value) -> Value {
    match value {
        Value::Scalar { plain, .. } => Value::Scalar { text: "***".to_owned(), plain: *plain },
        other => other.clone(),
    }
}

/// The kind of a node, and the beginning of its text: a whole one may be a secret.
fn describe(node: &Node) -> String {
    let (text, plain) = match &node.value {
        Value::Null => return "!!null".to_owned(),
        Value::List(_) => return "!!seq".to_owned(),
        Value::Map(_) => return "!!map".to_owned(),
        Value::Scalar { text, plain } => (text, *plain),
    };
    let tag = if plain { scalar::meaning(text).tag() } else { "!!str" };
    match text.char_indices().nth(10) {
        Some(_) => format!("{tag} `{}...`", text.chars().take(7).collect::<String>()),
        None => format!("{tag} `{text}`"),
    }
}

fn plain_meaning(node: &Node) -> Option<Meaning> {
    match &node.value {
        Value::Scalar { text, plain: true } => Some(scalar::meaning(text)),
        _ => None,
    }
}

pub(crate) fn boolean(node: &Node) -> Option<bool> {
    match plain_meaning(node)? {
        Meaning::Bool(value) => Some(value),
        _ => None,
    }
}

pub(crate) fn integer(node: &Node) -> Option<i64> {
    plain_meaning(node)?.integer()
}

/// A duration with units, or a bare number of nanoseconds.
pub(crate) fn nanoseconds(node: &Node) -> Option<i64> {
    let Value::Scalar { text, .. } = &node.value else { return None };
    integer(node).or_else(|| duration::parse(text))
}

#[cfg(test)]
mod tests {
    use super::super::yaml;
    use super::*;

    fn found(text: &str) -> Findings {
        check(&yaml::read(text).unwrap())
    }

    #[track_caller]
    fn warnings(text: &str) -> Vec<String> {
        let found = found(text);
        assert_eq!(found.problems, [""; 0]);
        found.warnings.into_iter().map(|warning| warning.text).collect()
    }

    #[test]
    fn every_wrong_type_is_reported_with_its_line() {
        let text = "\
dbs:
  - path: [x]
    min-checkpoint-page-count: abc
    checkpoint-interval: xyz
    restore-if-db-not-exists: maybe
    replica: {path: y, force-path-style: \"yes\", root-cas: z}
  - 5
exec: [a, b]
retention: 24h
logging: a very long secret
levels: {a: b}
socket: {permissions: \"0600\"}
";
        let expected = [
            "line 2: cannot unmarshal !!seq into string (key \"dbs[0].path\")",
            "line 3: cannot unmarshal !!str `abc` into int (key \"dbs[0].min-checkpoint-page-count\")",
            "line 4: cannot unmarshal !!str `xyz` into time.Duration (key \"dbs[0].checkpoint-interval\")",
            "line 5: cannot unmarshal !!str `maybe` into bool (key \"dbs[0].restore-if-db-not-exists\")",
            "line 6: cannot unmarshal !!str `yes` into bool (key \"dbs[0].replica.force-path-style\")",
            "line 6: cannot unmarshal !!str `z` into list of strings (key \"dbs[0].replica.root-cas\")",
            "line 7: cannot unmarshal !!int `5` into map (key \"dbs[1]\")",
            "line 8: cannot unmarshal !!seq into string (key \"exec\")",
            "line 9: cannot unmarshal !!str `24h` into map (key \"retention\")",
            "line 10: cannot unmarshal !!str `a very ...` into map (key \"logging\")",
            "line 11: cannot unmarshal !!map into list of maps (key \"levels\")",
            "line 12: cannot unmarshal !!str `0600` into uint32 (key \"socket.permissions\")",
        ];
        assert_eq!(found(text).problems, expected);
        assert_eq!(found("[1]").problems, ["line 1: cannot unmarshal !!seq into map"]);
        assert_eq!(found("foo").problems, ["line 1: cannot unmarshal !!str `foo` into map"]);
    }

    #[test]
    fn what_go_accepts_is_accepted() {
        let text = "\
dbs:
  - path: 5
    min-checkpoint-page-count: 1_000
    truncate-page-n: -1
    restore-if-db-not-exists: on
    checkpoint-interval: \"1m\"
    busy-timeout: 0
    replica: [{path: 0600}]
    snapshot:
    replicas:
logging: {stderr: yes, level: null}
";
        assert_eq!(warnings(text), [""; 0]);
    }

    #[test]
    fn unknown_keys_are_named_with_the_one_that_was_meant() {
        let text = "\
dbs:
  - path: x
    replcia: {path: y, sync_interval: 1s, nonsense: 1}
adr: :9090
x-shared: &a {whatever: 1}
logging:
  lvel: debug
";
        let expected = [
            "unknown key \"dbs[0].replcia\" (line 3) is ignored: did you mean \"replica\"?",
            "unknown key \"adr\" (line 4) is ignored: did you mean \"addr\"?",
            "unknown key \"logging.lvel\" (line 7) is ignored: did you mean \"level\"?",
        ];
        assert_eq!(warnings(text), expected);
        let text = "dbs: [{path: x, replica: {sync_interval: 1s, nonsense: 1}}]";
        let expected = [
            "unknown key \"dbs[0].replica.sync_interval\" (line 1) is ignored: did you mean \"sync-interval\"?",
            "unknown key \"dbs[0].replica.nonsense\" (line 1) is ignored",
        ];
        assert_eq!(warnings(text), expected);
    }

    #[test]
    fn a_value_that_sticks_to_its_key_is_not_shown() {
        let text = "dbs: [{path: x, replica: {secret-access-key:hunter2, path: y}}]";
        let expected = "unknown key \"dbs[0].replica.secret-access-key:...\" (line 1) is ignored: \
                        did you mean \"secret-access-key\"?";
        assert_eq!(warnings(text), [expected]);
    }

    #[test]
    fn idle_keys_are_told_once_each() {
        let text = "\
mcp-addr: :9090
levels: [{interval: 30s}]
snapshot: {interval: 1h, retention: 24h}
dbs:
  - path: x
    max-checkpoint-page-count: 5
    replica: {path: y, auto-recover: true, sas-token: , host: r}
";
        let expected = [
            "key \"mcp-addr\" (line 1) has no effect in this version",
            "key \"dbs[0].max-checkpoint-page-count\" (line 6) has no effect: use \"truncate-page-n\"",
            "key \"dbs[0].replica.host\" (line 7) has no effect in this version",
        ];
        assert_eq!(warnings(text), expected);
        assert_eq!(found("levels: [{interval: x}]").problems.len(), 1, "their types are still checked");
    }

    #[test]
    fn repeated_keys_and_bare_numbers_are_pointed_out() {
        assert_eq!(
            warnings("strict-start: no\nstrict-start: yes\n"),
            ["key \"strict-start\" (line 1) is repeated in line 2: the last one counts"]
        );
        assert_eq!(warnings("x-a: &a {interval: 5s}\nsnapshot: {<<: *a, interval: 6s}\n"), [""; 0]);
        assert_eq!(
            warnings("shutdown-sync-timeout: 10"),
            ["\"shutdown-sync-timeout\" (line 1) is 10 nanoseconds: durations need a unit, as in \"10s\""]
        );
        assert_eq!(warnings("shutdown-sync-timeout: 0"), [""; 0]);
        assert_eq!(found("shutdown-sync-timeout: \"10\"").problems.len(), 1);
    }
}
