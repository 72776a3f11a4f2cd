//! Reading a checked map by its keys. Absent and `null` are the same.

use super::check;
use super::size;
use super::yaml::{Node, Value};
use crate::types::Secret;

/// One map of the config, or the empty one.
#[derive(Clone, Copy)]
pub(crate) struct Section<'a>(Option<&'a Node>);

impl<'a> Section<'a> {
    pub(crate) fn new(node: &'a Node) -> Self {
        Self(Some(node))
    }

    /// The empty map.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// The value of a key, unless it is absent or `null`.
    fn get(self, key: &str) -> Option<&'a Node> {
        self.0?.get(key).filter(|node| node.value != Value::Null)
    }

    /// The line of a key's value, or else of the map.
    pub(crate) fn line(self, key: &str) -> usize {
        self.get(key).or(self.0).map_or(0, |node| node.line)
    }

    /// Text; empty text is the same as absent, as it is to Go programs.
    pub(crate) fn text(self, key: &str) -> Option<&'a str> {
        match &self.get(key)?.value {
            Value::Scalar { text, .. } if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    pub(crate) fn bool(self, key: &str) -> Option<bool> {
        check::boolean(self.get(key)?)
    }

    pub(crate) fn int(self, key: &str) -> Option<i64> {
        check::integer(self.get(key)?)
    }

    /// In nanoseconds.
    pub(crate) fn duration(self, key: &str) -> Option<i64> {
        check::nanoseconds(self.get(key)?)
    }

    /// In bytes.
    pub(crate) fn size(self, key: &str) -> Option<u64> {
        size::parse(self.text(key)?)
    }

    /// A map from texts to texts. `None` if the key is absent.
    pub(crate) fn pairs(self, key: &str) -> Option<Vec<(String, String)>> {
        let Value::Map(entries) = &self.get(key)?.value else { return None };
        // Of a key given twice the last one counts.
        let counts = |at: usize| !entries[at + 1..].iter().any(|later| later.key == entries[at].key);
        let text = |node: &Node| match &node.value {
            Value::Scalar { text, .. } => text.clone(),
            _ => String::new(),
        };
        let kept = entries.iter().enumerate().filter(|(at, _)| counts(*at));
        Some(kept.map(|(_, entry)| (entry.key.clone(), text(&entry.node))).collect())
    }

    /// The map behind a key, or the empty one.
    pub(crate) fn section(self, key: &str) -> Self {
        Self(self.get(key))
    }

    /// The items of a list of maps; a single map counts as a list of one.
    /// `None` if the key is absent.
    pub(crate) fn sections(self, key: &str) -> Option<Vec<Self>> {
        let node = self.get(key)?;
        match &node.value {
            Value::List(items) => Some(items.iter().map(Self::new).collect()),
            _ => Some(vec![Self(Some(node))]),
        }
    }

    /// Whether the map is an `age` section with keys in it.
    pub(crate) fn asks_for_encryption(self) -> bool {
        let filled = |key| matches!(self.get(key).map(|node| &node.value), Some(Value::List(keys)) if !keys.is_empty());
        filled("identities") || filled("recipients")
    }

    /// A list of texts that must not be shown.
    pub(crate) fn secrets(self, key: &str) -> Vec<Secret> {
        self.texts(key).into_iter().map(Secret::new).collect()
    }

    /// Whether the key is there.
    pub(crate) fn has(self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// A list of texts; empty if it is absent.
    pub(crate) fn texts(self, key: &str) -> Vec<String> {
        match self.get(key).map(|node| &node.value) {
            Some(Value::List(items)) => items
                .iter()
                .filter_map(|item| match &item.value {
                    Value::Scalar { text, .. } => Some(text.clone()),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Whether this is a map of the file at all (not `null`, not made up).
    pub(crate) fn exists(self) -> bool {
        self.0.is_some_and(|node| node.value != Value::Null)
    }
}
