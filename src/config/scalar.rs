//! What a scalar means under YAML 1.1, as the Go parser of Litestream reads it:
//! `yes` and `off` are booleans, `0600` is octal, `1_000` is a number. Quoted
//! scalars are always text. Pure.

/// The meaning of a scalar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Meaning {
    Bool(bool),
    /// Any integer of 64 bits, signed or not.
    Int(i128),
    Float(f64),
    Text,
}

impl Meaning {
    /// The YAML name, as it appears in error messages.
    pub(crate) fn tag(self) -> &'static str {
        match self {
            Self::Bool(_) => "!!bool",
            Self::Int(_) => "!!int",
            Self::Float(_) => "!!float",
            Self::Text => "!!str",
        }
    }

    /// The number as a Go program gets it into an integer: fractions are cut off.
    pub(crate) fn integer(self) -> Option<i64> {
        match self {
            Self::Int(n) => i64::try_from(n).ok(),
            #[expect(clippy::cast_possible_truncation, reason = "cutting is what Go does; the range is checked")]
            Self::Float(f) if f.abs() < 9.2e18 => Some(f as i64),
            _ => None,
        }
    }
}

/// The meaning of a scalar that stands without quotes.
pub(crate) fn meaning(text: &str) -> Meaning {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => Meaning::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => Meaning::Bool(false),
        _ => number(&text.replace('_', "")).unwrap_or(Meaning::Text),
    }
}

fn number(text: &str) -> Option<Meaning> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        b'0'..=b'9' | b'.' => (1, text),
        _ => return None,
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if !body.is_empty() && body.chars().all(|c| c.is_digit(radix)) {
        let number = sign * i128::from_str_radix(body, radix).ok()?;
        if (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&number) {
            return Some(Meaning::Int(number));
        }
    }
    // Rust also reads "inf", "nan" and "infinity"; here they are text.
    let decimal = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
    let starts_well = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if decimal && starts_well { text.parse().ok().map(Meaning::Float) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_scalars_as_yaml_1_1() {
        let cases = [
            ("yes", Meaning::Bool(true)),
            ("On", Meaning::Bool(true)),
            ("y", Meaning::Bool(true)),
            ("TRUE", Meaning::Bool(true)),
            ("off", Meaning::Bool(false)),
            ("N", Meaning::Bool(false)),
            ("No", Meaning::Bool(false)),
            ("yEs", Meaning::Text),
            ("oN", Meaning::Text),
            ("0600", Meaning::Int(0o600)),
            ("0o600", Meaning::Int(0o600)),
            ("600", Meaning::Int(600)),
            ("0x1F", Meaning::Int(31)),
            ("-0x1F", Meaning::Int(-31)),
            ("0b101", Meaning::Int(5)),
            ("1_000", Meaning::Int(1000)),
            ("-5", Meaning::Int(-5)),
            ("+5", Meaning::Int(5)),
            ("0", Meaning::Int(0)),
            ("18446744073709551615", Meaning::Int(u64::MAX.into())),
            ("18446744073709551616", Meaning::Float(18_446_744_073_709_551_616.0)),
            ("08", Meaning::Float(8.0)),
            ("1.5", Meaning::Float(1.5)),
            (".5", Meaning::Float(0.5)),
            ("1e3", Meaning::Float(1000.0)),
            ("-1.5E-3", Meaning::Float(-0.0015)),
            // Base 60 and dates stay text, as do things that only look like numbers.
            ("1:30", Meaning::Text),
            ("2024-01-01", Meaning::Text),
            ("1s", Meaning::Text),
            ("10MB", Meaning::Text),
            ("0x", Meaning::Text),
            ("1.2.3", Meaning::Text),
            ("inf", Meaning::Text),
            ("-infinity", Meaning::Text),
            ("nan", Meaning::Text),
            ("-", Meaning::Text),
            (".", Meaning::Text),
            ("é", Meaning::Text),
        ];
        for (text, expected) in cases {
            assert_eq!(meaning(text), expected, "{text}");
        }
    }

    #[test]
    fn fractions_are_cut_off_where_an_integer_is_wanted() {
        assert_eq!(meaning("1.9").integer(), Some(1));
        assert_eq!(meaning("-1.9").integer(), Some(-1));
        assert_eq!(meaning("1e30").integer(), None);
        assert_eq!(meaning("18446744073709551615").integer(), None);
    }
}
