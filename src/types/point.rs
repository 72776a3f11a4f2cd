//! Naming a point in history: TXIDs, generations and times.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

/// One captured batch of commits, counted per replica. Counts from 1, never
/// skips, never repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Txid(NonZeroU64);

impl Txid {
    /// The first one of every history.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// `None` for 0, which names "nothing yet".
    pub fn new(n: u64) -> Option<Self> {
        NonZeroU64::new(n).map(Self)
    }

    /// The plain number.
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("fewer than 2^64 batches"))
    }

    /// The first TXID after `position`, where `None` is the empty history.
    pub fn after(position: Option<Self>) -> Self {
        position.map_or(Self::FIRST, Self::next)
    }
}

/// Fixed-width hex, as in file names: text order is TXID order.
impl fmt::Display for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A first and a last TXID, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxidRange {
    min: Txid,
    max: Txid,
}

impl TxidRange {
    /// `None` when `min` is above `max`.
    pub fn new(min: Txid, max: Txid) -> Option<Self> {
        (min <= max).then_some(Self { min, max })
    }

    /// The range of one TXID.
    pub fn single(txid: Txid) -> Self {
        Self { min: txid, max: txid }
    }

    /// First TXID covered.
    pub fn min(self) -> Txid {
        self.min
    }

    /// Last TXID covered.
    pub fn max(self) -> Txid {
        self.max
    }

    /// In LTX a range that begins at TXID 1 holds the whole database.
    pub fn is_snapshot(self) -> bool {
        self.min == Txid::FIRST
    }
}

impl fmt::Display for TxidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

/// One unbroken, proven run of capture, printed as 16 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(NonZeroU64);

impl Generation {
    /// `None` for 0, which in a segment means "not written by brooklet".
    pub fn new(n: u64) -> Option<Self> {
        NonZeroU64::new(n).map(Self)
    }

    /// The plain number.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Generation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let number = if digits { u64::from_str_radix(text, 16).ok() } else { None };
        number
            .and_then(Self::new)
            .ok_or_else(|| format!("{text:?} is not a generation: 16 lower-case hex digits, not all zero"))
    }
}

/// Milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The beginning of 1970.
    pub const EPOCH: Self = Self(0);

    /// From milliseconds since the Unix epoch.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub fn as_millis(self) -> i64 {
        self.0
    }
}

impl From<std::time::SystemTime> for Timestamp {
    /// Rounds down to whole milliseconds; times outside the range of `i64`
    /// milliseconds are cut to its ends.
    fn from(time: std::time::SystemTime) -> Self {
        match time.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => Self(i64::try_from(after.as_millis()).unwrap_or(i64::MAX)),
            Err(before) => {
                let nanos = before.duration().as_nanos();
                Self(i64::try_from(nanos.div_ceil(1_000_000)).map_or(i64::MIN, |ms| -ms))
            }
        }
    }
}

impl From<Timestamp> for std::time::SystemTime {
    fn from(timestamp: Timestamp) -> Self {
        let distance = std::time::Duration::from_millis(timestamp.0.unsigned_abs());
        let epoch = Self::UNIX_EPOCH;
        if timestamp.0 >= 0 { epoch.checked_add(distance) } else { epoch.checked_sub(distance) }.unwrap_or(epoch)
    }
}

/// RFC 3339 in UTC, the fraction without trailing zeros and left out when zero.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => time.fmt(f),
            Err(_) => write!(f, "{} ms since 1970", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn txids_print_so_that_text_order_is_number_order() {
        assert_eq!(Txid::new(42).unwrap().to_string(), "000000000000002a");
        assert!(Txid::new(255).unwrap().to_string() < Txid::new(256).unwrap().to_string());
        assert_eq!(Txid::after(None), Txid::FIRST);
        assert_eq!(Txid::after(Txid::new(7)).get(), 8);
    }

    #[test]
    fn a_range_cannot_run_backwards() {
        let (one, two) = (Txid::FIRST, Txid::FIRST.next());
        assert!(TxidRange::new(two, one).is_none());
        assert!(TxidRange::new(one, two).unwrap().is_snapshot());
    }

    #[test]
    fn timestamps_print_as_the_replica_metadata_wants_them() {
        let shown = |ms| Timestamp::from_millis(ms).to_string();
        assert_eq!(shown(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(shown(1_700_000_000_120), "2023-11-14T22:13:20.12Z");
        assert_eq!(shown(1_700_000_000_000), "2023-11-14T22:13:20Z");
    }

    #[test]
    fn system_time_round_trips_on_both_sides_of_the_epoch() {
        for ms in [0, 1, -1, 1_700_000_000_123, -86_400_000] {
            let time = std::time::SystemTime::from(Timestamp::from_millis(ms));
            assert_eq!(Timestamp::from(time).as_millis(), ms);
        }
    }

    #[test]
    fn generations_are_sixteen_lower_case_digits() {
        let generation: Generation = "00000000000000af".parse().unwrap();
        assert_eq!(generation.to_string(), "00000000000000af");
        for bad in ["", "af", "00000000000000AF", "0000000000000000", "00000000000000afe", "+0000000000000af"] {
            assert!(bad.parse::<Generation>().is_err(), "{bad}");
        }
    }
}
