//! The words of a command line as `exec` has always split them. Pure.
//!
//! Quotes and backslashes as in a shell, but no shell: no variables, no patterns,
//! no pipes. What stands between backticks or in `$(...)` stays as it is. An
//! unquoted `;`, `&`, `|`, `<` or `>` ends the command; configs exist that rely
//! on that, so it is not refused, but told to the caller.

/// The command's words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Words {
    /// The program and its arguments; never empty.
    pub(super) words: Vec<String>,
    /// What comes after the end of the command and is not used.
    pub(super) dropped: String,
}

/// Why there are none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("invalid command line string")]
    Unbalanced,
    #[error("it names no program")]
    Empty,
}

/// What a character stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    Nothing,
    Single,
    Double,
    Backticks,
    Parentheses,
}

/// Splits a command line.
pub(super) fn split(line: &str) -> Result<Words, Malformed> {
    let mut words = Vec::new();
    // `None` between words; an empty word exists only if it was quoted.
    let mut word: Option<String> = None;
    let mut within = Within::Nothing;
    let mut dropped = "";
    let mut characters = line.char_indices();
    while let Some((at, c)) = characters.next() {
        let letters = word.as_deref().unwrap_or_default();
        match (c, within) {
            ('\\', Within::Nothing | Within::Double | Within::Backticks | Within::Parentheses) => {
                let (_, escaped) = characters.next().ok_or(Malformed::Unbalanced)?;
                word.get_or_insert_default().push(match escaped {
                    't' => '\t',
                    'n' => '\n',
                    other => other,
                });
                continue;
            }
            (' ' | '\t' | '\r' | '\n', Within::Nothing) => {
                words.extend(word.take());
                continue;
            }
            ('\'', Within::Single) | ('"', Within::Double) => {
                within = Within::Nothing;
                word.get_or_insert_default();
                continue;
            }
            ('\'', Within::Nothing) => {
                within = Within::Single;
                continue;
            }
            ('"', Within::Nothing) => {
                within = Within::Double;
                continue;
            }
            ('`', Within::Nothing) => within = Within::Backticks,
            ('`', Within::Backticks) | (')', Within::Parentheses) => within = Within::Nothing,
            ('(', Within::Nothing) if letters.ends_with('$') => within = Within::Parentheses,
            ('(' | ')', Within::Nothing) => return Err(Malformed::Unbalanced),
            (';' | '&' | '|' | '<' | '>', Within::Nothing) => {
                // The number in `2>` belongs to what is dropped.
                if c == '>' && letters.starts_with(|c: char| c.is_ascii_digit()) {
                    word = None;
                }
                dropped = &line[at..];
                break;
            }
            _ => {}
        }
        word.get_or_insert_default().push(c);
    }
    words.extend(word);
    match (within, words.is_empty()) {
        (Within::Nothing, false) => Ok(Words { words, dropped: dropped.to_owned() }),
        (Within::Nothing, true) => Err(Malformed::Empty),
        _ => Err(Malformed::Unbalanced),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_existing_configs_expect() {
        let cases: [(&str, &[&str], &str); 16] = [
            ("app", &["app"], ""),
            ("  app  -a\t-b\n", &["app", "-a", "-b"], ""),
            ("sh -c 'exit 3'", &["sh", "-c", "exit 3"], ""),
            (r#"sh -c "echo \"$HOME\" \\ 'x'""#, &["sh", "-c", r#"echo "$HOME" \ 'x'"#], ""),
            (r"a\ b c\'d", &["a b", "c'd"], ""),
            ("app '' \"\"", &["app", "", ""], ""),
            ("app x'y z'\"w v\"", &["app", "xy zw v"], ""),
            (r"app a\tb 'c\td'", &["app", "a\tb", r"c\td"], ""),
            ("app $HOME *.db ~", &["app", "$HOME", "*.db", "~"], ""),
            ("app `date +%s` $(date +%s)", &["app", "`date +%s`", "$(date +%s)"], ""),
            ("app; rm x", &["app"], "; rm x"),
            ("app && b", &["app"], "&& b"),
            ("app -x > /dev/null", &["app", "-x"], "> /dev/null"),
            ("app -x 2>&1", &["app", "-x"], ">&1"),
            ("app '|' \";\" \\& b", &["app", "|", ";", "&", "b"], ""),
            ("naïve --größe=1", &["naïve", "--größe=1"], ""),
        ];
        for (line, words, dropped) in cases {
            let expected =
                Words { words: words.iter().map(ToString::to_string).collect(), dropped: dropped.to_owned() };
            assert_eq!(split(line), Ok(expected), "{line}");
        }
        for line in ["app 'x", "app \"x", "app x\\", "app (x)", "app )", "app `x", "app $(x"] {
            assert_eq!(split(line), Err(Malformed::Unbalanced), "{line}");
        }
        for line in ["", "  ", "; app", "> x"] {
            assert_eq!(split(line), Err(Malformed::Empty), "{line}");
        }
    }
}
