//! Patterns of file names, as Go's `filepath.Match` reads them: `*`, `?`,
//! `[a-z]`, `[^a-z]`, and `\` before a character that is meant as it is. Pure.

/// A pattern that is well-formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    One(char),
    AnyOne,
    Any,
    Of { ranges: Vec<(char, char)>, negated: bool },
}

impl Pattern {
    /// `None` where Go would say "syntax error in pattern".
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut chars = text.chars().peekable();
        let mut pieces = Vec::new();
        while let Some(c) = chars.next() {
            pieces.push(match c {
                '*' => Piece::Any,
                '?' => Piece::AnyOne,
                '\\' => Piece::One(chars.next()?),
                '[' => {
                    let negated = chars.next_if_eq(&'^').is_some();
                    let mut ranges = Vec::new();
                    // As in Go, the first member may not be a bare `]` or `-`.
                    while ranges.is_empty() || chars.next_if_eq(&']').is_none() {
                        let low = member(&mut chars)?;
                        let high = if chars.next_if_eq(&'-').is_some() { member(&mut chars)? } else { low };
                        ranges.push((low, high));
                    }
                    Piece::Of { ranges, negated }
                }
                c => Piece::One(c),
            });
        }
        Some(Self(pieces))
    }

    /// Whether the whole name fits.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut at, mut piece) = (0, 0);
        // Where the last `*` stands, and how far it has eaten: enough, since an earlier one never needs to eat more.
        let mut star: Option<(usize, usize)> = None;
        loop {
            match (self.0.get(piece), name.get(at)) {
                (None, None) => return true,
                (Some(Piece::Any), _) => {
                    star = Some((piece, at));
                    piece += 1;
                    continue;
                }
                (Some(single), Some(c)) if single.fits(*c) => {
                    (at, piece) = (at + 1, piece + 1);
                    continue;
                }
                _ => {}
            }
            match star {
                Some((of, eaten)) if name.get(eaten).is_some_and(|c| *c != '/') => {
                    star = Some((of, eaten + 1));
                    (piece, at) = (of + 1, eaten + 1);
                }
                _ => return false,
            }
        }
    }
}

impl Piece {
    fn fits(&self, c: char) -> bool {
        match self {
            Self::One(own) => *own == c,
            Self::AnyOne => c != '/',
            Self::Any => false,
            Self::Of { ranges, negated } => ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated,
        }
    }
}

fn member(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match chars.next()? {
        '-' | ']' => None,
        '\\' => chars.next(),
        c => Some(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_they_do_in_go() {
        let cases = [
            ("*.db", "a.db", true),
            ("*.db", ".db", true),
            ("*.db", "a.db-wal", false),
            ("*", "anything", true),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("tenant-??.sqlite", "tenant-07.sqlite", true),
            ("tenant-??.sqlite", "tenant-7.sqlite", false),
            ("[a-c]*.db", "beta.db", true),
            ("[a-c]*.db", "delta.db", false),
            ("[^a-c]*.db", "delta.db", true),
            ("[xyz0-9].db", "5.db", true),
            ("\\*.db", "*.db", true),
            ("\\*.db", "a.db", false),
            ("[\\]]", "]", true),
            ("*.{db,sqlite}", "a.db", false),
            ("ü?.db", "üß.db", true),
            ("*", "a/b", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(name), expected, "{pattern} {name}");
        }
        for wrong in ["[", "[]", "[a", "[a-", "[a-]", "[-a]", "a\\", "[]a]", "[^]"] {
            assert_eq!(Pattern::parse(wrong), None, "{wrong}");
        }
    }
}
