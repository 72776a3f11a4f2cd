//! What keeping and reading a replica costs, at list prices that are said along
//! with it: a guide, and no bill. Pure.

/// What a service asks for, in millionths of a dollar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prices {
    /// For 1000 MB kept for a month.
    pub gigabyte_month: u64,
    /// For 1000 objects created, or listings.
    pub thousand_writes: u64,
    /// For 1000 reads.
    pub thousand_reads: u64,
    /// For 1000 MB sent to the internet.
    pub gigabyte_out: u64,
}

/// S3 Standard in us-east-1, as listed in 2026. Most other services ask for less.
pub const PRICES: Prices =
    Prices { gigabyte_month: 23_000, thousand_writes: 5_000, thousand_reads: 400, gigabyte_out: 90_000 };

const GIGABYTE: u128 = 1_000_000_000;

/// What was asked of a storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Pages of listings.
    pub lists: u64,
    /// Reads.
    pub reads: u64,
    /// Bytes that were read.
    pub bytes: u64,
}

impl Asked {
    /// What was asked between two looks at the counters.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            lists: self.lists.saturating_sub(before.lists),
            reads: self.reads.saturating_sub(before.reads),
            bytes: self.bytes.saturating_sub(before.bytes),
        }
    }
}

impl Prices {
    /// Keeping so many bytes for a month.
    pub fn keeping(&self, bytes: u64) -> u64 {
        scaled(bytes, self.gigabyte_month, GIGABYTE)
    }

    /// So many uploads.
    pub fn uploads(&self, count: u64) -> u64 {
        scaled(count, self.thousand_writes, 1000)
    }

    /// What was asked, with its bytes sent to the internet.
    pub fn asking(&self, asked: &Asked) -> u64 {
        let requests = self.uploads(asked.lists).saturating_add(scaled(asked.reads, self.thousand_reads, 1000));
        requests.saturating_add(scaled(asked.bytes, self.gigabyte_out, GIGABYTE))
    }
}

fn scaled(amount: u64, price: u64, unit: u128) -> u64 {
    u64::try_from((u128::from(amount) * u128::from(price)).div_ceil(unit)).unwrap_or(u64::MAX)
}

/// As people write it: `$1.25`, with as many digits as it takes to not be nothing.
pub fn dollars(millionths: u64) -> String {
    match millionths {
        0 => "$0.00".to_owned(),
        1..10_000 => format!("${}.{:04}", millionths / 1_000_000, millionths.div_ceil(100)),
        _ => {
            let cents = millionths.div_ceil(10_000);
            format!("${}.{:02}", cents / 100, cents % 100)
        }
    }
}

/// A price as it is listed, to the last digit.
pub fn listed(millionths: u64) -> String {
    let digits = format!("{:06}", millionths % 1_000_000);
    let digits = digits.trim_end_matches('0');
    format!("${}.{digits:0<2}", millionths / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_priced_by_their_units() {
        assert_eq!(PRICES.keeping(1_000_000_000), 23_000);
        assert_eq!(PRICES.uploads(51_840), 259_200);
        let asked = Asked { lists: 10, reads: 1000, bytes: 500_000_000 };
        assert_eq!(PRICES.asking(&asked), 50 + 400 + 45_000);
        assert_eq!(PRICES.asking(&Asked::default()), 0);
        assert_eq!(PRICES.keeping(u64::MAX), 424_275_113_695_320);
        for (millionths, shown) in [
            (0, "$0.00"),
            (1, "$0.0001"),
            (400, "$0.0004"),
            (9_999, "$0.0100"),
            (10_000, "$0.01"),
            (259_200, "$0.26"),
            (1_250_000, "$1.25"),
        ] {
            assert_eq!(dollars(millionths), shown);
        }
        for (millionths, shown) in [(23_000, "$0.023"), (400, "$0.0004"), (90_000, "$0.09"), (2_500_000, "$2.50")] {
            assert_eq!(listed(millionths), shown);
        }
    }
}
