//! What a replica holds, and what it asks of its storage at the present rate.
//! Counts and bytes: what they cost is the provider's to say. Pure.

use super::{Finding, Verdict};
use crate::ltx::Level;
use crate::replica::Listing;
use crate::types::Timestamp;

/// The time over which the present rate is taken.
const LATELY_MS: i64 = 24 * 60 * 60 * 1000;

/// The least time, so that a first minute does not stand for a month.
const AT_LEAST_MS: i64 = 60 * 60 * 1000;

const MONTH_MS: i64 = 30 * 24 * 60 * 60 * 1000;

/// What a replica holds and how it grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Objects there.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Uploads in 30 days like the last day.
    pub uploads_a_month: u64,
    /// Their bytes.
    pub uploaded_bytes_a_month: u64,
}

/// Counts. Only level 0 tells how often something is captured; what was merged
/// away in the last day counts as if it had been spread like the rest.
pub fn usage(listing: &Listing, now: Timestamp) -> Usage {
    let age = |created: Timestamp| now.as_millis().saturating_sub(created.as_millis()).max(0);
    let lately = || listing.level(Level::L0).iter().filter(|segment| age(segment.created) <= LATELY_MS);
    let span = lately().map(|segment| age(segment.created)).max().unwrap_or(0).max(AT_LEAST_MS);
    let a_month = |amount: u64| {
        let scaled = u128::from(amount) * u128::from(MONTH_MS.unsigned_abs()) / u128::from(span.unsigned_abs());
        u64::try_from(scaled).unwrap_or(u64::MAX)
    };
    Usage {
        objects: listing.segments().count() as u64,
        bytes: listing.segments().map(|segment| segment.size).sum(),
        uploads_a_month: a_month(lately().count() as u64),
        uploaded_bytes_a_month: a_month(lately().map(|segment| segment.size).sum()),
    }
}

impl Usage {
    /// As a finding.
    pub fn finding(&self) -> Finding {
        let Self { objects, bytes, uploads_a_month, uploaded_bytes_a_month } = self;
        let found = match objects {
            0 => "nothing is stored yet".to_owned(),
            _ => format!(
                "{objects} objects with {bytes} bytes; at the present rate {uploads_a_month} uploads with \
                 {uploaded_bytes_a_month} bytes a month"
            ),
        };
        Finding::new("cost", Verdict::Ok, found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::Segment;
    use crate::types::{Txid, TxidRange};

    fn listing(ages_in_minutes: &[i64]) -> Listing {
        let segments = ages_in_minutes.iter().zip(1..).map(|(minutes, txid)| Segment {
            level: Level::L0,
            txids: TxidRange::single(Txid::new(txid).unwrap()),
            size: 100,
            created: Timestamp::from_millis(-minutes * 60_000),
        });
        segments.collect()
    }

    fn of(ages: &[i64]) -> Usage {
        usage(&listing(ages), Timestamp::from_millis(0))
    }

    #[test]
    fn the_rate_is_that_of_the_last_day() {
        let none = Usage { objects: 0, bytes: 0, uploads_a_month: 0, uploaded_bytes_a_month: 0 };
        assert_eq!(of(&[]), none);
        // Three in two hours are 1080 in 30 days.
        let three = Usage { objects: 3, bytes: 300, uploads_a_month: 1080, uploaded_bytes_a_month: 108_000 };
        assert_eq!(of(&[120, 60, 1]), three);
        // One just now is not one a second.
        assert_eq!(of(&[0]).uploads_a_month, 720);
        // What is older than a day tells nothing about now.
        let idle = Usage { objects: 2, bytes: 200, uploads_a_month: 0, uploaded_bytes_a_month: 0 };
        assert_eq!(of(&[9000, 1500]), idle);
        assert!(of(&[0]).finding().found.starts_with("1 objects with 100 bytes; at the present rate 720 uploads"));
    }
}
