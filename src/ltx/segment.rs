//! Which segment is which: its level and its file name, in both directions.

use std::fmt;

use crate::types::{Txid, TxidRange};

/// How often the transactions of a segment have been merged: 0 as captured,
/// 1 to 8 merged, 9 the snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(u8);

impl Level {
    /// As captured.
    pub const L0: Self = Self(0);
    /// Snapshots: the whole database in one segment.
    pub const SNAPSHOT: Self = Self(9);

    /// `None` above 9.
    pub fn new(level: u8) -> Option<Self> {
        (level <= Self::SNAPSHOT.0).then_some(Self(level))
    }

    /// The plain number.
    pub fn get(self) -> u8 {
        self.0
    }

    /// Every level, ascending.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        (0..=Self::SNAPSHOT.0).map(Self)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "L{}", self.0)
    }
}

/// `0000000000000001-000000000000002a.ltx`: text order is TXID order.
pub fn file_name(txids: TxidRange) -> String {
    format!("{txids}.ltx")
}

/// The inverse of [`file_name`]; `None` for any other spelling, so that
/// temporary and foreign files are not taken for segments. The very last TXID
/// is refused too: nothing could follow it.
pub fn parse_file_name(name: &str) -> Option<TxidRange> {
    let (min, max) = name.strip_suffix(".ltx")?.split_once('-')?;
    let (min, max) = (parse_txid(min)?, parse_txid(max)?);
    if max.get() == u64::MAX { None } else { TxidRange::new(min, max) }
}

fn parse_txid(digits: &str) -> Option<Txid> {
    let spelled = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if spelled { u64::from_str_radix(digits, 16).ok().and_then(Txid::new) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(min: u64, max: u64) -> TxidRange {
        TxidRange::new(Txid::new(min).unwrap(), Txid::new(max).unwrap()).unwrap()
    }

    #[test]
    fn names_and_ranges_are_the_same_thing() {
        for txids in [range(1, 1), range(1, 42), range(0xabc, 0x1234_5678_9abc_def0)] {
            assert_eq!(parse_file_name(&file_name(txids)), Some(txids));
        }
        assert_eq!(file_name(range(1, 42)), "0000000000000001-000000000000002a.ltx");
    }

    #[test]
    fn other_spellings_are_not_segments() {
        for name in [
            "",
            "0000000000000001-000000000000002a.ltx.tmp",
            "0000000000000001-000000000000002A.ltx",
            "1-2a.ltx",
            "+000000000000001-000000000000002a.ltx",
            "0000000000000001_000000000000002a.ltx",
            "00000000000000001-000000000000002a.ltx",
            "0000000000000000-000000000000002a.ltx",
            "0000000000000002-0000000000000001.ltx",
            "0000000000000001-ffffffffffffffff.ltx",
            "é000000000000001-000000000000002a.ltx",
        ] {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn there_are_ten_levels() {
        assert_eq!(Level::all().map(Level::get).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(Level::new(10), None);
        assert_eq!(Level::L0.to_string(), "L0");
        assert_eq!(Level::all().next_back(), Some(Level::SNAPSHOT));
    }
}
