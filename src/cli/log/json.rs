//! One JSON object per line, as Go's `slog.JSONHandler` writes it. Pure.
//!
//! Time to the nanosecond, durations as integers of nanoseconds, dotted names
//! as nested objects: neighbours with the same first part share one.

use serde_json::{Map, Value as Json};

use super::line::{Line, Value};
use super::text::zone;

pub(super) fn render(line: &Line<'_>) -> String {
    let mut object = Map::new();
    // "%.f" leaves trailing zeros, and a fraction of zero, out.
    let time = format!("{}{}", line.time.strftime("%Y-%m-%dT%H:%M:%S%.f"), zone(&line.time));
    object.insert("time".to_owned(), time.into());
    object.insert("level".to_owned(), line.level.as_str().into());
    if let Some(source) = &line.source {
        let place = serde_json::json!({"function": source.function, "file": source.file, "line": source.line});
        object.insert("source".to_owned(), place);
    }
    object.insert("msg".to_owned(), line.message.as_str().into());
    for (name, value) in line.fields.iter() {
        insert(&mut object, name, json(value));
    }
    format!("{}\n", Json::Object(object))
}

/// Puts `a.b` into the object `a`. A name that is taken by something else stays dotted.
fn insert(object: &mut Map<String, Json>, name: &str, value: Json) {
    if let Some((group, rest)) = name.split_once('.') {
        let inner = object.entry(group).or_insert_with(|| Json::Object(Map::new()));
        if let Json::Object(inner) = inner {
            return insert(inner, rest, value);
        }
    }
    object.insert(name.to_owned(), value);
}

fn json(value: &Value) -> Json {
    match value {
        Value::Text(text) => text.as_str().into(),
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => match (i64::try_from(*value), u64::try_from(*value)) {
            (Ok(value), _) => value.into(),
            (_, Ok(value)) => value.into(),
            _ => value.to_string().into(),
        },
        Value::Float(value) => (*value).into(),
        Value::Duration(nanos) => (*nanos).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotted_names_are_groups() {
        let mut object = Map::new();
        for (name, value) in [("a", 1), ("g.x", 2), ("b", 3), ("g.y.z", 4), ("a.c", 5)] {
            insert(&mut object, name, value.into());
        }
        assert_eq!(Json::Object(object).to_string(), r#"{"a":1,"g":{"x":2,"y":{"z":4}},"b":3,"a.c":5}"#);
    }
}
