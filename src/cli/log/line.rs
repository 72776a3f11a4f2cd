//! One log line before it has a shape: time, level, source, message, fields.

use std::error::Error;
use std::fmt::Debug;

use jiff::Zoned;
use tracing::field::{Field, Visit};
use tracing::{Level, Metadata};

use crate::causes::with_causes;
use crate::config::duration;

/// Everything a line tells.
pub(super) struct Line<'a> {
    pub(super) time: Zoned,
    pub(super) level: Level,
    pub(super) source: Option<Source<'a>>,
    pub(super) message: String,
    pub(super) fields: &'a Fields,
}

/// The place in the source code that logged.
pub(super) struct Source<'a> {
    pub(super) function: &'a str,
    pub(super) file: &'a str,
    pub(super) line: u32,
}

impl<'a> Source<'a> {
    /// Files are told by their base names, as in the original.
    pub(super) fn of(metadata: &'a Metadata<'_>) -> Self {
        let file = metadata.file().unwrap_or_default();
        Self {
            function: metadata.module_path().unwrap_or_default(),
            file: file.rsplit(['/', '\\']).next().unwrap_or(file),
            line: metadata.line().unwrap_or(0),
        }
    }
}

/// A value as it was recorded.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Bool(bool),
    Int(i128),
    Float(f64),
    /// Nanoseconds.
    Duration(i64),
}

/// Named values in the order of recording.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Fields(Vec<(&'static str, Value)>);

/// The field that holds an event's message.
const MESSAGE: &str = "message";

impl Fields {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }

    pub(super) fn extend(&mut self, others: &Self) {
        self.0.extend(others.0.iter().cloned());
    }

    /// Removes the message; empty if there is none.
    pub(super) fn take_message(&mut self) -> String {
        let Some(at) = self.0.iter().position(|(name, _)| *name == MESSAGE) else { return String::new() };
        match self.0.remove(at).1 {
            Value::Text(text) => text,
            Value::Duration(nanos) => duration::show(nanos),
            other => format!("{other:?}"),
        }
    }

    fn push(&mut self, field: &Field, value: Value) {
        let name = field.name();
        self.0.push((name.strip_prefix("r#").unwrap_or(name), value));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        let value = match shown_duration(&text) {
            Some(nanos) if field.name() != MESSAGE => Value::Duration(nanos),
            _ => Value::Text(text),
        };
        self.push(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, Value::Text(value.to_owned()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, Value::Bool(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, Value::Int(value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, Value::Int(value.into()));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.push(field, Value::Int(value));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.push(field, i128::try_from(value).map_or_else(|_| Value::Text(value.to_string()), Value::Int));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, Value::Float(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.push(field, Value::Text(with_causes(value)));
    }
}

/// Values recorded with `?` come as text, their type is gone. The text of a
/// [`std::time::Duration`] is one number with one unit, which nothing else that
/// is worth logging looks like.
fn shown_duration(text: &str) -> Option<i64> {
    let unit_start = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let one_unit = text[unit_start..].chars().all(|c| !c.is_ascii_digit() && c != '.');
    (unit_start > 0 && one_unit).then(|| duration::parse(text)).flatten()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn durations_are_recognized_by_their_debug_text() {
        for nanos in [0, 1, 999, 1_500, 2_000_000, 1_500_000_000, 90_000_000_000, 86_400_000_000_000, 1_000_000_001] {
            let text = format!("{:?}", Duration::from_nanos(nanos));
            assert_eq!(shown_duration(&text), i64::try_from(nanos).ok(), "{text}");
        }
        for text in ["", "s", "12", "1.5", "1m30s", "a1s", "1s ", "[1s]", "5 s", "\"1s\"", "-1s"] {
            assert_eq!(shown_duration(text), None, "{text}");
        }
    }
}
