//! Text quoted as Go quotes it (`%q`), because error messages, log lines and the
//! scripts that match them were written against Go's spelling. Pure.

/// The text in double quotes, with Go's escapes.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{07}' => out.push_str("\\a"),
            '\u{08}' => out.push_str("\\b"),
            '\u{0c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{0b}' => out.push_str("\\v"),
            _ if is_print(c) => out.push(c),
            _ => match u32::from(c) {
                code @ 0..0x80 => out.push_str(&format!("\\x{code:02x}")),
                code @ 0x80..0x1_0000 => out.push_str(&format!("\\u{code:04x}")),
                code => out.push_str(&format!("\\U{code:08x}")),
            },
        }
    }
    out.push('"');
    out
}

/// Whether the character takes ink, or is the plain space. Go asks tables of
/// Unicode categories (letters, marks, numbers, punctuation, symbols); the
/// standard library here knows controls and spaces, and the rest of what Go
/// leaves out (format characters, private use, the replacement of bad input) is
/// listed by hand.
pub(crate) fn is_print(c: char) -> bool {
    let unseen = matches!(u32::from(c),
        0xad | 0x600..=0x605 | 0x61c | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f
        | 0xe000..=0xf8ff | 0xfeff | 0xfff0..=0xfffb | 0xe_0000..=0xe_00ff | 0xf_0000..=0x10_ffff);
    c == ' ' || !(unseen || c.is_control() || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values printed by Go's `strconv.Quote`.
    #[test]
    fn quotes_as_go_does() {
        let cases = [
            ("", r#""""#),
            ("plain", r#""plain""#),
            ("a \"b\" \\c", r#""a \"b\" \\c""#),
            ("\n\t\r\u{7}\u{8}\u{b}\u{c}", r#""\n\t\r\a\b\v\f""#),
            ("\u{1}\u{7f}", r#""\x01\x7f""#),
            ("é ü 日本", "\"é ü 日本\""),
            ("\u{a0}\u{200b}\u{feff}", r#""\u00a0\u200b\ufeff""#),
            ("\u{e0001}", r#""\U000e0001""#),
        ];
        for (text, quoted) in cases {
            assert_eq!(quote(text), quoted);
        }
    }
}
