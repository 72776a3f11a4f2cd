//! Durations as Go writes them: `1h30m`, `250ms`, `1.5s`, `-5s`, `0`. Pure.
//!
//! Go counts in whole nanoseconds of 64 bits and ignores digits beyond; so do we.

const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),  // micro sign
    ("\u{3bc}s", 1_000), // Greek letter mu
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3600 * 1_000_000_000),
];

/// Nanoseconds, or `None` if the text is not a duration to Go. A bare number is
/// not, except 0.
pub fn parse(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (part, after) = one_part(rest)?;
        total = total.checked_add(part)?;
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// One number with its unit, and what follows it.
fn one_part(text: &str) -> Option<(i128, &str)> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, after) = text.split_at(digits(text));
    let (fraction, after) = match after.strip_prefix('.') {
        Some(after) => after.split_at(digits(after)),
        None => ("", after),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let unit_end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
    let (unit, rest) = after.split_at(unit_end);
    let nanos = UNITS.iter().find(|(name, _)| *name == unit)?.1;
    let whole: i128 = if whole.is_empty() { 0 } else { i128::from(whole.parse::<i64>().ok()?) };
    // No unit has more than 13 digits of nanoseconds; what is behind cannot matter.
    let fraction = &fraction[..fraction.len().min(15)];
    let part = match fraction.parse::<i128>() {
        Ok(numerator) => numerator * nanos / 10_i128.pow(u32::try_from(fraction.len()).ok()?),
        Err(_) => 0,
    };
    Some((whole * nanos + part, rest))
}

/// The duration as Go prints it: `1h30m0s`, `1.5s`, `250ms`, `0s`.
pub fn show(nanos: i64) -> String {
    let n = nanos.unsigned_abs();
    let text = match n {
        0 => "0s".to_owned(),
        1..1_000 => format!("{n}ns"),
        1_000..1_000_000 => decimal(n, 1_000, "\u{b5}s"),
        1_000_000..1_000_000_000 => decimal(n, 1_000_000, "ms"),
        _ => {
            let seconds = decimal(n % 60_000_000_000, 1_000_000_000, "s");
            let minutes = n / 60_000_000_000;
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, m) => format!("{m}m{seconds}"),
                (h, m) => format!("{h}h{m}m{seconds}"),
            }
        }
    };
    if nanos < 0 { format!("-{text}") } else { text }
}

/// The number in units of a power of ten, without trailing zeros.
fn decimal(n: u64, unit: u64, name: &str) -> String {
    let (whole, part) = (n / unit, n % unit);
    if part == 0 {
        return format!("{whole}{name}");
    }
    let fraction = format!("{part:0digits$}", digits = unit.ilog10() as usize);
    format!("{whole}.{}{name}", fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        let cases = [
            ("0", 0),
            ("+0", 0),
            ("-0", 0),
            ("1s", 1_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("-5s", -5_000_000_000),
            ("300ms", 300_000_000),
            ("100\u{b5}s", 100_000),
            ("100\u{3bc}s", 100_000),
            ("100us", 100_000),
            ("1m1.000000001s", 61_000_000_001),
            ("0.0000000001s", 0),
            ("1s1s", 2_000_000_000),
            ("2562047h47m16.854775807s", i64::MAX),
            ("-2562047h47m16.854775808s", i64::MIN),
        ];
        for (text, nanos) in cases {
            assert_eq!(parse(text), Some(nanos), "{text}");
        }
        let refused = [
            "",
            "-",
            "+",
            "10",
            "3",
            "1d",
            "1w",
            "1 s",
            " 1s",
            "1s ",
            "s",
            ".s",
            "1.5",
            "1M",
            "1S",
            "--1s",
            "1s-1s",
            "1e3s",
            "2562047h47m16.854775808s",
            "99999999999999999999s",
            "9223372036854775807h",
            "é",
        ];
        for text in refused {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn prints_what_go_prints() {
        let cases = [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1\u{b5}s"),
            (2_200_000, "2.2ms"),
            (250_000_000, "250ms"),
            (1_000_000_000, "1s"),
            (1_500_000_000, "1.5s"),
            (60_000_000_000, "1m0s"),
            (300_000_000_000, "5m0s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (60_001_000_000, "1m0.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (86_400_000_000_000, "24h0m0s"),
            (-1_500_000_000, "-1.5s"),
            (i64::MAX, "2562047h47m16.854775807s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ];
        for (nanos, text) in cases {
            assert_eq!(show(nanos), text);
            assert_eq!(parse(text), Some(nanos), "what is printed can be read");
        }
    }
}
