//! The values of flags, from text. Pure; the reasons are those of the originals,
//! because they end up in `invalid value "v" for flag -x: reason`.

use std::time::Duration;

use super::flags::parse_int;
use super::options::{Levels, TxidLimit};
use crate::config;
use crate::types::{Timestamp, Txid};

/// `0` to `9`, or `all`.
pub(crate) fn levels(text: &str) -> Result<Levels, String> {
    if text == "all" {
        return Ok(Levels::All);
    }
    let level: i64 = text.parse().map_err(|_| "invalid level: must be 0-9 or \"all\"".to_owned())?;
    match u8::try_from(level) {
        Ok(level @ 0..=9) => Ok(Levels::One(level)),
        _ => Err("level must be between 0 and 9".to_owned()),
    }
}

/// One to sixteen hex digits; zero stands for the latest.
pub(crate) fn txid(text: &str) -> Result<TxidLimit, String> {
    let digits = (1..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    let number = if digits { u64::from_str_radix(text, 16).ok() } else { None };
    number.map(|n| TxidLimit(Txid::new(n))).ok_or_else(|| "invalid txid format".to_owned())
}

/// The number of a log, in hex as in its file name.
pub(crate) fn index(text: &str) -> Result<u32, String> {
    let digits = (1..=8).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    let number = if digits { u32::from_str_radix(text, 16).ok() } else { None };
    number.filter(|n| *n <= 0x7fff_ffff).ok_or_else(|| "must be one to eight hex digits, at most 7fffffff".to_owned())
}

/// How many requests at once.
pub(crate) fn parallelism(text: &str) -> Result<usize, String> {
    let number = parse_int(text)?;
    usize::try_from(number).ok().filter(|n| *n > 0).ok_or_else(|| "must be at least 1".to_owned())
}

/// A Go duration that is not negative. A bare number is refused, except 0.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let nanos = config::duration::parse(text).ok_or_else(|| "parse error".to_owned())?;
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| "must not be negative".to_owned())
}

/// RFC 3339 with a zone; cut down to the milliseconds that segments are stamped with.
pub(crate) fn timestamp(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(Timestamp::from_millis(time.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn txids_may_leave_out_leading_zeros() {
        assert_eq!(txid("2a"), Ok(TxidLimit(Txid::new(42))));
        assert_eq!(txid("000000000000002A"), Ok(TxidLimit(Txid::new(42))));
        assert_eq!(txid("0000000000000000"), Ok(TxidLimit(None)));
        for bad in ["", "00000000000000001", "0x1", "-1", "g"] {
            assert!(txid(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn timestamps_need_a_zone() {
        assert_eq!(timestamp("2023-11-14T22:13:20Z"), Some(Timestamp::from_millis(1_700_000_000_000)));
        assert_eq!(timestamp("2023-11-14T22:13:20.1239Z"), Some(Timestamp::from_millis(1_700_000_000_123)));
        assert_eq!(timestamp("2023-11-15T00:13:20+02:00"), Some(Timestamp::from_millis(1_700_000_000_000)));
        for bad in ["", "yesterday", "2023-11-14", "2023-11-14T22:13:20", "1700000000"] {
            assert_eq!(timestamp(bad), None, "{bad}");
        }
    }

    #[test]
    fn bare_numbers_are_no_durations() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("10"), Err("parse error".to_owned()));
        assert!(duration("-1s").is_err());
    }
}
