//! Sizes as people write them: `5MiB`, `1.5 GB`, `64kb`, `4096`. Pure.
//!
//! `K`, `MB` and so on are powers of 1000, `Ki`, `MiB` of 1024, in any case;
//! commas between digits do not matter.

use bytesize::ByteSize;

/// Bytes, or `None` if the text is not a size or too large for Go.
pub(crate) fn parse(text: &str) -> Option<u64> {
    // Behind the number commas are not part of the format.
    let number_end = text.find(|c: char| !(c.is_ascii_digit() || c == ',' || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let size: ByteSize = format!("{}{unit}", number.replace(',', "")).parse().ok()?;
    i64::try_from(size.as_u64()).is_ok().then_some(size.as_u64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_decimal_and_binary_units() {
        let cases = [
            ("4096", 4096),
            ("0", 0),
            ("100B", 100),
            ("5MB", 5_000_000),
            ("5mb", 5_000_000),
            ("5M", 5_000_000),
            ("5 MB", 5_000_000),
            ("5MiB", 5_242_880),
            ("5mib", 5_242_880),
            ("5Mi", 5_242_880),
            ("1.5GB", 1_500_000_000),
            ("1,000,000", 1_000_000),
            ("1,024 KiB", 1_048_576),
            ("64k", 64_000),
            ("1T", 1_000_000_000_000),
            ("1PiB", 1 << 50),
            ("1EiB", 1 << 60),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_size() {
        for text in ["", "zz", "5XB", "MB", "-5MB", "5 M B", "1.2.3MB", "8EiB", "99999EB", ",", "1e3"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
