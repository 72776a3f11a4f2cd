//! The body of a webhook, with names in double braces. Pure.
//!
//! A value is put in as it stands inside a JSON text: quotes, line breaks and the
//! like are escaped, so `{"text": "{{message}}"}` is JSON whatever the message is.

use std::collections::BTreeMap;

/// A text with holes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Name(String),
}

/// The names that there are.
const NAMES: [&str; 8] = ["status", "previous", "message", "database", "reason", "count", "host", "time"];

impl Template {
    /// Takes a text apart.
    ///
    /// # Errors
    /// A name that does not exist, or braces that are not closed.
    pub fn new(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            parts.push(Part::Text(before.to_owned()));
            let Some((name, after)) = after.split_once("}}") else {
                return Err("\"{{\" without \"}}\"".to_owned());
            };
            let name = name.trim();
            if !NAMES.contains(&name) {
                return Err(format!("{{{{{name}}}}} is not known: there are {}", NAMES.join(", ")));
            }
            parts.push(Part::Name(name.to_owned()));
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self(parts))
    }

    /// Fills the holes.
    pub fn fill(&self, values: &BTreeMap<&str, String>) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Name(name) => escaped(values.get(name.as_str()).map_or("", String::as_str)),
        };
        self.0.iter().map(part).collect()
    }
}

fn escaped(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_break_out_of_its_quotes() {
        let template = Template::new("{\"text\": \"{{ message }}: {{status}}\", \"x\": {}}").unwrap();
        let message = "a \"quoted\" path\\\nand {{status}}".to_owned();
        let filled = template.fill(&BTreeMap::from([("message", message.clone()), ("status", "ok".to_owned())]));
        let value: serde_json::Value = serde_json::from_str(&filled).unwrap();
        assert_eq!(value["text"], format!("{message}: ok"));
    }

    #[test]
    fn a_name_that_does_not_exist_is_refused() {
        assert!(Template::new("{{mesage}}").unwrap_err().contains("message"));
        assert!(Template::new("{{message").is_err());
        assert!(Template::new("{ } }} no names").is_ok());
    }
}
