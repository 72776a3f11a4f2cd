//! The values of flags, from text. Pure; the reasons are those of the originals,
//! because they end up in `invalid value "v" for flag -x: reason`.

use std::time::Duration;

use super::flags::parse_int;
use crate::config;
use crate::replica::PinName;
use crate::types::{Timestamp, Txid};

/// Which levels to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    /// This one, 0 to 9.
    One(u8),
    /// Level 0, then 1 to 9.
    All,
}

/// `-txid`, where zero stands for the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TxidLimit(pub(crate) Option<Txid>);

/// `-timeout`; `None` stands for a negative one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeout(pub(crate) Option<Duration>);

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

/// The name of a pin.
pub(crate) fn pin(text: &str) -> Result<PinName, String> {
    text.parse()
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

/// Whole seconds, as the originals take them, or a duration with its unit.
pub(crate) fn timeout(text: &str) -> Result<Timeout, String> {
    match (parse_int(text), duration(text)) {
        (Ok(seconds), _) => Ok(Timeout(u64::try_from(seconds).ok().map(Duration::from_secs))),
        (Err(_), Ok(duration)) => Ok(Timeout(Some(duration))),
        (Err(reason), Err(_)) => Err(reason.to_owned()),
    }
}

/// A TXID as the control socket tells it: decimal, or sixteen hex digits as in listings.
pub(crate) fn socket_txid(text: &str) -> Result<u64, String> {
    let number = if text.len() == 16 { u64::from_str_radix(text, 16) } else { text.parse() };
    number.map_err(|_| "must be a decimal number, or 16 hex digits".to_owned())
}

/// An instant: RFC 3339, a local time with its zone, or a distance from `now`.
/// Cut down to the milliseconds that segments are stamped with. The error says
/// what the text means if it means more or less than one instant.
pub(crate) fn timestamp(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let text = text.trim();
    let time = if text.ends_with("ago") { before(text, now) } else { fixed(text) }?;
    Ok(Timestamp::from_millis(time.as_millisecond()))
}

/// What the flag understands, for messages.
pub(crate) const TIMESTAMP_FORMS: &str = "must specify in ISO 8601 format (e.g. 2000-01-01T00:00:00Z), \
     as a local time with its zone (e.g. 2000-01-01 00:00 Europe/Berlin), or as a time ago (e.g. 10m ago)";

fn fixed(text: &str) -> Result<jiff::Timestamp, String> {
    let unreadable = |_| TIMESTAMP_FORMS.to_owned();
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let Some((local, zone)) = text.rsplit_once(' ') else {
        // `2000-01-01T00:00:00[Europe/Berlin]`, or nothing we know.
        return text.parse::<jiff::Zoned>().map(|time| time.timestamp()).map_err(unreadable);
    };
    if let Ok(time) = format!("{}{zone}", local.trim_end()).parse() {
        return Ok(time); // the zone is an offset
    }
    let local: jiff::civil::DateTime = local.trim_end().parse().map_err(unreadable)?;
    let zone = jiff::tz::TimeZone::get(zone).map_err(unreadable)?;
    let time = zone.to_ambiguous_zoned(local).unambiguous().map(|time| time.timestamp());
    time.map_err(|_| {
        format!("{local} is when clocks were changed there, and not one instant: state the offset from UTC")
    })
}

/// `10m ago`, `2h30m ago`, `1 day 2 hours ago`; a day is 24 hours.
fn before(text: &str, now: Timestamp) -> Result<jiff::Timestamp, String> {
    let span: jiff::Span = text.parse().map_err(|_| TIMESTAMP_FORMS.to_owned())?;
    let now = jiff::Timestamp::from_millisecond(now.as_millis()).map_err(|error| error.to_string())?;
    let then = now.to_zoned(jiff::tz::TimeZone::UTC).checked_add(span).map_err(|error| error.to_string())?;
    Ok(then.timestamp())
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
    fn timeouts_are_seconds_unless_they_have_a_unit() {
        let seconds = |n| Ok(Timeout(Some(Duration::from_secs(n))));
        assert_eq!((timeout("30"), timeout("2m"), timeout("0")), (seconds(30), seconds(120), seconds(0)));
        assert_eq!(timeout("-1"), Ok(Timeout(None)), "refused with the others that are not above 0");
        assert_eq!(timeout("x"), Err("parse error".to_owned()));
    }

    #[test]
    fn txids_of_the_socket_are_decimal_and_those_of_listings_have_sixteen_digits() {
        assert_eq!((socket_txid("42"), socket_txid("000000000000002a")), (Ok(42), Ok(42)));
        assert!(socket_txid("2a").is_err() && socket_txid("-1").is_err());
    }

    const NOW: i64 = 1_700_000_000_000;

    fn read(text: &str) -> Result<i64, String> {
        timestamp(text, Timestamp::from_millis(NOW)).map(Timestamp::as_millis)
    }

    #[test]
    fn timestamps_need_a_zone() {
        for text in [
            "2023-11-14T22:13:20Z",
            "2023-11-15T00:13:20+02:00",
            "2023-11-14 22:13:20 Z",
            "2023-11-14 22:13:20 UTC",
            "2023-11-15 00:13:20 +02:00",
            "2023-11-14 23:13:20 Europe/Berlin",
            "2023-11-14T23:13:20 Europe/Berlin",
            "2023-11-14T23:13:20[Europe/Berlin]",
            "2023-11-14 17:13:20 America/New_York",
        ] {
            assert_eq!(read(text), Ok(NOW), "{text}");
        }
        assert_eq!(read("2023-11-14T22:13:20.1239Z"), Ok(NOW + 123));
        assert_eq!(read("2023-11-14 23:13 Europe/Berlin"), Ok(NOW - 20_000));
        for bad in ["", "yesterday", "2023-11-14", "2023-11-14T22:13:20", "2023-11-14 22:13", "1700000000", "ago"] {
            assert_eq!(read(bad), Err(TIMESTAMP_FORMS.to_owned()), "{bad}");
        }
        assert_eq!(read("2023-11-14 22:13 Europe/Bielefeld"), Err(TIMESTAMP_FORMS.to_owned()));
    }

    #[test]
    fn a_time_that_was_twice_or_never_is_refused() {
        for text in ["2026-10-25 02:30 Europe/Berlin", "2026-03-29 02:30 Europe/Berlin"] {
            let reason = read(text).unwrap_err();
            assert!(reason.contains("not one instant"), "{text}: {reason}");
        }
        assert!(read("2026-10-25 02:30 +01:00").is_ok());
    }

    #[test]
    fn times_ago_count_from_now() {
        let cases =
            [("10m ago", 600), ("2h30m ago", 9000), ("90s ago", 90), ("1d ago", 86_400), ("2 days ago", 172_800)];
        for (text, seconds) in cases {
            assert_eq!(read(text), Ok(NOW - seconds * 1000), "{text}");
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
