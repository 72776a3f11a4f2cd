//! The flag grammar of existing scripts, which is that of Go's `flag` package:
//! argument words in, canonical words out, or the exact reason that scripts grep.
//!
//! One dash or two are the same. `-name value` and `-name=value` are the same,
//! except for switches, which take a value only in the second form. Parsing
//! stops at the first word that is not a flag, or after `--`; what follows is
//! positional even if it begins with a dash. The last of a repeated flag wins.
//! Pure: knows neither the commands nor the values.

use super::quote::quote;

/// What a known flag expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A switch: `-name`, or `-name=BOOL`.
    Switch,
    /// `-name VALUE`, or `-name=VALUE`.
    Value,
}

/// The words of one command, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Words {
    /// Flags in the order given, each name once, switches as `true` or `false`.
    pub(crate) flags: Vec<(String, String)>,
    /// Everything from the first word that is not a flag.
    pub(crate) rest: Vec<String>,
}

/// Why the words could not be taken apart. The texts are those of Go.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FlagError {
    #[error("flag: help requested")]
    Help,
    #[error("flag provided but not defined: -{name}")]
    Undefined { name: String },
    #[error("flag needs an argument: -{name}")]
    NeedsArgument { name: String },
    #[error("bad flag syntax: {word}")]
    BadSyntax { word: String },
    #[error("invalid boolean value {value} for -{name}: parse error", value = quote(value))]
    InvalidSwitch { name: String, value: String },
    #[error("invalid value {value} for flag -{name}: {reason}", value = quote(value))]
    InvalidValue { name: String, value: String, reason: String },
}

/// Takes the words after the command's name apart. `known` tells the kind of a
/// flag, or `None` if the command has no such flag.
pub(crate) fn split(words: &[String], known: impl Fn(&str) -> Option<Kind>) -> Result<Words, FlagError> {
    let mut found = Words::default();
    let mut words = words.iter();
    while let Some(word) = words.as_slice().first() {
        let Some(flag) = flag_text(word)? else { break };
        words.next();
        let Some(flag) = flag else { break };
        let (name, joined) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (flag, None),
        };
        let value = match (known(name), joined) {
            (None, _) if name == "h" || name == "help" => return Err(FlagError::Help),
            (None, _) => return Err(FlagError::Undefined { name: name.to_owned() }),
            (Some(Kind::Switch), None) => "true".to_owned(),
            (Some(Kind::Switch), Some(value)) => match parse_bool(value) {
                Some(value) => value.to_string(),
                None => return Err(FlagError::InvalidSwitch { name: name.to_owned(), value: value.to_owned() }),
            },
            (Some(Kind::Value), Some(value)) => value.to_owned(),
            // The next word is the value even when it begins with a dash.
            (Some(Kind::Value), None) => match words.next() {
                Some(value) => value.clone(),
                None => return Err(FlagError::NeedsArgument { name: name.to_owned() }),
            },
        };
        found.flags.retain(|(earlier, _)| earlier != name);
        found.flags.push((name.to_owned(), value));
    }
    found.rest = words.cloned().collect();
    Ok(found)
}

/// The word without its dashes: `None` if it is no flag, `Some(None)` for `--`.
fn flag_text(word: &str) -> Result<Option<Option<&str>>, FlagError> {
    let Some(one) = word.strip_prefix('-').filter(|text| !text.is_empty()) else { return Ok(None) };
    let text = one.strip_prefix('-').unwrap_or(one);
    if one == "-" {
        return Ok(Some(None));
    }
    if text.is_empty() || text.starts_with(['-', '=']) {
        return Err(FlagError::BadSyntax { word: word.to_owned() });
    }
    Ok(Some(Some(text)))
}

/// Go's `strconv.ParseBool`.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's `strconv.ParseInt(text, 0, 64)`: the base is told by the prefix, and
/// underscores may stand between digits if there is a prefix.
pub(crate) fn parse_int(text: &str) -> Result<i64, &'static str> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    let body = if radix == 10 { Some(body.to_owned()) } else { without_underscores(body) };
    let body = body.filter(|body| !body.is_empty() && body.chars().all(|c| c.is_digit(radix))).ok_or("parse error")?;
    let magnitude = i128::from_str_radix(&body, radix).map_err(|_| "value out of range")?;
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| "value out of range")
}

fn without_underscores(digits: &str) -> Option<String> {
    let misplaced = digits.ends_with('_') || digits.contains("__");
    (!misplaced).then(|| digits.replace('_', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str) -> Option<Kind> {
        match name {
            "config" | "o" => Some(Kind::Value),
            "json" | "once" => Some(Kind::Switch),
            _ => None,
        }
    }

    fn parse(line: &str) -> Result<Words, FlagError> {
        let words: Vec<String> = line.split(' ').filter(|w| !w.is_empty()).map(str::to_owned).collect();
        split(&words, known)
    }

    fn shown(line: &str) -> String {
        match parse(line) {
            Err(error) => error.to_string(),
            Ok(words) => {
                let flags: Vec<String> = words.flags.iter().map(|(name, value)| format!("{name}={value}")).collect();
                format!("{} | {}", flags.join(" "), words.rest.join(" "))
            }
        }
    }

    #[test]
    fn takes_every_spelling_that_scripts_use() {
        let cases = [
            ("", " | "),
            ("-config /p db", "config=/p | db"),
            ("--config /p db", "config=/p | db"),
            ("-config=/p", "config=/p | "),
            ("--config=/p", "config=/p | "),
            ("-config=", "config= | "),
            ("-config=a=b", "config=a=b | "),
            // The spaced form consumes the next word, whatever it is.
            ("-config -json db", "config=-json | db"),
            ("-o -- db", "o=-- | db"),
            // Switches take a value only after "=".
            ("-json", "json=true | "),
            ("-json true", "json=true | true"),
            ("-json=false", "json=false | "),
            ("-json=T", "json=true | "),
            ("-json=0", "json=false | "),
            // The last one wins.
            ("-o a -o b", "o=b | "),
            ("-json -o a -json=f", "o=a json=false | "),
            // Where flags end.
            ("db -json", " | db -json"),
            ("-json - -o x", "json=true | - -o x"),
            ("-json -- -o x", "json=true | -o x"),
            ("-- -- x", " | -- x"),
        ];
        for (line, expected) in cases {
            assert_eq!(shown(line), expected, "{line}");
        }
    }

    #[test]
    fn gives_the_reasons_that_scripts_grep() {
        let cases = [
            ("-x", "flag provided but not defined: -x"),
            ("--x=1", "flag provided but not defined: -x"),
            ("-config", "flag needs an argument: -config"),
            ("--o", "flag needs an argument: -o"),
            ("---o", "bad flag syntax: ---o"),
            ("-=o", "bad flag syntax: -=o"),
            ("--=o", "bad flag syntax: --=o"),
            ("-json=yes", "invalid boolean value \"yes\" for -json: parse error"),
            ("-json=", "invalid boolean value \"\" for -json: parse error"),
            ("-Config x", "flag provided but not defined: -Config"),
        ];
        for (line, reason) in cases {
            assert_eq!(shown(line), reason, "{line}");
        }
        for line in ["-h", "-help", "--h", "--help", "-json -h db", "-h=1"] {
            assert_eq!(parse(line), Err(FlagError::Help), "{line}");
        }
        assert_ne!(parse("db -h"), Err(FlagError::Help));
    }

    #[test]
    fn integers_are_go_literals() {
        let good = [("8", 8), ("0x8", 8), ("0b1000", 8), ("0o10", 8), ("010", 8), ("0", 0), ("-5", -5), ("+5", 5)];
        for (text, value) in good {
            assert_eq!(parse_int(text), Ok(value), "{text}");
        }
        assert_eq!(parse_int("0x1_0"), Ok(16));
        assert_eq!(parse_int("9223372036854775807"), Ok(i64::MAX));
        assert_eq!(parse_int("-9223372036854775808"), Ok(i64::MIN));
        for bad in ["", "-", "x", "08", "0x", "1.5", "1_000", "0x1__0", "0x1_", " 1", "+-1", "é"] {
            assert_eq!(parse_int(bad), Err("parse error"), "{bad}");
        }
        for big in ["9223372036854775808", "0xffffffffffffffffffffffffffffffffffff"] {
            assert_eq!(parse_int(big), Err("value out of range"), "{big}");
        }
    }
}
