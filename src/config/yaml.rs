//! The config's text as a tree that still knows how things were written: the
//! line of every node, and whether a scalar was plain or quoted. Pure.
//!
//! The parser in use reads YAML 1.2 and gives no positions. Both are got back
//! with one observation: it lends scalars out of the text it was given, so a
//! scalar's address tells its place, and the character behind it tells whether
//! it was quoted (no plain scalar is followed by a quote). Scalars that had to be put together (escapes, several lines)
//! are strings under every version of YAML, and take the line of their key.
//!
//! Only the first document counts. Aliases are followed, merge keys (`<<`) are
//! applied; a key given twice is kept twice, the last one wins.

use std::fmt;

use serde::de::{self, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde_yaml::Deserializer;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Counted from 1.
    pub(crate) line: usize,
    pub(crate) value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Scalar { text: String, plain: bool },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a map. Of several with the same key, the last one counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) line: usize,
    /// Came in through a merge key; stands before the map's own entries.
    pub(crate) merged: bool,
    pub(crate) node: Node,
}

impl Node {
    /// The value of a key, if this is a map that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().rev().find(|entry| entry.key == key).map(|entry| &entry.node),
            _ => None,
        }
    }
}

/// Reads the first document. An empty text is `Null`. The error is the parser's.
pub(crate) fn read(text: &str) -> Result<Node, String> {
    // Go's parser skips a byte order mark, and positions must not shift.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let first = || Deserializer::from_str(text).next();
    let nothing = Node { line: 1, value: Value::Null };
    let (Some(once), Some(again)) = (first(), first()) else { return Ok(nothing) };
    // A number can only be had as a number or as its text, never both, and asking
    // a list for its text ends the reading. So look at the shape first.
    let shape = ShapeSeed.deserialize(once).map_err(|error| error.to_string())?;
    let places = Places::of(text);
    NodeSeed { shape: &shape, places: &places, line: 1 }.deserialize(again).map_err(|error| error.to_string())
}

/// What kind of value stands where.
#[derive(Debug)]
enum Shape {
    Null,
    Scalar,
    List(Vec<Self>),
    Map(Vec<(Self, Self)>),
}

struct ShapeSeed;

impl<'de> DeserializeSeed<'de> for ShapeSeed {
    type Value = Shape;

    fn deserialize<D: de::Deserializer<'de>>(self, source: D) -> Result<Shape, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ShapeSeed {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }

    fn visit_none<E>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Self)? {
            list.push(item);
        }
        Ok(Shape::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Shape, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry_seed(Self, Self)? {
            map.push(entry);
        }
        Ok(Shape::Map(map))
    }

    /// A local tag (`!name value`) says nothing to us; the value counts.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Shape, A::Error> {
        let (_, value) = tagged.variant::<de::IgnoredAny>()?;
        value.newtype_variant_seed(Self)
    }
}

/// Where the lines of the text begin.
struct Places<'a> {
    text: &'a str,
    line_starts: Vec<usize>,
}

impl<'a> Places<'a> {
    fn of(text: &'a str) -> Self {
        let after_breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { text, line_starts: [0].into_iter().chain(after_breaks).collect() }
    }

    /// The line of a piece of the text, and whether it stood without quotes.
    fn of_piece(&self, piece: &str) -> Option<(usize, bool)> {
        let offset = (piece.as_ptr() as usize).checked_sub(self.text.as_ptr() as usize)?;
        let behind = self.text.as_bytes().get(offset + piece.len()..)?;
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let quoted = matches!(behind.first(), Some(b'"' | b'\''));
        Some((line, !quoted))
    }
}

struct NodeSeed<'a> {
    shape: &'a Shape,
    places: &'a Places<'a>,
    /// The line of the nearest thing before that has one.
    line: usize,
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = Node;

    fn deserialize<D: de::Deserializer<'de>>(self, source: D) -> Result<Node, D::Error> {
        match self.shape {
            Shape::Null => source.deserialize_ignored_any(self),
            Shape::Scalar => source.deserialize_str(self),
            Shape::List(_) => source.deserialize_seq(self),
            Shape::Map(_) => source.deserialize_map(self),
        }
    }
}

impl<'de> Visitor<'de> for NodeSeed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the value seen before")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node { line: self.line, value: Value::Null })
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Node, E> {
        let (line, plain) = self.places.of_piece(text).unwrap_or((self.line, false));
        Ok(Node { line, value: Value::Scalar { text: text.to_owned(), plain } })
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node { line: self.line, value: Value::Scalar { text: text.to_owned(), plain: false } })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let Shape::List(shapes) = self.shape else { return Err(de::Error::custom("the text changed while reading")) };
        let mut list: Vec<Node> = Vec::with_capacity(shapes.len());
        let mut line = self.line;
        for shape in shapes {
            let Some(item) = items.next_element_seed(NodeSeed { shape, places: self.places, line })? else { break };
            line = item.line;
            list.push(item);
        }
        Ok(Node { line: list.first().map_or(self.line, |item| item.line), value: Value::List(list) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let Shape::Map(shapes) = self.shape else { return Err(de::Error::custom("the text changed while reading")) };
        let (mut merged, mut own) = (Vec::new(), Vec::new());
        let mut first_line = None;
        let mut line = self.line;
        for (key, value) in shapes {
            let Some(key) = entries.next_key_seed(NodeSeed { shape: key, places: self.places, line })? else { break };
            line = key.line;
            first_line.get_or_insert(line);
            let node = entries.next_value_seed(NodeSeed { shape: value, places: self.places, line })?;
            match key.value {
                Value::Scalar { text, plain: true } if text == "<<" => {
                    // Of several sources the first one that has a key counts.
                    merged.splice(0..0, merge_sources(node).map_err(de::Error::custom)?);
                }
                Value::Scalar { text: key, .. } => own.push(Entry { key, line, merged: false, node }),
                Value::Null => own.push(Entry { key: "null".to_owned(), line, merged: false, node }),
                _ => return Err(de::Error::custom(format_args!("line {line}: a key must be text"))),
            }
        }
        merged.append(&mut own);
        Ok(Node { line: first_line.unwrap_or(self.line), value: Value::Map(merged) })
    }
}

/// The entries that a merge key brings, the most important last.
fn merge_sources(node: Node) -> Result<Vec<Entry>, &'static str> {
    let maps = match node.value {
        Value::List(maps) => maps,
        _ => vec![node],
    };
    let mut entries = Vec::new();
    for map in maps.into_iter().rev() {
        let Value::Map(more) = map.value else {
            return Err("map merge requires map or sequence of maps as the value");
        };
        entries.extend(more.into_iter().map(|entry| Entry { merged: true, ..entry }));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree on one line: `key@line:value`, quoted scalars in quotes.
    fn show(node: &Node) -> String {
        match &node.value {
            Value::Null => "~".to_owned(),
            Value::Scalar { text, plain: true } => text.clone(),
            Value::Scalar { text, plain: false } => format!("{text:?}"),
            Value::List(items) => {
                let items: Vec<String> = items.iter().map(|item| format!("{}:{}", item.line, show(item))).collect();
                format!("[{}]", items.join(" "))
            }
            Value::Map(entries) => {
                let one = |entry: &Entry| {
                    let merged = if entry.merged { "<" } else { "" };
                    format!("{merged}{}@{}:{}", entry.key, entry.line, show(&entry.node))
                };
                format!("{{{}}}", entries.iter().map(one).collect::<Vec<_>>().join(" "))
            }
        }
    }

    fn tree(text: &str) -> String {
        match read(text) {
            Ok(node) => show(&node),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn keeps_what_was_written_and_where() {
        let cases = [
            ("", "~"),
            ("# only a comment\n", "~"),
            ("---\n", "~"),
            ("a: 1\nb: yes\n", "{a@1:1 b@2:yes}"),
            // Numbers keep their spelling, quotes are remembered.
            ("a: 0600\nb: 0x1F\nc: 1_000\nd: 1.50\ne: 1e5", "{a@1:0600 b@2:0x1F c@3:1_000 d@4:1.50 e@5:1e5}"),
            ("a: \"yes\"\nb: '1'\nc: \"\"\nd: ''", "{a@1:\"yes\" b@2:\"1\" c@3:\"\" d@4:\"\"}"),
            ("a: 99999999999999999999999999\nb: .5\nc: true", "{a@1:99999999999999999999999999 b@2:.5 c@3:true}"),
            ("a:\nb: null\nc: ~\nd: \"null\"\ne: NULL", "{a@1:~ b@2:~ c@3:~ d@4:\"null\" e@5:~}"),
            // Comments, blank lines and line ends of Windows.
            ("# x\n\na: b   # c\n\n\nd: e", "{a@3:b d@6:e}"),
            ("a: b\r\nc: d\r\n", "{a@1:b c@2:d}"),
            ("\u{feff}a: b\nc: \"d\"", "{a@1:b c@2:\"d\"}"),
            ("é: ü\nb: \"ö\"", "{é@1:ü b@2:\"ö\"}"),
            // Nesting and flow style.
            ("a:\n  b:\n    - c\n    - d: 1\n      e: 2\n", "{a@1:{b@2:[3:c 4:{d@4:1 e@5:2}]}}"),
            ("a: {b: 1, 'c': [x, 'y']}\n", "{a@1:{b@1:1 c@1:[1:x 1:\"y\"]}}"),
            ("{\"a\":b}", "{a@1:b}"),
            ("a: []\nb: {}\n", "{a@1:[] b@2:{}}"),
            ("- 1\n-\n- x\n", "[1:1 1:~ 3:x]"),
            // Text that has to be put together is a string, and stands at its key.
            (
                "a: |\n  1\nb: >\n  x\n  y\nc: p\n  q\nd: \"\\x31\"\n",
                "{a@1:\"1\\n\" b@3:\"x y\\n\" c@6:\"p q\" d@8:\"1\"}",
            ),
            // Only the first document, whatever the second holds.
            ("a: 1\n---\nb: [", "{a@1:1}"),
            ("--- \na: 1\n...\n", "{a@2:1}"),
            // Tags say nothing.
            ("a: !x 5\nb: !y {c: d}\nc: !!str 5", "{a@1:5 b@2:{c@2:d} c@3:5}"),
        ];
        for (text, expected) in cases {
            assert_eq!(tree(text), expected, "{text:?}");
        }
    }

    #[test]
    fn aliases_and_merge_keys_are_applied() {
        let cases = [
            ("a: &x 1\nb: *x\n", "{a@1:1 b@2:1}"),
            ("a: &x {k: 1}\nb: *x\n", "{a@1:{k@1:1} b@2:{k@1:1}}"),
            ("a: &x {k: 1, l: 2}\nb:\n  k: 3\n  <<: *x\n", "{a@1:{k@1:1 l@1:2} b@2:{<k@1:1 <l@1:2 k@3:3}}"),
            ("a: &x {k: 1}\nb: &y {k: 2}\nc: {<<: [*x, *y]}", "{a@1:{k@1:1} b@2:{k@2:2} c@3:{<k@2:2 <k@1:1}}"),
            ("'<<': 1", "{<<@1:1}"),
            ("<<: 5", "error: map merge requires map or sequence of maps as the value"),
        ];
        for (text, expected) in cases {
            assert_eq!(tree(text), expected, "{text:?}");
        }
        let merged = read("a: &x {k: 1}\nb: {<<: *x, k: 2}\nc: {k: 3, <<: *x}").unwrap();
        for (name, expected) in [("b", "2"), ("c", "3")] {
            let value = &merged.get(name).unwrap().get("k").unwrap().value;
            assert_eq!(value, &Value::Scalar { text: expected.to_owned(), plain: true }, "own keys win");
        }
    }

    #[test]
    fn the_last_of_a_repeated_key_wins() {
        let node = read("a: 1\na: 2\n").unwrap();
        assert_eq!(show(&node), "{a@1:1 a@2:2}");
        assert_eq!(show(node.get("a").unwrap()), "2");
    }

    #[test]
    fn broken_text_is_an_error_with_its_place() {
        for text in ["a: [1\n", "a: b: c\n", "\ta: 1\n", "a: *b\n", "a: 'x\n", "a: 1\n b: 2\n", "? [a]\n: b\n"] {
            let error = read(text).unwrap_err();
            assert!(error.contains("line ") || text.starts_with('\t'), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (name, inner) in [("b", "a"), ("c", "b"), ("d", "c"), ("e", "d"), ("f", "e"), ("g", "f")] {
            let copies = vec![format!("*{inner}"); 9].join(", ");
            text.push_str(&format!("{name}: &{name} [{copies}]\n"));
        }
        assert!(read(&text).unwrap_err().contains("repetition limit"));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[a-c:\\[\\]{}'\"\\-&*!|>#, \n\té<~0-9]{0,60}") {
            drop(read(&text));
        }
    }
}
