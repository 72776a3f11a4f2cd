//! The default shape: `time=... level=INFO msg="replicating to" type=file`, as
//! Go's `slog.TextHandler` writes it. Pure.

use jiff::Zoned;

use super::line::{Line, Value};
use crate::cli::quote::{is_print, quote};
use crate::config::duration;

pub(super) fn render(line: &Line<'_>) -> String {
    let mut out = format!("time={} level={}", time(&line.time), line.level);
    if let Some(source) = &line.source {
        out.push_str(&format!(" source={}", word(&format!("{}:{}", source.file, source.line))));
    }
    out.push_str(&format!(" msg={}", word(&line.message)));
    push_fields(&mut out, line);
    out.push('\n');
    out
}

/// Every field as ` key=value`.
pub(super) fn push_fields(out: &mut String, line: &Line<'_>) {
    for (name, value) in line.fields.iter() {
        out.push_str(&format!(" {}={}", word(name), self::value(value)));
    }
}

fn value(value: &Value) -> String {
    match value {
        Value::Text(text) => word(text),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Duration(nanos) => duration::show(*nanos),
    }
}

/// The text, in quotes only if it would be misread without.
fn word(text: &str) -> String {
    let awkward = |c: char| match c {
        ' ' | '=' | '"' | char::REPLACEMENT_CHARACTER => true,
        c => !is_print(c) && c != '\u{7f}',
    };
    if text.is_empty() || text.contains(awkward) { quote(text) } else { text.to_owned() }
}

/// Local time to the millisecond, with `Z` for UTC.
fn time(time: &Zoned) -> String {
    format!("{}{}", time.strftime("%Y-%m-%dT%H:%M:%S%.3f"), zone(time))
}

/// The offset as RFC 3339 wants it.
pub(super) fn zone(time: &Zoned) -> String {
    if time.offset().is_zero() { "Z".to_owned() } else { time.strftime("%:z").to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_only_where_needed() {
        let cases = [
            ("plain", "plain"),
            ("/data/app.db", "/data/app.db"),
            ("back\\slash", "back\\slash"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("a=b", "\"a=b\""),
            ("say \"x\"", "\"say \\\"x\\\"\""),
            ("two\nlines", "\"two\\nlines\""),
            ("é日本", "é日本"),
            ("a\u{a0}b", "\"a\\u00a0b\""),
            ("<&>", "<&>"),
        ];
        for (text, expected) in cases {
            assert_eq!(word(text), expected);
        }
    }

    #[test]
    fn times_are_local_to_the_millisecond() {
        let at = |offset: i8, nanos: i32| {
            let zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(offset));
            time(&Zoned::new(jiff::Timestamp::new(1_735_787_045, nanos).unwrap(), zone))
        };
        assert_eq!(at(0, 678_900_000), "2025-01-02T03:04:05.678Z");
        assert_eq!(at(2, 0), "2025-01-02T05:04:05.000+02:00");
        assert_eq!(at(-5, 1_000_000), "2025-01-01T22:04:05.001-05:00");
    }
}
